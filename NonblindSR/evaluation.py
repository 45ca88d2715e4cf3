"""How well USRNet does when it is given the true kernels (the protocol's upper bound for blind methods)."""

from collections.abc import Iterator

import torch

from blindsr.datasets import Item
from blindsr.degradation import modcrop
from blindsr.images import read_image, read_kernel, to_uint8
from blindsr.metrics import psnr_ssim_y
from NonblindSR.usrnet import USRNet

__all__ = ["evaluate"]


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
    device = next(net.parameters()).device
    for item in items:
        try:
            if item.hr is None or item.kernel is None:
                raise ValueError(f"{item.lr}: has no ground truth; evaluate on a prepared dataset")
            lr, kernel = read_image(item.lr).to(device), read_kernel(item.kernel).float().to(device)
            with torch.no_grad():
                sr = net(lr, kernel, scale_factor, sigma)
            hr = modcrop(read_image(item.hr), scale_factor)
            yield item.name, psnr_ssim_y(to_uint8(sr), to_uint8(hr), scale_factor)
        except (ValueError, OSError) as error:
            yield item.name, str(error)
