"""Super-resolve pictures whose kernel is known, or train USRNet, or evaluate it with a dataset's true kernels.

A picture of yours: python main.py --kernel kernel.mat --sf 3 -i photo.png
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from torch import Tensor

from blindsr.batch.command import Method, run_batch
from blindsr.batch.inputs import find_items
from blindsr.batch.options import BatchOptions
from blindsr.command import parse, run
from blindsr.devices import pick_device
from blindsr.estimation import Estimate, OnStep
from blindsr.files import probe_folder
from blindsr.paths import runs_folder
from blindsr.training.loop import training_device
from blindsr.training.photographs import read_photographs
from blindsr.training.progress import training_bar
from NonblindSR.command import with_nonblind
from NonblindSR.evaluation import KernelConvention, evaluate, read_known_kernel
from NonblindSR.training import USRNetSettings, train, weights_name
from NonblindSR.usrnet import USRNet
from NonblindSR.weights import choose_nonblind


@dataclass(frozen=True)
class TrainingFiles:
    """What --train reads."""

    images: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of photographs to train on, with its subfolders."""
    restore_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A last.pt of the same settings to resume from."""
    start_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights to start a further stage of training from, with a schedule of its own."""


@dataclass(frozen=True)
class Options(BatchOptions):
    """What ``python main.py`` takes."""

    kernel: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Super-resolve the pictures of -i with this kernel: .mat or .npy."""
    train: bool = False
    """Train on the photographs in --images; -o (without it, runs/usrnet) gets usrnet_tiny.pth (the averaged weights;
    with --photographs usrnet_tiny_photo.pth), best.pth, last.pt and training.png (the log)."""
    evaluate: bool = False
    """Super-resolve a dataset with its true kernels and print the scores."""
    model: Literal["DIPFKP", "KernelGANFKP"] = "DIPFKP"
    """With --evaluate: whose LR images and kernels of the dataset to take."""
    kernel_convention: KernelConvention = "auto"
    """Where the centre of --kernel lies: as fkp (published) or kernelgan (aligned, as cameras and resizers need it);
    auto goes by what the file says, or else by its centre of mass."""
    kernel_variable: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Which variable of the MATLAB file in --kernel is the kernel, where it holds several."""
    read: Annotated[TrainingFiles, tyro.conf.arg(name="training file")] = field(default_factory=TrainingFiles)
    training: USRNetSettings = field(default_factory=USRNetSettings)


def run_training(options: Options) -> int:
    given, settings = options.read, options.training
    if given.images is None:
        raise ValueError("--train needs --images DIR, a folder of photographs")
    folder = options.output_dir or runs_folder() / "usrnet"
    images = read_photographs(given.images, settings.patch)
    probe_folder(folder)
    with (
        training_device(options.run.device) as device,
        training_bar(settings.steps, "PSNR (dB)", lambda score: f"{score:.2f}") as (report, on_step, on_validation),
    ):
        report(f"{len(images)} pictures from {given.images}")
        resume, start = given.restore_file, given.start_file
        train(images, settings, folder, device, resume, start, on_step, on_validation)
        report(f"weights: {folder / weights_name(settings)}")
    return 0


def run_evaluation(options: Options) -> int:
    items = find_items(options.dataset or "Test", options.model, options.sf)
    step = choose_nonblind(
        False, options.sf, options.pictures.sigma, pick_device(options.run.device), options.pictures.path_nonblind
    )
    if callable(step.sigma):
        raise ValueError("--sigma auto: --evaluate takes a number")
    net = USRNet.from_pretrained(step.files["path_nonblind"]).to(pick_device(options.run.device))
    scores = []
    for name, score in evaluate(net, items, options.sf, step.sigma):
        if isinstance(score, str):
            print(f"error: {score}", file=sys.stderr)
        else:
            scores.append(score)
            print(f"{name:>20}  PSNR {score[0]:.2f} dB  SSIM {score[1]:.4f}")
    if scores:
        mean_psnr, mean_ssim = (sum(values) / len(scores) for values in zip(*scores, strict=True))
        print(f"{f'mean of {len(scores)}':>20}  PSNR {mean_psnr:.2f} dB  SSIM {mean_ssim:.4f}")
    return 0 if len(scores) == len(items) else 2


def run_kernel(options: Options, path: Path) -> int:
    if not options.paths:
        raise ValueError("--kernel needs -i PATH, the pictures to super-resolve with it")
    kernel, aligned = read_known_kernel(path, options.kernel_convention, options.sf, options.kernel_variable)

    def known(lr: Tensor, scale_factor: int, *, seed: int, on_step: OnStep | None = None) -> Estimate:
        return Estimate(kernel=kernel, image=None, losses=[], seconds=0.0, seed=seed, aligned=aligned)

    settings = {"kernel_convention": options.kernel_convention, "kernel_variable": options.kernel_variable}
    told = Method("NonblindSR", "USRNet", known, settings=settings, files={"kernel": path})
    return run_batch(options, with_nonblind(told, options, options.run.build_device))


def main() -> int:
    options = parse(Options, __doc__ or "")
    if sum((options.train, options.evaluate, options.kernel is not None)) != 1:
        raise ValueError("say what to do: --train, --evaluate or --kernel FILE")
    if options.kernel is not None:
        return run_kernel(options, options.kernel)
    return run_training(options) if options.train else run_evaluation(options)


if __name__ == "__main__":
    run(main)
