"""USRNet with true kernels: PSNR (Y, dB) of our weights and the official ones, on the same LR images, as Markdown.

Two sets: a prepared dataset, and four photographs of scikit-image, degraded here by kernels drawn as for the test
sets. Each without noise and with Gaussian noise of 10/255, whose level the network is told.

python benchmarks/nonblind.py --dataset Set5 --official DIR     DIR holds usrnet_tiny.pth
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import torch
from torch import Tensor

from blindsr.batch.inputs import find_items
from blindsr.command import parse, run
from blindsr.degradation import add_noise, degrade, modcrop, quantize
from blindsr.devices import pick_device
from blindsr.kernels import random_kernels
from NonblindSR.evaluation import read_example, score
from NonblindSR.usrnet import USRNet

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
Example = tuple[Tensor, Tensor, Tensor]
"""LR image, kernel and HR image."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/nonblind.py`` takes."""

    dataset: str = "Set5"
    """A prepared dataset: a name under data/datasets, or a folder."""
    official: Path | None = None
    """Folder with the official weights, for a second column."""
    weights: Path | None = None
    """Weights instead of the shipped ones in the first column."""
    pictures: tuple[str, ...] = PHOTOGRAPHS
    """Names of photographs in ``skimage.data``."""
    scales: tuple[int, ...] = (2, 3, 4, 8)
    """Scale factors; those that the dataset is not prepared for are left out."""


def photographs(names: tuple[str, ...], scale_factor: int) -> list[Example]:
    generator = torch.Generator().manual_seed(1)
    examples = []
    for name in names:
        pixels = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None]
        hr = modcrop(pixels.float() / 255, scale_factor)
        kernel = random_kernels(1, scale_factor, generator)
        examples.append((quantize(degrade(hr, kernel, scale_factor)), kernel, hr))
    return examples


def mean_score(net: USRNet, examples: list[Example], scale_factor: int, sigma: float) -> tuple[float, float]:
    """Mean PSNR and SSIM; the noise depends on the picture's place in the list alone."""
    generator = torch.Generator().manual_seed(0)
    scores = []
    for lr, kernel, hr in examples:
        noisy = quantize(add_noise(degrade(hr, kernel, scale_factor), sigma, generator)) if sigma else lr
        scores.append(score(net, noisy, kernel, hr, scale_factor, sigma))
    psnr, ssim = np.mean(scores, axis=0)
    return float(psnr), float(ssim)


def main() -> int:
    options = parse(Options, __doc__ or "")
    nets = [USRNet.from_pretrained(options.weights)]
    if options.official is not None:
        nets.append(USRNet.from_pretrained(options.official / "usrnet_tiny.pth"))
    nets = [net.to(pick_device()) for net in nets]
    sets = []
    for scale_factor in options.scales:
        try:
            items = find_items(options.dataset, "DIPFKP", scale_factor)
            examples = [read_example(item, scale_factor) for item in items]
            sets.append((Path(options.dataset).name, scale_factor, examples))
        except FileNotFoundError as error:
            print(f"note: x{scale_factor} of {options.dataset} left out: {error}", file=sys.stderr)
        sets.append(("scikit-image", scale_factor, photographs(options.pictures, scale_factor)))
    print(f"| images | | noise | ours |{' official |' * (len(nets) - 1)}\n|---|---|---|{'---|' * len(nets)}")
    for name, scale_factor, examples in sorted(sets, key=lambda entry: entry[0] == "scikit-image"):
        for sigma in (0, 10):
            scores = (mean_score(net, examples, scale_factor, sigma / 255) for net in nets)
            cells = " | ".join(f"{psnr:.2f}/{ssim:.4f}" for psnr, ssim in scores)
            print(f"| {name} | x{scale_factor} | {sigma} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
