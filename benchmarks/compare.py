"""Two folders of results of the same pictures: paired differences, their intervals, and the parts that differ most.

python benchmarks/compare.py A/ B/

A difference is B minus A, of the pictures that both folders have a score of. With 95 % confidence the interval holds
the mean difference of such pictures (Student's t): one that contains 0 does not tell the folders apart.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import tyro
from matplotlib.figure import Figure
from scipy import stats

from blindsr.batch.comparison import Entry, entries, scored
from blindsr.batch.inputs import picture_paths
from blindsr.batch.previews import densest_window
from blindsr.batch.records import hash_file
from blindsr.batch.scores import SCORES, Score
from blindsr.checks import require_between, require_choice, require_positive
from blindsr.command import parse, run
from blindsr.files import atomic_write
from blindsr.images import read_pixels
from tables import markdown

SECONDS = (Score("seconds", "seconds, kernel", "s", 1), Score("sr_seconds", "seconds, picture", "s", 1))
DPI = 100
FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/compare.py`` takes."""

    folders: tyro.conf.Positional[tuple[Path, Path]]
    """Two folders of results."""
    figure: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("compare.png")
    """Picture of the parts that differ most."""
    parts: int = 4
    """How many pictures it shows a part of."""
    side: int = 96
    """Side of a part in HR pixels."""
    confidence: float = 0.95
    """Of the intervals."""

    def __post_init__(self) -> None:
        require_positive(self, "parts", "side")
        require_between(self, 0.5, 0.999, "confidence")
        require_choice("figure", self.figure.suffix, FORMATS)


class Difference(NamedTuple):
    """Paired differences of one score."""

    pictures: int
    first: float
    second: float
    mean: float
    interval: tuple[float, float]
    """NaN where one picture alone was compared."""
    higher: int
    """Pictures with the higher score in the second folder."""


class Part(NamedTuple):
    """Where two results of one picture differ most."""

    name: str
    error: float
    """Root mean square difference there, grey levels of 255."""
    views: dict[str, npt.NDArray[np.uint8]]
    """Title → pixels."""


Pairs = dict[str, tuple[Entry, Entry]]


def pairs(folders: tuple[Path, Path]) -> tuple[Pairs, list[str]]:
    """The pictures that both folders have, and what was left out, a line each.

    Raises:
        FileNotFoundError: a folder does not exist or holds no picture.
        ValueError: none is in both.
    """
    first, second = (entries(folder) for folder in folders)
    both = ((name, first[name], second[name]) for name in sorted(first.keys() & second.keys()))
    common = {name: (scored(one, [other]), scored(other, [one])) for name, one, other in both}
    same = {name: pair for name, pair in common.items() if _inputs_agree(*pair)}
    if not same:
        raise ValueError(f"{folders[0]}, {folders[1]}: no result of the same picture in both")
    left_out = []
    if alone := len(first.keys() ^ second.keys()):
        left_out.append(f"{alone} in one folder alone left out")
    if other := sorted(common.keys() - same.keys()):
        left_out.append(f"{len(other)} of different inputs left out: {', '.join(other)}")
    return same, left_out


def _inputs_agree(first: Entry, second: Entry) -> bool:
    """Whether both were made of one LR picture, as far as records tell."""
    if first.record is None or second.record is None:
        return True
    return first.record.inputs.get("lr") == second.record.inputs.get("lr")


def difference(common: Pairs, score: Score, confidence: float) -> Difference | None:
    """The paired differences of one score; None where no picture has it in both folders."""
    both = [(a.score(score), b.score(score)) for a, b in common.values()]
    known = [(a, b) for a, b in both if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)]
    if not known:
        return None
    gains, interval = np.array([b - a for a, b in known]), (math.nan, math.nan)
    if len(gains) > 1:
        error = stats.sem(gains)
        reach = stats.t.ppf((1 + confidence) / 2, len(gains) - 1) * error
        interval = float(gains.mean() - reach), float(gains.mean() + reach)
    first, second = np.mean(known, axis=0)
    return Difference(len(gains), float(first), float(second), float(gains.mean()), interval, int((gains > 0).sum()))


