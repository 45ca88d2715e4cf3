"""DIP-FKP: a deep image prior and a kernel prior fitted jointly to one LR image (FKP, section 3.3), or the prior's
kernel that a predictor sees in it."""

import logging
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.devices import fetch_interval, free_memory, searches_at_once
from blindsr.estimation import BatchEstimator, Checkpoint, Estimate, OnStep
from blindsr.kernels import kernel_side
from blindsr.search_log import SearchLog
from DIPFKP.fit import Fit, SearchedKernels, baseline_kernels, fit_both, latent_kernels, ssim
from DIPFKP.settings import DIPModel, DIPSettings, preset
from DIPFKP.target import Target, joint_target, textured_crop
from FKP import KernelPrior
from FKP.prior import in_window
from KernelPredictor import KernelPredictor
from KernelPredictor.predictor import predictor_path

__all__ = [
    "DIPEstimator",
    "DIPModel",
    "DIPSettings",
    "estimate",
    "preset",
    "pretrained_estimator",
    "ssim",
    "textured_crop",
]

logger = logging.getLogger(__name__)

FIT_BYTES = 75
"""What fitting an image network takes for each of its channels and HR pixels, measured on a CPU."""
FIT_SECONDS = 1.6e-9
"""And what an iteration takes a core for each HR pixel and squared channel, measured with 64 and 128 channels."""


