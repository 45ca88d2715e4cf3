"""α and β, the weights of USRNet's unfolding, beyond the noise levels that its weights were trained for."""

import copy

import torch
from torch import Tensor, nn

from blindsr.kernels import ENLARGING
from NonblindSR.usrnet import HyPaNet

__all__ = ["extend_schedule"]

STEPS = 4000
"""Steps of the fit, a few seconds."""


def extend_schedule(net: HyPaNet, known: float, largest: float, generator: torch.Generator) -> None:
    """Fit the network of α and β anew, so that they go on sensibly where they were never trained.

    Up to the noise level ``known`` they stay what they are. Beyond, α grows with σ² as plug-and-play restoration's
    (DPIR: Zhang et al., PAMI 2021, section 4.2), and β with the power of σ that it has just below.

    Args:
        net: of trained weights; changed in place.
        known, largest: noise levels in image range.
        generator: where the noise levels of the fit are drawn.
    """
    trained = copy.deepcopy(net).requires_grad_(False)

    def ask(network: nn.Module, sigma: Tensor, scale: Tensor) -> Tensor:
        return network(torch.stack([sigma, scale], dim=1).view(-1, 2, 1, 1)).flatten(1).log()

    def target(sigma: Tensor, scale: Tensor) -> Tensor:
        last = torch.full_like(sigma, known)
        at_last, before = ask(trained, last, scale), ask(trained, last / 2, scale)
        powers = ((at_last - before) / torch.log(torch.tensor(2.0))).clamp(0, 1)
        powers[:, : powers.shape[1] // 2] = 2  # the α come first
        beyond = at_last + powers * torch.log(sigma / known).clamp(min=0)[:, None]
        return torch.where((sigma <= known)[:, None], ask(trained, sigma, scale), beyond)

    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / STEPS)
        u = torch.rand(512, 2, generator=generator)
        sigma = torch.where(u[:, 1] < 0.5, known * u[:, 0] ** 2, largest * u[:, 0])
        scale = torch.tensor(ENLARGING)[torch.randint(len(ENLARGING), (512,), generator=generator)].float()
        loss = (ask(net, sigma, scale) - target(sigma, scale)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
