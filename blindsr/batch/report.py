"""The results of a folder as a page to look at, index.html beside them; or several folders side by side.

One folder: python -m blindsr.batch.report FOLDER

Several folders of the same pictures: python -m blindsr.batch.report A/ B/ C/ -o compare/
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from blindsr.batch.comparison import write_comparison
from blindsr.batch.ellipses import Ellipses, read_ellipses
from blindsr.batch.explanation import AMPLIFIED, Search, read_search
from blindsr.batch.pages import data_uri, link, page_path, write_page
from blindsr.batch.previews import FOLDER, make_previews, own_file, remove_stale_previews, result_picture
from blindsr.batch.records import Record
from blindsr.batch.scores import MEASURES, SCORES, Score, number
from blindsr.batch.summary import read_records, require_results
from blindsr.command import parse, run
from blindsr.kernel_files import read_kernel
from blindsr.kernel_shape import KernelShape, kernel_png, kernel_shape

__all__ = ["write_report"]

BINS = 16
"""Bars of a histogram."""


NOT_CONVERGED = "the kernel had not converged; give the search more --iterations, or take --preset prediction"


@dataclass(frozen=True)
class Row:
    """One picture, as the template shows it."""

    name: str
    result: str | None
    """Relative address of the result."""
    record: str
    """And of its record."""
    input: str
    """What the input is shown as."""
    previews: dict[str, str | None]
    kernel: str | None
    """Address of the kernel's picture, or the picture itself."""
    kernel_file: str | None
    shape: str | None
    scores: list[tuple[str, str]]
    """(label, value with unit) of what is known."""
    values: dict[str, float]
    """What to sort by."""
    doubts: list[str]
    """What is doubtful and what to do about it."""
    given: list[str]
    """Options that were given."""
    ellipses: Ellipses | None
    """How the blur varies over the picture, where it was found to."""
    search: Search | None
    """What explains a bad result, where that was asked for."""


@dataclass(frozen=True)
class Spread:
    """One measure over all pictures."""

    label: str
    mean: str
    median: str
    lowest: str
    highest: str
    count: int
    bars: list[int]


def write_report(folder: Path, previews: bool = True) -> Path:
    """Write ``index.html`` from the records of ``folder``; the same records make the same page.

    Args:
        previews: also make the small pictures that are missing, which takes a moment for each.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the page would replace one that is not ours.
        OSError: the page or a preview cannot be written.
    """
    records = _records(folder)
    finished = [record for record in records if record.state == "finished"]
    failed = [record for record in records if record.state != "finished"]
    path = page_path(folder)
    write_page(
        path,
        "report.html",
        "report.js",
        title=folder.resolve().name,
        amplified=AMPLIFIED,
        rows=[_row(folder, record, previews) for record in finished],
        failures=[(record.name, str(record.error)) for record in failed],
        spreads=[spread for spread in (_spread(finished, measure) for measure in MEASURES) if spread is not None],
        keys=[measure for measure in MEASURES if any(number(record, measure.key) is not None for record in finished)],
        **_about(records),
    )
    remove_stale_previews(folder, lambda: _records(folder))
    return path


def _records(folder: Path) -> list[Record]:
    return [record for record in read_records(folder) if Path(record.name).name == record.name]


def _row(folder: Path, record: Record, make: bool) -> Row:
    shown = make_previews(folder, record, make)
    picture, kernel_file = result_picture(folder, record), own_file(folder, record, ".mat")
    kernel, shape = (None, None) if kernel_file is None else _kernel(kernel_file)
    return Row(
        name=record.name,
        result=None if picture is None else link(picture.name),
        record=link(f"{record.name}.json"),
        input="input" if record.settings.get("sf") == 1 else "input, bicubic",
        previews={part: name and link(FOLDER, name) for part, name in vars(shown).items()},
        kernel=kernel,
        kernel_file=None if kernel_file is None else link(kernel_file.name),
        shape=None if shape is None else shape.describe(number(record, "expected_error")),
        scores=_scores(record),
        values={m.key: value for m in MEASURES if (value := number(record, m.key)) is not None},
        doubts=_doubts(record),
        given=_given(record),
        ellipses=read_ellipses(record),
        search=read_search(record),
    )


