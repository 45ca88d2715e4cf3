"""The command of an estimator: from its options to a folder of results, with progress and a table of scores."""

import logging
import os
import webbrowser
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from blindsr.batch.cluster import require_ray
from blindsr.batch.inputs import Item, find_items, input_items
from blindsr.batch.lines import print_outcome
from blindsr.batch.options import BatchOptions, RunOptions
from blindsr.batch.pages import page_path
from blindsr.batch.records import Records, hash_file
from blindsr.batch.report import write_report
from blindsr.batch.run import Job
from blindsr.batch.storage import Store, require_replaceable
from blindsr.batch.summary import SUMMARY, write_summary
from blindsr.batch.work import Work, do
from blindsr.batch.workers import device_metadata, versions
from blindsr.command import given
from blindsr.estimation import Estimator, NoiseEstimator, NonblindSR
from blindsr.files import probe_folder
from blindsr.paths import data_folder
from blindsr.picture_names import passed_over
from blindsr.urls import url_of

__all__ = ["Method", "run_batch"]

logger = logging.getLogger(__name__)

LONGEST_NAME = 200
"""Bytes of a picture's name; file systems have 255 for a file's, and results append to it."""

WHERE = ("--input-dir", "--output-dir", "--no-resume", "--overwrite", "--verbose", "--open", "--workers", "--ray")
"""Options that say where and whether, not how a result is made."""


@dataclass(frozen=True)
class Method:
    """What a command does to a picture, and what its records say of that."""

    data_model: str
    """Whose LR folders of a dataset to read, and whose log the results go to."""
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
        Exit status: 0, 1 if any image failed, or 130 if the user broke off.

    Raises:
        ValueError, OSError: the options name nothing that can be done.
    """
    _require_consistent(options)
    _require_processes(options.run)
    if not 1 <= options.pictures.quality <= 100:
        raise ValueError(f"--quality {options.pictures.quality}: must lie between 1 and 100")
    if method.batch is not None and method.batch < 1:
        raise ValueError(f"--batch {method.batch}: must be at least 1")
    if not 0 <= method.seed < 2**63:
        raise ValueError(f"--seed {method.seed}: must lie between 0 and 2^63 − 1")
    items, name = _find_pictures(options, method.data_model)
    default_folder = data_folder() / f"log_{method.data_model}" / f"{name}_{method.model}_lr_x{options.sf}"
    job = Job(
        method.estimator,
        options.sf,
        options.run.build_device,
        method.nonblind,
        method.sigma,
        options.photographs,
        method.seed,
        options.run.verbose,
        options.pictures.format,
        options.pictures.quality,
        method.batch,
    )
    records = _records(options, method)
    output = _require_output(options.output_dir or default_folder, items, records)
    results, interrupted = do(Work(items, job, output, records), options.run)
    if isinstance(output, Store):
        output.summarize()
        if options.run.open:
            print(f"--open: results behind a URL have no page; {SUMMARY} sums them up")
    else:
        write_summary(output)
        page = write_report(output, previews=not interrupted)
        if options.run.open and not interrupted and not webbrowser.open(page.as_uri()):
            print(f"--open: no browser can be started here; the page is {page}")
    return print_outcome(items, results, output, interrupted, options.run.resume)


def _require_processes(run: RunOptions) -> None:
    """Check the numbers of workers and threads, and set that of this process."""
    for name, value in (("workers", run.workers), ("threads", run.threads)):
        if isinstance(value, int) and value < 1:
            raise ValueError(f"--{name} {value}: must be 1 or more")
    if run.on_ray:
        require_ray()
    if run.threads is not None:
        torch.set_num_threads(run.threads)


def _records(options: BatchOptions, method: Method) -> Callable[[Path], Records]:
    """Of a folder, the records of this run."""
    settings, metadata = _settings(options, method), _metadata(options, method)
    resume, overwrite = options.run.resume, options.run.overwrite
    return lambda folder: Records(folder, settings, metadata, resume=resume, overwrite=overwrite)


def _require_output(path: Path, items: list[Item], records: Callable[[Path], Records]) -> Path | Store:
    """Where the results go, which takes them: a folder, made if need be, or a store.

    Raises:
        ValueError: it does not; says why.
    """
    if url := url_of(path):
        store = Store(url)
        _require_distinct_names(items, Path.cwd())
        require_replaceable(items, store, records)
        store.probe()
        return store
    folder = path.resolve()
    _require_distinct_names(items, folder)
    for item in items:
        if item.source is not None:
            continue  # looked at when it is fetched
        if item.lr.resolve().parent == folder:
            raise ValueError(f"--output-dir {folder}: holds the input pictures; choose another folder")
        records(folder).require_replaceable(item)
    page_path(folder)  # refuses now what could not be written after the work
    probe_folder(folder)
    return folder


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
    if options.input_dir:
        raise ValueError("-i names no picture; put pictures, folders or patterns behind it, or leave it out")
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


def _metadata(options: BatchOptions, method: Method) -> dict[str, Any]:
    # Not how many worked on it: of that no result depends.
    left_out = ("device", "open", "workers", "ray", "threads")
    return {
        **{key: value for key, value in asdict(options.run).items() if key not in left_out},
        "given": {option: value for option, value in given(options).items() if option not in WHERE},
        "dataset": None if options.paths else options.dataset or "Test",
        "input_dir": [str(path) for path in options.paths],
        **device_metadata(options.run.build_device),
        "batch": method.batch,
        "files": {key: path.name for key, path in method.files.items()},
        "versions": versions(),
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
