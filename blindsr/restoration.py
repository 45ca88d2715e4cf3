"""From an LR image and its kernel to the HR image, whatever the non-blind network."""

import math
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
MARGIN_X1, BEND = 32, 16
"""At x1: that margin, and how far into it the odd mirror image of the border reaches. There blur cannot be undone but
where all that the kernel sees is blurred as well, and a mirror image has a kink at the border that no blur leaves:
undone, it would ring far into the picture."""
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
    smooth = scale_factor == 1 and padding == "reflect"
    margin = 0 if padding == "none" else MARGIN_X1 if smooth else MARGIN
    rows, cols = (min(margin, (length - 1) // (1 + smooth)) for length in lr.shape[-2:])
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
    if smooth:
        padded = _continued(_continued(lr, -1, cols), -2, rows)
    else:
        padded = F.pad(lr, (cols, cols, rows, rows), mode=padding)
    sr = nonblind(padded, kernel, scale_factor, sigma, on_step=on_step)
    _keep_brightness(sr, padded, kernel, scale_factor)
    height, width = (length * scale_factor for length in lr.shape[-2:])
    top, left = rows * scale_factor, cols * scale_factor
    return sr[..., top : top + height, left : left + width]


def _continued(image: Tensor, dim: int, margin: int) -> Tensor:
    """Continue an image by ``margin`` pixels at both ends of ``dim``, without a kink there, so that it is periodic.

    Close to the border the continuation is the odd mirror image, 2·border − image (anti-reflective boundary
    conditions: Serra-Capizzano, SIAM J. Sci. Comput. 2003), further out the even one. Those of both ends are
    cross-faded over the gap of twice the margin between the last pixel and the first of the next period.
    """
    length, gap = image.shape[dim], 2 * margin
    place = torch.arange(1, gap + 1, device=image.device)
    shape = [-1 if d == dim % image.ndim else 1 for d in range(image.ndim)]
    bend = (0.5 + 0.5 * torch.cos(math.pi * (place / BEND).clamp(max=1))).view(shape)
    fade = (0.5 + 0.5 * torch.cos(math.pi * (place - 0.5) / gap)).view(shape)

    def beyond(end: Tensor) -> Tensor:
        """What follows the last of the gap + 1 pixels ``end``."""
        mirrored = end.narrow(dim, 0, gap).flip(dim)
        return mirrored + 2 * bend * (end.narrow(dim, gap, 1) - mirrored)

    after = beyond(image.narrow(dim, length - gap - 1, gap + 1))
    before = beyond(image.narrow(dim, 0, gap + 1).flip(dim)).flip(dim)
    filled = after * fade + before * (1 - fade)
    return torch.cat([filled.narrow(dim, margin, margin), image, filled.narrow(dim, 0, margin)], dim=dim)


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
