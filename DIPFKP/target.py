"""What DIP-FKP fits its images to: the whole picture, or the pixels of a crop that do not see beyond it."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from blindsr.degradation import border, centre_crop
from DIPFKP.settings import DIPSettings

__all__ = ["Target", "joint_target", "textured_crop"]


@dataclass(frozen=True)
class Target:
    """What image networks are fitted to."""

    lr: Tensor
    """P×3×h×w in [0, 1], one image for each picture."""
    scale_factor: int
    side: int
    """Of the kernels, in HR pixels."""
    circular: bool
    """The images have periodic boundaries. If not, the networks' reach as far beyond ``lr`` as the kernel."""

    @property
    def beyond(self) -> int:
        """HR pixels by which the networks' images reach beyond those of ``lr`` on each side."""
        outside = 0 if self.circular else border(self.side, self.scale_factor)
        return outside * self.scale_factor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the networks' images."""
        height, width = (length * self.scale_factor + 2 * self.beyond for length in self.lr.shape[-2:])
        return height, width


def textured_crop(lr: Tensor, side: int) -> Tensor:
    """The side×side window (smaller where the image is) of 1×C×h×w with the largest gradient energy."""
    height, width = lr.shape[-2:]
    rows, cols = min(side, height), min(side, width)
    energy = F.pad(lr.diff(dim=-1).square().sum(1), (0, 1)) + F.pad(lr.diff(dim=-2).square().sum(1), (0, 0, 0, 1))
    # Window sums from an integral image: their cost does not depend on the window.
    integral = F.pad(energy[0].cpu().double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    strips = integral[rows:] - integral[:-rows]
    sums = strips[:, cols:] - strips[:, :-cols]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return lr[..., top : top + rows, left : left + cols]


def joint_target(lr: Tensor, scale_factor: int, side: int, settings: DIPSettings) -> Target:
    """What the kernel is estimated on: the pixels of a crop that do not see beyond it, or the whole picture.

    Raises:
        ValueError: the picture cannot hold the kernel.
    """
    height, width = lr.shape[-2:]
    if min(height, width) * scale_factor < side:
        raise ValueError(
            f"the picture ({width}×{height}) is too small: at x{scale_factor} it needs at least "
            f"{-(-side // scale_factor)} pixels on each side"
        )
    take = textured_crop if settings.crop_position == "texture" else centre_crop
    outside = border(side, scale_factor)
    crop = take(lr, max(settings.crop // scale_factor, -(-side // scale_factor), 2 * outside + 1))
    if crop.shape == lr.shape or min(crop.shape[-2:]) <= 4 * outside:
        # No crop where its border, which does not count, would be half of it.
        return Target(lr, scale_factor, side, settings.circular)
    return Target(crop[..., outside:-outside, outside:-outside], scale_factor, side, circular=False)
