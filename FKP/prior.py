"""The kernel prior: latent codes <-> blur kernels, likelihood, and the sphere that codes are kept on."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blindsr.checkpoints import load_checkpoint, load_state, unwrapped
from blindsr.graphs import adam_options, own_stream, repeated
from blindsr.kernels import SCALE_FACTORS, gaussian_kernels, kernel_side, normalize, variance_range
from blindsr.paths import pretrained_path
from FKP.flow import NormalizingFlow

__all__ = ["KernelPrior", "SphericalAdam", "project_to_sphere"]

DEQUANTISATION = 1 / 720
"""Width of the uniform noise on a normalised kernel (official release)."""


class KernelPrior(nn.Module):
    """Distribution of anisotropic Gaussian kernels of one scale factor (FKP, section 3.2).

    >>> prior = KernelPrior.from_pretrained(4)
    >>> kernels = prior.sample(16)                   # 16×1×19×19, each sums to 1
    >>> kernel = prior.decode(prior.initial_latent())   # differentiable in the latent
    >>> kernel.shape, prior.log_prob(kernel).shape
    (torch.Size([1, 1, 19, 19]), torch.Size([1]))

    Args:
        scale_factor: s; sets the kernel's side, the hidden width and the normalisation.
    """

    kernel_size: Tensor
    alpha: Tensor
    normalization: Tensor
    base_dist_mean: Tensor
    base_dist_var: Tensor

    def __init__(self, scale_factor: int) -> None:
        super().__init__()
        self.scale_factor = scale_factor
        self.side = kernel_side(scale_factor)
        self.dimension = self.side**2
        # Names and shapes of the buffers are those of the official files.
        self.register_buffer("kernel_size", torch.tensor([float(self.side)]))
        self.register_buffer("alpha", torch.tensor([1e-6]))
        self.register_buffer("normalization", torch.tensor([_largest_value(scale_factor)]))
        self.register_buffer("base_dist_mean", torch.zeros(self.dimension))
        self.register_buffer("base_dist_var", torch.ones(self.dimension))
        self.net = NormalizingFlow(self.dimension, hidden=min(5 * (scale_factor + 1), 25))

    @classmethod
    def from_pretrained(cls, scale_factor: int, path: str | Path | None = None) -> "KernelPrior":
        """The prior with weights from ``path``, official files included, or with the shipped ones.

        In evaluation mode, with parameters that require no gradient.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it holds other weights (another scale, say).
        """
        if path is None and scale_factor not in SCALE_FACTORS:
            raise ValueError(f"no weights ship for x{scale_factor}; there are x2, x3, x4 and x8")
        path = Path(path or pretrained_path(f"FKP_x{scale_factor}.pt"))
        state = unwrapped(load_checkpoint(path), path)
        what = f"an x{scale_factor} kernel prior"
        side = state.get("kernel_size")
        expected = kernel_side(scale_factor)
        if isinstance(side, Tensor) and side.numel() == 1 and int(side) != expected:
            raise ValueError(
                f"{path}: made for {int(side)}×{int(side)} kernels, x{scale_factor} has {expected}×{expected}; "
                "choose the weights of the same scale"
            )
        prior = cls(scale_factor)
        load_state(prior, state, path, what)
        return prior.eval().requires_grad_(False)

    def _to_logits(self, kernels: Tensor, generator: torch.Generator | None) -> Tensor:
        if kernels.shape[1:] != (1, self.side, self.side):
            shape = "×".join(map(str, kernels.shape))
            raise ValueError(
                f"kernels of shape {shape}; the x{self.scale_factor} prior takes N×1×{self.side}×{self.side}"
            )
        flat = kernels.flatten(1).clamp(min=0) / self.normalization
        if generator is None:
            flat = flat + 0.5 * DEQUANTISATION
        else:
            noise = torch.rand(flat.shape, generator=generator, device=generator.device).to(flat)
            flat = flat + DEQUANTISATION * noise
        # No Gaussian of the scale's range reaches 1; what does (a single peak, say) gets a finite, low density.
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
        largest variance. A search by pixel loss keeps much of its start: a wide one leaves kernels too wide, an
        oriented one leaves its orientation in every result.
        """
        latents = project_to_sphere(self.sample_latent(1000, torch.Generator().manual_seed(0)))
        variance = torch.tensor([0.5 * variance_range(self.scale_factor)[1]]).to(latents)
        target = gaussian_kernels(variance, variance, torch.zeros_like(variance), self.side, self.scale_factor)
        distances = (self.decode(latents) - target).square().sum(dim=(1, 2, 3))
        best = int(distances.argmin())
        return latents[best : best + 1]

    def invert(self, kernel: Tensor) -> Tensor:
        """The codes, N×side² and on the sphere, whose kernels come closest to given ones, N×1×side×side.

        Encoding alone is not enough: a noise-free kernel's code lies off the sphere. 100 steps of spherical Adam
        from there bring Gaussian kernels to about 75 dB. Many kernels take hardly longer than one.
        """
        steps, device = 100, kernel.device
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


def project_to_sphere(latent: Tensor) -> Tensor:
    """Scale codes (last dimension side²) to the radius side − 1, near which Gaussian vectors concentrate.

    FKP, section 3.3; the radius is a little less than √d = side, which does slightly better.
    """
    radius = math.sqrt(latent.shape[-1]) - 1
    return latent * radius / torch.sqrt(latent.square().sum(dim=-1, keepdim=True) + 1e-9)


class SphericalAdam(torch.optim.Adam):
    """Adam whose parameters are put back onto the latent sphere after every step (FKP, section 3.3)."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.5, **options: Any) -> None:
        super().__init__(params, lr=lr, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.copy_(project_to_sphere(parameter))
        return loss


def _largest_value(scale_factor: int) -> float:
    """N: the peak of the narrowest kernel, rounded to 5 decimals, + 0.01; no kernel reaches it."""
    narrowest = torch.tensor([variance_range(scale_factor)[0]], dtype=torch.float64)
    theta = torch.zeros_like(narrowest)
    kernel = gaussian_kernels(narrowest, narrowest, theta, kernel_side(scale_factor), scale_factor)
    return round(float(kernel.max()), 5) + 0.01
