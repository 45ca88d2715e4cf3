"""Where crops are taken from an image: in proportion to gradient energy (KernelGAN, section 4; its release)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from torch import Tensor

from blindsr.images import LUMA
from KernelGANFKP.settings import GANSettings

__all__ = ["CropSampler", "PatchSource", "crop_probabilities", "crop_side", "gradient_map", "half_size"]

Array = npt.NDArray[np.float64]

MIN_PICTURE_SIDE = 40
"""Shorter side in pixels that an image must have, and that is left of it when its border is off."""


def half_size(image: Tensor) -> Tensor:
    """N×C×h×w at half the size, by antialiased bicubic interpolation."""
    return F.interpolate(image, scale_factor=0.5, mode="bicubic", antialias=True)


def gradient_map(image: Tensor) -> Array:
    """Gradient energy around each pixel of 1×3×h×w: h×w, mean 1 (uniform where the image has no gradient).

    The sum of three maps of equal weight, averaged over 5×5 pixels: the gradient's magnitude, and where its vertical
    and its horizontal part are among their largest 3 %. Five pixels at the border do not count.
    """
    luma = (image[0].cpu().double() * torch.tensor(LUMA, dtype=torch.float64).view(3, 1, 1)).sum(0)
    rows, cols = np.gradient(luma.numpy())
    total = np.zeros(luma.shape)
    for part in (_largest(_without_border(np.abs(rows), 5)), _largest(_without_border(np.abs(cols), 5))):
        total += part / (part.sum() or 1)
    magnitude = _without_border(np.hypot(rows, cols), 5)
    total += magnitude / (magnitude.sum() or 1)
    if not total.any():
        return np.ones(luma.shape)
    total = uniform_filter(total, 5, mode="constant")
    return total / total.mean()


def _without_border(values: Array, width: int) -> Array:
    kept = np.zeros_like(values)
    kept[width:-width, width:-width] = values[width:-width, width:-width]
    return kept


def _largest(values: Array) -> Array:
    """Positive where ``values`` is among its largest 3 %, 0 elsewhere; almost binary."""
    ordered = np.sort(values, axis=None)
    rank = int(0.97 * ordered.size)
    low, high = ordered[rank], ordered[rank + 1]
    return np.clip(values, low, high if high > low else low + 1e-5) - low


def crop_probabilities(energy: Array, crop: int) -> Array:
    """Probability of each pixel, h×w, to be the centre of a crop×crop window, by the energy around it.

    As in the release, what counts lies within half the window's side.
    """
    half = crop // 2
    sums = _without_border(np.maximum(uniform_filter(energy, half, mode="constant"), 0), half)
    total = sums.sum()
    return sums / total if total > 0 else np.full(sums.shape, 1 / sums.size)


class CropSampler:
    """Draws batches of crop×crop windows of an image in one indexing operation, on the image's device.

    Args:
        image: 1×C×h×w.
        probabilities: h×w, of the windows' centres.
        crop: side of a window.
    """

    def __init__(self, image: Tensor, probabilities: Array, crop: int) -> None:
        height, width = image.shape[-2:]
        self.crop = crop
        # Windows start at even coordinates, so that those of the image and of its downsampled version are in phase.
        index = np.arange(height * width)
        tops = np.clip(index // width - crop // 2, 0, height - crop) // 2 * 2
        lefts = np.clip(index % width - crop // 2, 0, width - crop) // 2 * 2
        corners, inverse = np.unique(tops * width + lefts, return_inverse=True)
        self.corners = torch.from_numpy(corners).to(image.device)
        self.weights = torch.from_numpy(np.bincount(inverse.ravel(), probabilities.ravel()))
        window = torch.arange(crop)
        self.window = (window.view(-1, 1) * width + window).flatten().to(image.device)
        self.pixels = image[0].flatten(1)

    def choose(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of windows, (count,) int64; they and ``generator`` live on the CPU."""
        return torch.multinomial(self.weights, count, replacement=True, generator=generator)

    def cut(self, chosen: Tensor) -> Tensor:
        """Windows of those numbers, which lie on the image's device: count×C×crop×crop."""
        index = self.corners[chosen, None] + self.window
        return self.pixels[:, index].transpose(0, 1).unflatten(-1, (self.crop, self.crop))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """count×C×crop×crop; ``generator`` lives on the CPU."""
        return self.cut(self.choose(count, generator).to(self.pixels.device))


def crop_side(lr: Tensor, settings: GANSettings) -> int:
    """Side of the crops of an image, 1×3×h×w, that are downsampled; errors as of :meth:`PatchSource.of`."""
    return _shave_and_crop(lr, settings)[1]


def _shave_and_crop(lr: Tensor, settings: GANSettings) -> tuple[int, int]:
    """How much of the border is left off, and the side of the crops of the rest."""
    height, width = lr.shape[-2:]
    if min(height, width) < MIN_PICTURE_SIDE:
        raise ValueError(
            f"the picture ({width}×{height}) is too small: {MIN_PICTURE_SIDE} pixels are needed on each side; "
            "use a larger one, or what needs no patches: --preset prediction or DIPFKP"
        )
    shave = min(settings.shave, (min(height, width) - MIN_PICTURE_SIDE) // 2)
    # Where no window of the usual size can be placed freely, smaller ones are taken.
    return shave, min(settings.crop, int(0.8 * (min(height, width) - 2 * shave)) // 2 * 2)


@dataclass(frozen=True)
class PatchSource:
    """Where a search takes its patches from."""

    large: CropSampler
    """Crops to downsample."""
    small: CropSampler
    """Crops of the size that downsampling leaves of those."""
    notes: tuple[str, ...]
    """What a user should know of the crops, a line each."""

    @classmethod
    def of(cls, lr: Tensor, settings: GANSettings, kernel_side: int) -> "PatchSource":
        """The patches of 1×3×h×w less its border, for kernels of that side at x2.

        Raises:
            ValueError: the image is too small.
        """
        shave, crop = _shave_and_crop(lr, settings)
        inner = lr[..., shave : lr.shape[-2] - shave, shave : lr.shape[-1] - shave]
        height, width = inner.shape[-2:]
        notes = []
        if crop < settings.crop:
            notes.append(f"small picture: crops of {crop} instead of {settings.crop} pixels")
        if shave < settings.shave:
            notes.append(f"small picture: {shave} instead of {settings.shave} pixels of its border left off")
        doubled = gradient_map(half_size(inner)).repeat(2, axis=0).repeat(2, axis=1)
        doubled = np.pad(doubled, ((0, height - len(doubled)), (0, width - doubled.shape[1])), mode="edge")
        downsampled = (crop - kernel_side) // 2 + 1
        large = CropSampler(inner, crop_probabilities(doubled, crop), crop)
        small = CropSampler(inner, crop_probabilities(gradient_map(inner), downsampled), downsampled)
        return cls(large, small, tuple(notes))
