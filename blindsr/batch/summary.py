"""The records of a folder of results as one table for people: results.csv.

python -m blindsr.batch.summary FOLDER
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blindsr.batch.records import Record, read_record
from blindsr.command import parse, run
from blindsr.files import atomic_write

__all__ = ["read_records", "require_results", "write_summary"]

SUMMARY = "results.csv"
SCORES = ("psnr", "ssim", "kernel_psnr", "sigma", "expected_error", "relative_change", "seconds", "sr_seconds")


def read_records(folder: Path) -> list[Record]:
    """All records of a folder, by name; other files are passed over.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name one with results")
    records = (read_record(path) for path in sorted(folder.glob("*.json")))
    return [record for record in records if record is not None]


def require_results(folder: Path) -> None:
    """Raise ValueError or FileNotFoundError where ``folder`` holds no record: it is not the one that was meant."""
    if not read_records(folder):
        raise ValueError(f"{folder}: holds no results; name the folder that a command printed behind 'results:'")


def write_summary(folder: Path) -> Path:
    """Write ``results.csv``, a line a picture, from the records of ``folder``.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: it cannot be written.
    """
    path, records = folder / SUMMARY, read_records(folder)
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file)
        table.writerow(["name", "state", *SCORES, "notes", "error", "input"])
        for record in records:
            scores = [record.result.get(name) for name in SCORES]
            notes = record.result.get("notes") or []
            table.writerow(
                [record.name, record.state, *scores, "; ".join(map(str, notes)), record.error or "", record.input]
            )
    return path


@dataclass(frozen=True)
class Options:
    """What ``python -m blindsr.batch.summary`` takes."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """A folder of results."""


def main() -> int:
    options = parse(Options, __doc__ or "", "python -m blindsr.batch.summary")
    require_results(options.folder)
    print(write_summary(options.folder))
    return 0


if __name__ == "__main__":
    run(main)
