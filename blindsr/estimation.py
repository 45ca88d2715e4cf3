"""What a kernel estimator takes and gives: the contract between estimators and the pipeline."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Estimate", "Estimator", "NonblindSR", "OnStep"]

NonblindSR = Callable[[Tensor, Tensor, int, float], Tensor]
"""(LR image, kernel, scale factor, noise level) → HR image, all on one device."""

OnStep = Callable[[int, int, float], None]
"""Called after every iteration with (iterations done, iterations in all, loss)."""


@dataclass(frozen=True)
class Estimate:
    """What an estimator found out about one LR image."""

    kernel: Tensor
    """1×1×k×k float32 on the CPU, sum 1, the project's convention."""
    image: Tensor | None
    """1×3×(s·h)×(s·w) float32 on the CPU in [0, 1], where the estimator makes one and was asked for it."""
    losses: list[float]
    """Loss of every iteration."""
    seconds: float
    """Wall-clock time of the estimation."""
    seed: int
    """Seed of every draw: the same seed, settings and device give the same estimate."""
    expected_error: float | None = None
    """Error to expect of the kernel's covariance, relative to it (0.05 is good), where the estimator knows."""


class Estimator(Protocol):
    """One function of one image: it opens no file, prints nothing and reads no global."""

    def __call__(self, lr: Tensor, scale_factor: int, *, seed: int, on_step: OnStep | None = None) -> Estimate:
        """Estimate the kernel of ``lr``, 1×3×h×w float32 in [0, 1].

        Raises:
            ValueError: the image cannot be used (too small, say).
        """
        ...
