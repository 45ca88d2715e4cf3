"""DIP-FKP's presets, and what its search is made of: variants on held-out photographs.

The middle 256×256 pixels of photographs that the predictor was not trained on, each blurred by a kernel of its own;
for each variant the kernel PSNR, the PSNR gap to the oracle (the image made with the true kernel), and the seconds.
Each run is a record in --results and is not repeated.

python benchmarks/variants.py --images ../photographs/predictor/
"""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

import tables
from blindsr.command import parse, run
from blindsr.degradation import centre_crop, degrade, modcrop, quantize
from blindsr.devices import pick_device
from blindsr.kernels import random_kernels
from blindsr.metrics import kernel_psnr
from blindsr.paths import pretrained_path
from DIPFKP.estimator import preset, pretrained_estimator
from held_out import held_out_crops
from logbook import RESULTS, Values, What, fingerprint, measured
from NonblindSR.evaluation import score
from NonblindSR.usrnet import USRNet

SIDE = 256
AROUND = replace(preset("search"), crop=192)
"""What the variants differ from in one thing: the search but for its crop, which is one of them."""
VARIANTS = {
    "prediction": preset("prediction"),
    "search": preset("search"),
    "100 iterations of the search": replace(
        preset("search"), iterations=100, ssim_iterations=35, frozen_iterations=35
    ),
    "fixed start, no proximal term": replace(AROUND, start="fixed", proximal_weight=0.0),
    "no proximal term": replace(AROUND, proximal_weight=0.0),
    "no proximal term, a quarter of the rate": replace(AROUND, proximal_weight=0.0, kernel_rate=5e-3),
    "proximal weight 0.05": replace(AROUND, proximal_weight=0.05),
    "proximal weight 5": replace(AROUND, proximal_weight=5.0),
    "75 iterations": replace(AROUND, iterations=75, ssim_iterations=25, frozen_iterations=25),
    "400 iterations": replace(AROUND, iterations=400),
    "64 channels": replace(AROUND, channels=64),
    "16 channels": replace(AROUND, channels=16),
    "crop of 192": AROUND,
    "crop of 256": replace(AROUND, crop=256),
    "paper": preset("paper"),
}


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/variants.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The photographs that the predictor was trained on; those it holds out (the last by name) are taken."""
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
    """Weights of USRNet other than the shipped ones, which have seen most of these photographs."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


def photographs(options: Options) -> list[Tensor]:
    """The photographs, 1×3×256×256 or as large as ``options.zoom`` leaves them."""
    pictures = held_out_crops(options.images, options.held_out, options.photographs, SIDE)
    if options.zoom != 1:
        zoomed = (F.interpolate(p, scale_factor=options.zoom, mode="bicubic", antialias=True) for p in pictures)
        pictures = [centre_crop(picture, SIDE).clamp(0, 1) for picture in zoomed]
    return pictures


@cache
def network(path: Path) -> USRNet:
    return USRNet.from_pretrained(path).to(pick_device())


def measure(what: What, pictures: list[Tensor], path: Path) -> Values:
    """One photograph, in this process."""
    scale_factor, index = what["scale"], what["picture"]
    hr = modcrop(pictures[index], scale_factor)
    kernel = random_kernels(1, scale_factor, torch.Generator().manual_seed(1000 + index))
    lr = quantize(degrade(hr, kernel, scale_factor))
    device = pick_device()
    estimator = pretrained_estimator(scale_factor, device, VARIANTS[what["variant"]])
    found = estimator(lr.to(device), scale_factor, seed=what["seed"])
    oracle, psnr = (score(network(path), lr, k, hr, scale_factor)[0] for k in (kernel, found.kernel))
    return {
        "kernel_psnr": round(kernel_psnr(found.kernel, kernel), 3),
        "psnr": round(psnr, 4),
        "gap": round(psnr - oracle, 4),
        "seconds": round(found.seconds, 2),
    }


def main() -> int:
    options = parse(Options, __doc__ or "")
    unknown = [variant for variant in options.variants if variant not in VARIANTS]
    if unknown:
        raise ValueError(f"--variants '{unknown[0]}': take some of {', '.join(VARIANTS)}")
    usrnet = options.path_nonblind or pretrained_path("usrnet_tiny.pth")
    network(usrnet)
    weights = "ours" if options.path_nonblind is None else "official"
    run_one = partial(measure, pictures=photographs(options), path=usrnet)
    for scale_factor in options.scales:
        files = [pretrained_path(f"FKP_x{scale_factor}.pt"), pretrained_path("kernel_predictor.pth"), usrnet]
        for variant in options.variants:
            # How many photographs there are decides which ones they are.
            mark = fingerprint(VARIANTS[variant], options.photographs, *files)
            what = {"scale": scale_factor, "variant": variant, "zoom": options.zoom, "weights": weights}
            what |= {"fingerprint": mark, "seed": options.seed}
            row = [what | {"picture": index} for index in range(options.photographs)]
            measured(options.results / "variants.jsonl", [row], run_one)
    print(tables.variants(options.results, options.zoom))
    return 0


if __name__ == "__main__":
    run(main)
