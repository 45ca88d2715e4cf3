"""Fitting a deep image prior to one LR image, jointly with its kernel or with the kernel held (FKP, section 3.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindsr.degradation import border, degrade
from blindsr.devices import preferred_memory_format
from blindsr.estimation import SearchLog
from blindsr.initialization import draw_parameters
from blindsr.kernels import kernel_side
from DIPFKP.network import ImagePrior, scales_for
from DIPFKP.settings import DIPModel, DIPSettings
from FKP import KernelPrior, SphericalAdam

__all__ = ["SearchedKernel", "Target", "baseline_kernel", "fit", "latent_kernel", "ssim"]


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


@dataclass(frozen=True)
class Target:
    """What an image network is fitted to."""

    lr: Tensor
    """1×3×h×w in [0, 1]."""
    scale_factor: int
    circular: bool
    """The image has a periodic boundary. If not, the network's image reaches as far beyond ``lr`` as the kernel."""

    @property
    def beyond(self) -> int:
        """HR pixels by which the network's image reaches beyond that of ``lr`` on each side."""
        outside = 0 if self.circular else border(kernel_side(self.scale_factor), self.scale_factor)
        return outside * self.scale_factor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's image."""
        height, width = (length * self.scale_factor + 2 * self.beyond for length in self.lr.shape[-2:])
        return height, width


@dataclass(frozen=True)
class SearchedKernel:
    """The kernel of a fit."""

    decode: Callable[[], Tensor]
    """Makes the current kernel, 1×1×k×k, from the parameters that are searched."""
    optimizer: torch.optim.Optimizer | None = None
    """Of those parameters; without it the kernel is held."""
    prediction: Tensor | None = None
    """What the proximal term is the distance to; without it there is none."""


def latent_kernel(prior: KernelPrior, prediction: Tensor | None, rate: float) -> SearchedKernel:
    """A kernel of the prior, searched by its latent code from the prediction, or else from the fixed start."""
    latent = prior.initial_latent() if prediction is None else prior.invert(prediction)
    latent = latent.requires_grad_()
    return SearchedKernel(lambda: prior.decode(latent), SphericalAdam([latent], lr=rate), prediction)


def baseline_kernel(model: DIPModel, side: int, generator: torch.Generator, device: torch.device) -> SearchedKernel:
    """A side×side kernel of the softmax of free logits (DIPSoftmax), or of what a small network makes of noise."""
    if model == "DIPSoftmax":
        logits = torch.zeros(1, side**2, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.5)
        return SearchedKernel(lambda: torch.softmax(logits, dim=1).view(1, 1, side, side), optimizer)
    network = nn.Sequential(nn.Linear(200, 1000), nn.ReLU6(), nn.Linear(1000, side**2), nn.Softmax(dim=1))
    draw_parameters(network, generator)
    network = network.to(device)
    noise = torch.rand(1, 200, generator=generator).to(device) / 10
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    return SearchedKernel(lambda: network(noise).view(1, 1, side, side), optimizer)


def fit(
    target: Target, settings: DIPSettings, kernel: SearchedKernel, generator: torch.Generator, log: SearchLog
) -> Tensor:
    """Fit an image network, and the kernel where it is searched; returns the last image, 1×3×(s·h)×(s·w).

    Args:
        generator: of the network's weights and noise.
        log: takes down every iteration, and the kernel where it is searched.
    """
    lr, scale_factor = target.lr, target.scale_factor
    height, width = target.size
    network = ImagePrior(settings.channels, scales_for(height, width), settings.non_local, lr.shape[1])
    draw_parameters(network, generator)
    layout = preferred_memory_format(lr.device)
    network = network.to(lr.device, memory_format=layout)  # type: ignore[call-overload]
    noise = torch.rand(1, lr.shape[1], height, width, generator=generator) / 10
    noise = noise.to(lr.device, memory_format=layout)
    image_optimizer = partial(torch.optim.Adam, list(network.parameters()), lr=settings.image_rate, fused=True)
    optimizer = image_optimizer()
    for iteration in range(settings.iterations):
        early = iteration < settings.ssim_iterations
        if kernel.optimizer is None and iteration == settings.ssim_iterations:
            # What Adam remembers of the gradients of 1 − SSIM, a thousand times larger, would keep its steps tiny for
            # hundreds of iterations. (With a kernel to find, an image that fits more closely leads it astray.)
            optimizer = image_optimizer()
        optimizer.zero_grad(set_to_none=True)
        image, current = network(noise), kernel.decode()
        fitted = degrade(image, current, scale_factor, circular=target.circular)
        loss = 1 - ssim(fitted, lr) if early else F.mse_loss(fitted, lr)
        if kernel.optimizer is not None:
            log.kernel(current)
            kernel.optimizer.zero_grad(set_to_none=True)
        (loss if early else loss + _proximal_term(loss, current, kernel, settings)).backward()
        if kernel.optimizer is not None and iteration >= settings.frozen_iterations:
            kernel.optimizer.step()
        optimizer.step()
        log.step(loss)
    beyond = target.beyond
    return image.detach()[..., beyond : height - beyond, beyond : width - beyond]


def _proximal_term(loss: Tensor, current: Tensor, kernel: SearchedKernel, settings: DIPSettings) -> Tensor | float:
    """The kernel's squared distance to the prediction, relative to that, times weight and loss."""
    if kernel.prediction is None:
        return 0.0
    distance = (current - kernel.prediction).square().sum() / kernel.prediction.square().sum()
    return settings.proximal_weight * loss.detach() * distance
