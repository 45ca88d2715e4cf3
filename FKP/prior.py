"""The kernel prior: latent codes <-> blur kernels, and likelihood."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindsr.checkpoints import load_checkpoint, load_state, unwrapped
from blindsr.graphs import adam_options, own_stream, repeated
from blindsr.kernels import SCALE_FACTORS, gaussian_kernels, kernel_side, normalize, variance_range
from blindsr.paths import pretrained_path
from FKP.flow import NormalizingFlow
from FKP.sources import largest_value
from FKP.sphere import SphericalAdam, project_to_sphere

__all__ = ["FlowShape", "KernelPrior"]

GAUSSIAN = "gaussian"
"""What the paper's prior is trained on."""
DEQUANTISATION = 1 / 720
"""Width of the uniform noise on a normalised kernel (official release)."""
MOST_NOISE = 0.1
"""Largest share of that noise in a kernel; that of the official release at x2 to x8 is 0.04 to 0.07."""


@dataclass(frozen=True)
class FlowShape:
    """Sizes of a prior's flow."""

    side: int
    """Of the kernels."""
    hidden: int
    """Width of the couplings' hidden layers."""
    blocks: int = 5
    """Number of blocks."""

    @classmethod
    def published(cls, scale_factor: int) -> "FlowShape":
        """That of the paper for a scale factor."""
        return cls(kernel_side(scale_factor), 25 if scale_factor == 1 else min(5 * (scale_factor + 1), 25))

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "FlowShape | None":
        """That of given weights; None where they are none of a prior, or of one that no machine could hold."""
        side, first = state.get("kernel_size"), state.get("net.0.s_net.0.weight")
        blocks = sum(name.endswith(".mask") for name in map(str, state))
        if not isinstance(side, Tensor) or side.numel() != 1 or not isinstance(first, Tensor) or first.ndim != 2:
            return None
        # Tensors on disk can claim any size: they need not hold as many numbers.
        if float(side) % 2 != 1 or not 3 <= side <= 127 or not 1 <= len(first) <= 2048 or not 1 <= blocks <= 64:
            return None
        return cls(int(side), len(first), blocks)


