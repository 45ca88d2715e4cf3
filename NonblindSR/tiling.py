"""USRNet on pictures of any size: the data step on the whole picture, the prior step in overlapping tiles.

The two steps of an iteration differ in what they see. The data step is a handful of FFTs, sees the whole picture and
takes little memory once it goes channel by channel. The prior step is a U-Net, takes nearly all the memory, and sees
93 pixels and no further. So only the prior step is cut into tiles, with a margin that covers all it sees: the
result is the untiled one but for rounding, at the picture's own border as well, for every kernel.

Measured for a result of 48 megapixels (4000×3000 at x2, tiles of the default size, one thread): the process takes
4.4 GiB at its peak, of which 50 bytes for each result pixel belong to the whole picture. Without tiles a result pixel
takes 0.55 KiB, 25 GiB in all.

In bfloat16 the prior step takes half the time on a CPU that computes in it. Measured at x2, x3 and x4, with and
without noise, on four photographs, shipped and official weights: PSNR changes by at most 0.006 dB, 3 to 15 % of the
values by a grey level, single ones by up to 0.015.
"""

import copy
import logging
import math
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from blindsr.devices import free_memory, gains_from_bfloat16
from blindsr.estimation import NonblindSR, OnStep
from NonblindSR.usrnet import ResUNet, USRNet, data_step

__all__ = ["pretrained_nonblind", "tiled_sr"]

log = logging.getLogger(__name__)

MARGIN = 96
"""HR pixels that a tile sees beyond each of its sides.

Counted through the layers, a result pixel depends on at most 93 pixels beyond an edge that lies on the U-Net's grid
of 8×8 pixels; 96 is the next multiple of 8. Measured with the shipped weights at x2, x3 and x4, with and without
noise, for wide, motion and box kernels, the largest difference to the result without tiles is 0 with 96, 3e-6 with
64, 2e-4 with 48, 2e-3 with 32 and 9e-3 with 16.
"""
SMALLEST_TILE, LARGEST_TILE = 64, 1856
"""Sides in HR pixels. With its margins the largest one is 2048 pixels wide; larger tiles are hardly faster."""
Cut = tuple[int, int]
"""First pixel of a piece, and the one after its last."""
PRIOR_STEP_BYTES = 660
"""What the prior step takes at its peak for each HR pixel of a tile and its margins, measured on a CPU."""


