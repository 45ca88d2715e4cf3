"""What a kernel estimator takes and gives: the contract between estimators and the pipeline."""

import inspect
import math
from base64 import b64encode
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard

from torch import Tensor

from blindsr.field import KernelField
from blindsr.kernel_shape import kernel_png, kernel_shape
from blindsr.kernels import align, centre, normalize, unalign

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BatchEstimator",
    "Checkpoint",
    "Estimate",
    "Estimator",
    "Limits",
    "NoiseEstimator",
    "NonblindSR",
    "OnStep",
    "Preset",
    "ResumableEstimator",
    "can_batch",
    "is_resumable",
    "place",
]

Preset = Literal["prediction", "search", "paper"]
"""Settings that every estimator has: the predicted kernel without a search, a search that begins there, and the
published method."""

OnStep = Callable[[int, int, float | None], None]
"""Called after every step with (steps done, steps in all, loss); what has no loss says None."""


NoiseEstimator = Callable[[Tensor, float | None], float]
"""From an image, 1×3×h×w in [0, 1], and the noise level that an estimator read off it, if any, to the one to tell."""


class NonblindSR(Protocol):
    """Super-resolves one image with its kernel."""

    def __call__(
        self, lr: Tensor, kernel: Tensor, scale_factor: int, sigma: float, /, *, on_step: OnStep | None = None
    ) -> Tensor:
        """1×3×h×w in [0, 1], 1×1×k×k and the noise level in image range → 1×3×sh×sw, all on one device.

        What also takes R×C×k×k, kernels of R×C equal cells of the image, serves blur that varies.
        """
        ...


