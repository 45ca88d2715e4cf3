"""One record beside each result, <image>.json: what was made of which input with which settings.

It is written last and whole: a picture without it is not finished. Until then all files of a picture lie in a hidden
folder. The record goes in there first, so that the next process can complete what a killed one left half in place.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, SoftFileLock, Timeout

from blindsr.batch.differences import differences
from blindsr.batch.inputs import Item
from blindsr.files import atomic_write, move_file

__all__ = ["ENDINGS", "Record", "Records", "hash_file", "hash_inputs", "read_record", "record_path"]

ENDINGS = (".png", ".jpg", ".webp", ".tif", ".mat", "_kernel.png")
"""What follows a picture's name in the names of its results; see :func:`blindsr.batch.run.process`."""
UNFINISHED = ".unfinished-"
"""Prefix of the hidden folder that a picture's results lie in until all of them are there."""
JOURNAL = "record.json"
"""Name of the record in that folder."""


@dataclass(frozen=True)
class Record:
    """What became of one picture."""

    state: Literal["finished", "failed"]
    name: str
    """The picture's name, from which the names of its results follow."""
    input: str
    """Path of the LR picture."""
    inputs: dict[str, str | None]
    """SHA-256 of the files read: ``lr`` and, where there is a ground truth, ``hr`` and ``kernel``."""
    settings: dict[str, Any]
    """What decides the result: the settings as they took effect."""
    run: dict[str, Any]
    """Run metadata: versions, device, names of weights."""
    files: dict[str, str] = field(default_factory=dict)
    """Name → SHA-256 of the files written."""
    result: dict[str, Any] = field(default_factory=dict)
    """Scores, seconds and notes of a finished picture."""
    error: str | None = None
    """Why a picture failed, in one line."""


