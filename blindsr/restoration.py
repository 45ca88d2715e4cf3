"""From an LR image and its kernel to the HR image, whatever the non-blind network."""

import torch
import torch.nn.functional as F
from torch import Tensor

from blindsr.estimation import NonblindSR, OnStep

__all__ = ["restore"]

MIRRORED = 16
"""LR pixels that a picture is continued by at each border where it is not periodic."""


@torch.no_grad()
def restore(
    nonblind: NonblindSR,
    lr: Tensor,
    kernel: Tensor,
    scale_factor: int,
    sigma: float,
    periodic: bool,
    on_step: OnStep | None = None,
) -> Tensor:
    """What ``nonblind`` makes of one LR image, 1×3×h×w → 1×3×sh×sw; arguments as in :func:`process`."""
    kernel = kernel.to(lr.device)
    if periodic:
        return nonblind(lr, kernel, scale_factor, sigma, on_step=on_step)
    rows, cols = (min(MIRRORED, length - 1) for length in lr.shape[-2:])
    side, low = kernel.shape[-1], min(lr.shape[-2] + 2 * rows, lr.shape[-1] + 2 * cols)
    if low * scale_factor < side:
        raise ValueError(
            f"the image ({lr.shape[-1]}×{lr.shape[-2]}) is too small for a {side}×{side} kernel at "
            f"x{scale_factor}, even with what its borders mirror; use a larger one, or a smaller kernel"
        )
    padded = F.pad(lr, (cols, cols, rows, rows), mode="reflect")
    sr = nonblind(padded, kernel, scale_factor, sigma, on_step=on_step)
    height, width = (length * scale_factor for length in lr.shape[-2:])
    top, left = rows * scale_factor, cols * scale_factor
    return sr[..., top : top + height, left : left + width]
