"""The forward model y = (x ⋆ k)↓s + n (paper, equation 1): differentiable, and the only one in the project."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["add_noise", "border", "centre_crop", "degrade", "modcrop", "quantize"]


def modcrop(image: Tensor, scale_factor: int) -> Tensor:
    """Drop rows at the bottom and columns at the right until both sides are multiples of ``scale_factor``."""
    height, width = image.shape[-2:]
    return image[..., : height - height % scale_factor, : width - width % scale_factor]


def centre_crop(image: Tensor, side: int) -> Tensor:
    """The middle side×side window of …×h×w, smaller where the image is."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def border(side: int, scale_factor: int) -> int:
    """LR pixels at each border of a crop whose kernel window (k//2 HR pixels to each side) leaves the crop."""
    return -(-(side // 2) // scale_factor)


def degrade(image: Tensor, kernel: Tensor, scale_factor: int, *, circular: bool = True) -> Tensor:
    """Blur by cross-correlation with ``kernel`` and keep the upper-left pixel of every s×s block.

    Noise-free; differentiable in ``image`` and ``kernel``.

    Args:
        image: N×C×H×W, [0, 1].
        kernel: 1×1×k×k (the same for all images) or N×1×k×k (one each), k odd, sum 1.
        scale_factor: s.
        circular: continue the image periodically by k//2 pixels on every side. With False the image is a
            crop of a larger one: the outer :func:`border` LR pixels, which see beyond it, are left out.

    Returns:
        N×C×⌈H/s⌉×⌈W/s⌉; with ``circular=False`` less :func:`border` pixels on every side.

    Raises:
        ValueError: the image is smaller than the kernel, or their numbers do not match.
    """
    n, channels, height, width = image.shape
    side = kernel.shape[-1]
    if min(height, width) < side:
        raise ValueError(
            f"the image ({width}×{height}) is smaller than the kernel ({side}×{side}); use a larger image"
        )
    if kernel.shape[0] not in (1, n):
        raise ValueError(f"{kernel.shape[0]} kernels for {n} images; pass one kernel, or one for each image")
    if circular:
        image = F.pad(image, (side // 2,) * 4, mode="circular")
    else:
        outside = border(side, scale_factor)
        first = scale_factor * outside - side // 2
        rows, cols = (length // scale_factor - 2 * outside for length in (height, width))
        if min(rows, cols) < 1:
            raise ValueError(f"no pixel of a {width}×{height} crop is free of its border; use a larger crop")
        last_row, last_col = (scale_factor * (count - 1) + side for count in (rows, cols))
        image = image[..., first : first + last_row, first : first + last_col]
    if kernel.shape[0] == 1:
        # Channels go through as a batch: one single-channel convolution is far cheaper than a grouped one.
        flat = image.reshape(n * channels, 1, *image.shape[-2:])
        blurred = F.conv2d(flat, kernel, stride=scale_factor)
        return blurred.reshape(n, channels, *blurred.shape[-2:])
    grouped = image.transpose(0, 1)  # C×N×H×W: each image is a group, its channels the batch
    return F.conv2d(grouped, kernel, stride=scale_factor, groups=n).transpose(0, 1)


def add_noise(image: Tensor, sigma: Tensor | float, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise of standard deviation ``sigma`` (image range, broadcastable)."""
    noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    return image + sigma * noise


def quantize(image: Tensor) -> Tensor:
    """What an 8-bit file of the published test sets leaves of an image in [0, 1]: values are cut off, not rounded.

    Small as it is, deconvolution amplifies the difference, and the mean of half a level that is lost counts too.
    """
    return (image.clamp(0, 1) * 255).floor() / 255
