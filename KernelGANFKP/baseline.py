"""The search of KernelGAN, the baseline, with the schedule of its release."""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from blindsr.checkpoints import load_optimizer, optimizer_state
from blindsr.search_log import SearchLog
from KernelGANFKP.crops import PatchSource
from KernelGANFKP.losses import bicubic_loss, kernel_losses, post_process
from KernelGANFKP.networks import Discriminator, LinearGenerator
from KernelGANFKP.search import WINDOW, converged, downsample
from KernelGANFKP.settings import GANSettings

__all__ = ["GeneratorSearch"]


class GeneratorSearch:
    """One search.

    Args:
        patches: of the image, in [−1, 1].
        generator: draws the weights, and everything else.
        device: of the patches.
    """

    def __init__(
        self, patches: PatchSource, settings: GANSettings, generator: torch.Generator, device: torch.device
    ) -> None:
        self.patches, self.settings, self.generator, self.device = patches, settings, generator, device
        self.downsampler = LinearGenerator(generator).to(device)
        self.discriminator = Discriminator(generator).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers = [
            torch.optim.Adam(self.downsampler.parameters(), lr=settings.kernel_rate, betas=(0.5, 0.999)),
            torch.optim.Adam(self.discriminator.parameters(), lr=settings.critic_rate, betas=(0.5, 0.999)),
        ]
        self.schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 750) for optimizer in self.optimizers]
        self.moving: deque[Tensor] = deque(maxlen=2 * WINDOW)
        """The last kernels."""
        self.below = torch.zeros((), dtype=torch.int64, device=device)
        """How often in a row the bicubic loss was low."""
        self.weights = {"sum": 0.5, "boundary": 0.5, "centre": 0.0, "sparsity": 0.0}
        self.bicubic_weight = 5.0

    def run(self, log: SearchLog) -> tuple[Tensor, bool]:
        """The kernel found, and whether it had converged. Goes on where ``log`` was broken off, if it was."""
        if log.resumed:
            self._resume(log.resumed)
        count, done = self.settings.crops_per_step, log.done
        for iteration in range(done, self.settings.iterations):
            if iteration > done:  # there is nothing new to keep before
                log.keep(self._state)
            large, real = (crops.draw(count, self.generator) for crops in (self.patches.large, self.patches.small))
            kernel = self.downsampler.kernel()
            log.kernel(kernel)
            self.moving.append(kernel.detach())
            fake = downsample(large, kernel)
            bicubic = bicubic_loss(large, fake)
            loss = self._generator_step(kernel, fake, bicubic)
            critic_loss = self._discriminator_step(real, fake.detach())
            for schedule in self.schedules:
                schedule.step()
            below = self.below
            self.below = torch.where(bicubic.detach() < 0.4, below + 1, torch.where(below >= 3, below, 0))
            if iteration % 200 == 0 and int(self.below) >= 3:
                self._loosen()
            log.step(loss, critic_loss)
        with torch.no_grad():
            kernel = self.downsampler.kernel()
        log.kernel(kernel, last=True)
        return post_process(kernel), converged(list(self.moving))[0]

    def _state(self) -> dict[str, Any]:
        """What the next iterations depend on, beside what a new search has as well."""
        return {
            "optimizers": [optimizer_state(optimizer) for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "discriminator": self.discriminator.state_dict(),  # its batch norms' and spectral norms' own
            "generator": self.generator.get_state(),
            "moving": list(self.moving),
            "below": self.below,
            "weights": self.weights,
            "bicubic_weight": self.bicubic_weight,
        }

    def _resume(self, state: dict[str, Any]) -> None:
        """Go on from a state of :meth:`_state`."""
        for optimizer, schedule, values, place in zip(
            self.optimizers, self.schedules, state["optimizers"], state["schedules"], strict=True
        ):
            load_optimizer(optimizer, values)
            schedule.load_state_dict(place)
        self.discriminator.load_state_dict(state["discriminator"])
        self.generator.set_state(state["generator"])
        self.moving.extend(kernel.to(self.device) for kernel in state["moving"])
        self.below = state["below"].to(self.device)
        self.weights, self.bicubic_weight = state["weights"], state["bicubic_weight"]

    def _noisy(self, patches: Tensor) -> Tensor:
        return patches + torch.randn(patches.shape, generator=self.generator).to(patches.device) / 255

    def _generator_step(self, kernel: Tensor, fake: Tensor, bicubic: Tensor) -> Tensor:
        self.optimizers[0].zero_grad(set_to_none=True)
        score = self.discriminator(self._noisy(fake))
        loss = (1 - score).abs().mean() + self.bicubic_weight * bicubic
        for name, value in kernel_losses(kernel).items():
            loss = loss + self.weights[name] * value
        loss.backward(inputs=list(self.downsampler.parameters()))
        self.optimizers[0].step()
        return loss

    def _discriminator_step(self, real: Tensor, fake: Tensor) -> Tensor:
        self.optimizers[1].zero_grad(set_to_none=True)
        on_real, on_fake = self.discriminator(self._noisy(real)), self.discriminator(self._noisy(fake))
        loss = 0.5 * ((1 - on_real).abs().mean() + on_fake.abs().mean())
        loss.backward()
        self.optimizers[1].step()
        return loss

    def _loosen(self) -> None:
        """The release's schedule: less bicubic, then what a kernel should look like."""
        if self.bicubic_weight > 5e-6:
            self.bicubic_weight = max(self.bicubic_weight / 100, 5e-6)
            if self.bicubic_weight < 5e-3:
                self.weights["centre"], self.weights["sparsity"] = 1.0, 5.0
