"""Blur that varies over an image: a field of Gaussian kernels, and work on overlapping patches, each with its own."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blindsr.degradation import degrade
from blindsr.kernels import align, gaussian_kernels, kernel_side

__all__ = ["KernelField", "blend_patches", "cells", "degrade_locally", "from_axes", "principal_axes"]

PITCH = 32
"""LR pixels between two kernels. With 64 a picture of two depths lost 0.8 dB."""
MOST_CELLS = 2048
"""Kernels of a large image, whose pitch is larger accordingly."""
MARGIN = 16
"""LR pixels that a patch sees beyond each of its sides, where its periodic boundary is felt."""


@dataclass(frozen=True)
class KernelField:
    """Covariances of the blur at the middles of R×C equal cells of an image; between them they are interpolated."""

    covariances: Tensor
    """R×C×3 float64 on the CPU, entries xx, yy, xy in HR pixels², x to the right and y downwards."""
    scale_factor: int
    size: tuple[int, int]
    """Rows and columns of the LR image."""
    beyond: float = 0.0
    """Share of the image where more blur was read than a kernel of the scale factor can have."""

    def describe(self) -> str:
        """The smallest and the largest width anywhere, in a line."""
        xx, yy, xy = self.covariances.unbind(-1)
        widths = (xx * yy - xy**2) ** 0.25  # the geometric mean of those along the two axes
        return f"{float(widths.min()):.2f} to {float(widths.max()):.2f} px"

    def at(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Covariances at points of the image, len(rows)×len(cols)×3; beyond the border those at the border.

        Args:
            rows, cols: in LR pixels from the image's edge: the first pixel's middle is ½.
        """
        grid = torch.stack(
            torch.meshgrid(2 * cols / self.size[1] - 1, 2 * rows / self.size[0] - 1, indexing="xy"), dim=-1
        )
        planes = self.covariances.permute(2, 0, 1)[None]
        found = F.grid_sample(planes, grid[None].double(), padding_mode="border", align_corners=False)
        return found[0].permute(1, 2, 0)

    def kernels(self, rows: Tensor, cols: Tensor) -> Tensor:
        """Aligned kernels at points as of :meth:`at`, len(rows)×len(cols)×k×k float32, each summing to 1."""
        covariances = self.at(rows, cols).reshape(-1, 3)
        kernels = gaussian_kernels(*principal_axes(covariances), kernel_side(self.scale_factor), self.scale_factor)
        return align(kernels, self.scale_factor)[:, 0].float().unflatten(0, (len(rows), len(cols)))

    def kernels_of_patches(self, beyond: tuple[int, int] = (0, 0)) -> Tensor:
        """The kernels for :func:`blend_patches` of the image continued by ``beyond`` LR pixels at its borders."""
        sides = [length + 2 * more for length, more in zip(self.size, beyond, strict=True)]
        rows, cols = (
            (torch.arange(count) + 0.5) * side / count - more
            for count, side, more in zip(cells(*sides), sides, beyond, strict=True)
        )
        return self.kernels(rows, cols)

    def as_json(self) -> dict[str, Any]:
        """The field as values for a record; five digits tell more than any reading does."""
        rounded = [[[float(f"{value:.5g}") for value in cell] for cell in row] for row in self.covariances.tolist()]
        size, beyond = list(self.size), round(self.beyond, 4)
        return {"covariances": rounded, "scale_factor": self.scale_factor, "size": size, "beyond": beyond}

    @classmethod
    def from_json(cls, values: Any) -> "KernelField":
        """The field that :meth:`as_json` made ``values`` of.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: they are something else.
        """
        covariances = torch.tensor(values["covariances"], dtype=torch.float64)
        height, width = (int(length) for length in values["size"])
        if covariances.ndim != 3 or covariances.shape[-1] != 3 or not covariances.isfinite().all():
            raise ValueError("covariances are R×C×3 finite numbers")
        if min(height, width) < 1 or not (covariances[..., :2] > 0).all():
            raise ValueError("sizes and variances are positive")
        return cls(covariances, int(values["scale_factor"]), (height, width), float(values["beyond"]))


