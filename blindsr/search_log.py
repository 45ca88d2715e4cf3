"""What is taken down of a search as it goes."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from blindsr.estimation import Checkpoint, OnStep

__all__ = ["SearchLog"]


class SearchLog:
    """Takes down a search for its estimate, tells ``on_step``, and goes on with one broken off.

    Several pictures that are searched together share one log.

    Args:
        total: iterations at most.
        advice: what to do when the loss is not a number any more.
        every: after how many iterations losses are fetched from the device, which has to be waited for. Until then
            ``on_step`` is not called, and a loss that is not finite not noticed.
        checkpoint: of the search.
    """

    pictures = 12

    def __init__(
        self,
        total: int,
        on_step: OnStep | None,
        advice: str,
        every: int = 1,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        earlier = (checkpoint.load() if checkpoint is not None else None) or {}
        self.total = total
        self.on_step = on_step
        self.advice = advice
        self.every = every
        self.checkpoint = checkpoint
        self.resumed: dict[str, Any] = earlier.get("search", {})
        """What :meth:`keep` was given when the search was broken off; empty where it begins now."""
        self._pending: list[Tensor] = []
        self._losses: list[list[list[float]]] = earlier.get("losses", [])
        self._kernels: list[tuple[int, Tensor]] = earlier.get("kernels", [])
        self._began = time.perf_counter() - earlier.get("seconds", 0.0)
        self._ends: Sequence[int] | None = None
        self.done = len(self._losses)

    @property
    def seconds(self) -> float:
        """Wall-clock time of the search, before it was broken off included."""
        return time.perf_counter() - self._began

    def step(self, *losses: Tensor) -> None:
        """An iteration is done.

        Args:
            losses: of the kernel and where there is one of the critic, each a number or one for each picture, (N,).

        Raises:
            ValueError: the loss of a recent iteration is not finite.
        """
        self.done += 1
        self._pending.append(torch.stack([loss.detach().reshape(-1) for loss in losses]))
        if len(self._pending) >= self.every:
            self.fetch()

    def fetch(self) -> None:
        """Fetch the losses that are still on the device; errors as of :meth:`step`."""
        fetched = torch.stack(self._pending).tolist() if self._pending else []
        self._pending = []
        for losses in fetched:
            self._losses.append(losses)
            if not all(math.isfinite(loss) for loss in losses[0]):
                raise ValueError(f"the search diverged; {self.advice}")
            if self.on_step is not None:
                self.on_step(len(self._losses), self.total, sum(losses[0]) / len(losses[0]))

    def keep(self, search: Callable[[], dict[str, Any]]) -> None:
        """Save the state between two iterations, where that is due.

        Args:
            search: makes what the next iterations depend on, of tensors and plain values; see
                :func:`blindsr.checkpoints.optimizer_state`.
        """
        if self.checkpoint is None or not self.checkpoint.due():
            return
        self.fetch()
        state = {"losses": self._losses, "kernels": self._kernels, "seconds": self.seconds, "search": search()}
        self.checkpoint.save(state)

    def kernel(self, kernel: Tensor, last: bool = False) -> None:
        """The kernels after the iterations done, N×1×k×k; kept if they are the ``last`` or their turn has come."""
        interval = max(1, math.ceil(self.total / self.pictures))
        if (last or self.done % interval == 0) and not (self._kernels and self._kernels[-1][0] == self.done):
            self._kernels.append((self.done, kernel.detach().clone()))

    def end(self, kernels: Tensor, done: Sequence[int]) -> None:
        """The search is over: what it found, N×1×k×k, each after so many iterations; later ones do not count."""
        self.kernel(kernels, last=True)
        self._ends = done

    def of(self, picture: int = 0) -> dict[str, Any]:
        """What :class:`blindsr.estimation.Estimate` says of the search of one picture, by its names.

        Raises:
            ValueError: see :meth:`step`.
        """
        self.fetch()
        end = None if self._ends is None else self._ends[picture]
        curves = [[losses[picture] for losses in curve] for curve in zip(*self._losses[:end], strict=True)] or [[]]
        path = [(done, kernel[picture : picture + 1].cpu()) for done, kernel in self._kernels]
        if end is not None:
            path = [*((done, kernel) for done, kernel in path if done < end), (end, path[-1][1])]
        return {"losses": curves[0], "critic_losses": curves[1] if len(curves) > 1 else [], "path": path}
