"""DIP-FKP: a deep image prior and a kernel prior fitted jointly to one LR image (FKP, section 3.3), or the prior's
kernel that a predictor sees in it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindsr.checks import require_between, require_choice, require_iterations_beyond_frozen, require_positive
from blindsr.degradation import border, centre_crop, degrade
from blindsr.devices import free_memory, preferred_memory_format
from blindsr.estimation import Estimate, Estimator, OnStep, Preset, SearchLog
from blindsr.initialization import draw_parameters
from blindsr.kernels import kernel_side
from DIPFKP.network import ImagePrior, scales_for
from FKP import KernelPrior, SphericalAdam
from KernelPredictor import KernelPredictor, Start

__all__ = [
    "DIPModel",
    "DIPSettings",
    "estimate",
    "preset",
    "pretrained_estimator",
    "ssim",
    "textured_crop",
]

DIPModel = Literal["DIPFKP", "DIPSoftmax", "DoubleDIP"]

FIT_BYTES = 75
"""What fitting an image network takes for each of its channels and HR pixels, measured on a CPU."""


@dataclass(frozen=True)
class DIPSettings:
    """How an image and its kernel are fitted; in brackets what the paper, section 4.2, and --preset paper take."""

    iterations: int = 1000
    """Iterations of the joint fit (paper: 1000). 0: the predicted start is the kernel."""
    ssim_iterations: int = 80
    """Iterations with the loss 1 − SSIM before the mean squared error takes over (paper: 80)."""
    frozen_iterations: int = 75
    """Iterations before the kernel starts to move (paper: 75)."""
    channels: int = 128
    """Channels of the image network (paper: 128)."""
    non_local: bool = True
    """Non-local blocks at the third to fifth scales of the image network (paper: yes)."""
    crop: int = 960
    """Side in HR pixels of the crop that the kernel is estimated on, where the picture is larger (paper: 960)."""
    crop_position: Literal["centre", "texture"] = "centre"
    """Where that crop is taken: at the centre, or where the gradients are strongest (paper: centre)."""
    image_rate: float = 5e-3
    """Learning rate of Adam for the image network (paper: 5e-3)."""
    kernel_rate: float = 0.5
    """Learning rate of spherical Adam for DIPFKP's latent code (paper: 0.5). Baselines have their own."""
    proximal_weight: float = 0.0
    """Weight of the kernel's squared distance to the predicted one, relative to the squared error; without effect
    where the start is not predicted (paper: 0)."""
    image_iterations: int | None = None
    """Iterations of a fit of its own for the picture, where it is wanted. None (paper): the joint fit's picture is
    taken, or, where that covers a crop only, one fitted in as many iterations."""
    image_channels: int | None = None
    """Channels of the image network in that fit. None: those of the joint fit."""
    start: Start = "fixed"
    """Where DIPFKP's search for the kernel starts: at one kernel for all images (paper), or at the predictor's."""
    circular: bool = True
    """The picture has a periodic boundary, as those of prepared data sets do (paper: yes; for photographs no)."""

    def __post_init__(self) -> None:
        require_positive(self, "crop", "image_rate", "kernel_rate")
        require_between(self, 0, 1e9, "proximal_weight")
        require_between(self, 2, 1024, "channels")
        if self.image_iterations is not None:
            require_positive(self, "image_iterations")
        if self.image_channels is not None:
            require_between(self, 2, 1024, "image_channels")
        if self.iterations == 0 and (self.start != "predicted" or self.image_iterations is None):
            raise ValueError(
                "--iterations 0 (as --preset prediction): the predicted start is the kernel, and the picture has a "
                "fit of its own; for another start or fit use --preset search, or --iterations"
            )
        if self.iterations != 0:
            require_positive(self, "iterations")
            require_iterations_beyond_frozen(self)


# Chosen on photographs of BSDS500 and others. The pixel loss hardly tells kernels of different width apart
# (DIP fits the LR image as well with a wrong one), so the kernel stays near where the predictor saw it. A larger crop
# changes less than 0.1 dB, in twice the time.
_SEARCH = DIPSettings(
    iterations=150,
    ssim_iterations=50,
    channels=32,
    non_local=False,
    crop=128,
    crop_position="texture",
    frozen_iterations=50,
    kernel_rate=2e-2,
    proximal_weight=10.0,
    image_iterations=500,
    image_channels=64,
    start="predicted",
)


