"""USRNet with true kernels: PSNR (Y, dB) of our weights and the official ones, on the same LR images, as Markdown.

Two sets: a prepared dataset, and four photographs of scikit-image, degraded here by kernels drawn as for the test
sets. Each without noise and with Gaussian noise of 10/255, whose level the network is told.

python benchmarks/nonblind.py --dataset Set5 --official DIR     DIR holds usrnet_tiny.pth
"""

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import skimage.data
import torch
import tyro
from torch import Tensor

import tables
from blindsr.batch.inputs import find_items
from blindsr.command import parse, run
from blindsr.degradation import add_noise, degrade, modcrop, quantize
from blindsr.devices import pick_device
from blindsr.kernels import random_kernels
from blindsr.paths import pretrained_path
from logbook import RESULTS, Values, What, fingerprint, measured, timed
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
    official: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder with the official weights, for a second column."""
    weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights instead of the shipped ones in the first column."""
    pictures: tuple[str, ...] = PHOTOGRAPHS
    """Names of photographs in ``skimage.data``."""
    scales: tuple[int, ...] = (2, 3, 4)
    """Scale factors."""
    noises: tuple[int, ...] = (0, 10)
    """Standard deviations of Gaussian noise, in grey levels of 255."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


def photographs(names: tuple[str, ...], scale_factor: int) -> dict[str, Example]:
    generator = torch.Generator().manual_seed(1)
    examples = {}
    for name in names:
        pixels = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None]
        hr = modcrop(pixels.float() / 255, scale_factor)
        kernel = random_kernels(1, scale_factor, generator)
        examples[name] = (quantize(degrade(hr, kernel, scale_factor)), kernel, hr)
    return examples


@cache
def network(path: Path) -> USRNet:
    """USRNet, read once a process."""
    return USRNet.from_pretrained(path).to(pick_device())


def measure(what: What, examples: dict[str, Example], path: Path) -> Values:
    """One picture, in this process; its noise depends on its name alone."""
    lr, kernel, hr = examples[what["picture"]]
    scale_factor, sigma = what["scale"], what["noise"] / 255
    if sigma:
        generator = torch.Generator().manual_seed(sum(what["picture"].encode()))
        lr = quantize(add_noise(degrade(hr, kernel, scale_factor), sigma, generator))
    net = network(path)
    (psnr, ssim), seconds = timed(lambda: score(net, lr, kernel, hr, scale_factor, sigma))
    return {"psnr": round(psnr, 4), "ssim": round(ssim, 6), "seconds": round(seconds, 2)}


def main() -> int:
    options = parse(Options, __doc__ or "")
    files = {"ours": options.weights or pretrained_path("usrnet_tiny.pth")}
    if options.official is not None:
        files["official"] = options.official / "usrnet_tiny.pth"
    for path in files.values():
        network(path)  # before hours are spent, what is missing is said
    sets: dict[tuple[str, int], dict[str, Example]] = {}
    for scale_factor in options.scales:
        items = find_items(options.dataset, "DIPFKP", scale_factor)
        name = Path(options.dataset).name
        sets[name, scale_factor] = {item.name: read_example(item, scale_factor) for item in items}
        sets["scikit-image", scale_factor] = photographs(options.pictures, scale_factor)
    for (name, scale_factor), examples in sets.items():
        for weights, path in files.items():
            what = {"dataset": name, "scale": scale_factor, "weights": weights, "fingerprint": fingerprint(path)}
            row = [what | {"noise": noise, "picture": picture} for noise in options.noises for picture in examples]
            measured(options.results / "nonblind.jsonl", [row], partial(measure, examples=examples, path=path))
    print(tables.nonblind(options.results))
    return 0


if __name__ == "__main__":
    run(main)
