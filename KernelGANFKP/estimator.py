"""KernelGAN-FKP (FKP, section 3.4) and KernelGAN: the kernel whose downsampling keeps an image's patches alike."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.devices import fetch_interval, gains_from_bfloat16
from blindsr.estimation import Checkpoint, Estimate, OnStep, SearchLog
from blindsr.kernels import centre, kernel_x4_from_x2, normalize
from FKP import KernelPrior
from KernelGANFKP.baseline import GeneratorSearch
from KernelGANFKP.crops import PatchSource
from KernelGANFKP.networks import Critic, LinearGenerator
from KernelGANFKP.search import LatentSearch
from KernelGANFKP.settings import GANModel, GANSettings, preset, require_possible
from KernelPredictor import KernelPredictor

__all__ = ["GANEstimator", "GANModel", "GANSettings", "estimate", "preset", "pretrained_estimator"]


@dataclass(frozen=True)
class _Found:
    """The x2 kernel of an image, 1×1×k×k, and what :class:`Estimate` says of it under the same names."""

    kernel: Tensor
    predicted: dict[str, Any] = field(default_factory=dict)
    """What was read off the image."""
    converged: bool | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GANEstimator:
    """:func:`estimate` with all that does not depend on the image."""

    settings: GANSettings
    prior: KernelPrior | None = None
    predictor: KernelPredictor | None = None
    model: GANModel = "KernelGANFKP"
    float32: bool = False

    @torch.random.fork_rng(devices=[])  # PyTorch's layers draw weights that are redrawn here
    def __call__(
        self,
        lr: Tensor,
        scale_factor: int,
        *,
        seed: int = 0,
        on_step: OnStep | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Estimate:
        require_possible(scale_factor, self.settings, self.model)
        generator = torch.Generator().manual_seed(seed)
        advice = "use a smaller --critic-rate or --kernel-rate"
        log = SearchLog(self.settings.iterations, on_step, advice, fetch_interval(lr.device), checkpoint)
        # What computes in bfloat16 is chosen here, not by a caller's autocast.
        with torch.autocast(lr.device.type, enabled=False):
            if self.model == "KernelGAN":
                found = self._search_generator(lr, generator, log)
            else:
                found = self._search_latent(lr, scale_factor, generator, log)
        kernel = found.kernel
        if scale_factor == 4:
            kernel = normalize(centre(kernel_x4_from_x2(kernel), 4))
        return Estimate(
            kernel=kernel.cpu(),
            image=None,
            seconds=log.seconds,
            seed=seed,
            **found.predicted,
            converged=found.converged,
            notes=found.notes,
            **log.of(),
        )

    def _search_generator(self, lr: Tensor, generator: torch.Generator, log: SearchLog) -> _Found:
        patches = PatchSource.of(2 * lr - 1, self.settings, LinearGenerator.kernel_side)
        kernel, converged = GeneratorSearch(patches, self.settings, generator, lr.device).run(log)
        return _Found(kernel, converged=converged, notes=patches.notes)

    def _search_latent(self, lr: Tensor, scale_factor: int, generator: torch.Generator, log: SearchLog) -> _Found:
        settings, prior = self.settings, self.prior
        if prior is None:
            raise ValueError("KernelGANFKP needs a kernel prior")
        if settings.start == "fixed":
            latent, predicted = prior.initial_latent(), {}
        elif self.predictor is None:
            raise ValueError('a start that is "predicted" needs a kernel predictor')
        else:
            # The x4 kernel is the x2 kernel blurred by itself at twice the size: five times its covariance, in LR
            # pixels 5/4 of what the x2 kernel has in its own.
            prediction = self.predictor.predict(lr, 2, share=4 / 5 if scale_factor == 4 else 1)
            latent, predicted = prior.invert(prediction.kernel.to(lr.device)), prediction.findings
        if not settings.iterations:
            kernel = prior.decode(latent).detach()
            log.kernel(kernel)
            return _Found(kernel, predicted)
        patches = PatchSource.of(lr, settings, prior.side)
        bfloat16 = lr.device.type == "cpu" and gains_from_bfloat16(lr.device) and not self.float32
        critic = Critic(generator, dtype=torch.bfloat16 if bfloat16 else torch.float32)
        critic = critic.to(lr.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        kernel, converged = LatentSearch(patches, settings, prior, critic, latent).run(generator, log)
        return _Found(kernel, predicted, converged, patches.notes)


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
