"""What the page does to a photograph: read it, find its kernel, super-resolve it; nothing here knows the page."""

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blindsr.batch.claims import one_line
from blindsr.batch.inputs import Item
from blindsr.devices import pick_device
from blindsr.doubts import doubts, is_left_alone
from blindsr.estimation import Estimate, Estimator, OnStep, place
from blindsr.images import Picture, picture_size, read_picture, write_like
from blindsr.kernel_shape import kernel_png, kernel_shape
from blindsr.kernels import align, gaussian_kernels, kernel_side
from blindsr.restoration import enlarge, restore

__all__ = [
    "Choice",
    "Session",
    "described",
    "error_of",
    "estimator",
    "find_kernel",
    "photograph",
    "scaled",
    "super_resolved",
    "write_files",
]

NOISE = 50.0
"""Largest noise level that the weights know, in grey levels of 255."""
KERNEL = 240
"""Most pixels a side that a kernel is shown with."""


@dataclass(frozen=True)
class Choice:
    """What a visitor chose that a photograph alone cannot decide."""

    width: float = 1.0
    """Factor to the widths of the predicted kernel."""
    sigma: float | None = None
    """Noise level in grey levels of 255; None reads it off the photograph."""


@dataclass(frozen=True)
class Session:
    """What one visitor's photograph was found to be: its kernel need not be looked for again."""

    path: str
    scale_factor: int
    estimate: Estimate


def photograph(path: str, megapixels: float) -> Picture:
    """Read an upload.

    Raises:
        FileNotFoundError: it has been deleted.
        ValueError: no picture, or too large, which is known before it is decoded.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: uploads are deleted after a while; drop it again")
    height, width = picture_size(Path(path))
    if height * width > 1e6 * megapixels:
        raise ValueError(
            f"{path}: {width}×{height} pixels are more than {megapixels:g} megapixels; make it smaller, or use the "
            "command line"
        )
    return read_picture(Path(path))


def error_of(path: str, error: Exception) -> str:
    """The line that the command line has for an error, without the server's folders."""
    return one_line(Item("photograph", Path(path)), error).replace(path, Path(path).name)


@lru_cache
def estimator(scale_factor: int) -> Estimator:
    # A front door, as super_resolve is: inside the call, so that blindsr depends on no estimator.
    from DIPFKP.estimator import preset, pretrained_estimator
    from KernelPredictor.predictor import predictor_path

    settings = replace(preset("prediction"), circular=False)
    weights = predictor_path(True, scale_factor)
    return pretrained_estimator(scale_factor, pick_device("auto"), settings, path_predictor=weights)


def find_kernel(path: str, picture: Picture, scale_factor: int, last: Session | None) -> Session:
    """The photograph's predicted kernel; ``last`` where that has it already.

    Raises:
        ValueError: the photograph cannot be used, see :class:`blindsr.estimation.Estimator`.
    """
    if last is not None and (last.path, last.scale_factor) == (path, scale_factor):
        return last
    found = estimator(scale_factor)(picture.image.to(pick_device("auto")), scale_factor, seed=0)
    return Session(path, scale_factor, place(found, scale_factor, photograph=True))


def scaled(estimate: Estimate, scale_factor: int, width: float) -> Estimate:
    """``estimate`` with a Gaussian kernel of ``width`` times its widths; with 1 as it is.

    What speaks against the predicted kernel does not speak against one that was chosen.
    """
    if width == 1:
        return estimate
    shape = kernel_shape(estimate.kernel)
    wide, narrow = (torch.tensor([(width * side) ** 2]).clamp(min=0.05) for side in (shape.wide, shape.narrow))
    angle = torch.tensor([-np.pi * shape.angle / 180])  # rows count downwards
    side = 2 * kernel_side(scale_factor) - 1  # room for twice the width
    kernel = align(gaussian_kernels(wide, narrow, angle.float(), side, scale_factor), scale_factor)
    return replace(estimate, kernel=kernel, aligned=True, expected_error=None, spread=None)


def super_resolved(session: Session, picture: Picture, choice: Choice, on_step: OnStep | None = None) -> torch.Tensor:
    """The non-blind step alone, as the command line does it: 1×3×sh×sw, not clipped.

    Raises:
        ValueError: the photograph is too small, or the noise level unknown to the weights.
    """
    from NonblindSR.weights import choose_nonblind  # as above

    device = pick_device("auto")
    estimate = scaled(session.estimate, session.scale_factor, choice.width)
    step = choose_nonblind(True, session.scale_factor, "auto" if choice.sigma is None else choice.sigma, device)
    lr = picture.image.to(device)
    sigma = step.sigma(lr, estimate.sigma) if callable(step.sigma) else step.sigma
    if is_left_alone(estimate, True, jpeg_quality=picture.jpeg_quality):
        return enlarge(lr, session.scale_factor).cpu()
    image = restore(step.network, lr, estimate.kernel, session.scale_factor, sigma, "reflect", on_step)
    return image.cpu()


def write_files(folder: Path, session: Session, picture: Picture, image: torch.Tensor) -> tuple[list[Path], Path]:
    """The result as PNG and as JPEG (which has no transparency), with what the camera wrote into the photograph.

    Returns:
        Those, the last one to be shown, and the photograph enlarged, to be shown before it.
    """
    name = f"{Path(session.path).stem}_x{session.scale_factor}"
    suffixes = [".png", ".jpg"] if picture.alpha is None else [".png"]
    written = [write_like(folder / f"{name}{suffix}", image, picture) for suffix in suffixes]
    large = enlarge(picture.image, session.scale_factor)
    return written, write_like(folder / f"before{suffixes[-1]}", large, picture)


def described(
    session: Session, picture: Picture, choice: Choice, seconds: float | None = None
) -> tuple[Image.Image, str]:
    """The kernel, large enough to see, and what is known of it and of the result."""
    estimate = scaled(session.estimate, session.scale_factor, choice.width)
    kernel = Image.open(io.BytesIO(kernel_png(estimate.kernel)))
    times = max(1, KERNEL // kernel.width)
    large = kernel.resize((times * kernel.width, times * kernel.height), Image.Resampling.NEAREST)
    read = 255 * (estimate.sigma or 0.0)
    noise = f"{min(read, NOISE):.1f} of 255, as read" if choice.sigma is None else f"{choice.sigma:g} of 255"
    took = "" if seconds is None else f" + {seconds:.1f} s"
    own_size = session.scale_factor == 1
    found = doubts(estimate, True, jpeg_quality=picture.jpeg_quality, own_size=own_size)
    lines = [
        f"**blur** {kernel_shape(estimate.kernel).describe(estimate.expected_error)}",
        f"**noise level** {noise}",
        f"**time** {estimate.seconds:.1f} s{took}",
        *(f"⚠ {doubt}" for doubt in found),
        *estimate.notes,
    ]
    return large, "\n\n".join(lines)
