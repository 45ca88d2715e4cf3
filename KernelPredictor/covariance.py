"""What the predictor reads off an image: the logarithm of the covariance of blur and pixel."""

import torch
from torch import Tensor

from blindsr.field import from_axes, principal_axes
from blindsr.kernels import variance_range

__all__ = ["PIXEL_VARIANCE", "from_log_covariance", "to_log_covariance", "variances_and_angle"]

PIXEL_VARIANCE = 1 / 12
"""Variance of an LR pixel's own square, in LR pixels²: blur far below it leaves no trace, so logs start there."""


def to_log_covariance(lambda1: Tensor, lambda2: Tensor, theta: Tensor, scale_factor: int) -> Tensor:
    """log(Σ/s² + I/12), a symmetric 2×2 matrix, as its entries xx, yy, xy.

    Args:
        lambda1, lambda2, theta: variances along the principal axes in HR pixels², and angle, shape (N,).

    Returns:
        N×3.
    """
    log1, log2 = (torch.log(variance / scale_factor**2 + PIXEL_VARIANCE) for variance in (lambda1, lambda2))
    return from_axes(log1, log2, theta)


def variances_and_angle(entries: Tensor, scale_factor: int) -> tuple[Tensor, Tensor, Tensor]:
    """λ1 ≥ λ2 and θ of N×3 entries, even below 0; inverse of :func:`to_log_covariance`."""
    *logs, theta = principal_axes(entries)
    lambda1, lambda2 = ((torch.exp(log) - PIXEL_VARIANCE) * scale_factor**2 for log in logs)
    return lambda1, lambda2, theta


def from_log_covariance(entries: Tensor, scale_factor: int, share: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`variances_and_angle`, the variances multiplied by ``share`` and clipped to the scale's range."""
    lambda1, lambda2, theta = variances_and_angle(entries, scale_factor)
    low, high = variance_range(scale_factor)
    return (share * lambda1).clamp(low, high), (share * lambda2).clamp(low, high), theta
