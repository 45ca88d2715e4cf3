"""Fitting deep image priors to LR images, jointly with their kernels or with the kernels held (FKP, section 3.3).

Several pictures of one size are fitted side by side. Only the clock couples them: each has a network, a kernel and a
loss of its own, and Adam treats every parameter by itself, so each comes out as it does alone, but for rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindsr.degradation import border, degrade
from blindsr.devices import preferred_memory_format
from blindsr.estimation import SearchLog
from blindsr.graphs import adam_options, own_stream, repeated
from blindsr.initialization import draw_parameters
from blindsr.kernels import kernel_side
from DIPFKP.network import ImagePrior, scales_for
from DIPFKP.settings import DIPModel, DIPSettings
from FKP import KernelPrior, SphericalAdam

__all__ = ["Fit", "SearchedKernels", "Target", "baseline_kernels", "latent_kernels", "ssim"]

Generators = Sequence[torch.Generator]
"""One for each picture."""


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity: 11×11 Gaussian window, σ 1.5, zero padding, data range 1; differentiable.

    Args:
        x, y: N×C×H×W in [0, 1].

    Returns:
        (N,), each image's mean.
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
    return _by_picture(luminance * (2 * (xy - mean_x * mean_y) + c2) / (variances + c2), torch.mean)


def _by_picture(values: Tensor, reduce: Callable[..., Tensor] = torch.sum) -> Tensor:
    """N×… → (N,)."""
    return reduce(values.flatten(1), dim=1)


@dataclass(frozen=True)
class Target:
    """What image networks are fitted to."""

    lr: Tensor
    """P×3×h×w in [0, 1], one image for each picture."""
    scale_factor: int
    circular: bool
    """The images have periodic boundaries. If not, the networks' reach as far beyond ``lr`` as the kernel."""

    @property
    def beyond(self) -> int:
        """HR pixels by which the networks' images reach beyond those of ``lr`` on each side."""
        outside = 0 if self.circular else border(kernel_side(self.scale_factor), self.scale_factor)
        return outside * self.scale_factor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the networks' images."""
        height, width = (length * self.scale_factor + 2 * self.beyond for length in self.lr.shape[-2:])
        return height, width


@dataclass(frozen=True)
class SearchedKernels:
    """The kernels of a fit."""

    decode: Callable[[], Tensor]
    """Makes the current kernels, P×1×k×k, from the parameters that are searched."""
    optimizer: torch.optim.Optimizer | None = None
    """Of those parameters; without it the kernels are held."""
    prediction: Tensor | None = None
    """What the proximal term is the distance to; without it there is none."""


def latent_kernels(prior: KernelPrior, latent: Tensor, rate: float, prediction: Tensor | None) -> SearchedKernels:
    """Kernels of the prior, searched by their latent codes from ``latent``, P×side²."""
    latent = latent.clone().requires_grad_()
    optimizer = SphericalAdam([latent], lr=rate, **adam_options(latent.device))
    return SearchedKernels(lambda: prior.decode(latent), optimizer, prediction)


def baseline_kernels(model: DIPModel, side: int, generators: Generators, device: torch.device) -> SearchedKernels:
    """side×side kernels of the softmax of free logits (DIPSoftmax), or of what small networks make of noise."""
    shape, options = (len(generators), 1, side, side), adam_options(device)
    if model == "DIPSoftmax":
        logits = torch.zeros(len(generators), side**2, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.5, **options)
        return SearchedKernels(lambda: torch.softmax(logits, dim=1).view(shape), optimizer)
    networks, noises = nn.ModuleList(), []
    for generator in generators:
        layers = [nn.Linear(200, 1000), nn.ReLU6(), nn.Linear(1000, side**2), nn.Softmax(dim=1)]
        networks.append(nn.Sequential(*layers))
        draw_parameters(networks[-1], generator)
        noises.append(torch.rand(1, 200, generator=generator).to(device) / 10)
    networks = networks.to(device)
    optimizer = torch.optim.Adam(networks.parameters(), lr=1e-4, **options)

    def decode() -> Tensor:
        return torch.cat([network(noise) for network, noise in zip(networks, noises, strict=True)]).view(shape)

    return SearchedKernels(decode, optimizer)


