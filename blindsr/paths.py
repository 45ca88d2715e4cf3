"""Where things lie by default, whichever folder a command is started in."""

from pathlib import Path

__all__ = ["data_folder", "pretrained_path", "runs_folder", "shipped_dataset"]

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent


def _in_checkout() -> bool:
    return (_CHECKOUT / "data" / "pretrained_models").is_dir()


def data_folder() -> Path:
    """Where datasets and results lie: data/ of the checkout; outside one, the current folder."""
    return _CHECKOUT / "data" if _in_checkout() else Path.cwd()


def runs_folder() -> Path:
    """Where trainings write: runs/ of the checkout, or of the current folder where the package is installed."""
    return (_CHECKOUT if _in_checkout() else Path.cwd()) / "runs"


def pretrained_path(name: str) -> Path:
    """Where the shipped weights called ``name`` lie: in the checkout, or inside an installed wheel."""
    return (_CHECKOUT / "data" if _in_checkout() else _PACKAGE) / "pretrained_models" / name


def shipped_dataset(name: str) -> Path:
    """Where the dataset called ``name`` would lie if it ships (Test does)."""
    return (_CHECKOUT / "data" if _in_checkout() else _PACKAGE) / "datasets" / name
