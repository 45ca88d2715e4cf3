"""Several folders of results of the same pictures on one page, the pictures that differ most first."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from blindsr.batch.inputs import find_items, picture_paths
from blindsr.batch.pages import link, page_path, write_page
from blindsr.batch.previews import Pixels, result_picture
from blindsr.batch.records import Record, hash_file
from blindsr.batch.scores import SCORES, Score, number
from blindsr.batch.summary import read_records
from blindsr.degradation import modcrop
from blindsr.images import read_image, read_pixels, to_uint8
from blindsr.metrics import psnr_ssim_y

__all__ = ["Entry", "entries", "scored", "write_comparison"]

SHOWN = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".gif", ".avif", ".bmp")
"""Endings of what browsers show."""


@dataclass(frozen=True)
class Entry:
    """One folder's result of one picture."""

    picture: Path
    record: Record | None = None
    measured: dict[str, float] = field(default_factory=dict)
    """Scores by their keys, of a picture without a record."""

    def score(self, score: Score) -> float | None:
        return self.measured.get(score.key) if self.record is None else number(self.record, score.key)


@dataclass(frozen=True)
class View:
    """One picture of a row, as the template shows it."""

    label: str
    address: str | None
    """None for a file that browsers do not show."""
    lines: list[str]
    shift: tuple[float, float] = (0.0, 0.0)
    """By which part of its sides the picture lies too far to the lower right."""


@dataclass(frozen=True)
class Pair:
    """One row: what the folders made of one picture."""

    name: str
    views: list[View]
    ratio: float
    """Width over height."""
    difference: float
    """Largest root mean square difference to the first folder's picture in grey levels of 255; −1 where unknown."""
    scores: dict[str, float]
    """Largest absolute difference of each score to the first folder's."""
    note: str


@dataclass(frozen=True)
class Column:
    """One folder against the first."""

    label: str
    count: int
    scores: list[str]
    """Of each score the mean, and the mean paired difference with its standard error."""


def write_comparison(folders: Sequence[Path], output: Path) -> Path:
    """Write ``index.html`` into ``output``, with relative links to the pictures of ``folders``.

    A folder without records may hold pictures called after the inputs: another program's results. They are scored
    where the records of another folder tell the ground truth.

    Raises:
        FileNotFoundError: a folder does not exist or holds no picture.
        ValueError: the folders have no picture in common, or the page would replace one that is not ours.
        OSError: the page cannot be written.
    """
    if len(folders) < 2:
        raise ValueError("a comparison takes two folders or more")
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise ValueError(f"-o {output}: has a page of its own; choose another folder")
    labels = _labels(folders)
    results = {label: entries(folder) for label, folder in zip(labels, folders, strict=True)}
    counts = Counter(name for found in results.values() for name in found)
    names = sorted(name for name, count in counts.items() if count > 1)
    if not names:
        raise ValueError(f"{', '.join(map(str, folders))}: no two of them have a picture of the same name")
    results = {
        label: {
            name: scored(entry, [other[name] for other in results.values() if name in other])
            for name, entry in found.items()
        }
        for label, found in results.items()
    }
    pairs = [_pair(name, {label: found.get(name) for label, found in results.items()}, output) for name in names]
    path = page_path(output)
    known = [score for score in SCORES if any(score.key in pair.scores for pair in pairs)]
    write_page(
        path,
        "comparison.html",
        "comparison.js",
        title=" / ".join(labels),
        pairs=sorted(pairs, key=lambda pair: -pair.difference),
        columns=[_column(label, results, known) for label in labels],
        keys=known,
        alone=len(counts) - len(names),
    )
    return path


