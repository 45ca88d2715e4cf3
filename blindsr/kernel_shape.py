"""What people want to know of a kernel: how wide it blurs, in which direction, and what it looks like."""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from blindsr.files import atomic_write

__all__ = ["ROUND", "KernelShape", "kernel_png", "kernel_shape", "save_kernel_comparison"]

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


def save_kernel_comparison(path: Path, kernels: dict[str, Tensor]) -> None:
    """Draw 1×1×k×k kernels side by side in colours of one scale from 0 to the largest value, each under its title.

    A folder has thousands of these: matplotlib would take longer for each than a GPU for the picture.
    """
    arrays = {title: kernel.detach()[0, 0].cpu().numpy() for title, kernel in kernels.items()}
    largest = max(float(array.max()) for array in arrays.values())
    side, gap, bar, top = 240, 20, 16, 40
    width = len(arrays) * (side + gap) + gap + bar + 70
    figure = Image.new("RGB", (width, top + side + gap), "white")
    draw, font = ImageDraw.Draw(figure), ImageFont.load_default(18)
    for index, (title, array) in enumerate(arrays.items()):
        left = gap + index * (side + gap)
        drawn = Image.fromarray(_viridis(array / largest)).resize((side, side), Image.Resampling.NEAREST)
        figure.paste(drawn, (left, top))
        draw.text((left + side / 2, top - 8), title, "black", font, anchor="ms")
    left = width - bar - 70
    figure.paste(Image.fromarray(_viridis(np.linspace(1, 0, side).repeat(bar).reshape(side, bar))), (left, top))
    for share in (0, 0.5, 1):
        place = left + bar + 6, top + (1 - share) * (side - 1)
        draw.text(place, f"{share * largest:.3g}", "black", ImageFont.load_default(14), anchor="lm")
    with atomic_write(path) as temporary:
        figure.save(temporary)


def _viridis(values: npt.NDArray) -> npt.NDArray[np.uint8]:
    """H×W values, clipped to 0 to 1, as H×W×3 RGB."""
    levels = np.rint(255 * values.clip(0, 1)).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, :, ::-1])
