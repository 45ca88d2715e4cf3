"""The command of an estimator: from its options to a folder of results, with progress and a table of scores."""

import logging
import os
import platform
import sys
import webbrowser
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from blindsr.batch.inputs import Item, find_items, input_items
from blindsr.batch.options import BatchOptions
from blindsr.batch.pages import PAGE, page_path
from blindsr.batch.records import ENDINGS, Records, hash_file
from blindsr.batch.report import write_report
from blindsr.batch.results import Result
from blindsr.batch.run import Job, process
from blindsr.batch.summary import write_summary
from blindsr.command import Bar, given
from blindsr.devices import gains_from_bfloat16, pick_device
from blindsr.estimation import Estimator, NoiseEstimator, NonblindSR, OnStep
from blindsr.files import probe_folder
from blindsr.interruption import end_if_interrupted
from blindsr.paths import data_folder
from blindsr.picture_names import passed_over

__all__ = ["Method", "run_batch"]

logger = logging.getLogger(__name__)

LONGEST_NAME = 200
"""Bytes of a picture's name; file systems have 255 for a file's, and results append to it."""

WHERE = ("--input-dir", "--output-dir", "--no-resume", "--overwrite", "--verbose", "--open")
"""Options that say where and whether, not how a result is made."""


@dataclass(frozen=True)
class Method:
    """What a command does to a picture, and what its records say of that."""

    data_model: str
    """Whose LR folders of a dataset to read, and whose log the results go to: DIPFKP, say."""
    model: str
    """What the results are called after; a baseline's differs from ``data_model``."""
    estimator: Estimator
    settings: dict[str, Any] = field(default_factory=dict)
    """What decides the results beside the options, as it took effect."""
    files: dict[str, Path] = field(default_factory=dict)
    """Files whose content decides the results: weights, a kernel."""
    seed: int = 0
    nonblind: NonblindSR | None = None
    sigma: float | NoiseEstimator = 0.0
    """Noise level that ``nonblind`` is told, in image range, or what reads it off each picture."""
    batch: int | None = None
    """Most pictures to search as one, where the estimator can; None for as many as it says."""


def run_batch(options: BatchOptions, method: Method) -> int:
    """Process what ``options`` name.

    Returns:
        Exit status: 0, 2 if any image failed, or 130 if the user broke off.

    Raises:
        ValueError, OSError: the options name nothing that can be done.
    """
    _require_consistent(options)
    if not 1 <= options.pictures.quality <= 100:
        raise ValueError(f"--quality {options.pictures.quality}: must lie between 1 and 100")
    if method.batch is not None and method.batch < 1:
        raise ValueError(f"--batch {method.batch}: must be at least 1")
    if not 0 <= method.seed < 2**63:
        raise ValueError(f"--seed {method.seed}: must lie between 0 and 2^63 − 1")
    items, name = _find_pictures(options, method.data_model)
    default_folder = data_folder() / f"log_{method.data_model}" / f"{name}_{method.model}_lr_x{options.sf}"
    folder = (options.output_dir or default_folder).resolve()
    device = pick_device(options.run.device)
    job = Job(
        method.estimator,
        options.sf,
        device,
        method.nonblind,
        method.sigma,
        options.photographs,
        method.seed,
        options.run.verbose,
        options.pictures.format,
        options.pictures.quality,
        method.batch,
    )
    settings = _settings(options, method)
    records = Records(
        folder,
        settings,
        _metadata(options, method, device),
        resume=options.run.resume,
        overwrite=options.run.overwrite,
    )
    _require_distinct_names(items, folder)
    for item in items:
        if item.lr.resolve().parent == folder:
            raise ValueError(f"--output-dir {folder}: holds the input pictures; choose another folder")
        records.require_replaceable(item)
    page_path(folder)  # refuses now what could not be written after the work
    probe_folder(folder)
    results, interrupted = _work(items, job, folder, records)
    write_summary(folder)
    page = write_report(folder, previews=not interrupted)
    if options.run.open and not interrupted:
        webbrowser.open(page.as_uri())
    return _report(items, results, folder, interrupted, options.run.resume)


def _require_consistent(options: BatchOptions) -> None:
    pictures = options.pictures
    if options.paths and options.dataset is not None:
        raise ValueError("-i and -d: give either photographs or a dataset")
    if pictures.prepared and not options.paths:
        raise ValueError("--prepared: says what the pictures of -i are; name some, or leave it out")
    if pictures.prepared and pictures.real:
        raise ValueError("--prepared and --real: pictures are either laboratory data or photographs")
    if pictures.real and not options.paths and options.dataset is None:
        raise ValueError("--real: name your photographs with -i, or a dataset with -d")


def _find_pictures(options: BatchOptions, data_model: str) -> tuple[list[Item], str]:
    """The pictures, and what their results are called after."""
    if options.paths:
        items = input_items(options.paths)
        _tell_what_is_passed_over(options.paths)
        # Several pictures go by the names of their folders.
        folders = dict.fromkeys(item.lr.resolve().parent.name for item in items)
        alone = len(items) == 1 and not options.paths[0].is_dir()
        return items, items[0].name if alone else "+".join(folders)[:100]
    dataset = options.dataset or "Test"
    if options.dataset is None:
        print("no pictures named: the shipped Test picture; your photographs go behind -i, a dataset behind -d")
    items = find_items(dataset, data_model, options.sf)
    if options.photographs:
        items = [Item(name=item.name, lr=item.lr) for item in items]
    return items, Path(dataset).resolve().name if "/" in dataset else dataset


