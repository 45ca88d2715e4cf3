"""Predicting a kernel's covariance from an LR image: where a search of the prior's latent space starts.

The method's search starts from the same kernel for every image, and a pixel loss keeps much of its start. Here a
small network, trained on random kernels, reads the blur off the image's edges instead.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindsr.checkpoints import load_checkpoint, load_state, unwrapped
from blindsr.estimation import Limits
from blindsr.images import LUMA
from blindsr.kernels import ENLARGING, SCALE_FACTORS, gaussian_kernels, kernel_side
from blindsr.paths import pretrained_path
from blindsr.photographs import WHITE_LUMA, colour_noise, is_grey
from KernelPredictor.covariance import from_log_covariance, variances_and_angle

__all__ = ["KernelPredictor", "Prediction", "Start", "predictor_path"]

Start = Literal["fixed", "predicted"]
"""Where a search of the latent space starts: at one kernel for all images (the paper), or at the predictor's."""

TILE = 192
"""Side in LR pixels of the windows that a prediction averages over. The sharpest edges tell most, so much is seen at
once: more than the training shows (144 at most), and the errors are yet smaller than with windows of 96."""
NOISE_HEADS = 4
"""Attention heads of weights that read a noise level."""
TILES = 8
"""Most windows that are looked at, those with the strongest gradients."""
SHRINKAGE = 0.25
"""By what share of its expected error a log-covariance is lowered: a kernel that is too wide costs the image more
than one that is too narrow by as much."""
PHOTO_SHRINKAGE = 0.1
"""The same for weights that read noise: of photographs a larger error is expected, and noise bounds what it costs. At
x1 :data:`SHRINKAGE` counts: a smooth picture kept as JPEG of quality 40 lost 0.5 dB with this."""
NOISE_OFFSET = 0.5
"""Grey levels added to a noise level before its logarithm is taken: noise far below rounding leaves no trace."""
LEAST_COLOUR_NOISE = 1.5 / 255
"""Noise of the colours up to which it can be their texture or rounding."""
COLOUR_SHARE = 0.7
"""Share of the noise read off the luma that the colours have at least where the picture was not compressed."""
LABORATORY_LIMITS = Limits(uncertain=0.32)
"""Of weights that read no noise, on LR images at x2 to x4: those of BSDS500 have expected errors of 0.06 to 0.23, up
to four times enlarged too; gradients, single edges and flat areas 0.38 to 0.76 (at x8 0.21 to 0.35)."""
PHOTO_LIMITS = Limits(uncertain=0.45, wide=0.85, linear=1.8, noisy=15.0)
"""Of weights that read noise: photographs of BSDS500 have 0.20 to 0.29 as they are, up to 0.45 with noise of 20. Off
lines of 5 to 15 pixels, standard deviations of a ratio of 1.6 to 3.2 were read, off discs of 1.0 to 1.4."""
OWN_SIZE_LIMITS = Limits(uncertain=0.7, wide=1.0, linear=1.8, noisy=2.5, sharp=0.45)
"""At x1. Without noise, 0.06 to 0.56 was expected of Gaussians, 0.7 to 2.0 of lines of 9 and 15 pixels. With noise it
is as large of Gaussians, and undoing the nearest one does no harm. Of unblurred photographs of BSDS500 a standard
deviation of up to 0.1 is read, of those blurred by 0.7 pixels 0.55 and more."""
MIN_SIDE = 16
"""Sides in LR pixels below which an image is extended by its border pixels."""


@dataclass(frozen=True)
class Prediction:
    """What the predictor read off one image."""

    kernel: Tensor
    """1×1×k×k float32 on the CPU, sum 1."""
    expected_error: float
    """Error to expect of log(Σ/s² + I/12) (Frobenius norm) before it is lowered by :data:`SHRINKAGE`, so of the
    covariance of the blur and a pixel together, relative to it: 0.1 is good."""
    variances: tuple[float, float] = (math.nan, math.nan)
    """Variances along the principal axes as they were read, HR pixels², the larger first: neither lowered nor clipped
    to the range of the kernels (:func:`blindsr.kernels.variance_range`). Beyond it, the blur is another one."""
    spread: tuple[float, float] = (math.nan, math.nan)
    """Their square roots in LR pixels."""
    limits: Limits | None = None
    """From where on these are in doubt."""
    sigma: float | None = None
    """Noise level in image range, as :func:`blindsr.photographs.noise_level` counts it; None where the weights do not
    tell (those for laboratory data)."""

    def findings(self, gaussian: bool = True) -> dict[str, Any]:
        """What :class:`blindsr.estimation.Estimate` says of it, by its names.

        Args:
            gaussian: whether the kernels that are looked for are Gaussians, of which alone an error is expected.
        """
        return {
            "expected_error": self.expected_error if gaussian else None,
            "spread": self.spread,
            "limits": self.limits,
            "sigma": self.sigma,
        }