def table(common: Pairs, confidence: float) -> str:
    """Every score that the folders have in common, as Markdown."""
    rows = []
    for score in (*SCORES, *SECONDS):
        found = difference(common, score, confidence)
        if found is None:
            continue
        low, high = (f"{end:+.{score.digits + 1}f}" for end in found.interval)
        rows.append(
            [
                score.label,
                str(found.pictures),
                score.show(found.first),
                score.show(found.second),
                f"{found.mean:+.{score.digits + 1}f}",
                "" if math.isnan(found.interval[0]) else f"{low} to {high}",
                f"{found.higher} of {found.pictures}",
            ]
        )
    head = ["", "pictures", "A", "B", "B − A", f"{100 * confidence:g} % interval", "B higher"]
    return markdown(head, rows) if rows else "No scores in both folders: results of pictures without ground truth."


def part(name: str, pair: tuple[Entry, Entry], side: int) -> Part | None:
    """The part of a picture that differs most; None where the results cannot be laid over each other."""
    try:
        first, second = (read_pixels(entry.picture) for entry in pair)
    except (OSError, ValueError):
        return None
    if first.shape != second.shape:
        return None
    squares = np.square(first.astype(np.float32) - second).mean(axis=2)
    window = densest_window(squares, side, side)
    views = {"A": window.cut(first).copy(), "B": window.cut(second).copy()}  # the whole pictures are let go
    if (truth := _ground_truth(pair)) is not None and truth.shape[0] >= window.top + window.height:
        views["ground truth"] = window.cut(truth).copy()
    return Part(name, float(np.sqrt(window.cut(squares).mean())), views)


def _ground_truth(pair: tuple[Entry, Entry]) -> npt.NDArray[np.uint8] | None:
    """The HR picture that a record's scores refer to, where it still lies in the data set's folder."""
    for record in (entry.record for entry in pair):
        folder = Path(record.input).parent.parent / "HR" if record is not None else None
        if record is None or folder is None or not folder.is_dir() or not record.inputs.get("hr"):
            continue
        for path in picture_paths(folder):
            if path.stem == record.name and hash_file(path) == record.inputs["hr"]:
                return read_pixels(path)
    return None


def draw(parts: list[Part], path: Path, titles: tuple[str, str]) -> None:
    """The parts, a row each, A beside B and, where it is known, the ground truth."""
    columns = max(len(each.views) for each in parts)
    figure = Figure(figsize=(2.6 * columns, 2.8 * len(parts)), layout="constrained")
    for row, each in zip(figure.subplots(len(parts), columns, squeeze=False), parts, strict=True):
        for axis in row:
            axis.set_axis_off()
        for axis, (title, pixels) in zip(row, each.views.items(), strict=False):
            axis.imshow(pixels, interpolation="nearest")
            axis.set_title({"A": titles[0], "B": titles[1]}.get(title, title), fontsize=9)
        row[0].text(
            0, -0.02, f"{each.name}: {each.error:.1f} of 255", transform=row[0].transAxes, va="top", fontsize=9
        )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format=path.suffix[1:])


def main() -> int:
    options = parse(Options, __doc__ or "")
    common, left_out = pairs(options.folders)
    print(f"A: {options.folders[0]}\nB: {options.folders[1]}\n\n{table(common, options.confidence)}\n")
    for line in left_out:
        print(line)
    found = (part(name, pair, options.side) for name, pair in common.items())
    parts = sorted((each for each in found if each is not None), key=lambda each: -each.error)[: options.parts]
    if not parts:
        print("no picture: none has the same size in both folders")
        return 0
    titles = (f"A: {options.folders[0].name}", f"B: {options.folders[1].name}")
    draw(parts, options.figure, titles)
    print(options.figure)
    return 0


if __name__ == "__main__":
    run(main)
