"""Super-resolve pictures whose kernel is known, or train USRNet, or evaluate it with a dataset's true kernels.

A picture of yours: python main.py --kernel kernel.mat --sf 3 -i photo.png
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from torch import Tensor

from blindsr.batch.cli import EstimatorOptions, parse, run, run_estimator, training_bar
from blindsr.batch.inputs import find_items
from blindsr.devices import DeviceName, pick_device
from blindsr.estimation import Estimate, OnStep
from blindsr.paths import RUNS
from blindsr.training.loop import training_device
from blindsr.training.photographs import read_photographs
from NonblindSR.evaluation import evaluate, read_known_kernel
from NonblindSR.tiling import pretrained_nonblind
from NonblindSR.training import TrainingSettings, train, weights_name
from NonblindSR.usrnet import USRNet


@dataclass(frozen=True)
class Options:
    """What ``python main.py`` takes."""

    train: bool = False
    """Train on the photographs in --images."""
    evaluate: bool = False
    """Super-resolve a dataset with its true kernels and print the scores."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of photographs to train on (searched with its subfolders)."""
    kernel: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Super-resolve the pictures of --input-dir with this kernel: .mat (variable Kernel) or .npy, of odd side."""
    kernel_convention: Literal["fkp", "kernelgan"] = "fkp"
    """How --kernel is meant: applied by correlation, centred at (k − s)/2 (fkp), or as KernelGAN writes it."""
    input_dir: Annotated[tuple[Path, ...], tyro.conf.arg(aliases=["-i"], metavar="PATH [PATH ...]")] = ()
    """Your own pictures for --kernel: pictures, folders, 'photos/*.jpg'."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Where results go; without it, data/log_NonblindSR/<folder>_USRNet_lr_x<sf>, or runs/usrnet when training:
    there usrnet_tiny.pth (the averaged weights; with --photographs usrnet_tiny_photo.pth), best.pth, last.pt and
    training.png (the log)."""
    restore_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A last.pt of the same settings to resume from."""
    start_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights to start a further stage of training from, with a schedule of its own."""
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])] = "Test"
    """Dataset to evaluate on: a name under data/datasets, or a folder."""
    model: Literal["DIPFKP", "KernelGANFKP"] = "DIPFKP"
    """Whose LR images and kernels of the dataset to take."""
    sf: Literal[2, 3, 4, 8] = 4
    """Scale factor; not of the training."""
    sigma: float = 0.0
    """Noise level told to the network, in grey levels of 255; not in the training."""
    path_nonblind: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights to use; without it, the shipped data/pretrained_models/usrnet_tiny.pth."""
    tile: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """With --kernel: work in tiles of so many result pixels a side, 0 for none; without it, what memory allows."""
    float32: bool = False
    """With --kernel: compute in float32 throughout, as --evaluate always does. Without it, devices that gain from
    bfloat16 take that for the convolutions inside, which changed PSNR by at most 0.006 dB where it was measured."""
    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA or MPS where there is one."""
    resume: bool = True
    """With --kernel: skip pictures that an earlier run of the same settings finished."""
    overwrite: bool = False
    """With --kernel: replace results of other settings or other pictures."""
    training: TrainingSettings = field(default_factory=TrainingSettings)


def run_training(options: Options) -> int:
    if options.images is None:
        raise ValueError("--train needs --images DIR, a folder of photographs")
    settings = options.training
    folder = options.output_dir or RUNS / "usrnet"
    images = read_photographs(options.images, settings.patch)
    with (
        training_device(options.device) as device,
        training_bar(settings.steps, "PSNR (dB)", lambda score: f"{score:.2f}") as (report, on_step, on_validation),
    ):
        report(f"{len(images)} pictures from {options.images}")
        resume, start = options.restore_file, options.start_file
        train(images, settings, folder, device, resume, start, on_step, on_validation)
        report(f"weights: {folder / weights_name(settings)}")
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


@dataclass(frozen=True)
class KnownKernelOptions(EstimatorOptions):
    """What decides a super-resolution with a known kernel."""

    kernel: Path = Path()
    kernel_convention: str = "fkp"

    def files(self) -> dict[str, Path]:
        return {**super().files(), "kernel": self.kernel}


def run_kernel(options: Options, path: Path) -> int:
    if not options.input_dir:
        raise ValueError("--kernel needs -i PATH, the pictures to super-resolve with it")
    kernel = read_known_kernel(path, options.kernel_convention)

    def known(lr: Tensor, scale_factor: int, *, seed: int, on_step: OnStep | None = None) -> Estimate:
        return Estimate(kernel=kernel, image=None, losses=[], seconds=0.0, seed=seed)

    device = pick_device(options.device)
    nonblind = pretrained_nonblind(options.path_nonblind, device, options.tile, float32=options.float32)
    given = KnownKernelOptions(
        SR=True,
        real=True,
        sf=options.sf,
        input_dir=options.input_dir,
        output_dir=options.output_dir,
        path_nonblind=options.path_nonblind,
        sigma=options.sigma,
        tile=options.tile,
        float32=options.float32,
        device=options.device,
        resume=options.resume,
        overwrite=options.overwrite,
        kernel=path,
        kernel_convention=options.kernel_convention,
    )
    return run_estimator(given, "NonblindSR", "USRNet", known, nonblind)


def main() -> int:
    options = parse(Options, __doc__ or "")
    if sum((options.train, options.evaluate, options.kernel is not None)) != 1:
        raise ValueError("say what to do: --train, --evaluate or --kernel FILE")
    if not 0 <= options.sigma <= 255:
        raise ValueError(f"--sigma {options.sigma}: must lie between 0 and 255 grey levels")
    if options.kernel is not None:
        return run_kernel(options, options.kernel)
    return run_training(options) if options.train else run_evaluation(options)


if __name__ == "__main__":
    run(main)