class Reading(NamedTuple):
    """What the network says of each of N windows."""

    entries: Tensor
    """Log-covariances, N×3 as in :func:`KernelPredictor.covariance.to_log_covariance`."""
    log_errors: Tensor
    """Logs of half the errors to expect of them (see the loss they are trained with), shape (N,)."""
    log_noise: Tensor | None
    """log(σ + :data:`NOISE_OFFSET`) of the luma's noise in grey levels, shape (N,); None without a noise head."""


class KernelPredictor(nn.Module):
    """From a luma image to the log-covariance of its blur; convolutions, then attention over all positions.

    >>> predictor = KernelPredictor.from_pretrained()
    >>> predictor.predict(torch.rand(1, 3, 64, 64), 2).kernel.shape
    torch.Size([1, 1, 11, 11])

    Contrast is divided out (blur does not depend on it) and handed over as a second channel. Each attention head
    takes a weighted mean over the image, so that the few edges that tell most decide.

    Args:
        channels: of the first layers; the later ones have twice as many.
        heads: attention heads.
        noise_heads: further ones, which a noise level is read off; with 0 there is none.
        scales: the scale factors that it is trained for.
    """

    window: Tensor

    def __init__(
        self, channels: int = 32, heads: int = 8, noise_heads: int = 0, scales: tuple[int, ...] = ENLARGING
    ) -> None:
        super().__init__()
        self.scales = scales
        wide = 2 * channels
        self.features = nn.Sequential(
            nn.Conv2d(2, channels, 5),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3),
            nn.ReLU(),
            nn.Conv2d(channels, wide, 3, stride=2),
            nn.ReLU(),
        )
        self.residual = nn.ModuleList(nn.Conv2d(wide, wide, 3, padding=d, dilation=d) for d in (1, 2, 1))
        self.values = nn.Conv2d(wide, wide, 1)
        self.attention = nn.Conv2d(wide, heads, 1)
        self.head = nn.Sequential(
            nn.Linear(heads * wide + heads + len(scales), 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 4),
        )
        if noise_heads:
            self.noise_attention = nn.Conv2d(wide, noise_heads, 1)
            self.noise = nn.Sequential(
                nn.Linear(noise_heads * wide + noise_heads, 64),
                nn.ReLU(),
                nn.Linear(64, 1),
            )
        self.noise_heads = noise_heads
        line = torch.exp(-((torch.arange(7) - 3.0) ** 2) / 8)
        line = line / line.sum()
        self.register_buffer("window", torch.outer(line, line).view(1, 1, 7, 7), persistent=False)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> "KernelPredictor":
        """The predictor with weights from ``path``, or with the shipped ones for laboratory data, x2 to x8.

        In evaluation mode. It reads a noise level where the weights have a head for it.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it holds other weights.
        """
        path = Path(path or pretrained_path("kernel_predictor.pth"))
        state = unwrapped(load_checkpoint(path), path)
        noise_heads = NOISE_HEADS if "noise_attention.weight" in state else 0
        predictor = cls(noise_heads=noise_heads, scales=_scales_of(state))
        load_state(predictor, state, path, "a kernel predictor")
        return predictor.eval().requires_grad_(False)

    def _blur_window(self, luma: Tensor) -> Tensor:
        return F.conv2d(F.pad(luma, (3, 3, 3, 3), mode="reflect"), self.window)

    def forward(self, luma: Tensor, scale_factor: int) -> Reading:
        """Read the blur, and with a noise head the noise, off each window.

        Args:
            luma: N×1×h×w in [0, 1], sides of at least 16.
            scale_factor: s, one of ``scales``.

        Raises:
            ValueError: it is none of them.
        """
        if scale_factor not in self.scales:
            known = ", ".join(f"x{known}" for known in self.scales)
            raise ValueError(f"these weights of the kernel predictor know {known}, not x{scale_factor}; name others")
        mean = self._blur_window(luma)
        contrast = self._blur_window((luma - mean) ** 2).clamp(min=0).sqrt() + 1 / 255
        x = torch.cat([(luma - mean) / contrast, torch.log(contrast) + 3], dim=1)
        x = self.features(x.contiguous(memory_format=torch.channels_last))
        for layer in self.residual:
            x = x + F.relu(layer(x))
        values = self.values(x).float().flatten(2)
        pooled, evidence = _attend(self.attention(x).float().flatten(2), values)
        if self.noise_heads:
            noise_seen = torch.cat(_attend(self.noise_attention(x).float().flatten(2), values), dim=1)
        scale = torch.tensor([float(scale_factor == known) for known in self.scales], device=luma.device)
        with torch.autocast(luma.device.type, enabled=False):
            out = self.head(torch.cat([pooled, evidence, scale.expand(len(luma), -1)], dim=1))
            log_noise = self.noise(noise_seen)[:, 0] if self.noise_heads else None
        return Reading(out[:, :3], out[:, 3].clamp(-5, 3), log_noise)

    def _in_all_orientations(self, tile: Tensor, scale_factor: int) -> Reading:
        """Mean output for a window, 1×1×h×w, turned and mirrored: what the network says depends a little on that."""
        mirrored = torch.cat([tile, tile.flip(2), tile.flip(3), tile.flip(2, 3)])
        signs = mirrored.new_tensor([1, -1, -1, 1])
        upright, turned = self(mirrored, scale_factor), self(mirrored.transpose(2, 3), scale_factor)
        entries = torch.cat([upright.entries, turned.entries[:, [1, 0, 2]]])
        entries[:, 2] *= signs.repeat(2)
        log_errors = torch.cat([upright.log_errors, turned.log_errors])
        log_noise = None
        if upright.log_noise is not None and turned.log_noise is not None:
            log_noise = torch.cat([upright.log_noise, turned.log_noise]).mean(dim=0, keepdim=True)
        return Reading(entries.mean(dim=0, keepdim=True), log_errors.mean(dim=0, keepdim=True), log_noise)

    @torch.no_grad()
    def predict(self, lr: Tensor, scale_factor: int, share: float = 1.0) -> Prediction:
        """Predict the kernel of an image from windows of it, each weighted by its expected precision.

        It is somewhat narrower than the likeliest one (:data:`SHRINKAGE`, :data:`PHOTO_SHRINKAGE`). Turned and
        mirrored images give the same kernel, turned and mirrored.

        Args:
            lr: 1×3×h×w float32 in [0, 1].
            scale_factor: s, one of ``scales``.
            share: what to take of the variances seen, where the kernel is only a part of the blur.
        """
        luma = (lr * lr.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        height, width = luma.shape[-2:]
        luma = F.pad(luma, (0, max(0, MIN_SIDE - width), 0, max(0, MIN_SIDE - height)), mode="replicate")
        tiles = _textured_tiles(luma)
        readings = [self._in_all_orientations(tile, scale_factor) for tile in tiles.split(1)]
        entries = torch.cat([reading.entries for reading in readings])
        log_errors = torch.cat([reading.log_errors for reading in readings])
        weights = torch.softmax(-2 * log_errors, dim=0)
        mean = (weights[:, None] * entries).sum(dim=0, keepdim=True)
        expected_error = float(2 * torch.exp((weights * log_errors).sum()))
        largest, smallest, _ = variances_and_angle(mean.cpu().double(), scale_factor)
        shrinkage = PHOTO_SHRINKAGE if self.noise_heads and scale_factor > 1 else SHRINKAGE
        mean[:, :2] -= shrinkage * expected_error
        lambda1, lambda2, theta = from_log_covariance(mean.cpu().double(), scale_factor, share)
        kernel = gaussian_kernels(lambda1, lambda2, theta, kernel_side(scale_factor), scale_factor)
        sigma = _noise_level(readings, lr)
        variances = float(largest), float(smallest)
        spread = math.sqrt(max(variances[0], 0)) / scale_factor, math.sqrt(max(variances[1], 0)) / scale_factor
        return Prediction(kernel.float(), expected_error, variances, spread, self._limits(scale_factor), sigma)

    def _limits(self, scale_factor: int) -> Limits:
        if scale_factor == 1:
            return OWN_SIZE_LIMITS
        return PHOTO_LIMITS if self.noise_heads else LABORATORY_LIMITS

    def noise_level(self, lr: Tensor) -> float:
        """The noise level of 1×3×h×w in [0, 1], in image range.

        Raises:
            ValueError: the weights do not tell.
        """
        sigma = self.predict(lr, self.scales[0]).sigma  # which head reads the blur does not matter
        if sigma is None:
            raise ValueError("these weights of the predictor read no noise level; give it with --sigma")
        return sigma


def _attend(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Each head's weighted mean over the positions, and how strongly it found what it looks for.

    Args:
        scores: N×heads×positions.
        values: N×channels×positions.

    Returns:
        N×(heads·channels) and N×heads.
    """
    evidence = torch.logsumexp(scores, dim=-1) - math.log(scores.shape[-1])
    pooled = torch.softmax(scores, dim=-1) @ values.transpose(1, 2)
    return pooled.flatten(1), evidence


def _noise_level(readings: list[Reading], lr: Tensor) -> float | None:
    """The noise level of ``lr`` in image range, the root mean square of those that the network read off the windows.

    Where its colours have about as much noise, or more, it was not compressed, and they tell better: the network can
    take fine texture for noise, and the other way round.
    """
    logs = [reading.log_noise for reading in readings if reading.log_noise is not None]
    if not logs:
        return None
    levels = (torch.exp(torch.cat(logs).double()) - NOISE_OFFSET).clamp(min=0)
    of_luma = float(levels.square().mean().sqrt()) / 255
    if is_grey(lr):
        return of_luma
    of_colours = colour_noise(lr)
    if of_colours > max(LEAST_COLOUR_NOISE, COLOUR_SHARE * of_luma / WHITE_LUMA):
        return of_colours
    return of_luma / WHITE_LUMA


def predictor_path(photographs: bool, scale_factor: int = 2) -> Path:
    """The shipped weights for photographs, or for laboratory data; x1 has one for both."""
    if scale_factor == 1:
        return pretrained_path("kernel_predictor_x1.pth")
    return pretrained_path("kernel_predictor_photo.pth" if photographs else "kernel_predictor.pth")


def _scales_of(state: dict[str, Any]) -> tuple[int, ...]:
    """The scale factors that weights are for, by how many inputs of the head are left for them."""
    head, attention = state.get("head.0.weight"), state.get("attention.weight")
    if not (isinstance(head, Tensor) and isinstance(attention, Tensor) and head.ndim == 2 and attention.ndim == 4):
        return ENLARGING
    heads, channels = attention.shape[:2]
    told = head.shape[1] - heads * channels - heads
    return {1: (1,), len(SCALE_FACTORS): SCALE_FACTORS}.get(told, ENLARGING)


def _textured_tiles(luma: Tensor) -> Tensor:
    """Overlapping windows of 1×1×h×w, at most :data:`TILES`, those with the largest gradient energy."""
    height, width = luma.shape[-2:]
    rows, cols = min(TILE, height), min(TILE, width)
    tiles = [
        luma[..., round(top) : round(top) + rows, round(left) : round(left) + cols]
        for top in _positions(height, rows)
        for left in _positions(width, cols)
    ]
    energies = [float(tile.diff(dim=-1).square().mean() + tile.diff(dim=-2).square().mean()) for tile in tiles]
    chosen = sorted(range(len(tiles)), key=energies.__getitem__, reverse=True)[:TILES]
    return torch.cat([tiles[index] for index in chosen])


def _positions(length: int, window: int) -> list[float]:
    """Evenly spaced first pixels of windows that overlap by about half and cover ``length``."""
    count = max(1, math.ceil(2 * (length - window) / window) + 1)
    return [index * (length - window) / max(1, count - 1) for index in range(count)]