def _labels(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of those above as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise ValueError("the same folder is named twice")
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def entries(folder: Path) -> dict[str, Entry]:
    """Name → result of the finished pictures of a folder, or of all its pictures where it holds no records.

    Raises:
        FileNotFoundError: it does not exist or holds no picture.
    """
    records = [record for record in read_records(folder) if record.state == "finished"]
    found = {record.name: Entry(path, record) for record in records if (path := result_picture(folder, record))}
    return found if records else {path.stem: Entry(path) for path in picture_paths(folder)}


def scored(entry: Entry, others: Sequence[Entry]) -> Entry:
    """A picture without a record, scored by the ground truth of another folder's, where that is still as it was."""
    record = next((other.record for other in others if other.record and other.record.inputs.get("hr")), None)
    if entry.record is not None or record is None:
        return entry
    try:
        scale_factor, truth = int(record.settings["sf"]), _truth(record)
        if truth is None:
            return entry
        reference = to_uint8(modcrop(read_image(truth), scale_factor))
        psnr, ssim = psnr_ssim_y(read_pixels(entry.picture), reference, scale_factor)
    except (KeyError, OSError, TypeError, ValueError):  # of another size, say
        return entry
    return replace(entry, measured={"psnr": psnr, "ssim": ssim})


def _truth(record: Record) -> Path | None:
    """The HR picture of a prepared dataset's LR picture; None where it is gone, or another one by now."""
    path = Path(record.input)
    found = _truths(path.parent.parent, str(record.settings["estimator"]), int(record.settings["sf"])).get(path)
    return found if found is not None and found.is_file() and hash_file(found) == record.inputs["hr"] else None


@cache
def _truths(dataset: Path, model: str, scale_factor: int) -> dict[Path, Path | None]:
    return {item.lr: item.hr for item in find_items(str(dataset), model, scale_factor)}


def _pair(name: str, entries: dict[str, Entry | None], output: Path) -> Pair:
    there = {label: entry for label, entry in entries.items() if entry is not None}
    pixels = {label: _read(entry.picture) for label, entry in there.items()}
    first = next(iter(there))
    differences = {label: _difference(pixels[first], pixels[label]) for label in there if label != first}
    records = [entry.record for entry in there.values() if entry.record is not None]
    sizes = {image.shape[:2] for image in pixels.values() if image is not None}
    height, width = next(iter(sizes), (3, 4))
    scores = {
        score.key: max(map(abs, found))
        for score in SCORES
        if (found := [gain for label in there if (gain := _gain(there[first], there[label], score)) is not None][1:])
    }
    notes = ["the sizes differ"] * (len(sizes) > 1)
    notes += ["the inputs differ"] * (len({record.inputs.get("lr") for record in records}) > 1)
    views = [_view(label, there, first, differences.get(label), output) for label in there]
    known = [value for value in differences.values() if value is not None]
    return Pair(
        name=name,
        views=[*_input_view(records, (height, width), output), *views],
        ratio=width / height,
        difference=max(known, default=-1.0),
        scores=scores,
        note=", ".join(notes),
    )


def _read(path: Path) -> Pixels | None:
    try:
        return read_pixels(path)
    except (OSError, ValueError):
        return None


def _difference(one: Pixels | None, other: Pixels | None) -> float | None:
    """Root mean square in grey levels, row by row, so that large pictures need no third copy."""
    if one is None or other is None or one.shape != other.shape:
        return None
    total = sum(float(np.square(a.astype(np.float32) - b).sum()) for a, b in zip(one, other, strict=True))
    return math.sqrt(total / one.size)


def _gain(base: Entry, entry: Entry, score: Score) -> float | None:
    """By how much a score is above the first folder's, where both are finite."""
    value, against = entry.score(score), base.score(score)
    if value is None or against is None or not (math.isfinite(value) and math.isfinite(against)):
        return None
    return value - against


def _view(label: str, entries: dict[str, Entry], first: str, difference: float | None, output: Path) -> View:
    entry, lines = entries[label], []
    for score in SCORES:
        value, gain = entry.score(score), _gain(entries[first], entry, score)
        if value is not None:
            more = "" if gain is None or label == first else f" ({gain:+.{score.digits}f})"
            lines.append(f"{score.label} {score.show(value)}{more}")
    if difference is not None:
        lines.append(f"differs by {difference:.2f} of 255")
    return View(label, _address(entry.picture, output), lines)


def _input_view(records: list[Record], size: tuple[int, int], output: Path) -> list[View]:
    """The input as the browser enlarges it, over the results, where a record names it and it is still there."""
    for record in records:
        path, scale_factor = Path(record.input), record.settings.get("sf")
        if path.is_file() and isinstance(scale_factor, int):
            displaced = 0 if record.settings.get("photographs") else scale_factor - 1
            shift = (displaced / size[1], displaced / size[0])
            return [View("input", _address(path, output), ["enlarged by the browser"], shift)]
    return []


def _address(path: Path, output: Path) -> str | None:
    if path.suffix.lower() not in SHOWN:
        return None
    return link(*Path(os.path.relpath(path.resolve(), output.resolve())).parts)


def _column(label: str, entries: dict[str, dict[str, Entry]], known: list[Score]) -> Column:
    base, own = next(iter(entries.values())), entries[label]
    shown = []
    for score in known:
        values = [value for entry in own.values() if (value := entry.score(score)) is not None]
        text = score.show(float(np.mean(values))) if values else "unknown"
        gains = [gain for name in own if name in base and (gain := _gain(base[name], own[name], score)) is not None]
        if own is not base and len(gains) > 1:
            error = float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
            better = sum(gain > 0 for gain in gains)
            digits = score.digits
            text += f", {np.mean(gains):+.{digits}f} ± {error:.{digits}f}, better in {better} of {len(gains)}"
        shown.append(text)
    return Column(label, len(own), shown)
