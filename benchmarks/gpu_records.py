"""What a measurement that may be cut off leaves: a record for each result, and an eye on the clock."""

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from logbook import REPOSITORY, Values, What, append, device_name, read, run_metadata

__all__ = ["Clock", "Records", "Session", "measuring"]


@dataclass(frozen=True)
class Clock:
    """Wall-clock time that is left."""

    seconds: float
    began: float = field(default_factory=time.perf_counter)

    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.began)

    def part(self, seconds: float) -> "Clock":
        """The time of one part: ``seconds``, or what is left."""
        return Clock(min(seconds, self.left()))


class Records:
    """The records of a file (:mod:`logbook`), to which each result is appended at once, and printed.

    What is measured has at least a ``part`` and a ``method``.

    Args:
        path: the file; a line that an earlier run was cut off in is dropped.
        device: what is measured.
        quick: whether this is a rehearsal, whose figures mean nothing.
    """

    def __init__(self, path: Path, device: torch.device, quick: bool) -> None:
        if path.exists() and not path.read_text().endswith("\n"):
            whole, newline, _ = path.read_text().rpartition("\n")
            path.write_text(whole + newline)
        self.path, self.failed = path, 0
        self.records = read(path)
        self.run = {**run_metadata(), "device": device_name(device), "quick": quick}

    def add(self, what: What, values: Values) -> None:
        """Take down a result: scores, ``seconds``, ``gigabytes``."""
        self.records.append(append(self.path, what, values, {**self.run, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}))
        shown = (f"{name} {f'{value:.4g}' if isinstance(value, float) else value}" for name, value in values.items())
        print(f"{', '.join(map(str, what.values()))}: {'  '.join(shown)}", flush=True)

    def has(self, what: What) -> bool:
        """Whether there is a result, of such a device, and not of a rehearsal unless this is one."""
        return any(
            record.what == what
            and "error" not in record.values
            and all(record.run.get(name) == self.run[name] for name in ("device", "quick"))
            for record in self.records
        )

    def guarded(self, what: What, measure: Callable[[], Values]) -> None:
        """Take down what ``measure`` says, or how it failed; the rest goes on."""
        began = time.perf_counter()
        try:
            found = measure()
        except Exception as error:  # whatever it is, the other parts are worth having
            self.failed += 1
            traceback.print_exc()
            self.add(what, {"error": f"{type(error).__name__}: {error}".split("\n")[0][:300]})
            torch.cuda.empty_cache()
            return
        self.failed += not found.get("ok", True)
        self.add(what, {"seconds": time.perf_counter() - began, **found})


@dataclass(frozen=True)
class Session:
    """What all measurements are given."""

    records: Records
    clock: Clock
    device: torch.device
    quick: bool
    """A rehearsal, on smaller things."""

    def part(self, seconds: float) -> "Session":
        """The same with the time of a part."""
        return replace(self, clock=self.clock.part(seconds))

    @property
    def reference(self) -> Path:
        """The folder of reference material, which BLINDSR_REFERENCE names.

        Raises:
            FileNotFoundError: there is none.
        """
        folder = Path(os.environ.get("BLINDSR_REFERENCE", REPOSITORY.parent / "shared" / "reference"))
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no reference material; name its folder by BLINDSR_REFERENCE")
        return folder


@contextlib.contextmanager
def measuring(device: torch.device) -> Iterator[dict[str, float]]:
    """Fills in ``seconds``, and on CUDA ``gigabytes``, the peak of what tensors took, of what is done inside."""
    found: dict[str, float] = {}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    yield found
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        found["gigabytes"] = torch.cuda.max_memory_allocated(device) / 2**30
    found["seconds"] = time.perf_counter() - began
