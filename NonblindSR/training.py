"""Training USRNet: patches, kernels and noise drawn on the fly from a folder of photographs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindsr.checks import require_between, require_positive
from blindsr.degradation import add_noise, centre_crop, degrade, modcrop, quantize
from blindsr.devices import gains_from_bfloat16
from blindsr.kernels import kernel_side, normalize, random_kernels, random_motion_kernels
from blindsr.photographs import CameraSettings, photograph
from blindsr.training.loop import OnValidation, Training, TrainingSettings, fit, process_count
from blindsr.training.photographs import hold_out
from NonblindSR.evaluation import score
from NonblindSR.schedule import extend_schedule
from NonblindSR.usrnet import HyPaNet, USRNet

__all__ = ["USRNetSettings", "train", "validate", "weights_name"]

VALIDATED = 8
"""Pictures, the last of those held out, that the scores of the log are of."""
CLEAN_SIGMA = 0.5
"""Grey levels up to which a noise level may be told for a picture that is only rounded."""
LEVEL_SPREAD = 0.15
"""Standard deviation of the error of the logarithm of the noise level that is told for a photograph."""
DOUBTFUL_SIGMA = 5.0
"""Grey levels of noise from which on a photograph's kernel is told with all of --kernel-error; below, a share."""


@dataclass(frozen=True)
class USRNetSettings(TrainingSettings):
    """How USRNet is trained. The published recipe (USRNet, section 5.1): Adam at 1e-4, halved every 100 000 steps,
    48 patches of 96×96, scale factors 1 to 4, noise up to 25."""

    steps: int = 7_500
    learning_rate: float = 5e-4
    muon_rate: float = 1.5e-3
    clip: float = 0.5
    held_out: int = 8
    sigma_max: float = 15.0
    batch: int = 8
    """Patches per step (original: 48), of all processes together."""
    patch: int = 72
    """Side of an HR patch in pixels (original: 96)."""
    noise_free: float = 0.5
    """Share of patches without noise: blind estimation hands over σ = 0."""
    motion: float = 0.05
    """Share of patches blurred by a shaking camera instead of a Gaussian."""
    kernel_error: float = 0.0
    """Spread (standard deviation) of the relative error of the kernel's variance that the network is told."""
    loss: Literal["l1", "rmse"] = "l1"
    """Mean absolute error (published), or each patch's root mean squared error, which is nearer to PSNR."""
    photographs: bool = False
    """Train on pictures as cameras' files are instead of prepared ones; --noise-free is
    then the share that is only rounded. --sigma-max 50 goes with it."""
    flat: float = 0.0
    """Share of patches of one colour, or of a gradient, with the noise that is told or without any."""
    known_sigma: float = 0.0
    """Noise level in grey levels up to which --start-file was trained; beyond, α and β are extrapolated before the
    training begins. 0 leaves them as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "batch")
        require_between(self, 0, 1, "noise_free", "motion", "kernel_error", "flat")
        require_between(self, 0, 255, "known_sigma")
        for scale_factor in self.scales:
            if self.patch - self.patch % scale_factor < kernel_side(scale_factor):
                side = kernel_side(scale_factor)
                raise ValueError(
                    f"--patch {self.patch}: too small for the {side}×{side} kernels of --scales {scale_factor}"
                )


def schedule_start(net: HyPaNet, iterations: int) -> None:
    """Initialise α and β to the schedule of plug-and-play restoration (DPIR: Zhang et al., PAMI 2021, section 4.2).

    The denoiser's level σₖ falls from 0.5 to 0.02 (or the noise level, where that is larger) in equal ratios; βₖ = σₖ
    and αₖ = 0.23 σ²/σₖ², with the 8-bit rounding of the LR image counted as noise. From a random start α and β stay
    almost blind to σ, whose range is small, and the noise-free case pays for the noisy one.
    """
    rounding = 1 / 255 / math.sqrt(12)
    sigma = torch.linspace(0, 50 / 255, 401, dtype=torch.float64)
    noise = (sigma**2 + rounding**2)[:, None]
    last = sigma.clamp(min=0.02)[:, None]
    level = 0.5 * (last / 0.5) ** torch.linspace(0, 1, iterations, dtype=torch.float64)
    schedule = torch.cat([0.23 * noise / level**2, level], dim=1)
    target = torch.log(torch.expm1(schedule))  # what softplus turns into it
    values = dict(net.named_parameters())
    for value in values.values():
        nn.init.zeros_(value)
    # All but the last hidden unit are hinges in σ, dense where it is small and log α varies; the last passes s on.
    units = len(values["mlp.0.bias"])
    hinges = units - 1
    knots = torch.cat([torch.zeros(1), torch.logspace(-4, math.log10(0.15), hinges - 1)]).double()
    slopes = 1 / (0.2 - knots)
    features = torch.relu((sigma[:, None] - knots) * slopes)
    features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    ridge = 1e-4 * torch.eye(units, dtype=torch.float64)
    solved = torch.linalg.solve(features.T @ features + ridge, features.T @ target)
    with torch.no_grad():
        values["mlp.0.weight"][:hinges, 0, 0, 0] = slopes
        values["mlp.0.bias"][:hinges] = -slopes * knots
        values["mlp.0.weight"][hinges, 1, 0, 0] = 1 / 8
        values["mlp.2.weight"].copy_(torch.eye(units)[:, :, None, None])
        values["mlp.4.weight"][:, :hinges, 0, 0] = solved[:-1].T
        values["mlp.4.bias"].copy_(solved[-1])


def identity_start(net: USRNet, generator: torch.Generator) -> None:
    """Initialise so that the prior step starts as the identity and unfolding as plain data consistency.

    Three feature channels carry the image from head to tail; the U-Net's upper branch starts at zero, and so do
    the second convolutions of its residual blocks. From there a few thousand steps suffice where a random start
    first has to learn to copy.
    """
    schedule_start(net.h, net.iterations)
    for module in net.p.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            gain = math.sqrt(2) if module.kernel_size == (3, 3) else 1.0
            nn.init.orthogonal_(module.weight, gain=gain, generator=generator)
    with torch.no_grad():
        for name, parameter in net.p.named_parameters():
            if name.endswith("res.2.weight"):
                parameter.mul_(0.1)
        parameters = dict(net.named_parameters())
        parameters["p.m_up1.0.weight"].zero_()
        head, tail = parameters["p.m_head.weight"], parameters["p.m_tail.weight"]
        tail.mul_(0.01)
        for channel in range(3):
            head[channel] = 0
            head[channel, channel, 1, 1] = 1
            tail[channel, :3] = 0
            tail[channel, channel, 1, 1] = 1


class PatchSource:
    """Draws training batches of one process; draws depend on the generator alone."""

    def __init__(self, images: list[Tensor], settings: USRNetSettings, device: torch.device) -> None:
        if settings.batch % process_count():
            raise ValueError(f"--batch {settings.batch}: must be a multiple of the {process_count()} processes")
        self.images = images
        self.batch = settings.batch // process_count()
        self.settings = settings
        self.device = device
        sizes = torch.tensor([image.shape[1] * image.shape[2] for image in images], dtype=torch.float64)
        self.weights = sizes / sizes.sum()

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
        """LR patches, HR patches, kernels, the scale factor and the noise levels of one step."""
        settings = self.settings

        def integer(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        scale_factor = settings.scales[integer(len(settings.scales))]
        side = settings.patch - settings.patch % scale_factor
        chosen = torch.multinomial(self.weights, self.batch, replacement=True, generator=generator)
        patches = []
        for index in chosen.tolist():
            image = self.images[index]
            top, left = integer(image.shape[1] - side + 1), integer(image.shape[2] - side + 1)
            patch = image[:, top : top + side, left : left + side]
            patch = torch.rot90(patch, integer(4), (1, 2))
            patches.append(patch.flip(2) if integer(2) else patch)
        hr = torch.stack(patches).float() / 255
        flat = torch.zeros(self.batch, dtype=torch.bool)
        if settings.flat:
            flat = torch.rand(self.batch, generator=generator) < settings.flat
            hr[flat] = _flat_patches(int(flat.sum()), side, generator)
        hr = hr.to(self.device)
        kernels = random_kernels(self.batch, scale_factor, generator)
        if settings.motion:
            shaken = torch.rand(self.batch, generator=generator) < settings.motion
            kernels[shaken] = random_motion_kernels(int(shaken.sum()), scale_factor, generator)
        kernels = kernels.to(self.device)
        if settings.photographs:
            lr = degrade(hr, kernels, scale_factor).cpu()
            lr, sigma, spread = self._photograph(lr, flat, generator)
            kernels = _with_error(kernels, spread.view(-1, 1, 1, 1), generator)
            return lr.to(self.device), hr, kernels, scale_factor, sigma.to(self.device)
        noisy = torch.rand(self.batch, generator=generator) >= settings.noise_free
        sigma = noisy * torch.rand(self.batch, generator=generator) * settings.sigma_max / 255
        lr = degrade(hr, kernels, scale_factor).cpu()
        lr = quantize(add_noise(lr, sigma.view(-1, 1, 1, 1), generator)).to(self.device)
        if settings.kernel_error:
            kernels = _with_error(kernels, settings.kernel_error, generator)
        return lr, hr, kernels, scale_factor, sigma.to(self.device)

    def _photograph(self, lr: Tensor, flat: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """LR patches as cameras' files have them, the noise levels to tell, and the spreads of the kernels' errors.

        A noise level is told about as well as the predictor knows it. For a flat patch without noise it may be any.

        Args:
            lr: N×3×h×w on the CPU, without noise.
            flat: which patches are flat, (N,).
        """
        settings = self.settings
        camera = CameraSettings(clean=settings.noise_free, sigma_max=settings.sigma_max)
        lr, levels, _ = photograph(lr, camera, generator)
        u = torch.rand(len(lr), generator=generator)
        jitter = torch.exp(LEVEL_SPREAD * torch.randn(len(lr), generator=generator))
        clean = levels < CLEAN_SIGMA / 255
        told = torch.where(clean, CLEAN_SIGMA / 255 * u, levels * jitter)
        told = torch.where(clean & flat, settings.sigma_max / 255 * u, told).clamp(max=settings.sigma_max / 255)
        return lr, told, settings.kernel_error * (255 * levels / DOUBTFUL_SIGMA).clamp(max=1)


def _flat_patches(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Patches of one colour (half of them grey), every other one fading into another, count×3×side×side."""
    colours = torch.rand(2, count, 3, 1, 1, generator=generator)
    grey = torch.rand(count, generator=generator) < 0.5
    colours = torch.where(grey.view(1, -1, 1, 1, 1), colours[:, :, :1], colours)
    fading = torch.rand(count, generator=generator) < 0.5
    place = torch.linspace(0, 1, side).view(1, 1, side, 1).expand(count, 1, side, side)
    return colours[0] + fading.view(-1, 1, 1, 1) * place * (colours[1] - colours[0])


