"""Pictures shared among the workers of Ray: handed out one by one, and again where a worker is lost.

Ray starts the processes, on this machine or on a cluster, and says when one is gone. What is finished is known by the
records beside the results, as ever, so nothing has to be remembered here.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from blindsr.batch.inputs import Item
from blindsr.batch.run import Result

__all__ = ["spread"]

log = logging.getLogger(__name__)

FATAL = 2
"""Workers that a picture may take down before it is given up."""
LOST_CLAIMS = 24
"""How often a picture whose worker is gone is tried again while its claim lives on, every :data:`PAUSE` seconds."""
PAUSE = 5.0
FAILED_STARTS = 3
"""Workers in a row that may die before they have started."""
LEFT = "node has died"
"""How Ray says that a machine is gone."""
PATIENCE = 120.0
"""Seconds without a worker after which that is said."""


@dataclass
class _Chunk:
    """Pictures that one worker takes at once."""

    items: list[Item]
    deaths: int = 0
    """Workers that died over it, machines that left aside."""
    again: bool = False
    """Whether a worker had it that is gone."""
    claims: int = 0
    """How often it was found claimed after that."""
    not_before: float = 0.0


@dataclass
class _Slot:
    """A worker, and what it is at."""

    worker: Any
    chunk: _Chunk | None = None
    fraction: float = 0.0
    asked: Any = None
    """Where its answer on how far it is will be."""
    cut_off: bool = False
    """Whether its connection broke, and it is not known yet why."""
    home: tuple[str, int] | None = None
    """The machine's name and the process, once it has started."""


@dataclass
class _Spread:
    """The state of one run, for :func:`spread`."""

    ray: Any
    start: Callable[[], Any]
    given_up: Callable[[Item, str], None] | None
    waiting: deque[_Chunk]
    running: dict[Any, _Slot] = field(default_factory=dict)
    """By where what they are doing will say that it is done."""
    idle: list[_Slot] = field(default_factory=list)
    done: int = 0
    failed_starts: int = 0
    waited: bool = False
    """Whether it was said that no worker starts."""

    def begin(self) -> None:
        """Start a worker."""
        worker = self.start()
        self.running[worker.start.remote()] = _Slot(worker)

    def replace(self) -> None:
        """Start a worker in place of one that is gone, if there is anything to do for it."""
        if len(self.waiting) > len(self.idle):
            self.begin()

    def hand_out(self) -> None:
        """Give what is waiting to workers that have nothing to do."""
        now = time.monotonic()
        for _ in range(len(self.waiting)):
            if not self.idle:
                return
            chunk = self.waiting.popleft()
            if chunk.not_before > now:
                self.waiting.append(chunk)
                continue
            slot = self.idle.pop()
            slot.chunk, slot.fraction = chunk, 0.0
            self.running[slot.worker.work.remote(chunk.items, chunk.again)] = slot

    def wait(self, seconds: float) -> Iterator[Result]:
        """What comes within that time, or with the first that comes."""
        refs = list(self.running)
        if not refs:  # all are idle, and what waits is not to be tried again yet
            time.sleep(min(seconds, 0.2))
            return
        ready, _ = self.ray.wait(refs, num_returns=1, timeout=seconds)
        if ready and len(refs) > 1:
            ready, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ready:
            yield from self.finished(ref)

    def finished(self, ref: Any) -> list[Result]:
        """What came of one call of a worker."""
        slot = self.running.pop(ref)
        try:
            answer = self.ray.get(ref)
        except self.ray.exceptions.RayActorError as error:
            if isinstance(error, self.ray.exceptions.ActorDiedError) or slot.cut_off:
                return self._lost(slot, error)
            # Not heard of. The answer to another question will be what became of it.
            slot.cut_off = True
            self.running[slot.worker.progress.remote()] = slot
            return []
        except self.ray.exceptions.RayTaskError as error:
            return self._raised(slot, error)
        if slot.cut_off:  # it is alive, but what it did is lost
            return self._lost(slot, ConnectionError(LEFT))
        if slot.chunk is None:
            slot.home, self.failed_starts = answer, 0
            self.idle.append(slot)
            return []
        results, lines = answer
        for line in lines:
            log.warning("%s", line)
        chunk, slot.chunk, slot.fraction = slot.chunk, None, 0.0
        self.idle.append(slot)
        if chunk.again and chunk.claims < LOST_CLAIMS and any(result.claimed for result in results):
            # A worker that was cut off may be at it still, or on its way out.
            again = [result.item for result in results if result.claimed]
            later = time.monotonic() + PAUSE
            self.waiting.append(_Chunk(again, chunk.deaths, True, chunk.claims + 1, later))
            results = [result for result in results if not result.claimed]
        self.done += len(results)
        return list(results)

    def _lost(self, slot: _Slot, error: Exception) -> list[Result]:
        """A worker is dead: its pictures wait for another one, each alone from now on, or are given up."""
        with contextlib.suppress(Exception):
            self.ray.kill(slot.worker)  # where it is only cut off
        reason = _reason(error)
        if slot.chunk is None:
            self.failed_starts += 1
            if self.failed_starts >= FAILED_STARTS and not self._at_work():
                raise ValueError(f"no worker starts: {reason}")
            if self.failed_starts < FAILED_STARTS:
                self.replace()
            return []
        assert slot.home is not None
        deaths = slot.chunk.deaths + (0 if _machine_left(error) else 1)
        if deaths >= FATAL:
            self.done += len(slot.chunk.items)
            why = f"given up: it took {deaths} workers down (the last: {reason})"
            results = [Result(item, error=f"{item.shown}: {why}") for item in slot.chunk.items]
            if self.given_up is not None:
                for result in results:
                    self.given_up(result.item, str(result.error))
            self.replace()
            return results
        log.warning("a worker on %s is lost (%s); its picture is done again", slot.home[0], reason)
        self.waiting.extend(_Chunk([item], deaths, again=True) for item in slot.chunk.items)
        self.replace()
        return []

    def _raised(self, slot: _Slot, error: Any) -> list[Result]:
        """A worker raised something: over its start, or over pictures, for which it should not."""
        cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
        reason = " ".join(str(cause).split())[:300]
        if slot.chunk is None:
            with contextlib.suppress(Exception):
                self.ray.kill(slot.worker)
            if self._at_work() and self.done:  # of a machine that joined later
                log.warning("%s; it gets no pictures", reason)
                return []
            raise cause if isinstance(cause, ValueError) else ValueError(f"no worker starts: {reason}") from error
        chunk, slot.chunk = slot.chunk, None
        self.idle.append(slot)
        self.done += len(chunk.items)
        return [Result(item, error=f"{item.shown}: {reason}") for item in chunk.items]

    def _at_work(self) -> bool:
        return bool(self.idle) or any(slot.home is not None for slot in self.running.values())

    def ask(self) -> float:
        """How many pictures are done, with the fractions that the workers last said; asks them anew."""
        busy = [slot for slot in self.running.values() if slot.chunk is not None]
        asked = {slot.asked: slot for slot in busy if slot.asked is not None}
        if asked:
            said, _ = self.ray.wait(list(asked), num_returns=len(asked), timeout=0)
            for ref in said:
                with contextlib.suppress(self.ray.exceptions.RayError):  # a dead one is seen elsewhere
                    asked[ref].fraction = self.ray.get(ref)
                asked[ref].asked = None
        for slot in busy:
            if slot.asked is None:
                slot.asked = slot.worker.progress.remote()
        return self.done + sum(slot.fraction * len(slot.chunk.items) for slot in busy if slot.chunk is not None)

    def stop(self, seconds: float = 5.0) -> None:
        """Let the workers break off and clean up, those that do so in time."""
        busy = {ref: slot for ref, slot in self.running.items() if slot.chunk is not None}
        with contextlib.suppress(Exception):
            for slot in busy.values():
                slot.worker.stop.remote()
            if busy:
                self.ray.wait(list(busy), num_returns=len(busy), timeout=seconds)


