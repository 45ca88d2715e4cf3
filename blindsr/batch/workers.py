"""What a worker of Ray is: a process with the networks in it, which takes pictures and says how far it is.

Nothing here needs Ray; :mod:`blindsr.batch.distributed` makes actors of it.
"""

import contextlib
import io
import logging
import os
import platform
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blindsr.batch.inputs import Item
from blindsr.batch.previews import make_previews
from blindsr.batch.records import Records, hash_file, read_record, record_path
from blindsr.batch.run import Job, Result
from blindsr.batch.storage import Store, process_stored
from blindsr.devices import DeviceName, gains_from_bfloat16, keep_freed_memory, pick_device, share_memory
from blindsr.estimation import OnStep

__all__ = ["Assignment", "Probe", "Worker", "check_node", "device_metadata", "packed", "versions"]

SEARCHED = 0.9
"""Share of a picture's time, roughly, that is over when its search is."""


@dataclass(frozen=True)
class Probe:
    """A file among the results, and an input, that every node must see."""

    path: Path | None
    content: str
    sample: Path | None
    """A picture to read."""
    digest: str | None
    """SHA-256 of the picture."""

    @classmethod
    def written(cls, folder: Path | None, sample: Path | None) -> "Probe":
        """Write one into ``folder``, if the results go to one."""
        path, content = None, secrets.token_hex(16)
        if folder is not None:
            path = folder / f".probe-{secrets.token_hex(8)}"
            path.write_text(content)
        return cls(path, content, sample, None if sample is None or not sample.is_file() else hash_file(sample))

    def remove(self) -> None:
        """Remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Read both files here, and write another one.

        Raises:
            ValueError: that cannot be done; names this machine and the folder.
        """
        wanted = "has to lie on storage that all nodes share, or behind a URL such as s3://"
        if self.path is not None:
            try:
                if self.path.read_text() != self.content:
                    raise OSError("another file")
                own = self.path.with_name(f"{self.path.name}-{secrets.token_hex(4)}")
                own.write_text(self.content)
                own.unlink()
            except OSError as error:
                reason = error.strerror or error
                raise ValueError(
                    f"{self.path.parent}: not the same folder on {platform.node()} ({reason}); it {wanted}"
                ) from error
        if self.sample is not None and self.digest is not None:
            try:
                if hash_file(self.sample) != self.digest:
                    raise OSError("another file")
            except OSError as error:
                reason = error.strerror or error
                raise ValueError(
                    f"{self.sample}: not the same picture on {platform.node()} ({reason}); it {wanted}"
                ) from error


@dataclass(frozen=True)
class Assignment:
    """What a run tells all of its workers."""

    job: bytes
    """A :func:`packed` job."""
    device: DeviceName
    output: Path | str
    """The folder of the results, or its URL."""
    settings: dict[str, Any]
    run: dict[str, Any]
    """Of the records; each worker adds its own device."""
    resume: bool
    overwrite: bool
    threads: int
    neighbours: int
    """Workers that may share a machine's or a GPU's memory."""
    versions: dict[str, str]
    """Of the driver: rounding depends on them."""
    probe: Probe | None = None


def versions() -> dict[str, str]:
    """Of this project, and of what decides its results."""
    try:
        ours = version("blindsr")
    except PackageNotFoundError:  # run from a copy that nobody installed
        ours = "unknown"
    return {"blindsr": ours, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}


def device_metadata(device: torch.device) -> dict[str, Any]:
    """What records say of where they were made."""
    return {
        "device": device.type,
        "bfloat16": gains_from_bfloat16(device),
        "threads": torch.get_num_threads(),
    }


def packed(job: Job, pickle_module: Any) -> bytes:
    """A job with its networks, wherever they were defined, as bytes that :class:`Worker` unpacks on its own device.

    Args:
        pickle_module: cloudpickle, which takes functions of the main script as well.
    """
    content = io.BytesIO()
    torch.save(job, content, pickle_module=pickle_module)
    return content.getvalue()


def check_node(expected: dict[str, str], probe: Probe | None) -> None:
    """Check that this machine makes the same of the same files as the one that asks.

    Args:
        expected: the :func:`versions` there.

    Raises:
        ValueError: it does not; says why.
    """
    if versions() != expected:
        here, there = (", ".join(f"{name} {number}" for name, number in v.items()) for v in (versions(), expected))
        raise ValueError(f"{platform.node()}: has {here}, the driver {there}; install the same on every node")
    if probe is not None:
        probe.check()


class Worker:
    """Works on pictures; all but :meth:`work` answers while that runs, in another thread.

    Args:
        assignment: of the run.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._fraction = 0.0
        self._stopped = threading.Event()

    def start(self) -> tuple[str, int]:
        """Check what this machine has, and unpack the networks.

        Returns:
            The machine's name and the number of this process.

        Raises:
            ValueError: another version, no such device, or storage that is not shared.
        """
        assignment = self._assignment
        check_node(assignment.versions, assignment.probe)
        torch.set_num_threads(assignment.threads)
        share_memory(assignment.neighbours)
        keep_freed_memory()
        device = pick_device(assignment.device)
        # It comes from the driver, which may run anything here.
        job = torch.load(io.BytesIO(assignment.job), map_location=device, weights_only=False)
        self._job: Job = replace(job, device=device)
        self._output = Store(assignment.output) if isinstance(assignment.output, str) else assignment.output
        self._run = assignment.run | device_metadata(device)
        return platform.node(), os.getpid()

    def work(self, items: list[Item], again: bool = False) -> tuple[list[Result], list[str]]:
        """Process the items.

        Args:
            again: whether a worker that had them is dead.

        Returns:
            Their results, of those finished before :meth:`stop`, and what was logged meanwhile.
        """
        torch.set_num_threads(self._assignment.threads)  # counts for each thread
        results: list[Result] = []

        def on_step(done: int, total: int, loss: float | None) -> None:
            if self._stopped.is_set():
                raise KeyboardInterrupt
            part = SEARCHED * done / total if loss is not None else SEARCHED + (1 - SEARCHED) * done / total
            self._fraction = (len(results) + part) / len(items)

        def progress(item: Item, *others: Item) -> OnStep:
            self._fraction = len(results) / len(items)
            return on_step

        with _logged() as lines:
            try:
                if again and isinstance(self._output, Path):
                    for item in items:
                        self._records(self._output).break_claim(item)
                for result in process_stored(items, self._job, self._output, self._records, progress):
                    self._preview(result)
                    results.append(result)
            except KeyboardInterrupt:
                pass
        return results, lines

    def progress(self) -> float:
        """How much of the current pictures is done, 0 to 1, roughly."""
        return self._fraction

    def stop(self) -> None:
        """Break off what :meth:`work` does after the current step; its files are cleaned away."""
        self._stopped.set()

    def _preview(self, result: Result) -> None:
        """Make the report's small pictures here, so that the driver need not make those of all workers."""
        if not isinstance(self._output, Path):
            return
        record = read_record(record_path(self._output, result.item.name))
        if record is not None and record.state == "finished":
            with contextlib.suppress(OSError):  # the report tries again, and says so
                make_previews(self._output, record)

    def _records(self, folder: Path) -> Records:
        told = self._assignment
        return Records(folder, told.settings, self._run, resume=told.resume, overwrite=told.overwrite)


@contextmanager
def _logged() -> Iterator[list[str]]:
    """The warnings of the block."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Lines(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
