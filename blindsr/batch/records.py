"""What was done in a folder of results, a line for each picture: what may be skipped, and what may be replaced."""

import hashlib
import json
import os
import shutil
import stat
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from blindsr.batch.inputs import Item

__all__ = ["ENDINGS", "RECORDS", "UNFINISHED", "Record", "Records", "hash_file", "hash_inputs", "read_records"]

RECORDS = "results.jsonl"
"""Name of the file of records in a folder of results."""
ENDINGS = (".png", ".mat", "_kernel.png", "_search.png")
"""What follows a picture's name in the names of its results; see :func:`blindsr.batch.run.process`."""
UNFINISHED = ".unfinished-"
"""Prefix of the hidden folders that results lie in until all of a picture's are there."""


@dataclass(frozen=True)
class Record:
    """What became of one picture, as one line of ``results.jsonl`` says it."""

    state: Literal["started", "finished", "failed"]
    """Started: its files were about to be put into the folder. The last record of a picture counts."""
    name: str
    """The picture's name, from which the names of its results follow."""
    input: str
    """Path of the LR picture."""
    inputs: dict[str, str | None]
    """SHA-256 of the files read: ``lr`` and, where there is a ground truth, ``hr`` and ``kernel``."""
    settings: dict[str, Any]
    """What decides the result."""
    run: dict[str, Any]
    """What else was the case: versions, device, names of weights."""
    files: dict[str, str] = field(default_factory=dict)
    """Name → SHA-256 of the files written."""
    result: dict[str, Any] = field(default_factory=dict)
    """Scores, seconds and notes of a finished picture."""
    error: str | None = None
    """Why a picture failed, in one line."""