def spread(
    ray: Any,
    chunks: Iterable[Sequence[Item]],
    start: Callable[[], Any],
    workers: int,
    on_progress: Callable[[float], None] | None = None,
    on_given_up: Callable[[Item, str], None] | None = None,
    interval: float = 1.0,
) -> Iterator[Result]:
    """Hand out pictures to workers, and yield the results as they come.

    A picture whose worker dies is done again, and given up when a second one dies over it. Loss of a whole machine is
    not held against it.

    Args:
        ray: the module, initialized.
        chunks: pictures that a worker takes at once.
        start: starts an actor that is a :class:`blindsr.batch.workers.Worker`.
        workers: how many to start.
        on_progress: called every so often with how many pictures are done, fractions included.
        on_given_up: called with a picture that is given up, and why.
        interval: seconds between two calls of ``on_progress``, at least.

    Raises:
        ValueError: no worker starts, or a machine lacks what it takes; finished pictures stay.
    """
    state = _Spread(ray, start, on_given_up, deque(_Chunk(list(items)) for items in chunks))
    # Each question is a message to every worker.
    interval = max(interval, workers / 100)
    asked = alive = time.monotonic()
    for _ in range(min(workers, len(state.waiting))):
        state.begin()
    try:
        while state.waiting or any(slot.chunk is not None for slot in state.running.values()):
            state.hand_out()
            yield from state.wait(min(interval, 1.0))
            now = time.monotonic()
            if state._at_work():
                alive = now
            elif now - alive > PATIENCE and not state.waited:
                state.waited = True
                log.warning("no worker has started for two minutes; Ray may lack cores, GPUs or memory; waiting")
            if on_progress is not None and now - asked >= interval:
                on_progress(state.ask())
                asked = now
        if on_progress is not None:
            on_progress(state.done)
    except BaseException:
        state.stop()
        raise


def _machine_left(error: Exception) -> bool:
    """Whether a worker died with its whole machine, or is cut off from it."""
    return LEFT in str(error) or type(error).__name__ == "ActorUnavailableError"


def _reason(error: Exception) -> str:
    """Why a worker is dead, in a few words out of Ray's many."""
    text = " ".join(str(error).split())
    if _machine_left(error):
        return "its machine left"
    if "memory" in text.lower() and "OutOfMemory" in text:
        return "out of memory"
    for sign, meaning in (("SYSTEM_ERROR", "killed, out of memory perhaps"), ("INTENDED", "ended")):
        if sign in text:
            return meaning
    return text[:150]
