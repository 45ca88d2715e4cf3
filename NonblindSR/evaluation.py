"""How well USRNet does when it is given the true kernels (the protocol's upper bound for blind methods)."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from torch import Tensor

from blindsr.batch.inputs import Item
from blindsr.degradation import modcrop
from blindsr.images import read_image, to_uint8
from blindsr.kernel_files import read_centre, read_kernel, read_scale_factor
from blindsr.kernels import locate, normalize
from blindsr.metrics import psnr_ssim_y
from NonblindSR.tiling import tiled_sr
from NonblindSR.usrnet import USRNet

__all__ = ["KernelConvention", "evaluate", "read_example", "read_known_kernel", "score"]

log = logging.getLogger(__name__)


def read_example(item: Item, scale_factor: int) -> tuple[Tensor, Tensor, Tensor]:
    """LR image, true kernel and HR image (cut to a multiple of the scale factor) of an item.

    Raises:
        ValueError: it has no ground truth.
    """
    if item.hr is None or item.kernel is None:
        raise ValueError(f"{item.lr}: has no ground truth; evaluate on a prepared dataset")
    return read_image(item.lr), read_kernel(item.kernel).float(), modcrop(read_image(item.hr), scale_factor)


KernelConvention = Literal["auto", "fkp", "kernelgan"]
"""Where a known kernel's centre lies: as published (fkp) or aligned (kernelgan); both are cross-correlated."""


def read_known_kernel(
    path: Path, convention: KernelConvention, scale_factor: int, variable: str | None = None
) -> tuple[Tensor, bool]:
    """Read a kernel that somebody knows.

    Args:
        convention: "auto" goes by what the file says, else by the centre of mass. A kernel around the middle of its
            window, as of a plain point spread function, has neither centre and is moved to one, by interpolation.
        variable: of a MATLAB file that holds several matrices, which one.

    Returns:
        1×1×k×k float32, sum 1, and whether its centre is the aligned one. A file whose kernel's sum is off by more
        than 1 %, or that says it belongs to another scale factor, is logged.

    Raises:
        FileNotFoundError, ValueError: see :func:`blindsr.kernel_files.read_kernel`.
    """
    kernel = read_kernel(path, variable)
    total = float(kernel.sum())
    if abs(total - 1) > 0.01:
        log.warning("%s: the kernel sums to %.4g; divided by that", path, total)
    kernel = normalize(kernel)
    found_at = read_scale_factor(path)
    if found_at not in (None, scale_factor):
        log.warning("%s: a kernel of x%d, used at x%d; did you mean --sf %d?", path, found_at, scale_factor, found_at)
    said = read_centre(path) if convention == "auto" else {"fkp": "published", "kernelgan": "aligned"}[convention]
    if said is not None:
        return kernel.float(), said == "aligned"
    kernel, aligned = locate(kernel, scale_factor)
    return kernel.float(), aligned


def score(
    net: USRNet, lr: Tensor, kernel: Tensor, hr: Tensor, scale_factor: int, sigma: float = 0.0
) -> tuple[float, float]:
    """PSNR in dB and SSIM, on the Y channel and 8 bits, of what ``net`` makes of one LR image on its own device."""
    device = next(net.parameters()).device
    sr = tiled_sr(net, lr.to(device), kernel.to(device), scale_factor, sigma)
    return psnr_ssim_y(to_uint8(sr), to_uint8(hr), scale_factor)


def evaluate(
    net: USRNet, items: list[Item], scale_factor: int, sigma: float = 0.0
) -> Iterator[tuple[str, tuple[float, float] | str]]:
    """Super-resolve each item with its true kernel.

    Args:
        net: in evaluation mode, on the device to use.
        items: with HR picture and kernel.
        sigma: noise level told to the network, in image range.

    Yields:
        The item's name and its PSNR in dB and SSIM on the Y channel, or in one line why there are none.
    """
    for item in items:
        try:
            yield item.name, score(net, *read_example(item, scale_factor), scale_factor, sigma)
        except (ValueError, OSError) as error:
            yield item.name, str(error)