def principal_axes(entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of N symmetric 2×2 matrices, N×3 entries xx, yy, xy: eigenvalues, the larger first, and its axis' angle."""
    xx, yy, xy = entries.unbind(dim=-1)
    mean, difference = (xx + yy) / 2, (xx - yy) / 2
    radius = torch.sqrt(difference**2 + xy**2)
    return mean + radius, mean - radius, 0.5 * torch.atan2(xy, difference)


def from_axes(first: Tensor, second: Tensor, angle: Tensor) -> Tensor:
    """The other way round as :func:`principal_axes`, N×3."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    xx, yy = first * cos**2 + second * sin**2, first * sin**2 + second * cos**2
    return torch.stack([xx, yy, (first - second) * cos * sin], dim=-1)


def cells(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the cells into which an LR image is divided, each with a kernel."""
    pitch = max(PITCH, math.sqrt(height * width / MOST_CELLS))
    return max(1, round(height / pitch)), max(1, round(width / pitch))


def blend_patches(
    kernels: Tensor, size: tuple[int, int], scale_factor: int, work: Callable[[slice, slice, Tensor], Tensor]
) -> Tensor:
    """What ``work`` makes of overlapping patches of an image, each with its kernel, blended linearly between them.

    A patch lies around each of R×C equal cells. Its weight falls from 1 in the middle of its cell to 0 in the middle
    of the next; the weights sum to 1 everywhere.

    Args:
        kernels: R×C×k×k.
        size: rows and columns of the LR image.
        scale_factor: pixels of the result for each LR pixel; 1 where it is an LR image.
        work: given a patch's rows and columns in LR pixels and its kernel, 1×1×k×k, to the patch of the result,
            1×C×(rows)×(columns), times ``scale_factor``.

    Returns:
        1×C×(s·h)×(s·w).
    """
    across = [list(_windows(length, count)) for length, count in zip(size, kernels.shape[:2], strict=True)]
    total: Tensor | None = None
    for row, (rows, above) in enumerate(across[0]):
        for col, (cols, beside) in enumerate(across[1]):
            made = work(rows, cols, kernels[row : row + 1, col : col + 1])
            if total is None:
                total = made.new_zeros(1, made.shape[1], *(scale_factor * length for length in size))
            weights = torch.outer(*(_weights(tent, scale_factor).to(made) for tent in (above, beside)))
            place = total[..., _scaled(rows, scale_factor), _scaled(cols, scale_factor)]
            place += weights * made
    assert total is not None
    return total


def degrade_locally(image: Tensor, kernels: Tensor, scale_factor: int) -> Tensor:
    """:func:`blindsr.degradation.degrade` of 1×C×sh×sw with kernels that vary, R×C×k×k, to 1×C×h×w."""
    if kernels.shape[:2] == (1, 1):
        return degrade(image, kernels, scale_factor)
    size = image.shape[-2] // scale_factor, image.shape[-1] // scale_factor

    def work(rows: slice, cols: slice, kernel: Tensor) -> Tensor:
        patch = image[..., _scaled(rows, scale_factor), _scaled(cols, scale_factor)]
        return degrade(patch, kernel, scale_factor)

    return blend_patches(kernels, size, 1, work)


def _scaled(pixels: slice, scale_factor: int) -> slice:
    return slice(scale_factor * pixels.start, scale_factor * pixels.stop)


@dataclass(frozen=True)
class _Tent:
    """Where the weight of a patch rises and falls along one axis: 0, 1 and 0 again; in LR pixels from its first."""

    middle: float
    reach: float
    length: int
    first: bool
    last: bool


def _windows(length: int, count: int) -> Iterator[tuple[slice, _Tent]]:
    """The patches along an axis of so many LR pixels, all of one length, which is a multiple of 16 or all of it."""
    cell = length / count
    side = min(length, 16 * math.ceil((2 * cell + 2 * MARGIN) / 16))
    for index in range(count):
        middle = (index + 0.5) * cell
        start = min(max(round(middle - side / 2), 0), length - side)
        yield slice(start, start + side), _Tent(middle - start, cell, side, index == 0, index == count - 1)


def _weights(tent: _Tent, scale_factor: int) -> Tensor:
    """Weights of the pixels along one axis of a patch."""
    distance = (torch.arange(scale_factor * tent.length) + 0.5) / scale_factor - tent.middle
    if tent.first:
        distance = distance.clamp(min=0)
    if tent.last:
        distance = distance.clamp(max=0)
    return (1 - distance.abs() / tent.reach).clamp(min=0)
