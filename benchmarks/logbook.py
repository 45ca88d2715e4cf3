"""Measurements that take hours: each in a process of its own, so that its peak memory is its own, kept in a log."""

import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from blindsr.devices import keep_freed_memory

__all__ = ["measured"]

Key = tuple[Any, ...]


def measured(log: Path, keys: Iterable[Key], measure: Callable[..., dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    """What ``measure(*key)`` says for each key, by key: out of the log, or measured now and appended to it.

    Args:
        log: a line of JSON for each measurement; broken off, the same call goes on from there.
        keys: of JSON's plain values.
        measure: a function of a module, which another process can import.

    Returns:
        All that the log holds, other keys included.
    """
    runs: dict[Key, dict[str, Any]] = {}
    if log.exists():
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            runs[tuple(entry["key"])] = entry["values"]
    log.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    for key in keys:
        if key in runs:
            continue
        with ProcessPoolExecutor(1, mp_context=context, initializer=keep_freed_memory) as pool:
            runs[key] = pool.submit(measure, *key).result()
        with log.open("a") as file:
            file.write(json.dumps({"key": key, "values": runs[key]}) + "\n")
    return runs
