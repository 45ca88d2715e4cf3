"""Anisotropic Gaussian blur kernels: drawing, centring, x2 → x4, and where their centre lies.

**Conventions.** A kernel is applied by *cross-correlation*, and the upper-left pixel of every s×s block is kept
(:mod:`blindsr.degradation`). Where its centre of mass lies, counted from pixel 0 on both axes, decides where the LR
image lies over the HR image:

- *published* centre, (k − s)/2: that of the published test sets and of the prior. LR pixel (0, 0) sees the HR point
  −(s − 1)/2, so that the LR image is displaced by s − 1 HR pixels to the lower right.
- *aligned* centre, (k + s)/2 − 1: that of cameras, of resizers (Pillow, OpenCV) and of KernelGAN's release. LR pixel
  (0, 0) sees (s − 1)/2, the middle of its block.

:func:`align` moves a kernel from the published to the aligned centre, by s − 1 whole pixels, exactly. Mixing the two
displaces a result by s − 1 pixels.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "ENLARGING",
    "SCALE_FACTORS",
    "align",
    "as_kernel",
    "centre",
    "centre_of_mass",
    "gaussian_kernels",
    "kernel_side",
    "kernel_x4_from_x2",
    "locate",
    "normalize",
    "random_kernels",
    "random_kernels_numpy",
    "random_motion_kernels",
    "unalign",
    "variance_range",
]

ENLARGING = (2, 3, 4, 8)
"""The scale factors that make a picture larger."""
SCALE_FACTORS = (1, *ENLARGING)
"""The scale factors that the project has weights for; at 1 a picture is deblurred at its own size."""


def kernel_side(scale_factor: int) -> int:
    """Side of the kernel in HR pixels: 11, 15, 19, 21 for scale factors 2, 3, 4, 8 (paper, section 4.1); 25 for 1.

    At 1 it reaches to 4 of the widest kernel's standard deviations: without the averaging of s² pixels into one, what
    is cut off shows.
    """
    return 25 if scale_factor == 1 else min(4 * scale_factor + 3, 21)


def variance_range(scale_factor: int) -> tuple[float, float]:
    """Smallest and largest variance along a principal axis, in HR pixels² (paper, section 4.1).

    At 1 the largest is 9, not the paper's 2.5: a photograph is seen to be blurred from about 1 pixel of standard
    deviation on, and beyond 3 hardly any detail is left to bring back.
    """
    return 0.175 * scale_factor, 9.0 if scale_factor == 1 else min(2.5 * scale_factor, 10.0)


def _variance(u: Tensor, scale_factor: int, low: float, high: float) -> Tensor:
    """Variances in low to high from draws in [0, 1]: uniform as the paper's, at 1 uniform in the standard deviation.

    There the range is so wide that uniform variances would be those of strong blur, three in four above 1.5 pixels.
    """
    if scale_factor == 1:
        return (math.sqrt(low) + (math.sqrt(high) - math.sqrt(low)) * u) ** 2
    return low + (high - low) * u


def as_kernel(values: Tensor | npt.ArrayLike) -> Tensor:
    """A kernel that somebody hands in, k×k or 1×1×k×k, as 1×1×k×k float64 on the CPU; its values stay as they are.

    Raises:
        ValueError: no square of odd side, or no finite numbers with a positive sum.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    kernel = array[0, 0] if array.shape[:-2] == (1, 1) else array
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(f"a kernel of shape ({'×'.join(map(str, array.shape))}); need a square of odd side")
    if kernel.dtype.kind not in "fiu" or not np.isfinite(kernel).all() or kernel.sum() <= 0:
        raise ValueError("a kernel must hold finite real numbers with a positive sum")
    return torch.from_numpy(kernel.astype(np.float64))[None, None]


def normalize(kernels: Tensor) -> Tensor:
    """Divide each kernel (last two dimensions) by its sum."""
    return kernels / kernels.sum(dim=(-2, -1), keepdim=True)


