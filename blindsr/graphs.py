"""Loops of many equal steps on a GPU: captured once as a CUDA graph, then replayed without Python in between.

A step of a search is hundreds of small kernels. Launched one by one they keep a GPU waiting for Python.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Generic, TypeVar

import torch

__all__ = ["adam_options", "own_stream", "repeated"]

log = logging.getLogger(__name__)

WARM_UP = 3
"""Calls before the capture, in which optimisers make their state and libraries their plans."""
WORTHWHILE = 20
"""Calls from which on a capture, which takes as long as several of them, is made."""

Outputs = TypeVar("Outputs")


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On CUDA, work on a stream that can be captured, which the default one cannot; elsewhere nothing."""
    if device.type != "cuda":
        yield
        return
    stream, outer = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(outer)
    with torch.cuda.stream(stream), warnings.catch_warnings():
        # Optimisers that can be captured say so at every step that is not.
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
        yield
    outer.wait_stream(stream)


def adam_options(device: torch.device) -> dict[str, Any]:
    """What Adam has to be told so that its steps can be captured."""
    return {"fused": True, "capturable": True} if device.type == "cuda" else {}


def repeated(step: Callable[[], Outputs], device: torch.device, calls: int) -> Callable[[], Outputs]:
    """What does as ``step`` does, faster on CUDA where there are many ``calls``; inside :func:`own_stream`.

    Args:
        step: works on the same tensors in every call, draws no random numbers, decides nothing by a tensor's value.
            What it returns may be overwritten by the next call.
    """
    return _Repeated(step) if _can_capture(device) and calls >= WORTHWHILE else step


def _can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


def _capture(step: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
    """A function that replays ``step``, and where its outputs will lie. Nothing is computed yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        outputs = step()
    return graph.replay, outputs


class _Repeated(Generic[Outputs]):
    def __init__(self, step: Callable[[], Outputs]) -> None:
        self.step = step
        self.calls = 0
        self.captured: tuple[Callable[[], None], Outputs] | None = None

    def __call__(self) -> Outputs:
        self.calls += 1
        if self.calls == WARM_UP + 1:
            try:
                self.captured = _capture(self.step)
            except RuntimeError as error:  # so are all errors of CUDA
                log.warning("no CUDA graph of the search, which is slower without: %s", str(error).split("\n")[0])
        if self.captured is None:
            return self.step()
        replay, outputs = self.captured
        replay()
        return outputs
