"""Kernels found where the sharp picture is known, as of a calibration chart, under one prior and another.

Least squares on the LR pixels over the latent code, from the prior's fixed start. The picture is the middle 96×96
pixels of a photograph; kernels are those of off_distribution.py. Each run is a record in --results and not repeated.

python benchmarks/known_picture.py --images ../photographs/predictor/
"""

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

import tables
from blindsr.command import parse, run
from blindsr.degradation import degrade, quantize
from blindsr.metrics import kernel_psnr
from blindsr.paths import pretrained_path
from FKP import KernelPrior, SphericalAdam
from held_out import held_out_crops
from logbook import RESULTS, Values, What, fingerprint, measured
from off_distribution import RECIPES, require_recipes

SIDE, STEPS, RATE = 96, 150, 0.3
PRIORS = {"gaussian": "FKP_x{}.pt", "mixed": "FKP_mixed_x{}.pt", "motion": "FKP_motion_x{}.pt"}


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/known_picture.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Photographs; the last by name are taken."""
    kernels: tuple[str, ...] = ("Gaussian", "out of focus", "motion")
    """Which recipes of off_distribution.py."""
    scales: tuple[Literal[1, 2, 4], ...] = (1, 2, 4)
    """Scale factors."""
    photographs: int = 5
    """How many, evenly out of the last 40."""
    held_out: int = 40
    """As in the predictor's training."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


def find(prior: KernelPrior, hr: Tensor, lr: Tensor, scale_factor: int) -> Tensor:
    """The prior's kernel, 1×1×k×k, that makes ``lr`` of ``hr``."""
    latent = prior.initial_latent().requires_grad_()
    optimizer = SphericalAdam([latent], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (degrade(hr, prior.decode(latent), scale_factor) - lr).square().mean().backward()
        optimizer.step()
        schedule.step()
    return prior.decode(latent).detach()


def measure(what: What, pictures: list[Tensor]) -> Values:
    """One photograph, in this process."""
    hr, scale_factor = pictures[what["picture"]], what["scale"]
    true = RECIPES[what["kernels"]](scale_factor, 1000 + what["picture"])
    prior = KernelPrior.from_pretrained(scale_factor, pretrained_path(PRIORS[what["prior"]].format(scale_factor)))
    found = find(prior, hr, quantize(degrade(hr, true, scale_factor)), scale_factor)
    return {"kernel_psnr": round(kernel_psnr(found, true), 3)}


def main() -> int:
    options = parse(Options, __doc__ or "")
    require_recipes(options.kernels)
    pictures = held_out_crops(options.images, options.held_out, options.photographs, SIDE)
    rows = []
    for scale_factor, (prior, name) in itertools.product(options.scales, PRIORS.items()):
        mark = fingerprint(options.photographs, pretrained_path(name.format(scale_factor)))
        for kernels in options.kernels:
            what = {"scale": scale_factor, "kernels": kernels, "prior": prior, "fingerprint": mark}
            rows += [what | {"picture": index} for index in range(options.photographs)]
    measured(options.results / "known_picture.jsonl", [rows], partial(measure, pictures=pictures))
    print(tables.known_picture(options.results))
    return 0


if __name__ == "__main__":
    run(main)
