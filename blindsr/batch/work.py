"""Do the pictures of a command, here or in workers, with a bar over them and a line for each."""

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from blindsr.batch.cluster import Plan, check_nodes, joined
from blindsr.batch.distributed import spread
from blindsr.batch.inputs import Item
from blindsr.batch.lines import result_line
from blindsr.batch.options import RunOptions
from blindsr.batch.records import Records, hash_inputs
from blindsr.batch.run import Job, Result
from blindsr.batch.storage import Store, process_stored
from blindsr.batch.workers import Assignment, Probe, Worker, check_node, packed, versions
from blindsr.command import Bar
from blindsr.estimation import OnStep
from blindsr.interruption import end_if_interrupted

__all__ = ["Work", "do"]

BAR = "{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]"


@dataclass(frozen=True)
class Work:
    """The pictures of one command, and what is done to them."""

    items: list[Item]
    job: Job
    output: Path | Store
    records: Callable[[Path], Records]
    """Of a folder, the records of this run."""


def do(work: Work, run: RunOptions) -> tuple[list[Result], bool]:
    """The results so far, each told in a line, and whether the user broke off.

    Raises:
        ValueError: the workers that ``run`` asks for cannot be had.
    """
    results: list[Result] = []
    with Bar(total=1, bar_format=BAR) as bar, logging_redirect_tqdm() if bar.drawn else nullcontext():
        done = _in_workers(work, run, bar) if run.on_ray else _here(work, bar)
        try:
            for result in done:
                if result.error is not None:
                    end_if_interrupted()
                results.append(result)
                bar.write(result_line(result), file=sys.stdout if result.error is None else sys.stderr)
        except KeyboardInterrupt:
            return results, True
        finally:
            done.close()  # workers are gone when the command is
            bar.leave = bar.drawn and bar.n > 0  # nothing is left to see of it where all was done before
            if not bar.leave:
                bar.clear()
    return results, False


def _here(work: Work, bar: Bar) -> Generator[Result, None, None]:
    """One picture after the other, in this process; the bar shows each one's steps."""
    places = {item.name: place for place, item in enumerate(work.items, start=1)}

    def progress(item: Item, *others: Item) -> OnStep:
        name = f"{item.name} and {len(others)} more" if others else item.name
        bar.set_description_str(f"{name} ({places[item.name]}/{len(work.items)})", refresh=False)
        bar.set_postfix_str("", refresh=False)
        bar.restart(total=1)

        def on_step(done: int, total: int, loss: float | None) -> None:
            end_if_interrupted()
            bar.set_postfix_str("USRNet" if loss is None else f"loss {loss:.2e}", refresh=False)
            if total != bar.total:
                # USRNet's steps take another time than a search's, and a resumed search does not begin at 0.
                bar.restart(total=total, done=done - 1)
            bar.update(done - bar.n)

        return on_step

    for result in process_stored(work.items, work.job, work.output, work.records, progress):
        bar.total = bar.n or 1  # a search may end before its last iteration
        yield result


def _in_workers(work: Work, run: RunOptions, bar: Bar) -> Generator[Result, None, None]:
    """In workers, as they come; the bar counts pictures, with the fractions of those under way."""
    workers = "auto" if run.workers is None else run.workers
    with joined(run.ray, workers, run.device, run.threads) as (ray, plan), _probe(work, run) as probe:
        count = min(plan.workers, len(work.items))
        each = f"{plan.gpus:.2g} GPU each" if plan.gpus else f"{plan.threads} thread{'s' * (plan.threads > 1)} each"
        bar.bar_format = BAR.replace("{n}", "{n:.1f}")
        bar.set_description_str(f"{count} worker{'s' * (count > 1)}, {each}", refresh=False)
        bar.restart(total=len(work.items))
        bar.miniters = 0.01
        if run.ray is not None:
            check_nodes(ray, partial(check_node, versions(), probe))
        actor = ray.remote(Worker)
        assignment = ray.put(_assignment(work, run, plan, probe, ray.cloudpickle))

        def start() -> Any:
            # The second thread answers while the first one works. Who is lost is replaced by whoever counts deaths.
            resources = {"num_cpus": 1 if plan.gpus else plan.threads, "num_gpus": plan.gpus}
            return actor.options(max_concurrency=2, max_restarts=0, **resources).remote(assignment)

        def on_progress(done: float) -> None:
            end_if_interrupted()
            bar.n = done  # type: ignore[assignment]  # sums of fractions would be off in the last digit
            bar.update(0)

        size = work.job.batch or 1
        chunks = [work.items[first : first + size] for first in range(0, len(work.items), size)]
        yield from spread(ray, chunks, start, count, on_progress, partial(_record_failure, work))


@contextmanager
def _probe(work: Work, run: RunOptions) -> Iterator[Probe | None]:
    """What other machines must see of this one's files; it is there as long as workers may start."""
    if run.ray is None:
        yield None
        return
    sample = next((item.lr.resolve() for item in work.items if item.source is None), None)
    probe = Probe.written(work.output if isinstance(work.output, Path) else None, sample)
    try:
        yield probe
    finally:
        probe.remove()


def _assignment(work: Work, run: RunOptions, plan: Plan, probe: Probe | None, cloudpickle: Any) -> Assignment:
    output = work.output.url if isinstance(work.output, Store) else work.output
    records = work.records(Path())
    return Assignment(
        packed(work.job, cloudpickle),
        run.device,
        output,
        records.settings,
        records.run,
        run.resume,
        run.overwrite,
        plan.threads,
        plan.neighbours,
        versions(),
        probe,
    )


def _record_failure(work: Work, item: Item, error: str) -> None:
    """Of a picture that no worker survived, which none could record; behind a URL nothing is."""
    if isinstance(work.output, Path) and item.source is None:
        work.records(work.output).fail(item, hash_inputs(item), error)
