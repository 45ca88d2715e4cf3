"""Pictures an hour with one worker and with two, and with one worker of two threads.

Workers have started and have seen a picture before anything is timed. The three ways take turns, so that other work
on the machine falls on all of them; the table has medians.

python benchmarks/workers.py
"""

import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from blindsr.batch.cluster import joined
from blindsr.batch.distributed import spread
from blindsr.batch.inputs import Item
from blindsr.batch.run import Job
from blindsr.batch.workers import Assignment, Worker, packed, versions
from blindsr.command import parse, run
from blindsr.images import read_image, to_uint8, write_image
from blindsr.paths import data_folder
from DIPFKP.estimator import preset, pretrained_estimator
from logbook import RESULTS, append
from NonblindSR.weights import choose_nonblind

CPU = torch.device("cpu")
WAYS = ((1, 1), (1, 2), (2, 1))
"""Workers, and threads of each."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/workers.py`` takes."""

    rounds: int = 5
    """How often each way has its turn."""
    pictures: int = 6
    """Pictures of a turn."""
    iterations: int = 30
    """Of each picture's search."""
    results: Path = RESULTS
    """Folder of the records."""


def assignment(job: Job, output: Path, threads: int, cloudpickle: Any) -> Assignment:
    return Assignment(packed(job, cloudpickle), "cpu", output, {}, {}, False, True, threads, 2, versions())


def cpu_seconds(process: int) -> float:
    """User and system time of a process so far; Linux only."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    options = parse(Options, __doc__ or "")
    count = options.iterations
    settings = replace(
        preset("search"), circular=False, iterations=count, ssim_iterations=count // 2, frozen_iterations=5
    )
    step = choose_nonblind(True, 2, None, CPU)
    job = Job(pretrained_estimator(2, CPU, settings), 2, CPU, step.network, step.sigma, photograph=True)
    photo = to_uint8(read_image(data_folder() / "datasets" / "Test" / "DIPFKP_lr_x2" / "chelsea.png"))
    with tempfile.TemporaryDirectory() as name, joined(None, len(WAYS) + 1, "cpu", 1) as (ray, _):
        items = [Item(f"{i}", Path(name) / "in" / f"{i}.png") for i in range(options.pictures)]
        for i, item in enumerate(items):
            write_image(item.lr, photo[10 : 10 + 96, 8 * i : 8 * i + 128])
        pools = {}
        for workers, threads in WAYS:
            output = Path(name) / f"{workers}x{threads}"
            output.mkdir()
            told = assignment(job, output, threads, ray.cloudpickle)
            actor = ray.remote(Worker).options(max_concurrency=2, num_cpus=1)
            pool = [actor.remote(told) for _ in range(workers)]
            homes = ray.get([worker.start.remote() for worker in pool])
            ray.get([worker.work.remote([item]) for worker, item in zip(pool, items, strict=False)])
            pools[workers, threads] = pool, [process for _, process in homes]
        for number in range(options.rounds):
            for (workers, threads), (pool, processes) in pools.items():
                before, began = sum(map(cpu_seconds, processes)), time.perf_counter()
                made = list(spread(ray, [[item] for item in items], iter(pool).__next__, workers))
                seconds = time.perf_counter() - began
                spent = sum(map(cpu_seconds, processes)) - before
                failed = [result.error for result in made if result.error is not None]
                if failed:
                    raise ValueError(failed[0])
                what = {"workers": workers, "threads": threads, "picture": "128×96 at x2", "round": number}
                what |= {"iterations": options.iterations}
                values = {"hourly": 3600 * len(items) / seconds, "cpu_seconds": spent / len(items)}
                print(append(options.results / "workers.jsonl", what, values), flush=True)
    return 0


if __name__ == "__main__":
    run(main)
