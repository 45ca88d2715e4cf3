"""What became of a picture, and how its record says that."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blindsr.batch.inputs import Item
from blindsr.batch.records import Record
from blindsr.field import KernelField

__all__ = ["CURVE", "Result", "from_record", "record_fields", "thinned"]

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


def thinned(values: list[float]) -> list[tuple[int, float]]:
    """At most :data:`CURVE` of ``values``, evenly spaced from the first to the last, with their numbers from 1 on."""
    chosen = np.unique(np.linspace(0, len(values) - 1, CURVE).round().astype(int))
    return [(int(index) + 1, float(f"{values[index]:.4g}")) for index in chosen]


_NUMBERS = ("psnr", "ssim", "kernel_psnr", "seconds", "sr_seconds", "sigma", "expected_error", "relative_change")


def record_fields(result: Result) -> dict[str, Any]:
    """What a record says of a result, as JSON values; infinity, which JSON lacks, in words."""
    numbers: dict[str, Any] = {}
    for name in _NUMBERS:
        value = getattr(result, name)
        numbers[name] = None if value is None else float(value) if math.isfinite(value) else str(float(value))
    others = {"converged": result.converged, "losses": result.losses, "notes": list(result.notes)}
    varying = {} if result.kernel_field is None else {"kernel_field": result.kernel_field.as_json()}
    return {**numbers, **others, **varying, "search": result.search}


def from_record(item: Item, record: Record) -> Result | None:
    """A finished record as a result; None where it is none of ours, whatever it says."""
    values = record.result
    try:
        given = {name: values.get(name) for name in _NUMBERS}  # a record of before may lack what was added since
        fields: dict[str, Any] = {name: None if each is None else float(each) for name, each in given.items()}
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
