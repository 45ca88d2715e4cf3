"""Checks of settings, with errors for the person who typed them."""

from collections.abc import Sequence
from typing import Protocol

from blindsr.kernels import SCALE_FACTORS

__all__ = [
    "as_typed",
    "require_between",
    "require_choice",
    "require_iterations_beyond_frozen",
    "require_positive",
    "require_scales",
    "require_unchanged",
]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def as_typed(name: str, value: object) -> str:
    """A setting as the command line takes it: ``--sigma 15``, ``--local``, ``--no-resume``; None is ``no --x``."""
    if value is None:
        return f"no {_option(name)}"
    if isinstance(value, bool):
        return _option(name if value else f"no_{name}")
    return f"{_option(name)} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}"


def require_positive(settings: object, *names: str) -> None:
    """Raise ValueError, naming the option, unless each attribute ``names`` of ``settings`` is above 0."""
    for name in names:
        value = getattr(settings, name)
        if not value > 0:
            raise ValueError(f"{_option(name)} {value}: must be above 0")


def require_between(settings: object, low: float, high: float, *names: str) -> None:
    """Raise ValueError, naming the option, unless each attribute ``names`` lies between ``low`` and ``high``."""
    for name in names:
        value = getattr(settings, name)
        if not low <= value <= high:
            raise ValueError(f"{_option(name)} {value}: must lie between {low} and {high}")


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError, naming the option, unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{_option(name)} {value}: must be one of {', '.join(choices)}")


def require_scales(scales: Sequence[int]) -> None:
    """Raise ValueError unless ``scales`` holds at least one scale factor, and known ones only."""
    if not scales or any(scale_factor not in SCALE_FACTORS for scale_factor in scales):
        given = " ".join(map(str, scales)) or "(none)"
        raise ValueError(f"--scales {given}: take some of {', '.join(map(str, SCALE_FACTORS))}")


class _Search(Protocol):
    @property
    def iterations(self) -> int: ...

    @property
    def frozen_iterations(self) -> int: ...


def require_iterations_beyond_frozen(settings: _Search) -> None:
    """Raise ValueError unless some iterations of a kernel search come after those in which the kernel is frozen."""
    iterations, frozen = settings.iterations, settings.frozen_iterations
    if not 0 <= frozen < iterations:
        raise ValueError(
            f"--iterations {iterations}: the kernel does not move in the first {frozen}; "
            "use more, or fewer --frozen-iterations"
        )


def require_unchanged(settings: object, given: object, names: Sequence[str], reason: str) -> None:
    """Raise ValueError, naming the option as typed, where one of ``names`` differs from its value in ``given``."""
    for name in names:
        value = getattr(settings, name)
        if value != getattr(given, name):
            raise ValueError(f"{as_typed(name, value)}: {reason}")
