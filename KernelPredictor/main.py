"""Train the kernel predictor on a folder of photographs, or measure its error on held-out ones."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from blindsr.command import parse, run
from blindsr.devices import DeviceName, pick_device
from blindsr.files import probe_folder
from blindsr.paths import runs_folder
from blindsr.training.loop import training_device
from blindsr.training.photographs import hold_out, read_photographs
from blindsr.training.progress import training_bar
from KernelPredictor.predictor import KernelPredictor
from KernelPredictor.training import PredictorSettings, train, validate, weights_name

SMALLEST_SIDE = 200
"""Pictures with a shorter side are left out: their crops at x8 (320 HR pixels) would be enlarged too far."""


@dataclass(frozen=True)
class Options:
    """What ``python main.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of photographs, subfolders included."""
    train: bool = False
    """Train on all photographs but the last --held-out."""
    evaluate: bool = False
    """Print the mean error of the log-covariance on crops of the last --held-out photographs, by scale factor."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Where kernel_predictor.pth (the averaged weights; with --photographs kernel_predictor_photo.pth), best.pth,
    last.pt and training.png (the log) go; without it, runs/predictor."""
    restore_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --train: a last.pt of the same settings to resume from. With --evaluate: weights to use instead of the
    shipped ones."""
    start_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights to begin a further stage of training from."""
    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA or MPS where there is one."""
    training: PredictorSettings = field(default_factory=PredictorSettings)


def run_training(options: Options) -> int:
    settings, folder = options.training, options.output_dir or runs_folder() / "predictor"
    images = read_photographs(options.images, SMALLEST_SIDE)
    probe_folder(folder)
    with (
        training_device(options.device) as device,
        training_bar(settings.steps, "error of the log-covariance", lambda score: f"{-score:.3f}") as (
            report,
            on_step,
            on_validation,
        ),
    ):
        report(f"{len(images)} pictures from {options.images}")
        resume, start = options.restore_file, options.start_file
        train(images, settings, folder, device, resume, start, on_step, on_validation)
        report(f"weights: {folder / weights_name(settings)}")
    return 0


def run_evaluation(options: Options) -> int:
    _, images = hold_out(read_photographs(options.images, SMALLEST_SIDE), options.training.held_out)
    predictor = KernelPredictor.from_pretrained(options.restore_file).to(pick_device(options.device))
    for scale_factor, score in validate(predictor, images, options.training).items():
        print(f"x{scale_factor}: error of the log-covariance {-score:.3f} ({len(images)} photographs)")
    return 0


def main() -> int:
    options = parse(Options, __doc__ or "")
    if options.train == options.evaluate:
        raise ValueError("say what to do: --train or --evaluate")
    return run_training(options) if options.train else run_evaluation(options)


if __name__ == "__main__":
    run(main)