class Records:
    """The records of one folder, as one run reads and writes them. Several processes may fill one folder.

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
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, default=str))  # as it will be read back
        self.run = dict(run)
        self.resume = resume
        self.overwrite = overwrite

    def require_replaceable(self, item: Item) -> None:
        """Check that the folder holds nothing under the names of ``item``'s results but what this run may replace.

        That is what the same settings made of the same input; with ``overwrite``, anything.

        Raises:
            ValueError: it does; says what, and how to go on.
        """
        if not self.overwrite and self._refusal(item):
            with self.claim(item) as made:  # completes what a killed process left
                refusal = None if made is None else self._refusal(item)
            if refusal:
                raise ValueError(f"{refusal}; choose another folder with -o, or replace it with --overwrite")

    def _refusal(self, item: Item) -> str | None:
        """What lies in the way of ``item``'s results, and why it may not be replaced."""
        found = self._existing(item)
        path = record_path(self.folder, item.name)
        record = read_record(path)
        if record is None and os.path.lexists(path):
            found[path.name] = None
        inputs = hash_inputs(item) if found else {}
        for file, digest in found.items():
            if record is None or digest is None or record.files.get(file) != digest:
                return f"{self.folder / file}: no record accounts for this file"
            if record.settings != self.settings:
                differing = differences(record.settings, record.run, self.settings, self.run)
                return f"{self.folder / file}: a result of other settings ({'; '.join(differing)})"
            if record.inputs != inputs:
                if record.input != _input(item):
                    return f"{self.folder / file}: the result of another picture of this name, {record.input}"
                return f"{self.folder / file}: {item.shown} or its ground truth has changed since this was made"
        return None

    def finished(self, item: Item, wanted: tuple[str, ...]) -> Record | None:
        """The record by which ``item`` need not be done again: same settings, same inputs, all files as they were.

        Args:
            wanted: endings of the results that must be among those files.

        Raises:
            OSError: one of them cannot be read.
        """
        record = read_record(record_path(self.folder, item.name)) if self.resume else None
        if (
            record is not None
            and record.state == "finished"
            and record.settings == self.settings
            and record.inputs == hash_inputs(item)
            and record.files.items() <= self._existing(item).items()
            and all(f"{item.name}{ending}" in record.files for ending in wanted)
        ):
            return record
        return None

    @contextmanager
    def claim(self, item: Item) -> Iterator[Path | None]:
        """Claim a picture before work on it, and complete what a killed process left of it.

        A claim ends with the process that holds it.

        Yields:
            An empty folder for its files, or None where another process works on the picture.
        """
        lock = self.folder / f".{item.name}.lock"
        try:
            with _locked(lock):
                made = self.folder / f"{UNFINISHED}{item.name}"
                if made.is_dir() and not self._place(made):
                    shutil.rmtree(made, ignore_errors=True)
                made.mkdir()
                try:
                    yield made
                finally:
                    shutil.rmtree(made, ignore_errors=True)
                    with contextlib.suppress(OSError):  # not every file system lets open files be removed
                        lock.unlink()
        except Timeout:
            yield None

    def break_claim(self, item: Item) -> None:
        """End the claim of a worker that is known to be dead, which stays where a file system has no locks."""
        lock = self.folder / f".{item.name}.lock"
        with contextlib.suppress(OSError):
            if lock.stat().st_size:  # a lock of the system's is empty, and ends with its process
                SoftFileLock(lock).break_lock()

    def store(self, item: Item, inputs: dict[str, str | None], made: Path, result: Mapping[str, Any]) -> None:
        """Put the results that lie in the folder ``made`` into place, and the record after them.

        Raises:
            ValueError: files that must not be replaced have appeared meanwhile.
            OSError: a file cannot be put into place, or the record not be written.
        """
        if not self.overwrite and (refusal := self._refusal(item)):
            raise ValueError(f"{refusal}, and appeared meanwhile; choose another folder with -o")
        files = {path.name: hash_file(path) for path in sorted(made.iterdir())}
        _write_record(made / JOURNAL, self._record("finished", item, inputs, files=files, result=dict(result)))
        self._place(made)

    def fail(self, item: Item, inputs: dict[str, str | None], error: str) -> None:
        """Record why there is no result; a result that is there keeps its record."""
        path = record_path(self.folder, item.name)
        if self._existing(item) or (os.path.lexists(path) and read_record(path) is None):
            return
        _write_record(path, self._record("failed", item, inputs, error=error))

    def _place(self, made: Path) -> bool:
        """Move the files of a picture into place, the record last. False where its files were not complete yet."""
        record = read_record(made / JOURNAL)
        if record is None:
            return False
        path = record_path(self.folder, record.name)
        earlier = read_record(path)
        # Results of other settings that have no successor among these would look as if they belonged to them.
        for file, digest in (earlier.files if earlier is not None else {}).items():
            old = self.folder / file
            if file not in record.files and Path(file).name == file and old.is_file() and hash_file(old) == digest:
                old.unlink()
        for file in record.files:
            if Path(file).name == file and (made / file).exists():
                move_file(made / file, self.folder / file)
        move_file(made / JOURNAL, path)
        shutil.rmtree(made, ignore_errors=True)
        return True

    def _record(
        self, state: Literal["finished", "failed"], item: Item, inputs: dict[str, str | None], **fields: Any
    ) -> Record:
        return Record(state, item.name, _input(item), inputs, self.settings, self.run, **fields)

    def _existing(self, item: Item) -> dict[str, str | None]:
        """Name → SHA-256 of what lies where the results go; None for what is no plain file."""
        found: dict[str, str | None] = {}
        for ending in ENDINGS:
            path = self.folder / f"{item.name}{ending}"
            if os.path.lexists(path):
                found[path.name] = hash_file(path) if stat.S_ISREG(path.lstat().st_mode) else None
        return found


def _input(item: Item) -> str:
    """Where the LR picture of ``item`` lies, as a record says it."""
    # However its folder was typed; a link keeps its own name.
    return item.source or str(item.lr.parent.resolve() / item.lr.name)


def record_path(folder: Path, name: str) -> Path:
    """Where the record of the picture called ``name`` lies."""
    return folder / f"{name}.json"


def read_record(path: Path) -> Record | None:
    """The record in a file; None where there is no file, or no record in it.

    Its texts are compared and shown. The names of its files are used as names in its own folder only.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        record = Record(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    tables = (record.inputs, record.settings, record.run, record.files, record.result)
    texts = (record.name, record.input, *record.files)
    if not all(isinstance(table, dict) for table in tables) or not all(isinstance(text, str) for text in texts):
        return None
    return record


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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process.

    Raises:
        Timeout: another process holds it.
    """
    lock: FileLock | SoftFileLock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (NotImplementedError, OSError):  # a file system without locks, or that keeps open files from being removed
        for probe in path.parent.glob(".filelock-probe-*"):
            probe.unlink(missing_ok=True)
        lock = SoftFileLock(path, blocking=False)  # a claim of another machine's dead process stays
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_record(path: Path, record: Record) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(asdict(record), default=str, indent=1) + "\n", encoding="utf-8")
