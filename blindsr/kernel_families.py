"""Families of blur kernels to draw from: Gaussian ones, camera shake, defocus, and a mixture of the three.

All have the published centre (:mod:`blindsr.kernels`) and the side of the scale factor's kernels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from blindsr.kernels import centre, kernel_side, normalize, random_kernels, random_motion_kernels, variance_range

__all__ = ["FAMILIES", "random_disk_kernels", "random_mixed_kernels"]

ROUNDEST, OVAL = 1.0, 0.6
"""Range of the ratio of a disc's radii: towards its corners a lens cuts the disc down to an oval (vignetting)."""


def random_disk_kernels(count: int, scale_factor: int, generator: torch.Generator) -> Tensor:
    """``count`` kernels of a picture out of focus, drawn on the generator's device.

    Discs and ovals of any direction. The larger radius lies between that of the disc whose variance is the narrowest
    Gaussian's and the largest that the window holds; the ratio of the radii between 1 and 0.6. The rim is as soft as
    the pixel's aperture, of the variance of the narrowest Gaussian, makes it.

    Returns:
        count×1×side×side float32, not negative, each summing to 1.
    """
    side, aperture = kernel_side(scale_factor), variance_range(scale_factor)[0]
    u = torch.rand(3, count, generator=generator, device=generator.device)
    smallest = 2 * math.sqrt(aperture)  # a disc's variance along an axis is a quarter of its squared radius
    reach = (side - 1) / 2 - scale_factor / 2 - math.sqrt(aperture)
    long = smallest + (reach - smallest) * u[0]
    short = long * (OVAL + (ROUNDEST - OVAL) * u[1])
    angle = math.pi * u[2]
    offset = torch.arange(side, device=u.device) - (side - scale_factor) / 2
    x, y = offset.view(1, 1, -1), offset.view(1, -1, 1)
    cos, sin, long, short = (value.view(-1, 1, 1) for value in (torch.cos(angle), torch.sin(angle), long, short))
    along, across = cos * x + sin * y, cos * y - sin * x
    level = torch.sqrt((along / long) ** 2 + (across / short) ** 2)  # 1 on the rim
    slope = torch.sqrt((along / long**2) ** 2 + (across / short**2) ** 2) / level.clamp(min=1e-6)
    beyond = (level - 1) / slope.clamp(min=1e-6)  # distance to the rim, to first order
    kernels = torch.sigmoid(-beyond / (0.5 * math.sqrt(aperture))).unsqueeze(1)
    return normalize(centre(normalize(kernels), scale_factor).clamp(min=0))


def random_mixed_kernels(count: int, scale_factor: int, generator: torch.Generator) -> Tensor:
    """``count`` kernels, about a third of them of each of the three families, in random order; as the others."""
    draws = torch.stack(
        [
            draw(count, scale_factor, generator)
            for draw in (random_kernels, random_motion_kernels, random_disk_kernels)
        ]
    )
    which = torch.randint(len(draws), (count,), generator=generator, device=generator.device)
    return draws[which, torch.arange(count, device=which.device)]


FAMILIES: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "gaussian": random_kernels,
    "motion": random_motion_kernels,
    "disk": random_disk_kernels,
    "mixed": random_mixed_kernels,
}
"""What draws each family: from a number, a scale factor and a generator to number×1×side×side."""
