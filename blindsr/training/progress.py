"""A training's progress on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from blindsr.command import Bar
from blindsr.interruption import end_if_interrupted
from blindsr.training.loop import OnValidation, process_rank

__all__ = ["training_bar"]


@contextmanager
def training_bar(
    steps: int, what: str, describe: Callable[[float], str]
) -> Iterator[tuple[Callable[[str], None], Callable[[int, float], None], OnValidation]]:
    """A progress bar for :func:`blindsr.training.loop.fit`.

    Of several processes only the first one's shows anything.

    Args:
        what: the scores' name.
        describe: formats a score.

    Yields:
        A way to print beside the bar, ``on_step`` and ``on_validation``.
    """
    with Bar(total=steps, unit="step", smoothing=0.05, disable=process_rank() > 0) as bar:

        def report(line: str) -> None:
            if not bar.disable:
                bar.write(line)

        def on_step(step: int, loss: float) -> None:
            end_if_interrupted()
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

        def on_validation(entry: dict[str, Any]) -> None:
            scores = ", ".join(f"x{s} {describe(score)}" for s, score in entry["scores"].items())
            report(f"step {entry['step']}: loss {entry['loss']:.5f}, {what} {scores}")

        yield report, on_step, on_validation
