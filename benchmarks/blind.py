"""Blind deblurring at x1 beside published methods: blind Richardson–Lucy and Double-DIP.

The pictures are those of deblurring.py, blurred with kernels of the project's families. scikit-image 0.26 has no
blind deconvolution, and its richardson_lucy begins flat with each call, so that the alternation of Fish et al. (JOSA
A, 1995) is written out here. Of it the best start and the best number of cycles count, which only who knows the sharp
photograph can choose, and it is told how large the kernel is. Ours is ``--preset prediction``: at x1 a search changes
hardly anything. Double-DIP and DIP-FKP under the mixed prior have the paper's settings, 1000 iterations from a fixed
start, and the best of the noise levels that USRNet is told counts.

python benchmarks/blind.py --images ../photographs/predictor/bsds500/
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from scipy import fft

import tables
from blindsr import super_resolve
from blindsr.checks import require_choice
from blindsr.command import parse, run
from blindsr.estimation import place
from blindsr.images import to_uint8
from blindsr.kernel_families import FAMILIES
from blindsr.metrics import psnr_ssim_y
from blindsr.paths import pretrained_path
from blindsr.restoration import restore
from deblurring import BORDER, SHAVED, chosen, make
from DIPFKP.estimator import preset, pretrained_estimator
from DIPFKP.settings import DIPModel
from KernelPredictor.predictor import predictor_path
from logbook import RESULTS, Values, What, fingerprint, measured
from NonblindSR.tiling import pretrained_nonblind
from NonblindSR.weights import LEAST_SIGMA_X1, shipped_weights
from photographs import Floats, Pixels, as_tensor

Method = Literal["input", "ours", "blind Richardson–Lucy", "Double-DIP", "DIP-FKP, mixed prior", "true kernel"]
METHODS: tuple[Method, ...] = ("input", "ours", "blind Richardson–Lucy", "true kernel")
MODELS: dict[str, tuple[DIPModel, str | None]] = {
    "Double-DIP": ("DoubleDIP", None),
    "DIP-FKP, mixed prior": ("DIPFKP", "FKP_mixed_x1.pt"),
}
"""Searches with the paper's settings, from its fixed start: the model, and the prior where there is one."""
TOLD = (2, 5, 10)
"""Grey levels of noise that USRNet is told with their kernels, which are not exact."""
CYCLES = (1, 2, 4, 8, 16, 32, 64)
"""Of blind Richardson–Lucy: numbers of cycles to choose from."""
STEPS = 5
"""Of each cycle, for the kernel and then for the picture."""
STARTS = (1.0, 1.5, 2.0, 3.0)
"""Standard deviations in pixels of Gaussian kernels that it starts from; flat ones did worse."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/blind.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of photographs; the last --held-out by name are taken."""
    held_out: int = 40
    """As in the trainings."""
    pictures: int = 5
    """How many of them, evenly spaced."""
    kernels: tuple[str, ...] = ("gaussian", "motion", "disk")
    """Families of kernels."""
    noises: tuple[float, ...] = (0, 5)
    """Standard deviations of the noise in grey levels of 255."""
    methods: tuple[Method, ...] = METHODS
    """Which methods; those with the paper's settings take minutes a picture."""
    channels: int = 128
    """Of the image network of these (paper: 128)."""
    results: Path = RESULTS
    """Folder of the records."""


def step(estimate: Floats, other: Floats, data: Floats) -> Floats:
    """One step of Richardson–Lucy for ``estimate``, whose periodic convolution with ``other`` is to be ``data``.

    Arrays 3×H×W, or H×W for a kernel around [0, 0]; where the estimate is 0 it stays so.
    """
    size, known = data.shape[-2:], fft.rfft2(other)
    expected = fft.irfft2(known * fft.rfft2(estimate), size)
    return estimate * fft.irfft2(known.conj() * fft.rfft2(data / expected.clip(1e-6)), size).clip(0)