@dataclass(frozen=True)
class Limits:
    """How far what an estimator reads off an image can be trusted, as measured on images whose blur is known."""

    uncertain: float
    """Expected error above which the kernel is doubted."""
    wide: float = math.inf
    """Standard deviation in LR pixels from which on a doubted blur may be none of the Gaussian kernels."""
    linear: float = math.inf
    """Ratio of the two standard deviations from which on it is motion then, else out of focus."""
    noisy: float = math.inf
    """Grey levels of noise from which on it is the noise that makes the kernel doubtful."""
    sharp: float = 0.0
    """Standard deviation in LR pixels below which there is no blur that could be undone."""


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
    """Wall-clock time of the estimation, before it was broken off included."""
    seed: int
    """Seed of every draw: the same seed, settings and CPU give the same estimate (a GPU adds in no fixed order)."""
    critic_losses: list[float] = field(default_factory=list)
    """Loss of the critic in every iteration, where there is one (its last step's)."""
    expected_error: float | None = None
    """Error to expect of the kernel's covariance, relative to it (0.05 is good), where the estimator knows."""
    spread: tuple[float, float] | None = None
    """Standard deviations of the blur along its axes, the larger first, in LR pixels, as read off the image and not
    limited to what kernels can be, where the estimator reads them."""
    limits: Limits | None = None
    """From where on these two raise doubts (:mod:`blindsr.doubts`), where the estimator knows."""
    sigma: float | None = None
    """Noise level in image range, where the estimator read it off the image."""
    converged: bool | None = None
    """Whether the kernel had converged when the search ended, where the estimator checks that. Converged is not
    correct: a large proximal weight makes a search converge at its start."""
    path: list[tuple[int, Tensor]] = field(default_factory=list)
    """The kernel along the search, its start and a dozen times more at most: (iterations done, 1×1×k×k)."""
    aligned: bool = False
    """Whether the kernel's centre is the aligned instead of the published one (:mod:`blindsr.kernels`). An estimator
    may return either; :func:`place` moves the kernel to where the image needs it."""
    free_centre: bool = False
    """Whether nothing held the kernel's centre in place, as a prior of Gaussians does: an image displaced and its
    kernel displaced the other way fit as well."""
    kernel_field: KernelField | None = None
    """Of a photograph whose blur varies over it, where the estimator reads that; ``kernel`` is one for all of it."""
    notes: tuple[str, ...] = ()
    """What a user should know of this estimate, a line each."""

    @property
    def blur(self) -> Tensor | KernelField:
        """What to undo: the kernel, or the field of those that vary."""
        return self.kernel if self.kernel_field is None else self.kernel_field

    @property
    def relative_change(self) -> float | None:
        """‖k − k₀‖/‖k₀‖ of the last kernel searched against the search's start, where that was a kernel.

        KernelGAN's random filters are none: they make almost nothing of an image.
        """
        if not self.path or float(self.path[0][1].sum()) < 0.5:
            return None
        start, end = self.path[0][1], self.path[-1][1]
        return float((end - start).norm() / start.norm())

    def _repr_html_(self) -> str:
        """The kernel, its widths and the doubts, where a notebook shows the estimate."""
        picture = b64encode(kernel_png(self.kernel)).decode()
        lines = [
            f"blur {kernel_shape(self.kernel).describe(self.expected_error)}",
            *([] if self.kernel_field is None else [f"over the image {self.kernel_field.describe()}"]),
            f"{self.seconds:.1f} s",
            *self.notes,
        ]
        if self.converged is False:
            lines.append("the kernel had not converged")
        return (
            f'<img src="data:image/png;base64,{picture}" alt="kernel" width="120" height="120" '
            f'style="image-rendering: pixelated"><p>{"<br>".join(map(escape, lines))}</p>'
        )

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the kernel with matplotlib, into ``axes`` or a new figure.

        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> estimate = Estimate(torch.full((1, 1, 5, 5), 1 / 25), None, losses=[], seconds=0.0, seed=0)
        >>> estimate.plot(Figure().subplots()).get_title()
        '1.41 px, round'
        """
        from blindsr.figures import draw_kernel  # matplotlib takes half a second to import

        return draw_kernel(self.kernel, kernel_shape(self.kernel).describe(self.expected_error), axes)


def place(estimate: Estimate, scale_factor: int, photograph: bool) -> Estimate:
    """``estimate`` with the kernel where ``image`` needs it: aligned for a photograph, else as published.

    Of a photograph a free centre is put in place, unless the estimator made an image with it.
    """
    if estimate.aligned == photograph:
        return estimate
    kernel = estimate.kernel
    if photograph and estimate.free_centre and estimate.image is None:
        kernel = normalize(centre(kernel, scale_factor).clamp(min=0))
    kernel = (align if photograph else unalign)(kernel, scale_factor)
    return replace(estimate, kernel=kernel, aligned=photograph)


class Estimator(Protocol):
    """One function of one image: it opens no file, prints nothing and reads no global."""

    def __call__(self, lr: Tensor, scale_factor: int, *, seed: int, on_step: OnStep | None = None) -> Estimate:
        """Estimate the kernel of ``lr``, 1×3×h×w float32 in [0, 1].

        Raises:
            ValueError: the image cannot be used (too small, say).
        """
        ...


class Checkpoint(Protocol):
    """Keeps the state of one search, so that a search that is broken off can go on from there."""

    def load(self) -> dict[str, Any] | None:
        """The state last saved of this search, tensors on the CPU; None where there is none."""
        ...

    def due(self) -> bool:
        """Whether it is time to save."""
        ...

    def save(self, state: dict[str, Any]) -> None:
        """Take down ``state``, tensors and plain values, at once: the search will change the tensors."""
        ...


class ResumableEstimator(Protocol):
    """An :class:`Estimator` that can go on with a search that was broken off. It still opens no file."""

    def __call__(
        self,
        lr: Tensor,
        scale_factor: int,
        *,
        seed: int,
        on_step: OnStep | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Estimate:
        """As of :class:`Estimator`. On one CPU the estimate is that of an unbroken search, bit for bit.

        Args:
            checkpoint: of a search of the same image with the same settings and seed.
        """
        ...


def is_resumable(estimator: Estimator | ResumableEstimator) -> TypeGuard[ResumableEstimator]:
    """Whether an estimator is given checkpoints: whether it has a parameter called ``checkpoint``."""
    try:
        return "checkpoint" in inspect.signature(estimator).parameters
    except (TypeError, ValueError):  # some of what can be called has no signature
        return False


class BatchEstimator(ResumableEstimator, Protocol):
    """A :class:`ResumableEstimator` that can search several images as one, which a GPU needs to be busy."""

    def __call__(
        self,
        lr: Tensor,
        scale_factor: int,
        *,
        seed: int = 0,
        on_step: OnStep | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Estimate:
        return self.batch([lr], scale_factor, seeds=[seed], on_step=on_step, checkpoint=checkpoint)[0]

    def batch(
        self,
        lrs: Sequence[Tensor],
        scale_factor: int,
        *,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> list[Estimate]:
        """What it makes of each image alone, but for rounding.

        Args:
            lrs: of one :meth:`batch_key`.
            seeds: one for each.
            checkpoint: of a search of the same images in the same order.
        """
        ...

    def batch_key(self, lr: Tensor, scale_factor: int) -> Hashable:
        """Equal for images that can be searched as one; errors as of :class:`Estimator`."""
        ...

    def at_once(self, lr: Tensor, scale_factor: int) -> int:
        """How many images like ``lr`` to search as one on its device; 1 where that gains nothing."""
        ...


def can_batch(estimator: Estimator) -> TypeGuard[BatchEstimator]:
    """Whether an estimator can search several images as one: whether it has what that takes."""
    return all(callable(getattr(estimator, name, None)) for name in ("batch", "batch_key", "at_once"))
