"""Where things lie by default, whichever folder a command is started in."""

from pathlib import Path

__all__ = ["DATA", "RUNS", "pretrained_path"]

_REPOSITORY = Path(__file__).resolve().parent.parent

DATA = _REPOSITORY / "data"
"""Data sets, shipped weights and results."""

RUNS = _REPOSITORY / "runs"
"""Training runs."""


def pretrained_path(name: str) -> Path:
    """Where the shipped weights called ``name`` lie: in the checkout, or inside an installed wheel."""
    checkout = DATA / "pretrained_models"
    return (checkout if checkout.is_dir() else Path(__file__).resolve().parent / "pretrained_models") / name