class Records:
    """The records of one folder, as one run reads and writes them; a context that is entered to write.

    Several processes can write to one folder: lines never mix. They do not share the work.

    Args:
        folder: of the results; it exists.
        settings: what decides a result; values that JSON lacks become text. Only results of equal settings are this
            run's own.
        run: what else each record says.
        resume: whether finished pictures are skipped.
        overwrite: whether results of other settings or inputs, and unknown files, may be replaced.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        run: Mapping[str, Any],
        *,
        resume: bool = True,
        overwrite: bool = False,
    ) -> None:
        self.folder = folder
        self.path = folder / RECORDS
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, default=str))  # as it will be read back
        self.run = dict(run)
        self.resume = resume
        self.overwrite = overwrite
        self._records = read_records(self.path)
        self._descriptor = -1

    def __enter__(self) -> "Records":
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._descriptor = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise ValueError(
                f"{self.path}: cannot be written to ({error.strerror}); choose another folder"
            ) from error
        # Every run holds a shared lock, which ends with its process: who gets an exclusive one is alone, and what is
        # unfinished then was left behind.
        if _lock(self._descriptor, exclusive=True):
            for left in self.folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)
        _lock(self._descriptor, exclusive=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def require_replaceable(self, item: Item) -> None:
        """Check that the folder holds nothing under the names of ``item``'s results but what this run may replace.

        That is what the same settings made of the same input, finished or not; with ``overwrite``, anything.

        Raises:
            ValueError: it does; says what, and how to go on.
        """
        if self.overwrite:
            return
        found = self._existing(item)
        if not found:
            return
        inputs = hash_inputs(item)
        for file, digest in found.items():
            makers = [record for record in self._records[item.name] if digest and record.files.get(file) == digest]
            if any(self._is_own(record, inputs) for record in makers):
                continue
            if not makers:
                why = f"no record in {RECORDS} accounts for this file"
            elif makers[-1].settings != self.settings:
                why = f"a result of other settings ({_difference(makers[-1].settings, self.settings)})"
            else:
                why = f"the result of another input, or {item.lr} or its ground truth has changed since"
            raise ValueError(
                f"{self.folder / file}: {why}; choose another folder with -o, or replace it with --overwrite"
            )

    def finished(self, item: Item, wanted: tuple[str, ...]) -> Record | None:
        """The record by which ``item`` need not be done again: same settings, same inputs, all files as they were.

        Args:
            wanted: endings of the results that must be among those files.

        Raises:
            OSError: one of them cannot be read.
        """
        if not self.resume or not self._records[item.name]:
            return None
        found, inputs = self._existing(item), hash_inputs(item)
        for record in reversed(self._records[item.name]):
            if (
                record.state == "finished"
                and self._is_own(record, inputs)
                and record.files.items() <= found.items()
                and all(f"{item.name}{ending}" in record.files for ending in wanted)
            ):
                return record
        return None

    def store(self, item: Item, inputs: dict[str, str | None], made: Path, result: Mapping[str, Any]) -> None:
        """Put the results that lie in the folder ``made`` into place and record them.

        Killed half way, it leaves a record by which the next run knows its own files.

        Raises:
            ValueError: files that must not be replaced have appeared meanwhile.
            OSError: a file cannot be put into place, or the record not be written.
        """
        try:
            self.require_replaceable(item)
        except ValueError:
            self._records = read_records(self.path)  # another process may have done the same meanwhile
            self.require_replaceable(item)
        files = {path.name: hash_file(path) for path in sorted(made.iterdir())}
        # Results of other settings that have no successor among these would look as if they belonged to them.
        stale = [
            file
            for file, digest in self._existing(item).items()
            if file not in files and any(record.files.get(file) == digest for record in self._records[item.name])
        ]
        record = self._record("started", item, inputs, files=files)
        self._append(record)
        for file in files:
            (made / file).replace(self.folder / file)
        for file in stale:
            (self.folder / file).unlink()
        self._append(replace(record, state="finished", result=dict(result)))

    def fail(self, item: Item, inputs: dict[str, str | None], error: str) -> None:
        """Record why there is no result."""
        self._append(self._record("failed", item, inputs, error=error))

    def _record(
        self, state: Literal["started", "failed"], item: Item, inputs: dict[str, str | None], **fields: Any
    ) -> Record:
        return Record(state, item.name, str(item.lr.absolute()), inputs, self.settings, self.run, **fields)

    def _is_own(self, record: Record, inputs: dict[str, str | None]) -> bool:
        return record.settings == self.settings and record.inputs == inputs

    def _existing(self, item: Item) -> dict[str, str | None]:
        """Name → SHA-256 of what lies where the results go; None for what is no plain file."""
        found: dict[str, str | None] = {}
        for ending in ENDINGS:
            path = self.folder / f"{item.name}{ending}"
            if os.path.lexists(path):
                found[path.name] = hash_file(path) if stat.S_ISREG(path.lstat().st_mode) else None
        return found

    def _append(self, record: Record) -> None:
        line = json.dumps(asdict(record), default=str).encode() + b"\n"
        # What a crash or a full disk left of a line must not swallow this one.
        if _ends_within_a_line(self._descriptor):
            line = b"\n" + line
        # One write: the system appends it as a whole, whoever else appends.
        if os.write(self._descriptor, line) < len(line):
            raise OSError(f"{self.path}: the record could not be written; is the disk full?")
        os.fsync(self._descriptor)
        self._records[record.name].append(record)


def read_records(path: Path) -> dict[str, list[Record]]:
    """The records of each picture, by its name, oldest first; none where there is no file.

    Lines that are no records, such as one that a crash cut off, are passed over.

    Raises:
        ValueError: the file cannot be read.
    """
    records: dict[str, list[Record]] = defaultdict(list)
    if not os.path.lexists(path):
        return records
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path}: not a plain file, so no records are kept there; choose another folder with -o")
    for record in _lines(path):
        records[record.name].append(record)
    return records


def hash_file(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_inputs(item: Item) -> dict[str, str | None]:
    """SHA-256 of the files that ``item`` names, by their role; None for one that cannot be read."""

    def digest(path: Path) -> str | None:
        try:
            return hash_file(path) if path.is_file() else None
        except OSError:
            return None  # reading the picture will say why

    paths = {"lr": item.lr, "hr": item.hr, "kernel": item.kernel}
    return {role: digest(path) for role, path in paths.items() if path is not None}


def _lines(path: Path) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            for line in file:
                record = _parse(line)
                if record is not None:
                    yield record
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); choose another folder with -o") from error


def _parse(line: bytes) -> Record | None:
    """A line as a record, or None. Its texts are compared, and shown, but never used as paths."""
    try:
        record = Record(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    tables = (record.inputs, record.settings, record.run, record.files, record.result)
    if not isinstance(record.name, str) or not all(isinstance(table, dict) for table in tables):
        return None
    return record


def _difference(made_with: dict[str, Any], now: dict[str, Any]) -> str:
    """The first setting that differs, with both values."""
    for key in sorted(made_with.keys() | now.keys()):
        then, value = made_with.get(key), now.get(key)
        if then != value:
            if isinstance(then, dict) and isinstance(value, dict):
                return _difference(then, value)
            return f"{key} {str(then)[:16]}, now {str(value)[:16]}"
    return "none"


def _ends_within_a_line(descriptor: int) -> bool:
    """Whether the file's last line is cut off, and not just being written by another run (which takes no second)."""
    for _ in range(100):
        if _last_byte(descriptor) in (b"", b"\n"):
            return False
        time.sleep(0.01)
    return True


def _last_byte(descriptor: int) -> bytes:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0:
        return b""
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1)


def _lock(descriptor: int, exclusive: bool) -> bool:
    """Lock an open file until it is closed: exclusively if nobody holds it, or shared. False where that fails."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except (ImportError, OSError):  # Windows; held by another process; a file system without locks
        return False
    return True