@torch.no_grad()
def tiled_sr(
    net: USRNet,
    lr: Tensor,
    kernel: Tensor,
    scale_factor: int,
    sigma: float = 0.0,
    *,
    tile: int | None = None,
    bfloat16: bool = False,
    on_step: OnStep | None = None,
) -> Tensor:
    """What ``net(lr, kernel, scale_factor, sigma)`` gives, within 1e-5, in far less memory; for inference.

    A picture that does not fit into a GPU's memory is tried again in ever smaller tiles, then on the CPU; that is
    logged in one line.

    Args:
        net: in evaluation mode, on the device of ``lr``.
        lr: 1×3×h×w float32 in [0, 1].
        kernel: 1×1×k×k, sum 1, the project's convention.
        scale_factor: s.
        sigma: noise level of ``lr`` in image range.
        tile: side of a tile in HR pixels, rounded up to a multiple of 8; 0 for none. Without it the side follows from
            the free memory.
        bfloat16: whether the prior step's convolutions, but for its first and last, run in bfloat16; the result is
            then less exact than said above.
        on_step: called after each tile of each iteration; from the start again where memory was too small.

    Returns:
        1×3×(s·h)×(s·w), not clipped; on the device of ``lr``, or on the CPU where that device's memory was too small.

    Raises:
        ValueError: the HR image would be smaller than the kernel, or ``tile`` is out of range.
    """
    _require_tile(tile)
    if tile is None:
        tile = _tile_that_fits(lr.device)
    side = tile or scale_factor * max(lr.shape[-2:])
    smaller = ""
    while True:
        try:
            sr = _run(net, lr, kernel, scale_factor, sigma, side, bfloat16, on_step)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
        else:
            if smaller:
                log.warning("out of memory on %s: done %s", lr.device, smaller)
            return sr
        # Out of the except block: the exception no longer holds on to the tensors that filled the memory.
        if lr.device.type == "cuda":
            torch.cuda.empty_cache()
        if side <= SMALLEST_TILE:
            break
        side = max(SMALLEST_TILE, side // 2)
        smaller = f"in tiles of {side} pixels"
    log.warning("out of memory on %s: done on the CPU", lr.device)
    cpu = torch.device("cpu")
    net, side = copy.deepcopy(net).to(cpu), _tile_that_fits(cpu)
    bfloat16 = bfloat16 and gains_from_bfloat16(cpu)
    return _run(net, lr.cpu(), kernel.cpu(), scale_factor, sigma, side, bfloat16, on_step)


def pretrained_nonblind(
    path: Path | None, device: torch.device, tile: int | None = None, *, float32: bool = False
) -> NonblindSR:
    """:func:`tiled_sr` with the weights at ``path`` (the shipped ones without) on ``device``, for a command.

    Args:
        float32: without it, the prior step runs in bfloat16 where the device gains from that.

    Raises:
        FileNotFoundError, ValueError: the weights cannot be had, or ``tile`` is out of range.
    """
    _require_tile(tile)
    bfloat16 = gains_from_bfloat16(device) and not float32
    return partial(tiled_sr, USRNet.from_pretrained(path).to(device), tile=tile, bfloat16=bfloat16)


def _require_tile(tile: int | None) -> None:
    if tile is not None and tile != 0 and tile < SMALLEST_TILE:
        raise ValueError(f"--tile {tile}: must be 0, for no tiles, or at least {SMALLEST_TILE}")


def _tile_that_fits(device: torch.device) -> int:
    free = free_memory(device)
    if free is None:
        return LARGEST_TILE // 2
    side = math.isqrt(free // 2 // PRIOR_STEP_BYTES) - 2 * MARGIN  # half is left to the rest of the work
    return min(max(side, SMALLEST_TILE), LARGEST_TILE)


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory is exhausted: cuFFT, cuDNN and MPS have their own ways to say it. Not the CPU's."""
    names = ("out of memory", "ALLOC_FAILED", "CUFFT_INTERNAL_ERROR")
    return isinstance(error, torch.OutOfMemoryError) or any(name in str(error) for name in names)


def _run(
    net: USRNet,
    lr: Tensor,
    kernel: Tensor,
    scale_factor: int,
    sigma: float,
    tile: int,
    bfloat16: bool,
    on_step: OnStep | None,
) -> Tensor:
    x, blur, alpha, beta = net.begin(lr, kernel, scale_factor, sigma)
    tiles = list(product(_cuts(x.shape[2], tile), _cuts(x.shape[3], tile)))
    done = 0

    def count_tile() -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, net.iterations * len(tiles), None)

    for i in range(net.iterations):
        for c in range(x.shape[1]):  # one channel's spectra at a time
            channel = x[:, c : c + 1]
            channel.copy_(data_step(channel, blur._replace(lr=blur.lr[:, c : c + 1]), alpha[:, i : i + 1]))
        with torch.autocast(lr.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            x = _prior_step(net.p, x, beta[:, i : i + 1], tiles, count_tile)
    return x


def _prior_step(
    prior: ResUNet, image: Tensor, beta: Tensor, tiles: list[tuple[Cut, Cut]], count_tile: Callable[[], None]
) -> Tensor:
    if len(tiles) == 1:
        out = prior(image, beta)
        count_tile()
        return out
    out = torch.empty_like(image)
    for (top, bottom), (left, right) in tiles:
        # The picture's own border stays a border, where the U-Net continues it as without tiles.
        first_row, first_col = max(0, top - MARGIN), max(0, left - MARGIN)
        window = image[..., first_row : bottom + MARGIN, first_col : right + MARGIN]
        inside = prior(window, beta)[..., top - first_row :, left - first_col :]
        out[..., top:bottom, left:right] = inside[..., : bottom - top, : right - left]
        count_tile()
    return out


def _cuts(length: int, tile: int) -> list[Cut]:
    """Cut ``length`` into as few pieces as ``tile`` allows, about equal, beginning at multiples of 8."""
    side = -(-length // -(-length // tile))
    side += -side % 8
    return [(start, min(start + side, length)) for start in range(0, length, side)]
