"""How many workers one driver feeds: pictures are handed to 1 to 1000 dummies, which sleep instead of working.

A dummy is a slot of an asynchronous actor, so that a thousand fit into ten processes. What is measured is the
driver's own process: the same code, the same messages, nothing of the pictures.

python benchmarks/driver.py
"""

import asyncio
import itertools
import logging
import resource
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindsr.batch.cluster import joined
from blindsr.batch.distributed import spread
from blindsr.command import parse, run
from logbook import RESULTS, append

SLOTS = 100
"""Dummies of a process."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/driver.py`` takes."""

    workers: tuple[int, ...] = (1, 10, 100, 1000)
    """How many dummies."""
    seconds: float = 1.0
    """How long a dummy sleeps over a picture."""
    pictures: int = 5
    """Pictures for each dummy."""
    results: Path = RESULTS
    """Folder of the records."""


class Dummy:
    """Answers as a :class:`blindsr.batch.workers.Worker` does."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def start(self) -> tuple[str, int]:
        return "here", 0

    async def work(self, items: list[Any], again: bool) -> tuple[list[Any], list[str]]:
        await asyncio.sleep(self.seconds)
        return items, []

    async def progress(self) -> float:
        return 0.5


def main() -> int:
    options = parse(Options, __doc__ or "")
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with joined(None, 2, "cpu", 1) as (ray, _):
        for count in options.workers:
            actor = ray.remote(Dummy).options(max_concurrency=2 * SLOTS, num_cpus=0)
            actors = [actor.remote(options.seconds) for _ in range(-(-count // SLOTS))]
            ray.get([each.start.remote() for each in actors])
            pictures: Any = [[number] for number in range(count * options.pictures)]
            began, spent = time.perf_counter(), time.process_time()
            slots = itertools.cycle(actors)
            deque(spread(ray, pictures, slots.__next__, count, lambda done: None), maxlen=0)
            wall, spent = time.perf_counter() - began, time.process_time() - spent
            values = {
                "per_second": len(pictures) / wall,
                "cpu_ms": 1000 * spent / len(pictures),
                "cpu_share": spent / wall,
                "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            }
            what = {"workers": count, "seconds": options.seconds, "pictures": len(pictures)}
            print(append(options.results / "driver.jsonl", what, values), flush=True)
            for each in actors:
                ray.kill(each)
    return 0


if __name__ == "__main__":
    run(main)
