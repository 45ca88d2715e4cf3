"""The records of a folder of results as one table for people: results.csv.

python -m blindsr.batch.summary FOLDER
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import tyro

from blindsr.batch.records import Record, read_record
from blindsr.command import parse, run
from blindsr.files import atomic_write

__all__ = ["read_records", "write_summary"]

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


def write_summary(folder: Path) -> Path:
    """Write ``results.csv``, a line a picture, from the records of ``folder``.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / SUMMARY
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file)
        table.writerow(["name", "state", *SCORES, "notes", "error", "input"])
        for record in read_records(folder):
            scores = [record.result.get(name) for name in SCORES]
            notes = record.result.get("notes") or []
            table.writerow(
                [record.name, record.state, *scores, "; ".join(map(str, notes)), record.error or "", record.input]
            )
    return path


@dataclass(frozen=True)
class Options:
    """What ``python -m blindsr.batch.summary`` takes."""

    folder: tyro.conf.Positional[Path]
    """A folder of results."""


def main() -> int:
    print(write_summary(parse(Options, __doc__ or "").folder))
    return 0


if __name__ == "__main__":
    run(main)
