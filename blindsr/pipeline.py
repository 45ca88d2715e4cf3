"""Estimate, super-resolve, save, score: over one image or a folder, with any estimator."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt
import torch
from torch import Tensor

from blindsr.datasets import Item
from blindsr.degradation import modcrop
from blindsr.estimation import Estimate, Estimator, NonblindSR, OnStep
from blindsr.figures import save_kernel_comparison, save_search
from blindsr.images import read_image, read_kernel, read_picture, to_uint8, write_kernel, write_like
from blindsr.metrics import kernel_psnr, psnr_ssim_y

__all__ = ["Result", "process"]


@dataclass(frozen=True)
class Result:
    """What became of one image."""

    item: Item
    psnr: float | None = None
    """PSNR on Y in dB, where the ground truth is known."""
    ssim: float | None = None
    kernel_psnr: float | None = None
    """Kernel PSNR in dB for a peak of 1, where the true kernel is known."""
    seconds: float = 0.0
    """Wall-clock time of the estimation."""
    expected_error: float | None = None
    """Error to expect of the kernel's covariance, relative to it, where the estimator knows."""
    converged: bool | None = None
    """Whether the kernel had come to rest, where the estimator checks that."""
    notes: tuple[str, ...] = ()
    """What the estimator has to say of its estimate, a line each."""
    error: str | None = None
    """Why there is no result, in one line."""


def process(
    items: list[Item],
    estimator: Estimator,
    scale_factor: int,
    folder: Path,
    *,
    device: torch.device,
    seed: int,
    nonblind: NonblindSR | None = None,
    sigma: float = 0.0,
    verbose: bool = False,
    progress: Callable[[Item], OnStep] | None = None,
) -> Iterator[Result]:
    """Process the items in order and yield each one's result; a bad item yields an error and ends nothing.

    Writes ``<name>.png`` (the image, of the picture's depth, with its alpha channel and colour profile),
    ``<name>.mat`` (the kernel) and ``<name>_kernel.png`` (a picture of the kernel, beside the true one where that is
    known) into ``folder``; if ``verbose`` also ``<name>_search.png`` (the kernel along the way, and the losses).

    Args:
        estimator: see :class:`blindsr.estimation.Estimator`.
        nonblind: makes the image from the kernel; without it the estimator's own image, if any, is the result.
        sigma: noise level that ``nonblind`` is told, in image range.
        progress: called with each item; returns what is called after each iteration on it.
    """
    for item in items:
        try:
            hr, true_kernel = _read_truth(item, scale_factor)
            picture = read_picture(item.lr)
            lr = picture.image.to(device)
            if hr is not None and hr.shape[:2] != tuple(side * scale_factor for side in lr.shape[2:]):
                raise ValueError(
                    f"{item.lr}: {lr.shape[3]}×{lr.shape[2]} pixels at x{scale_factor} do not match "
                    f"{item.hr} ({hr.shape[1]}×{hr.shape[0]}); prepare the dataset again"
                )
            on_step = progress(item) if progress is not None else None
            estimate = estimator(lr, scale_factor, seed=seed, on_step=on_step)
            image = _image(estimate, lr, scale_factor, nonblind, sigma)
            psnr, ssim = (None, None)
            if hr is not None and image is not None:
                psnr, ssim = psnr_ssim_y(to_uint8(image), hr, scale_factor)
            kernel_score = None if true_kernel is None else kernel_psnr(estimate.kernel, true_kernel)
            write_kernel(folder / f"{item.name}.mat", estimate.kernel)
            kernels = {"estimated": estimate.kernel}
            if true_kernel is not None:
                kernels = {"true": true_kernel, **kernels}
            save_kernel_comparison(folder / f"{item.name}_kernel.png", kernels)
            if verbose:
                moved = "" if estimate.moved is None else f"\nmoved {estimate.moved:.0%}"
                title = f"end{moved}"
                save_search(folder / f"{item.name}_search.png", estimate.path, estimate.losses, title)
            if image is not None:
                write_like(folder / f"{item.name}.png", image, picture)
            yield Result(
                item=item,
                psnr=psnr,
                ssim=ssim,
                kernel_psnr=kernel_score,
                seconds=estimate.seconds,
                expected_error=estimate.expected_error,
                converged=estimate.converged,
                notes=estimate.notes,
            )
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            message = " ".join(str(error).split()) or "out of memory"
            if isinstance(error, RuntimeError | MemoryError) and "memory" in message:
                message = f"not enough memory for a picture of this size; use a smaller one ({message[:80]})"
            known = any(str(path) in message for path in (item.lr, item.hr, item.kernel) if path is not None)
            yield Result(item=item, error=message if known else f"{item.lr}: {message}")


def _read_truth(item: Item, scale_factor: int) -> tuple[npt.NDArray | None, Tensor | None]:
    """The 8-bit HR picture and the kernel, as far as they are known."""
    hr = None if item.hr is None else to_uint8(modcrop(read_image(item.hr), scale_factor))
    return hr, None if item.kernel is None else read_kernel(item.kernel)


@torch.no_grad()
def _image(
    estimate: Estimate, lr: Tensor, scale_factor: int, nonblind: NonblindSR | None, sigma: float
) -> Tensor | None:
    if nonblind is not None:
        return nonblind(lr, estimate.kernel.to(lr.device), scale_factor, sigma)
    return estimate.image