class _Step(NamedTuple):
    """What an iteration began with, and what it says."""

    loss: Tensor  # (P,)
    kernels: Tensor  # P×1×k×k
    images: Tensor  # P×3×H×W


class Fit:
    """Fits image networks, and the kernels where they are searched.

    Args:
        generators: of each picture's network and noise.
    """

    def __init__(
        self, target: Target, settings: DIPSettings, kernels: SearchedKernels, generators: Generators
    ) -> None:
        self.target, self.settings, self.kernels = target, settings, kernels
        pictures, colours = target.lr.shape[:2]
        self.device = target.lr.device
        self.network = ImagePrior(
            settings.channels, scales_for(*target.size), settings.non_local, colours, pictures=pictures
        )
        draw_parameters(self.network, *generators)
        noises = [torch.rand(1, colours, *target.size, generator=generator) / 10 for generator in generators]
        layout = preferred_memory_format(self.device)
        self.network = self.network.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.noise = torch.cat(noises).to(self.device, memory_format=layout)
        self._restart_adam()

    def _restart_adam(self) -> None:
        options = {"lr": self.settings.image_rate, "fused": True, **adam_options(self.device)}
        self.optimizer = torch.optim.Adam(self.network.parameters(), **options)

    def run(self, log: SearchLog) -> Tensor:
        """All iterations; returns the last images, P×3×(s·h)×(s·w).

        Args:
            log: takes down every iteration, and the kernels where they are searched.
        """
        settings, searched = self.settings, self.kernels.optimizer is not None
        frozen = settings.frozen_iterations if searched else 0
        changes = {min(change, settings.iterations) for change in (settings.ssim_iterations, frozen)}
        with own_stream(self.device):
            for first, last in pairwise(sorted({0, settings.iterations} | changes)):
                early, moving = first < settings.ssim_iterations, searched and first >= frozen
                if not searched and first == settings.ssim_iterations:
                    # What Adam remembers of the gradients of 1 − SSIM, a thousand times larger, would keep its steps
                    # tiny for hundreds of iterations. (With a kernel to find, an image that fits more closely leads
                    # it astray.)
                    self._restart_adam()
                held = None if moving else self.kernels.decode().detach()
                step = repeated(partial(self._step, early, held), self.device, last - first)
                for _ in range(first, last):
                    made = step()
                    if searched:
                        log.kernel(made.kernels)
                    log.step(made.loss)
        # The published kernel displaces an image whose boundary is not periodic, a photograph, against the HR grid.
        shift = 0 if self.target.circular else self.target.scale_factor - 1
        first, (height, width) = self.target.beyond - shift, self.target.size
        inner = 2 * self.target.beyond
        return made.images[..., first : first + height - inner, first : first + width - inner]

    def _step(self, early: bool, held: Tensor | None) -> _Step:
        """One iteration, with 1 − SSIM if it is an early one, and kernels that are held or move."""
        lr, scale_factor = self.target.lr, self.target.scale_factor
        self.optimizer.zero_grad(set_to_none=True)
        images = self.network(self.noise)
        kernels = self.kernels.decode() if held is None else held
        fitted = degrade(images, kernels, scale_factor, circular=self.target.circular)
        loss = 1 - ssim(fitted, lr) if early else _by_picture((fitted - lr).square(), torch.mean)
        optimizers: list[torch.optim.Optimizer] = [self.optimizer]
        total = loss
        if held is None and self.kernels.optimizer is not None:
            self.kernels.optimizer.zero_grad(set_to_none=True)
            optimizers.append(self.kernels.optimizer)
            if self.kernels.prediction is not None and not early:
                total = loss + self.settings.proximal_weight * loss.detach() * self._distances(kernels)
        total.sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        return _Step(loss.detach(), kernels.detach(), images.detach())

    def _distances(self, kernels: Tensor) -> Tensor:
        """Squared distance of each kernel to the predicted one, relative to that, (P,)."""
        prediction = self.kernels.prediction
        assert prediction is not None
        return _by_picture((kernels - prediction).square()) / _by_picture(prediction.square())
