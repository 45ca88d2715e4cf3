"""A folder of pictures, with any estimator: estimate, super-resolve, save, score, record.

The stages of different pictures overlap. Where the estimator can, several pictures are searched as one. On a GPU the
next ones are read, and the ones before scored and written, in threads meanwhile; on a CPU that would gain nothing.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from blindsr.batch.checkpoint import SearchFile, checkpoint_path, remove_checkpoint
from blindsr.batch.claims import Claims, Work, one_line, out_of_memory
from blindsr.batch.inputs import Item
from blindsr.batch.records import Records
from blindsr.batch.results import Result, record_fields
from blindsr.batch.steps import Job, Restored, restored, write
from blindsr.devices import release_memory
from blindsr.estimation import Estimate, OnStep, can_batch, is_resumable
from blindsr.files import move_file
from blindsr.interruption import end_if_interrupted

__all__ = ["Job", "Result", "process"]

AHEAD = 16
"""Pictures that are claimed and read on a GPU before their turn comes."""
WRITERS = 4
"""Threads there that score and write pictures, and how many of these wait or are written at most."""
LARGEST_BATCH = 2**30
"""Bytes of LR pictures that may wait to be searched as one."""

OnSteps = Callable[..., OnStep]


def process(
    items: list[Item],
    job: Job,
    folder: Path,
    *,
    progress: OnSteps | None = None,
    records: Records | None = None,
) -> Iterator[Result]:
    """Process the items and yield each one's result as it is there; a bad item yields an error and ends nothing.

    Writes ``<name>.png`` (or .jpg, .webp, .tif: the image, with the picture's depth, alpha channel and metadata),
    ``<name>.mat`` (the kernel) and ``<name>_kernel.png`` (a picture of the kernel, beside the true one where that is
    known) into ``folder``, which exists. They appear once all of them are made.

    The order is that of the items, but for those that are searched as one or left out.

    Args:
        progress: called with the item at work on, or with all that are searched as one; returns what is called after
            each step, of the estimator or, asked once more, of the non-blind network.
        records: of ``folder``: says what need not be done again, and takes down what was done. Without it everything
            is done, and what was there is replaced.
    """
    with ExitStack() as stack:
        run = _Run(job, folder, progress, records, stack)
        window: list[Work] = []
        try:
            for opened in run.claims.opened(items):
                if isinstance(opened, Result):
                    yield opened
                    continue
                window.append(opened)
                if run.is_full(window):
                    yield from run.process(window)
            yield from run.process(window)
            yield from run.finished()
        except KeyboardInterrupt:
            yield from run.finished()  # what was computed is not lost, and told
            raise


class _AtOnce(Executor):
    """Does in this thread what it is given, before it goes on."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Run:
    """One call of :func:`process`.

    Args:
        stack: ends the threads, which are waited for, and then the claims.
    """

    def __init__(
        self, job: Job, folder: Path, progress: OnSteps | None, records: Records | None, stack: ExitStack
    ) -> None:
        self.job, self.folder, self.progress, self.records = job, folder, progress, records
        held = stack.enter_context(ExitStack())
        reader: Executor = _AtOnce()
        self.writers = reader
        overlaps = _overlaps(job.device)
        if overlaps:
            reader = stack.enter_context(ThreadPoolExecutor(1))  # one alone: reading changes settings of Pillow's
            self.writers = stack.enter_context(ThreadPoolExecutor(WRITERS))
        self.claims = Claims(job, folder, records, reader, AHEAD if overlaps else 0, held)
        self.behind = WRITERS if overlaps else 0
        self.writing: deque[tuple[Work, Future[Result]]] = deque()
        self.most: int | None = job.batch
        """Pictures to search as one; None where the estimator is asked."""
        self.wanted = 1
        """Those to search as one with the first that waits."""

    def is_full(self, window: list[Work]) -> bool:
        """Whether the pictures read are as many as are searched as one."""
        if len(window) == 1:
            self.wanted = self._at_once(window[0])
        waiting = sum(work.image.nbytes for work in window)
        return len(window) >= self.wanted or waiting >= LARGEST_BATCH

    def process(self, window: list[Work]) -> Iterator[Result]:
        """Do the pictures of ``window``, which is empty then, and yield the results that are there."""
        works = window.copy()
        window.clear()
        for group in self._groups(works):
            if isinstance(group, Result):
                yield group
                continue
            for work, found in self._estimates(group):
                if isinstance(found, Estimate):
                    yield from self._restore(work, found)
                else:
                    yield self.claims.fail(work, found)

    def finished(self, behind: int = 0) -> Iterator[Result]:
        """The results of pictures that are written; waits until there are at most so many that are not."""
        while self.writing and (len(self.writing) > behind or self.writing[0][1].done()):
            work, future = self.writing[0]
            try:
                result = future.result()
            except Exception as error:
                result = self.claims.fail(work, error)
            else:
                self.claims.close(work)
            self.writing.popleft()
            yield result

    def _at_once(self, work: Work) -> int:
        """How many pictures like this one are searched as one."""
        estimator = self.job.estimator
        if not can_batch(estimator):
            return 1
        if self.most is not None:
            return self.most
        try:
            return estimator.at_once(self._lr(work), self.job.scale_factor)
        except Exception:  # the search will say why
            return 1

    def _lr(self, work: Work) -> torch.Tensor:
        """1×3×h×w on the device."""
        return work.image.to(self.job.device)

    def _groups(self, works: list[Work]) -> Iterator[list[Work] | Result]:
        """What is searched as one, and the results of those that cannot be searched."""
        estimator = self.job.estimator
        if len(works) < 2 or not can_batch(estimator):
            yield from ([work] for work in works)
            return
        alike: dict[Hashable, list[Work]] = {}
        for work in works:
            try:
                key = estimator.batch_key(work.image, self.job.scale_factor)
            except Exception as error:
                yield self.claims.fail(work, error)
            else:
                alike.setdefault(key, []).append(work)
        for group in alike.values():
            count = self._at_once(group[0])
            yield from (group[first : first + count] for first in range(0, len(group), count))

    def _estimates(self, works: list[Work]) -> Iterator[tuple[Work, Estimate | str]]:
        """Each picture's estimate, or why there is none. What fails as one is tried in halves."""
        try:
            found = list(zip(works, self._search(works), strict=True))
        except Exception as error:
            end_if_interrupted()
            message, memory = one_line(works[0].item, error), out_of_memory(error)
        else:
            yield from found
            return
        # Out of the except block: the exception no longer holds on to the tensors that filled the memory.
        if len(works) == 1:
            yield works[0], message
            return
        release_memory(self.job.device)
        half = len(works) // 2
        if memory:
            self.most = half
        yield from self._estimates(works[:half])
        yield from self._estimates(works[half:])

    def _search(self, works: list[Work]) -> Sequence[Estimate]:
        job, estimator = self.job, self.job.estimator
        on_step = self.progress(*(work.item for work in works)) if self.progress is not None else None
        lrs = [self._lr(work) for work in works]
        checkpoint = self._checkpoint(works)
        if len(works) > 1 and can_batch(estimator):
            seeds = [job.seed] * len(works)
            return estimator.batch(lrs, job.scale_factor, seeds=seeds, on_step=on_step, checkpoint=checkpoint)
        if is_resumable(estimator):
            return [estimator(lrs[0], job.scale_factor, seed=job.seed, on_step=on_step, checkpoint=checkpoint)]
        return [estimator(lrs[0], job.scale_factor, seed=job.seed, on_step=on_step)]

    def _checkpoint(self, works: list[Work]) -> SearchFile | None:
        """Where the search of these pictures is kept, of this run's settings, inputs and versions: beside the first.

        It is of use to a run that searches the same ones as one, as the same command does after an interruption.
        """
        records, job, first = self.records, self.job, works[0]
        if records is None:
            return None
        search = {"settings": records.settings, "versions": records.run.get("versions")}
        search |= {"inputs": [work.inputs for work in works]}
        search |= {"seed": job.seed, "scale_factor": job.scale_factor, "device": job.device.type}
        checkpoint = SearchFile(checkpoint_path(self.folder, first.item.name), first.made, search)
        if not records.resume:
            remove_checkpoint(checkpoint.path)
        return checkpoint

    def _restore(self, work: Work, estimate: Estimate) -> Iterator[Result]:
        """Super-resolve a picture and have it written; yields what is written by then."""
        try:
            on_step = None
            if self.progress is not None and self.job.nonblind is not None:
                on_step = self.progress(work.item)
            made = restored(work.loaded, self._lr(work), estimate, self.job, on_step)
        except Exception as error:
            yield self.claims.fail(work, error)
        else:
            self.writing.append((work, self.writers.submit(self._write, work, made)))
            yield from self.finished(self.behind)

    def _write(self, work: Work, made: Restored) -> Result:
        result = write(work.item, work.loaded, made, self.job, work.made)
        if self.records is not None:
            self.records.store(work.item, work.inputs, work.made, record_fields(result))
        else:
            for path in work.made.iterdir():
                move_file(path, self.folder / path.name)
        return result


def _overlaps(device: torch.device) -> bool:
    """Whether reading and writing gain from threads beside the device's work."""
    return device.type != "cpu"
