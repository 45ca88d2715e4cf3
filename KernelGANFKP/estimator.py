"""KernelGAN-FKP (FKP, section 3.4) and KernelGAN: the kernel whose downsampling keeps an image's patches alike."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.devices import fetch_interval, gains_from_bfloat16, searches_at_once
from blindsr.estimation import BatchEstimator, Checkpoint, Estimate, OnStep
from blindsr.kernels import centre, kernel_x4_from_x2, normalize
from blindsr.search_log import SearchLog
from FKP import KernelPrior
from KernelGANFKP.baseline import GeneratorSearch
from KernelGANFKP.crops import PatchSource, crop_side
from KernelGANFKP.networks import Critic, LinearGenerator
from KernelGANFKP.search import LatentSearch
from KernelGANFKP.settings import GANModel, GANSettings, preset, require_possible
from KernelPredictor import KernelPredictor

__all__ = ["GANEstimator", "GANModel", "GANSettings", "estimate", "preset", "pretrained_estimator"]

PIXEL_BYTES = 2000
"""Twice what a search takes for each pixel of the crops that it downsamples in a step, in float32 and measured on a
CPU: on a GPU its first steps and their graph each hold memory of their own."""


@dataclass(frozen=True)
class _Found:
    """The x2 kernels of images, P×1×k×k, and what :class:`Estimate` says of each under the same names."""

    kernels: Tensor
    said: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class GANEstimator(BatchEstimator):
    """:func:`estimate` with all that does not depend on the image, for one image or several at once."""

    settings: GANSettings
    prior: KernelPrior | None = None
    predictor: KernelPredictor | None = None
    model: GANModel = "KernelGANFKP"
    float32: bool = False

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
        """Estimates of several images that are searched as one; as :class:`~blindsr.estimation.BatchEstimator` says.

        Raises:
            ValueError: as :func:`estimate`, or the images cannot be searched as one.
        """
        settings, device = self.settings, lrs[0].device
        require_possible(scale_factor, settings, self.model)
        if len({self.batch_key(lr, scale_factor) for lr in lrs}) > 1:
            raise ValueError("pictures with crops of different sizes, and KernelGAN's, cannot be searched as one")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        advice = "use a smaller --critic-rate or --kernel-rate"
        log = SearchLog(settings.iterations, on_step, advice, fetch_interval(device), checkpoint)
        # What computes in bfloat16 is chosen here, not by a caller's autocast.
        with torch.autocast(device.type, enabled=False):
            if self.model == "KernelGAN":
                found = self._search_generator(lrs[0], generators[0], log)
            else:
                found = self._search_latents(lrs, scale_factor, generators, log)
        kernels = found.kernels
        if scale_factor == 4:
            kernels = torch.cat([normalize(centre(kernel_x4_from_x2(kernel), 4)) for kernel in kernels.split(1)])
        free_centre = self.prior is not None and not self.prior.is_published  # KernelGAN centres its kernel
        taken = [log.of(index) for index in range(len(lrs))]
        seconds = log.seconds / len(lrs)
        return [
            Estimate(kernel, None, seconds=seconds, seed=seed, free_centre=free_centre, **said, **searched)
            for kernel, seed, said, searched in zip(kernels.cpu().split(1), seeds, found.said, taken, strict=True)
        ]

    def batch_key(self, lr: Tensor, scale_factor: int) -> Hashable:
        """Equal for images that can be searched as one: with crops of one size; any where nothing is searched.

        Raises:
            ValueError: the image is too small for the search.
        """
        if self.model == "KernelGAN":
            return object()  # like no other
        return crop_side(lr, self.settings) if self.settings.iterations else None

    def at_once(self, lr: Tensor, scale_factor: int) -> int:
        """How many images like ``lr`` to search as one: what a GPU's memory holds, elsewhere 1; errors likewise."""
        if self.model == "KernelGAN":
            return 1
        needed, settings = 2 * lr.nbytes, self.settings
        if settings.iterations:
            needed += settings.crops_per_step * crop_side(lr, settings) ** 2 * PIXEL_BYTES
        return searches_at_once(lr.device, needed)

    def _search_generator(self, lr: Tensor, generator: torch.Generator, log: SearchLog) -> _Found:
        patches = PatchSource.of(2 * lr - 1, self.settings, LinearGenerator.kernel_side)
        kernel, converged = GeneratorSearch(patches, self.settings, generator, lr.device).run(log)
        return _Found(kernel, [{"converged": converged, "notes": patches.notes}])

    def _search_latents(
        self, lrs: Sequence[Tensor], scale_factor: int, generators: Sequence[torch.Generator], log: SearchLog
    ) -> _Found:
        settings, prior, device = self.settings, self.prior, lrs[0].device
        if prior is None:
            raise ValueError("KernelGANFKP needs a kernel prior")
        said: list[dict[str, Any]] = [{} for _ in lrs]
        if settings.start == "fixed":
            latent = prior.initial_latent().expand(len(lrs), -1)
        elif self.predictor is None:
            raise ValueError('a start that is "predicted" needs a kernel predictor')
        else:
            # The x4 kernel is the x2 kernel blurred by itself at twice the size: five times its covariance, in LR
            # pixels 5/4 of what the x2 kernel has in its own.
            share = 4 / 5 if scale_factor == 4 else 1
            predictions = [self.predictor.predict(lr, 2, share=share) for lr in lrs]
            latent = prior.invert(torch.cat([prediction.kernel for prediction in predictions]).to(device))
            said = [prediction.findings(prior.is_published) for prediction in predictions]
        if not settings.iterations:
            kernels = prior.decode(latent).detach()
            log.kernel(kernels)
            return _Found(kernels, said)
        patches = [PatchSource.of(lr, settings, prior.side) for lr in lrs]
        bfloat16 = device.type == "cpu" and gains_from_bfloat16(device) and not self.float32
        critic = Critic(*generators, dtype=torch.bfloat16 if bfloat16 else lrs[0].dtype)
        critic = critic.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        kernels, converged = LatentSearch(patches, settings, prior, critic, latent).run(generators, log)
        ends = zip(said, converged, patches, strict=True)
        return _Found(kernels, [{**each, "converged": rests, "notes": of.notes} for each, rests, of in ends])


