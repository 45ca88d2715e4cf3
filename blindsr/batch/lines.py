"""What a command prints of its results."""

import sys
from pathlib import Path

import numpy as np

from blindsr.batch.inputs import Item
from blindsr.batch.pages import PAGE
from blindsr.batch.records import ENDINGS
from blindsr.batch.run import Result
from blindsr.batch.storage import Store
from blindsr.batch.summary import SUMMARY

__all__ = ["print_outcome", "result_line"]


def print_outcome(
    items: list[Item], results: list[Result], output: Path | Store, interrupted: bool, resume: bool
) -> int:
    """Print means, places and counts; the exit status."""
    done = [result for result in results if result.error is None and not result.claimed]
    claimed = sum(result.claimed for result in results)
    failed = len(results) - len(done) - claimed
    if len(done) > 1 and any(result.kernel_psnr is not None for result in done):
        print(_mean_line(done))
    if done:
        has = output.has if isinstance(output, Store) else lambda name: (output / name).exists()
        kinds = {result.item.lr.suffix: result for result in done}.values()  # results keep their input's format
        written = [
            f"<image>{end}" for end in (*ENDINGS, ".json") if any(has(f"{result.item.name}{end}") for result in kinds)
        ]
        where, summary = (output.url, SUMMARY) if isinstance(output, Store) else (output, PAGE)
        print(f"results: {where} ({', '.join(written)}; all of them in {summary})")
    if claimed:
        print(f"{claimed} of {len(items)} pictures were left to another process that works on them")
    if interrupted:
        counts = f"{len(done)} done, {failed} failed, {len(items) - len(results)} left"
        command = "the same command" if resume else "the same command without --no-resume"
        print(f"interrupted: of {len(items)} pictures {counts}; {command} goes on from there", file=sys.stderr)
        return 130
    if failed:
        print(f"{failed} of {len(results)} pictures failed", file=sys.stderr)
        return 2
    return 0


def result_line(result: Result) -> str:
    """What became of one picture, in a line."""
    if result.error is not None:
        return f"error: {result.error}"
    parts = [result.item.name]
    if result.claimed:
        return f"{result.item.name}  left to another process that works on it"
    if result.earlier:
        parts.append("done before")
    if result.kernel_field is not None:
        parts.append(f"blur {result.kernel_field.describe()}")
    if result.psnr is not None:
        parts.append(f"PSNR {result.psnr:.2f} dB, SSIM {result.ssim:.4f}")
    if result.kernel_psnr is not None:
        parts.append(f"kernel PSNR {result.kernel_psnr:.2f} dB")
    took = [f"{result.seconds:.1f} s"] * bool(result.seconds)
    if result.sr_seconds:
        took.append(f"USRNet {result.sr_seconds:.1f} s")
    if took:
        parts.append(" + ".join(took))
    if result.converged is False:
        parts.append("the kernel had not converged")
    return "  ".join([*parts, *result.notes])


def _mean_line(results: list[Result]) -> str:
    def mean(values: list[float | None]) -> float:
        return float(np.mean([value for value in values if value is not None]))

    parts = [f"mean of {len(results)}"]
    if any(result.psnr is not None for result in results):
        parts.append(f"PSNR {mean([r.psnr for r in results]):.2f} dB, SSIM {mean([r.ssim for r in results]):.4f}")
    parts.append(f"kernel PSNR {mean([r.kernel_psnr for r in results]):.2f} dB")
    parts.append(f"{mean([r.seconds for r in results]):.1f} s")
    return "  ".join(parts)
