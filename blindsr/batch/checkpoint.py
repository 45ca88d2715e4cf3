"""The state of a search that is under way, in a hidden file beside the results, .<image>.checkpoint."""

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from blindsr.checkpoints import load_checkpoint, save_checkpoint
from blindsr.files import move_file

__all__ = ["INTERVAL", "SearchFile", "checkpoint_path", "remove_checkpoint"]

log = logging.getLogger(__name__)

INTERVAL = 120.0
"""Seconds between two checkpoints; shorter searches write none."""


def checkpoint_path(folder: Path, name: str) -> Path:
    """Where the checkpoint of the picture called ``name`` lies."""
    return folder / f".{name}.checkpoint"


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, if there is one; whatever hinders that, no result suffers."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


class SearchFile:
    """A :class:`~blindsr.estimation.Checkpoint` in a file. One of another search, or a damaged one, counts for none.

    Args:
        path: of the file.
        made: an existing folder of the same file system, in which it is written before it is put into place. A kill
            can leave it half written there, so it should be one that is cleared.
        search: which search it is: what decides it, beside PyTorch's version.
    """

    def __init__(self, path: Path, made: Path, search: Mapping[str, Any]) -> None:
        self.path = path
        self.made = made
        decisive = {**search, "torch": torch.__version__}
        # In plain values, as it will be read back.
        self.search: dict[str, Any] = json.loads(json.dumps(decisive, default=str))
        self._last = time.monotonic()
        self._refused = False

    def load(self) -> dict[str, Any] | None:
        """The state last saved of this search; None where there is none."""
        try:
            content = load_checkpoint(self.path)
        except (FileNotFoundError, ValueError):
            return None
        state = content.get("state")
        return state if content.get("search") == self.search and isinstance(state, dict) else None

    def due(self) -> bool:
        """Whether :data:`INTERVAL` has passed."""
        return not self._refused and time.monotonic() - self._last >= INTERVAL

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state``, whole or not at all. A disk that is full ends the checkpoints, not the search."""
        written = self.made / self.path.name
        try:
            save_checkpoint(written, {"search": self.search, "state": state})
            move_file(written, self.path)
        except (OSError, RuntimeError) as error:  # PyTorch makes the latter of the former
            self._refused = True
            reason = str(error).split("\n")[0]
            log.warning(
                "%s: no checkpoint can be written, so a search cannot go on from there (%s)", self.path, reason
            )
        finally:
            written.unlink(missing_ok=True)  # or it would be taken for a result
        self._last = time.monotonic()
