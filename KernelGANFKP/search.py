"""The search of KernelGAN-FKP: a latent code against a critic that compares patches (FKP, section 3.4)."""

from collections import deque
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blindsr.estimation import SearchLog
from FKP import KernelPrior, SphericalAdam
from KernelGANFKP.crops import PatchSource
from KernelGANFKP.losses import wasserstein_loss
from KernelGANFKP.networks import Critic
from KernelGANFKP.settings import GANSettings

__all__ = ["WINDOW", "LatentSearch", "converged", "downsample"]

WINDOW, TOLERANCE = 50, 0.01
"""A kernel has converged when its means over the last two windows of iterations differ by less than this."""


def downsample(patches: Tensor, kernel: Tensor) -> Tensor:
    """Blur N×3×p×p with 1×1×k×k and keep every second pixel; no padding."""
    flat = F.conv2d(patches.flatten(0, 1).unsqueeze(1), kernel, stride=2)
    return flat.view(*patches.shape[:2], *flat.shape[-2:])


def converged(kernels: Sequence[Tensor]) -> bool:
    """Whether the last two windows of ``kernels`` are there and have nearly the same mean."""
    if len(kernels) < 2 * WINDOW:
        return False
    before, after = torch.cat(list(kernels)).split(WINDOW)
    change = after.mean(dim=0) - before.mean(dim=0)
    return bool(change.norm() < TOLERANCE * before.mean(dim=0).norm())


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
        self.latent = latent.requires_grad_()
        self.start = prior.decode(latent).detach()
        self.critic_optimizer = torch.optim.Adam(critic.parameters(), lr=settings.critic_rate, betas=(0.5, 0.999))
        self.latent_optimizer = SphericalAdam([self.latent], lr=settings.kernel_rate)

    def run(self, generator: torch.Generator, log: SearchLog) -> tuple[Tensor, bool]:
        """The kernel found, and whether it had converged."""
        settings, count = self.settings, self.settings.batch
        kernel = self.prior.decode(self.latent)
        log.kernel(kernel)
        moving: deque[Tensor] = deque(maxlen=2 * WINDOW)
        for iteration in range(settings.iterations):
            large, real = self.patches.large.draw(count, generator), self.patches.small.draw(count, generator)
            fake = downsample(large, kernel)
            for _ in range(settings.critic_steps):
                share = float(torch.rand((), generator=generator))
                critic_loss, margin = self._critic_step(real, fake.detach(), share)
            loss = self._latent_gradient(fake, kernel, margin)
            if iteration >= settings.frozen_iterations:
                # The critic does not move between the latent steps: they share its gradient.
                for _ in range(settings.latent_steps):
                    self.latent_optimizer.step()
            kernel = self.prior.decode(self.latent)
            log.step(loss, critic_loss)
            log.kernel(kernel)
            if iteration >= settings.frozen_iterations:
                moving.append(kernel.detach())
            if settings.stop_when_converged and converged(moving):
                break
        log.kernel(kernel, last=True)
        return kernel.detach(), converged(moving)

    def _critic_step(self, real: Tensor, fake: Tensor, share: float) -> tuple[Tensor, Tensor]:
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
