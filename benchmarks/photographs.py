"""What blind super-resolution gains over bicubic enlargement on photographs, by what happened to them.

The photographs are made here, with NumPy, SciPy and Pillow and none of the project's own degradation: a Gaussian
blur over the middle of each block of pixels, mirrored borders, noise, rounding, JPEG. Take photographs that no
training saw: those of BSDS500 that the trainings hold out (the last by name).

python benchmarks/photographs.py --images ../photographs/predictor/bsds500/

At x1 the photographs keep their size, and what is gained is over the blurred input itself; some are not blurred.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from PIL import Image
from scipy import ndimage
from torch import Tensor

import tables
from blindsr import super_resolve
from blindsr.command import parse, run
from blindsr.doubts import is_left_alone
from blindsr.estimation import Estimate
from blindsr.images import is_image_name, to_uint8
from blindsr.kernels import align, variance_range
from blindsr.metrics import psnr_ssim_y
from blindsr.restoration import restore
from KernelPredictor import KernelPredictor
from KernelPredictor.covariance import PIXEL_VARIANCE
from KernelPredictor.predictor import Prediction, predictor_path
from logbook import RESULTS, append, fingerprint, read
from NonblindSR.tiling import pretrained_nonblind
from NonblindSR.weights import LEAST_SIGMA_X1, shipped_weights

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

WEIGHTS = np.array([0.299, 0.587, 0.114])
"""Luma of ITU-R BT.601."""


@dataclass(frozen=True)
class Damage:
    """What happens to a picture after the blur."""

    name: str
    sigma: float = 0.0
    """Standard deviation of the noise in grey levels; at mid-grey, where it depends on brightness."""
    poisson: bool = False
    """Whether it does: variance σ²·(0.1 + 0.9·x/½)."""
    quality: int | None = None
    """Of JPEG (4:2:0), or none."""
    sharp: bool = False
    """Whether the picture is not blurred at all."""


DAMAGES = (
    Damage("clean"),
    Damage("JPEG 95", quality=95),
    Damage("JPEG 75", quality=75),
    Damage("JPEG 40", quality=40),
    Damage("σ 5", sigma=5),
    Damage("σ 10, JPEG 90", sigma=10, quality=90),
    Damage("σ 15", sigma=15),
    Damage("σ 20, JPEG 75", sigma=20, quality=75),
    Damage("σ 40", sigma=40),
    Damage("Poisson σ 10", sigma=10, poisson=True),
    Damage("Poisson σ 17, JPEG 90", sigma=17, poisson=True, quality=90),
)
SHARP = (
    Damage("sharp", sharp=True),
    Damage("sharp, JPEG 75", quality=75, sharp=True),
    Damage("sharp, σ 5", sigma=5, sharp=True),
    Damage("sharp, σ 15", sigma=15, sharp=True),
)
"""And at x1: such pictures should come out as they are, or better."""
MOST = 100.0
"""PSNR in dB of a picture that nothing happened to."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/photographs.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of photographs; the last --held-out by name are taken."""
    held_out: int = 40
    """As in the trainings."""
    pictures: int = 3
    """Photographs for each kind of damage, each kind's begin where the last one's end."""
    scales: tuple[int, ...] = (2, 4)
    """Scale factors."""
    kinds: tuple[str, ...] = tuple(damage.name for damage in (*DAMAGES, *SHARP))
    """Kinds of damage."""
    predictor: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the kernel predictor; without it, the shipped ones for photographs."""
    nonblind: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of USRNet; without it, the shipped ones for photographs."""
    sigma: float = 10.0
    """Noise level told, in grey levels, where the predictor's weights tell none."""
    oracles: bool = True
    """Also with the true noise level, with the true kernel, and with both."""
    search: bool = False
    """Also with the search, as the commands do by default."""
    results: Path = RESULTS
    """Folder of the records."""


