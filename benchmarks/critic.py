"""Seconds of a step of KernelGAN-FKP's critic with PyTorch's layers and with ours, in turn in one process.

python benchmarks/critic.py
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

import tables
from blindsr.checks import require_positive
from blindsr.command import parse, run
from blindsr.devices import DeviceName, keep_freed_memory, pick_device
from KernelGANFKP.losses import wasserstein_loss
from KernelGANFKP.networks import Critic
from logbook import RESULTS, append


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/critic.py`` takes."""

    batch: int = 64
    """Patches of 27×27 pixels a step."""
    steps: int = 15
    """Steps of each kind, in turn; their median is printed."""
    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA or MPS where there is one."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


class PyTorchsLayers(Critic):
    """The same network of PyTorch's own layers."""

    def forward(self, patches: Tensor) -> Tensor:
        x = (2 * patches - 1).contiguous(memory_format=torch.channels_last)
        for hidden, norm in zip(self.hidden, self.norms, strict=True):
            x = F.leaky_relu(norm(hidden(x)), self.slope)
        return self.last(x)


def main() -> int:
    options = parse(Options, __doc__ or "")
    require_positive(options, "batch", "steps")
    keep_freed_memory()
    device = pick_device(options.device)
    real, fake = torch.rand(2, options.batch, 3, 27, 27, generator=torch.Generator().manual_seed(1)).to(device)
    critics = {
        "PyTorch's": PyTorchsLayers(torch.Generator().manual_seed(0)).to(device),
        "ours": Critic(torch.Generator().manual_seed(0)).to(device),
        "ours, bfloat16": Critic(torch.Generator().manual_seed(0), dtype=torch.bfloat16).to(device),
    }
    for critic in critics.values():
        critic.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds: dict[str, list[float]] = {name: [] for name in critics}
    optimizers = {name: torch.optim.Adam(critic.parameters(), lr=5e-4) for name, critic in critics.items()}
    for _ in range(1 + options.steps):
        for name, critic in critics.items():
            began = time.perf_counter()
            loss, _ = wasserstein_loss(critic, real, fake, 0.5, 0.1)
            optimizers[name].zero_grad(set_to_none=True)
            loss.backward()
            optimizers[name].step()
            loss.item()  # waits for the device
            seconds[name].append(time.perf_counter() - began)
    for name, measured in seconds.items():
        what = {"layers": name, "batch": options.batch}
        append(options.results / "critic.jsonl", what, {"seconds": round(float(np.median(measured[1:])), 4)})
    print(tables.critic(options.results))
    return 0


if __name__ == "__main__":
    run(main)
