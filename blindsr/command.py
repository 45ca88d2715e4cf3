"""What every command shares: from a dataclass to options, one-line errors, exit statuses, progress, interruption."""

import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar, get_type_hints

import tyro
from tqdm import tqdm

from blindsr.devices import keep_freed_memory
from blindsr.interruption import interrupt, was_interrupted
from blindsr.parsing import REGISTRY, field_docstrings, filled

__all__ = ["Bar", "given", "overridden", "overrides", "parse", "run"]

Options = TypeVar("Options")
Settings = TypeVar("Settings")

STATUSES = "Exit status: 0 done, 2 wrong input or a picture that failed, 130 interrupted."
LOG_INTERVAL = 30
"""Seconds between lines of progress where these go to a file instead of a terminal."""


def parse(options: type[Options], description: str, program: str | None = None) -> Options:
    """Make ``options`` from the command line; tyro says what is wrong with it and exits with status 2.

    Args:
        options: a frozen dataclass whose field docstrings become the help; nested ones become groups.
        program: how the help calls the command; without it, by the script's path.

    Raises:
        ValueError: an argument is empty; as a path it would be the current folder.
    """
    _print_whatever_happens()
    for before, argument in pairwise(sys.argv):
        if not argument or (argument.startswith("-") and argument.endswith("=")):
            raise ValueError(f"{argument.rstrip('=') or before}: what follows it is empty; is a variable unset?")
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
    description = filled(f"{description.rstrip()}\n\n{STATUSES}")
    try:
        return tyro.cli(options, prog=program, description=description, config=config, registry=REGISTRY)
    except SystemExit as ended:
        if ended.code and (hint := _misplaced_pictures({*get_type_hints(options)})):
            print(hint, file=sys.stderr)
        raise


def _misplaced_pictures(options: set[str]) -> str | None:
    """Where pictures go, where a command with these options was given some elsewhere."""
    before_pictures = any(argument in ("-i", "--input", "--input-dir") for argument in sys.argv)
    if "photographs" in options and before_pictures:
        return "pictures take no -i here: blindsr photo.jpg"
    if "input_dir" in options and not before_pictures:
        named = next((each for each in sys.argv[1:] if not each.startswith("-") and Path(each).is_file()), None)
        return f"pictures go behind -i: -i {named}" if named else None
    return None


def overrides(presets: Mapping[Any, object], about: str) -> Any:
    """Options that change single settings of a preset, for :func:`tyro.conf.arg`'s ``constructor``.

    Args:
        presets: instances of one settings dataclass by the presets' names; the help shows each one's values.
        about: the help of the group.

    Returns:
        A dataclass whose fields are those of the settings, each None where it was not given.
    """
    settings: Any = type(next(iter(presets.values())))
    documentation, hints = field_docstrings(settings), get_type_hints(settings)
    made = []
    for each in fields(settings):
        values = {name: getattr(preset, each.name) for name, preset in presets.items()}
        same = len(set(values.values())) == 1
        shown = (
            f"default: {next(iter(values.values()))}" if same else ", ".join(f"{n}: {v}" for n, v in values.items())
        )
        argument = tyro.conf.arg(help=documentation.get(each.name, ""), help_behavior_hint=f"({shown})")
        made.append((each.name, Annotated[hints[each.name] | None, argument], field(default=None)))
    return make_dataclass(f"{settings.__name__}Overrides", made, frozen=True, namespace={"__doc__": about})


def overridden(preset: Settings, given: Any) -> Settings:
    """``preset`` with what was given of its settings, an instance of what :func:`overrides` makes.

    Raises:
        ValueError: the settings do not go together; names the option.
    """
    values = {each.name: getattr(given, each.name) for each in fields(given)}
    changed = {name: value for name, value in values.items() if value is not None}
    return replace(preset, **changed)  # type: ignore[type-var]


def given(options: Any) -> dict[str, str]:
    """Of the options that differ from their defaults, as they are typed: option → value; of a switch it is empty."""
    default = type(options)()
    found: dict[str, str] = {}
    for each in fields(options):
        value = getattr(options, each.name)
        if is_dataclass(value):
            found |= given(value)
        elif value != getattr(default, each.name):
            option = f"--{'no_' if value is False else ''}{each.name}".replace("_", "-")
            found[option] = "" if isinstance(value, bool) else str(value)
    return found


def run(main: Callable[[], int]) -> None:
    """Run ``main`` and exit with its status; what the user can mend is one line and status 2."""
    _print_whatever_happens()
    logging.basicConfig(format="note: %(message)s", level=logging.WARNING)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the shell wants it ignored
        signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    keep_freed_memory()
    try:
        status = main()
    except (Exception, KeyboardInterrupt) as error:
        if was_interrupted() or isinstance(error, KeyboardInterrupt):
            print("\ninterrupted; what was finished until then is kept", file=sys.stderr)
            status = 130
        elif isinstance(error, ValueError | OSError):
            told = str(error)
            if isinstance(error, OSError) and error.filename and error.strerror:
                told = f"{error.filename}: {error.strerror}"  # Python would begin with the number
            print(f"error: {told}", file=sys.stderr)
            status = 2
        else:
            raise
    sys.exit(status)


class _Unbroken(io.TextIOBase):
    """A stream for printing that never raises: what nobody reads any more is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError:  # the reader of a pipe is gone, or the disk that a log goes to is full
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


def _print_whatever_happens() -> None:
    """Let no print end the work: characters that an encoding lacks are replaced, closed pipes ignored."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            setattr(sys, name, _Unbroken(stream))


class _Lines(io.TextIOBase):
    """What tqdm draws over one line, as lines of their own."""

    def write(self, text: str) -> int:
        line = text.strip("\r\n \x1b[A")
        if line:
            sys.stderr.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


class Bar(tqdm):
    """A progress bar on a terminal; elsewhere a plain line every half minute.

    Args:
        arguments: tqdm's.
    """

    def __init__(self, **arguments: Any) -> None:
        self.drawn = sys.stderr.isatty()
        # One step at least between two drawings, whatever went before: USRNet's few follow a search's many.
        pace: dict[str, Any] = {"delay": 0.1}
        if not self.drawn:
            pace = dict.fromkeys(("delay", "mininterval", "maxinterval"), LOG_INTERVAL)
            pace |= {"file": _Lines(), "leave": False}
        super().__init__(miniters=1, **pace, **arguments)

    def restart(self, total: int, done: int = 0) -> None:
        """Count to ``total`` from now on, from what was ``done`` before."""
        if self.drawn:
            self.reset(total=total)
        else:  # reset would print a line
            self.total, self.start_t = total, time.time()
        self.n = self.last_print_n = self.initial = done
