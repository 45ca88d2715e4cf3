"""From a dataclass to a command: parsing, one-line errors, exit statuses, and what the estimators' commands share."""

import argparse
import io
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
import tyro
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from blindsr.batch.inputs import Item, find_items, input_items
from blindsr.batch.records import ENDINGS, Records, hash_file
from blindsr.batch.run import Result, process
from blindsr.devices import DeviceName, gains_from_bfloat16, keep_freed_memory, pick_device
from blindsr.estimation import Estimator, NonblindSR, OnStep
from blindsr.paths import DATA, pretrained_path
from blindsr.training.loop import OnValidation, process_rank

__all__ = ["EstimatorOptions", "SearchOptions", "parse", "peek", "peek_flag", "run", "run_estimator", "training_bar"]

logger = logging.getLogger(__name__)

Options = TypeVar("Options")

REAL_SIGMA = 10 / 255
"""Noise level told to the non-blind network for real photographs (official release)."""
LONGEST_NAME = 200
"""Bytes of a picture's name; file systems have 255 for a file's, and results append to it."""
RARELY = 30
"""Seconds between progress lines where these go to a file instead of a terminal."""


@dataclass(frozen=True)
class EstimatorOptions:
    """What the command of every estimator takes."""

    SR: bool = False
    """Super-resolve with USRNet and the kernel found. Without it the result is the estimator's own image, if any."""
    sf: Literal[2, 3, 4, 8] = 2
    """Scale factor."""
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])] = "Test"
    """A prepared dataset: a name under data/datasets, or a folder with HR, LR and kernel folders inside."""
    input_dir: Annotated[tuple[Path, ...], tyro.conf.arg(aliases=["-i", "--input"], metavar="PATH [PATH ...]")] = ()
    """Your own pictures instead of a dataset: pictures, folders, 'photos/*.jpg'. They are not scored."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Where results go; without it, data/log_<ESTIMATOR>/<dataset>_<model>_lr_x<sf>."""
    real: bool = False
    """Real photographs: no ground truth is looked for, USRNet expects a little noise (10 of 255), and nobody takes
    the picture to go on at its opposite border, as those of prepared data sets do."""
    path_nonblind: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of USRNet; without it, the shipped data/pretrained_models/usrnet_tiny.pth."""
    tile: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """USRNet works in tiles of so many result pixels a side, 0 for none; without it, what the free memory allows."""
    float32: bool = False
    """Compute all of USRNet in float32. Without it, devices that gain from bfloat16 take that for the convolutions
    inside, which changed PSNR by at most 0.006 dB where it was measured."""
    verbose: bool = False
    """Also draw each search, the kernel along the way and the losses, into <image>_search.png."""
    seed: int = 0
    """Seed of every random number; on one CPU the same seed gives the same result."""
    sigma: Annotated[float | None, tyro.conf.arg(metavar="LEVEL")] = None
    """Noise level that USRNet expects, in grey levels of 255; without it 0, or 10 with --real."""
    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA or MPS where there is one."""
    resume: bool = True
    """Skip pictures that an earlier run of the same settings finished, by the folder's results.jsonl."""
    overwrite: bool = False
    """Replace results of other settings or other pictures; without it they are left alone and nothing is done."""

    def files(self) -> dict[str, Path]:
        """The files whose content decides the result, by their option; each command adds its own."""
        return {"path_nonblind": self.path_nonblind or pretrained_path("usrnet_tiny.pth")} if self.SR else {}

    def reads_float32(self) -> bool:
        """Whether anything runs that ``float32`` is about."""
        return self.SR

    def noise_level(self) -> float:
        """What USRNet is told, in image range."""
        if self.sigma is None:
            return REAL_SIGMA if self.real else 0.0
        return self.sigma / 255


@dataclass(frozen=True)
class SearchOptions(EstimatorOptions):
    """And those that search the kernel prior's latent space."""

    path_KP: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the kernel prior; without it, the shipped data/pretrained_models/FKP_x<sf>.pt (KernelGANFKP searches
    the x2 kernel at x4 too)."""
    path_predictor: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the predictor of the start; without it, the shipped data/pretrained_models/kernel_predictor.pth."""

    def search_files(self, scale_factor: int, start: str) -> dict[str, Path]:
        """The weights that a search takes which begins at ``start``."""
        files = {"path_KP": self.path_KP or pretrained_path(f"FKP_x{scale_factor}.pt")}
        if start == "predicted":
            files["path_predictor"] = self.path_predictor or pretrained_path("kernel_predictor.pth")
        return files


CIRCUMSTANCES = ("dataset", "input_dir", "output_dir", "verbose", "tile", "device", "resume", "overwrite")
"""Options that do not decide a picture's result: the picture itself is known by its content. All others do."""


