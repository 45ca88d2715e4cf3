"""Blur that varies over a photograph: the predictor's readings of overlapping windows, smoothed to a field.

A reading is a log-covariance and the error to expect of it. The field is what Gaussian process regression ("kriging":
Rasmussen and Williams, Gaussian Processes for Machine Learning, sections 2.2 and 5.4) makes of them: a flat window,
whose error is large, follows its neighbours. The smoothing is log-Euclidean (Arsigny et al., MRM 2006) because the
errors are those of the logarithm, equally large for narrow and wide blur; a plain average of covariances would count
the wide ones more, and those are read worst.
"""

import math
import time
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from blindsr.estimation import Checkpoint, Estimate, Estimator, OnStep, ResumableEstimator, is_resumable
from blindsr.field import KernelField, cells, from_axes
from blindsr.images import LUMA
from blindsr.kernels import variance_range
from KernelPredictor.covariance import PIXEL_VARIANCE, from_log_covariance, variances_and_angle
from KernelPredictor.predictor import (
    MIN_SIDE,
    PHOTO_SHRINKAGE,
    SHRINKAGE,
    KernelPredictor,
)

__all__ = ["UNVARIED", "LocalEstimator", "read_field"]

WINDOW = 64
"""Side of a window in LR pixels. In larger ones blur that varies is read worse, in smaller ones any is."""
HOP, MOST_WINDOWS = 40, 600
"""LR pixels from one window to the next at least, and how many windows there are at most, about."""
SHARED, SHARED_REACH = 0.8, 64.0
"""What is in the picture makes the readings err alike nearby: so much of the errors' variance is shared, over so many
LR pixels. Both are the likeliest values, and that the errors are as large as expected, of ten photographs whose blur
does not vary, at x2 and x4."""
DEVIATIONS = (0.2, 0.4, 0.8)
"""Standard deviations of the field's log-covariances that are tried."""
REACHES = (96.0, 128.0, 192.0, 288.0, 432.0, 648.0)
"""And over how many LR pixels it stays alike; in large photographs, whose windows lie further apart, over more."""
EVIDENCE = 10.0
"""By how much a field must raise the readings' log-likelihood: for those ten, whose blur does not vary, it did so by
5 at most, for fifteen whose blur does, by 20 to 1390."""
BEYOND = 1.25
"""Factor to the largest variance of a kernel from which on a place counts as blurred beyond the kernels."""
UNALIASED = 1.0
"""Variance in LR pixels² from which on blur leaves no aliasing, so that it looks alike at every scale factor. The
weights for x1 know more of it than the others, which know no blur beyond the kernels of their scale factors: at x2 of
blur twice as wide as those (2.2 LR pixels) they read a log-covariance of 0.0 ± 0.7, those for x1 the true 1.6 ± 0.3.
"""
AT_ONCE = 16
"""Windows in one call of the network."""
UNVARIED = "one kernel: its blur does not vary, or not more than can be told; --local changes nothing"


