"""Train the kernel predictor on a folder of photographs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from blindsr.cli import parse, run, training_bar
from blindsr.devices import DeviceName
from blindsr.paths import RUNS
from blindsr.training import read_photographs, training_device
from FKP.predictor_training import PredictorSettings, train_predictor

SMALLEST_SIDE = 200
"""Pictures with a shorter side are left out: their crops at x8 (320 HR pixels) would be enlarged too far."""


@dataclass(frozen=True)
class Options:
    """What ``python train_predictor.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of photographs, subfolders included."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RUNS / "predictor"
    """Where kernel_predictor.pth (the averaged weights), best.pth, last.pt and training.png (the log) go."""
    restore_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A last.pt of the same settings to resume from."""
    start_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights to begin a further stage of training from."""
    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA or MPS where there is one."""
    training: PredictorSettings = field(default_factory=PredictorSettings)


def main() -> int:
    options = parse(Options, __doc__ or "")
    settings = options.training
    images = read_photographs(options.images, SMALLEST_SIDE)
    with (
        training_device(options.device) as device,
        training_bar(settings.steps, "error of the log-covariance", lambda score: f"{-score:.3f}") as (
            report,
            on_step,
            on_validation,
        ),
    ):
        report(f"{len(images)} pictures from {options.images}")
        train_predictor(
            images,
            settings,
            options.output_dir,
            device,
            options.restore_file,
            options.start_file,
            on_step,
            on_validation,
        )
        report(f"weights: {options.output_dir / 'kernel_predictor.pth'}")
    return 0


if __name__ == "__main__":
    run(main)
