"""Estimate, super-resolve, save, score, record: over one image or a folder, with any estimator."""

import contextlib
import math
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blindsr.batch.inputs import Item
from blindsr.batch.records import UNFINISHED, Records, hash_inputs
from blindsr.degradation import modcrop
from blindsr.estimation import Estimator, NonblindSR, OnStep
from blindsr.figures import save_kernel_comparison, save_search
from blindsr.images import read_image, read_picture, to_uint8, write_like
from blindsr.kernel_files import read_kernel, write_kernel
from blindsr.metrics import kernel_psnr, psnr_ssim_y
from blindsr.restoration import restore

__all__ = ["Result", "process"]

CURVE = 100
"""Most points of a loss curve that a result keeps."""


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
    sr_seconds: float | None = None
    """Wall-clock time of the non-blind network, where it was asked for."""
    expected_error: float | None = None
    """Error to expect of the kernel's covariance, relative to it, where the estimator knows."""
    converged: bool | None = None
    """Whether the kernel had converged, where the estimator checks that."""
    relative_change: float | None = None
    """How far the search took the kernel from its start, relative to that."""
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Loss curves, of the kernel and where there is one of the critic: (iteration, loss), at most :data:`CURVE`."""
    notes: tuple[str, ...] = ()
    """What a user should know of the estimate, a line each."""
    error: str | None = None
    """Why there is no result, in one line."""
    earlier: bool = False
    """Whether an earlier run did it, with the same settings."""


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
    periodic: bool = True,
    verbose: bool = False,
    progress: Callable[[Item], OnStep] | None = None,
    records: Records | None = None,
) -> Iterator[Result]:
    """Process the items in order and yield each one's result; a bad item yields an error and ends nothing.

    Writes ``<name>.png`` (the image, of the picture's depth, with its alpha channel and colour profile),
    ``<name>.mat`` (the kernel) and ``<name>_kernel.png`` (a picture of the kernel, beside the true one where that is
    known) into ``folder``, which exists; if ``verbose`` also ``<name>_search.png`` (the kernel along the way, and the
    losses). They appear once all of them are made.

    Args:
        estimator: see :class:`blindsr.estimation.Estimator`.
        nonblind: see :class:`blindsr.estimation.NonblindSR`; without it the estimator's own image, if any, is the
            result.
        sigma: noise level that ``nonblind`` is told, in image range.
        periodic: whether the pictures have a periodic boundary, as those of prepared data sets do. Others are
            mirrored at their borders for ``nonblind``, which takes them for periodic.
        progress: called with each item; returns what is called after each step on it, of the estimator and then of
            ``nonblind``.
        records: of ``folder``, entered: says what need not be done again, and takes down what was done. Without it
            everything is done, and what was there is replaced.
    """
    for item in items:
        inputs: dict[str, str | None] = {}
        try:
            result = None if records is None else _earlier(item, records, verbose)
            if result is None:
                # A folder beside the results: what a killed process leaves is never taken for a result.
                with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as name:
                    made = Path(name)
                    inputs = {} if records is None else hash_inputs(item)
                    on_step = progress(item) if progress is not None else None
                    result = _make(
                        item, estimator, scale_factor, made, device, seed, nonblind, sigma, periodic, verbose, on_step
                    )
                    if records is not None:
                        records.store(item, inputs, made, _fields(result))
                    else:
                        for path in made.iterdir():
                            path.replace(folder / path.name)
        except Exception as error:  # whatever a picture brings about, the others are done
            result = Result(item=item, error=_one_line(item, error))
            if records is not None:
                with contextlib.suppress(OSError):  # on a full disk there is no room for the record either
                    records.fail(item, inputs, result.error or "")
        yield result


def _make(
    item: Item,
    estimator: Estimator,
    scale_factor: int,
    folder: Path,
    device: torch.device,
    seed: int,
    nonblind: NonblindSR | None,
    sigma: float,
    periodic: bool,
    verbose: bool,
    on_step: OnStep | None,
) -> Result:
    """Read, estimate, super-resolve and score one item, and write what comes of it into ``folder``."""
    hr, true_kernel = _read_truth(item, scale_factor)
    picture = read_picture(item.lr)
    lr = picture.image.to(device)
    if hr is not None and hr.shape[:2] != tuple(side * scale_factor for side in lr.shape[2:]):
        raise ValueError(
            f"{item.lr}: {lr.shape[3]}×{lr.shape[2]} pixels at x{scale_factor} do not match "
            f"{item.hr} ({hr.shape[1]}×{hr.shape[0]}); prepare the dataset again"
        )
    estimate = estimator(lr, scale_factor, seed=seed, on_step=on_step)
    image, sr_seconds = estimate.image, None
    if nonblind is not None:
        began = time.perf_counter()
        image = restore(nonblind, lr, estimate.kernel, scale_factor, sigma, periodic, on_step).cpu()
        sr_seconds = time.perf_counter() - began
    psnr, ssim = (None, None)
    if hr is not None and image is not None:
        psnr, ssim = psnr_ssim_y(to_uint8(image), hr, scale_factor)
    kernel_score = None if true_kernel is None else kernel_psnr(estimate.kernel, true_kernel)
    losses = {"kernel": estimate.losses, "critic": estimate.critic_losses}
    losses = {name: values for name, values in losses.items() if values}
    notes = estimate.notes
    if estimate.uncertain:
        doubt = f"uncertain: too little of the blur shows (its variances ± {estimate.expected_error:.0%})"
        notes = (doubt, *notes)
    write_kernel(folder / f"{item.name}.mat", estimate.kernel)
    kernels = {"estimated": estimate.kernel}
    if true_kernel is not None:
        kernels = {"true": true_kernel, **kernels}
    save_kernel_comparison(folder / f"{item.name}_kernel.png", kernels)
    if verbose:
        change = "" if estimate.relative_change is None else f"\nchange {estimate.relative_change:.1%}"
        end = f"end{change}" if len(estimate.path) > 1 else "predicted"
        save_search(folder / f"{item.name}_search.png", estimate.path, losses, end, estimate.kernel)
    if image is not None:
        write_like(folder / f"{item.name}.png", image, picture)
    return Result(
        item=item,
        psnr=psnr,
        ssim=ssim,
        kernel_psnr=kernel_score,
        seconds=estimate.seconds,
        sr_seconds=sr_seconds,
        expected_error=estimate.expected_error,
        converged=estimate.converged,
        relative_change=estimate.relative_change,
        losses={name: _thinned(values) for name, values in losses.items()},
        notes=notes,
    )


def _thinned(values: list[float]) -> list[tuple[int, float]]:
    """At most :data:`CURVE` of ``values``, evenly spaced from the first to the last, with their numbers from 1 on."""
    chosen = np.unique(np.linspace(0, len(values) - 1, CURVE).round().astype(int))
    return [(int(index) + 1, float(f"{values[index]:.4g}")) for index in chosen]


_NUMBERS = ("psnr", "ssim", "kernel_psnr", "seconds", "sr_seconds", "expected_error", "relative_change")


def _fields(result: Result) -> dict[str, Any]:
    """What a record says of a result, as JSON values; infinity, which JSON lacks, in words."""
    numbers: dict[str, Any] = {}
    for name in _NUMBERS:
        value = getattr(result, name)
        numbers[name] = None if value is None else float(value) if math.isfinite(value) else str(float(value))
    return {**numbers, "converged": result.converged, "losses": result.losses, "notes": list(result.notes)}


def _earlier(item: Item, records: Records, verbose: bool) -> Result | None:
    """The result that an earlier run recorded; None where ``item`` is still to do."""
    record = records.finished(item, (".mat", "_kernel.png", *(["_search.png"] if verbose else [])))
    if record is None:
        return None
    try:
        values = {"sr_seconds": None, "losses": {}, **record.result}  # the first records had neither
        fields: dict[str, Any] = {name: None if values[name] is None else float(values[name]) for name in _NUMBERS}
        if fields["seconds"] is None or (fields["psnr"] is None) != (fields["ssim"] is None):
            return None
        fields["notes"] = tuple(str(note) for note in values["notes"])
        fields["losses"] = {
            str(name): [(int(done), float(loss)) for done, loss in curve] for name, curve in values["losses"].items()
        }
        return Result(item=item, **fields, converged=values["converged"], earlier=True)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # not a record of ours, whatever it says


def _one_line(item: Item, error: Exception) -> str:
    """What went wrong with ``item``, with its path."""
    message = " ".join(str(error).split()) or "out of memory"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in message):
        message = f"not enough memory for a picture of this size; use a smaller one ({message[:80]})"
    elif not isinstance(error, ValueError | OSError | RuntimeError):
        # Nobody foresaw this one: say where it came from, since there is no traceback.
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {error!s:.80}"
        message = " ".join(message.split())
    known = any(str(path) in message for path in (item.lr, item.hr, item.kernel) if path is not None)
    return message if known else f"{item.lr}: {message}"


def _read_truth(item: Item, scale_factor: int) -> tuple[npt.NDArray | None, Tensor | None]:
    """The 8-bit HR picture and the kernel, as far as they are known."""
    hr = None if item.hr is None else to_uint8(modcrop(read_image(item.hr), scale_factor))
    return hr, None if item.kernel is None else read_kernel(item.kernel)
