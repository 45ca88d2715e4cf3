"""Whether the data misfit ranks kernels: deep image priors fitted with each of several kernels held.

The middle 256×256 pixels of photographs that the predictor was not trained on, each blurred by a kernel of its own.
On the crop that a search takes, the image network is fitted once with the true kernel and once with each of others;
what is left of the squared error is the misfit. Each photograph is a record in --results and is not repeated.

python benchmarks/misfit.py --images ../photographs/predictor/
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

import tables
from blindsr.command import parse, run
from blindsr.degradation import degrade, modcrop, quantize
from blindsr.kernels import centre, gaussian_kernels, normalize, random_kernels, random_motion_kernels
from blindsr.metrics import kernel_psnr
from blindsr.photographs import covariance
from blindsr.search_log import SearchLog
from DIPFKP.estimator import preset
from DIPFKP.fit import Fit, SearchedKernels
from DIPFKP.target import joint_target
from held_out import held_out_crops
from logbook import RESULTS, Values, What, fingerprint, measured

SIDE = 256
DRAWS = 2
"""How many kernels of the same family are drawn beside the true one."""
Family = Literal["motion", "gaussian"]
FAMILIES = {"motion": random_motion_kernels, "gaussian": random_kernels}


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/misfit.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Photographs; those held out of the predictor's training (the last by name) are taken."""
    families: tuple[Family, ...] = ("motion", "gaussian")
    """Of which the true kernels are."""
    sf: Literal[1, 2, 3, 4, 8] = 2
    """Scale factor."""
    photographs: int = 10
    """How many, evenly out of those held out."""
    held_out: int = 40
    """As in the predictor's training."""
    iterations: int = 100
    """Of each fit."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


def enlarged(kernel: Tensor, factor: float, scale_factor: int) -> Tensor:
    """A 1×1×k×k kernel ``factor`` times as wide, about its centre of mass, in the same window."""
    side = kernel.shape[-1]
    middle = (side - scale_factor) / 2  # where the centre of mass lies, in pixels
    offset = torch.arange(side) - middle
    place = (2 * (middle + offset / factor) + 1) / side - 1  # as grid_sample counts
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), dim=-1)[None]
    taken = F.grid_sample(kernel, grid, mode="bicubic", align_corners=False).clamp(min=0)
    return normalize(centre(normalize(taken), scale_factor).clamp(min=0))


def candidates(family: Family, scale_factor: int, index: int) -> dict[str, Tensor]:
    """The true kernel of a photograph and those it is compared with, by name."""
    drawn = FAMILIES[family](1 + DRAWS, scale_factor, torch.Generator().manual_seed(1000 + index)).split(1)
    true, side = drawn[0], drawn[0].shape[-1]
    found = {"true": true}
    if family == "motion":
        found["Gaussian of its covariance"] = gaussian_kernels(*covariance(true), side, scale_factor)
        found["mirrored"] = normalize(centre(true.flip(-1), scale_factor).clamp(min=0))
    else:
        found["0.8 as wide"] = enlarged(true, 0.8, scale_factor)
        found["1.25 as wide"] = enlarged(true, 1.25, scale_factor)
    return found | {f"draw {number}": kernel for number, kernel in enumerate(drawn[1:], 1)}


def misfit(lr: Tensor, kernel: Tensor, scale_factor: int, iterations: int) -> list[float]:
    """Squared error that is left with a kernel held, after half of the iterations and after all."""
    settings = replace(preset("search"), iterations=iterations, ssim_iterations=iterations // 3, frozen_iterations=0)
    log = SearchLog(iterations, None, "")
    target = joint_target(lr, scale_factor, kernel.shape[-1], settings)
    Fit(target, settings, SearchedKernels(lambda: kernel), [torch.Generator().manual_seed(0)]).run(log, {})
    losses = log.of()["losses"]
    return [sum(losses[end - 5 : end]) / 5 for end in (iterations // 2, iterations)]


def measure(what: What, pictures: list[Tensor], iterations: int) -> Values:
    """One photograph, in this process."""
    scale_factor, index = what["scale"], what["picture"]
    found = candidates(what["family"], scale_factor, index)
    lr = quantize(degrade(modcrop(pictures[index], scale_factor), found["true"], scale_factor))
    values: Values = {"half": {}, "misfit": {}, "kernel_psnr": {}}
    for name, kernel in found.items():
        half, whole = misfit(lr, kernel, scale_factor, iterations)
        values["half"][name], values["misfit"][name] = float(f"{half:.4g}"), float(f"{whole:.4g}")
        psnr = kernel_psnr(kernel, found["true"])
        values["kernel_psnr"][name] = None if math.isinf(psnr) else round(psnr, 2)
    return values


def main() -> int:
    options = parse(Options, __doc__ or "")
    pictures = held_out_crops(options.images, options.held_out, options.photographs, SIDE)
    run_one = partial(measure, pictures=pictures, iterations=options.iterations)
    for family in options.families:
        what = {
            "scale": options.sf,
            "family": family,
            "fingerprint": fingerprint(preset("search"), options.iterations),
        }
        row = [what | {"picture": index} for index in range(options.photographs)]
        measured(options.results / "misfit.jsonl", [row], run_one)
    print(tables.misfit(options.results))
    return 0


if __name__ == "__main__":
    run(main)