def parse(options: type[Options], description: str, default: Options | None = None) -> Options:
    """Make ``options`` from the command line; a wrong option prints why, in one line, and exits with status 2.

    Args:
        options: a frozen dataclass whose field docstrings become the help.
        default: an instance whose values are the defaults instead of the class's.

    Raises:
        ValueError: an argument is empty; as a path it would be the current folder.
    """
    for before, argument in pairwise(sys.argv):
        if not argument or (argument.startswith("-") and argument.endswith("=")):
            raise ValueError(f"{argument.rstrip('=') or before}: what follows it is empty; is a variable unset?")
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            return tyro.cli(
                options,
                description=description,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as exit_:
        if exit_.code:
            print(_unboxed(box.getvalue()), file=sys.stderr)
        raise


def _unboxed(box: str) -> str:
    """What tyro draws a frame around as one line, without its excerpt of the help."""
    text = []
    for line in box.splitlines():
        line = line.strip("│ ")
        if line.startswith("──"):  # what went wrong ends here; a way out follows
            break
        if not line.startswith("╭"):
            text.append(line)
    message = " ".join(" ".join(text).split()).removeprefix("Error parsing settings: ").rstrip(" .")
    return f"error: {message}; --help lists all options"


def peek(option: str, default: str, choices: Sequence[str] | None = None) -> str:
    """The value of ``option`` before the command line is parsed: a preset decides the other defaults.

    Args:
        choices: what it may be, where that is not all; ``default`` is returned for anything else.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(option, default=default, choices=choices, dest="value")
    try:
        return parser.parse_known_args()[0].value
    except argparse.ArgumentError:
        return default  # an option without its value, or with a wrong one: parsing proper will say so


def peek_flag(option: str) -> bool:
    """Whether ``option`` is on, not off, at the end of the command line, before that is parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, action=argparse.BooleanOptionalAction, default=False, dest="value")
    return parser.parse_known_args()[0].value


def run(main: Callable[[], int]) -> None:
    """Run ``main`` and exit with its status; what the user can mend is one line and status 2."""
    logging.basicConfig(format="note: %(message)s", level=logging.WARNING)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the shell wants it ignored
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    keep_freed_memory()
    try:
        status = main()
    except (Exception, KeyboardInterrupt) as error:
        if _interrupts or isinstance(error, KeyboardInterrupt):
            print("\ninterrupted; what was finished until then is kept", file=sys.stderr)
            status = 130
        elif isinstance(error, ValueError | OSError):
            print(f"error: {error}", file=sys.stderr)
            status = 2
        else:
            raise
    sys.exit(status)


_interrupts: list[int] = []
"""The interrupting signals that came. What they break into, an import for one, may drop the exception that they raise
or make another of it, so who would go on looks here first."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


def _end_if_interrupted() -> None:
    if _interrupts:
        raise KeyboardInterrupt


def _pace() -> dict[str, float]:
    """How often a progress bar is drawn, in tqdm's words."""
    # One step at least between two drawings, whatever went before: USRNet's few follow a search's many.
    drawn = {"delay": 0.1} if sys.stderr.isatty() else {"mininterval": RARELY, "maxinterval": RARELY}
    return {**drawn, "miniters": 1}


@contextmanager
def training_bar(
    steps: int, what: str, describe: Callable[[float], str]
) -> Iterator[tuple[Callable[[str], None], Callable[[int, float], None], OnValidation]]:
    """A progress bar for ``fit``: a way to print beside it, ``on_step`` and ``on_validation``.

    Of several processes only the first one's shows anything.

    Args:
        what: the scores' name.
        describe: formats a score.
    """
    with tqdm(total=steps, unit="step", smoothing=0.05, disable=process_rank() > 0, **_pace()) as bar:

        def report(line: str) -> None:
            if not bar.disable:
                bar.write(line)

        def on_step(step: int, loss: float) -> None:
            _end_if_interrupted()
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

        def on_validation(entry: dict[str, Any]) -> None:
            scores = ", ".join(f"x{s} {describe(score)}" for s, score in entry["scores"].items())
            report(f"step {entry['step']}: loss {entry['loss']:.5f}, {what} {scores}")

        yield report, on_step, on_validation


