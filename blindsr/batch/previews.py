"""Small pictures of large ones: before and after, cut where there is most to see.

They lie in the subfolder ``report`` of the results, named after what they show, so that a second report makes only
what is missing and no picture's name gets into theirs.
"""

import hashlib
import io
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from blindsr.batch.records import Record, hash_file
from blindsr.files import atomic_write
from blindsr.images import read_pixels

__all__ = [
    "FOLDER",
    "Previews",
    "Window",
    "densest_window",
    "encode",
    "enlarge",
    "make_previews",
    "own_file",
    "remove_stale_previews",
    "result_picture",
    "textured_window",
]

FOLDER = "report"
"""Subfolder of the results that the previews lie in."""
SIDES = (320, 480)
"""Most HR pixels of a preview, rows and columns, which are shown one to one."""
OVERVIEW = 96
"""Longer side of the whole picture, in pixels."""
QUALITY = 85
"""Of the WebP files; 20 kB for a preview of a photograph."""
PICTURES = (".png", ".jpg", ".webp", ".tif")
"""Endings of a result that is a picture."""
VERSION = 1
"""Goes up when previews are made in another way, so that old ones are not taken for new ones."""
_NAME = re.compile(r"[0-9a-f]{20}-(before|after|overview)\.webp")
_MARGIN = 4  # LR pixels around a window, for cubic interpolation

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Window:
    """A part of an LR picture, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, pixels: npt.NDArray, scale_factor: int = 1) -> npt.NDArray:
        """The window of the LR picture or, with a scale factor, of the HR picture over it."""
        rows = slice(scale_factor * self.top, scale_factor * (self.top + self.height))
        return pixels[rows, scale_factor * self.left : scale_factor * (self.left + self.width)]


@dataclass(frozen=True)
class Previews:
    """Names of files in the subfolder; None for what there is none of."""

    before: str | None = None
    after: str | None = None
    overview: str | None = None


def textured_window(lr: npt.NDArray, height: int, width: int) -> Window:
    """The height×width window (smaller where the picture is) of H×W×3 pixels with the largest gradient energy."""
    grey = lr.astype(np.float32).mean(axis=2)
    energy = np.zeros_like(grey)
    energy[:, :-1] += np.diff(grey, axis=1) ** 2
    energy[:-1] += np.diff(grey, axis=0) ** 2
    return densest_window(energy, height, width)


def densest_window(energy: npt.NDArray, height: int, width: int) -> Window:
    """The height×width window (smaller where the picture is) of H×W values with the largest sum."""
    rows, cols = min(height, energy.shape[0]), min(width, energy.shape[1])
    integral = cv2.integral(energy, sdepth=cv2.CV_64F)
    strips = integral[rows:] - integral[:-rows]
    top, left = divmod(int((strips[:, cols:] - strips[:, :-cols]).argmax()), energy.shape[1] - cols + 1)
    return Window(top, left, rows, cols)


def enlarge(lr: npt.NDArray, window: Window, scale_factor: int, aligned: bool) -> npt.NDArray:
    """A window of the LR picture by bicubic interpolation, lying over the same window of the result.

    Args:
        aligned: whether the result lies where image viewers put an enlarged picture; else it is displaced as the
            published data are, by s − 1 pixels (:mod:`blindsr.kernels`).
    """
    grown = cv2.copyMakeBorder(lr, *(_MARGIN,) * 4, cv2.BORDER_REPLICATE)
    part = Window(window.top, window.left, window.height + 2 * _MARGIN, window.width + 2 * _MARGIN).cut(grown)
    large = cv2.resize(part, None, fx=scale_factor, fy=scale_factor, interpolation=cv2.INTER_CUBIC)
    first = scale_factor * _MARGIN + (0 if aligned else scale_factor - 1)
    return large[first:, first:][: scale_factor * window.height, : scale_factor * window.width]


def make_previews(folder: Path, record: Record, make: bool = True) -> Previews:
    """The previews of one picture in ``folder / FOLDER``; only missing ones are made, and with ``make`` off none.

    A picture that cannot be read any more, or is not what the record says, is left out.

    Raises:
        OSError: a preview cannot be written.
    """
    geometry = _geometry(record)
    if geometry is None:
        return Previews()
    result = result_picture(folder, record)
    paths = _paths(folder, record, result, *geometry)
    if make and not paths["overview"].exists():  # the last one written
        lr = _read(Path(record.input), record.inputs.get("lr"))
        sr = None if result is None else _read(result, record.files[result.name])
        for part, pixels in _previews(lr, sr, *geometry).items():
            _write(paths[part], pixels)
    return Previews(**{part: path.name if path.exists() else None for part, path in paths.items()})


def remove_stale_previews(folder: Path, records: Callable[[], Iterable[Record]]) -> None:
    """Remove from ``folder / FOLDER`` the previews of results that have been replaced since.

    Args:
        records: reads the folder's records. What another process makes meanwhile is younger, and stays.
    """
    began = time.time()
    wanted = {
        path
        for record in records()
        if (geometry := _geometry(record)) is not None
        for path in _paths(folder, record, result_picture(folder, record), *geometry).values()
    }
    for path in (folder / FOLDER).glob("*.webp"):
        if path not in wanted and _NAME.fullmatch(path.name) and path.stat().st_mtime < began:
            path.unlink(missing_ok=True)


def _geometry(record: Record) -> tuple[int, bool] | None:
    """Scale factor, and whether the result is aligned; None where the record is nonsense."""
    scale_factor = record.settings.get("sf")
    if not (isinstance(scale_factor, int) and 1 <= scale_factor <= 8):
        return None
    return scale_factor, bool(record.settings.get("photographs"))


def _paths(folder: Path, record: Record, result: Path | None, scale_factor: int, aligned: bool) -> dict[str, Path]:
    content = (VERSION, record.inputs.get("lr"), result and record.files[result.name], scale_factor, aligned)
    key = hashlib.sha256(repr(content).encode()).hexdigest()[:20]
    return {part: folder / FOLDER / f"{key}-{part}.webp" for part in ("before", "after", "overview")}


def result_picture(folder: Path, record: Record) -> Path | None:
    """The super-resolved picture, where there is one."""
    found = (own_file(folder, record, ending) for ending in PICTURES)
    return next((path for path in found if path is not None), None)


def own_file(folder: Path, record: Record, ending: str) -> Path | None:
    """The result of a picture that ends so, if its record accounts for it, it is there and stays in its folder."""
    name = f"{record.name}{ending}"
    path = folder / name
    return path if name in record.files and Path(name).name == name and path.is_file() else None


def _read(path: Path, digest: str | None) -> Pixels | None:
    try:
        return read_pixels(path) if path.is_file() and hash_file(path) == digest else None
    except (OSError, ValueError):
        return None


def _previews(lr: Pixels | None, sr: Pixels | None, scale_factor: int, aligned: bool) -> dict[str, npt.NDArray]:
    """By part, the overview last."""
    whole = sr if sr is not None else lr
    if whole is None:
        return {}
    made: dict[str, npt.NDArray] = {}
    if lr is not None and (sr is None or sr.shape[:2] == tuple(scale_factor * side for side in lr.shape[:2])):
        rows, cols = (side // scale_factor for side in SIDES)
        window = textured_window(lr, rows, cols)
        made["before"] = enlarge(lr, window, scale_factor, aligned)
        if sr is not None:
            made["after"] = window.cut(sr, scale_factor)
    elif sr is not None:
        made["after"] = textured_window(sr, *SIDES).cut(sr)
    shrink = min(1.0, OVERVIEW / max(whole.shape[:2]))
    size = [max(1, round(shrink * side)) for side in whole.shape[1::-1]]
    return {**made, "overview": cv2.resize(whole, size, interpolation=cv2.INTER_AREA)}


def encode(pixels: npt.NDArray) -> bytes:
    """H×W×3 pixels as a WebP file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "WEBP", quality=QUALITY, method=2)
    return content.getvalue()


def _write(path: Path, pixels: npt.NDArray) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(encode(pixels))
