"""From an LR image and its kernel to the HR image, whatever the non-blind network."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from blindsr.estimation import NonblindSR, OnStep
from blindsr.field import KernelField, degrade_locally

__all__ = ["Padding", "enlarge", "restore"]

Padding = Literal["none", "reflect", "circular"]
"""How an image is continued beyond its border. "none": as it is, for laboratory data, whose boundary is periodic and
which the published figures take so. "reflect": mirrored, for photographs. "circular": textures that tile."""

MARGIN = 16
"""LR pixels that an image is continued by at each border."""
CELL = 16
"""Side in LR pixels of the areas whose brightness is kept: over so many the noise averages out."""


@torch.no_grad()
def restore(
    nonblind: NonblindSR,
    lr: Tensor,
    kernel: Tensor | KernelField,
    scale_factor: int,
    sigma: float,
    padding: Padding,
    on_step: OnStep | None = None,
) -> Tensor:
    """What ``nonblind`` makes of one LR image.

    Args:
        lr: 1×3×h×w float32 in [0, 1].
        kernel: 1×1×k×k, sum 1, in place for cross-correlation (:mod:`blindsr.kernels`); or a field of such kernels,
            of a photograph, for a network that takes R×C×k×k.
        scale_factor: s.
        sigma: noise level in image range.
        padding: what lies beyond the border.

    Returns:
        1×3×sh×sw, not clipped.

    Raises:
        ValueError: the image is too small for the kernel.
    """
    rows, cols = (0 if padding == "none" else min(MARGIN, length - 1) for length in lr.shape[-2:])
    if isinstance(kernel, KernelField):
        kernel = kernel.kernels_of_patches((rows, cols))
    kernel = kernel.to(lr.device)
    if padding == "none":
        return nonblind(lr, kernel, scale_factor, sigma, on_step=on_step)
    side, low = kernel.shape[-1], min(lr.shape[-2] + 2 * rows, lr.shape[-1] + 2 * cols)
    if low * scale_factor < side:
        raise ValueError(
            f"the image ({lr.shape[-1]}×{lr.shape[-2]}) is too small for a {side}×{side} kernel at "
            f"x{scale_factor}, even with what lies beyond its border; use a larger one, or a smaller kernel"
        )
    padded = F.pad(lr, (cols, cols, rows, rows), mode=padding)
    sr = nonblind(padded, kernel, scale_factor, sigma, on_step=on_step)
    _keep_brightness(sr, padded, kernel, scale_factor)
    height, width = (length * scale_factor for length in lr.shape[-2:])
    top, left = rows * scale_factor, cols * scale_factor
    return sr[..., top : top + height, left : left + width]


def enlarge(lr: Tensor, scale_factor: int) -> Tensor:
    """Bicubic enlargement in the way of Pillow, N×C×h×w → N×C×sh×sw, for where nothing better can be had."""
    return F.interpolate(lr, scale_factor=scale_factor, mode="bicubic", antialias=True)


def _keep_brightness(sr: Tensor, lr: Tensor, kernel: Tensor, scale_factor: int) -> None:
    """Add to ``sr``, in place, what areas of it lack in brightness once it is degraded again.

    A network that expects noise draws dark and bright areas towards the middle, by some levels at large noise levels.
    """
    cells = -(-lr.shape[-2] // CELL), -(-lr.shape[-1] // CELL)
    for c in range(sr.shape[1]):  # one after another: a large image's copies add up
        channel = sr[:, c : c + 1]
        lack = lr[:, c : c + 1].to(sr) - degrade_locally(channel, kernel.to(sr), scale_factor)
        means = F.adaptive_avg_pool2d(lack, cells)
        channel += F.interpolate(means, size=channel.shape[-2:], mode="bilinear")
