"""The numbers of a record that pages show."""

from dataclasses import dataclass

from blindsr.batch.records import Record

__all__ = ["MEASURES", "SCORES", "Score", "number"]


@dataclass(frozen=True)
class Score:
    """A number of a record that pages show and sort by."""

    key: str
    label: str
    unit: str
    digits: int

    def show(self, value: float | None) -> str:
        return "" if value is None else f"{value:.{self.digits}f}{self.unit and ' '}{self.unit}"


SCORES = (
    Score("psnr", "PSNR", "dB", 2),
    Score("ssim", "SSIM", "", 4),
    Score("kernel_psnr", "kernel PSNR", "dB", 2),
)
MEASURES = (
    *SCORES,
    Score("expected_error", "expected error of the kernel", "", 2),
    Score("sigma", "noise level", "of 255", 1),
    Score("seconds", "seconds", "s", 1),
)
"""Scores, and what else there is to sort by."""


def number(record: Record, key: str) -> float | None:
    """A number of a record's result; None where there is none, whatever else stands there."""
    value = record.result.get(key)
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
