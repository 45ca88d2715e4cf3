"""The steps of the work on one picture: it is read, its kernel is estimated elsewhere, it is restored and written."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt
import torch
from torch import Tensor

from blindsr.batch.explanation import explain
from blindsr.batch.inputs import Item
from blindsr.batch.results import Result, thinned
from blindsr.degradation import modcrop
from blindsr.doubts import doubts, is_left_alone
from blindsr.encoding import QUALITY, OutputFormat
from blindsr.estimation import Estimate, Estimator, NoiseEstimator, NonblindSR, OnStep, place
from blindsr.images import Picture, read_image, read_picture, to_uint8, write_like
from blindsr.kernel_files import Centre, read_kernel, write_kernel
from blindsr.kernel_shape import save_kernel_comparison
from blindsr.metrics import kernel_psnr, psnr_ssim_y
from blindsr.restoration import Padding, enlarge, restore

__all__ = ["Job", "Loaded", "Restored", "load", "restored", "write"]


@dataclass(frozen=True)
class Job:
    """What is done to each picture."""

    estimator: Estimator
    scale_factor: int
    device: torch.device
    nonblind: NonblindSR | None = None
    """Without it the estimator's own image, if any, is the result."""
    sigma: float | NoiseEstimator = 0.0
    """Noise level that ``nonblind`` is told, in image range, or what reads it off each picture."""
    photograph: bool = False
    """Whether the pictures are photographs, not laboratory data: aligned, without a periodic boundary."""
    seed: int = 0
    verbose: bool = False
    """Also take down what explains a bad result."""
    format: OutputFormat = "same"
    """Of the pictures that are written."""
    quality: int = QUALITY
    """Of JPEG and WebP, 1 to 100."""
    batch: int | None = None
    """Most pictures to search as one, where the estimator can; None for as many as it says."""


@dataclass(frozen=True)
class Loaded:
    """A picture as it was read, and what is known of the truth."""

    picture: Picture
    hr: npt.NDArray | None
    """The 8-bit HR picture."""
    kernel: Tensor | None


@dataclass(frozen=True)
class Restored:
    """What was made of a picture, on the CPU."""

    estimate: Estimate
    """With its kernel where the image needs it."""
    image: Tensor | None
    sigma: float | None
    """Noise level that the non-blind network was told, in grey levels."""
    seconds: float | None
    """Time of that network."""


def load(item: Item, scale_factor: int) -> Loaded:
    """Read what ``item`` names.

    Raises:
        ValueError, OSError: something of it cannot be read, or does not fit together.
    """
    hr, kernel = _read_truth(item, scale_factor)
    picture = read_picture(item.lr)
    height, width = picture.image.shape[2:]
    if hr is not None and hr.shape[:2] != (height * scale_factor, width * scale_factor):
        raise ValueError(
            f"{item.lr}: {width}×{height} pixels at x{scale_factor} do not match "
            f"{item.hr} ({hr.shape[1]}×{hr.shape[0]}); prepare the dataset again"
        )
    return Loaded(picture, hr, kernel)


def _read_truth(item: Item, scale_factor: int) -> tuple[npt.NDArray | None, Tensor | None]:
    """The 8-bit HR picture and the kernel, as far as they are known."""
    hr = None if item.hr is None else to_uint8(modcrop(read_image(item.hr), scale_factor))
    return hr, None if item.kernel is None else read_kernel(item.kernel)


def restored(loaded: Loaded, lr: Tensor, estimate: Estimate, job: Job, on_step: OnStep | None) -> Restored:
    """Super-resolve a picture with the estimate of its kernel, where the job has a network for that.

    Args:
        lr: the picture on the job's device.
    """
    estimate = place(estimate, job.scale_factor, job.photograph)
    if job.nonblind is None:
        return Restored(estimate, estimate.image, None, None)
    sigma = 255 * (job.sigma(lr, estimate.sigma) if callable(job.sigma) else job.sigma)
    began = time.perf_counter()
    if is_left_alone(estimate, job.photograph, _read(job, sigma), loaded.picture.jpeg_quality):
        return Restored(estimate, enlarge(lr, job.scale_factor).cpu(), None, None)
    padding: Padding = "reflect" if job.photograph else "none"
    image = restore(job.nonblind, lr, estimate.blur, job.scale_factor, sigma / 255, padding, on_step).cpu()
    return Restored(estimate, image, sigma, time.perf_counter() - began)


def write(item: Item, loaded: Loaded, made: Restored, job: Job, folder: Path) -> Result:
    """Score what was made of ``item`` and write it into ``folder``; needs no device, so another thread can do it."""
    estimate, image, picture = made.estimate, made.image, loaded.picture
    psnr, ssim = (None, None)
    if loaded.hr is not None and image is not None:
        psnr, ssim = psnr_ssim_y(to_uint8(image), loaded.hr, job.scale_factor)
    losses = {"kernel": estimate.losses, "critic": estimate.critic_losses}
    losses = {name: values for name, values in losses.items() if values}
    _write_kernel_files(folder, item, estimate, loaded.kernel, job.scale_factor)
    if image is not None:
        write_like(folder / item.name, image, picture, job.format, job.quality)
    read, own_size = _read(job, made.sigma), job.scale_factor == 1
    found = doubts(estimate, job.photograph, read, picture.jpeg_quality, own_size=own_size)
    return Result(
        item=item,
        psnr=psnr,
        ssim=ssim,
        kernel_psnr=None if loaded.kernel is None else kernel_psnr(estimate.kernel, loaded.kernel),
        seconds=estimate.seconds,
        expected_error=estimate.expected_error,
        converged=estimate.converged,
        relative_change=estimate.relative_change,
        losses={name: thinned(values) for name, values in losses.items()},
        search=explain(estimate, picture.image, image, loaded.kernel, job.scale_factor) if job.verbose else None,
        notes=(*found, *estimate.notes),
        kernel_field=estimate.kernel_field,
        sigma=made.sigma,
        sr_seconds=made.seconds,
    )


def _write_kernel_files(
    folder: Path, item: Item, estimate: Estimate, true_kernel: Tensor | None, scale_factor: int
) -> None:
    """The kernel, and a picture of it."""
    centre: Centre = "aligned" if estimate.aligned else "published"
    write_kernel(folder / f"{item.name}.mat", estimate.kernel, centre, scale_factor)
    kernels = {"estimated": estimate.kernel}
    if true_kernel is not None:
        kernels = {"true": true_kernel, **kernels}
    save_kernel_comparison(folder / f"{item.name}_kernel.png", kernels)


def _read(job: Job, sigma: float | None) -> float | None:
    """The noise level where it was read off the picture; one that was told says nothing of it."""
    return sigma if callable(job.sigma) else None
