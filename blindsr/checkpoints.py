"""Weights on disk: read as plain tensors only, written whole or not at all."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blindsr.checks import as_typed
from blindsr.files import atomic_write

__all__ = [
    "check_resumable",
    "load_checkpoint",
    "load_optimizer",
    "load_state",
    "optimizer_state",
    "require_new",
    "save_checkpoint",
    "unwrapped",
]

# What trainings elsewhere put weights under.
_WRAPPERS = ("params", "params_ema", "state_dict", "model_state")
_NOT_TYPED = ("pictures", "processes")  # what a training's identity holds beside options
_PARALLEL = "module."  # what torch.nn.DataParallel puts before every name


def require_new(path: Path) -> None:
    """Raise ValueError where a training of before has left its last state at ``path``: it took hours."""
    if path.exists():
        raise ValueError(f"{path}: a training lies there; resume it with --restore-file, or choose another -o")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU with PyTorch's restricted unpickler: it can hold no code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; train them, or name other ones")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says all that the user needs
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged pickle can raise almost anything
        raise ValueError(
            f"{path}: not a file of plain tensors, so it is not loaded (damaged, or it holds code); "
            "use weights saved as a state_dict"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a state_dict")
    return content


def unwrapped(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The weights in a checkpoint that holds them under one of the usual names, and without ``module.`` before them.

    >>> unwrapped({"params": {"module.weight": 1}, "step": 3}, Path("weights.pt"))
    {'weight': 1}

    Raises:
        ValueError: there are several.
    """
    state = dict(content)
    wrappers = [name for name in _WRAPPERS if isinstance(state.get(name), Mapping)]
    if len(wrappers) > 1:
        raise ValueError(f"{path}: holds several weights ({', '.join(wrappers)}); save those to use as a state_dict")
    if wrappers:
        state = dict(state[wrappers[0]])
    if state and all(isinstance(name, str) and name.startswith(_PARALLEL) for name in state):
        state = {name.removeprefix(_PARALLEL): value for name, value in state.items()}
    return state


def load_state(module: nn.Module, state: Mapping[str, Any], path: Path, what: str) -> None:
    """Load ``state``, :func:`unwrapped`, into ``module``; a mismatch is told in one line that names the file.

    Args:
        what: what the weights should be for, as in "an x4 kernel prior".

    Raises:
        ValueError: keys or shapes differ from the module's.
    """
    state = unwrapped(state, path)
    expected = module.state_dict()
    for key, value in expected.items():
        if key not in state:
            raise ValueError(f"{path}: not the weights of {what} ('{key}' is missing)")
        found = state[key]
        if not isinstance(found, Tensor) or found.shape != value.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{path}: not the weights of {what} ('{key}' is {shape}, expected {tuple(value.shape)})")
        if not torch.isfinite(found).all():
            raise ValueError(f"{path}: '{key}' holds values that are not finite; the file is of no use")
    unknown = sorted(map(str, state.keys() - expected.keys()))
    if unknown:
        raise ValueError(f"{path}: not the weights of {what} ('{unknown[0]}' is unknown)")
    module.load_state_dict(state)


def check_resumable(
    state: dict[str, Any], settings: dict[str, Any], path: Path, defaults: Mapping[str, Any] | None = None
) -> None:
    """Check that a run can go on from ``state``, a checkpoint with the ``settings`` it was made with.

    Args:
        defaults: what settings that it lacks, being older than them, are taken for.

    Raises:
        ValueError: it holds none, or other ones; names the first that differs.
    """
    made_with = state.get("settings")
    if not isinstance(made_with, dict):
        raise ValueError(f"{path}: nothing to resume from; name the last checkpoint of a training")
    made_with = {**(defaults or {}), **made_with}
    for key in sorted(settings.keys() | made_with.keys()):
        then, now = made_with.get(key), settings.get(key)
        if then != now:
            option = {"scale_factor": "sf"}.get(key, key)
            shown = [f"{key} {value}" if key in _NOT_TYPED else as_typed(option, value) for value in (then, now)]
            raise ValueError(
                f"{path}: was made with other settings ({', now '.join(shown)}); "
                "repeat them, or start afresh without --restore-file"
            )


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values, whole or not at all."""
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimiser's next steps depend on, the parameters included; not a copy."""
    return {"parameters": [parameter.detach() for parameter in _parameters(optimizer)], **optimizer.state_dict()}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put an optimiser of the same parameters, and these in place, into a state of :func:`optimizer_state`."""
    optimizer.load_state_dict({key: value for key, value in state.items() if key != "parameters"})
    with torch.no_grad():
        for parameter, value in zip(_parameters(optimizer), state["parameters"], strict=True):
            parameter.copy_(value)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
