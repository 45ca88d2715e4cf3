"""DIP-FKP's presets, and what its search is made of: variants on held-out photographs, accuracy against seconds.

The middle 256×256 pixels of photographs that the predictor was not trained on, each blurred by a kernel of its own;
for each variant the kernel PSNR, what the super-resolved image loses to the true kernel's, and the seconds. Broken
off, the same command goes on from its log; table and figure are made of what that holds, so that other photographs or
other settings need another log.

python benchmarks/variants.py --images photographs/ --log runs/variants.jsonl --figure docs/variants.png
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from blindsr.command import parse, run
from blindsr.degradation import centre_crop, degrade, modcrop, quantize
from blindsr.devices import pick_device
from blindsr.kernels import random_kernels
from blindsr.metrics import kernel_psnr
from blindsr.paths import runs_folder
from blindsr.training.photographs import hold_out, read_photographs
from DIPFKP.estimator import preset, pretrained_estimator
from logbook import measured
from NonblindSR.evaluation import score
from NonblindSR.usrnet import USRNet

SIDE = 256
COLUMNS = ("kernel_psnr", "psnr", "below", "seconds")
AROUND = replace(preset("search"), crop=192)
"""What the variants differ from in one thing: the search but for its crop, which is one of them."""
VARIANTS = {
    "prediction": preset("prediction"),
    "search": preset("search"),
    "100 iterations of the search": replace(
        preset("search"), iterations=100, ssim_iterations=35, frozen_iterations=35
    ),
    "fixed start, no pull": replace(AROUND, start="fixed", proximal_weight=0.0),
    "no pull": replace(AROUND, proximal_weight=0.0),
    "no pull, a quarter of the rate": replace(AROUND, proximal_weight=0.0, kernel_rate=5e-3),
    "pull 1": replace(AROUND, proximal_weight=1.0),
    "pull 50": replace(AROUND, proximal_weight=50.0),
    "75 iterations": replace(AROUND, iterations=75, ssim_iterations=25, frozen_iterations=25),
    "400 iterations": replace(AROUND, iterations=400),
    "64 channels": replace(AROUND, channels=64),
    "16 channels": replace(AROUND, channels=16),
    "crop of 192": AROUND,
    "crop of 256": replace(AROUND, crop=256),
    "paper": preset("paper"),
}

MARKED = ("prediction", "search", "paper")
"""Stars in the figure: what ``--preset`` offers."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/variants.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The photographs that the predictor was trained on; those it holds out (the last by name) are taken."""
    log: Path = runs_folder() / "variants.jsonl"
    """Where measurements are written to, and read from where they are there already."""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Picture to draw."""
    variants: tuple[str, ...] = tuple(name for name in VARIANTS if name != "paper")
    """Which variants; "paper" is not among them unless named, for it takes a quarter of an hour a photograph."""
    scales: tuple[int, ...] = (2, 3, 4)
    """Scale factors."""
    zoom: float = 1.0
    """Each photograph is taken at so many times its size: enlarged ones stand for those that are soft."""
    photographs: int = 6
    """How many, evenly out of those held out."""
    held_out: int = 40
    """As in the predictor's training."""
    seed: int = 0
    """Of the search; the kernels are always the same."""
    path_nonblind: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of USRNet other than the shipped ones, which have seen most of these photographs; use another log with
    them."""


def read(options: Options) -> list[Tensor]:
    """The photographs, 1×3×256×256 or as large as ``options.zoom`` leaves them."""
    _, held_out = hold_out(read_photographs(options.images, SIDE), options.held_out)
    chosen = (held_out[int(index * len(held_out) / options.photographs)] for index in range(options.photographs))
    photographs = [centre_crop(photograph, SIDE)[None].float() / 255 for photograph in chosen]
    if options.zoom != 1:
        zoomed = (F.interpolate(p, scale_factor=options.zoom, mode="bicubic", antialias=True) for p in photographs)
        photographs = [centre_crop(photograph, SIDE).clamp(0, 1) for photograph in zoomed]
    return photographs


def measure(
    scale_factor: int,
    variant: str,
    index: int,
    seed: int,
    zoom: float,
    photographs: list[Tensor],
    path_nonblind: Path | None,
) -> dict[str, Any]:
    """One run, in this process; ``zoom``, already done, is there for the log."""
    hr = modcrop(photographs[index], scale_factor)
    kernel = random_kernels(1, scale_factor, torch.Generator().manual_seed(1000 + index))
    lr = quantize(degrade(hr, kernel, scale_factor))
    device = pick_device()
    found = pretrained_estimator(scale_factor, device, VARIANTS[variant])(lr.to(device), scale_factor, seed=seed)
    net = USRNet.from_pretrained(path_nonblind).to(device)
    true_psnr, psnr = (score(net, lr, k, hr, scale_factor)[0] for k in (kernel, found.kernel))
    values = (kernel_psnr(found.kernel, kernel), psnr, true_psnr - psnr, found.seconds)
    return dict(zip(COLUMNS, values, strict=True))


def draw(rows: dict[tuple[int, str], tuple[float, ...]], path: Path) -> None:
    """Loss to the true kernel's image against seconds, a panel for each scale factor."""
    scales = list(dict.fromkeys(scale_factor for scale_factor, _ in rows))
    figure = Figure(figsize=(9 * len(scales), 6), layout="constrained")
    axes = dict(zip(scales, figure.subplots(1, len(scales), squeeze=False)[0], strict=True))
    for (scale_factor, variant), (_, _, below, _, seconds) in rows.items():
        i = list(VARIANTS).index(variant)
        marker, size = ("*", 120) if variant in MARKED else ("os^vDPX"[i % 7], 30)
        axes[scale_factor].scatter(seconds, below, s=size, marker=marker, color=f"C{i % 10}", label=variant)
    for scale_factor, axis in axes.items():
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(f"x{scale_factor}")
        axis.set_xlabel("seconds per image")
        axis.set_ylabel("below the true kernel's image (dB)")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.grid(which="both", alpha=0.3)
        axis.legend(title="★ a preset", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=100)


def main() -> int:
    options = parse(Options, __doc__ or "")
    unknown = [variant for variant in options.variants if variant not in VARIANTS]
    if unknown:
        raise ValueError(f"--variants '{unknown[0]}': take some of {', '.join(VARIANTS)}")
    cells = [(scale_factor, variant) for scale_factor in options.scales for variant in options.variants]
    circumstances = (options.seed, options.zoom)
    keys = {cell: [(*cell, index, *circumstances) for index in range(options.photographs)] for cell in cells}
    run_one = partial(measure, photographs=read(options), path_nonblind=options.path_nonblind)
    runs = measured(options.log, chain(*keys.values()), run_one)
    print("| | variant | kernel PSNR | PSNR | below true kernel | worst | s/image |")
    print("|---|---|---|---|---|---|---|")
    rows: dict[tuple[int, str], tuple[float, ...]] = {}
    for cell in cells:
        values = np.array([[runs[key][name] for name in COLUMNS] for key in keys[cell]])
        kernel, psnr, below, _ = values.mean(axis=0)
        rows[cell] = (kernel, psnr, below, values[:, 2].max(), np.median(values[:, 3]))
        figures = " | ".join(f"{value:.{digits}f}" for value, digits in zip(rows[cell], (2, 2, 2, 2, 1), strict=True))
        print(f"| x{cell[0]} | {cell[1]} | {figures} |")
    if options.figure is not None:
        draw(rows, options.figure)
    return 0


if __name__ == "__main__":
    run(main)
