"""The pictures of docs/photographs.md: inputs, what the commands there make of them, and crops side by side.

The inputs are made here from the pictures that come inside scikit-image, with NumPy and Pillow alone.

python benchmarks/photograph_examples.py
"""

import io
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import run as run_process
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage import data

from blindsr.command import parse, run
from blindsr.paths import data_folder

Floats = npt.NDArray[np.float64]

GAP = 6
"""Pixels between two crops."""
CROP_QUALITY = 88
"""Of the JPEG files of the crops."""


@dataclass(frozen=True)
class Example:
    """A picture, and where to look at it."""

    name: str
    """File name of the input."""
    make: Callable[[np.random.Generator], bytes]
    """The input file."""
    corner: tuple[int, int]
    """Left and upper end of the crop, in pixels of the input."""
    remedy: str = ""
    """Options of a second result to show."""
    size: tuple[int, int] = (150, 120)
    """Of the crop, in pixels of the input."""
    scale: int = 2
    """Scale factor."""

    def commands(self) -> dict[str, str]:
        """What makes each result, by the folder it goes to."""
        plain = f"blindsr {self.name} --sf {self.scale} --preset prediction"
        if not self.remedy:
            return {"sharp": f"{plain} -o sharp/"}
        return {"sharp": f"{plain} -o sharp/", "again": f"{plain} {self.remedy} -o again/"}


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/photograph_examples.py`` takes."""

    folder: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where inputs and results go and stay; without it, a temporary folder."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = data_folder().parent / "docs" / "photographs"
    """Where the crops go."""
    only: tuple[str, ...] = ()
    """Inputs to take, by the stem of their name; without it, all."""


def shrunk(pixels: npt.NDArray[Any], factor: int) -> Floats:
    """Averaged down, as a sensor's larger pixels do."""
    image = Image.fromarray(pixels)
    return np.asarray(image.reduce(factor), np.float64)


def stored(pixels: Floats, kind: str, quality: int = 0) -> bytes:
    """Rounded to 8 bits, as a file."""
    memory = io.BytesIO()
    options = {"quality": quality, "subsampling": "4:2:0"} if kind == "JPEG" else {}
    Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8)).save(memory, kind, **options)
    return memory.getvalue()


def noisy(pixels: Floats, sigma: float, rng: np.random.Generator) -> Floats:
    """With the noise of a sensor, of standard deviation sigma at mid-grey: a tenth of its variance is everywhere."""
    variance = 0.1 + 0.9 * pixels / 127.5
    return pixels + sigma * np.sqrt(variance) * rng.standard_normal(pixels.shape)


def phone(rng: np.random.Generator) -> bytes:
    return stored(noisy(shrunk(data.coffee(), 2), 3, rng), "JPEG", 90)


def old(rng: np.random.Generator) -> bytes:
    return stored(shrunk(data.astronaut(), 2), "JPEG", 35)


def scan(rng: np.random.Generator) -> bytes:
    return stored(data.page().astype(np.float64), "JPEG", 85)


def screenshot(rng: np.random.Generator) -> bytes:
    """A window with text, thin lines and flat colours, as a program draws it."""
    image = Image.new("RGB", (320, 200), "#f4f4f4")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 319, 21), fill="#2d5f8a")
    draw.text((8, 4), "Settings", fill="white", font=ImageFont.load_default(13))
    for row, (label, full) in enumerate((("Brightness", 90), ("Contrast", 45), ("Sharpness", 120))):
        top = 36 + 30 * row
        draw.text((12, top), label, fill="#202020", font=ImageFont.load_default(12))
        draw.rectangle((100, top + 2, 240, top + 12), outline="#606060")
        draw.rectangle((101, top + 3, 100 + full, top + 11), fill="#e08020")
        draw.text((250, top), f"{full} %", fill="#707070", font=ImageFont.load_default(10))
    for x in range(12, 240, 6):
        draw.line((x, 140, x + 40, 190), fill="#a03030" if x % 12 else "#3050a0")
    return stored(np.asarray(image, np.float64), "PNG")


