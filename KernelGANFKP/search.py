"""The search of KernelGAN-FKP: a latent code against a critic that compares patches (FKP, section 3.4).

No iteration waits for the device: what is random is drawn for many iterations ahead, and losses and convergence are
looked at every so often. A search that had converged meanwhile is taken back to where that was.

Several pictures with crops of one size are searched side by side. Only the clock couples them: each has a critic, a
latent code, draws and an end of its own, so each comes out as it does alone, but for rounding.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blindsr.checkpoints import load_optimizer, optimizer_state
from blindsr.graphs import adam_options, own_stream, repeated
from blindsr.search_log import SearchLog
from FKP import KernelPrior, SphericalAdam
from KernelGANFKP.crops import PatchSource
from KernelGANFKP.losses import mean_by_picture, wasserstein_loss
from KernelGANFKP.networks import Critic
from KernelGANFKP.settings import GANSettings

__all__ = ["WINDOW", "LatentSearch", "converged", "downsample"]

WINDOW, TOLERANCE = 50, 0.01
"""A kernel has converged when its means over the last two windows of iterations differ by less than this."""
BLOCK = 50
"""Iterations that are drawn at once."""


def downsample(patches: Tensor, kernel: Tensor) -> Tensor:
    """Blur N×(P·3)×p×p, each picture's with its own of P×1×k×k, and keep every second pixel; no padding."""
    pictures = len(kernel)
    # Colours go with the patches: a channel is left for each picture.
    flat = patches.unflatten(1, (pictures, 3)).transpose(1, 2).flatten(0, 1)
    flat = F.conv2d(flat, kernel, stride=2, groups=pictures)
    return flat.unflatten(0, (-1, 3)).transpose(1, 2).flatten(1, 2)


def converged(kernels: Sequence[Tensor]) -> list[bool]:
    """Whether the last two windows of ``kernels``, P×1×k×k each, are there and have nearly the same mean, of each."""
    return [count is not None for count in _first_converged(kernels, len(kernels) - 1)]


def _first_converged(kernels: Sequence[Tensor], known: int) -> list[int | None]:
    """Of how many ``kernels``, but more than ``known``, the last two windows first have nearly the same mean.

    Args:
        kernels: P×1×k×k each.

    Returns:
        P counts, None where there is none.
    """
    pictures = len(kernels[0])
    counts = range(max(known + 1, 2 * WINDOW), len(kernels) + 1)
    if not counts:
        return [None] * pictures
    near = []
    for count in counts:
        windows = torch.stack(list(kernels[count - 2 * WINDOW : count])).split(WINDOW)
        before, after = (window.mean(dim=0).flatten(1) for window in windows)
        near.append((after - before).norm(dim=1) < TOLERANCE * before.norm(dim=1))
    by_picture = torch.stack(near, dim=1).tolist()
    return [next((count for count, yes in zip(counts, row, strict=True) if yes), None) for row in by_picture]


class _Draws(NamedTuple):
    """What is random in an iteration, of each picture."""

    large: Tensor  # (P, crops) of the crops to downsample
    small: Tensor  # (P, crops) of the real patches
    shares: Tensor  # (P, critic steps) of the gradient penalty


class _Step(NamedTuple):
    """What an iteration began with, and what it says."""

    kernels: Tensor  # P×1×k×k
    loss: Tensor  # (P,)
    critic_loss: Tensor  # (P,)