def gaussian_kernels(
    lambda1: Tensor,
    lambda2: Tensor,
    theta: Tensor,
    side: int,
    scale_factor: int,
    noise: Tensor | None = None,
) -> Tensor:
    """Gaussian kernels with covariance R(θ) diag(λ1, λ2) R(θ)ᵀ, centred for ``scale_factor``.

    Args:
        lambda1, lambda2: variances along the principal axes in pixels², shape (N,).
        theta: angle of the first axis in radians, shape (N,).
        side: kernel side in pixels.
        scale_factor: s; the centre of mass ends at (side − s)/2.
        noise: multiplicative noise, N×side×side; a kernel becomes proportional to exp(…)·(1 + noise).

    Returns:
        N×1×side×side, of the dtype and on the device of ``lambda1``, each summing to 1.
    """
    cos, sin = torch.cos(theta), torch.sin(theta)
    inv1, inv2 = 1 / lambda1, 1 / lambda2
    precision_xx = cos**2 * inv1 + sin**2 * inv2
    precision_yy = sin**2 * inv1 + cos**2 * inv2
    precision_xy = cos * sin * (inv1 - inv2)

    mean = side // 2 + 0.5 * (scale_factor - side % 2)
    offset = torch.arange(side, dtype=lambda1.dtype, device=lambda1.device) - mean
    x, y = offset.view(1, 1, side), offset.view(1, side, 1)
    exponent = (
        precision_xx.view(-1, 1, 1) * x**2
        + 2 * precision_xy.view(-1, 1, 1) * x * y
        + precision_yy.view(-1, 1, 1) * y**2
    )
    kernels = torch.exp(-0.5 * exponent)
    if noise is not None:
        kernels = kernels * (1 + noise)
    return normalize(centre(normalize(kernels.unsqueeze(1)), scale_factor))


def random_kernels(
    count: int,
    scale_factor: int,
    generator: torch.Generator,
    side: int | None = None,
    variances: tuple[float, float] | None = None,
) -> Tensor:
    """``count`` kernels, λ1, λ2 (at 1 their roots) and θ uniform over their ranges, drawn on the generator's device.

    Returns:
        count×1×side×side float32, each summing to 1.
    """
    low, high = variances or variance_range(scale_factor)
    u = torch.rand(3, count, generator=generator, device=generator.device)
    lambdas = _variance(u[:2], scale_factor, low, high)
    return gaussian_kernels(lambdas[0], lambdas[1], math.pi * u[2], side or kernel_side(scale_factor), scale_factor)