def preset(name: Preset = "search", model: DIPModel = "DIPFKP") -> DIPSettings:
    """The settings of a preset.

    Raises:
        ValueError: there is no such preset, or ``model`` has nothing to predict with.
    """
    require_choice("preset", name, get_args(Preset))
    if name == "paper":
        return DIPSettings()
    if name == "search":
        return _SEARCH
    if model != "DIPFKP":
        raise ValueError(f"--preset prediction: {model} has no predicted start; use --model DIPFKP")
    return replace(_SEARCH, iterations=0)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity: 11×11 Gaussian window, σ 1.5, zero padding, data range 1; differentiable.

    Args:
        x, y: N×C×H×W in [0, 1].
    """
    offsets = torch.arange(11, dtype=x.dtype, device=x.device) - 5
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    line = line / line.sum()
    n, channels, height, width = x.shape
    # The five moments go through one separable convolution as a batch.
    moments = torch.cat([x, y, x * x, y * y, x * y]).reshape(-1, 1, height, width)
    moments = F.conv2d(moments, line.view(1, 1, 11, 1), padding=(5, 0))
    moments = F.conv2d(moments, line.view(1, 1, 1, 11), padding=(0, 5))
    mean_x, mean_y, xx, yy, xy = moments.reshape(5, n, channels, height, width)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    return (luminance * (2 * (xy - mean_x * mean_y) + c2) / (variances + c2)).mean()


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


Decode = Callable[[], Tensor]
"""Makes the current kernel from the parameters that are searched."""


def _searched_kernel(
    model: DIPModel,
    prior: KernelPrior | None,
    start: Tensor | None,
    side: int,
    rate: float,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Decode, torch.optim.Optimizer]:
    """A parametrised kernel and the optimiser of its parameters."""
    if model == "DIPFKP":
        if prior is None:
            raise ValueError("DIPFKP needs a kernel prior")
        latent = prior.initial_latent() if start is None else prior.invert(start)
        latent = latent.to(device).requires_grad_()
        return lambda: prior.decode(latent), SphericalAdam([latent], lr=rate)
    if model == "DIPSoftmax":
        logits = torch.zeros(1, side**2, device=device, requires_grad=True)
        return lambda: torch.softmax(logits, dim=1).view(1, 1, side, side), torch.optim.Adam([logits], lr=0.5)
    network = nn.Sequential(nn.Linear(200, 1000), nn.ReLU6(), nn.Linear(1000, side**2), nn.Softmax(dim=1))
    draw_parameters(network, generator)
    network = network.to(device)
    noise = torch.rand(1, 200, generator=generator).to(device) / 10
    return lambda: network(noise).view(1, 1, side, side), torch.optim.Adam(network.parameters(), lr=1e-4)


@torch.random.fork_rng(devices=[])  # PyTorch's layers draw weights that are redrawn here
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
    began = time.perf_counter()
    settings = settings or preset("search", model)
    _require_search(settings, model)
    device = lr.device
    generator = torch.Generator().manual_seed(seed)
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
    if min(crop.shape[-2:]) <= 4 * outside:
        crop = lr  # too thin for a crop whose border does not count: at most half would be left
    whole = crop.shape == lr.shape
    start, expected_error = None, None
    if model == "DIPFKP" and settings.start == "predicted":
        if predictor is None:
            raise ValueError('a start that is "predicted" needs a kernel predictor')
        prediction = predictor.predict(lr, scale_factor)
        start, expected_error = prediction.kernel.to(device), prediction.expected_error
    decode, kernel_optimizer = _searched_kernel(model, prior, start, side, settings.kernel_rate, generator, device)
    refit = want_image and (not whole or settings.image_iterations is not None)
    image_settings = replace(
        settings,
        iterations=settings.image_iterations or settings.iterations,
        channels=settings.image_channels or settings.channels,
        frozen_iterations=0,
    )
    if settings.iterations:
        _require_memory(crop, scale_factor, settings)
    if refit:
        _require_memory(lr, scale_factor, image_settings)
    total = settings.iterations + (image_settings.iterations if refit else 0)
    log = SearchLog(total, on_step, "use a smaller --image-rate or --kernel-rate")
    image = None
    if settings.iterations:
        seen = crop if whole else crop[..., outside:-outside, outside:-outside]
        circular = whole and settings.circular
        image = _fit(seen, scale_factor, settings, decode, kernel_optimizer, start, circular, generator, log)
    with torch.no_grad():
        kernel = decode()
    log.kernel(kernel, last=True)
    if refit:
        image = _fit(lr, scale_factor, image_settings, lambda: kernel, None, None, settings.circular, generator, log)
    return Estimate(
        kernel=kernel.cpu(),
        image=image.cpu() if image is not None and want_image else None,
        losses=log.losses,
        seconds=time.perf_counter() - began,
        seed=seed,
        expected_error=expected_error,
        path=log.path,
    )


def pretrained_estimator(
    scale_factor: int,
    device: torch.device,
    settings: DIPSettings | None = None,
    model: DIPModel = "DIPFKP",
    *,
    want_image: bool = False,
    path_prior: Path | None = None,
    path_predictor: Path | None = None,
) -> Estimator:
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
    return partial(estimate, prior=prior, predictor=predictor, settings=settings, model=model, want_image=want_image)


def _require_search(settings: DIPSettings, model: DIPModel) -> None:
    if settings.iterations == 0 and model != "DIPFKP":
        raise ValueError(f"--model {model}: it has no predicted start to take as it is; give it some --iterations")


def _require_memory(lr: Tensor, scale_factor: int, settings: DIPSettings) -> None:
    needed = lr[0, 0].numel() * scale_factor**2 * settings.channels * FIT_BYTES
    free = free_memory(lr.device)
    if free is not None and needed > free:
        raise ValueError(
            f"the deep image prior needs about {needed / 2**30:.1f} GiB for a picture of this size, "
            f"{free / 2**30:.1f} are free; use --SR, which takes little, or a smaller picture"
        )


def _fit(
    lr: Tensor,
    scale_factor: int,
    settings: DIPSettings,
    decode: Decode,
    kernel_optimizer: torch.optim.Optimizer | None,
    prediction: Tensor | None,
    circular: bool,
    generator: torch.Generator,
    log: SearchLog,
) -> Tensor:
    """Fit an image network to ``lr``, and with ``kernel_optimizer`` the kernel too; returns the last image.

    The proximal term is the distance to ``prediction``. Without a circular border the network's image
    reaches as far beyond ``lr`` as the kernel does; what is returned does not.
    """
    outside = 0 if circular else border(decode().shape[-1], scale_factor)
    height, width = ((length + 2 * outside) * scale_factor for length in lr.shape[-2:])
    network = ImagePrior(settings.channels, scales_for(height, width), settings.non_local, lr.shape[1])
    draw_parameters(network, generator)
    layout = preferred_memory_format(lr.device)
    network = network.to(lr.device, memory_format=layout)  # type: ignore[call-overload]
    noise = torch.rand(1, lr.shape[1], height, width, generator=generator) / 10
    noise = noise.to(lr.device, memory_format=layout)
    image_optimizer = partial(torch.optim.Adam, list(network.parameters()), lr=settings.image_rate, fused=True)
    optimizer = image_optimizer()
    for iteration in range(settings.iterations):
        if kernel_optimizer is None and iteration == settings.ssim_iterations:
            # What Adam remembers of the gradients of 1 − SSIM, a thousand times larger, would keep its steps tiny for
            # hundreds of iterations. (With a kernel to find, an image that fits more closely leads it astray.)
            optimizer = image_optimizer()
        optimizer.zero_grad(set_to_none=True)
        if kernel_optimizer is not None:
            kernel_optimizer.zero_grad(set_to_none=True)
        image = network(noise)
        kernel = decode()
        if kernel_optimizer is not None:
            log.kernel(kernel)
        fitted = degrade(image, kernel, scale_factor, circular=circular)
        early = iteration < settings.ssim_iterations
        loss = 1 - ssim(fitted, lr) if early else F.mse_loss(fitted, lr)
        if prediction is None or early:
            loss.backward()
        else:
            distance = (kernel - prediction).square().sum() / prediction.square().sum()
            (loss + settings.proximal_weight * loss.detach() * distance).backward()
        if kernel_optimizer is not None and iteration >= settings.frozen_iterations:
            kernel_optimizer.step()
        optimizer.step()
        log.step(loss)
    beyond = outside * scale_factor
    return image.detach()[..., beyond : height - beyond, beyond : width - beyond]
