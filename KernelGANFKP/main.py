"""Estimate an image's blur kernel with KernelGAN-FKP and super-resolve the image with it.

A dataset with ground truth, scored: python main.py --SR --sf 2 --dataset Test

A photograph of yours: python main.py --SR --sf 2 --real -i photo.png
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from blindsr.cli import EstimatorOptions, parse, peek, run, run_estimator
from blindsr.devices import pick_device
from blindsr.paths import pretrained_path
from KernelGANFKP.estimator import GANSettings, KernelModel, Preset, preset, pretrained_estimator
from NonblindSR.tiling import pretrained_nonblind


@dataclass(frozen=True)
class Options(EstimatorOptions):
    """What ``python main.py`` takes."""

    sf: Annotated[Literal[2, 3, 4, 8], tyro.conf.arg(metavar="{2,4}")] = 2
    """Scale factor."""
    model: KernelModel = "KernelGANFKP"
    """KernelGANFKP, or the baseline without the kernel prior: KernelGAN."""
    path_KP: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the x2 kernel prior; without it, the shipped data/pretrained_models/FKP_x2.pt."""
    path_predictor: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the predictor of the start; without it, the shipped data/pretrained_models/kernel_predictor.pth."""
    preset: Preset = "default"
    """Settings: default (fast), prediction (a second: the search's start without the search), or paper. Options below
    override it."""
    settings: GANSettings = field(default_factory=GANSettings)

    def files(self) -> dict[str, Path]:
        files = super().files()
        if self.model == "KernelGANFKP":
            files["path_KP"] = self.path_KP or pretrained_path("FKP_x2.pt")
            if self.settings.start == "predicted":
                files["path_predictor"] = self.path_predictor or pretrained_path("kernel_predictor.pth")
        return files


def main() -> int:
    # A preset depends on model and scale factor; real photos have no border that a degradation made.
    model, sf = peek("--model", "KernelGANFKP"), peek("--sf", "2")
    settings = preset(peek("--preset", "default"), model, int(sf) if sf.isdigit() else 2)  # type: ignore[arg-type]
    if "--real" in sys.argv:
        settings = replace(settings, shave=0)
    options = parse(Options, __doc__ or "", Options(settings=settings))
    if options.sf not in (2, 4):
        raise ValueError(
            f"--sf {options.sf}: an image's patches recur at half its size, which tells the x2 kernel and the x4 "
            "kernel that follows from it, no other; use DIPFKP"
        )
    device = pick_device(options.device)
    estimator = pretrained_estimator(
        options.sf,
        device,
        options.settings,
        options.model,
        path_prior=options.path_KP,
        path_predictor=options.path_predictor,
    )
    nonblind = pretrained_nonblind(options.path_nonblind, device, options.tile) if options.SR else None
    return run_estimator(options, "KernelGANFKP", options.model, estimator, nonblind)


if __name__ == "__main__":
    run(main)
