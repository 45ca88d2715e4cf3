"""PSNR/SSIM, kernel PSNR, seconds and memory on laboratory data, for each preset of DIP-FKP and for its bounds.

python benchmarks/dataset.py --dataset Set5 --official DIR     DIR holds FKP_x2.pt … and usrnet_tiny.pth

The methods are DIP-FKP's presets with USRNet, "oracle" (USRNet with the true kernels) and "bicubic". Each run is a
record in --results and is not repeated; the tables that are printed are made of the records.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch.nn.functional as F
import tyro
from torch import Tensor

import tables
from blindsr.batch.inputs import Item, find_items
from blindsr.command import parse, run
from blindsr.devices import pick_device
from blindsr.estimation import Estimator, NonblindSR, Preset
from blindsr.images import to_uint8
from blindsr.metrics import kernel_psnr, psnr_ssim_y
from blindsr.paths import pretrained_path
from DIPFKP.estimator import preset, pretrained_estimator
from logbook import RESULTS, Values, What, fingerprint, measured, peak_gigabytes, timed
from NonblindSR.evaluation import read_example
from NonblindSR.tiling import pretrained_nonblind

Method = Literal["bicubic", "prediction", "search", "paper", "oracle"]
METHODS = get_args(Method)


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/dataset.py`` takes."""

    dataset: tuple[str, ...] = ("Set5",)
    """Prepared datasets: names under data/datasets, or folders."""
    official: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder with the official weights, for rows of their own."""
    ours: bool = True
    """The rows with the shipped weights too."""
    scales: tuple[int, ...] = (2, 3, 4)
    """Scale factors."""
    methods: tuple[Method, ...] = ("bicubic", "prediction", "search", "oracle")
    """Rows; "paper" takes half an hour a picture on a CPU, so it has to be named."""
    seeds: tuple[int, ...] = (0,)
    """Seeds to average over; the prediction draws nothing at random."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


@dataclass(frozen=True)
class Weights:
    """The files of one row."""

    name: str
    prior: Path
    usrnet: Path


def weights_for(options: Options, scale_factor: int) -> Iterator[Weights]:
    prior, usrnet = f"FKP_x{scale_factor}.pt", "usrnet_tiny.pth"
    if options.ours:
        yield Weights("ours", pretrained_path(prior), pretrained_path(usrnet))
    if options.official is not None:
        yield Weights("official", options.official / prior, options.official / usrnet)


def fingerprint_of(method: Method, weights: Weights) -> str:
    """Of all that decides what ``method`` makes of a picture."""
    if method == "bicubic":
        return fingerprint(method)
    if method == "oracle":
        return fingerprint(weights.usrnet)
    settings = preset(method)
    predictor = [pretrained_path("kernel_predictor.pth")] if settings.start == "predicted" else []
    return fingerprint(settings, weights.prior, weights.usrnet, *predictor)


def identity(dataset: str, scale_factor: int, method: Method, weights: Weights) -> What:
    """What a row's records have in common; picture and seed are each one's own."""
    return {
        "dataset": dataset,
        "scale": scale_factor,
        "method": method,
        "weights": "none" if method == "bicubic" else weights.name,
        "fingerprint": fingerprint_of(method, weights),
    }


@cache
def tools(method: Preset, scale_factor: int, weights: Weights) -> tuple[Estimator, NonblindSR]:
    """Estimator and USRNet, read once a process."""
    device = pick_device()
    # The paper's joint fit makes a picture of its own anyway; it is scored too.
    estimator = pretrained_estimator(
        scale_factor, device, preset(method), want_image=method == "paper", path_prior=weights.prior
    )
    return estimator, pretrained_nonblind(weights.usrnet, device)


def measure(what: What, items: dict[str, Item], weights: Weights) -> Values:
    """One picture, in this process."""
    method, scale_factor = what["method"], what["scale"]
    lr, true_kernel, hr = read_example(items[what["picture"]], scale_factor)

    def scores(image: Tensor, prefix: str = "") -> Values:
        psnr, ssim = psnr_ssim_y(to_uint8(image), to_uint8(hr), scale_factor)
        return {f"{prefix}psnr": round(psnr, 4), f"{prefix}ssim": round(ssim, 6)}

    if method == "bicubic":
        return scores(F.interpolate(lr, scale_factor=scale_factor, mode="bicubic", antialias=True).clamp(0, 1))
    device = pick_device()
    estimator, nonblind = tools("prediction" if method == "oracle" else method, scale_factor, weights)
    values: dict[str, Any] = {}
    kernel, seconds = true_kernel.to(device), 0.0
    if method != "oracle":
        found = estimator(lr.to(device), scale_factor, seed=what["seed"])
        kernel, seconds = found.kernel, found.seconds
        values["kernel_psnr"] = round(kernel_psnr(kernel, true_kernel), 3)
        if found.image is not None:
            values |= scores(found.image, "image_")
    sr, sr_seconds = timed(lambda: nonblind(lr.to(device), kernel, scale_factor, 0.0).cpu())
    return {
        **scores(sr),
        **values,
        "seconds": round(seconds + sr_seconds, 2),
        "gigabytes": round(peak_gigabytes(), 2),
    }


def check(options: Options) -> dict[tuple[str, int], dict[str, Item]]:
    """The pictures of every dataset and scale factor, all files there: nobody waits hours to learn that one is not.

    Raises:
        FileNotFoundError, ValueError: what is missing.
    """
    found = {}
    for dataset in options.dataset:
        for scale_factor in options.scales:
            items = find_items(dataset, "DIPFKP", scale_factor)
            found[dataset, scale_factor] = {item.name: item for item in items}
            files = [path for item in items for path in (item.hr, item.kernel)]
            files += [path for w in weights_for(options, scale_factor) for path in (w.prior, w.usrnet)]
            for path in files:
                if path is None or not path.is_file():
                    raise FileNotFoundError(f"{path}: no such file; nothing was measured")
    return found


def main() -> int:
    options = parse(Options, __doc__ or "")
    found = check(options)
    path = options.results / "dataset.jsonl"
    for (dataset, scale_factor), items in found.items():
        for method in options.methods:
            for weights in weights_for(options, scale_factor):
                what = identity(Path(dataset).name, scale_factor, method, weights)
                seeds = options.seeds if method in ("search", "paper") else (0,)
                row = [what | {"picture": name, "seed": seed} for seed in seeds for name in items]
                measured(path, [row], partial(measure, items=items, weights=weights))
    for dataset in dict.fromkeys(Path(name).name for name in options.dataset):
        print(f"{dataset}\n\n{tables.dataset(options.results, dataset)}\n")
    return 0


if __name__ == "__main__":
    run(main)
