"""Which weights and which noise level the non-blind step takes: photographs and laboratory data differ."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from blindsr.estimation import NoiseEstimator, NonblindSR
from blindsr.paths import pretrained_path
from KernelPredictor.predictor import KernelPredictor, predictor_path
from NonblindSR.tiling import pretrained_nonblind

__all__ = ["NonblindStep", "Sigma", "choose_nonblind", "shipped_weights"]

Sigma = float | Literal["auto"] | None
"""Noise level in grey levels of 255; "auto" is read off each image; None is auto for photographs, else 0."""

LABORATORY, PHOTOGRAPHS, OWN_SIZE = "usrnet_tiny.pth", "usrnet_tiny_photo.pth", "usrnet_tiny_x1.pth"
LARGEST_SIGMA = {LABORATORY: 15.0, PHOTOGRAPHS: 50.0, OWN_SIZE: 50.0}
"""Noise level, in grey levels of 255, up to which the shipped weights were trained."""
LEAST_SIGMA_X1 = 2.0
"""Grey levels of noise told at least at x1 with a kernel that was estimated from a photograph. Blur is never quite a
Gaussian, and undoing the nearest one exactly would ring: there is no averaging of s² pixels into one. Told 2 levels,
discs of 2 pixels gain 2 to 4 dB where they lost 1 dB, and Gaussians still 2 to 8 dB instead of 3 to 11."""
PUBLISHED_SIGMA = 25.0
"""And other weights: what the official ones saw (USRNet, section 5.1)."""


@dataclass(frozen=True)
class NonblindStep:
    """A non-blind network and what it is told."""

    network: NonblindSR
    sigma: float | NoiseEstimator
    """Noise level in image range, or what reads it off an image."""
    files: dict[str, Path]
    """The weights that decide its results."""
    settings: dict[str, Any]
    """What else does."""


def shipped_weights(photographs: bool, scale_factor: int) -> Path:
    """USRNet's shipped weights for photographs, or for laboratory data; x1 has one for both."""
    return pretrained_path(OWN_SIZE if scale_factor == 1 else PHOTOGRAPHS if photographs else LABORATORY)


def choose_nonblind(
    photographs: bool,
    scale_factor: int,
    sigma: Sigma,
    device: torch.device,
    path: Path | None = None,
    *,
    path_predictor: Path | None = None,
    tile: int | None = None,
    float32: bool = False,
) -> NonblindStep:
    """USRNet with the weights and the noise level that the images need.

    Args:
        photographs: whether the images are photographs, not laboratory data.
        scale_factor: s.
        sigma: see :data:`Sigma`.
        path: weights of USRNet in place of the shipped ones.
        path_predictor: weights of the predictor that reads the noise level, in place of the shipped ones.

    Raises:
        FileNotFoundError, ValueError: there are no such weights, or they were not trained for such noise.
    """
    weights = path or shipped_weights(photographs, scale_factor)
    largest = PUBLISHED_SIGMA if path is not None else LARGEST_SIGMA[weights.name]
    files = {"path_nonblind": weights}
    level: float | NoiseEstimator
    if sigma == "auto" or (sigma is None and photographs):
        files["path_noise"] = path_predictor or predictor_path(True, scale_factor)
        predictor = KernelPredictor.from_pretrained(files["path_noise"]).to(device)
        level = partial(_level, predictor, LEAST_SIGMA_X1 / 255 if scale_factor == 1 else 0.0, largest / 255)
    else:
        level = (sigma or 0.0) / 255
        if not 0 <= 255 * level <= largest:
            raise ValueError(f"--sigma {sigma}: {weights.name} was trained for 0 to {largest:g} grey levels of 255")
    network = pretrained_nonblind(weights, device, tile, float32=float32)
    # Who asks for float32 insists on it; otherwise the device decides, as it does on rounding.
    return NonblindStep(network, level, files, {"float32": True} if float32 else {})


def _level(predictor: KernelPredictor, least: float, largest: float, lr: Tensor, read: float | None) -> float:
    """A noise level no larger than the weights know, and with an estimated kernel no less than ``least``."""
    return min(largest, predictor.noise_level(lr) if read is None else max(least, read))
