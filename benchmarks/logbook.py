"""Measurements that take hours: each in a process of its own, so that its peak memory is its own, kept in a log."""

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from blindsr.devices import keep_freed_memory

__all__ = ["in_own_process", "measured"]

Key = tuple[Any, ...]
Value = TypeVar("Value")


def _prepare() -> None:
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker left behind would go on for an hour and slow what is measured next."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def in_own_process(function: Callable[..., Value], *arguments: Any) -> Value:
    """What ``function``, which another process can import, returns in a new one, which does not outlive this one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_prepare) as pool:
        return pool.submit(function, *arguments).result()


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
    for key in keys:
        if key in runs:
            continue
        runs[key] = in_own_process(measure, *key)
        with log.open("a") as file:
            file.write(json.dumps({"key": key, "values": runs[key]}) + "\n")
    return runs