class KernelPrior(nn.Module):
    """Distribution of blur kernels of one scale factor and side (FKP, section 3.2).

    >>> prior = KernelPrior.from_pretrained(4)
    >>> kernels = prior.sample(16)                   # 16×1×19×19, each sums to 1
    >>> kernel = prior.decode(prior.initial_latent())   # differentiable in the latent
    >>> kernel.shape, prior.log_prob(kernel).shape
    (torch.Size([1, 1, 19, 19]), torch.Size([1]))

    Args:
        scale_factor: s; the kernels have its published centre.
        shape: side, width and depth of the flow; without it those of the paper for that scale.
        kernels: what it is trained on, "gaussian" or another :attr:`~FKP.sources.KernelSource.name`.
        largest: the largest value of a kernel; without it the narrowest Gaussian's peak.
    """

    kernel_size: Tensor
    alpha: Tensor
    normalization: Tensor
    base_dist_mean: Tensor
    base_dist_var: Tensor

    def __init__(
        self,
        scale_factor: int,
        shape: "FlowShape | None" = None,
        kernels: str = GAUSSIAN,
        largest: float | None = None,
    ) -> None:
        super().__init__()
        shape = shape or FlowShape.published(scale_factor)
        self.scale_factor, self.kernels, self.shape = scale_factor, kernels, shape
        self.side = shape.side
        self.dimension = self.side**2
        # N: what no kernel reaches.
        normalization = round(largest_value(scale_factor) if largest is None else largest, 5) + 0.01
        # In a large window with a sharp peak the mean of the release's noise would weigh as much as the kernel.
        self.dequantisation = min(DEQUANTISATION, 2 * MOST_NOISE / (self.dimension * normalization))
        # Names and shapes of the buffers are those of the official files.
        self.register_buffer("kernel_size", torch.tensor([float(self.side)]))
        self.register_buffer("alpha", torch.tensor([1e-6]))
        self.register_buffer("normalization", torch.tensor([normalization]))
        self.register_buffer("base_dist_mean", torch.zeros(self.dimension))
        self.register_buffer("base_dist_var", torch.ones(self.dimension))
        self.net = NormalizingFlow(self.dimension, shape.hidden, shape.blocks)

    @classmethod
    def from_pretrained(cls, which: int | str | Path, path: str | Path | None = None) -> "KernelPrior":
        """A trained prior, in evaluation mode, with parameters that require no gradient.

        Args:
            which: a scale factor, of the shipped weights or of those in ``path``; or a file alone, which says what it
                was made for. Official files are told by their side.
            path: a file, with a scale factor that its prior must have.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it holds other weights (another scale, say).
        """
        scale_factor = which if isinstance(which, int) else None
        if isinstance(which, str | Path):
            path = Path(which)
        elif path is None and which not in SCALE_FACTORS:
            raise ValueError(f"no weights ship for x{which}; there are {', '.join(f'x{s}' for s in SCALE_FACTORS)}")
        path = Path(path or pretrained_path(f"FKP_x{which}.pt"))
        content = load_checkpoint(path)
        state = unwrapped(content, path)
        shape = FlowShape.of(state)
        made_for = content.get("scale_factor")
        says = made_for in SCALE_FACTORS
        if not says:
            made_for = None if shape is None else _published_for(shape.side)
        if shape is not None:
            _require_scale(scale_factor, made_for, says, shape.side, path)
        kernels = content.get("kernels", GAUSSIAN)
        prior = cls(made_for or scale_factor or 2, shape, kernels if isinstance(kernels, str) else GAUSSIAN)
        width = content.get("dequantisation")
        if isinstance(width, float) and 0 < width < 1:
            prior.dequantisation = width
        load_state(prior, state, path, f"an x{prior.scale_factor} kernel prior")
        return prior.eval().requires_grad_(False)

    @property
    def is_published(self) -> bool:
        """Whether it is of Gaussian kernels of the scale factor's side, as those that a predictor reads."""
        return self.kernels == GAUSSIAN and self.side == kernel_side(self.scale_factor)

    @property
    def description(self) -> dict[str, Any]:
        """What a checkpoint says beside the weights."""
        return {"scale_factor": self.scale_factor, "kernels": self.kernels, "dequantisation": self.dequantisation}

    def _to_logits(self, kernels: Tensor, generator: torch.Generator | None) -> Tensor:
        if kernels.shape[1:] != (1, self.side, self.side):
            shape = "×".join(map(str, kernels.shape))
            raise ValueError(
                f"kernels of shape {shape}; the x{self.scale_factor} prior takes N×1×{self.side}×{self.side}"
            )
        flat = kernels.flatten(1).clamp(min=0) / self.normalization
        if generator is None:
            flat = flat + 0.5 * self.dequantisation
        else:
            noise = torch.rand(flat.shape, generator=generator, device=generator.device).to(flat)
            flat = flat + self.dequantisation * noise
        # No kernel that it is trained on reaches 1; what does (a single peak, say) gets a finite, low density.
        return torch.logit(self.alpha + (1 - 2 * self.alpha) * flat.clamp(max=1))

    def _from_logits(self, logits: Tensor) -> Tensor:
        flat = self.normalization * (torch.sigmoid(logits) - self.alpha) / (1 - 2 * self.alpha)
        return flat.view(-1, 1, self.side, self.side)

    def log_prob_logits(self, logits: Tensor) -> Tensor:
        """Log-density in nats of dequantised, logit-transformed kernels, N×side² → (N,)."""
        u, log_det = self.net(logits)
        gaussian = -0.5 * ((u - self.base_dist_mean) ** 2 / self.base_dist_var).sum(dim=1)
        scale = -0.5 * torch.log(2 * math.pi * self.base_dist_var).sum()
        return gaussian + scale + log_det

    def log_prob(self, kernels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Log-density in nats of kernels, in the space of dequantised logits where the flow lives.

        Args:
            kernels: N×1×side×side, sum 1.
            generator: draws the dequantisation noise U(0, 1)/720. Without it the noise is replaced by its mean, so
                that the result is deterministic and differentiable in ``kernels``.

        Returns:
            Shape (N,).
        """
        return self.log_prob_logits(self._to_logits(kernels, generator))

    def encode(self, kernels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latent codes of kernels, N×1×side×side → N×side²; arguments as in :meth:`log_prob`."""
        return self.net(self._to_logits(kernels, generator))[0]

    def decode(self, latent: Tensor) -> Tensor:
        """Kernels of latent codes, differentiable.

        The official release hands on the flow's output as it is, with sums off by up to 12 %; here every kernel
        is divided by its sum, since a kernel that does not sum to 1 changes the image's brightness.

        Args:
            latent: any shape that flattens to N×side².

        Returns:
            N×1×side×side, non-negative, each summing to 1.
        """
        logits = self.net.inverse(latent.reshape(-1, self.dimension))
        return normalize(self._from_logits(logits).clamp(min=0))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` kernels drawn from the prior, count×1×side×side, each summing to 1."""
        return self.decode(self.sample_latent(count, generator))

    def sample_latent(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` latent codes from the base distribution N(0, I), count×side²."""
        device = generator.device if generator is not None else self.base_dist_mean.device
        draw = torch.randn(count, self.dimension, generator=generator, device=device)
        return draw.to(self.base_dist_mean.device)

    @torch.no_grad()
    def initial_latent(self) -> Tensor:
        """The fixed code, 1×side² and on the sphere, that the search for a kernel starts from.

        Of 1000 draws with a fixed seed the one whose kernel comes closest to an isotropic Gaussian of half the
        largest variance; of other kernels than Gaussians, to their mean. A search by pixel loss keeps much of its
        start: a wide one leaves kernels too wide, an oriented one leaves its orientation in every result.
        """
        latents = project_to_sphere(self.sample_latent(1000, torch.Generator().manual_seed(0)))
        kernels = self.decode(latents)
        target = kernels.mean(dim=0, keepdim=True)
        if self.kernels == GAUSSIAN:
            variance = torch.tensor([0.5 * variance_range(self.scale_factor)[1]]).to(latents)
            target = gaussian_kernels(variance, variance, torch.zeros_like(variance), self.side, self.scale_factor)
        distances = (kernels - target).square().sum(dim=(1, 2, 3))
        best = int(distances.argmin())
        return latents[best : best + 1]

    def invert(self, kernel: Tensor) -> Tensor:
        """The codes, N×side² and on the sphere, whose kernels come closest to given ones, N×1×k×k.

        Those of another odd side k are cropped or surrounded by zeros. Encoding alone is not enough: a noise-free
        kernel's code lies off the sphere. 100 steps of spherical Adam from there bring Gaussian kernels to about
        75 dB. Many kernels take hardly longer than one.
        """
        steps, device, kernel = 100, kernel.device, in_window(kernel, self.side)
        latent = project_to_sphere(self.encode(kernel)).detach().requires_grad_()
        # A tensor that lives on the device: what is captured there would keep a number as it was.
        rate: Any = torch.tensor(0.2, device=device) if device.type == "cuda" else 0.2
        optimizer = SphericalAdam([latent], lr=rate, **adam_options(device))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

        def step() -> None:
            optimizer.zero_grad()
            (self.decode(latent) - kernel).square().sum().backward()
            optimizer.step()

        with torch.enable_grad(), own_stream(device):
            once = repeated(step, device, steps)
            for _ in range(steps):
                once()
                schedule.step()
        return latent.detach()


def in_window(kernels: Tensor, side: int) -> Tensor:
    """N×1×k×k kernels in a window of ``side``, k and it odd; of what is cut off the sum is made 1 again."""
    margin = (side - kernels.shape[-1]) // 2
    return kernels if margin == 0 else normalize(F.pad(kernels, (margin,) * 4))


def _published_for(side: int) -> int | None:
    """The scale factor whose kernels have that side, if any."""
    return next((s for s in SCALE_FACTORS if kernel_side(s) == side), None)


def _require_scale(asked: int | None, made_for: int | None, says: bool, side: int, path: Path) -> None:
    """Raise ValueError unless weights for kernels of ``side`` pixels are those that were asked for.

    Args:
        says: whether the file says what scale factor it was made for; else it is told by the side.
    """
    if asked is None and made_for is None:
        raise ValueError(f"{path}: does not say for which scale factor its {side}×{side} kernels are; train it again")
    if asked in (None, made_for):
        return
    if asked is not None and kernel_side(asked) != side and not says:
        expected = f"x{asked} has {kernel_side(asked)}×{kernel_side(asked)}"
        raise ValueError(f"{path}: made for {side}×{side} kernels, {expected}; choose the weights of the same scale")
    raise ValueError(f"{path}: made for x{made_for}, not for x{asked}; choose the weights of the same scale")
