"""KernelGAN-FKP (FKP, section 3.4) and KernelGAN: the kernel whose downsampling keeps an image's patches alike."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blindsr.checks import (
    require_between,
    require_choice,
    require_iterations_beyond_frozen,
    require_positive,
    require_unchanged,
)
from blindsr.devices import gains_from_bfloat16
from blindsr.estimation import Estimate, Estimator, OnStep, Preset, SearchLog
from blindsr.kernels import centre, kernel_x4_from_x2, normalize
from FKP import KernelPrior, SphericalAdam
from KernelGANFKP.crops import CropSampler, crop_probabilities, gradient_map, half_size
from KernelGANFKP.losses import bicubic_loss, kernel_losses, post_process, wasserstein_loss
from KernelGANFKP.networks import Critic, Discriminator, LinearGenerator
from KernelPredictor import KernelPredictor, Start

__all__ = ["MIN_PICTURE_SIDE", "GANModel", "GANSettings", "estimate", "preset", "pretrained_estimator"]

GANModel = Literal["KernelGANFKP", "KernelGAN"]

WINDOW, TOLERANCE = 50, 0.01
"""A kernel has converged when its means over the last two windows of iterations differ by less than this."""
NOT_KERNELGANS = (
    "start",
    "proximal_weight",
    "frozen_iterations",
    "critic_steps",
    "latent_steps",
    "penalty",
    "stop_when_converged",
)
"""Settings without a meaning for KernelGAN."""
MIN_PICTURE_SIDE = 40
"""Shorter side in pixels that an image must have, and that is left of it when its border is off."""


@dataclass(frozen=True)
class GANSettings:
    """How the kernel is searched; in brackets what the paper's supplement and the release take."""

    iterations: int = 1000
    """Iterations (paper: 1000 at x2, 4000 at x4; KernelGAN: 3000). 0: the predicted start is the kernel."""
    critic_steps: int = 3
    """Critic steps per iteration (release: 3)."""
    latent_steps: int = 3
    """Latent steps per iteration, along one gradient (release: 3)."""
    batch: int = 64
    """Crops per step (release: 64; for KernelGAN the preset takes 1)."""
    crop: int = 64
    """Side in LR pixels of the crops that are downsampled; smaller images get smaller ones (paper: 64)."""
    critic_rate: float = 5e-4
    """Learning rate of Adam for the critic (paper: 5e-4)."""
    kernel_rate: float = 5e-4
    """Learning rate of spherical Adam for the latent code (paper: 5e-4)."""
    penalty: float = 0.1
    """Weight of the gradient penalty (release: 0.1)."""
    stop_when_converged: bool = False
    """End the search once the kernel has converged: its means over the last 50 iterations and over the 50 before
    differ by less than 1 % (release: no)."""
    frozen_iterations: int = 0
    """Iterations in which the critic learns alone before the kernel starts to move (release: 0)."""
    proximal_weight: float = 0.0
    """Weight of the kernel's squared distance to the start, relative to the critic's margin (release: 0)."""
    start: Start = "fixed"
    """Where KernelGANFKP's search starts: at one kernel for all images (paper), or at the predictor's."""
    shave: int = 10
    """Pixels left off each side of the LR image, whose border the degradation made, or as many as leave 40 (release:
    10; with --real 0)."""

    def __post_init__(self) -> None:
        require_positive(self, "critic_steps", "latent_steps", "batch", "critic_rate", "kernel_rate")
        require_between(self, 32, 256, "crop")
        require_between(self, 0, 1000, "shave")
        require_between(self, 0, 1e9, "proximal_weight", "penalty")
        if self.iterations == 0 and self.start != "predicted":
            raise ValueError(
                "--iterations 0 (as --preset prediction): the predicted start is the kernel; for another start take "
                "some iterations"
            )
        if self.iterations != 0:
            require_positive(self, "iterations")
            require_iterations_beyond_frozen(self)


