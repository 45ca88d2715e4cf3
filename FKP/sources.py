"""Where the kernels that a prior is trained on come from: a family that is drawn from, or a folder of one's own."""

import hashlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blindsr.kernel_families import FAMILIES
from blindsr.kernel_files import pad_to_odd, read_kernel, read_scale_factor
from blindsr.kernels import as_kernel, centre, gaussian_kernels, kernel_side, normalize, variance_range

__all__ = ["Family", "KernelFolder", "KernelSource", "kernel_source", "largest_value", "validation_grid"]

log = logging.getLogger(__name__)

SUFFIXES = (".mat", ".npy", ".png")
FEWEST = 10
"""Kernels of a folder below which nothing can be learnt and held out."""
FEW = 200
"""Those below which a user is told what to expect."""
HELD_OUT = 0.1
"""Share of a folder's kernels that is kept for validation."""
VALIDATION = 4000
"""Kernels drawn for validation."""
LOST = 0.02
"""Share of a kernel beyond its window, once it is centred, from which on a user is told."""


class KernelSource(Protocol):
    """Kernels to train a prior on."""

    @property
    def name(self) -> str:
        """A word for it, in names of files and in checkpoints."""
        ...

    @property
    def scale_factor(self) -> int: ...

    @property
    def side(self) -> int: ...

    @property
    def largest(self) -> float:
        """No kernel has a larger value."""
        ...

    @property
    def identity(self) -> str:
        """Tells it from all others."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` kernels, count×1×side×side, sum 1, drawn on the generator's device."""
        ...

    def held_out(self) -> Tensor:
        """Kernels to validate on, N×1×side×side, always the same."""
        ...


def kernel_source(
    kernels: str, scale_factor: int, scaling: tuple[float, float] = (1.0, 1.0), seed: int = 0
) -> KernelSource:
    """The source called ``kernels``: one of :data:`~blindsr.kernel_families.FAMILIES`, or the folder of that path.

    Args:
        scaling: of a folder, see :class:`KernelFolder`.
        seed: decides which kernels of a folder are held out.

    Raises:
        ValueError, FileNotFoundError: there is no such folder, or its kernels cannot be used.
    """
    if kernels in FAMILIES:
        if scaling != (1.0, 1.0):
            raise ValueError(f"--scaling: {kernels} kernels have all widths already; it is for a folder of kernels")
        return Family(kernels, scale_factor)
    folder = Path(kernels)
    if not folder.is_dir():
        raise FileNotFoundError(f"--kernels {kernels}: no such folder, and none of {', '.join(FAMILIES)}")
    return KernelFolder.read(folder, scale_factor, scaling, seed)


@dataclass(frozen=True)
class Family:
    """Kernels drawn on the fly."""

    name: str
    scale_factor: int

    @property
    def identity(self) -> str:
        return self.name

    @property
    def side(self) -> int:
        """Side of the scale factor's kernels."""
        return kernel_side(self.scale_factor)

    @property
    def largest(self) -> float:
        """The narrowest Gaussian's peak; of the other families a little more than that of the held-out kernels."""
        peak = largest_value(self.scale_factor)
        return peak if self.name == "gaussian" else max(peak, 1.1 * float(self.held_out().max()))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return FAMILIES[self.name](count, self.scale_factor, generator)

    def held_out(self) -> Tensor:
        """The official grid of Gaussians, or fresh draws."""
        if self.name == "gaussian":
            return validation_grid(self.scale_factor)
        return self.draw(VALIDATION, torch.Generator().manual_seed(2**31))


def largest_value(scale_factor: int) -> float:
    """Peak of the narrowest Gaussian kernel of a scale factor."""
    narrowest = torch.tensor([variance_range(scale_factor)[0]], dtype=torch.float64)
    theta = torch.zeros_like(narrowest)
    return float(gaussian_kernels(narrowest, narrowest, theta, kernel_side(scale_factor), scale_factor).max())


def validation_grid(scale_factor: int) -> Tensor:
    """The official validation grid of Gaussians: all λ1, λ2 in steps of 0.3 pixels² and θ in steps of 0.2.

    Returns:
        N×1×k×k float32 (4 624 kernels at x2, 17 424 at x4).
    """
    low, high = variance_range(scale_factor)
    lambdas = torch.arange(low, high + 0.3, 0.3, dtype=torch.float64)
    thetas = torch.arange(0, math.pi, 0.2, dtype=torch.float64)
    grid = torch.cartesian_prod(lambdas, lambdas, thetas)
    kernels = gaussian_kernels(grid[:, 0], grid[:, 1], grid[:, 2], kernel_side(scale_factor), scale_factor)
    return kernels.float()


