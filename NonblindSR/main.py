"""Train USRNet on a folder of photographs, or evaluate it with the true kernels of a dataset."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from blindsr.cli import parse, run, training_bar
from blindsr.datasets import find_items
from blindsr.devices import DeviceName, pick_device
from blindsr.paths import RUNS
from blindsr.training import read_photographs, training_device
from NonblindSR.evaluation import evaluate
from NonblindSR.training import TrainingSettings, train
from NonblindSR.usrnet import USRNet


@dataclass(frozen=True)
class Options:
    """What ``python main.py`` takes."""

    train: bool = False
    """Train on the photographs in --images."""
    evaluate: bool = False
    """Super-resolve a dataset with its true kernels and print the scores."""
    images: Path | None = None
    """Folder of photographs to train on (searched with its subfolders)."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RUNS / "usrnet"
    """Where training writes usrnet_tiny.pth (the averaged weights), best.pth, last.pt and training.png (the log)."""
    restore_file: Path | None = None
    """A last.pt of the same settings to resume from."""
    start_file: Path | None = None
    """Weights to start a further stage of training from, with a schedule of its own."""
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])] = "Test"
    """Dataset to evaluate on: a name under data/datasets, or a folder."""
    model: Literal["DIPFKP", "KernelGANFKP"] = "DIPFKP"
    """Whose LR images and kernels of the dataset to take."""
    sf: Literal[2, 3, 4, 8] = 4
    """Scale factor of the evaluation."""
    sigma: float = 0.0
    """Noise level told to the network in the evaluation, in grey levels of 255."""
    path_nonblind: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights to evaluate; without it, the shipped data/pretrained_models/usrnet_tiny.pth."""
    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA or MPS where there is one."""
    training: TrainingSettings = field(default_factory=TrainingSettings)


def run_training(options: Options) -> int:
    if options.images is None:
        raise ValueError("--train needs --images DIR, a folder of photographs")
    settings = options.training
    images = read_photographs(options.images, settings.patch)
    with (
        training_device(options.device) as device,
        training_bar(settings.steps, "PSNR (dB)", lambda score: f"{score:.2f}") as (report, on_step, on_validation),
    ):
        report(f"{len(images)} pictures from {options.images}")
        resume, start = options.restore_file, options.start_file
        train(images, settings, options.output_dir, device, resume, start, on_step, on_validation)
        report(f"weights: {options.output_dir / 'usrnet_tiny.pth'}")
    return 0


def run_evaluation(options: Options) -> int:
    items = find_items(options.dataset, options.model, options.sf)
    net = USRNet.from_pretrained(options.path_nonblind).to(pick_device(options.device))
    scores = []
    for name, score in evaluate(net, items, options.sf, options.sigma / 255):
        if isinstance(score, str):
            print(f"error: {score}", file=sys.stderr)
        else:
            scores.append(score)
            print(f"{name:>20}  {score[0]:.2f} dB  {score[1]:.4f}")
    if scores:
        mean_psnr, mean_ssim = (sum(values) / len(scores) for values in zip(*scores, strict=True))
        print(f"{'mean':>20}  {mean_psnr:.2f} dB  {mean_ssim:.4f}")
    return 0 if len(scores) == len(items) else 2


def main() -> int:
    options = parse(Options, __doc__ or "")
    if options.train == options.evaluate:
        raise ValueError("say what to do: --train or --evaluate")
    return run_training(options) if options.train else run_evaluation(options)


if __name__ == "__main__":
    run(main)
