"""What a measurement that may be cut off leaves: a line for each result, and an eye on the clock."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

__all__ = ["Clock", "Records", "Session", "device_name", "measuring"]


REPOSITORY = Path(__file__).resolve().parent.parent


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


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(': ', 1)[1]}, {torch.get_num_threads()} threads"
    return platform.processor()


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


class Records:
    """Appends a line of JSON for each result to a file, at once, and prints it.

    Args:
        path: the file; made with its folder.
        device: what is measured.
    """

    def __init__(self, path: Path, device: torch.device, **circumstances: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.failed = path, 0
        self.lines: list[dict[str, Any]] = []
        earlier = path.read_text() if path.exists() else ""
        if earlier and not earlier.endswith("\n"):  # a run was cut off in the middle of a line
            path.write_text(earlier.rpartition("\n")[0] + "\n" if "\n" in earlier else "")
        for line in earlier.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                self.lines.append(json.loads(line))
        self.fixed = {
            "command": " ".join(["python", *sys.argv]),
            "commit": _commit(),
            "device": device_name(device),
            "torch": torch.__version__,
            **circumstances,
        }

    def add(self, part: str, what: str, **values: Any) -> None:
        """Take down a result: scores, ``seconds``, ``gigabytes``, ``seed`` and what else says what it is."""
        line = {
            "part": part,
            "what": what,
            **values,
            **self.fixed,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
        print(f"{part:>9}  {what}  " + "  ".join(f"{name} {value}" for name, value in shown.items()), flush=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)

    def has(self, part: str, what: str, **values: Any) -> bool:
        """Whether this result was taken down already, on such a device, and not in a rehearsal."""
        wanted = {"part": part, "what": what, **values, "device": self.fixed["device"], "quick": self.fixed["quick"]}
        return any("error" not in line and wanted.items() <= line.items() for line in self.lines)

    def guarded(self, part: str, what: str, measure: Callable[[], dict[str, Any]], **values: Any) -> None:
        """Take down what ``measure`` says, or how it failed; the rest goes on."""
        began = time.perf_counter()
        try:
            found = measure()
        except Exception as error:  # whatever it is, the other parts are worth having
            self.failed += 1
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}".split("\n")[0][:300]
            self.add(part, what, **values, error=message)
            torch.cuda.empty_cache()
            return
        self.failed += not found.get("ok", True)
        self.add(part, what, **{"seconds": time.perf_counter() - began, **values, **found})


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
