"""Interrupting signals that came.

What they break into, an import for one, may drop the exception that they raise or make another of it, so who would go
on looks here first.
"""

from types import FrameType

__all__ = ["end_if_interrupted", "interrupt", "was_interrupted"]

_signals: list[int] = []


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler: raises KeyboardInterrupt, and notes it."""
    _signals.append(number)
    raise KeyboardInterrupt


def was_interrupted() -> bool:
    """Whether an interrupting signal came, whatever became of its exception."""
    return bool(_signals)


def end_if_interrupted() -> None:
    """Raise KeyboardInterrupt where :func:`was_interrupted`."""
    if _signals:
        raise KeyboardInterrupt
