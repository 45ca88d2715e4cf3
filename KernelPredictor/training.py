"""Training the kernel predictor: crops, kernels, sharpness and noise drawn on the fly from photographs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from blindsr.checks import require_between, require_positive
from blindsr.degradation import add_noise, border, degrade, quantize
from blindsr.devices import gains_from_bfloat16
from blindsr.images import LUMA
from blindsr.initialization import draw_parameters
from blindsr.kernels import ENLARGING, SCALE_FACTORS, gaussian_kernels, kernel_side, variance_range
from blindsr.photographs import WHITE_LUMA, CameraSettings, camera_kernels, covariance, photograph
from blindsr.training.loop import OnValidation, Training, TrainingSettings, fit, process_count
from blindsr.training.photographs import hold_out
from KernelPredictor.covariance import to_log_covariance
from KernelPredictor.predictor import MIN_SIDE, NOISE_HEADS, NOISE_OFFSET, KernelPredictor

__all__ = ["PredictorSettings", "laplace_loss", "train", "validate", "weights_name"]

UNBLURRED = 1e-3
"""Variance in pixels² of a kernel that is a single pixel."""
LARGEST_CROP = 320
"""Largest HR side of a crop: what photographs of 481×321 pixels hold."""


@dataclass(frozen=True)
class PredictorSettings(TrainingSettings):
    """How the predictor is trained."""

    steps: int = 60_000
    learning_rate: float = 1.5e-3
    muon_rate: float = 1.5e-3
    clip: float = 1.0
    held_out: int = 40
    sigma_max: float = 10.0
    crops: tuple[int, ...] = (40, 56, 72)
    """Sides of the LR crops in pixels; each step takes one (less where 320 HR pixels do not hold it)."""
    pixels: int = 73_728
    """LR pixels per step, of all processes together: the number of crops follows from their size."""
    narrow: float = 0.35
    """Share of variances drawn uniformly in their logarithm; the others uniformly, as in the test sets."""
    zoom: tuple[float, float] = (0.55, 1.6)
    """Range of the resizing of three quarters of the crops, as far as the photograph is large enough. Photographs
    differ in sharpness; without this, those that are softer than the training's are taken for more blurred."""
    noisy: float = 0.3
    """Share of crops with noise; with --photographs, of those that are more than rounded."""
    photographs: bool = False
    """Train on pictures as cameras' files are instead of prepared ones, some blurred as
    the prior does not know it, and read the noise level too. --sigma-max 50 goes with it."""
    other_blur: float = 0.1
    """With --photographs, share of crops blurred by motion, defocus or a wider Gaussian than the prior's."""
    sharp: float = 0.15
    """At x1, share of crops that are not blurred at all: such pictures are to be left as they are."""
    noise_weight: float = 0.3
    """With --photographs, weight of the noise level's loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "pixels")
        require_between(self, 0, 1, "noisy", "narrow", "other_blur", "sharp")
        require_between(self, 0, 100, "noise_weight")
        if not self.crops:
            raise ValueError("--crops: give at least one")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"--zoom {self.zoom[0]} {self.zoom[1]}: must be positive, the smaller first")
        for scale_factor in self.scales:
            for crop in self.crops:
                if _crop_side(crop, scale_factor) < MIN_SIDE:
                    raise ValueError(f"--crops {crop}: must be at least {MIN_SIDE}")


def _crop_side(crop: int, scale_factor: int) -> int:
    return min(crop, LARGEST_CROP // scale_factor - 2 * border(kernel_side(scale_factor), scale_factor))


class CropSource:
    """Draws training batches; draws depend on the generator alone."""

    def __init__(self, images: list[Tensor], settings: PredictorSettings) -> None:
        self.images = images
        self.settings = settings

    def draw(self, scale_factor: int, crop: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """LR luma crops, count×1×crop×crop, and the log-covariances of their blur, count×3."""
        settings = self.settings
        kernels, target = self._gaussians(scale_factor, count, generator)
        hr_side = (crop + 2 * border(kernels.shape[-1], scale_factor)) * scale_factor
        hr = torch.stack([_luma(self._patch(hr_side, generator)) for _ in range(count)])
        lr = degrade(hr, kernels, scale_factor, circular=False)
        noisy = torch.rand(count, generator=generator) < settings.noisy
        sigma = noisy * torch.rand(count, generator=generator) * settings.sigma_max / 255
        return quantize(add_noise(lr, sigma.view(-1, 1, 1, 1), generator)), target

    def draw_photographs(
        self, scale_factor: int, crop: int, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`draw`, of pictures as cameras' files are.

        Returns:
            Also, (count,), log(σ + ½) of their luma's noise in grey levels.
        """
        settings = self.settings
        others = int((torch.rand(count, generator=generator) < settings.other_blur).sum())
        others = min(others, count - 1)  # where only few are drawn, all of them can be
        gaussians, target = self._gaussians(scale_factor, count - others, generator)
        crops, targets = [self._blurred(gaussians, scale_factor, crop, generator)], [target]
        if others:
            kernels = camera_kernels(others, scale_factor, generator)
            crops.append(self._blurred(kernels, scale_factor, crop, generator))
            targets.append(to_log_covariance(*covariance(kernels), scale_factor))
        camera = CameraSettings(clean=1 - settings.noisy, sigma_max=settings.sigma_max)
        lr, levels, grey = photograph(torch.cat(crops), camera, generator)
        luma_levels = 255 * levels * torch.where(grey, 1.0, WHITE_LUMA)
        return _luma(lr), torch.cat(targets), torch.log(luma_levels + NOISE_OFFSET)

    def _gaussians(self, scale_factor: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Kernels, count×1×k×k, and their log-covariances, count×3."""
        low, high = variance_range(scale_factor)
        u = torch.rand(2, count, generator=generator)
        in_log = torch.rand(count, generator=generator) < self.settings.narrow
        variances = torch.where(in_log, low * (high / low) ** u, low + (high - low) * u)
        if scale_factor == 1:
            sharp = torch.rand(count, generator=generator) < self.settings.sharp
            variances = torch.where(sharp, UNBLURRED, variances)
        theta = math.pi * torch.rand(count, generator=generator)
        kernels = gaussian_kernels(variances[0], variances[1], theta, kernel_side(scale_factor), scale_factor)
        return kernels, to_log_covariance(variances[0], variances[1], theta, scale_factor)

    def _blurred(self, kernels: Tensor, scale_factor: int, crop: int, generator: torch.Generator) -> Tensor:
        """LR crops in colours, N×3×crop×crop, each blurred by one of N kernels."""
        hr_side = (crop + 2 * border(kernels.shape[-1], scale_factor)) * scale_factor
        hr = torch.stack([self._patch(hr_side, generator) for _ in range(len(kernels))])
        return degrade(hr, kernels, scale_factor, circular=False)

    def _patch(self, side: int, generator: torch.Generator) -> Tensor:
        """One patch, 3×side×side in [0, 1], of a random photograph, resized, turned and mirrored at random."""

        def integer(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        image = self.images[integer(len(self.images))]
        share, where = torch.rand(2, generator=generator).tolist()
        low, high = (math.log(zoom) for zoom in self.settings.zoom)
        zoom = math.exp(low + (high - low) * where) if share < 0.75 else 1.0
        taken = min(math.ceil(side / zoom), *image.shape[1:])
        top, left = integer(image.shape[1] - taken + 1), integer(image.shape[2] - taken + 1)
        patch = image[:, top : top + taken, left : left + taken]
        kind = integer(2)
        if taken != side:
            smaller = cv2.INTER_AREA
            larger = cv2.INTER_CUBIC if kind else cv2.INTER_LINEAR
            pixels = np.ascontiguousarray(patch.permute(1, 2, 0).numpy())
            pixels = cv2.resize(pixels, (side, side), interpolation=smaller if taken > side else larger)
            patch = torch.from_numpy(pixels).permute(2, 0, 1)
        patch = torch.rot90(patch, integer(4), (1, 2))
        if integer(2):
            patch = patch.flip(2)
        return patch.float() / 255


def _luma(image: Tensor) -> Tensor:
    """…×3×h×w to …×1×h×w."""
    return (image * torch.tensor(LUMA).view(3, 1, 1)).sum(dim=-3, keepdim=True)


def weights_name(settings: PredictorSettings) -> str:
    """The file that a training writes its averaged weights to."""
    if set(settings.scales) == {1}:
        return "kernel_predictor_x1.pth"
    return "kernel_predictor_photo.pth" if settings.photographs else "kernel_predictor.pth"


def _for_scales(predictor: KernelPredictor, scales: tuple[int, ...]) -> dict[str, Tensor]:
    """The weights of ``predictor`` for other scale factors; one that it does not know begins as its first."""
    state = predictor.state_dict()
    weight = state["head.0.weight"]
    others = weight.shape[1] - len(predictor.scales)
    known = {scale_factor: weight[:, others + i] for i, scale_factor in enumerate(predictor.scales)}
    columns = [known.get(scale_factor, weight[:, others]) for scale_factor in scales]
    state["head.0.weight"] = torch.cat([weight[:, :others], torch.stack(columns, dim=1)], dim=1)
    return state


def laplace_loss(entries: Tensor, log_errors: Tensor, target: Tensor) -> Tensor:
    """Loss: the error of the log-covariance under a Laplace-like density of the predicted width, up to a constant.

    It is lowest at half the error to expect: the density falls off in two dimensions, as its normaliser w² says.

    Args:
        entries, target: N×3 as in :func:`KernelPredictor.covariance.to_log_covariance`.
        log_errors: (N,).
    """
    error = _matrix_error(entries, target)
    return (error * torch.exp(-log_errors) + 2 * log_errors).mean()


def _matrix_error(entries: Tensor, target: Tensor) -> Tensor:
    """Frobenius norm of the difference of two symmetric 2×2 matrices (the entry xy counts twice), shape (N,)."""
    weights = torch.tensor([1.0, 1.0, 2.0], device=entries.device)
    return torch.sqrt(((entries - target) ** 2 * weights).sum(dim=1) + 1e-4)


@torch.no_grad()
def validate(predictor: KernelPredictor, images: list[Tensor], settings: PredictorSettings) -> dict[int, float]:
    """Minus the mean error of the log-covariance on 64 fixed crops of C×H×W uint8 images, by scale factor."""
    device = next(predictor.parameters()).device
    held = CropSource(images, settings)
    generator = torch.Generator().manual_seed(0)
    result = {}
    for scale_factor in sorted(set(settings.scales)):
        crop = _crop_side(max(settings.crops), scale_factor)
        draw = held.draw_photographs if settings.photographs else held.draw
        luma, target = draw(scale_factor, crop, 64, generator)[:2]
        entries = torch.cat([predictor(part.to(device), scale_factor)[0].cpu() for part in luma.split(16)])
        result[scale_factor] = -float(_matrix_error(entries, target).mean())
    return result


def train(
    images: list[Tensor],
    settings: PredictorSettings,
    folder: Path,
    device: torch.device,
    resume: Path | None = None,
    start: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    on_validation: OnValidation | None = None,
) -> KernelPredictor:
    """Train a predictor; write ``last.pt`` (resumable), ``best.pth`` and :func:`weights_name` into ``folder``.

    Args:
        images: pictures, C×H×W uint8; the last ``held_out`` are for validation alone.
        resume, on_step: see :func:`blindsr.training.loop.fit`.
        start: weights to start from, for a further stage of training.
        on_validation: called with the log entry of each validation; its scores are minus the mean error of the
            log-covariance on held-out crops.

    Returns:
        The averaged network, in evaluation mode.

    Raises:
        ValueError: there are too few pictures, or ``resume`` was made with other settings.
    """
    shown, validation = hold_out(images, settings.held_out)
    heads = NOISE_HEADS if settings.photographs else 0
    scales = ENLARGING if 1 not in settings.scales else (1,) if set(settings.scales) == {1} else SCALE_FACTORS
    net = KernelPredictor(noise_heads=heads, scales=scales)
    draw_parameters(net, torch.Generator().manual_seed(settings.seed))
    if start is not None:
        # Weights without a noise head leave the new one as it was drawn.
        net.load_state_dict(
            _for_scales(KernelPredictor.from_pretrained(start), scales), strict=not settings.photographs
        )
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = KernelPredictor(noise_heads=heads, scales=scales).eval()
    average = average.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average.load_state_dict(net.state_dict())
    source = CropSource(shown, settings)
    mixed_precision = gains_from_bfloat16(device)

    def draw_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        first, second = torch.randint(2**31, (2,), generator=generator).tolist()
        scale_factor = settings.scales[first % len(settings.scales)]
        crop = _crop_side(settings.crops[second % len(settings.crops)], scale_factor)
        # Crops at x8 come from nearly whole photographs: half as many cost as much as the other scales' do.
        count = max(4, settings.pixels // crop**2 // (1 if scale_factor < 8 else 2) // process_count())
        draw = source.draw_photographs if settings.photographs else source.draw
        luma, target, *noise = (t.to(device) for t in draw(scale_factor, crop, count, generator))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed_precision):
            entries, log_errors, log_noise = model(luma, scale_factor)
        loss = laplace_loss(entries.float(), log_errors.float(), target)
        if log_noise is not None:
            loss = loss + settings.noise_weight * (log_noise.float() - noise[0]).abs().mean()
        return loss

    training = Training(
        net,
        average,
        draw_loss,
        lambda: validate(average, validation, settings),
        weights_name(settings),
        "−error of the log-covariance",
    )
    fit(training, settings, images, folder, resume, on_step, on_validation)
    return average
