"""Measurements as records: a line of JSON for each run in benchmarks/results, from which tables.py makes tables.

A record says what was measured, what came out, and on what it ran. A benchmark skips what is there already, so that
a long table grows run by run, on whatever machine is at hand. To measure something again, delete its lines.
"""

import hashlib
import json
import multiprocessing
import os
import platform
import resource
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import torch

from blindsr.devices import keep_freed_memory, pick_device

__all__ = [
    "RESULTS",
    "Record",
    "append",
    "device_name",
    "fingerprint",
    "measured",
    "own_process",
    "peak_gigabytes",
    "read",
    "run_metadata",
    "timed",
]

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
"""The records that are committed, a file for each benchmark."""

What = dict[str, Any]
"""What is measured: names and plain values that tell one run from all others."""
Values = dict[str, Any]
"""What came out: scores, seconds, gigabytes."""
Measure = Callable[[What], Values]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Record:
    """One line of a file of records."""

    what: What
    """Dataset, picture, scale, method, weights, seed, and the :func:`fingerprint` of settings and weights."""
    values: Values
    """PSNR and kernel PSNR in dB, SSIM, seconds, gigabytes (peak memory of the process)."""
    run: dict[str, Any]
    """Command, commit, device, threads, version of PyTorch, and whether other work kept the processor busy;
    "transcribed" where an older text is the source."""


def read(path: Path) -> list[Record]:
    """The records of a file, oldest first; none where there is no file.

    Raises:
        ValueError: a line is not a record.
    """
    records = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a record ({error}); mend or delete it") from error
    return records


def append(path: Path, what: What, values: Values, run: dict[str, Any] | None = None) -> Record:
    """Add a record to a file, with the metadata of this process unless ``run`` holds others."""
    record = Record(what, values, run_metadata() if run is None else run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
    return record


def measured(path: Path, rows: Iterable[Sequence[What]], measure: Measure) -> list[Record]:
    """The records of all runs in ``rows``: out of the file, or measured now and appended to it.

    Args:
        rows: the runs of a row share a process of their own, so that its peak memory is theirs.
        measure: a function of a module, or a partial of one, which another process can import.
    """
    known = {json.dumps(record.what, sort_keys=True): record for record in read(path)}
    found = []
    for row in rows:
        keys = [json.dumps(what, sort_keys=True) for what in row]
        missing = {key: what for key, what in zip(keys, row, strict=True) if key not in known}
        if missing:
            with own_process() as call:
                for key, what in missing.items():
                    known[key] = append(path, what, call(measure, what))
                    print(f"{', '.join(map(str, what.values()))}: {known[key].values}", file=sys.stderr, flush=True)
        found += [known[key] for key in keys]
    return found


def run_metadata() -> dict[str, Any]:
    """Command, commit, device, threads and version; absolute paths in the command are cut to their last part."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "commit": _commit(),
        "device": device_name(pick_device()),
        "threads": torch.get_num_threads(),
        "busy": _busy(),
        "torch": torch.__version__,
    }


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor with the instruction set that PyTorch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {torch.backends.cpu.get_cpu_capability()}"


def _busy() -> bool:
    """Whether other work takes a good part of the processor, so that seconds are too long."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) + 0.5


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return f"{git('rev-parse', '--short=7', 'HEAD')}{' with changes' if changed else ''}" or "unknown"
    except OSError:
        return "unknown"


def fingerprint(*parts: Any) -> str:
    """Eight digits that change with any part: a dataclass of settings, the content of a file, a plain value."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(part.read_bytes())
        else:
            plain = asdict(part) if is_dataclass(part) and not isinstance(part, type) else part
            digest.update(json.dumps(plain, sort_keys=True).encode())
    return digest.hexdigest()[:8]


def peak_gigabytes() -> float:
    """Peak memory in GiB: of the GPU where there is one, of this process otherwise."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def timed(make: Callable[[], Made]) -> tuple[Made, float]:
    """What ``make`` returns, and the seconds that it took; what it returns has to be ready, not queued on a GPU."""
    began = time.perf_counter()
    made = make()
    return made, time.perf_counter() - began


@contextmanager
def own_process() -> Iterator[Callable[..., Any]]:
    """A call that runs an importable function in one new process, which does not outlive this one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_prepare) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def _prepare() -> None:
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker left behind would go on for an hour and slow what is measured next."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