def _tell_what_is_passed_over(paths: list[Path]) -> None:
    """A line for each reason for which pictures of a folder are not read."""
    reasons: dict[str, list[Path]] = {}
    for folder in paths:
        for path, reason in passed_over(folder) if folder.is_dir() else ():
            reasons.setdefault(reason, []).append(path)
    for reason, left in reasons.items():
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        logger.warning("%s%s: passed over: %s", left[0], more, reason)


def _settings(options: BatchOptions, method: Method) -> dict[str, Any]:
    """What decides the results, as it took effect."""
    if method.nonblind is None:
        sigma: float | str | None = None
    else:
        sigma = "auto" if callable(method.sigma) else 255 * method.sigma
    return {
        "estimator": method.data_model,
        "model": method.model,
        "SR": method.nonblind is not None,
        "sf": options.sf,
        "seed": method.seed,
        "photographs": options.photographs,
        "sigma": sigma,
        "format": options.pictures.format,
        "quality": options.pictures.quality,
        **method.settings,
        # Of weights and kernels their content decides, wherever they lie.
        **{key: hash_file(path) for key, path in method.files.items()},
    }


def _metadata(options: BatchOptions, method: Method, device: torch.device) -> dict[str, Any]:
    try:
        ours = version("blindsr")
    except PackageNotFoundError:  # run from a copy that nobody installed
        ours = "unknown"
    return {
        **{key: value for key, value in asdict(options.run).items() if key not in ("device", "open")},
        "given": {option: value for option, value in given(options).items() if option not in WHERE},
        "dataset": None if options.paths else options.dataset or "Test",
        "input_dir": [str(path) for path in options.paths],
        "device": device.type,
        "batch": method.batch,
        "bfloat16": gains_from_bfloat16(device),
        "files": {key: path.name for key, path in method.files.items()},
        "versions": {
            "blindsr": ours,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _require_distinct_names(items: list[Item], folder: Path) -> None:
    """Raise ValueError where results would replace each other in ``folder``, or could not be named."""
    fold: Callable[[str], str] = str if _tells_case_apart(folder) else str.casefold
    outputs: dict[str, Item] = {}
    for item in items:
        if len(os.fsencode(item.name)) > LONGEST_NAME:
            raise ValueError(f"{item.lr}: its name is too long to name results after; rename it")
        for name in (item.name, f"{item.name}_kernel"):
            other = outputs.setdefault(fold(name), item)
            if other is not item:
                raise ValueError(f"{item.lr}: its results would replace those of {other.lr}; rename one of them")


def _tells_case_apart(folder: Path) -> bool:
    """Whether names that differ in case alone are different files where ``folder`` is or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    other = there.with_name(there.name.swapcase())
    return other == there or not (other.exists() and other.samefile(there))


def _work(items: list[Item], job: Job, folder: Path, records: Records) -> tuple[list[Result], bool]:
    """The results so far, each told in a line, and whether the user broke off."""
    results: list[Result] = []
    places = {item: place for place, item in enumerate(items, start=1)}
    bar_format = "{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]"
    with Bar(total=1, bar_format=bar_format) as bar, logging_redirect_tqdm() if bar.drawn else nullcontext():

        def progress(item: Item, *others: Item) -> OnStep:
            name = f"{item.name} and {len(others)} more" if others else item.name
            bar.set_description_str(f"{name} ({places[item]}/{len(items)})", refresh=False)
            bar.set_postfix_str("", refresh=False)
            bar.restart(total=1)

            def on_step(done: int, total: int, loss: float | None) -> None:
                end_if_interrupted()
                bar.set_postfix_str("USRNet" if loss is None else f"loss {loss:.2e}", refresh=False)
                if total != bar.total:
                    # USRNet's steps take another time than a search's, and a resumed search does not begin at 0.
                    bar.restart(total=total, done=done - 1)
                bar.update(done - bar.n)

            return on_step

        try:
            for result in process(items, job, folder, progress=progress, records=records):
                if result.error is not None:
                    end_if_interrupted()
                results.append(result)
                bar.total = bar.n or 1  # a search may end before its last iteration
                bar.write(_line(result), file=sys.stdout if result.error is None else sys.stderr)
        except KeyboardInterrupt:
            return results, True
        finally:
            bar.leave = bar.drawn and bar.n > 0  # nothing is left to see of it where all was done before
            if not bar.leave:
                bar.clear()
    return results, False


def _report(items: list[Item], results: list[Result], folder: Path, interrupted: bool, resume: bool) -> int:
    """Print means, places and counts; the exit status."""
    done = [result for result in results if result.error is None and not result.claimed]
    claimed = sum(result.claimed for result in results)
    failed = len(results) - len(done) - claimed
    if len(done) > 1 and any(result.kernel_psnr is not None for result in done):
        print(_mean_line(done))
    if done:
        written = [f"<image>{end}" for end in (*ENDINGS, ".json") if (folder / f"{done[0].item.name}{end}").exists()]
        print(f"results: {folder} ({', '.join(written)}; all of them in {PAGE})")
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


def _line(result: Result) -> str:
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
