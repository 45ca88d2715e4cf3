"""The deep image prior of DIP-FKP: an encoder–decoder with skips and non-local blocks (paper, section 4.2).

Networks of several pictures are one network of as many groups: a batch of one image whose channels are those of the
first picture, then those of the second and so on. Batch norm is then each picture's own, and a single picture is the
case of one group.
"""

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


def _convolution(c_in: int, c_out: int, size: int, pictures: int, stride: int = 1) -> nn.Sequential:
    """Convolution (reflection padding, bias), batch norm, LeakyReLU; channels are those of a picture."""
    padding = size // 2
    convolution = nn.Conv2d(
        *(c_in * pictures, c_out * pictures, size, stride, padding),
        groups=pictures,
        padding_mode="reflect" if padding else "zeros",
    )
    return nn.Sequential(convolution, _batch_norm(c_out * pictures), nn.LeakyReLU(0.2, inplace=True))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    """One that only ever sees the image that it is fitted to: running statistics would be for nobody."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


class NonLocalBlock(nn.Module):
    """Dot-product non-local block with 2×2 max-pooled keys and values; starts as the identity."""

    def __init__(self, channels: int, pictures: int) -> None:
        super().__init__()
        self.pictures = pictures
        inner = channels // 2
        self.query, self.key, self.value = (
            nn.Conv2d(channels * pictures, inner * pictures, 1, groups=pictures) for _ in range(3)
        )
        norm = _batch_norm(channels * pictures)
        nn.init.zeros_(norm.weight)
        self.out = nn.Sequential(nn.Conv2d(inner * pictures, channels * pictures, 1, groups=pictures), norm)

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.shape
        if min(height, width) < 2:
            return x
        query = self._by_picture(self.query(x)).transpose(1, 2)
        key = self._by_picture(F.max_pool2d(self.key(x), 2))
        value = self._by_picture(F.max_pool2d(self.value(x), 2)).transpose(1, 2)
        attended = (query @ key / key.shape[2]) @ value
        return x + self.out(attended.transpose(1, 2).reshape(1, -1, height, width))

    def _by_picture(self, x: Tensor) -> Tensor:
        """1×(P·C)×h×w → P×C×(h·w)."""
        return x.reshape(self.pictures, x.shape[1] // self.pictures, -1)


class ImagePrior(nn.Module):
    """Fixed noise in, image out (deep image prior, arXiv:1711.10925).

    With 128 channels, 5 scales and non-local blocks it is the paper's network (2 359 939 parameters).

    Args:
        channels: of every scale.
        scales: how often the image is halved.
        non_local: whether the third to fifth scales have a non-local block.
        colours: channels of the input noise and of the image.
        skip: channels of the skip connections.
        pictures: how many pictures of one size are fitted side by side, each with parameters of its own.
    """

    def __init__(
        self,
        channels: int = 128,
        scales: int = 5,
        non_local: bool = True,
        colours: int = 3,
        skip: int = 16,
        pictures: int = 1,
    ) -> None:
        super().__init__()
        self.pictures = pictures
        self.skips, self.downs, self.ups = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for scale in range(scales):
            c_in = channels if scale else colours
            self.skips.append(_convolution(c_in, skip, 1, pictures))
            down = [
                _convolution(c_in, channels, 3, pictures, stride=2),
                _convolution(channels, channels, 3, pictures),
            ]
            if non_local and scale >= 2:
                down.insert(1, NonLocalBlock(channels, pictures))  # type: ignore[arg-type]
            self.downs.append(nn.Sequential(*down))
            self.ups.append(
                nn.Sequential(
                    _batch_norm((skip + channels) * pictures),
                    _convolution(skip + channels, channels, 3, pictures),
                    _convolution(channels, channels, 1, pictures),
                )
            )
        self.last = nn.Conv2d(channels * pictures, colours * pictures, 1, groups=pictures)

    def forward(self, noise: Tensor) -> Tensor:
        """P×C×H×W noise → P×C×H×W images in (0, 1), for P pictures."""
        x, skips = noise.reshape(1, -1, *noise.shape[2:]), []
        for skip, down in zip(self.skips, self.downs, strict=True):
            skips.append(skip(x))
            x = down(x)
        for skip, up in zip(reversed(skips), reversed(self.ups), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            # Each picture's channels stay together.
            pairs = zip(*(part.chunk(self.pictures, dim=1) for part in _crop_to_smaller(skip, x)), strict=True)
            x = up(torch.cat([part for pair in pairs for part in pair], dim=1))
        return torch.sigmoid(self.last(x)).reshape(noise.shape)


def _crop_to_smaller(a: Tensor, b: Tensor) -> list[Tensor]:
    """Crop both about their centres to the smaller height and width."""
    height, width = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
    cropped = []
    for x in (a, b):
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        cropped.append(x[:, :, top : top + height, left : left + width])
    return cropped
