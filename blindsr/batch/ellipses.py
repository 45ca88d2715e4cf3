"""How the blur varies over a picture, as ellipses for the report."""

import math
from dataclasses import dataclass

import torch

from blindsr.batch.records import Record
from blindsr.field import KernelField, principal_axes

__all__ = ["Ellipses", "read_ellipses"]

ACROSS = 12
"""Ellipses along the longer side."""


@dataclass(frozen=True)
class Ellipses:
    """A field of kernels, as the template shows it; lengths in LR pixels of the whole picture."""

    width: int
    height: int
    shapes: list[tuple[float, float, float, float, float]]
    """Each one's middle, half its axes, which are in proportion to the blur's widths, and its turn in degrees."""
    magnified: float
    """By how much they are larger than one standard deviation of the blur is in the picture."""
    range: str


def read_ellipses(record: Record) -> Ellipses | None:
    """What a record says of how the blur varies; None where it does not, or is nonsense."""
    try:
        field = KernelField.from_json(record.result["kernel_field"])
        return _ellipses(field)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _ellipses(field: KernelField) -> Ellipses:
    height, width = field.size
    spacing = max(field.size) / ACROSS
    rows, cols = (max(1, round(length / spacing)) for length in field.size)
    y, x = ((torch.arange(n) + 0.5) * length / n for n, length in zip((rows, cols), field.size, strict=True))
    large, small, angle = principal_axes(field.at(y, x).reshape(-1, 3))
    axes = torch.stack([large, small.clamp(min=0)], dim=1).sqrt() / field.scale_factor
    magnified = 0.45 * min(height / rows, width / cols) / float(axes.max())
    turns = (angle * 180 / math.pi).tolist()
    shapes = [
        (round(left, 2), round(top, 2), round(magnified * first, 2), round(magnified * second, 2), round(turn, 1))
        for (top, left), (first, second), turn in zip(
            torch.cartesian_prod(y, x).tolist(), axes.tolist(), turns, strict=True
        )
    ]
    return Ellipses(width, height, shapes, round(magnified, 1), field.describe())
