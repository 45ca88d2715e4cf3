"""What a camera's file leaves of a picture: its noise, 8 bits, JPEG; and the blurs of a camera that no Gaussian is.

:mod:`blindsr.degradation` is the part of the forward model that is inverted. This is what comes after it in a
photograph and is drawn at random for the trainings.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blindsr.checks import require_between
from blindsr.images import LUMA
from blindsr.kernels import normalize, random_motion_kernels, variance_range

__all__ = [
    "WHITE_LUMA",
    "CameraSettings",
    "camera_kernels",
    "colour_noise",
    "covariance",
    "is_grey",
    "jpeg",
    "noise_level",
    "photograph",
    "sensor_noise",
]

WHITE_LUMA = math.sqrt(sum(weight**2 for weight in LUMA))
"""0.668: standard deviation of the luma of white noise of standard deviation 1 on each of three channels."""
GREY_TOLERANCE = 2 / 255
"""Channels that differ by no more are those of a grey picture: files of grey pictures as RGB are not always exact."""
SAMPLED = 1_000_000
"""Places at which the noise of a large picture's colours is looked at, more or less."""
MCU = 16
"""Side in pixels of what JPEG codes at once with chroma at half resolution: how far its grid can be shifted."""


@dataclass(frozen=True)
class CameraSettings:
    """How often what happens to a picture, and how strongly."""

    clean: float = 0.35
    """Share of pictures that are rounded to 8 bits, and nothing else."""
    noisy: float = 0.75
    """Share of the other pictures that have noise."""
    sigma_max: float = 50.0
    """Largest standard deviation of the noise, in grey levels of 255. A quarter of it is the median."""
    signal_dependent: float = 0.5
    """Share of noise that grows with brightness (Poisson–Gaussian); the rest is white and Gaussian."""
    compressed: float = 0.6
    """Share of the pictures that are not clean that are stored as JPEG."""
    quality: tuple[int, int] = (30, 98)
    """Range of JPEG's quality; the upper half of it is drawn in about two thirds of the cases."""
    full_chroma: float = 0.2
    """Share of JPEG files with chroma at full resolution (4:4:4) instead of half (4:2:0)."""
    grey: float = 0.1
    """Share of pictures that are grey: three equal channels, noise included."""

    def __post_init__(self) -> None:
        require_between(self, 0, 1, "clean", "noisy", "signal_dependent", "compressed", "full_chroma", "grey")
        require_between(self, 0, 255, "sigma_max")
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"--quality {self.quality[0]} {self.quality[1]}: must lie in 1 to 100, smaller first")


