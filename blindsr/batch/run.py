"""Estimate, super-resolve, save, score, record: one picture after the other, with any estimator."""

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

from blindsr.batch.checkpoint import SearchFile, checkpoint_path, kept_until_done, remove_checkpoint
from blindsr.batch.explanation import explain
from blindsr.batch.inputs import Item
from blindsr.batch.records import Record, Records, hash_inputs
from blindsr.degradation import modcrop
from blindsr.devices import release_memory
from blindsr.doubts import doubts, is_beyond_kernels
from blindsr.encoding import QUALITY, OutputFormat
from blindsr.estimation import (
    Checkpoint,
    Estimate,
    Estimator,
    NoiseEstimator,
    NonblindSR,
    OnStep,
    is_resumable,
    place,
)
from blindsr.field import KernelField
from blindsr.figures import save_kernel_comparison
from blindsr.files import move_file
from blindsr.images import read_image, read_picture, to_uint8, write_like
from blindsr.kernel_files import Centre, read_kernel, write_kernel
from blindsr.metrics import kernel_psnr, psnr_ssim_y
from blindsr.restoration import Padding, enlarge, restore

__all__ = ["Job", "Result", "process"]

CURVE = 100
"""Most points of a loss curve that a result keeps."""


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
    sigma: float | None = None
    """Noise level that the non-blind network was told, in grey levels of 255."""
    expected_error: float | None = None
    """Error to expect of the kernel's covariance, relative to it, where the estimator knows."""
    converged: bool | None = None
    """Whether the kernel had converged, where the estimator checks that."""
    relative_change: float | None = None
    """‖k − k₀‖/‖k₀‖ of the kernel against the search's start."""
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Loss curves, of the kernel and where there is one of the critic: (iteration, loss), at most :data:`CURVE`."""
    kernel_field: KernelField | None = None
    """How the blur varies over the image, where it was looked for and does."""
    search: dict[str, Any] | None = None
    """What explains a bad result (:func:`blindsr.batch.explanation.explain`), where that was asked for."""
    notes: tuple[str, ...] = ()
    """What a user should know of the estimate, a line each."""
    error: str | None = None
    """Why there is no result, in one line."""
    earlier: bool = False
    """Whether an earlier run did it, or another process meanwhile, with the same settings."""
    claimed: bool = False
    """Whether another process is at work on it."""


def process(
    items: list[Item],
    job: Job,
    folder: Path,
    *,
    progress: Callable[[Item], OnStep] | None = None,
    records: Records | None = None,
) -> Iterator[Result]:
    """Process the items in order and yield each one's result; a bad item yields an error and ends nothing.

    Writes ``<name>.png`` (or .jpg, .webp, .tif: the image, with the picture's depth, alpha channel and metadata),
    ``<name>.mat`` (the kernel) and ``<name>_kernel.png`` (a picture of the kernel, beside the true one where that is
    known) into ``folder``, which exists. They appear once all of them are made.

    Args:
        progress: called with each item; returns what is called after each step on it, of the estimator and then of
            the non-blind network.
        records: of ``folder``: says what need not be done again, and takes down what was done. Without it everything
            is done, and what was there is replaced.
    """
    for item in items:
        try:
            yield _process_one(item, job, folder, progress, records)
        except Exception as error:  # whatever a picture brings about, the others are done
            message = _one_line(item, error)
            if records is not None:
                with contextlib.suppress(OSError):  # on a full disk there is no room for the record either
                    records.fail(item, hash_inputs(item), message)
            release_memory(job.device)  # the next picture does not pay for this one
            yield Result(item=item, error=message)


def _process_one(
    item: Item, job: Job, folder: Path, progress: Callable[[Item], OnStep] | None, records: Records | None
) -> Result:
    def make(made: Path, checkpoint: Checkpoint | None = None) -> Result:
        return _make(item, job, made, progress(item) if progress is not None else None, checkpoint)

    if records is None:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            result = make(Path(name))
            for path in Path(name).iterdir():
                move_file(path, folder / path.name)
        return result
    earlier = _earlier(item, records, job.verbose)
    if earlier is not None:
        remove_checkpoint(checkpoint_path(folder, item.name))  # which a process killed at the very end left
        return earlier
    with records.claim(item) as made:
        if made is None:
            return Result(item=item, claimed=True)
        earlier = _earlier(item, records, job.verbose)  # another process may have done it meanwhile
        if earlier is not None:
            return earlier
        inputs = hash_inputs(item)
        checkpoint = _checkpoint(item, inputs, job, made, records)
        with kept_until_done(checkpoint):
            result = make(made, checkpoint)
            records.store(item, inputs, made, _fields(result))
    return result


def _checkpoint(item: Item, inputs: dict[str, str | None], job: Job, made: Path, records: Records) -> SearchFile:
    """Where the search of a picture is kept, of this run's settings, input and versions."""
    search = {"settings": records.settings, "inputs": inputs, "versions": records.run.get("versions")}
    search |= {"seed": job.seed, "scale_factor": job.scale_factor, "device": job.device.type}
    checkpoint = SearchFile(checkpoint_path(records.folder, item.name), made, search)
    if not records.resume:
        remove_checkpoint(checkpoint.path)
    return checkpoint


def _make(item: Item, job: Job, folder: Path, on_step: OnStep | None, checkpoint: Checkpoint | None) -> Result:
    """Read, estimate, super-resolve and score one item, and write what comes of it into ``folder``."""
    hr, true_kernel = _read_truth(item, job.scale_factor)
    picture = read_picture(item.lr)
    lr = picture.image.to(job.device)
    if hr is not None and hr.shape[:2] != tuple(side * job.scale_factor for side in lr.shape[2:]):
        raise ValueError(
            f"{item.lr}: {lr.shape[3]}×{lr.shape[2]} pixels at x{job.scale_factor} do not match "
            f"{item.hr} ({hr.shape[1]}×{hr.shape[0]}); prepare the dataset again"
        )
    if is_resumable(job.estimator):
        estimate = job.estimator(lr, job.scale_factor, seed=job.seed, on_step=on_step, checkpoint=checkpoint)
    else:
        estimate = job.estimator(lr, job.scale_factor, seed=job.seed, on_step=on_step)
    estimate = place(estimate, job.scale_factor, job.photograph)
    image, sigma, sr_seconds = estimate.image, None, None
    if job.nonblind is not None:
        sigma = 255 * (job.sigma(lr, estimate.sigma) if callable(job.sigma) else job.sigma)
        began = time.perf_counter()
        if is_beyond_kernels(estimate, job.photograph, sigma, picture.jpeg_quality):
            image = enlarge(lr, job.scale_factor).cpu()
        else:
            padding: Padding = "reflect" if job.photograph else "none"
            image = restore(job.nonblind, lr, estimate.blur, job.scale_factor, sigma / 255, padding, on_step).cpu()
        sr_seconds = time.perf_counter() - began
    psnr, ssim = (None, None)
    if hr is not None and image is not None:
        psnr, ssim = psnr_ssim_y(to_uint8(image), hr, job.scale_factor)
    losses = {"kernel": estimate.losses, "critic": estimate.critic_losses}
    losses = {name: values for name, values in losses.items() if values}
    _write_kernel_files(folder, item, estimate, true_kernel, job.scale_factor)
    if image is not None:
        write_like(folder / item.name, image, picture, job.format, job.quality)
    return Result(
        item=item,
        psnr=psnr,
        ssim=ssim,
        kernel_psnr=None if true_kernel is None else kernel_psnr(estimate.kernel, true_kernel),
        seconds=estimate.seconds,
        expected_error=estimate.expected_error,
        converged=estimate.converged,
        relative_change=estimate.relative_change,
        losses={name: _thinned(values) for name, values in losses.items()},
        search=explain(estimate, lr, image, true_kernel, job.scale_factor) if job.verbose else None,
        notes=(*doubts(estimate, job.photograph, sigma, picture.jpeg_quality), *estimate.notes),
        kernel_field=estimate.kernel_field,
        sigma=sigma,
        sr_seconds=sr_seconds,
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


def _thinned(values: list[float]) -> list[tuple[int, float]]:
    """At most :data:`CURVE` of ``values``, evenly spaced from the first to the last, with their numbers from 1 on."""
    chosen = np.unique(np.linspace(0, len(values) - 1, CURVE).round().astype(int))
    return [(int(index) + 1, float(f"{values[index]:.4g}")) for index in chosen]


_NUMBERS = ("psnr", "ssim", "kernel_psnr", "seconds", "sr_seconds", "sigma", "expected_error", "relative_change")


def _fields(result: Result) -> dict[str, Any]:
    """What a record says of a result, as JSON values; infinity, which JSON lacks, in words."""
    numbers: dict[str, Any] = {}
    for name in _NUMBERS:
        value = getattr(result, name)
        numbers[name] = None if value is None else float(value) if math.isfinite(value) else str(float(value))
    others = {"converged": result.converged, "losses": result.losses, "notes": list(result.notes)}
    field = {} if result.kernel_field is None else {"kernel_field": result.kernel_field.as_json()}
    return {**numbers, **others, **field, "search": result.search}


def _earlier(item: Item, records: Records, verbose: bool) -> Result | None:
    """The result that a record tells of; None where ``item`` is still to do."""
    record = records.finished(item, (".mat", "_kernel.png"))
    if record is None or (verbose and record.result.get("search") is None):
        return None
    return _from_record(item, record)


def _from_record(item: Item, record: Record) -> Result | None:
    """A finished record as a result; None where it is none of ours, whatever it says."""
    values = record.result
    try:
        fields: dict[str, Any] = {name: None if values[name] is None else float(values[name]) for name in _NUMBERS}
        if fields["seconds"] is None or (fields["psnr"] is None) != (fields["ssim"] is None):
            return None
        fields["notes"] = tuple(str(note) for note in values["notes"])
        fields["losses"] = {
            str(name): [(int(done), float(loss)) for done, loss in curve] for name, curve in values["losses"].items()
        }
        if "kernel_field" in values:
            fields["kernel_field"] = KernelField.from_json(values["kernel_field"])
        return Result(item=item, **fields, converged=values["converged"], search=values.get("search"), earlier=True)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


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
