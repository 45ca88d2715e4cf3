"""DIP-FKP: a deep image prior and a kernel prior fitted jointly to one LR image (FKP, section 3.3), or the prior's
kernel that a predictor sees in it."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from blindsr.degradation import border, centre_crop
from blindsr.devices import free_memory
from blindsr.estimation import Estimate, OnStep, SearchLog
from blindsr.kernels import kernel_side
from DIPFKP.fit import SearchedKernel, Target, baseline_kernel, fit, latent_kernel, ssim
from DIPFKP.settings import DIPModel, DIPSettings, preset
from FKP import KernelPrior
from KernelPredictor import KernelPredictor

__all__ = [
    "DIPModel",
    "DIPSettings",
    "estimate",
    "preset",
    "pretrained_estimator",
    "ssim",
    "textured_crop",
]

FIT_BYTES = 75
"""What fitting an image network takes for each of its channels and HR pixels, measured on a CPU."""


def textured_crop(lr: Tensor, side: int) -> Tensor:
    """The side×side window (smaller where the image is) of 1×C×h×w with the largest gradient energy."""
    height, width = lr.shape[-2:]
    rows, cols = min(side, height), min(side, width)
    energy = F.pad(lr.diff(dim=-1).square().sum(1), (0, 1)) + F.pad(lr.diff(dim=-2).square().sum(1), (0, 0, 0, 1))
    # Window sums from an integral image: their cost does not depend on the window.
    integral = F.pad(energy[0].cpu().double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    strips = integral[rows:] - integral[:-rows]
    sums = strips[:, cols:] - strips[:, :-cols]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return lr[..., top : top + rows, left : left + cols]


@dataclass(frozen=True)
class DIPEstimator:
    """:func:`estimate` with all that does not depend on the image."""

    prior: KernelPrior | None = None
    predictor: KernelPredictor | None = None
    settings: DIPSettings | None = None
    model: DIPModel = "DIPFKP"
    want_image: bool = False

    @torch.random.fork_rng(devices=[])  # PyTorch's layers draw weights that are redrawn here
    def __call__(self, lr: Tensor, scale_factor: int, *, seed: int = 0, on_step: OnStep | None = None) -> Estimate:
        began = time.perf_counter()
        settings = self.settings or preset("search", self.model)
        _require_search(settings, self.model)
        generator = torch.Generator().manual_seed(seed)
        joint = _joint_target(lr, scale_factor, settings)
        kernel, expected_error = self._start(lr, scale_factor, settings, generator)
        refit = _refit_settings(settings, joint.lr.shape == lr.shape) if self.want_image else None
        whole = Target(lr, scale_factor, settings.circular)
        if settings.iterations:
            _require_memory(joint, settings)
        if refit is not None:
            _require_memory(whole, refit)
        total = settings.iterations + (refit.iterations if refit is not None else 0)
        log = SearchLog(total, on_step, "use a smaller --image-rate or --kernel-rate")
        image = fit(joint, settings, kernel, generator, log) if settings.iterations else None
        with torch.no_grad():
            found = kernel.decode()
        log.kernel(found, last=True)
        if refit is not None:
            image = fit(whole, refit, SearchedKernel(lambda: found), generator, log)
        return Estimate(
            kernel=found.cpu(),
            image=image.cpu() if image is not None and self.want_image else None,
            losses=log.losses,
            seconds=time.perf_counter() - began,
            seed=seed,
            expected_error=expected_error,
            path=log.path,
        )

    def _start(
        self, lr: Tensor, scale_factor: int, settings: DIPSettings, generator: torch.Generator
    ) -> tuple[SearchedKernel, float | None]:
        """The kernel that the search begins with, and the error to expect of it where it is predicted."""
        if self.model != "DIPFKP":
            return baseline_kernel(self.model, kernel_side(scale_factor), generator, lr.device), None
        if self.prior is None:
            raise ValueError("DIPFKP needs a kernel prior")
        if settings.start != "predicted":
            return latent_kernel(self.prior, None, settings.kernel_rate), None
        if self.predictor is None:
            raise ValueError('a start that is "predicted" needs a kernel predictor')
        prediction = self.predictor.predict(lr, scale_factor)
        kernel = latent_kernel(self.prior, prediction.kernel.to(lr.device), settings.kernel_rate)
        return kernel, prediction.expected_error


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
        settings: see :class:`DIPSettings`; without them, those of the search.
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
            predictor = KernelPredictor.from_pretrained(path_predictor).to(device)
    return DIPEstimator(prior, predictor, settings, model, want_image)


def _require_search(settings: DIPSettings, model: DIPModel) -> None:
    if settings.iterations == 0 and model != "DIPFKP":
        raise ValueError(f"--model {model}: it has no predicted start to take as it is; give it some --iterations")


def _require_memory(target: Target, settings: DIPSettings) -> None:
    needed = math.prod(target.size) * settings.channels * FIT_BYTES
    free = free_memory(target.lr.device)
    if free is not None and needed > free:
        raise ValueError(
            f"the deep image prior needs about {needed / 2**30:.1f} GiB for a picture of this size, "
            f"{free / 2**30:.1f} are free; use --SR, which takes little, or a smaller picture"
        )


def _joint_target(lr: Tensor, scale_factor: int, settings: DIPSettings) -> Target:
    """What the kernel is estimated on: the pixels of a crop that do not see beyond it, or the whole picture.

    Raises:
        ValueError: the picture cannot hold the kernel.
    """
    side = kernel_side(scale_factor)
    height, width = lr.shape[-2:]
    if min(height, width) * scale_factor < side:
        raise ValueError(
            f"the picture ({width}×{height}) is too small: at x{scale_factor} it needs at least "
            f"{-(-side // scale_factor)} pixels on each side to hold the {side}×{side} kernel"
        )
    take = textured_crop if settings.crop_position == "texture" else centre_crop
    outside = border(side, scale_factor)
    crop = take(lr, max(settings.crop // scale_factor, -(-side // scale_factor), 2 * outside + 1))
    if crop.shape == lr.shape or min(crop.shape[-2:]) <= 4 * outside:
        # No crop where its border, which does not count, would be half of it.
        return Target(lr, scale_factor, settings.circular)
    return Target(crop[..., outside:-outside, outside:-outside], scale_factor, circular=False)


def _refit_settings(settings: DIPSettings, covered: bool) -> DIPSettings | None:
    """Those of the fit that the wanted image takes after the joint one; None where that has made it already."""
    if covered and settings.image_iterations is None:
        return None
    return replace(
        settings,
        iterations=settings.image_iterations or settings.iterations,
        channels=settings.image_channels or settings.channels,
        frozen_iterations=0,
    )