def estimate(
    lr: Tensor,
    scale_factor: int,
    *,
    prior: KernelPrior | None = None,
    predictor: KernelPredictor | None = None,
    settings: GANSettings,
    model: GANModel = "KernelGANFKP",
    seed: int = 0,
    float32: bool = False,
    on_step: OnStep | None = None,
) -> Estimate:
    """Estimate the kernel of one LR image from its own patches.

    The x2 kernel is searched that makes downsampled patches of the image look like its patches; at x4 the kernel is
    the one that follows from it (:func:`blindsr.kernels.kernel_x4_from_x2`).

    Args:
        lr: 1×3×h×w float32 in [0, 1], on the device to compute on.
        scale_factor: 2 or 4.
        prior: the kernel prior of x2, on the same device; KernelGAN needs none.
        predictor: on the same device; needed where ``settings.start`` is "predicted" and the model has a prior.
        seed: of the networks' weights and all draws.
        float32: all of KernelGANFKP's critic in float32; without it, its layers take bfloat16 on processors that gain
            from that (KernelGAN's never do).

    Returns:
        The estimate; it has no image.

    Raises:
        ValueError: another scale factor, an image that is too small for the search, or settings that KernelGAN
            does not have.
    """
    return GANEstimator(settings, prior, predictor, model, float32)(lr, scale_factor, seed=seed, on_step=on_step)


def pretrained_estimator(
    scale_factor: int,
    device: torch.device,
    settings: GANSettings | None = None,
    model: GANModel = "KernelGANFKP",
    *,
    path_prior: Path | None = None,
    path_predictor: Path | None = None,
    float32: bool = False,
) -> GANEstimator:
    """:func:`estimate` with the weights that ``settings`` and ``model`` need, the shipped ones where none are named.

    Args:
        scale_factor: 2 or 4; what is returned serves both.
        settings: without them, those of the search; for photographs without a border that a degradation made,
            give one with ``shave`` 0.
        float32: as in :func:`estimate`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds other weights.
        ValueError: another scale factor than 2 and 4, or settings that KernelGAN does not have.
    """
    settings = settings or preset("search", model, scale_factor)
    require_possible(scale_factor, settings, model)
    prior = predictor = None
    if model == "KernelGANFKP":
        prior = KernelPrior.from_pretrained(2, path_prior).to(device)
        if settings.start == "predicted":
            predictor = KernelPredictor.from_pretrained(path_predictor).to(device)
    return GANEstimator(settings, prior, predictor, model, float32)
