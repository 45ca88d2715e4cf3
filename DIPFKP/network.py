"""The deep image prior of DIP-FKP: an encoder–decoder with skips and non-local blocks (paper, section 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ImagePrior", "scales_for"]


def scales_for(height: int, width: int, most: int = 5) -> int:
    """How often an image can be halved before reflection padding has nothing left to reflect.

    Raises:
        ValueError: not even once.
    """
    scales, side = 0, min(height, width)
    while scales < most and (side + 1) // 2 >= 2:
        scales, side = scales + 1, (side + 1) // 2
    if scales == 0:
        raise ValueError(f"an image of {width}×{height} pixels is too small for a deep image prior")
    return scales


def _convolution(c_in: int, c_out: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution (reflection padding, bias), batch norm, LeakyReLU."""
    padding = size // 2
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, size, stride, padding, padding_mode="reflect" if padding else "zeros"),
        nn.BatchNorm2d(c_out),
        nn.LeakyReLU(0.2, inplace=True),
    )


class NonLocalBlock(nn.Module):
    """Dot-product non-local block with 2×2 max-pooled keys and values; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, inner, 1)
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.out = nn.Sequential(nn.Conv2d(inner, channels, 1), norm)

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        if min(height, width) < 2:
            return x
        query = self.query(x).flatten(2).transpose(1, 2)
        key = F.max_pool2d(self.key(x), 2).flatten(2)
        value = F.max_pool2d(self.value(x), 2).flatten(2).transpose(1, 2)
        attended = (query @ key / key.shape[2]) @ value
        return x + self.out(attended.transpose(1, 2).reshape(n, -1, height, width))


class ImagePrior(nn.Module):
    """Fixed noise in, image out (deep image prior, arXiv:1711.10925).

    With 128 channels, 5 scales and non-local blocks it is the paper's network (2 359 939 parameters).

    Args:
        channels: of every scale.
        scales: how often the image is halved.
        non_local: whether the third to fifth scales have a non-local block.
        colours: channels of the input noise and of the image.
        skip: channels of the skip connections.
    """

    def __init__(
        self, channels: int = 128, scales: int = 5, non_local: bool = True, colours: int = 3, skip: int = 16
    ) -> None:
        super().__init__()
        self.skips, self.downs, self.ups = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for scale in range(scales):
            c_in = channels if scale else colours
            self.skips.append(_convolution(c_in, skip, 1))
            down = [_convolution(c_in, channels, 3, stride=2), _convolution(channels, channels, 3)]
            if non_local and scale >= 2:
                down.insert(1, NonLocalBlock(channels))  # type: ignore[arg-type]
            self.downs.append(nn.Sequential(*down))
            self.ups.append(
                nn.Sequential(
                    nn.BatchNorm2d(skip + channels),
                    _convolution(skip + channels, channels, 3),
                    _convolution(channels, channels, 1),
                )
            )
        self.last = nn.Conv2d(channels, colours, 1)

    def forward(self, noise: Tensor) -> Tensor:
        """1×C×H×W noise → 1×C×H×W image in (0, 1)."""
        x, skips = noise, []
        for skip, down in zip(self.skips, self.downs, strict=True):
            skips.append(skip(x))
            x = down(x)
        for skip, up in zip(reversed(skips), reversed(self.ups), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = up(torch.cat(_crop_to_smaller(skip, x), dim=1))
        return torch.sigmoid(self.last(x))


def _crop_to_smaller(a: Tensor, b: Tensor) -> list[Tensor]:
    """Crop both about their centres to the smaller height and width."""
    height, width = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
    cropped = []
    for x in (a, b):
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        cropped.append(x[:, :, top : top + height, left : left + width])
    return cropped