def photograph(image: Tensor, settings: CameraSettings, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw what a camera's file leaves of each of several noise-free pictures.

    Noise, clipping, rounding to 8 bits, then JPEG with its grid at any phase; each of them for a share of pictures.

    Args:
        image: N×3×h×w on the CPU, about [0, 1].
        settings: the shares and ranges.
        generator: the only source of the draws, on the CPU.

    Returns:
        N×3×h×w in [0, 1], multiples of 1/255; the noise levels (N,), see :func:`noise_level`; and which of them
        were made grey, (N,).
    """
    results, levels, greys = [], [], []
    for picture in image.split(1):
        u = torch.rand(10, generator=generator).tolist()
        clean, grey = u[0] < settings.clean, u[1] < settings.grey
        if grey:
            picture = luma(picture).expand(-1, 3, -1, -1)
        result = picture
        if not clean and u[2] < settings.noisy:
            sigma = settings.sigma_max / 255 * u[3] ** 2
            read_share = u[5] if u[4] < settings.signal_dependent else 1.0
            result = sensor_noise(picture[:, :1] if grey else picture, sigma, read_share, generator)
        pixels = np.rint(result.expand(-1, 3, -1, -1)[0].clamp(0, 1).numpy() * 255).astype(np.uint8)
        if not clean and u[6] < settings.compressed:
            low, high = settings.quality
            quality = round(high - (high - low) * u[7] ** 1.5)
            phase = tuple(torch.randint(MCU, (2,), generator=generator).tolist())
            pixels = jpeg(pixels, quality, full_chroma=u[8] < settings.full_chroma, phase=phase)
        result = torch.from_numpy(pixels)[None].float() / 255
        results.append(result)
        levels.append(noise_level(result, picture, grey=grey))
        greys.append(grey)
    return torch.cat(results), torch.cat(levels), torch.tensor(greys)


def luma(image: Tensor) -> Tensor:
    """N×3×h×w to its luma, N×1×h×w."""
    return (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)


def is_grey(image: Tensor) -> bool:
    """Whether the three channels of 1×3×h×w are equal, to within two grey levels."""
    return bool((image.amax(dim=1) - image.amin(dim=1)).max() <= GREY_TOLERANCE)


def noise_level(picture: Tensor, noise_free: Tensor, *, grey: bool = False) -> Tensor:
    """The σ of the white noise on each channel that would leave as much error in brightness, in image range.

    Of white noise it is its standard deviation. Of anything else, JPEG for one, it is the root mean square of the
    error of the luma, over :data:`WHITE_LUMA` for colours.

    Args:
        picture, noise_free: N×3×h×w in [0, 1].
        grey: whether all three channels have the same noise.

    Returns:
        Shape (N,).
    """
    error = luma(picture - noise_free).square().mean(dim=(1, 2, 3)).sqrt()
    return error if grey else error / WHITE_LUMA


def colour_noise(image: Tensor) -> float:
    """The standard deviation of the noise that each channel has of its own, in image range.

    Textures are mostly of brightness: the difference of two channels has little of them, and all of their noise. The
    median of its diagonal second differences tells it (Donoho and Johnstone, "Ideal spatial adaptation by wavelet
    shrinkage", Biometrika 1994). Where JPEG kept colours at half resolution, nothing is left of it, and of grey
    pictures this says nothing.

    Args:
        image: 1×3×h×w in [0, 1].
    """
    height, width = image.shape[-2:]
    if min(height, width) < 2:
        return 0.0
    step = max(1, math.isqrt(height * width // SAMPLED))
    first, second = image[0, [0, 2, 0]], image[0, [1, 1, 2]]
    deviations = []
    for a, b in zip(first, second, strict=True):
        corners = [
            (a - b)[row : height - 1 + row : step, column : width - 1 + column : step]
            for row, column in ((0, 0), (0, 1), (1, 0), (1, 1))
        ]
        diagonal = (corners[0] - corners[1] - corners[2] + corners[3]) / 2
        deviations.append(float(diagonal.abs().median()) / 0.6745)
    return min(deviations) / math.sqrt(2)


def sensor_noise(image: Tensor, sigma: float, read_share: float, generator: torch.Generator) -> Tensor:
    """Add Poisson–Gaussian noise in its Gaussian approximation: variance σ²·(r + (1 − r)·2x), σ² at mid-grey x = ½.

    Args:
        image: N×C×h×w in [0, 1].
        sigma: standard deviation at mid-grey, image range.
        read_share: r, the share of the variance there that does not depend on brightness; 1 is white noise.
    """
    variance = read_share + (1 - read_share) * 2 * image.clamp(0, 1)
    noise = torch.randn(image.shape, generator=generator)
    return image + sigma * variance.sqrt() * noise


def jpeg(
    pixels: npt.NDArray[np.uint8], quality: int, *, full_chroma: bool = False, phase: tuple[int, ...] = (0, 0)
) -> npt.NDArray[np.uint8]:
    """What JPEG leaves of 3×h×w pixels, RGB.

    Args:
        quality: 1 to 100, as libjpeg counts.
        full_chroma: 4:4:4 instead of 4:2:0.
        phase: rows and columns of the picture, repeated at its upper left border, that come before it, so that the
            grid of 8×8 blocks begins there.
    """
    top, left = phase
    whole = np.pad(pixels, ((0, 0), (top, 0), (left, 0)), mode="edge")
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if full_chroma else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(whole[::-1].transpose(1, 2, 0)), options)
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return np.ascontiguousarray(decoded.transpose(2, 0, 1)[::-1, top:, left:])


def camera_kernels(count: int, scale_factor: int, generator: torch.Generator) -> Tensor:
    """Kernels as cameras make them and the prior does not know: shakes, straight motion, defocus, wide Gaussians.

    Standard deviations reach from the narrowest Gaussian's of the scale factor to twice the widest's (Gaussians: one
    and a half times). Shakes are those of :func:`blindsr.kernels.random_motion_kernels`, enlarged by up to two.

    Returns:
        count×1×k×k float32, sum 1, centre of mass at about (k − 1)/2 but for the shakes; k odd, larger than
        :func:`blindsr.kernels.kernel_side`.
    """
    low, high = variance_range(scale_factor)
    half = math.ceil(5 * math.sqrt(high))
    offset = torch.arange(-half, half + 1, dtype=torch.float32)
    kernels = []
    for _ in range(count):
        kind, spread, where, width = torch.rand(4, generator=generator).tolist()
        deviation = math.sqrt(low) + (2 * math.sqrt(high) - math.sqrt(low)) * spread
        aperture, angle = low * (1 + width), math.pi * where
        along = math.cos(angle) * offset + math.sin(angle) * offset[:, None]
        across = -math.sin(angle) * offset + math.cos(angle) * offset[:, None]
        if kind < 0.3:  # a line: along it, a box of that deviation with the aperture's soft ends
            reach, soft = math.sqrt(3) * deviation, math.sqrt(2 * aperture)
            profile = torch.erf((along + reach) / soft) - torch.erf((along - reach) / soft)
            kernel = profile * torch.exp(-(across**2) / (2 * aperture))
        elif kind < 0.6:  # a disc, whose deviation along an axis is half its radius
            distance = torch.sqrt(along**2 + across**2)
            kernel = torch.sigmoid((2 * deviation - distance) / (0.5 * math.sqrt(aperture)))
        elif kind < 0.75:
            other = math.sqrt(low) + (0.75 * deviation - math.sqrt(low)) * width
            kernel = torch.exp(-0.5 * ((along / (0.75 * deviation)) ** 2 + (across / other) ** 2))
        else:
            shake = random_motion_kernels(1, scale_factor, generator)[0, 0].numpy()
            side = min(len(offset), round(len(shake) * (1 + spread)))
            enlarged = torch.from_numpy(cv2.resize(shake, (side, side), interpolation=cv2.INTER_LINEAR))
            kernel = torch.zeros(len(offset), len(offset))
            first = (len(offset) - side) // 2
            kernel[first : first + side, first : first + side] = enlarged
        kernels.append(kernel)
    return normalize(torch.stack(kernels)[:, None])


def covariance(kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """λ1 ≥ λ2, the variances along the principal axes in HR pixels², and θ, the angle of the first; shape (N,) each.

    Args:
        kernels: N×1×k×k, not negative.
    """
    weights = normalize(kernels)[:, 0].double()
    index = torch.arange(weights.shape[-1], dtype=torch.float64)
    x, y = index.view(1, 1, -1), index.view(1, -1, 1)
    mean_x, mean_y = ((weights * axis).sum(dim=(1, 2)).view(-1, 1, 1) for axis in (x, y))
    dx, dy = x - mean_x, y - mean_y
    xx, yy, xy = ((weights * product).sum(dim=(1, 2)) for product in (dx * dx, dy * dy, dx * dy))
    mean, difference = (xx + yy) / 2, (xx - yy) / 2
    radius = torch.sqrt(difference**2 + xy**2)
    theta = 0.5 * torch.atan2(xy, difference)
    return (mean + radius).to(kernels), (mean - radius).clamp(min=0).to(kernels), theta.to(kernels)
