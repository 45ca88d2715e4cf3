"""Pictures under way: claimed, read ahead of their turn, and closed when they are done or have failed."""

import contextlib
import tempfile
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from blindsr.batch.checkpoint import checkpoint_path, remove_checkpoint
from blindsr.batch.inputs import Item
from blindsr.batch.records import Records, hash_inputs
from blindsr.batch.results import Result, from_record
from blindsr.batch.steps import Job, Loaded, load
from blindsr.devices import release_memory
from blindsr.interruption import end_if_interrupted

__all__ = ["Claims", "Work", "one_line", "out_of_memory"]


@dataclass
class Work:
    """A picture under way."""

    item: Item
    made: Path
    """A hidden folder for its files until all of them are there."""
    inputs: dict[str, str | None]
    claim: ExitStack
    """Ends the claim, and clears the folder."""
    loading: "Future[Loaded]"

    @property
    def loaded(self) -> Loaded:
        """What was read; waits for it, and raises what hindered it."""
        return self.loading.result()

    @property
    def image(self) -> Tensor:
        """1×3×h×w on the CPU."""
        return self.loaded.picture.image


class Claims:
    """The pictures that a run is at work on.

    Args:
        records: of ``folder``, where there are any.
        reader: reads the pictures.
        ahead: how many are claimed and read before their turn comes.
        stack: ends the claims that are left.
    """

    def __init__(
        self, job: Job, folder: Path, records: Records | None, reader: Executor, ahead: int, stack: ExitStack
    ) -> None:
        self.job, self.folder, self.records = job, folder, records
        self.reader, self.ahead, self.stack = reader, ahead, stack

    def opened(self, items: list[Item]) -> Iterator[Work | Result]:
        """Pictures that are claimed and read, and the results of those that need not be done or cannot be read."""
        waiting: deque[Work | Result] = deque()
        for item in items:
            waiting.append(self._open(item))
            if len(waiting) > self.ahead:
                yield self._read(waiting.popleft())
        while waiting:
            yield self._read(waiting.popleft())

    def close(self, work: Work) -> None:
        """End the work on a picture, which succeeded or failed. (After an interruption its checkpoint is kept.)"""
        if self.records is not None:
            remove_checkpoint(checkpoint_path(self.folder, work.item.name))
        work.claim.close()
        del work.loading  # the next pictures need the memory

    def fail(self, work: Work, error: Exception | str) -> Result:
        end_if_interrupted()  # what an interruption breaks into may make another error of it
        message = error if isinstance(error, str) else one_line(work.item, error)
        self.close(work)
        return self._failed(work.item, message)

    def _failed(self, item: Item, message: str) -> Result:
        if self.records is not None:
            with contextlib.suppress(OSError):  # on a full disk there is no room for the record either
                self.records.fail(item, hash_inputs(item), message)
        release_memory(self.job.device)  # the next picture does not pay for this one
        return Result(item=item, error=message)

    def _open(self, item: Item) -> Work | Result:
        try:
            with ExitStack() as claim:
                made = self._claim(item, claim)
                if isinstance(made, Result):
                    return made
                inputs = hash_inputs(item)
                claim = self.stack.enter_context(claim.pop_all())
            return Work(item, made, inputs, claim, self.reader.submit(load, item, self.job.scale_factor))
        except Exception as error:
            return self._failed(item, one_line(item, error))

    def _claim(self, item: Item, claim: ExitStack) -> Path | Result:
        """The folder for the files of a picture, or why it need not be done."""
        if self.records is None:
            return Path(claim.enter_context(tempfile.TemporaryDirectory(dir=self.folder)))
        earlier = _earlier(item, self.records, self.job.verbose)
        if earlier is not None:
            remove_checkpoint(checkpoint_path(self.folder, item.name))  # which a process killed at the very end left
            return earlier
        made = claim.enter_context(self.records.claim(item))
        if made is None:
            return Result(item=item, claimed=True)
        return _earlier(item, self.records, self.job.verbose) or made  # another process may have done it meanwhile

    def _read(self, opened: Work | Result) -> Work | Result:
        if isinstance(opened, Work):
            try:
                opened.loading.result()
            except Exception as error:
                return self.fail(opened, error)
        return opened


def _earlier(item: Item, records: Records, verbose: bool) -> Result | None:
    """The result that a record tells of; None where ``item`` is still to do."""
    record = records.finished(item, (".mat", "_kernel.png"))
    if record is None or (verbose and record.result.get("search") is None):
        return None
    return from_record(item, record)


def out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error))


def one_line(item: Item, error: Exception) -> str:
    """What went wrong with ``item``, with its path."""
    message = " ".join(str(error).split()) or "out of memory"
    if out_of_memory(error):
        message = f"not enough memory for a picture of this size; use a smaller one ({message[:80]})"
    elif not isinstance(error, ValueError | OSError | RuntimeError):
        # Nobody foresaw this one: say where it came from, since there is no traceback.
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {error!s:.80}"
        message = " ".join(message.split())
    known = any(str(path) in message for path in (item.lr, item.hr, item.kernel) if path is not None)
    return message if known else f"{item.lr}: {message}"