def blind_richardson_lucy(data: Floats, side: int, width: float) -> Iterator[Floats]:
    """The picture after each cycle of Fish et al.: the kernel's steps, the picture held, then the picture's.

    Args:
        data: 3×H×W in [0, 1].
        side: of the kernel.
        width: standard deviation of the Gaussian that it starts from.
    """
    places = [fft.fftfreq(length, 1 / length) for length in data.shape[-2:]]
    kernel = np.outer(*(np.exp(-((place / width) ** 2) / 2) * (abs(place) <= side // 2) for place in places))
    kernel, picture = kernel / kernel.sum(), data
    while True:
        for _ in range(STEPS):
            kernel = step(kernel, picture, data).sum(axis=0)
            kernel = kernel / kernel.sum()
        for _ in range(STEPS):
            picture = step(picture, kernel, data)
        yield picture


def deconvolved(blurred: Pixels, side: int) -> Iterator[Pixels]:
    """What blind Richardson–Lucy makes of a picture, continued by its mirror image, with each of its settings."""
    planes = blurred.transpose(2, 0, 1) / 255
    data = np.pad(planes, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)), mode="symmetric")
    for width in STARTS:
        for cycle, picture in zip(range(1, max(CYCLES) + 1), blind_richardson_lucy(data, side, width), strict=False):
            if cycle in CYCLES:
                inside = picture[:, BORDER:-BORDER, BORDER:-BORDER].transpose(1, 2, 0)
                yield np.rint(255 * inside.clip(0, 1)).astype(np.uint8)


def measure(what: What, paths: dict[str, Path]) -> Values:
    """One photograph with one method."""
    method, noise = what["method"], what["noise"]
    draw = torch.Generator().manual_seed(1000 + what["seed"])
    kernel = FAMILIES[what["kernels"]](1, 1, draw)
    sharp, blurred = make(paths[what["picture"]], kernel[0, 0].double().numpy(), noise, what["seed"])

    def psnr(pixels: Pixels) -> float:
        return round(psnr_ssim_y(pixels, sharp, SHAVED)[0], 3)

    if method == "input":
        return {"psnr": psnr(blurred)}
    if method == "blind Richardson–Lucy":
        return {"psnr": max(map(psnr, deconvolved(blurred, kernel.shape[-1])))}
    cpu, told = torch.device("cpu"), max(noise, LEAST_SIGMA_X1) / 255
    if method == "true kernel":
        nonblind = pretrained_nonblind(shipped_weights(True, 1), cpu)
        return {"psnr": psnr(to_uint8(restore(nonblind, as_tensor(blurred), kernel, 1, told, "reflect")))}
    if method == "ours":
        settings = replace(preset("prediction"), circular=False)
        estimator = pretrained_estimator(1, cpu, settings, path_predictor=predictor_path(True, 1))
        result, estimate = super_resolve(blurred, 1, estimator=estimator)
        left = bool(np.array_equal(result, blurred))
        return {
            "psnr": psnr(result),
            "left": left,
            "notes": list(estimate.notes),
            "seconds": round(estimate.seconds, 1),
        }
    model, prior = MODELS[method]
    settings = replace(preset("paper", model), circular=False, channels=what["channels"])
    path = None if prior is None else pretrained_path(prior)
    estimate = pretrained_estimator(1, cpu, settings, model, path_prior=path)(as_tensor(blurred), 1, seed=0)
    found = place(estimate, 1, photograph=True).kernel
    results = {told: super_resolve(blurred, 1, kernel=found, sigma=told / 255)[0] for told in TOLD}
    scores = {str(told): psnr(result) for told, result in results.items()}
    return {"psnr": max(scores.values()), "psnr_told": scores, "seconds": round(estimate.seconds, 1)}


def main() -> int:
    options = parse(Options, __doc__ or "")
    for family in options.kernels:
        require_choice("kernels", family, tuple(FAMILIES))
    paths = chosen(options.images, options.held_out, options.pictures)
    weights = shipped_weights(True, 1)
    for method in options.methods:
        parts: list[object] = [weights] if method not in ("input", "blind Richardson–Lucy") else []
        if method in MODELS and (prior := MODELS[method][1]) is not None:
            parts.append(pretrained_path(prior))
        if method == "ours":
            parts += [predictor_path(True, 1), preset("prediction")]
        what: What = {"method": method, "fingerprint": fingerprint(*parts)}
        if method in MODELS:
            what["channels"] = options.channels
        row = [
            what | {"kernels": family, "noise": noise, "picture": path.stem, "seed": seed}
            for seed, path in enumerate(paths)
            for family in options.kernels
            for noise in options.noises
        ]
        measured(options.results / "blind.jsonl", [row], partial(measure, paths={path.stem: path for path in paths}))
    print(tables.blind(options.results))
    return 0


if __name__ == "__main__":
    run(main)
