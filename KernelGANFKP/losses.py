"""Losses of the two adversarial estimators."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindsr.kernels import centre, centre_of_mass, normalize
from KernelGANFKP.crops import half_size

__all__ = [
    "bicubic_loss",
    "boundary_weights",
    "gradient_penalty",
    "kernel_losses",
    "mean_by_picture",
    "post_process",
    "wasserstein_loss",
]


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor | float) -> Tensor:
    """Mean of (‖∇D‖ − 1)² between real and fake patches (WGAN-GP); the norm is over colours, at each pixel.

    Args:
        real, fake: N×(P·3)×p×p, of P pictures.
        share: interpolation factor, one for all patches or (P,), one for those of each picture.

    Returns:
        (P,), each picture's.
    """
    if isinstance(share, Tensor):
        share = share.reshape(-1, 1).expand(-1, 3).reshape(-1, 1, 1)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return mean_by_picture((gradient.unflatten(1, (-1, 3)).norm(2, dim=2) - 1).square())


def mean_by_picture(values: Tensor) -> Tensor:
    """N×P×h×w → (P,)."""
    return values.mean(dim=(0, 2, 3))


def wasserstein_loss(
    critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor | float, penalty: float
) -> tuple[Tensor, Tensor]:
    """WGAN-GP's loss of the critic, and the margin in it: how much higher the real patches score.

    Args:
        real, fake: N×(P·3)×p×p in [0, 1], of P pictures.
        share: interpolation factor of :func:`gradient_penalty`.
        penalty: weight of the gradient penalty.

    Returns:
        (P,) both, each picture's.
    """
    weighted = penalty * gradient_penalty(critic, real, fake, share)
    margin = mean_by_picture(critic(real)) - mean_by_picture(critic(fake))
    return weighted - margin, margin


def boundary_weights(side: int) -> Tensor:
    """Weights of :func:`kernel_losses`' boundary term, side×side float64: 0 inside, growing towards the corners."""
    offsets = torch.arange(side, dtype=torch.float64) - side // 2
    line = torch.exp(-(offsets**2) / (2 * side**2))
    weights = 30 * (1 - line.outer(line))
    margin = (side - (side + 1) // 2) // 2 - 1
    weights[margin:-margin, margin:-margin] = 0
    return weights


def kernel_losses(kernel: Tensor) -> dict[str, Tensor]:
    """What KernelGAN asks of its 1×1×k×k kernel (its section 4.2), each as a number to be minimised.

    ``sum``: its sum is 1; ``boundary``: little lies at the border; ``centre``: the centre of mass (squared distance
    per axis, pixels²) lies between the middle pixels of the window at x2; ``sparsity``: mean of |k|^0.2.
    """
    side = kernel.shape[-1]
    weights = boundary_weights(side).to(kernel)
    middle = side // 2 + 0.5 * (2 - side % 2)
    return {
        "sum": (1 - kernel.sum()).abs(),
        "boundary": (kernel * weights).abs().mean(),
        "centre": (centre_of_mass(kernel) - middle).square().mean(),
        "sparsity": kernel.abs().pow(0.2).mean(),
    }


def bicubic_loss(patches: Tensor, downsampled: Tensor) -> Tensor:
    """Mean squared distance of N×C×q×q ``downsampled`` from the half-size ``patches``, as the release computes it.

    There the bicubic filter runs over all colours: each of them is compared with the sum of the three.
    """
    target = half_size(patches)
    margin = (target.shape[-1] - downsampled.shape[-1]) // 2
    target = target[..., margin : margin + downsampled.shape[-2], margin : margin + downsampled.shape[-1]]
    return F.mse_loss(downsampled, target.sum(dim=1, keepdim=True).expand_as(downsampled))


def post_process(kernel: Tensor) -> Tensor:
    """KernelGAN's last step: 13×13 → 11×11, small values cut off, normalised and centred for x2.

    The 40 largest values stay whole but for the cut, which is 0.75 times the next one.

    Args:
        kernel: 1×1×13×13.

    Returns:
        1×1×11×11, sum 1.
    """
    kernel = kernel[..., :-2, :-2]
    cut = 0.75 * torch.sort(kernel.flatten(), descending=True).values[40]
    return normalize(centre(normalize((kernel - cut).clamp(min=0)), 2))