@dataclass(frozen=True)
class DIPEstimator(BatchEstimator):
    """:func:`estimate` with all that does not depend on the image, for one image or several at once."""

    prior: KernelPrior | None = None
    predictor: KernelPredictor | None = None
    settings: DIPSettings | None = None
    model: DIPModel = "DIPFKP"
    want_image: bool = False

    @torch.random.fork_rng(devices=[])  # PyTorch's layers draw weights that are redrawn here
    def batch(
        self,
        lrs: Sequence[Tensor],
        scale_factor: int,
        *,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> list[Estimate]:
        """Estimates of several images that are searched as one, for a GPU, which one alone does not fill.

        Each is what it is alone, but for rounding, which a search amplifies: first losses agree to 1e-5.

        Args:
            lrs: as of :func:`estimate`; all of one :meth:`batch_key`.
            seeds: one for each.
            on_step: as of :func:`estimate`; the loss is the images' mean.
            checkpoint: one for all of them, which are searched as one; as of
                :class:`~blindsr.estimation.ResumableEstimator`.

        Returns:
            Their seconds are equal shares of the time.

        Raises:
            ValueError: as :func:`estimate`, or the images cannot be searched as one.
        """
        settings = self._settings()
        joint, whole = self._targets(lrs, scale_factor)
        refit = self._refit_settings(covered=joint.lr.shape[2:] == whole.lr.shape[2:])
        for target, each in ((joint, settings), (whole, refit)):
            if each is not None and each.iterations:
                _require_memory(target, each)
        if refit is not None and not settings.circular:
            _announce(whole, refit)
        total = settings.iterations + (refit.iterations if refit is not None else 0)
        advice = "use a smaller --image-rate or --kernel-rate"
        log = SearchLog(total, on_step, advice, fetch_interval(joint.lr.device), checkpoint)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        kernels, predictions = self._start(lrs, scale_factor, generators)
        # Made in any case: the draws of a refit come after its.
        fit = Fit(joint, settings, kernels, generators) if settings.iterations else None

        def fit_again(found: Tensor) -> Fit | None:
            held = SearchedKernels(lambda: found.to(whole.lr.device))
            return None if refit is None else Fit(whole, refit, held, generators)

        found, images = fit_both(kernels, fit, fit_again, log)
        taken = [log.of(index) for index in range(len(lrs))]
        found, images = found.cpu(), images.cpu() if images is not None and self.want_image else None
        seconds = log.seconds / len(lrs)
        return [
            Estimate(
                kernel=found[index : index + 1],
                image=None if images is None else images[index : index + 1],
                seconds=seconds,
                seed=seed,
                free_centre=self.prior is None or not self.prior.is_published,
                **predictions[index],
                **taken[index],
            )
            for index, seed in enumerate(seeds)
        ]

    def batch_key(self, lr: Tensor, scale_factor: int) -> Hashable:
        """Equal for images that can be searched as one: of one crop's size, and of one size where they are wanted.

        Raises:
            ValueError: the image cannot hold the kernel.
        """
        return self._key(lr, joint_target(lr, scale_factor, self._side(scale_factor), self._settings()))

    def _key(self, lr: Tensor, joint: Target) -> Hashable:
        return joint.lr.shape, joint.circular, lr.shape if self.want_image else None

    def at_once(self, lr: Tensor, scale_factor: int) -> int:
        """How many images like ``lr`` to search as one: what a GPU's memory holds, elsewhere 1; errors likewise."""
        joint, whole = self._targets([lr], scale_factor)
        needed = _needed_memory(joint, self._settings()) + 2 * lr.nbytes
        refit = self._refit_settings(covered=joint.lr.shape[2:] == whole.lr.shape[2:])
        if refit is not None:
            needed = max(needed, _needed_memory(whole, refit))
        return searches_at_once(lr.device, needed)

    def _settings(self) -> DIPSettings:
        settings = self.settings or preset("search", self.model)
        _require_search(settings, self.model)
        return settings

    def _targets(self, lrs: Sequence[Tensor], scale_factor: int) -> tuple[Target, Target]:
        """What the kernels are searched on, and the whole images, of one :meth:`batch_key`."""
        settings, side = self._settings(), self._side(scale_factor)
        targets = [joint_target(lr, scale_factor, side, settings) for lr in lrs]
        if len({self._key(lr, target) for lr, target in zip(lrs, targets, strict=True)}) > 1:
            raise ValueError("pictures of different sizes cannot be searched as one")
        joint = replace(targets[0], lr=torch.cat([target.lr for target in targets]))
        # Without an image to fit only the first one's size counts.
        lr = torch.cat(list(lrs)) if self.want_image else lrs[0]
        return joint, Target(lr, scale_factor, side, settings.circular)

    def _side(self, scale_factor: int) -> int:
        """Of the kernels that are looked for.

        Raises:
            ValueError: the prior is one of another scale factor.
        """
        if self.prior is not None and self.prior.scale_factor != scale_factor:
            raise ValueError(
                f"the kernel prior is one of x{self.prior.scale_factor}; at x{scale_factor} another is needed"
            )
        return kernel_side(scale_factor) if self.prior is None else self.prior.side

    def _start(
        self, lrs: Sequence[Tensor], scale_factor: int, generators: Sequence[torch.Generator]
    ) -> tuple[SearchedKernels, list[dict[str, Any]]]:
        """The kernels that the search begins with, and what an estimate says of them where they are predicted."""
        settings, device = self._settings(), lrs[0].device
        unknown: list[dict[str, Any]] = [{}] * len(lrs)
        if self.model != "DIPFKP":
            return baseline_kernels(self.model, self._side(scale_factor), generators, device), unknown
        if self.prior is None:
            raise ValueError("DIPFKP needs a kernel prior")
        if settings.start != "predicted":
            latent = self.prior.initial_latent().expand(len(lrs), -1)
            return latent_kernels(self.prior, latent, settings.kernel_rate), unknown
        if self.predictor is None:
            raise ValueError('a start that is "predicted" needs a kernel predictor')
        predictions = [self.predictor.predict(lr, scale_factor) for lr in lrs]
        predicted = torch.cat([in_window(each.kernel, self.prior.side) for each in predictions]).to(device)
        errors = torch.tensor([prediction.expected_error for prediction in predictions]).to(predicted)
        kernels = latent_kernels(self.prior, self.prior.invert(predicted), settings.kernel_rate, predicted, errors)
        return kernels, [each.findings(self.prior.is_published) for each in predictions]

    def _refit_settings(self, covered: bool) -> DIPSettings | None:
        """Those of the fit that a wanted image takes after the joint one; None where that makes it (``covered``)."""
        settings = self._settings()
        if not self.want_image or (covered and settings.image_iterations is None):
            return None
        return replace(
            settings,
            iterations=settings.image_iterations or settings.iterations,
            channels=settings.image_channels or settings.channels,
            frozen_iterations=0,
        )


def estimate(
    lr: Tensor,
    scale_factor: int,
    *,
    prior: KernelPrior | None = None,
    predictor: KernelPredictor | None = None,
    settings: DIPSettings | None = None,
    model: DIPModel = "DIPFKP",
    want_image: bool = False,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Estimate:
    """Estimate the kernel of one LR image, and its HR image where that is wanted.

    Without iterations the kernel is the predicted one. Otherwise it is estimated on a crop, where the LR pixels that
    see beyond it are left out of the loss, or on the whole image, which has a periodic boundary or, with
    ``settings.circular`` off, what is fitted beyond it. A wanted image that the joint fit does not cover, or that
    ``settings`` give a fit of its own, is fitted afterwards, with the kernel found.

    Args:
        lr: 1×3×h×w float32 in [0, 1], on the device to compute on.
        scale_factor: s.
        prior: the kernel prior of that scale, on the same device; the baselines need none.
        predictor: on the same device; needed where ``settings.start`` is "predicted" and the model has a prior.
        settings: see :class:`DIPSettings`; without them, those of the search. With ``circular`` off, the image is a
            photograph, and a wanted HR image lies over it (:mod:`blindsr.kernels`).
        model: "DIPFKP", or a baseline: "DIPSoftmax" (free logits), "DoubleDIP" (a small network makes the kernel).
        want_image: also return the DIP image of the whole picture.
        seed: of the networks' weights and noise.
        on_step: progress callback.

    Returns:
        The estimate; its image is None unless wanted.

    Raises:
        ValueError: the HR image is smaller than the kernel, a wanted image too large for the memory, or a baseline
            is to make no iterations.
    """
    estimator = DIPEstimator(prior, predictor, settings, model, want_image)
    return estimator(lr, scale_factor, seed=seed, on_step=on_step)


def pretrained_estimator(
    scale_factor: int,
    device: torch.device,
    settings: DIPSettings | None = None,
    model: DIPModel = "DIPFKP",
    *,
    want_image: bool = False,
    path_prior: Path | None = None,
    path_predictor: Path | None = None,
) -> DIPEstimator:
    """:func:`estimate` with the weights that ``settings`` and ``model`` need, the shipped ones where none are named.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds other weights.
        ValueError: a baseline is to make no iterations.
    """
    settings = settings or preset("search", model)
    _require_search(settings, model)
    prior = predictor = None
    if model == "DIPFKP":
        prior = KernelPrior.from_pretrained(scale_factor, path_prior).to(device)
        if settings.start == "predicted":
            weights = path_predictor or predictor_path(False, scale_factor)
            predictor = KernelPredictor.from_pretrained(weights).to(device)
    return DIPEstimator(prior, predictor, settings, model, want_image)


def _require_search(settings: DIPSettings, model: DIPModel) -> None:
    if settings.iterations == 0 and model != "DIPFKP":
        raise ValueError(f"--model {model}: it has no predicted start to take as it is; give it some --iterations")


def _needed_memory(target: Target, settings: DIPSettings) -> int:
    return len(target.lr) * math.prod(target.size) * settings.channels * FIT_BYTES


def _require_memory(target: Target, settings: DIPSettings) -> None:
    needed = _needed_memory(target, settings)
    free = free_memory(target.lr.device)
    if free is not None and needed > free:
        raise ValueError(
            f"the deep image prior needs about {needed / 2**30:.1f} GiB for a picture of this size, "
            f"{free / 2**30:.1f} are free; use --SR, which takes little, or a smaller picture"
        )


def _announce(target: Target, settings: DIPSettings) -> None:
    """Say beforehand what the picture of a photograph will take on a CPU, where that is more than a minute."""
    if target.lr.device.type != "cpu":
        return
    work = len(target.lr) * math.prod(target.size) * settings.channels**2 * settings.iterations
    minutes = FIT_SECONDS * work / torch.get_num_threads() / 60
    if minutes > 1:
        took = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
        height, width = target.size
        logger.warning("without --SR the deep image prior makes the %d×%d picture, in about %s", width, height, took)
