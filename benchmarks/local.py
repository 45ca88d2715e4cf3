"""What --local gains over one kernel where the blur varies in a known way, and what it loses where it does not.

The pictures are made here, with NumPy and Pillow and none of the project's own degradation. Photographs that no
training saw (those of BSDS500 that the trainings hold out, the last by name) are small: four of them are laid side by
side, with soft transitions. Each pixel of the LR picture sees the middle of its block through a Gaussian of its own.

python benchmarks/local.py --images ../photographs/predictor/bsds500/
"""

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

import tables
from blindsr.command import parse, run
from blindsr.field import PITCH, KernelField
from blindsr.images import is_image_name, to_uint8
from blindsr.kernels import align, variance_range
from blindsr.metrics import psnr_ssim_y
from blindsr.paths import pretrained_path
from blindsr.restoration import restore
from KernelPredictor import KernelPredictor
from KernelPredictor.field import EVIDENCE, HOP, SHARED, UNALIASED, WINDOW, read_field
from KernelPredictor.predictor import predictor_path
from logbook import RESULTS, append, fingerprint, read
from NonblindSR.tiling import pretrained_nonblind
from NonblindSR.weights import PHOTOGRAPHS
from photographs import Floats, Pixels, as_jpeg, as_tensor

KINDS = ("uniform", "gradient", "radial", "two depths", "far depths")
FAR = 2.2
"""Standard deviation in LR pixels of blur that no kernel has, as of what lies far out of focus."""
SIDES = (321, 481)
"""Rows and columns of a photograph of BSDS500, lying."""
TRANSITION = 33
"""Pixels over which one photograph becomes the next."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/local.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of photographs; the last --held-out by name are taken."""
    held_out: int = 20
    """Of the 40 that the trainings hold out, the constants of the field were chosen on the first 20."""
    pictures: int = 3
    """Pictures of each kind, of four photographs each."""
    scales: tuple[int, ...] = (2, 4)
    """Scale factors."""
    kinds: tuple[str, ...] = KINDS
    """How the blur varies."""
    oracle: bool = False
    """Also with the true field."""
    sigma: float = 0.0
    """Standard deviation of noise, in grey levels."""
    quality: int | None = None
    """Of JPEG (4:2:0), as which the pictures are stored; without it they are not compressed."""
    show: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that gets the pictures, to be looked at."""
    results: Path = RESULTS
    """Folder of the records."""


def lying(path: Path) -> Floats:
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB"), dtype=np.float64)
    pixels = np.rot90(pixels) if pixels.shape[0] > pixels.shape[1] else pixels
    return pixels[: SIDES[0], : SIDES[1]]


def beside(left: Floats, right: Floats) -> Floats:
    rise = np.linspace(0, 1, TRANSITION + 2)[1:-1, None]
    middle = (1 - rise) * left[:, -TRANSITION:] + rise * right[:, :TRANSITION]
    return np.hstack([left[:, :-TRANSITION], middle, right[:, TRANSITION:]])


def four(paths: list[Path]) -> Pixels:
    """Four photographs as one picture."""
    above, below = (beside(lying(first), lying(second)).swapaxes(0, 1) for first, second in (paths[:2], paths[2:]))
    return np.rint(beside(above, below).swapaxes(0, 1)).astype(np.uint8)


def covariances(kind: str, height: int, width: int, scale_factor: int, rng: np.random.Generator) -> Floats:
    """Of the blur at each LR pixel: h×w×3, entries xx, yy, xy in HR pixels²."""
    low, high = variance_range(scale_factor)
    y, x = np.mgrid[:height, :width]
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    if kind == "uniform":
        angle, (first, second) = rng.uniform(0, math.pi), rng.uniform(low, high, 2)
        cos, sin = math.cos(angle), math.sin(angle)
        one = [first * cos**2 + second * sin**2, first * sin**2 + second * cos**2, (first - second) * cos * sin]
        return np.broadcast_to(one, (height, width, 3))
    if kind == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        along = 2 * x / width * math.cos(angle) + 2 * y / height * math.sin(angle)
        along = (along - along.min()) / np.ptp(along)
        least, most = math.sqrt(1.2 * low), math.sqrt(0.9 * high)
        variance = (least + (most - least) * along) ** 2
        return np.stack([variance, variance, np.zeros_like(variance)], axis=-1)
    if kind == "radial":  # a lens: round in the middle, drawn out away from it in the corners
        far = ((2 * x / width) ** 2 + (2 * y / height) ** 2) / 2
        around = 1.3 * low + (0.4 * high - 1.3 * low) * far
        outwards, squared = 0.5 * high * far, np.maximum(x**2 + y**2, 1e-9)
        entries = [
            around + outwards * x * x / squared,
            around + outwards * y * y / squared,
            outwards * x * y / squared,
        ]
        return np.stack(entries, axis=-1)
    left, top = rng.uniform(-0.3, 0.3, 2)
    sharp = ((2 * x / width - left) / 0.6) ** 2 + ((2 * y / height - top) / 0.7) ** 2 < 1
    variance = np.where(sharp, 1.3 * low, (FAR * scale_factor) ** 2 if kind == "far depths" else 0.8 * high)
    return np.stack([variance, variance, np.zeros_like(variance)], axis=-1)


def blurred(hr: Pixels, field: Floats, scale_factor: int) -> Floats:
    """Each LR pixel's mean of the HR picture, mirrored at its border, under the pixel's own Gaussian."""
    height, width = field.shape[:2]
    xx, yy, xy = np.moveaxis(field.astype(np.float32), -1, 0)
    determinant = xx * yy - xy * xy
    half = math.ceil(4 * math.sqrt(max(xx.max(), yy.max())) + scale_factor / 2)
    padded = np.pad(hr.astype(np.float32), ((half, half), (half, half), (0, 0)), mode="reflect")
    total, weights = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    rows, cols = height * scale_factor, width * scale_factor
    for top, left in product(range(2 * half + 1), repeat=2):
        dx, dy = (place - half - (scale_factor - 1) / 2 for place in (left, top))
        weight = np.exp(-0.5 * (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / determinant)
        weights += weight
        total += weight[..., None] * padded[top : top + rows : scale_factor, left : left + cols : scale_factor]
    return total / weights[..., None]


def true_field(field: Floats, scale_factor: int) -> KernelField:
    """The field that was made, pixel by pixel, as the oracle takes it."""
    return KernelField(torch.from_numpy(field.astype(np.float64)), scale_factor, (field.shape[0], field.shape[1]))


def measure(
    hr: Pixels,
    lr: Pixels,
    field: Floats,
    scale_factor: int,
    networks: tuple[KernelPredictor, KernelPredictor, Any],
    options: Options,
) -> tuple[dict[str, Any], dict[str, Pixels]]:
    """Y-PSNR with one kernel, with the field that is read and with the true one; and the pictures."""
    predictor, strong, nonblind = networks
    image = as_tensor(lr)
    prediction = predictor.predict(image, scale_factor)
    found = read_field(predictor, image, scale_factor, strong)
    enlarged = Image.fromarray(lr).resize(hr.shape[1::-1], Image.Resampling.BICUBIC)

    def restored(kernel: Tensor | KernelField) -> Pixels:
        return to_uint8(restore(nonblind, image, kernel, scale_factor, prediction.sigma or 0.0, "reflect"))

    made = {"bicubic": np.asarray(enlarged), "one kernel": restored(align(prediction.kernel, scale_factor))}
    made["--local"] = made["one kernel"] if found is None else restored(found)
    if options.oracle:
        made["true field"] = restored(true_field(field, scale_factor))
    psnr = {name: psnr_ssim_y(pixels, hr, scale_factor)[0] for name, pixels in made.items()}
    return {"psnr": psnr, "found": found is not None}, made


def main() -> int:
    options = parse(Options, __doc__ or "")
    if unknown := set(options.kinds) - set(KINDS):
        raise ValueError(f"--kinds {' '.join(sorted(unknown))}: there are {', '.join(KINDS)}")
    paths = sorted((p for p in options.images.rglob("*") if is_image_name(p)), key=lambda path: path.name)
    paths = paths[-options.held_out :]
    if not paths:
        raise ValueError(f"--images {options.images}: holds no picture")
    weights = predictor_path(True), predictor_path(True, 1), pretrained_path(PHOTOGRAPHS)
    predictor, strong = (KernelPredictor.from_pretrained(path) for path in weights[:2])
    networks = predictor, strong, pretrained_nonblind(weights[2], torch.device("cpu"))
    log = options.results / "local.jsonl"
    known = [record.what for record in read(log)]
    settings = fingerprint(*weights, WINDOW, HOP, SHARED, EVIDENCE, UNALIASED, PITCH)
    for number, scale_factor, kind in product(range(options.pictures), options.scales, options.kinds):
        chosen = [paths[(4 * number + place) % len(paths)] for place in range(4)]
        what = {
            "scale": scale_factor,
            "kind": kind,
            "sigma": options.sigma,
            "quality": options.quality,
            "oracle": options.oracle,
            "picture": number,
        }
        what |= {"photographs": " ".join(path.stem for path in chosen), "fingerprint": settings}
        if what in known:
            continue
        rng = np.random.default_rng(1000 * scale_factor + 10 * number + KINDS.index(kind))
        hr = four(chosen)
        height, width = (length // scale_factor for length in hr.shape[:2])
        hr = hr[: scale_factor * height, : scale_factor * width]
        field = covariances(kind, height, width, scale_factor, rng)
        noisy = blurred(hr, field, scale_factor) + options.sigma * rng.standard_normal((height, width, 3))
        lr = np.rint(noisy.clip(0, 255)).astype(np.uint8)
        if options.quality is not None:
            lr = as_jpeg(lr, options.quality)
        values, made = measure(hr, lr, field, scale_factor, networks, options)
        append(log, what, values)
        if options.show is not None:
            folder = options.show / f"{kind.replace(' ', '-')}-{number}-x{scale_factor}"
            folder.mkdir(parents=True, exist_ok=True)
            for name, pixels in {"original": hr, "input": lr, **made}.items():
                Image.fromarray(pixels).save(folder / f"{name.strip('-').replace(' ', '-')}.png")
    print(tables.local(options.results))
    return 0


if __name__ == "__main__":
    run(main)