@dataclass(frozen=True)
class Photograph:
    """A picture made from a photograph, with all that is known of it."""

    hr: Pixels
    """H×W×3, multiples of the scale factor."""
    lr: Pixels
    """h×w×3."""
    covariance: Floats
    """Of the blur, 2×2, HR pixels², x first."""
    kernel: Floats
    """k×k, by correlation, its middle over the middle of a block."""
    sigma: float
    """The white noise, in grey levels, that leaves as much error in the luma."""


def gaussian(covariance: Floats, scale_factor: int) -> Floats:
    """The kernel of that covariance that puts each LR pixel over the middle of its s×s block."""
    half = math.ceil(4 * math.sqrt(np.linalg.eigvalsh(covariance)[-1]) + scale_factor / 2)
    offset = np.arange(-half, half + 1) - (scale_factor - 1) / 2
    precision = np.linalg.inv(covariance)
    x, y = offset[None, :], offset[:, None]
    kernel = np.exp(-0.5 * (precision[0, 0] * x * x + 2 * precision[0, 1] * x * y + precision[1, 1] * y * y))
    return kernel / kernel.sum()


def make(path: Path, damage: Damage, scale_factor: int, seed: int) -> Photograph:
    """Blur, shrink and damage a photograph."""
    rng = np.random.default_rng(seed)
    with Image.open(path) as file:
        hr = np.asarray(file.convert("RGB"))
    height, width = (length - length % scale_factor for length in hr.shape[:2])
    hr = hr[:height, :width]
    low, high = variance_range(scale_factor)
    angle = rng.uniform(0, math.pi)
    axes = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if scale_factor == 1:  # uniform in pixels, or most pictures would be strongly blurred
        variances = rng.uniform(math.sqrt(low), math.sqrt(high), 2) ** 2
    else:
        variances = rng.uniform(low, high, 2)
    covariance = axes @ np.diag(variances) @ axes.T
    kernel = gaussian(covariance, scale_factor)
    if damage.sharp:
        covariance, kernel = np.zeros((2, 2)), np.ones((1, 1))
    planes = [ndimage.correlate(hr[:, :, c].astype(np.float64), kernel, mode="mirror") for c in range(3)]
    clean = np.stack(planes, axis=-1)[::scale_factor, ::scale_factor]
    variance = 0.1 + 0.9 * clean / 127.5 if damage.poisson else np.ones_like(clean)
    noisy = clean + damage.sigma * np.sqrt(variance.clip(0)) * rng.standard_normal(clean.shape)
    lr = np.rint(noisy.clip(0, 255)).astype(np.uint8)
    if damage.quality is not None:
        lr = as_jpeg(lr, damage.quality)
    error = ((lr - clean) @ WEIGHTS).std()
    return Photograph(hr, lr, covariance, kernel, float(error / np.linalg.norm(WEIGHTS)))


def as_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """What a JPEG file (4:2:0) keeps of a picture."""
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(memory).convert("RGB"))


def as_tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255


def kernel_error(prediction: Prediction, truth: Floats, scale_factor: int) -> float:
    """Frobenius norm of the error of log(Σ/s² + I/12), read off the kernel that is used."""
    kernel = prediction.kernel[0, 0].double().numpy()
    y, x = np.mgrid[: len(kernel), : len(kernel)]
    y, x = (axis - (kernel * axis).sum() for axis in (y, x))
    found = np.array([[(kernel * a * b).sum() for a in (x, y)] for b in (x, y)])

    def log(covariance: Floats) -> Floats:
        values, vectors = np.linalg.eigh(covariance / scale_factor**2 + PIXEL_VARIANCE * np.eye(2))
        return vectors @ np.diag(np.log(values)) @ vectors.T

    return float(np.linalg.norm(log(found) - log(truth)))


