"""DIP-FKP + USRNet on a prepared dataset: PSNR/SSIM, kernel PSNR, seconds per image and peak memory.

One table row for each scale and set of weights, as Markdown, next to the published rows. Each row runs in a
process of its own, so that its peak memory is its own. Seconds (median, longest) are those of the whole image, USRNet
and files included.

python benchmarks/set5.py --dataset Set5 --official DIR     DIR holds FKP_x2.pt … and usrnet_tiny.pth
"""

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from blindsr.batch.inputs import find_items
from blindsr.batch.run import Job, process
from blindsr.command import parse, run
from blindsr.devices import pick_device
from blindsr.estimation import Preset
from DIPFKP.estimator import preset, pretrained_estimator
from logbook import in_own_process
from NonblindSR.tiling import pretrained_nonblind

PUBLISHED = {2: "32.34/0.9308", 3: "30.78/0.8840", 4: "29.29/0.8508"}
"""DIP-FKP + USRNet on Set5 as published (CVPR 2021, table 2; average of 5 runs)."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/set5.py`` takes."""

    dataset: str = "Set5"
    """A prepared dataset: a name under data/datasets, or a folder."""
    official: Path | None = None
    """Folder with the official weights, for a second row of each scale."""
    ours: bool = True
    """The row with the shipped weights too."""
    scales: tuple[int, ...] = (2, 3, 4)
    """Scale factors."""
    preset: Preset = "search"
    """Settings of the estimator."""
    seeds: tuple[int, ...] = (0,)
    """Seeds to average over."""


def row(options: Options, scale_factor: int, weights: Path | None) -> str:
    """Run one row and format it."""
    device = pick_device()
    prior_path, net_path = (
        (None, None) if weights is None else (weights / f"FKP_x{scale_factor}.pt", weights / "usrnet_tiny.pth")
    )
    nonblind = pretrained_nonblind(net_path, device)
    estimator = pretrained_estimator(scale_factor, device, preset(options.preset), path_prior=prior_path)
    items = find_items(options.dataset, "DIPFKP", scale_factor)
    values = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            began = time.perf_counter()
            job = Job(estimator, scale_factor, device, nonblind, seed=seed)
            for result in process(items, job, Path(folder)):
                if result.error is not None:
                    raise ValueError(result.error)
                seconds = time.perf_counter() - began
                values.append((result.psnr, result.ssim, result.kernel_psnr, seconds))
                name = "ours" if weights is None else "official"
                print(f"x{scale_factor} {name} {result.item.name}: {values[-1]}", file=sys.stderr, flush=True)
                began = time.perf_counter()
    table = np.array(values, dtype=float)
    psnr, ssim, kernel_psnr, _ = table.mean(axis=0)
    times = f"{np.median(table[:, 3]):.1f}, {table[:, 3].max():.1f}"
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"| x{scale_factor} | {'ours' if weights is None else 'official'} | {psnr:.2f}/{ssim:.4f} | "
        f"{kernel_psnr:.2f} | {times} | {gigabytes:.2f} | {PUBLISHED.get(scale_factor, '')} |"
    )


def main() -> int:
    options = parse(Options, __doc__ or "")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {pick_device()}, seeds {options.seeds}\n")
    print("| | weights | PSNR/SSIM | kernel PSNR | s/image, longest | GiB | published |")
    print("|---|---|---|---|---|---|---|")
    for scale_factor in options.scales:
        for weights in [None] * options.ours + [options.official] * (options.official is not None):
            print(in_own_process(row, options, scale_factor, weights), flush=True)
    return 0


if __name__ == "__main__":
    run(main)
