"""PSNR, SSIM and kernel PSNR by the field's protocol (scikit-image does the computing)."""

import numpy as np
import numpy.typing as npt
import skimage  # not its parts: they load at first use, and bring scipy.stats, which takes half a second
import torch.nn.functional as F
from torch import Tensor

__all__ = ["kernel_psnr", "psnr_ssim_y"]


def psnr_ssim_y(image: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8], border: int) -> tuple[float, float]:
    """PSNR in dB and SSIM on the luma channel (ITU-R BT.601, as MATLAB's ``rgb2ycbcr``).

    SSIM uses an 11×11 Gaussian window, σ 1.5, over the region where the window fits.

    Args:
        image, reference: H×W×3 RGB.
        border: pixels shaved from every side first; the field shaves the scale factor.

    Raises:
        ValueError: the shapes differ, or fewer than 11 pixels remain.
    """
    if image.shape != reference.shape:
        raise ValueError(
            f"the image is {image.shape[1]}×{image.shape[0]} and its ground truth "
            f"{reference.shape[1]}×{reference.shape[0]}; they must have the same size"
        )
    height, width = image.shape[:2]
    if min(height, width) - 2 * border < 11:
        raise ValueError(f"{width}×{height} less a border of {border} is too small for the 11×11 window of SSIM")
    inner = slice(border, height - border), slice(border, width - border)
    y, y_reference = skimage.color.rgb2ycbcr(image)[..., 0][inner], skimage.color.rgb2ycbcr(reference)[..., 0][inner]
    psnr = np.inf
    if not np.array_equal(y, y_reference):
        psnr = skimage.metrics.peak_signal_noise_ratio(y_reference, y, data_range=255)
    ssim = skimage.metrics.structural_similarity(
        y_reference, y, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(psnr), float(ssim)


def kernel_psnr(kernel: Tensor, reference: Tensor) -> float:
    """PSNR in dB of a 1×1×k×k kernel against the true one, for a peak of 1; around the smaller one there are zeros.

    Raises:
        ValueError: one of the sides is odd and the other even, so that their centres lie half a pixel apart.
    """
    margin, rest = divmod(reference.shape[-1] - kernel.shape[-1], 2)
    if rest:
        raise ValueError(
            f"the kernel has side {kernel.shape[-1]}, the true one {reference.shape[-1]}; compare two odd or two even"
        )
    kernel, reference = F.pad(kernel, (max(0, margin),) * 4), F.pad(reference, (max(0, -margin),) * 4)
    error = float((kernel.cpu().double() - reference.cpu().double()).square().mean())
    return float("inf") if error == 0 else float(-10 * np.log10(error))