def measure(
    photograph: Photograph,
    scale_factor: int,
    predictor: KernelPredictor,
    nonblind: Callable[..., Tensor],
    options: Options,
) -> dict[str, Any]:
    """Y-PSNR of each method on one picture, and what the predictor said of it."""
    lr = as_tensor(photograph.lr)
    prediction = predictor.predict(lr, scale_factor)
    read_sigma = options.sigma / 255 if prediction.sigma is None else prediction.sigma
    told = max(read_sigma, LEAST_SIGMA_X1 / 255 if scale_factor == 1 else 0.0)  # as the commands do
    ours = align(prediction.kernel, scale_factor)
    true_kernel = torch.from_numpy(photograph.kernel).float()[None, None]
    true_sigma = photograph.sigma / 255

    def psnr(pixels: Pixels) -> float:
        return min(MOST, psnr_ssim_y(pixels, photograph.hr, scale_factor)[0])

    def restored(kernel: Tensor, sigma: float) -> float:
        return psnr(to_uint8(restore(nonblind, lr, kernel, scale_factor, sigma, "reflect")))

    enlarged = np.asarray(Image.fromarray(photograph.lr).resize(photograph.hr.shape[1::-1], Image.Resampling.BICUBIC))
    estimate = Estimate(ours, None, losses=[], seconds=0.0, seed=0, **prediction.findings())
    alone = is_left_alone(estimate, True, 255 * told)
    scores = {"bicubic": psnr(enlarged), "ours": psnr(enlarged) if alone else restored(ours, told)}
    if options.search:
        scores["search"] = psnr(super_resolve(photograph.lr, scale_factor)[0])
    if options.oracles:
        scores["true σ"] = restored(ours, true_sigma)
        scores["true kernel"] = restored(true_kernel, told)
        scores["both"] = restored(true_kernel, true_sigma)
    return {
        "psnr": scores,
        "made": kernel_error(prediction, photograph.covariance, scale_factor),
        "expected": prediction.expected_error,
        "sigma": 255 * read_sigma,
        "true sigma": photograph.sigma,
    }


def measure_scale(scale_factor: int, paths: list[Path], options: Options) -> None:
    """Take down what is not on record yet."""
    predictor_file = options.predictor or predictor_path(True, scale_factor)
    weights = predictor_file, options.nonblind or shipped_weights(True, scale_factor)
    predictor = KernelPredictor.from_pretrained(weights[0])
    nonblind = pretrained_nonblind(weights[1], torch.device("cpu"))
    log = options.results / "photographs.jsonl"
    known = [record.what for record in read(log)]
    same = {"oracles": options.oracles, "fingerprint": fingerprint(*weights)}
    if options.search:
        same["search"] = True
    kinds = (*DAMAGES, *SHARP) if scale_factor == 1 else DAMAGES
    for (kind, damage), number in product(enumerate(kinds), range(options.pictures)):
        place = kind * options.pictures + number
        path, seed = paths[place % len(paths)], 1000 * scale_factor + place
        what = {"scale": scale_factor, "damage": damage.name, "picture": path.stem, "seed": seed, **same}
        if damage.name in options.kinds and what not in known:
            photograph = make(path, damage, scale_factor, seed)
            append(log, what, measure(photograph, scale_factor, predictor, nonblind, options))


def main() -> int:
    options = parse(Options, __doc__ or "")
    known_kinds = [damage.name for damage in (*DAMAGES, *SHARP)]
    if unknown := set(options.kinds) - set(known_kinds):
        raise ValueError(f"--kinds {' '.join(sorted(unknown))}: there are {', '.join(known_kinds)}")
    paths = sorted((p for p in options.images.rglob("*") if is_image_name(p)), key=lambda path: path.name)
    paths = paths[-options.held_out :]
    if not paths:
        raise ValueError(f"--images {options.images}: holds no picture")
    for scale_factor in options.scales:
        measure_scale(scale_factor, paths, options)
    print(tables.photographs(options.results))
    return 0


if __name__ == "__main__":
    run(main)
