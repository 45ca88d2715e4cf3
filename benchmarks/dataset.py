"""PSNR/SSIM, kernel PSNR, seconds and memory on laboratory data, for each preset of DIP-FKP and for its bounds.

python benchmarks/dataset.py --dataset Set5 --official DIR     DIR holds FKP_x2.pt … and usrnet_tiny.pth

The methods are DIP-FKP's presets with USRNet, "oracle" (USRNet with the true kernels) and "bicubic". Each run is a
record in --results and is not repeated; the tables that are printed are made of the records.

With --noise-im or --noise-ker the LR pictures are made of the HR ones as prepare_dataset.py makes them with these
options, for this run alone. USRNet is told the true noise level, and for a second score the one read off the picture.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import torch.nn.functional as F
import tyro
from torch import Tensor

import tables
from blindsr.batch.inputs import Item, dataset_folder, find_items, picture_paths
from blindsr.batch.prepare import examples
from blindsr.checks import require_between, require_positive
from blindsr.command import parse, run
from blindsr.devices import pick_device
from blindsr.estimation import Estimator, Preset
from blindsr.images import to_uint8, write_image
from blindsr.kernel_files import write_kernel
from blindsr.metrics import kernel_psnr, psnr_ssim_y
from blindsr.paths import pretrained_path
from data.prepare_dataset import kernels_for
from DIPFKP.estimator import preset, pretrained_estimator
from KernelPredictor.predictor import predictor_path
from logbook import RESULTS, Values, What, fingerprint, measured, peak_gigabytes, timed
from NonblindSR.evaluation import read_example
from NonblindSR.weights import NonblindStep, choose_nonblind

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
    noise_im: float = 0.0
    """Largest σ of Gaussian noise on the LR pictures (range 0 to 1); each picture's σ is drawn below it."""
    noise_ker: float = 0.0
    """Level of multiplicative noise on the kernels, 0 to 1."""
    pictures: int | None = None
    """Only the first so many of each dataset."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""

    def __post_init__(self) -> None:
        require_between(self, 0, 1, "noise_im", "noise_ker")
        if self.pictures is not None:
            require_positive(self, "pictures")

    @property
    def noise(self) -> dict[str, float]:
        """What tells noisy data from others."""
        levels = {"noise_im": self.noise_im, "noise_ker": self.noise_ker}
        return levels if any(levels.values()) else {}


class Picture(NamedTuple):
    """One picture to measure on."""

    item: Item
    sigma: float = 0.0
    """Of the noise in its LR picture, in image range."""


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


def fingerprint_of(method: Method, weights: Weights, noisy: bool) -> str:
    """Of all that decides what ``method`` makes of a picture."""
    if method == "bicubic":
        return fingerprint(method)
    reader = [predictor_path(photographs=True)] if noisy else []
    if method == "oracle":
        return fingerprint(weights.usrnet, *reader)
    settings = preset(method)
    predictor = [pretrained_path("kernel_predictor.pth")] if settings.start == "predicted" else []
    return fingerprint(settings, weights.prior, weights.usrnet, *predictor, *reader)


def identity(dataset: str, scale_factor: int, method: Method, weights: Weights, noise: dict[str, float]) -> What:
    """What a row's records have in common; picture and seed are each one's own."""
    return {
        "dataset": dataset,
        "scale": scale_factor,
        "method": method,
        "weights": "none" if method == "bicubic" else weights.name,
        "fingerprint": fingerprint_of(method, weights, bool(noise)),
        **noise,
    }


@cache
def tools(method: Preset, scale_factor: int, weights: Weights, noisy: bool) -> tuple[Estimator, NonblindStep]:
    """Estimator and USRNet, and with noise what reads its level; read once a process."""
    device = pick_device()
    # The paper's joint fit makes a picture of its own anyway; it is scored too.
    estimator = pretrained_estimator(
        scale_factor, device, preset(method), want_image=method == "paper", path_prior=weights.prior
    )
    return estimator, choose_nonblind(False, "auto" if noisy else 0.0, device, weights.usrnet)


def measure(what: What, pictures: dict[str, Picture], weights: Weights) -> Values:
    """One picture, in this process."""
    method, scale_factor = what["method"], what["scale"]
    item, sigma = pictures[what["picture"]]
    lr, true_kernel, hr = read_example(item, scale_factor)

    def scores(image: Tensor, prefix: str = "") -> Values:
        psnr, ssim = psnr_ssim_y(to_uint8(image), to_uint8(hr), scale_factor)
        return {f"{prefix}psnr": round(psnr, 4), f"{prefix}ssim": round(ssim, 6)}

    if method == "bicubic":
        return scores(F.interpolate(lr, scale_factor=scale_factor, mode="bicubic", antialias=True).clamp(0, 1))
    device = pick_device()
    estimator, step = tools("prediction" if method == "oracle" else method, scale_factor, weights, "noise_im" in what)
    values: dict[str, Any] = {}
    kernel, seconds = true_kernel.to(device), 0.0
    if method != "oracle":
        found = estimator(lr.to(device), scale_factor, seed=what["seed"])
        kernel, seconds = found.kernel, found.seconds
        values["kernel_psnr"] = round(kernel_psnr(kernel, true_kernel), 3)
        if found.image is not None:
            values |= scores(found.image, "image_")
    sr, sr_seconds = timed(lambda: step.network(lr.to(device), kernel, scale_factor, sigma).cpu())
    if callable(step.sigma):
        read = step.sigma(lr.to(device), None)
        values |= scores(step.network(lr.to(device), kernel, scale_factor, read).cpu(), "read_")
        values |= {"sigma": round(255 * sigma, 2), "read_sigma": round(255 * read, 2)}
    return {
        **scores(sr),
        **values,
        "seconds": round(seconds + sr_seconds, 2),
        "gigabytes": round(peak_gigabytes(), 2),
    }


def noisy_pictures(dataset: str, scale_factor: int, options: Options, folder: Path) -> Iterator[tuple[str, Picture]]:
    """Name and picture of each of a dataset, degraded as prepare_dataset.py does it, its files made in ``folder``.

    Raises:
        FileNotFoundError, ValueError: there are no HR pictures, or one cannot be used.
    """
    paths = picture_paths(dataset_folder(dataset) / "HR")
    draw_kernel = kernels_for("DIPFKP", scale_factor, options.noise_ker)
    for path, example in examples(paths, scale_factor, draw_kernel, options.noise_im):
        if isinstance(example, str):
            raise ValueError(example)
        item = Item(path.stem, folder / f"{path.stem}.png", path, folder / f"{path.stem}.mat")
        write_image(item.lr, example.pixels)
        write_kernel(folder / f"{path.stem}.mat", example.kernel)
        yield path.stem, Picture(item, example.sigma)


def check(options: Options, scratch: Path) -> dict[tuple[str, int], dict[str, Picture]]:
    """The pictures of every dataset and scale factor, all files there: nobody waits hours to learn that one is not.

    Args:
        scratch: empty folder for noisy pictures.

    Raises:
        FileNotFoundError, ValueError: what is missing.
    """
    found = {}
    for number, dataset in enumerate(options.dataset):
        for scale_factor in options.scales:
            if options.noise:
                folder = scratch / f"{number}_x{scale_factor}"
                folder.mkdir()
                pictures = noisy_pictures(dataset, scale_factor, options, folder)
            else:
                pictures = ((item.name, Picture(item)) for item in find_items(dataset, "DIPFKP", scale_factor))
            found[dataset, scale_factor] = dict(islice(pictures, options.pictures))
            files = [path for item, _ in found[dataset, scale_factor].values() for path in (item.hr, item.kernel)]
            files += [path for w in weights_for(options, scale_factor) for path in (w.prior, w.usrnet)]
            for path in files:
                if path is None or not path.is_file():
                    raise FileNotFoundError(f"{path}: no such file; nothing was measured")
    return found


def main() -> int:
    options = parse(Options, __doc__ or "")
    path = options.results / ("noise.jsonl" if options.noise else "dataset.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        for (dataset, scale_factor), pictures in check(options, Path(scratch)).items():
            for method in options.methods:
                for weights in weights_for(options, scale_factor):
                    what = identity(Path(dataset).name, scale_factor, method, weights, options.noise)
                    seeds = options.seeds if method in ("search", "paper") else (0,)
                    row = [what | {"picture": name, "seed": seed} for seed in seeds for name in pictures]
                    measured(path, [row], partial(measure, pictures=pictures, weights=weights))
    if options.noise:
        print(tables.noise(options.results))
        return 0
    for dataset in dict.fromkeys(Path(name).name for name in options.dataset):
        print(f"{dataset}\n\n{tables.dataset(options.results, dataset)}\n")
    return 0


if __name__ == "__main__":
    run(main)
