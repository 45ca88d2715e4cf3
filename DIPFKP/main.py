"""Estimate an image's blur kernel with DIP-FKP and super-resolve the image with it.

A dataset with ground truth, scored: python main.py --SR --sf 4 --dataset Test

A photograph of yours: python main.py --SR --sf 2 --real -i photo.png
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from blindsr.cli import EstimatorOptions, parse, peek, run, run_estimator
from blindsr.devices import pick_device
from blindsr.paths import pretrained_path
from DIPFKP.estimator import PRESETS, DIPSettings, KernelModel, Preset, pretrained_estimator
from NonblindSR.tiling import pretrained_nonblind


@dataclass(frozen=True)
class Options(EstimatorOptions):
    """What ``python main.py`` takes."""

    model: KernelModel = "DIPFKP"
    """DIPFKP, or a baseline without the kernel prior: DIPSoftmax, DoubleDIP."""
    path_KP: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the kernel prior; without it, the shipped data/pretrained_models/FKP_x<sf>.pt."""
    path_predictor: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the predictor of the start; without it, the shipped data/pretrained_models/kernel_predictor.pth."""
    preset: Preset = "default"
    """Settings: default (fast), prediction (a second: the search's start without the search), or paper (1000
    iterations of the large network). Options below override it."""
    settings: DIPSettings = field(default_factory=DIPSettings)

    def files(self) -> dict[str, Path]:
        files = super().files()
        if self.model == "DIPFKP":
            files["path_KP"] = self.path_KP or pretrained_path(f"FKP_x{self.sf}.pt")
            if self.settings.start == "predicted":
                files["path_predictor"] = self.path_predictor or pretrained_path("kernel_predictor.pth")
        return files


def main() -> int:
    preset = peek("--preset", "default")
    default = Options(settings=PRESETS.get(preset, PRESETS["default"]))
    options = parse(Options, __doc__ or "", default)
    device = pick_device(options.device)
    estimator = pretrained_estimator(
        options.sf,
        device,
        options.settings,
        options.model,
        want_image=not options.SR,
        path_prior=options.path_KP,
        path_predictor=options.path_predictor,
    )
    nonblind = pretrained_nonblind(options.path_nonblind, device, options.tile) if options.SR else None
    return run_estimator(options, "DIPFKP", options.model, estimator, nonblind)


if __name__ == "__main__":
    run(main)
