"""Estimate an image's blur kernel with DIP-FKP and super-resolve the image with it.

A dataset with ground truth, scored: python main.py --SR --sf 4 --dataset Test

A photograph of yours: python main.py --SR --sf 2 --real -i photo.png
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from blindsr.cli import EstimatorOptions, parse, peek, run, run_estimator
from blindsr.devices import pick_device
from blindsr.paths import pretrained_path
from DIPFKP.estimator import PRESETS, DIPSettings, KernelModel, estimate
from FKP import KernelPredictor, KernelPrior
from NonblindSR.usrnet import USRNet


@dataclass(frozen=True)
class Options(EstimatorOptions):
    """What ``python main.py`` takes."""

    model: KernelModel = "DIPFKP"
    """DIPFKP, or a baseline without the kernel prior: DIPSoftmax, DoubleDIP."""
    path_KP: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the kernel prior; without it, the shipped data/pretrained_models/FKP_x<sf>.pt."""
    path_predictor: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the predictor of the start; without it, the shipped data/pretrained_models/kernel_predictor.pth."""
    preset: Literal["default", "paper"] = "default"
    """Settings: default (fast), or paper (1000 iterations of the large network). Options below override it."""
    settings: DIPSettings = field(default_factory=DIPSettings)


def main() -> int:
    preset = peek("--preset", "default")
    default = Options(settings=PRESETS.get(preset, PRESETS["default"]))
    options = parse(Options, __doc__ or "", default)
    device = pick_device(options.device)
    weights: dict[str, Path] = {}
    prior = predictor = nonblind = None
    if options.model == "DIPFKP":
        weights["path_KP"] = options.path_KP or pretrained_path(f"FKP_x{options.sf}.pt")
        prior = KernelPrior.from_pretrained(options.sf, weights["path_KP"]).to(device)
        if options.settings.start == "predicted":
            weights["path_predictor"] = options.path_predictor or pretrained_path("kernel_predictor.pth")
            predictor = KernelPredictor.from_pretrained(weights["path_predictor"]).to(device)
    if options.SR:
        weights["path_nonblind"] = options.path_nonblind or pretrained_path("usrnet_tiny.pth")
        nonblind = USRNet.from_pretrained(weights["path_nonblind"]).to(device)
    estimator = partial(
        estimate,
        prior=prior,
        predictor=predictor,
        settings=options.settings,
        model=options.model,
        want_image=not options.SR,
    )
    return run_estimator(options, "DIPFKP", options.model, estimator, nonblind, weights)


if __name__ == "__main__":
    run(main)