def run_estimator(
    options: EstimatorOptions,
    data_model: str,
    model: str,
    estimator: Estimator,
    nonblind: NonblindSR | None,
) -> int:
    """Process what ``options`` name, with a progress bar for each image and a table of scores at the end.

    Args:
        data_model: whose LR folders of a dataset to read, "DIPFKP" or "KernelGANFKP".
        model: what the results are called after; a baseline's differs from ``data_model``.

    Returns:
        Exit status: 0, 2 if any image failed, or 130 if the user broke off.
    """
    if options.input_dir:
        items = input_items(options.input_dir)
        if not options.real:
            logger.warning("without --real the pictures are taken for prepared ones: no noise, circular borders")
        # Several pictures go by the names of their folders.
        folders = dict.fromkeys(item.lr.resolve().parent.name for item in items)
        alone = len(items) == 1 and not options.input_dir[0].is_dir()
        name = items[0].name if alone else "+".join(folders)[:100]
    else:
        items = find_items(options.dataset, data_model, options.sf)
        name = Path(options.dataset).resolve().name if "/" in options.dataset else options.dataset
        if options.real:
            items = [Item(name=item.name, lr=item.lr) for item in items]
    default_folder = DATA / f"log_{data_model}" / f"{name}_{model}_lr_x{options.sf}"
    folder = (options.output_dir or default_folder).resolve()
    for item in items:
        if item.lr.resolve().parent == folder:
            raise ValueError(f"--output-dir {folder}: holds the input pictures; choose another folder")
    _require_distinct_names(items)
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed {options.seed}: must lie between 0 and 2^63 − 1")
    if not 0 <= options.noise_level() <= 1:
        raise ValueError(f"--sigma {options.sigma}: must lie between 0 and 255 grey levels")
    device = pick_device(options.device)
    settings, circumstances = _describe(options, data_model, model, device)
    records = Records(folder, settings, circumstances, resume=options.resume, overwrite=options.overwrite)
    for item in items:
        records.require_replaceable(item)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--output-dir {folder}: cannot be made ({error.strerror}); choose another folder"
        ) from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--output-dir {folder}: cannot be written to; choose another folder")

    results: list[Result] = []
    bar_format = "{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]"
    interrupted = False
    with records, tqdm(total=1, bar_format=bar_format, **_pace()) as bar, logging_redirect_tqdm():

        def progress(item: Item) -> OnStep:
            bar.set_description_str(f"{item.name} ({len(results) + 1}/{len(items)})", refresh=False)
            bar.set_postfix_str("", refresh=False)
            bar.reset(total=1)

            def on_step(done: int, total: int, loss: float | None) -> None:
                _end_if_interrupted()
                bar.set_postfix_str("USRNet" if loss is None else f"loss {loss:.2e}", refresh=False)
                if total != bar.total:
                    bar.reset(total=total)  # USRNet's steps take another time than a search's
                bar.update(done - bar.n)

            return on_step

        try:
            for result in process(
                items,
                estimator,
                options.sf,
                folder,
                device=device,
                seed=options.seed,
                nonblind=nonblind,
                sigma=options.noise_level(),
                periodic=not options.real,
                verbose=options.verbose,
                progress=progress,
                records=records,
            ):
                if result.error is not None:
                    _end_if_interrupted()
                results.append(result)
                bar.total = bar.n or 1  # a search may end before its last iteration
                bar.write(_line(result), file=sys.stdout if result.error is None else sys.stderr)
        except KeyboardInterrupt:
            interrupted = True
        bar.leave = bar.n > 0  # nothing is left to see of it where all was done before
        if not bar.leave:
            bar.clear()
    done = [result for result in results if result.error is None]
    if len(done) > 1 and any(result.kernel_psnr is not None for result in done):
        print(_mean_line(done))
    if done:
        written = [f"<image>{end}" for end in ENDINGS if (folder / f"{done[0].item.name}{end}").exists()]
        print(f"results: {folder} ({', '.join(written)})")
    if interrupted:
        counts = f"{len(done)} done, {len(results) - len(done)} failed, {len(items) - len(results)} left"
        command = "the same command" if options.resume else "the same command without --no-resume"
        print(f"interrupted: of {len(items)} pictures {counts}; {command} goes on from there", file=sys.stderr)
        return 130
    if len(done) < len(results):
        print(f"{len(results) - len(done)} of {len(results)} pictures failed", file=sys.stderr)
        return 2
    return 0


def _describe(
    options: EstimatorOptions, data_model: str, model: str, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides the results, and what else their records say, whatever the estimator's options are."""
    given = {key: value for key, value in asdict(options).items() if not key.startswith("path_")}
    # Who asks for float32 where it matters insists on it; otherwise the device decides, as it does on rounding.
    insisted = {"float32": True} if given.pop("float32") and options.reads_float32() else {}
    files = options.files()
    settings = {
        "estimator": data_model,
        "model": model,
        **{key: value for key, value in given.items() if key not in CIRCUMSTANCES},
        **insisted,
        "sigma": 255 * options.noise_level(),
        # Of weights and kernels their content decides, wherever they lie.
        **{key: hash_file(path) for key, path in files.items()},
    }
    try:
        ours = version("blindsr")
    except PackageNotFoundError:  # run from a copy that nobody installed
        ours = "unknown"
    circumstances = {
        **{key: given[key] for key in CIRCUMSTANCES},
        "dataset": None if options.input_dir else options.dataset,
        "input_dir": [str(path) for path in options.input_dir],
        "device": device.type,
        "bfloat16": gains_from_bfloat16(device),
        "files": {key: path.name for key, path in files.items()},
        "versions": {
            "blindsr": ours,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    return settings, circumstances


def _require_distinct_names(items: list[Item]) -> None:
    """Raise ValueError where results would replace each other, on any file system, or could not be named."""
    outputs: dict[str, Item] = {}
    for item in items:
        if len(os.fsencode(item.name)) > LONGEST_NAME:
            raise ValueError(f"{item.lr}: its name is too long to name results after; rename it")
        for name in (item.name, f"{item.name}_kernel", f"{item.name}_search"):
            other = outputs.setdefault(name.casefold(), item)
            if other is not item:
                raise ValueError(f"{item.lr}: its results would replace those of {other.lr}; rename one of them")


def _line(result: Result) -> str:
    if result.error is not None:
        return f"error: {result.error}"
    parts = [result.item.name]
    if result.earlier:
        parts.append("done before")
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