def _with_error(kernels: Tensor, spread: Tensor | float, generator: torch.Generator) -> Tensor:
    """Kernels whose variance is off by a relative error of that spread (standard deviation), sum 1."""
    # A Gaussian to the power of p has its covariance divided by p.
    error = spread * torch.randn(len(kernels), 1, 1, 1, generator=generator)
    return normalize(kernels.clamp(min=0) ** torch.exp(error.to(kernels.device)))


def weights_name(settings: USRNetSettings) -> str:
    """The file that a training writes its averaged weights to."""
    if set(settings.scales) == {1}:
        return "usrnet_tiny_x1.pth"
    return "usrnet_tiny_photo.pth" if settings.photographs else "usrnet_tiny.pth"


def rmse(x: Tensor, y: Tensor) -> Tensor:
    """Root mean squared error of N×C×H×W, the mean over N. Below a tenth of a grey level its gradient fades."""
    return (F.mse_loss(x, y, reduction="none").mean(dim=(1, 2, 3)) + 1e-7).sqrt().mean()


def validate(net: USRNet, images: list[Tensor], scale_factor: int, sigma: float = 0.0) -> float:
    """Mean PSNR (Y, dB) over C×H×W uint8 images, each degraded by one of a fixed sequence of kernels.

    Args:
        sigma: noise level in image range, added to the LR images and told to the network.
    """
    generator = torch.Generator().manual_seed(0)
    scores = []
    for image in images:
        hr = modcrop(image[None].float() / 255, scale_factor)
        kernel = random_kernels(1, scale_factor, generator)
        lr = quantize(add_noise(degrade(hr, kernel, scale_factor), sigma, generator))
        scores.append(score(net, lr, kernel, hr, scale_factor, sigma)[0])
    return float(np.mean(scores))


