"""USRNet on pictures of any size: the data step on the whole picture, the prior step in overlapping tiles.

The two steps of an iteration differ in what they see. The data step is a handful of FFTs, sees the whole picture and
takes little memory once it goes channel by channel. The prior step is a U-Net, takes nearly all the memory, and sees
93 pixels and no further. So only the prior step is cut into tiles, with a margin that covers all it sees: the
result is the untiled one but for rounding, at the picture's own border as well, for every kernel.

Measured for a result of 48 megapixels (a JPEG of 4000×3000 at x2, tiles of the default size, one thread): the process
takes 3.7 GiB at its peak, of which 50 bytes for each result pixel belong to the whole picture. Without tiles a result
pixel takes 0.55 KiB, 25 GiB in all.

In bfloat16 the prior step takes half the time on a CPU that computes in it. Measured at x2, x3 and x4, with and
without noise, on four photographs, shipped and official weights: PSNR changes by at most 0.006 dB, 3 to 15 % of the
values by a grey level, single ones by up to 0.015.
"""

import copy
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from blindsr.devices import free_memory, gains_from_bfloat16, release_memory, trim_memory
from blindsr.estimation import NonblindSR, OnStep
from blindsr.field import blend_patches
from NonblindSR.usrnet import ResUNet, USRNet, blur_spectra, data_step, require_room

__all__ = ["pretrained_nonblind", "tiled_sr"]

log = logging.getLogger(__name__)

