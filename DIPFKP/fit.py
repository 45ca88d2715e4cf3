"""Fitting deep image priors to LR images, jointly with their kernels or with the kernels held (FKP, section 3.3).

Several pictures of one size are fitted side by side. Only the clock couples them: each has a network, a kernel and a
loss of its own, and Adam treats every parameter by itself, so each comes out as it does alone, but for rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindsr.checkpoints import load_optimizer, optimizer_state
from blindsr.degradation import degrade
from blindsr.devices import preferred_memory_format
from blindsr.graphs import adam_options, own_stream, repeated
from blindsr.initialization import draw_parameters
from blindsr.search_log import SearchLog
from DIPFKP.network import ImagePrior, scales_for
from DIPFKP.settings import DIPModel, DIPSettings
from DIPFKP.target import Target
from FKP import KernelPrior, SphericalAdam

__all__ = ["Fit", "SearchedKernels", "baseline_kernels", "fit_both", "latent_kernels", "ssim"]

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
class SearchedKernels:
    """The kernels of a fit."""

    decode: Callable[[], Tensor]
    """Makes the current kernels, P×1×k×k, from the parameters that are searched."""
    optimizer: torch.optim.Optimizer | None = None
    """Of those parameters; without it the kernels are held."""
    prediction: Tensor | None = None
    """What the proximal term is the distance to, P×1×k×k; without it there is none."""
    expected_errors: Tensor | None = None
    """Errors to expect of the predictions (:class:`KernelPredictor.predictor.Prediction`), (P,)."""


def latent_kernels(
    prior: KernelPrior,
    latent: Tensor,
    rate: float,
    prediction: Tensor | None = None,
    expected_errors: Tensor | None = None,
) -> SearchedKernels:
    """Kernels of the prior, searched by their latent codes from ``latent``, P×side²."""
    latent = latent.clone().requires_grad_()
    optimizer = SphericalAdam([latent], lr=rate, **adam_options(latent.device))
    return SearchedKernels(lambda: prior.decode(latent), optimizer, prediction, expected_errors)


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

    def run(self, log: SearchLog, resumed: Mapping[str, Any]) -> Tensor:
        """All iterations; returns the last images, P×3×(s·h)×(s·w).

        Args:
            log: takes down every iteration, and the kernels where they are searched.
            resumed: state of this fit where it was broken off, as the log kept it; else empty.
        """
        settings, searched = self.settings, self.kernels.optimizer is not None
        done = self._resume(resumed)
        frozen = settings.frozen_iterations if searched else 0
        changes = {min(change, settings.iterations) for change in (settings.ssim_iterations, frozen)}
        with own_stream(self.device):
            for first, last in pairwise(sorted({done, settings.iterations} | {n for n in changes if n > done})):
                early, moving = first < settings.ssim_iterations, searched and first >= frozen
                if not searched and first == settings.ssim_iterations:
                    # What Adam remembers of the gradients of 1 − SSIM, a thousand times larger, would keep its steps
                    # tiny for hundreds of iterations. (With a kernel to find, an image that fits more closely leads
                    # it astray.)
                    self._restart_adam()
                held = None if moving else self.kernels.decode().detach()
                step = repeated(partial(self._step, early, held), self.device, last - first)
                for iteration in range(first, last):
                    if iteration > done:  # there is nothing new to keep before
                        log.keep(partial(self._state, iteration))
                    made = step()
                    if searched:
                        log.kernel(made.kernels)
                    log.step(made.loss)
        # The published kernel displaces an image whose boundary is not periodic, a photograph, against the HR grid.
        shift = 0 if self.target.circular else self.target.scale_factor - 1
        first, (height, width) = self.target.beyond - shift, self.target.size
        inner = 2 * self.target.beyond
        return made.images[..., first : first + height - inner, first : first + width - inner]

    def _state(self, done: int) -> dict[str, Any]:
        """What the iterations after the first ``done`` depend on, beside what a new fit has as well."""
        kernels, image = self.kernels, optimizer_state(self.optimizer)
        if kernels.optimizer is None:
            return {"done": done, "image": image, "found": kernels.decode()}
        return {"done": done, "image": image, "kernels": optimizer_state(kernels.optimizer)}

    def _resume(self, state: Mapping[str, Any]) -> int:
        """Go on from a state of :meth:`_state`, where there is one; how many iterations are done."""
        if not state:
            return 0
        load_optimizer(self.optimizer, state["image"])
        if self.kernels.optimizer is not None:
            load_optimizer(self.kernels.optimizer, state["kernels"])
        return int(state["done"])

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
        """Squared distance of each kernel to the predicted one, in units of the error to expect of that, (P,).

        For Gaussian kernels the relative distance is about half the error of the log-covariance, which is expected.
        """
        prediction, expected = self.kernels.prediction, self.kernels.expected_errors
        assert prediction is not None
        assert expected is not None
        relative = _by_picture((kernels - prediction).square()) / _by_picture(prediction.square())
        return 4 * relative / expected.square()


def fit_both(
    kernels: SearchedKernels, joint: Fit | None, fit_again: Callable[[Tensor], Fit | None], log: SearchLog
) -> tuple[Tensor, Tensor | None]:
    """Search the kernels in a joint fit, if any, then fit images with the kernels found, if that is wanted.

    Goes on where ``log`` was broken off, if it was.

    Returns:
        The kernels found, P×1×k×k, and the images of the last fit, if any.
    """
    resumed, images = log.resumed, None
    if "found" in resumed:
        found = resumed["found"]
    else:
        images, resumed = None if joint is None else joint.run(log, resumed), {}
        with torch.no_grad():
            found = kernels.decode()
        log.kernel(found, last=True)
    again = fit_again(found)
    return found, images if again is None else again.run(log, resumed)