def random_motion_kernels(count: int, scale_factor: int, generator: torch.Generator) -> Tensor:
    """``count`` kernels of a shaking camera, drawn on the generator's device, of the sides of the Gaussian ones.

    The camera's velocity is a random walk that is pulled back to rest, as in Boracchi and Foi, "Modeling the
    performance of image restoration from motion blur" (TIP 2012), section III; its path is drawn with the narrowest
    Gaussian of the scale factor, which stands for the pixel's aperture, and reaches at most to 2 of its standard
    deviations from the kernel's border.

    Returns:
        count×1×side×side float32, not negative, each summing to 1.
    """
    side, samples, inertia = kernel_side(scale_factor), 64, 0.9
    aperture = variance_range(scale_factor)[0]

    def draw(sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        return sampler(*shape, generator=generator, device=generator.device)

    velocity = draw(torch.randn, samples, count, 2)
    for i in range(1, samples):
        velocity[i] += inertia * velocity[i - 1]
    path = velocity.cumsum(0)
    path -= path.mean(0)
    reach = (side - 1) / 2 - scale_factor / 2 - 2 * math.sqrt(aperture)
    extent = reach * (0.1 + 0.9 * draw(torch.rand, count))
    path *= (extent / path.abs().amax(dim=(0, 2))).view(1, count, 1)
    offset = torch.arange(side, device=path.device) - (side - scale_factor) / 2
    profiles = torch.exp(-((offset - path.unsqueeze(-1)) ** 2) / (2 * aperture))
    kernels = torch.einsum("tnr,tnc->nrc", profiles[:, :, 0], profiles[:, :, 1]).unsqueeze(1)
    return normalize(centre(normalize(kernels), scale_factor).clamp(min=0))


def random_kernels_numpy(
    rng: np.random.RandomState,
    scale_factor: int,
    side: int,
    variances: tuple[float, float],
    noise_level: float = 0.0,
) -> Tensor:
    """One kernel in the draw order of the published test sets (λ1, λ2, θ, then side² uniforms).

    The uniforms for the kernel noise are drawn even when ``noise_level`` is 0: the sequence depends on it.

    Returns:
        1×1×side×side float64, sum 1.
    """
    low, high = variances
    draws = torch.tensor([[rng.rand()], [rng.rand()]], dtype=torch.float64)
    lambda1s, lambda2s = _variance(draws, scale_factor, low, high)
    thetas = torch.tensor([rng.rand() * math.pi], dtype=torch.float64)
    noise = -noise_level + rng.rand(side, side) * noise_level * 2
    return gaussian_kernels(lambda1s, lambda2s, thetas, side, scale_factor, torch.from_numpy(noise)[None])


def centre_of_mass(kernels: Tensor) -> Tensor:
    """Centre of mass (row, column) of N×1×k×k kernels in pixels, shape N×2."""
    kernels = normalize(kernels)
    index = torch.arange(kernels.shape[-1], dtype=kernels.dtype, device=kernels.device)
    rows = (kernels.sum(dim=-1) * index).sum(dim=-1)
    cols = (kernels.sum(dim=-2) * index).sum(dim=-1)
    return torch.cat([rows, cols], dim=1)


def _spline_shift_matrices(shift: Tensor, side: int) -> Tensor:
    """Matrices that shift a signal of length ``side`` by cubic-spline interpolation, zeros outside.

    The same linear map as ``scipy.ndimage.shift(order=3, mode="constant")`` along one axis: B-spline
    coefficients for a signal mirrored at its end samples, then the spline's value at i − shift, and 0 where that
    lies outside [0, side − 1]. Written as a matrix so that a batch is shifted at once, on any device.

    Args:
        shift: shape (N,), in pixels.

    Returns:
        N×side×side.
    """
    sampling = torch.eye(side, dtype=torch.float64) * 4
    off = torch.arange(side - 1)
    sampling[off, off + 1] = 1
    sampling[off + 1, off] = 1
    sampling[0, 1] = sampling[-1, -2] = 2  # mirrored at the end samples
    prefilter = torch.linalg.inv(sampling / 6).to(shift)

    index = torch.arange(side).to(shift)
    position = index.view(1, side, 1) - shift.view(-1, 1, 1)
    columns = torch.arange(-1, side + 1).to(shift)
    distance = (position - columns).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    basis = torch.where(distance < 1, near, far)
    weights = basis[..., 1:-1].clone()
    weights[..., 1] += basis[..., 0]
    weights[..., -2] += basis[..., -1]
    inside = (position >= 0) & (position <= side - 1)
    return (weights * inside) @ prefilter


def centre(kernels: Tensor, scale_factor: int) -> Tensor:
    """Shift kernels so that their centre of mass lies at (k − s)/2.

    The shift is the interpolation of ``scipy.ndimage.shift`` (cubic spline, zeros outside). What leaves the
    window is lost, so the sum changes slightly; the published x4 test kernels of KernelGAN-FKP are left so.

    Args:
        kernels: N×1×k×k, any positive sum.

    Returns:
        The same shape and dtype.
    """
    side = kernels.shape[-1]
    shift = (side - scale_factor) / 2 - centre_of_mass(kernels)
    rows = _spline_shift_matrices(shift[:, 0], side)
    cols = _spline_shift_matrices(shift[:, 1], side)
    return (rows @ kernels[:, 0] @ cols.transpose(1, 2)).unsqueeze(1)


def kernel_x4_from_x2(kernel: Tensor) -> Tensor:
    """The x4 kernel that follows from a x2 kernel (KernelGAN, appendix), before it is centred for x4.

    Downsampling twice with K2 equals downsampling once by 4 with K4 = Σ K2[r, c]·K2 placed at (2r, 2c) on a
    canvas of side 3k − 2, cropped by k//2 on each side.

    Args:
        kernel: 1×1×k×k.

    Returns:
        1×1×k'×k' with k' = 3k − 2 − 2(k//2) (21 for k = 11), summing to 1.
    """
    side = kernel.shape[-1]
    canvas = kernel.new_zeros(3 * side - 2, 3 * side - 2)
    small = kernel[0, 0]
    for r in range(side):
        for c in range(side):
            canvas[2 * r : 2 * r + side, 2 * c : 2 * c + side] += small[r, c] * small
    crop = side // 2
    return normalize(canvas[crop:-crop, crop:-crop][None, None])


def align(kernels: Tensor, scale_factor: int) -> Tensor:
    """Move kernels from the published to the aligned centre, for photographs.

    Args:
        kernels: N×1×k×k.

    Returns:
        N×1×k'×k' with k' = k + 2(s − 1): the same values, s − 1 pixels further to the lower right.
    """
    grown = 2 * (scale_factor - 1)  # the window's middle moves by half of that
    return F.pad(kernels, (grown, 0, grown, 0))


def locate(kernel: Tensor, scale_factor: int) -> tuple[Tensor, bool]:
    """See by its centre of mass which centre a kernel has.

    One that lies around the middle of its window, as a plain point spread function does, has neither; it is moved to
    the published one by interpolation.

    Args:
        kernel: 1×1×k×k, sum 1.

    Returns:
        The kernel, and whether its centre is the aligned one.
    """
    # From the middle of the window it is −(s − 1)/2 to the published centre, +(s − 1)/2 to the aligned one.
    distance = float(centre_of_mass(kernel).mean()) - (kernel.shape[-1] - 1) / 2
    if abs(distance) < (scale_factor - 1) / 4:
        return normalize(centre(F.pad(kernel, (scale_factor,) * 4), scale_factor)), False
    return kernel, distance > 0


def unalign(kernels: Tensor, scale_factor: int) -> Tensor:
    """Move kernels from the aligned to the published centre; the other way round as :func:`align`."""
    grown = 2 * (scale_factor - 1)
    return F.pad(kernels, (0, grown, 0, grown))