def preset(name: Preset, model: GANModel, scale_factor: int) -> GANSettings:
    """The settings of a preset, which for the paper's depend on model and scale factor.

    Raises:
        ValueError: there is no such preset, or KernelGAN has nothing to predict with.
    """
    require_choice("preset", name, get_args(Preset))
    if model == "KernelGAN" and name == "prediction":
        raise ValueError("--preset prediction: KernelGAN has no predicted start; use --model KernelGANFKP")
    if model == "KernelGAN":
        # One crop a step, as we understand KernelGAN's own release.
        return GANSettings(iterations=3000, batch=1, critic_rate=2e-4, kernel_rate=2e-4)
    if name == "paper":
        return GANSettings(iterations=1000 if scale_factor == 2 else 4000)
    # Chosen on photographs of BSDS500. Left alone the critic leads the kernel away from the true one, since an
    # image's patches are sharper at half its size whatever the kernel; near the predicted one it does no harm.
    return GANSettings(
        iterations=0 if name == "prediction" else 300,
        critic_steps=1,
        latent_steps=1,
        batch=16,
        kernel_rate=1e-3,
        stop_when_converged=True,
        frozen_iterations=50,
        proximal_weight=10.0,
        start="predicted",
    )


@torch.random.fork_rng(devices=[])  # PyTorch's layers draw weights that are redrawn here
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
    began = time.perf_counter()
    _require_possible(scale_factor, settings, model)
    generator = torch.Generator().manual_seed(seed)
    log = SearchLog(settings.iterations, on_step, "use a smaller --critic-rate or --kernel-rate")
    expected_error: float | None = None
    converged: bool | None = None
    notes: tuple[str, ...] = ()
    # What computes in bfloat16 is chosen here, not by a caller's autocast.
    with torch.autocast(lr.device.type, enabled=False):
        if model == "KernelGAN":
            inner, crop, notes = _inner(lr, settings)
            kernel, converged = _search_kernelgan(inner, crop, settings, generator, log)
        else:
            if prior is None:
                raise ValueError("KernelGANFKP needs a kernel prior")
            if settings.start == "predicted":
                if predictor is None:
                    raise ValueError('a start that is "predicted" needs a kernel predictor')
                # The x4 kernel is the x2 kernel blurred by itself at twice the size: five times its covariance, in LR
                # pixels 5/4 of what the x2 kernel has in its own.
                prediction = predictor.predict(lr, 2, share=4 / 5 if scale_factor == 4 else 1)
                latent, expected_error = prior.invert(prediction.kernel.to(lr.device)), prediction.expected_error
            else:
                latent = prior.initial_latent()
            if settings.iterations:
                inner, crop, notes = _inner(lr, settings)
                bfloat16 = lr.device.type == "cpu" and gains_from_bfloat16(lr.device) and not float32
                critic = Critic(generator, dtype=torch.bfloat16 if bfloat16 else torch.float32)
                critic = critic.to(lr.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
                kernel, converged = _search_fkp(inner, crop, settings, prior, critic, latent, generator, log)
            else:
                kernel = prior.decode(latent.to(lr.device)).detach()
                log.kernel(kernel)
    if scale_factor == 4:
        kernel = normalize(centre(kernel_x4_from_x2(kernel), 4))
    return Estimate(
        kernel=kernel.cpu(),
        image=None,
        losses=log.losses,
        critic_losses=log.critic_losses,
        seconds=time.perf_counter() - began,
        seed=seed,
        expected_error=expected_error,
        converged=converged,
        path=log.path,
        notes=notes,
    )


def pretrained_estimator(
    scale_factor: int,
    device: torch.device,
    settings: GANSettings | None = None,
    model: GANModel = "KernelGANFKP",
    *,
    path_prior: Path | None = None,
    path_predictor: Path | None = None,
    float32: bool = False,
) -> Estimator:
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
    _require_possible(scale_factor, settings, model)
    prior = predictor = None
    if model == "KernelGANFKP":
        prior = KernelPrior.from_pretrained(2, path_prior).to(device)
        if settings.start == "predicted":
            predictor = KernelPredictor.from_pretrained(path_predictor).to(device)
    return partial(estimate, prior=prior, predictor=predictor, settings=settings, model=model, float32=float32)


def _require_possible(scale_factor: int, settings: GANSettings, model: GANModel) -> None:
    if scale_factor not in (2, 4):
        raise ValueError(
            f"--sf {scale_factor}: an image's patches recur at half its size, which tells the x2 kernel and the x4 "
            "kernel that follows from it, no other; use DIPFKP"
        )
    if model == "KernelGAN":
        given = preset("search", model, scale_factor)
        require_unchanged(settings, given, NOT_KERNELGANS, "KernelGAN has no such choice; leave it out")


def _inner(lr: Tensor, settings: GANSettings) -> tuple[Tensor, int, tuple[str, ...]]:
    """The image less its border, the side of the crops that fit into it, and what to say of both.

    Raises:
        ValueError: the image is too small.
    """
    height, width = lr.shape[-2:]
    if min(height, width) < MIN_PICTURE_SIDE:
        raise ValueError(
            f"the picture ({width}×{height}) is too small: {MIN_PICTURE_SIDE} pixels are needed on each side; use a "
            "larger one, or what needs no patches: --preset prediction or DIPFKP"
        )
    shave = min(settings.shave, (min(height, width) - MIN_PICTURE_SIDE) // 2)
    inner = lr[..., shave : height - shave, shave : width - shave]
    # Where no window of the usual size can be placed freely, smaller ones are taken.
    crop = min(settings.crop, int(0.8 * min(inner.shape[-2:])) // 2 * 2)
    notes = []
    if crop < settings.crop:
        notes.append(f"small picture: crops of {crop} instead of {settings.crop} pixels")
    if shave < settings.shave:
        notes.append(f"small picture: {shave} instead of {settings.shave} pixels of its border left off")
    return inner, crop, tuple(notes)


def _samplers(lr: Tensor, crop: int, side: int) -> tuple[CropSampler, CropSampler]:
    """Samplers of crops to downsample by a kernel of that side, and of crops of the size that this leaves."""
    half = gradient_map(half_size(lr))
    doubled = half.repeat(2, axis=0).repeat(2, axis=1)
    height, width = lr.shape[-2:]
    doubled = np.pad(doubled, ((0, height - len(doubled)), (0, width - doubled.shape[1])), mode="edge")
    downsampled = (crop - side) // 2 + 1
    return (
        CropSampler(lr, crop_probabilities(doubled, crop), crop),
        CropSampler(lr, crop_probabilities(gradient_map(lr), downsampled), downsampled),
    )


def _downsample(patches: Tensor, kernel: Tensor) -> Tensor:
    """Blur N×3×p×p with 1×1×k×k and keep every second pixel; no padding."""
    flat = F.conv2d(patches.flatten(0, 1).unsqueeze(1), kernel, stride=2)
    return flat.view(*patches.shape[:2], *flat.shape[-2:])


def _search_fkp(
    lr: Tensor,
    crop: int,
    settings: GANSettings,
    prior: KernelPrior,
    critic: Critic,
    latent: Tensor,
    generator: torch.Generator,
    log: SearchLog,
) -> tuple[Tensor, bool]:
    """The kernel, and whether it had converged."""
    large, small = _samplers(lr, crop, prior.side)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=settings.critic_rate, betas=(0.5, 0.999))
    latent = latent.to(lr.device).requires_grad_()
    latent_optimizer = SphericalAdam([latent], lr=settings.kernel_rate)
    kernel = prior.decode(latent)
    log.kernel(kernel)
    start = kernel.detach()
    moving: deque[Tensor] = deque(maxlen=2 * WINDOW)
    for iteration in range(settings.iterations):
        patches, real = large.draw(settings.batch, generator), small.draw(settings.batch, generator)
        fake = _downsample(patches, kernel)
        for _ in range(settings.critic_steps):
            share = float(torch.rand((), generator=generator))
            critic_loss, margin = wasserstein_loss(critic, real, fake.detach(), share, settings.penalty)
            critic_optimizer.zero_grad(set_to_none=True)
            critic_loss.backward()
            critic_optimizer.step()
        # The critic does not move between the latent steps: they share its gradient.
        latent_optimizer.zero_grad(set_to_none=True)
        critic.requires_grad_(False)  # or its layers would form the gradients of their weights too
        loss = -critic(fake).mean()
        critic.requires_grad_(True)
        if settings.proximal_weight:
            distance = (kernel - start).square().sum() / start.square().sum()
            loss = loss + settings.proximal_weight * margin.detach().abs() * distance
        loss.backward(inputs=[latent])
        if iteration >= settings.frozen_iterations:
            for _ in range(settings.latent_steps):
                latent_optimizer.step()
        kernel = prior.decode(latent)
        log.step(loss, critic_loss)
        log.kernel(kernel)
        if iteration >= settings.frozen_iterations:
            moving.append(kernel.detach())
        if settings.stop_when_converged and _settled(moving):
            break
    log.kernel(kernel, last=True)
    return kernel.detach(), _settled(moving)


def _settled(kernels: Sequence[Tensor]) -> bool:
    """Whether the last two windows of ``kernels`` are there and have nearly the same mean."""
    if len(kernels) < 2 * WINDOW:
        return False
    before, after = torch.cat(list(kernels)).split(WINDOW)
    change = after.mean(dim=0) - before.mean(dim=0)
    return bool(change.norm() < TOLERANCE * before.mean(dim=0).norm())


def _search_kernelgan(
    lr: Tensor,
    crop: int,
    settings: GANSettings,
    generator: torch.Generator,
    log: SearchLog,
) -> tuple[Tensor, bool]:
    """The baseline, with the schedule of its release; images in [−1, 1]."""
    image = 2 * lr - 1
    large, small = _samplers(image, crop, LinearGenerator.kernel_side)
    downsampler = LinearGenerator(generator).to(lr.device)
    discriminator = Discriminator(generator).to(lr.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = [
        torch.optim.Adam(downsampler.parameters(), lr=settings.kernel_rate, betas=(0.5, 0.999)),
        torch.optim.Adam(discriminator.parameters(), lr=settings.critic_rate, betas=(0.5, 0.999)),
    ]
    schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 750) for optimizer in optimizers]
    weights = {"sum": 0.5, "boundary": 0.5, "centre": 0.0, "sparsity": 0.0}
    bicubic_weight, below = 5.0, 0
    moving: deque[Tensor] = deque(maxlen=2 * WINDOW)

    def noisy(patches: Tensor) -> Tensor:
        return patches + torch.randn(patches.shape, generator=generator).to(patches.device) / 255

    for iteration in range(settings.iterations):
        patches, real = large.draw(settings.batch, generator), small.draw(settings.batch, generator)
        optimizers[0].zero_grad(set_to_none=True)
        kernel = downsampler.kernel()
        log.kernel(kernel)
        moving.append(kernel.detach())
        fake = _downsample(patches, kernel)
        score = discriminator(noisy(fake))
        bicubic = bicubic_loss(patches, fake)
        loss = (1 - score).abs().mean() + bicubic_weight * bicubic
        for name, value in kernel_losses(kernel).items():
            loss = loss + weights[name] * value
        loss.backward(inputs=list(downsampler.parameters()))
        optimizers[0].step()

        optimizers[1].zero_grad(set_to_none=True)
        on_real, on_fake = discriminator(noisy(real)), discriminator(noisy(fake.detach()))
        critic_loss = 0.5 * ((1 - on_real).abs().mean() + on_fake.abs().mean())
        critic_loss.backward()
        optimizers[1].step()
        for schedule in schedules:
            schedule.step()

        below = below + 1 if float(bicubic.detach()) < 0.4 else (below if below >= 3 else 0)
        if below >= 3 and iteration % 200 == 0 and bicubic_weight > 5e-6:
            bicubic_weight = max(bicubic_weight / 100, 5e-6)
            if bicubic_weight < 5e-3:
                weights["centre"], weights["sparsity"] = 1.0, 5.0
        log.step(loss, critic_loss)
    with torch.no_grad():
        kernel = downsampler.kernel()
    log.kernel(kernel, last=True)
    return post_process(kernel), _settled(moving)