def train(
    images: list[Tensor],
    settings: USRNetSettings,
    folder: Path,
    device: torch.device,
    resume: Path | None = None,
    start: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    on_validation: OnValidation | None = None,
) -> USRNet:
    """Train a USRNet; write ``last.pt`` (resumable), ``best.pth`` and :func:`weights_name` into ``folder``.

    The prior step runs in bfloat16 where the device gains from that, and is compiled on CUDA.

    Args:
        images: pictures, C×H×W uint8; the last ``held_out`` are left out, some of their centres are for validation.
        resume: a ``last.pt`` to go on from, with the same draws as an unbroken run.
        start: weights to start from, for a further stage of training.
        on_step: called with (step, loss).
        on_validation: called with the log entry of each validation; its scores are PSNR in dB.

    Returns:
        The averaged network, in evaluation mode.

    Raises:
        ValueError: there are too few pictures, or ``resume`` was made with other settings.
    """
    pictures = images
    images, validation = hold_out(images, settings.held_out)
    validation = [centre_crop(image, 192) for image in validation[-VALIDATED:]]
    if start is None:
        net = USRNet()
        identity_start(net, torch.Generator().manual_seed(settings.seed))
    else:
        net = USRNet.from_pretrained(start).train()
        if settings.known_sigma:
            draws = torch.Generator().manual_seed(settings.seed)
            extend_schedule(net.h, settings.known_sigma / 255, settings.sigma_max / 255, draws)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = USRNet().to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    average.load_state_dict(net.state_dict())
    source = PatchSource(images, settings, device)
    mixed_precision = gains_from_bfloat16(device)
    if device.type == "cuda":
        net.p.compile()

    def draw_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        lr, hr, kernels, scale_factor, sigma = source.draw(generator)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed_precision):
            sr = model(lr, kernels, scale_factor, sigma)
        return F.l1_loss(sr, hr) if settings.loss == "l1" else rmse(sr, hr)

    def scores() -> dict[int, float]:
        return {s: validate(average, validation, s) for s in sorted(set(settings.scales))}

    training = Training(net, average, draw_loss, scores, weights_name(settings), "validation PSNR (dB)")
    fit(training, settings, pictures, folder, resume, on_step, on_validation)
    return average