def _kernel(path: Path) -> tuple[str, KernelShape] | tuple[None, None]:
    try:
        kernel = read_kernel(path)
        return data_uri(kernel_png(kernel)), kernel_shape(kernel)
    except (OSError, ValueError):
        return None, None


def _scores(record: Record) -> list[tuple[str, str]]:
    known = [(score.label, score.show(value)) for score in SCORES if (value := number(record, score.key)) is not None]
    sigma, seconds, sr_seconds = (number(record, key) for key in ("sigma", "seconds", "sr_seconds"))
    if sigma is not None:
        known.append(("noise level", f"{sigma:.1f} of 255"))
    if seconds is not None:
        more = "" if sr_seconds is None else f" + {sr_seconds:.1f} s"
        known.append(("time", f"{seconds:.1f} s{more}"))
    return known


def _doubts(record: Record) -> list[str]:
    notes = record.result.get("notes")
    doubts = [str(note) for note in notes] if isinstance(notes, list) else []
    return doubts + [NOT_CONVERGED] * (record.result.get("converged") is False)


def _given(record: Record) -> list[str]:
    given = record.run.get("given")
    return [f"{option} {value}".strip() for option, value in given.items()] if isinstance(given, dict) else []


def _spread(records: Sequence[Record], measure: Score) -> Spread | None:
    values = [value for record in records if (value := number(record, measure.key)) is not None]
    values = [value for value in values if math.isfinite(value)]
    if len(values) < 2:
        return None
    shown = (np.mean(values), np.median(values), np.min(values), np.max(values))
    mean, median, lowest, highest = (measure.show(float(value)) for value in shown)
    bars = np.histogram(values, BINS)[0].tolist() if lowest != highest else []
    return Spread(measure.label, mean, median, lowest, highest, len(values), bars)


def _about(records: Sequence[Record]) -> dict[str, list[tuple[str, str]]]:
    """Settings and run metadata, each with its value or, where the records differ, its values."""
    settings = [_flat(record.settings, _names_of_files(record)) for record in records]
    runs = [{**_flat(_table(record.run, "versions")), "device": str(record.run.get("device"))} for record in records]
    return {"settings": _values(settings), "versions": _values(runs)}


def _table(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _names_of_files(record: Record) -> dict[str, Any]:
    return _table(record.run, "files")


def _flat(values: dict[str, Any], names: dict[str, Any] | None = None) -> dict[str, str]:
    """Tables within tables by their inner names; of files the name and the first digits of the hash."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value)
        else:
            flat[key] = f"{names[key]} ({str(value)[:8]})" if names and key in names else str(value)
    return flat


def _values(tables: Iterable[dict[str, str]]) -> list[tuple[str, str]]:
    found: dict[str, dict[str, None]] = {}
    for table in tables:
        for key, value in table.items():
            found.setdefault(key, {})[value] = None
    return [(key, " | ".join(list(values)[:5])) for key, values in found.items()]


@dataclass(frozen=True)
class Options:
    """What ``python -m blindsr.batch.report`` takes."""

    folders: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER ...", help_behavior_hint="")
    ]
    """A folder of results, or several to compare: of the same pictures, by name; pictures alone are enough."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = Path("compare")
    """Where the page of a comparison goes."""


def main() -> int:
    options = parse(Options, __doc__ or "", "python -m blindsr.batch.report")
    if not options.folders:
        raise ValueError("name a folder of results, or several to compare")
    several = len(options.folders) > 1
    if not several:
        require_results(options.folders[0])
    print(write_comparison(options.folders, options.output_dir) if several else write_report(options.folders[0]))
    return 0


if __name__ == "__main__":
    run(main)
