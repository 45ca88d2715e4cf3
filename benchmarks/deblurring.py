"""Deblurring at x1 with the true kernel: USRNet beside scikit-image's Wiener filters and Richardson–Lucy.

The middles of photographs that no training saw, blurred with what lies around them by NumPy and SciPy, with white
noise, rounded. Of the Wiener filter and of Richardson–Lucy the best of several settings counts, which only who knows
the sharp photograph can choose; USRNet is told the noise level and no more. All see the picture continued by its
mirror image.

python benchmarks/deblurring.py --images ../photographs/predictor/bsds500/
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image
from scipy import ndimage
from skimage import restoration

import tables
from blindsr.command import parse, run
from blindsr.images import is_image_name, to_uint8
from blindsr.metrics import psnr_ssim_y
from blindsr.restoration import restore
from logbook import RESULTS, append, fingerprint, read
from NonblindSR.tiling import pretrained_nonblind
from NonblindSR.weights import shipped_weights
from photographs import Floats, Pixels, as_tensor, gaussian

BALANCES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Of the Wiener filter: how much smoothness counts against the data."""
ITERATIONS = (5, 15, 40)
"""Of Richardson–Lucy."""
SIDE = 128
"""Of the middles, in pixels."""
BORDER = 32
"""By how much pictures are continued for scikit-image's methods."""
SHAVED = 4
"""Border pixels that do not count."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/deblurring.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of photographs; the last --held-out by name are taken."""
    held_out: int = 40
    """As in the trainings."""
    pictures: int = 3
    """How many of them, evenly spaced."""
    widths: tuple[float, ...] = (0.7, 1.5, 3.0)
    """Standard deviations of the blur in pixels."""
    noises: tuple[float, ...] = (0, 2, 5, 10)
    """Standard deviations of the noise in grey levels of 255."""
    nonblind: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of USRNet; without it, the shipped ones for x1."""
    results: Path = RESULTS
    """Folder of the records."""


def chosen(folder: Path, held_out: int, count: int) -> list[Path]:
    """``count`` of the last ``held_out`` photographs of a folder by name, evenly spaced.

    Raises:
        ValueError: there are none.
    """
    paths = sorted((p for p in folder.rglob("*") if is_image_name(p)), key=lambda path: path.name)[-held_out:]
    if not paths:
        raise ValueError(f"--images {folder}: holds no picture")
    return paths[:: max(1, len(paths) // count)][:count]


def make(path: Path, kernel: Floats, noise: float, seed: int) -> tuple[Pixels, Pixels]:
    """The middle of a photograph, and what blur, noise and rounding make of it."""
    with Image.open(path) as file:
        whole = np.asarray(file.convert("RGB"))
    top, left = ((length - SIDE) // 2 for length in whole.shape[:2])
    middle = np.s_[top : top + SIDE, left : left + SIDE]
    planes = [ndimage.correlate(whole[:, :, c].astype(np.float64), kernel, mode="mirror") for c in range(3)]
    blurred = np.stack(planes, axis=-1)[middle]
    noisy = blurred + noise * np.random.default_rng(seed).standard_normal(blurred.shape)
    return whole[middle], np.rint(noisy.clip(0, 255)).astype(np.uint8)


def of_channels(blurred: Pixels, method: Callable[[Floats], Floats]) -> Pixels:
    """What a method for one channel in [0, 1] makes of a picture, continued by its mirror image."""
    padded = np.pad(blurred / 255, ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="symmetric")
    made = np.stack([method(padded[:, :, c]) for c in range(3)], axis=-1)[BORDER:-BORDER, BORDER:-BORDER]
    return np.rint(255 * made.clip(0, 1)).astype(np.uint8)


def classical(blurred: Pixels, kernel: Floats) -> dict[str, list[Pixels]]:
    """What scikit-image's methods make of a picture, one with each of their settings."""

    def unsupervised(channel: Floats) -> Floats:
        return restoration.unsupervised_wiener(channel, kernel, rng=0)[0]

    wiener = [of_channels(blurred, partial(restoration.wiener, psf=kernel, balance=balance)) for balance in BALANCES]
    lucy = [of_channels(blurred, partial(restoration.richardson_lucy, psf=kernel, num_iter=n)) for n in ITERATIONS]
    return {"Wiener": wiener, "unsupervised Wiener": [of_channels(blurred, unsupervised)], "Richardson–Lucy": lucy}


def main() -> int:
    options = parse(Options, __doc__ or "")
    paths = chosen(options.images, options.held_out, options.pictures)
    weights = options.nonblind or shipped_weights(True, 1)
    nonblind = pretrained_nonblind(weights, torch.device("cpu"))
    log = options.results / "deblurring.jsonl"
    known = [record.what for record in read(log)]
    for (number, path), width, noise in product(enumerate(paths), options.widths, options.noises):
        what = {"width": width, "noise": noise, "picture": path.stem, "fingerprint": fingerprint(weights)}
        if what in known:
            continue
        kernel = gaussian(width**2 * np.eye(2), 1)
        sharp, blurred = make(path, kernel, noise, number)
        sr = restore(
            nonblind, as_tensor(blurred), torch.from_numpy(kernel).float()[None, None], 1, noise / 255, "reflect"
        )
        made = {"input": [blurred], "USRNet": [to_uint8(sr)], **classical(blurred, kernel)}
        scores = {name: max(psnr_ssim_y(each, sharp, SHAVED)[0] for each in found) for name, found in made.items()}
        append(log, what, {"psnr": {name: round(score, 3) for name, score in scores.items()}})
    print(tables.deblurring(options.results))
    return 0


if __name__ == "__main__":
    run(main)
