"""Seconds of a step of DIP-FKP's image network in both memory layouts, side by side, as records and a Markdown table.

python benchmarks/image_prior.py
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

import tables
from blindsr.checks import require_positive
from blindsr.command import parse, run
from blindsr.devices import DeviceName, keep_freed_memory, pick_device, preferred_memory_format
from blindsr.initialization import draw_parameters
from DIPFKP.estimator import preset
from DIPFKP.network import ImagePrior, scales_for
from logbook import RESULTS, append

LAYOUTS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/image_prior.py`` takes."""

    sides: tuple[int, ...] = (128, 288, 512)
    """HR sides in pixels."""
    steps: int = 5
    """Steps of each kind, in turn; their median is printed."""
    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA or MPS where there is one."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


def seconds(channels: int, non_local: bool, side: int, steps: int, device: torch.device) -> dict[str, float]:
    """Median seconds of forward and backward pass, by layout."""
    noise = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    kinds = {}
    for name, layout in LAYOUTS.items():
        network = ImagePrior(channels, scales_for(side, side), non_local)
        draw_parameters(network, torch.Generator().manual_seed(0))
        kinds[name] = network.to(device, memory_format=layout), noise.to(memory_format=layout)  # type: ignore[call-overload]
    measured: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(1 + steps):
        for name, (network, x) in kinds.items():
            began = time.perf_counter()
            network.zero_grad(set_to_none=True)
            loss = network(x).square().mean()
            loss.backward()
            next(network.parameters()).grad.sum().item()  # waits for the device
            measured[name].append(time.perf_counter() - began)
    return {name: float(np.median(values[1:])) for name, values in measured.items()}


def main() -> int:
    options = parse(Options, __doc__ or "")
    require_positive(options, "steps")
    keep_freed_memory()
    device = pick_device(options.device)
    chosen = next(name for name, layout in LAYOUTS.items() if layout == preferred_memory_format(device))
    print(f"{device} takes {chosen}\n")
    for name in ("search", "paper"):
        settings = preset(name)
        for side in options.sides:
            row = seconds(settings.channels, settings.non_local, side, options.steps, device)
            for layout, value in row.items():
                what = {"preset": name, "channels": settings.channels, "side": side, "layout": layout}
                append(options.results / "image_prior.jsonl", what, {"seconds": round(value, 4)})
    print(tables.image_prior(options.results))
    return 0


if __name__ == "__main__":
    run(main)