@dataclass(frozen=True, eq=False)
class KernelFolder:
    """Kernels of one's own, turned, mirrored and, where asked, scaled.

    Half of the draws are one of the eight exact orientations of a kernel; the others are turned by any angle and
    scaled, by bicubic interpolation. All are moved to the published centre.
    """

    name: str
    scale_factor: int
    kernels: Tensor
    """Those to train on, N×1×side×side, their centre of mass in the middle of the window."""
    validation: Tensor
    """Those held out, likewise."""
    scaling: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest factor by which a kernel's width is changed."""

    @classmethod
    def read(
        cls, folder: Path, scale_factor: int, scaling: tuple[float, float] = (1.0, 1.0), seed: int = 0
    ) -> "KernelFolder":
        """Read the ``.mat``, ``.npy`` and ``.png`` files of a folder; a tenth, drawn with ``seed``, is held out.

        Raises:
            ValueError: a file cannot be read, sides differ, or there are too few.
        """
        if not 0 < scaling[0] <= scaling[1]:
            raise ValueError(f"--scaling {scaling[0]:g} {scaling[1]:g}: must be above 0, smaller first")
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if len(paths) < FEWEST:
            raise ValueError(
                f"--kernels {folder}: {len(paths)} kernels ({', '.join(SUFFIXES)}) are too few: a prior of them "
                f"would know nothing else; it takes {FEWEST} to begin, and hundreds to know what lies between"
            )
        if len(paths) < FEW:
            log.warning(
                "%s: %d kernels are few; the prior will make little but these, turned and mirrored",
                folder,
                len(paths),
            )
        kernels = torch.cat(_same_side([(path, _read(path, scale_factor)) for path in paths]))
        middle = centre(kernels, 1)
        lost = 1 - middle.sum(dim=(1, 2, 3))
        if float(lost.max()) > LOST:
            log.warning(
                "%s: %.0f %% of it leave the window where its centre of mass comes to the middle; give it more room",
                paths[int(lost.argmax())],
                100 * float(lost.max()),
            )
        order = torch.randperm(len(middle), generator=torch.Generator().manual_seed(seed))
        middle = normalize(middle.clamp(min=0))[order].float()
        kept = math.ceil(HELD_OUT * len(middle))
        name = folder.resolve().name
        return cls(f"own_{name}" if name in FAMILIES else name, scale_factor, middle[kept:], middle[:kept], scaling)

    @property
    def side(self) -> int:
        """Side of the files' kernels."""
        return self.kernels.shape[-1]

    @property
    def largest(self) -> float:
        """Peak of the sharpest kernel, as wide as ``scaling`` makes it at least."""
        return float(self.kernels.max()) / min(1.0, self.scaling[0]) ** 2

    @property
    def identity(self) -> str:
        content = hashlib.sha256(self.kernels.numpy().tobytes() + self.validation.numpy().tobytes())
        return f"{self.name} {content.hexdigest()[:16]} {self.scaling[0]:g} {self.scaling[1]:g}"

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        device = generator.device
        which = torch.randint(len(self.kernels), (count,), generator=generator, device=device)
        u = torch.rand(3, count, generator=generator, device=device)
        drawn = self.kernels.to(device)[which]
        drawn = torch.where((u[0] < 0.5).view(-1, 1, 1, 1), drawn, drawn.transpose(2, 3))
        exact, rest = drawn[::2], drawn[1::2]
        quarter = (4 * u[1, ::2]).floor()
        for turns in range(1, 4):
            exact[quarter == turns] = torch.rot90(exact[quarter == turns], turns, (2, 3))
        low, high = self.scaling
        drawn[1::2] = _turned(rest, 2 * math.pi * u[1, 1::2], low * (high / low) ** u[2, 1::2])
        return self._centred(drawn)

    def held_out(self) -> Tensor:
        """The kernels held out, in all eight orientations."""
        both = torch.cat([self.validation, self.validation.transpose(2, 3)])
        return self._centred(torch.cat([torch.rot90(both, turns, (2, 3)) for turns in range(4)]))

    def _centred(self, kernels: Tensor) -> Tensor:
        return normalize(centre(kernels, self.scale_factor).clamp(min=0))


def _turned(kernels: Tensor, angle: Tensor, factor: Tensor) -> Tensor:
    """N×1×k×k kernels turned by ``angle`` and made ``factor`` times as wide, about the middle of the window.

    One that would lose more than :data:`LOST` beyond the window stays as it is.
    """
    cos, sin, none = torch.cos(angle) / factor, torch.sin(angle) / factor, torch.zeros_like(angle)
    matrix = torch.stack([torch.stack([cos, -sin, none], dim=1), torch.stack([sin, cos, none], dim=1)], dim=1)
    grid = F.affine_grid(matrix, list(kernels.shape), align_corners=False)
    taken = F.grid_sample(kernels, grid, mode="bicubic", align_corners=False).clamp(min=0)
    kept = taken.sum(dim=(1, 2, 3)) / (factor**2 * kernels.sum(dim=(1, 2, 3)))
    return torch.where((kept < 1 - LOST).view(-1, 1, 1, 1), kernels, normalize(taken))


def _read(path: Path, scale_factor: int) -> Tensor:
    """One kernel, 1×1×k×k float64, sum 1, not negative."""
    if path.suffix.lower() != ".png":
        found_at = read_scale_factor(path)
        if found_at not in (None, scale_factor):
            raise ValueError(f"{path}: was found at x{found_at}, not at x{scale_factor}; use --sf {found_at}")
        kernel = read_kernel(path)
    else:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH) if len(data) else None
        if pixels is None:
            raise ValueError(f"{path}: not a picture that can be read")
        try:
            kernel = as_kernel(pad_to_odd(np.asarray(pixels).astype(np.float64)))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if float(kernel.clamp(min=0).sum()) <= 0:
        raise ValueError(f"{path}: a kernel without a positive value")
    return normalize(kernel.clamp(min=0))


def _same_side(found: list[tuple[Path, Tensor]]) -> list[Tensor]:
    first, side = found[0][0], found[0][1].shape[-1]
    for path, kernel in found:
        if kernel.shape[-1] != side:
            other = kernel.shape[-1]
            raise ValueError(
                f"{path}: {other}×{other}, where {first.name} is {side}×{side}; a prior has one side, pad them"
            )
    return [kernel for _, kernel in found]
