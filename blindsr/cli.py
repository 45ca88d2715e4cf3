"""From a dataclass to a command: parsing, one-line errors, exit statuses. Every ``main.py`` goes through here."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro

__all__ = ["REPOSITORY", "parse", "run"]

REPOSITORY = Path(__file__).resolve().parent.parent
"""Root of the checkout: what default paths start from, whichever folder a command is started in."""

Options = TypeVar("Options")


def parse(options: type[Options], description: str, default: Options | None = None) -> Options:
    """Make ``options`` from the command line; a wrong option prints why and exits with status 2.

    Args:
        options: a frozen dataclass whose field docstrings become the help.
        default: an instance whose values are the defaults instead of the class's.
    """
    return tyro.cli(
        options,
        description=description,
        default=default,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )


def run(main: Callable[[], int]) -> None:
    """Run ``main`` and exit with its status; what the user can mend is one line and status 2."""
    logging.basicConfig(format="note: %(message)s", level=logging.WARNING)
    try:
        status = main()
    except (ValueError, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        status = 130
    sys.exit(status)
