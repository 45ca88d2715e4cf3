"""All kernel estimators on the same pictures: kernel PSNR, PSNR/SSIM with --SR, seconds, peak memory, as Markdown.

Photographs that come with scikit-image (their middle 512×512 pixels), made a data set as ``prepare_dataset.py --model
KernelGANFKP`` does. Broken off, the same command goes on from its log; the table is made of what that holds. ± is the
spread over seeds (standard deviation) of the mean over pictures.

python benchmarks/estimators.py --log runs/estimators.jsonl
"""

import resource
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from torch import Tensor

import DIPFKP.estimator
import KernelGANFKP.estimator
from blindsr.batch.inputs import find_items
from blindsr.command import parse, run
from blindsr.degradation import centre_crop
from blindsr.devices import pick_device
from blindsr.estimation import Estimator, Preset
from blindsr.images import write_image
from blindsr.kernels import as_kernel
from blindsr.metrics import kernel_psnr
from blindsr.paths import runs_folder
from data.prepare_dataset import prepare_for
from KernelGANFKP.estimator import GANModel, preset
from logbook import measured
from NonblindSR.evaluation import read_example, score
from NonblindSR.usrnet import USRNet

PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "hubble_deep_field",
    "immunohistochemistry",
    "rocket",
    "stereo_motorcycle",
)
DIP_PRESETS: dict[str, Preset] = {"DIP-FKP, prediction": "prediction", "DIP-FKP, search": "search"}
METHODS = ("KernelGAN", "KernelGAN-FKP, paper", "KernelGAN-FKP", *DIP_PRESETS)


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/estimators.py`` takes."""

    log: Path = runs_folder() / "estimators.jsonl"
    """Where runs are written to, and read from where they are there already."""
    methods: tuple[str, ...] = METHODS
    """Which estimators."""
    scales: tuple[int, ...] = (2, 4)
    """Scale factors."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds to average over."""
    pictures: tuple[str, ...] = PHOTOGRAPHS
    """Names of photographs in ``skimage.data``."""
    path_nonblind: Path | None = None
    """Weights of USRNet other than the shipped ones, for the scores."""


@cache
def examples(scale_factor: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """LR image, kernel and HR image of each of :data:`PHOTOGRAPHS`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "HR").mkdir()
        for photograph in PHOTOGRAPHS:
            array = getattr(skimage.data, photograph)()
            array = array[0] if isinstance(array, tuple) else array  # of a stereo pair the left one
            pixels = torch.from_numpy(array)
            pixels = pixels.unsqueeze(-1).expand(*pixels.shape, 3) if pixels.ndim == 2 else pixels
            pixels = centre_crop(pixels.permute(2, 0, 1), 512).permute(1, 2, 0)
            write_image(folder / "HR" / f"{photograph}.png", pixels.numpy())
        for _, problem in prepare_for(folder, "KernelGANFKP", scale_factor):
            assert problem is None, problem
        items = find_items(name, "KernelGANFKP", scale_factor)
        return {item.name: read_example(item, scale_factor) for item in items}


def estimator_of(method: str, scale_factor: int) -> Estimator:
    device = pick_device()
    if method in DIP_PRESETS:
        settings = DIPFKP.estimator.preset(DIP_PRESETS[method])
        return DIPFKP.estimator.pretrained_estimator(scale_factor, device, settings)
    model: GANModel = "KernelGAN" if method == "KernelGAN" else "KernelGANFKP"
    gan_settings = preset("paper" if "paper" in method else "search", model, scale_factor)
    return KernelGANFKP.estimator.pretrained_estimator(scale_factor, device, gan_settings, model)


def measure(method: str, scale_factor: int, seed: int, name: str) -> dict[str, Any]:
    """One run, in this process: the kernel, which is scored later, and what finding it took."""
    lr, _, _ = examples(scale_factor)[name]
    found = estimator_of(method, scale_factor)(lr.to(pick_device()), scale_factor, seed=seed)
    return {
        "kernel": found.kernel[0, 0].tolist(),
        "seconds": found.seconds,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "converged": found.converged,
        "threads": torch.get_num_threads(),
    }


def scored(run: dict[str, Any], scale_factor: int, name: str, net: USRNet) -> dict[str, Any]:
    """``run`` with kernel PSNR, PSNR and SSIM, and PSNR below that of the true kernel's image."""
    lr, true_kernel, hr = examples(scale_factor)[name]
    kernel = as_kernel(run["kernel"]).float()
    psnr, ssim = score(net, lr, kernel, hr, scale_factor)
    return {
        **run,
        "kernel_psnr": kernel_psnr(kernel, true_kernel),
        "psnr": psnr,
        "ssim": ssim,
        "below": true_psnr(name, scale_factor, net) - psnr,
    }


@cache
def true_psnr(name: str, scale_factor: int, net: USRNet) -> float:
    lr, kernel, hr = examples(scale_factor)[name]
    return score(net, lr, kernel, hr, scale_factor)[0]


def spread(by_seed: list[list[dict[str, Any]]], value: str, digits: int) -> str:
    """Mean and standard deviation over seeds of the mean over pictures."""
    means = [np.mean([entry[value] for entry in entries]) for entries in by_seed]
    deviation = f" ± {np.std(means, ddof=1):.{digits}f}" if len(means) > 1 else ""
    return f"{np.mean(means):.{digits}f}{deviation}"


def table(runs: dict[tuple[Any, ...], dict[str, Any]], options: Options) -> str:
    """Markdown of what ``runs`` hold."""
    lines = [
        "| | estimator | kernel PSNR | PSNR | SSIM | below true kernel | s/image | GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scale_factor in options.scales:
        for method in options.methods:
            keys = [[(method, scale_factor, seed, name) for name in options.pictures] for seed in options.seeds]
            by_seed = [[runs[key] for key in row] for row in keys]
            entries = [entry for row in by_seed for entry in row]
            cells = [spread(by_seed, "kernel_psnr", 2), spread(by_seed, "psnr", 2), spread(by_seed, "ssim", 4)]
            cells.append(f"{np.mean([entry['below'] for entry in entries]):.2f}")
            cells.append(f"{np.median([entry['seconds'] for entry in entries]):.0f}")
            cells.append(f"{max(entry['gigabytes'] for entry in entries):.2f}")
            lines.append(f"| x{scale_factor} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    options = parse(Options, __doc__ or "")
    for given, known in ((options.methods, METHODS), (options.pictures, PHOTOGRAPHS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is not known; take some of: {'; '.join(known)}")
    keys = [
        (method, scale_factor, seed, name)
        for seed in options.seeds
        for method in reversed(options.methods)
        for scale_factor in options.scales
        for name in options.pictures
    ]
    runs = measured(options.log, keys, measure)
    net = USRNet.from_pretrained(options.path_nonblind).to(pick_device())
    print(table({key: scored(runs[key], key[1], key[3], net) for key in keys}, options))
    return 0


if __name__ == "__main__":
    run(main)