class LatentSearch:
    """One search, of one picture or of several.

    Args:
        patches: of each picture; crops of one size.
        critic: of as many pictures, on the device of the patches.
        latent: the codes to start from, P×side², on the same device.
    """

    def __init__(
        self,
        patches: Sequence[PatchSource],
        settings: GANSettings,
        prior: KernelPrior,
        critic: Critic,
        latent: Tensor,
    ) -> None:
        self.patches, self.settings, self.prior, self.critic = patches, settings, prior, critic
        self.device = latent.device
        self.start = prior.decode(latent)
        self.latent = latent.clone().requires_grad_()
        options = {"betas": (0.5, 0.999), **adam_options(self.device)}
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=settings.critic_rate, **options)
        self.latent_optimizer = SphericalAdam([self.latent], lr=settings.kernel_rate, **adam_options(self.device))
        self.kernels: list[Tensor] = []
        """The kernels after one moving iteration, two and so on."""
        self.examined = 0
        """How many of them were asked whether a search had converged there."""
        self.ends: list[int | None] = [None] * len(patches)
        """After how many moving iterations each picture's search had converged, where that is known."""
        self.drawn: tuple[list[Tensor], int] = [], 0
        """States of the generators before they drew the current block, and how many draws of that were taken."""

    def run(self, generators: Sequence[torch.Generator], log: SearchLog) -> tuple[Tensor, list[bool]]:
        """The kernels found, and whether they had converged. Goes on where ``log`` was broken off, if it was.

        Args:
            generators: of each picture, draws crops and shares; on the CPU.
        """
        settings, done = self.settings, log.done
        if log.resumed:
            self._resume(log.resumed, generators)
        draws = islice(self._draws(generators), self.drawn[1], None)
        frozen, stop = settings.frozen_iterations, settings.stop_when_converged
        with own_stream(self.device):
            current = self._empty_draws()
            for moving, first, last in ((False, 0, frozen), (True, frozen, settings.iterations)):
                first = max(first, done)
                step = repeated(partial(self._step, current, moving), self.device, last - first)
                for iteration in range(first, last):
                    if iteration > done:  # there is nothing new to keep before
                        log.keep(self._state)
                    for place, values in zip(current, next(draws), strict=True):
                        place.copy_(values)
                    made = step()
                    log.kernel(made.kernels)
                    log.step(made.loss, made.critic_loss)
                    if iteration > frozen:
                        self.kernels.append(made.kernels.clone())
                    if stop and log.done % log.every == 0 and self._have_ended():
                        break
        with torch.no_grad():
            self.kernels.append(self.prior.decode(self.latent))
        if stop:
            self._have_ended()
        taken = [-1 if end is None else end - 1 for end in self.ends]
        found = torch.stack([self.kernels[place][picture] for picture, place in enumerate(taken)])
        log.end(found, [log.done if end is None else frozen + end for end in self.ends])
        return found, [end is not None for end in self.ends] if stop else converged(self.kernels)

    def _state(self) -> dict[str, Any]:
        """What the next iterations depend on, beside what a new search has as well."""
        return {
            "critic": optimizer_state(self.critic_optimizer),
            "latent": optimizer_state(self.latent_optimizer),
            "kernels": self.kernels,
            "drawn": self.drawn,
        }

    def _resume(self, state: dict[str, Any], generators: Sequence[torch.Generator]) -> None:
        """Go on from a state of :meth:`_state`."""
        load_optimizer(self.critic_optimizer, state["critic"])
        load_optimizer(self.latent_optimizer, state["latent"])
        self.kernels = [kernel.to(self.device) for kernel in state["kernels"]]
        self.drawn = state["drawn"]
        for generator, drawn in zip(generators, self.drawn[0], strict=True):
            generator.set_state(drawn)

    def _have_ended(self) -> bool:
        """Whether all searches have converged; takes down where each first had."""
        if self.kernels:
            found = _first_converged(self.kernels, self.examined)
            self.ends = [known or new for known, new in zip(self.ends, found, strict=True)]
        self.examined = len(self.kernels)
        return None not in self.ends

    def _empty_draws(self) -> _Draws:
        """Where each iteration finds what is drawn for it."""
        pictures, settings = len(self.patches), self.settings
        large, small = torch.empty(2, pictures, settings.crops_per_step, dtype=torch.int64, device=self.device)
        return _Draws(large, small, torch.empty(pictures, settings.critic_steps, device=self.device))

    def _draws(self, generators: Sequence[torch.Generator]) -> Iterator[_Draws]:
        """The draws of one iteration after another, without end."""
        count, steps = self.settings.crops_per_step, self.settings.critic_steps

        def draw(patches: PatchSource, generator: torch.Generator) -> _Draws:
            """Of one picture and iteration."""
            large, small = (crops.choose(count, generator) for crops in (patches.large, patches.small))
            return _Draws(large, small, torch.stack([torch.rand((), generator=generator) for _ in range(steps)]))

        def block() -> list[Tensor]:
            """Of :data:`BLOCK` iterations, on the device."""
            rows = []
            for _ in range(BLOCK):
                drawn = map(draw, self.patches, generators)
                rows.append([torch.stack(values) for values in zip(*drawn, strict=True)])
            values = [torch.stack(column) for column in zip(*rows, strict=True)]
            if self.device.type == "cuda":  # from where it need not be waited for
                values = [value.pin_memory() for value in values]
            return [value.to(self.device, non_blocking=True) for value in values]

        def states() -> list[Tensor]:
            return [generator.get_state() for generator in generators]

        state, upcoming = states(), block()
        while True:
            begun, current = state, upcoming
            for index in range(BLOCK):
                if index == BLOCK // 2:  # while the device has enough to do
                    state, upcoming = states(), block()
                self.drawn = begun, index + 1
                yield _Draws(*(values[index] for values in current))

    def _step(self, draws: _Draws, moving: bool) -> _Step:
        kernels = self.prior.decode(self.latent)
        fake = downsample(self._cut("large", draws.large), kernels)
        real = self._cut("small", draws.small)
        for shares in draws.shares.unbind(1):
            critic_loss, margin = self._critic_step(real, fake.detach(), shares)
        loss = self._latent_gradient(fake, kernels, margin)
        if moving:
            # The critic does not move between the latent steps: they share its gradient.
            for _ in range(self.settings.latent_steps):
                self.latent_optimizer.step()
        return _Step(kernels.detach(), loss.detach(), critic_loss.detach())

    def _cut(self, size: Literal["large", "small"], chosen: Tensor) -> Tensor:
        """Crops of all pictures, N×(P·3)×p×p, of those numbers, P×N."""
        crops = (getattr(patches, size) for patches in self.patches)
        return torch.cat([each.cut(numbers) for each, numbers in zip(crops, chosen, strict=True)], dim=1)

    def _critic_step(self, real: Tensor, fake: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the critics; their losses and margins."""
        loss, margin = wasserstein_loss(self.critic, real, fake, shares, self.settings.penalty)
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        self.critic_optimizer.step()
        return loss, margin

    def _latent_gradient(self, fake: Tensor, kernels: Tensor, margin: Tensor) -> Tensor:
        """Leave the gradient at the latent codes; the losses."""
        self.latent_optimizer.zero_grad(set_to_none=True)
        self.critic.requires_grad_(False)  # or its layers would form the gradients of their weights too
        loss = -mean_by_picture(self.critic(fake))
        self.critic.requires_grad_(True)
        if self.settings.proximal_weight:
            changes, sizes = (each.flatten(1).square().sum(dim=1) for each in (kernels - self.start, self.start))
            distance = changes / sizes
            loss = loss + self.settings.proximal_weight * margin.detach().abs() * distance
        loss.sum().backward(inputs=[self.latent])
        return loss
