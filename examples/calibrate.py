"""The kernel prior in another method: calibrate a camera from a photographed chart whose sharp original is known.

The method is plain least squares on the chart's pixels, min over k of ‖(x ⋆ k)↓s − y‖²; the prior keeps k a kernel.
Here the chart is a picture of random discs and the photograph is simulated with noise.
"""

import argparse

import torch

from blindsr.degradation import add_noise, degrade
from blindsr.kernels import random_kernels
from blindsr.metrics import kernel_psnr
from FKP import KernelPrior, SphericalAdam


def calibrate(chart: torch.Tensor, photo: torch.Tensor, scale_factor: int, steps: int = 300) -> torch.Tensor:
    """The kernel, 1×1×k×k, that turns ``chart`` (1×3×H×W) into ``photo`` (1×3×H/s×W/s)."""
    prior = KernelPrior.from_pretrained(scale_factor)
    latent = prior.initial_latent().requires_grad_()
    optimizer = SphericalAdam([latent], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (degrade(chart, prior.decode(latent), scale_factor) - photo).square().mean().backward()
        optimizer.step()
    return prior.decode(latent).detach()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    generator = torch.Generator().manual_seed(0)
    rows, cols = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    chart = torch.zeros(1, 3, 96, 96)
    for row, col, radius, grey in torch.rand(60, 4, generator=generator) * torch.tensor([96, 96, 10, 1]):
        chart[:, :, (rows - row) ** 2 + (cols - col) ** 2 < radius**2] = grey
    kernel = random_kernels(1, 2, generator)
    photo = add_noise(degrade(chart, kernel, 2), 1 / 255, generator)
    print(f"kernel PSNR {kernel_psnr(calibrate(chart, photo, 2), kernel):.1f} dB")
