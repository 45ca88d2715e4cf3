"""What a kernel estimator takes and gives: the contract between estimators and the pipeline."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from torch import Tensor

from blindsr.kernels import align, unalign

__all__ = [
    "UNCERTAIN",
    "Estimate",
    "Estimator",
    "NoiseEstimator",
    "NonblindSR",
    "OnStep",
    "Preset",
    "SearchLog",
    "place",
]

Preset = Literal["prediction", "search", "paper"]
"""Settings that every estimator has: the predicted kernel without a search, a search that begins there, and the
published method."""

UNCERTAIN = 0.32
"""Expected relative error of a kernel's covariance above which it is called uncertain: photographs of BSDS500, up to
four times enlarged, have 0.06 to 0.23, gradients, single edges and flat areas 0.38 to 0.76 (at x8 0.21 to 0.35)."""

OnStep = Callable[[int, int, float | None], None]
"""Called after every step with (steps done, steps in all, loss); what has no loss says None."""


NoiseEstimator = Callable[[Tensor], float]
"""Reads the noise level (image range) off an image, 1×3×h×w in [0, 1]."""


class NonblindSR(Protocol):
    """Super-resolves one image with its kernel."""

    def __call__(
        self, lr: Tensor, kernel: Tensor, scale_factor: int, sigma: float, /, *, on_step: OnStep | None = None
    ) -> Tensor:
        """1×3×h×w in [0, 1], 1×1×k×k and the noise level in image range → 1×3×sh×sw, all on one device."""
        ...


@dataclass(frozen=True)
class Estimate:
    """What an estimator found out about one LR image."""

    kernel: Tensor
    """1×1×k×k float32 on the CPU, sum 1."""
    image: Tensor | None
    """1×3×(s·h)×(s·w) float32 on the CPU in [0, 1], where the estimator makes one and was asked for it."""
    losses: list[float]
    """Loss of every iteration."""
    seconds: float
    """Wall-clock time of the estimation."""
    seed: int
    """Seed of every draw: the same seed, settings and device give the same estimate."""
    critic_losses: list[float] = field(default_factory=list)
    """Loss of the critic in every iteration, where there is one (its last step's)."""
    expected_error: float | None = None
    """Error to expect of the kernel's covariance, relative to it (0.05 is good), where the estimator knows."""
    converged: bool | None = None
    """Whether the kernel had converged when the search ended, where the estimator checks that. Converged is not
    correct: a large proximal weight makes a search converge at its start."""
    path: list[tuple[int, Tensor]] = field(default_factory=list)
    """The kernel along the search, its start and a dozen times more at most: (iterations done, 1×1×k×k)."""
    aligned: bool = False
    """Whether the kernel's centre is the aligned instead of the published one (:mod:`blindsr.kernels`). An estimator
    may return either; :func:`place` moves the kernel to where the image needs it."""
    notes: tuple[str, ...] = ()
    """What a user should know of this estimate, a line each."""

    @property
    def uncertain(self) -> bool:
        """Whether too little of the blur shows for the kernel to be trusted, where the estimator knows."""
        return self.expected_error is not None and self.expected_error > UNCERTAIN

    @property
    def relative_change(self) -> float | None:
        """‖k − k₀‖/‖k₀‖ of the last kernel searched against the search's start, where that was a kernel.

        KernelGAN's random filters are none: they make almost nothing of an image.
        """
        if not self.path or float(self.path[0][1].sum()) < 0.5:
            return None
        start, end = self.path[0][1], self.path[-1][1]
        return float((end - start).norm() / start.norm())


def place(estimate: Estimate, scale_factor: int, photograph: bool) -> Estimate:
    """``estimate`` with the kernel where ``image`` needs it: aligned for a photograph, else as published."""
    if estimate.aligned == photograph:
        return estimate
    kernel = (align if photograph else unalign)(estimate.kernel, scale_factor)
    return replace(estimate, kernel=kernel, aligned=photograph)


class Estimator(Protocol):
    """One function of one image: it opens no file, prints nothing and reads no global."""

    def __call__(self, lr: Tensor, scale_factor: int, *, seed: int, on_step: OnStep | None = None) -> Estimate:
        """Estimate the kernel of ``lr``, 1×3×h×w float32 in [0, 1].

        Raises:
            ValueError: the image cannot be used (too small, say).
        """
        ...


class SearchLog:
    """Takes down a search as it goes, for :class:`Estimate`, and tells ``on_step``.

    Args:
        total: iterations at most.
        advice: what to do when the loss is not a number any more.
    """

    pictures = 12

    def __init__(self, total: int, on_step: OnStep | None, advice: str) -> None:
        self.total = total
        self.on_step = on_step
        self.advice = advice
        self.losses: list[float] = []
        self.critic_losses: list[float] = []
        self.path: list[tuple[int, Tensor]] = []

    def step(self, loss: Tensor, critic_loss: Tensor | None = None) -> None:
        """An iteration is done.

        Raises:
            ValueError: the loss is not finite.
        """
        if critic_loss is not None:
            self.critic_losses.append(float(critic_loss.detach()))
        self.losses.append(float(loss.detach()))
        if not math.isfinite(self.losses[-1]):
            raise ValueError(f"the search diverged; {self.advice}")
        if self.on_step is not None:
            self.on_step(len(self.losses), self.total, self.losses[-1])

    def kernel(self, kernel: Tensor, last: bool = False) -> None:
        """The kernel after the iterations done; kept if it is the ``last`` or its turn has come."""
        done = len(self.losses)
        interval = max(1, math.ceil(self.total / self.pictures))
        if (last or done % interval == 0) and not (self.path and self.path[-1][0] == done):
            self.path.append((done, kernel.detach().cpu().clone()))