def night(rng: np.random.Generator) -> bytes:
    return stored(noisy(0.8 * shrunk(data.rocket(), 2), 17, rng), "JPEG", 90)


def film(rng: np.random.Generator) -> bytes:
    """Grain of standard deviation 14 that reaches over about two pixels."""
    pixels = shrunk(data.camera(), 2)
    white = rng.standard_normal(pixels.shape)
    grain = np.mean([np.roll(white, shift, axis=(0, 1)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))], axis=0)
    return stored(pixels + 14 * grain / grain.std(), "JPEG", 92)


def motion(rng: np.random.Generator) -> bytes:
    """In motion along a row, by 9 pixels while the shutter was open."""
    pixels = shrunk(data.chelsea(), 1)
    return stored(np.mean([np.roll(pixels, x, axis=1) for x in range(-4, 5)], axis=0), "JPEG", 95)


def soft(rng: np.random.Generator) -> bytes:
    """Out of focus a little, at its own size."""
    blurred = ndimage.gaussian_filter(shrunk(data.coffee(), 1), (1.6, 1.6, 0), mode="mirror")
    return stored(noisy(blurred, 2, rng), "JPEG", 92)


def corners(rng: np.random.Generator) -> bytes:
    """As through a lens that is sharp in the middle only: a Gaussian blur, of 0.9 pixels in the corners."""
    pixels = shrunk(data.astronaut(), 1)
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    far = np.hypot(2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1) / math.sqrt(2)
    widths = np.linspace(0, 0.9, 10)
    weights = (1 - np.abs(0.9 * far[..., None] - widths) / widths[1]).clip(0)
    blurred = [ndimage.gaussian_filter(pixels, (sigma, sigma, 0)) for sigma in widths]
    return stored(noisy(np.einsum("rck,krcd->rcd", weights, blurred), 1, rng), "JPEG", 95)


EXAMPLES = (
    Example("phone.jpg", phone, (60, 40)),
    Example("old.jpg", old, (60, 10)),
    Example("scan.jpg", scan, (20, 30), "--sigma 10"),
    Example("screenshot.png", screenshot, (0, 80)),
    Example("night.jpg", night, (120, 60)),
    Example("film.jpg", film, (60, 20), "--sigma 30"),
    Example("motion.jpg", motion, (130, 60)),
    Example("soft.jpg", soft, (120, 80), size=(300, 240), scale=1),
    Example("corners.jpg", corners, (0, 380), "--local"),
)


def side_by_side(example: Example, folder: Path) -> Image.Image:
    """The crop of the input enlarged by bicubic interpolation, and of each result."""
    left, top = example.corner
    width, height = example.size
    scale = example.scale
    box = (scale * left, scale * top, scale * (left + width), scale * (top + height))
    with Image.open(folder / example.name) as file:
        given = file.convert("RGB")
    pictures = [given.resize((scale * given.width, scale * given.height), Image.Resampling.BICUBIC)]
    for results in example.commands():
        with Image.open(folder / results / example.name) as file:
            pictures.append(file.convert("RGB"))
    sheet = Image.new("RGB", (len(pictures) * (scale * width + GAP) - GAP, scale * height), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture.crop(box), (place * (scale * width + GAP), 0))
    return sheet


def main() -> int:
    options = parse(Options, __doc__ or "")
    unknown = set(options.only) - {Path(example.name).stem for example in EXAMPLES}
    if unknown:
        raise ValueError(f"--only {' '.join(sorted(unknown))}: no such example")
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        options.output.mkdir(parents=True, exist_ok=True)
        for number, example in enumerate(EXAMPLES):
            stem = Path(example.name).stem
            if options.only and stem not in options.only:
                continue
            (folder / example.name).write_bytes(example.make(np.random.default_rng(number)))
            for command in example.commands().values():
                print(command, flush=True)
                words = [sys.executable, "-m", *shlex.split(command), "--overwrite"]
                run_process(words, cwd=folder, check=True)
            crops = options.output / f"{stem}.jpg"
            side_by_side(example, folder).save(crops, quality=CROP_QUALITY)
            print(f"{crops}: {crops.stat().st_size / 1000:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