MARGIN = 96
"""HR pixels that a tile sees beyond each of its sides.

Counted through the layers, a result pixel depends on at most 93 pixels beyond an edge that lies on the U-Net's grid
of 8×8 pixels; 96 is the next multiple of 8. Measured with the shipped weights at x2, x3 and x4, with and without
noise, for wide, motion and box kernels, the largest difference to the result without tiles is 0 with 96, 3e-6 with
64, 2e-4 with 48, 2e-3 with 32 and 9e-3 with 16.
"""
SMALLEST_TILE, LARGEST_TILE = 64, 1344
"""Sides in HR pixels. With its margins the largest one is 1536 pixels wide; larger tiles are hardly faster."""
Cut = tuple[int, int]
"""First pixel of a piece, and the one after its last."""
PRIOR_STEP_BYTES = 660
"""What the prior step takes at its peak for each HR pixel of a tile and its margins, measured on a CPU."""
PICTURE_BYTES, LEAST_BYTES = 50, 24
"""What the rest takes for each HR pixel of the picture, and what it takes without fail."""


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

    A picture that does not fit into memory is tried again in ever smaller tiles, and where that was a GPU's, then on
    the CPU; that is logged in one line.

    Args:
        net: in evaluation mode, on the device of ``lr``.
        lr: 1×3×h×w float32 in [0, 1].
        kernel: 1×1×k×k, sum 1, the project's convention; or R×C×k×k, those of R×C equal cells of ``lr``. The data
            step is then made on overlapping patches, each with its kernel, and blended in every iteration
            (:func:`blindsr.field.blend_patches`): the prior step sees one picture without seams.
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
        MemoryError: the CPU's memory is too small for the smallest tiles; says for what.
    """
    _require_tile(tile)
    sr = _with_memory(net, lr, kernel, scale_factor, sigma, tile, bfloat16, on_step)
    if sr is None and lr.device.type != "cpu":
        log.warning("out of memory on %s: done on the CPU", lr.device)
        cpu = torch.device("cpu")
        bfloat16 = bfloat16 and gains_from_bfloat16(cpu)
        net = copy.deepcopy(net).to(cpu)
        sr = _with_memory(net, lr.cpu(), kernel.cpu(), scale_factor, sigma, None, bfloat16, on_step)
    if sr is None:
        height, width = (scale_factor * length for length in lr.shape[-2:])
        needed = PICTURE_BYTES * height * width / 2**30
        raise MemoryError(f"{width}×{height} result pixels take about {needed:.1f} GiB")
    return sr


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
    return partial(_rounded_as_gains, USRNet.from_pretrained(path).to(device), tile, float32)


def _rounded_as_gains(
    net: USRNet,
    tile: int | None,
    float32: bool,
    lr: Tensor,
    kernel: Tensor,
    scale_factor: int,
    sigma: float,
    /,
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """Asked with each image, since a worker of another process may have moved the network to another device."""
    bfloat16 = gains_from_bfloat16(lr.device) and not float32
    return tiled_sr(net, lr, kernel, scale_factor, sigma, tile=tile, bfloat16=bfloat16, on_step=on_step)


def _require_tile(tile: int | None) -> None:
    if tile is not None and tile != 0 and tile < SMALLEST_TILE:
        raise ValueError(f"--tile {tile}: must be 0, for no tiles, or at least {SMALLEST_TILE}")


def _tile_that_fits(free: int | None, pixels: int) -> int:
    """Side of a tile for a result of so many pixels, from the bytes that are free."""
    if free is None:
        return LARGEST_TILE // 2
    rest = max(0, free - PICTURE_BYTES * pixels)
    side = math.isqrt(rest * 4 // 5 // PRIOR_STEP_BYTES) - 2 * MARGIN  # nothing else grows meanwhile, or little
    return min(max(side, SMALLEST_TILE), LARGEST_TILE)


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether memory is exhausted: allocators, cuFFT, cuDNN, MPS, oneDNN and MKL have their own ways to say it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    names = (
        "out of memory", "ALLOC_FAILED", "CUFFT_INTERNAL_ERROR",
        "can't allocate memory", "bad_alloc", "Memory allocation error",
        "could not create a primitive", "could not create a memory", "could not execute a primitive",
    )  # fmt: skip
    return any(name in str(error) for name in names)


def _with_memory(
    net: USRNet,
    lr: Tensor,
    kernel: Tensor,
    scale_factor: int,
    sigma: float,
    tile: int | None,
    bfloat16: bool,
    on_step: OnStep | None,
) -> Tensor | None:
    """The result, in ever smaller tiles where memory is short; None where it is too small for the smallest."""
    pixels = scale_factor**2 * lr.shape[-2] * lr.shape[-1]
    free = free_memory(lr.device)
    if lr.device.type == "cpu" and free is not None and free < LEAST_BYTES * pixels:
        return None  # tried all the same, it would be a container's end, and that of all pictures after it
    if tile is None:
        tile = _tile_that_fits(free, pixels)
    side = tile or scale_factor * max(lr.shape[-2:])
    smaller = False
    while True:
        try:
            sr = _run(net, lr, kernel, scale_factor, sigma, side, bfloat16, on_step)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
        else:
            if smaller:
                log.warning("out of memory on %s: done in tiles of %d pixels", lr.device, side)
            return sr
        # Out of the except block: the exception no longer holds on to the tensors that filled the memory.
        release_memory(lr.device)
        if side <= SMALLEST_TILE:
            return None
        side, smaller = max(SMALLEST_TILE, side // 2), True


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
    x, alpha, beta, solve = _begin(net, lr, kernel, scale_factor, sigma)
    rows, cols = _cuts(x.shape[2], tile), _cuts(x.shape[3], tile)
    tiles = len(rows) * len(cols)
    # Each step takes pieces of other sizes: what the one before left is of no use to it and would add up.
    release = trim_memory if lr.device.type == "cpu" and tiles > 1 else lambda: None
    done = 0

    def count_tile() -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, net.iterations * tiles, None)

    for i in range(net.iterations):
        x = solve(x, alpha[:, i : i + 1], release)
        release()
        with torch.autocast(lr.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            x = _prior_step(net.p, x, beta[:, i : i + 1], rows, cols, count_tile)
    return x


def _begin(
    net: USRNet, lr: Tensor, kernel: Tensor, scale_factor: int, sigma: float
) -> tuple[Tensor, Tensor, Tensor, Callable[[Tensor, Tensor, Callable[[], None]], Tensor]]:
    """The first image, α, β, and the data step, which may overwrite the image; it is told how to release memory."""
    if kernel.shape[:2] == (1, 1):
        x, blur, alpha, beta = net.begin(lr, kernel, scale_factor, sigma)

        def solve(x: Tensor, alpha: Tensor, release: Callable[[], None]) -> Tensor:
            for c in range(x.shape[1]):  # one channel's spectra at a time
                release()
                channel = x[:, c : c + 1]
                channel.copy_(data_step(channel, blur._replace(lr=blur.lr[:, c : c + 1]), alpha))
            return x

        return x, alpha, beta, solve

    def solve_patches(x: Tensor, alpha: Tensor, release: Callable[[], None]) -> Tensor:
        def patch(rows: slice, cols: slice, kernel: Tensor) -> Tensor:
            top, bottom, left, right = (scale_factor * end for end in (rows.start, rows.stop, cols.start, cols.stop))
            spectra = blur_spectra(lr[..., rows, cols], kernel, scale_factor)
            return data_step(x[..., top:bottom, left:right], spectra, alpha)

        return blend_patches(kernel, (lr.shape[-2], lr.shape[-1]), scale_factor, patch)

    require_room(lr, kernel, scale_factor)
    alpha, beta = net.schedule(lr, scale_factor, sigma)
    return F.interpolate(lr, scale_factor=scale_factor, mode="nearest"), alpha, beta, solve_patches


def _prior_step(
    prior: ResUNet, image: Tensor, beta: Tensor, rows: list[Cut], cols: list[Cut], count_tile: Callable[[], None]
) -> Tensor:
    """The prior step on ``image``, which is overwritten where there are several tiles: a copy is a lot of memory."""
    if len(rows) * len(cols) == 1:
        out = prior(image, beta)
        count_tile()
        return out
    above = image[..., :0, :]  # of the rows before, as they were, what the next ones see
    for top, bottom in rows:
        # The picture's own border stays a border, where the U-Net continues it as without tiles.
        first_row = top - above.shape[2]
        strip = torch.cat([above, image[..., top : bottom + MARGIN, :]], dim=2)
        last_row = bottom - first_row
        above = strip[..., max(0, last_row - MARGIN) : last_row, :].clone()
        for left, right in cols:
            first_col = max(0, left - MARGIN)
            inside = prior(strip[..., first_col : right + MARGIN], beta)[..., top - first_row :, left - first_col :]
            image[..., top:bottom, left:right] = inside[..., : bottom - top, : right - left]
            count_tile()
    return image


def _cuts(length: int, tile: int) -> list[Cut]:
    """Cut ``length`` into as few pieces as ``tile`` allows, about equal, beginning at multiples of 8."""
    side = -(-length // -(-length // tile))
    side += -side % 8
    return [(start, min(start + side, length)) for start in range(0, length, side)]
