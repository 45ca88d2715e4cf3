"""How well USRNet does when it is given the true kernels (the protocol's upper bound for blind methods)."""

import torch

from blindsr.datasets import Item
from blindsr.degradation import modcrop
from blindsr.images import read_image, read_kernel, to_uint8
from blindsr.metrics import psnr_ssim_y
from NonblindSR.usrnet import USRNet

__all__ = ["evaluate"]


def evaluate(net: USRNet, items: list[Item], scale_factor: int, sigma: float = 0.0) -> dict[str, tuple[float, float]]:
    """Super-resolve each item with its true kernel.

    Args:
        net: in evaluation mode, on the device to use.
        items: with HR picture and kernel.
        sigma: noise level told to the network, in image range.

    Returns:
        PSNR in dB and SSIM on the Y channel, by name.

    Raises:
        FileNotFoundError, ValueError: a file is missing or unreadable, or an item has no ground truth.
    """
    device = next(net.parameters()).device
    scores = {}
    for item in items:
        if item.hr is None or item.kernel is None:
            raise ValueError(f"{item.lr}: has no ground truth; evaluate on a prepared dataset")
        lr, kernel = read_image(item.lr).to(device), read_kernel(item.kernel).float().to(device)
        with torch.no_grad():
            sr = net(lr, kernel, scale_factor, sigma)
        hr = modcrop(read_image(item.hr), scale_factor)
        scores[item.name] = psnr_ssim_y(to_uint8(sr), to_uint8(hr), scale_factor)
    return scores