@dataclass(frozen=True)
class LocalEstimator:
    """The field of a photograph whose blur varies over it, without a search; else what ``estimator`` makes of it."""

    estimator: Estimator | ResumableEstimator
    predictor: KernelPredictor
    strong: KernelPredictor
    """With the weights for x1."""

    def __call__(
        self,
        lr: Tensor,
        scale_factor: int,
        *,
        seed: int = 0,
        on_step: OnStep | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Estimate:
        began = time.perf_counter()
        field = read_field(self.predictor, lr, scale_factor, self.strong)
        if field is None:
            resumed = {"checkpoint": checkpoint} if is_resumable(self.estimator) else {}
            found = self.estimator(lr, scale_factor, seed=seed, on_step=on_step, **resumed)
            return replace(found, notes=(*found.notes, UNVARIED))
        prediction = self.predictor.predict(lr, scale_factor)
        return Estimate(
            kernel=prediction.kernel,
            image=None,
            losses=[],
            seconds=time.perf_counter() - began,
            seed=seed,
            kernel_field=field,
            **prediction.findings(),
        )


@torch.no_grad()
def read_field(
    predictor: KernelPredictor, lr: Tensor, scale_factor: int, strong: KernelPredictor
) -> KernelField | None:
    """How the blur varies over a photograph; None where it does not, or no more than the readings err.

    As in :meth:`KernelPredictor.predict` the blur is lowered by a share of the error to expect.

    Args:
        lr: 1×3×h×w float32 in [0, 1].
        scale_factor: s, one of those that ``predictor`` is for.
        strong: the predictor for x1, for blur that is stronger than that of the kernels of s.
    """
    height, width = lr.shape[-2:]
    if min(height, width) < MIN_SIDE:
        return None
    hop = max(HOP, math.sqrt(height * width / MOST_WINDOWS))
    middles, entries, errors = _readings(predictor, lr, scale_factor, hop)
    if scale_factor > 1:
        entries, errors = _surest(entries, errors, *_readings(strong, lr, 1, hop)[1:])
    if len(middles) == 1:
        return None
    count = cells(height, width)
    places = torch.cartesian_prod(
        *((torch.arange(n).double() + 0.5) * side / n for n, side in zip(count, (height, width), strict=True))
    )
    # In these coordinates the Euclidean norm is Frobenius's, which the errors are of.
    frobenius = entries.new_tensor([1, 1, math.sqrt(2)])
    smoothed = _smooth(middles, entries * frobenius, errors, places, hop / HOP)
    if smoothed is None:
        return None
    logs, error = smoothed[0] / frobenius, smoothed[1]
    largest = variance_range(scale_factor)[1]
    beyond = float((variances_and_angle(logs, scale_factor)[0] > BEYOND * largest).double().mean())
    logs[:, :2] -= (PHOTO_SHRINKAGE if predictor.noise_heads else SHRINKAGE) * error[:, None]
    covariances = from_axes(*from_log_covariance(logs, scale_factor))
    return KernelField(covariances.view(*count, 3), scale_factor, (height, width), beyond)


def _readings(predictor: KernelPredictor, lr: Tensor, scale_factor: int, hop: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of N windows their middles (row, column), log-covariances and errors to expect: N×2, N×3, N, on the CPU.

    The network sees each window one way round: the mean over all eight, which is its single kernel's, lowers the
    errors by 2 %.
    """
    luma = (lr * lr.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1)
    sides = [min(WINDOW, length) for length in luma.shape[-2:]]
    firsts = [_firsts(length, side, hop) for length, side in zip(luma.shape[-2:], sides, strict=True)]
    corners = list(product(*firsts))
    found = []
    for batch in (corners[i : i + AT_ONCE] for i in range(0, len(corners), AT_ONCE)):
        windows = [luma[:, top : top + sides[0], left : left + sides[1]] for top, left in batch]
        found.append(predictor(torch.stack(windows), scale_factor))
    entries = torch.cat([reading.entries for reading in found]).cpu().double()
    log_errors = torch.cat([reading.log_errors for reading in found]).cpu().double()
    middles = torch.tensor(corners).double() + torch.tensor(sides) / 2
    return middles, entries, 2 * torch.exp(log_errors)


def _surest(entries: Tensor, errors: Tensor, of_strong: Tensor, errors_of_strong: Tensor) -> tuple[Tensor, Tensor]:
    """Of each window the reading for the scale factor, or that for x1 where it is strong blur and the surer one."""
    is_strong = of_strong[:, :2].mean(dim=1) > math.log(UNALIASED + PIXEL_VARIANCE)
    taken = is_strong & (errors_of_strong < errors)
    return torch.where(taken[:, None], of_strong, entries), torch.where(taken, errors_of_strong, errors)


def _firsts(length: int, window: int, hop: float) -> list[int]:
    """First pixels of evenly spaced windows that cover ``length``."""
    count = max(1, math.ceil((length - window) / hop) + 1) if length > window else 1
    return [round(index * (length - window) / max(1, count - 1)) for index in range(count)]


def _smooth(
    middles: Tensor, readings: Tensor, errors: Tensor, places: Tensor, stretch: float
) -> tuple[Tensor, Tensor] | None:
    """The likeliest field that N readings are samples of, at M places; None where none is likelier than a constant.

    Args:
        middles, places: N×2 and M×2, LR pixels.
        readings, errors: N×3 and (N,); the errors are those of the norm of a reading.
        stretch: factor to :data:`REACHES`.

    Returns:
        The field and the errors to expect of it, M×3 and (M,).
    """
    distances = torch.cdist(middles, middles)
    shared = SHARED * _correlation(distances / SHARED_REACH) + (1 - SHARED) * torch.eye(len(middles))
    noise = torch.outer(errors, errors) / 3 * shared
    tried = [
        (_log_likelihood(readings, noise + deviation**2 * _correlation(distances / reach)), deviation, reach)
        for deviation, reach in product(DEVIATIONS, (stretch * reach for reach in REACHES))
    ]
    best, deviation, reach = max(tried)
    if best < _log_likelihood(readings, noise) + EVIDENCE:
        return None
    towards = deviation**2 * _correlation(torch.cdist(places, middles) / reach)
    factor, residuals, mean, _ = _whitened(readings, noise + deviation**2 * _correlation(distances / reach))
    field = mean + towards @ torch.linalg.solve_triangular(factor.T, residuals, upper=True)
    explained = torch.linalg.solve_triangular(factor, towards.T, upper=False).square().sum(dim=0)
    return field, (3 * (deviation**2 - explained).clamp(min=0)).sqrt()


def _correlation(distances: Tensor) -> Tensor:
    """Matérn's of ν = 3/2: of a field that bends, but more freely than a Gaussian one."""
    scaled = math.sqrt(3) * distances
    return (1 + scaled) * torch.exp(-scaled)


def _whitened(readings: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cholesky factor, whitened residuals N×3, the mean (3) by generalized least squares, and its precision."""
    factor = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(len(covariance)))
    ones = torch.ones(len(readings), 1, dtype=readings.dtype)
    white = torch.linalg.solve_triangular(factor, torch.cat([readings, ones], dim=1), upper=False)
    of_readings, of_ones = white[:, :3], white[:, 3:]
    precision = of_ones.square().sum()
    mean = (of_ones * of_readings).sum(dim=0) / precision
    return factor, of_readings - of_ones * mean, mean, precision


def _log_likelihood(readings: Tensor, covariance: Tensor) -> float:
    """Of N×3 readings, but for a constant; their mean is unknown."""
    factor, residuals, _, precision = _whitened(readings, covariance)
    return float(-residuals.square().sum() / 2 - 3 * factor.diagonal().log().sum() - 1.5 * precision.log())
