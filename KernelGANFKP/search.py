"""The search of KernelGAN-FKP: a latent code against a critic that compares patches (FKP, section 3.4).

No iteration waits for the device: what is random is drawn for many iterations ahead, and losses and convergence are
looked at every so often. A search that had converged meanwhile is taken back to where that was.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blindsr.checkpoints import load_optimizer, optimizer_state
from blindsr.estimation import SearchLog
from blindsr.graphs import adam_options, own_stream, repeated
from FKP import KernelPrior, SphericalAdam
from KernelGANFKP.crops import PatchSource
from KernelGANFKP.losses import wasserstein_loss
from KernelGANFKP.networks import Critic
from KernelGANFKP.settings import GANSettings

__all__ = ["WINDOW", "LatentSearch", "converged", "downsample"]

WINDOW, TOLERANCE = 50, 0.01
"""A kernel has converged when its means over the last two windows of iterations differ by less than this."""
BLOCK = 50
"""Iterations that are drawn at once."""


def downsample(patches: Tensor, kernel: Tensor) -> Tensor:
    """Blur N×3×p×p with 1×1×k×k and keep every second pixel; no padding."""
    flat = F.conv2d(patches.flatten(0, 1).unsqueeze(1), kernel, stride=2)
    return flat.view(*patches.shape[:2], *flat.shape[-2:])


def converged(kernels: Sequence[Tensor]) -> bool:
    """Whether the last two windows of ``kernels`` are there and have nearly the same mean."""
    return _first_converged(kernels, len(kernels) - 1) is not None


def _first_converged(kernels: Sequence[Tensor], known: int) -> int | None:
    """Of how many ``kernels``, but more than ``known``, the last two windows first have nearly the same mean."""
    counts = range(max(known + 1, 2 * WINDOW), len(kernels) + 1)
    if not counts:
        return None
    near = []
    for count in counts:
        before, after = torch.cat(list(kernels[count - 2 * WINDOW : count])).split(WINDOW)
        change = after.mean(dim=0) - before.mean(dim=0)
        near.append(change.norm() < TOLERANCE * before.mean(dim=0).norm())
    return next((count for count, yes in zip(counts, torch.stack(near).tolist(), strict=True) if yes), None)


class _Draws(NamedTuple):
    """What is random in an iteration."""

    large: Tensor  # (batch,) of the crops to downsample
    small: Tensor  # (batch,) of the real patches
    shares: Tensor  # (critic steps,) of the gradient penalty


class _Step(NamedTuple):
    """What an iteration began with, and what it says."""

    kernel: Tensor
    loss: Tensor
    critic_loss: Tensor


class LatentSearch:
    """One search.

    Args:
        patches: of the image.
        critic: on the device of the patches.
        latent: the code to start from, 1×side², on the same device.
    """

    def __init__(
        self, patches: PatchSource, settings: GANSettings, prior: KernelPrior, critic: Critic, latent: Tensor
    ) -> None:
        self.patches, self.settings, self.prior, self.critic = patches, settings, prior, critic
        self.device = latent.device
        self.start = prior.decode(latent)
        self.latent = latent.requires_grad_()
        options = {"betas": (0.5, 0.999), **adam_options(self.device)}
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=settings.critic_rate, **options)
        self.latent_optimizer = SphericalAdam([self.latent], lr=settings.kernel_rate, **adam_options(self.device))
        self.kernels: list[Tensor] = []
        """The kernels after one moving iteration, two and so on."""
        self.examined = 0
        """How many of them were asked whether the search had converged there."""
        self.drawn = torch.Tensor(), 0
        """State of the generator before it drew the current block, and how many draws of that were taken."""

    def run(self, generator: torch.Generator, log: SearchLog) -> tuple[Tensor, bool]:
        """The kernel found, and whether it had converged. Goes on where ``log`` was broken off, if it was.

        Args:
            generator: draws crops and shares; on the CPU.
        """
        settings, done = self.settings, log.done
        if log.resumed:
            self._resume(log.resumed, generator)
        draws = islice(self._draws(generator), self.drawn[1], None)
        frozen, stop = settings.frozen_iterations, settings.stop_when_converged
        end: int | None = None
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
                    log.kernel(made.kernel)
                    log.step(made.loss, made.critic_loss)
                    if iteration > frozen:
                        self.kernels.append(made.kernel.clone())
                    if stop and log.done % log.every == 0:
                        end = self._examine()
                        if end is not None:
                            break
        with torch.no_grad():
            self.kernels.append(self.prior.decode(self.latent))
        if stop and end is None:
            end = self._examine()
        kernel = self.kernels[-1 if end is None else end - 1]
        if end is not None:
            log.cut(frozen + end)
        log.kernel(kernel, last=True)
        return kernel, end is not None or converged(self.kernels)

    def _state(self) -> dict[str, Any]:
        """What the next iterations depend on, beside what a new search has as well."""
        return {
            "critic": optimizer_state(self.critic_optimizer),
            "latent": optimizer_state(self.latent_optimizer),
            "kernels": self.kernels,
            "drawn": self.drawn,
        }

    def _resume(self, state: dict[str, Any], generator: torch.Generator) -> None:
        """Go on from a state of :meth:`_state`."""
        load_optimizer(self.critic_optimizer, state["critic"])
        load_optimizer(self.latent_optimizer, state["latent"])
        self.kernels = [kernel.to(self.device) for kernel in state["kernels"]]
        self.drawn = state["drawn"]
        generator.set_state(self.drawn[0])

    def _examine(self) -> int | None:
        """After how many moving iterations the search had converged, where that is not known yet."""
        end = _first_converged(self.kernels, self.examined)
        self.examined = len(self.kernels)
        return end

    def _empty_draws(self) -> _Draws:
        """Where each iteration finds what is drawn for it."""
        large, small = torch.empty(2, self.settings.batch, dtype=torch.int64, device=self.device)
        return _Draws(large, small, torch.empty(self.settings.critic_steps, device=self.device))

    def _draws(self, generator: torch.Generator) -> Iterator[_Draws]:
        """The draws of one iteration after another, without end."""
        count, crops = self.settings.batch, (self.patches.large, self.patches.small)

        def block() -> list[Tensor]:
            """Of :data:`BLOCK` iterations, on the device."""
            rows = []
            for _ in range(BLOCK):
                chosen = [sampler.choose(count, generator) for sampler in crops]
                shares = [torch.rand((), generator=generator) for _ in range(self.settings.critic_steps)]
                rows.append((*chosen, torch.stack(shares)))
            values = [torch.stack(column) for column in zip(*rows, strict=True)]
            if self.device.type == "cuda":  # from where it need not be waited for
                values = [value.pin_memory() for value in values]
            return [value.to(self.device, non_blocking=True) for value in values]

        state, upcoming = generator.get_state(), block()
        while True:
            begun, current = state, upcoming
            for index in range(BLOCK):
                if index == BLOCK // 2:  # while the device has enough to do
                    state, upcoming = generator.get_state(), block()
                self.drawn = begun, index + 1
                yield _Draws(*(values[index] for values in current))

    def _step(self, draws: _Draws, moving: bool) -> _Step:
        kernel = self.prior.decode(self.latent)
        fake, real = downsample(self.patches.large.cut(draws.large), kernel), self.patches.small.cut(draws.small)
        for share in draws.shares:
            critic_loss, margin = self._critic_step(real, fake.detach(), share)
        loss = self._latent_gradient(fake, kernel, margin)
        if moving:
            # The critic does not move between the latent steps: they share its gradient.
            for _ in range(self.settings.latent_steps):
                self.latent_optimizer.step()
        return _Step(kernel.detach(), loss.detach(), critic_loss.detach())

    def _critic_step(self, real: Tensor, fake: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the critic; its loss and margin."""
        loss, margin = wasserstein_loss(self.critic, real, fake, share, self.settings.penalty)
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()
        return loss, margin

    def _latent_gradient(self, fake: Tensor, kernel: Tensor, margin: Tensor) -> Tensor:
        """Leave the gradient at the latent code; the loss."""
        self.latent_optimizer.zero_grad(set_to_none=True)
        self.critic.requires_grad_(False)  # or its layers would form the gradients of their weights too
        loss = -self.critic(fake).mean()
        self.critic.requires_grad_(True)
        if self.settings.proximal_weight:
            distance = (kernel - self.start).square().sum() / self.start.square().sum()
            loss = loss + self.settings.proximal_weight * margin.detach().abs() * distance
        loss.backward(inputs=[self.latent])
        return loss
