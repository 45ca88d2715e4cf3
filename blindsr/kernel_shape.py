"""What people want to know of a kernel: how wide it blurs, in which direction, and what it looks like."""

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["ROUND", "KernelShape", "kernel_png", "kernel_shape"]

ROUND = 1.1
"""Ratio of the two widths below which a direction means nothing."""


@dataclass(frozen=True)
class KernelShape:
    """Second moments of a kernel along its principal axes."""

    wide: float
    """Standard deviation along the wider axis, in HR pixels."""
    narrow: float
    """Standard deviation along the narrower axis, in HR pixels."""
    angle: float
    """Direction of the wider axis in degrees, 0 ≤ angle < 180, counter-clockwise from horizontal as one sees it."""

    @property
    def round(self) -> bool:
        """Whether the kernel blurs all directions alike."""
        return self.wide < ROUND * self.narrow

    def error(self, expected_error: float) -> float:
        """Error of the wider width in HR pixels that follows from the covariance's relative one."""
        return self.wide * expected_error / 2  # a width is the square root of a variance

    def describe(self, expected_error: float | None = None) -> str:
        """One line: widths, their error where it is known, and the direction where there is one."""
        mean = math.sqrt(self.wide * self.narrow)
        widths = f"{mean:.2f}" if self.round else f"{self.wide:.2f} × {self.narrow:.2f}"
        doubt = "" if expected_error is None else f" ± {self.error(expected_error):.2f}"
        return f"{widths}{doubt} px{', round' if self.round else f' at {self.angle:.0f}°'}"


def kernel_shape(kernel: Tensor) -> KernelShape:
    """The widths of a 1×1×k×k kernel; values below 0, which interpolation makes, count as 0.

    Raises:
        ValueError: no value is positive.
    """
    weights = kernel.detach()[0, 0].cpu().double().clamp(min=0)
    if not float(weights.sum()) > 0:
        raise ValueError("a kernel without a positive value has no width")
    weights = weights / weights.sum()
    index = torch.arange(weights.shape[-1], dtype=torch.float64)
    x = index - (weights.sum(0) * index).sum()
    y = (weights.sum(1) * index).sum() - index  # upwards, as one sees it
    xx, yy = float((weights.sum(0) * x**2).sum()), float((weights.sum(1) * y**2).sum())
    xy = float((weights * y[:, None] * x).sum())
    mean, half = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    angle = math.degrees(math.atan2(2 * xy, xx - yy) / 2) % 180
    return KernelShape(math.sqrt(mean + half), math.sqrt(max(mean - half, 0)), angle)


def kernel_png(kernel: Tensor, largest: float | None = None) -> bytes:
    """A 1×1×k×k kernel as a grey PNG of k×k pixels, black for 0 and white for ``largest`` (its own maximum)."""
    values = kernel.detach()[0, 0].cpu().double().clamp(min=0).numpy()
    scale = largest or float(values.max()) or 1.0
    content = io.BytesIO()
    Image.fromarray(np.rint(255 * (values / scale).clip(0, 1)).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()
