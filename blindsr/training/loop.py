"""Training a network on draws made on the fly, in one process or several: averaged weights, exact resuming."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from blindsr.checkpoints import check_resumable, load_checkpoint, require_new, save_checkpoint
from blindsr.checks import require_between, require_positive, require_scales
from blindsr.devices import DeviceName, pick_device
from blindsr.figures import save_training_log
from blindsr.training.optimizers import MuonAdam

__all__ = [
    "OnValidation",
    "Training",
    "TrainingSettings",
    "fit",
    "process_count",
    "process_rank",
    "training_device",
]

Network = TypeVar("Network", bound=nn.Module)
OnValidation = Callable[[dict[str, Any]], None]
"""Called with the log entry of each validation: step, median loss since the last, scores by scale factor, seconds."""


@dataclass(frozen=True)
class TrainingSettings:
    """What the trainings of all networks have in common; each sets its own numbers."""

    steps: int
    """Optimiser steps of the whole schedule; the cosine ends there."""
    learning_rate: float
    """Peak rate of Adam, after a linear warm-up and before a cosine decay to 1 %."""
    muon_rate: float
    """Peak rate of Muon, which the hidden convolutions are trained with."""
    clip: float
    """Largest gradient norm."""
    held_out: int
    """Pictures left out of the training, the last by name, for validation."""
    sigma_max: float
    """Largest noise level, in grey levels of 255."""
    warmup: int = 200
    """Steps of linear warm-up."""
    scales: tuple[int, ...] = (2, 2, 3, 3, 4, 4, 8)
    """Each step takes one of these scale factors, all equally likely."""
    ema: float = 0.999
    """Decay of the exponential moving average of the weights, which is what is saved as the result."""
    validate_every: int = 1000
    """Steps between validations and checkpoints."""
    seed: int = 0
    """Seed of the initial weights and of every draw."""

    def __post_init__(self) -> None:
        require_positive(self, "steps", "learning_rate", "muon_rate", "validate_every", "held_out", "clip")
        require_between(self, 0, 1, "ema")
        require_between(self, 0, 255, "sigma_max")
        require_between(self, 0, 2**32 - 1, "seed")
        require_scales(self.scales)


@contextmanager
def training_device(name: DeviceName) -> Iterator[torch.device]:
    """The device to train on. Under ``torchrun`` also joins the other processes: each CUDA device has its own."""
    device = pick_device(name)
    if not dist.is_torchelastic_launched():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def process_count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank() -> int:
    """This process's number among them; 0 reports and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The source of one step's draws in one process, so that a resumed run repeats those of an unbroken one."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a cosine from 1 to 0.01."""
    warm = min(1.0, (step + 1) / max(1, warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return warm * (0.01 + 0.99 * cosine)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """With lists instead of tuples, which survive a restricted load."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


@dataclass(frozen=True)
class Training(Generic[Network]):
    """What is trained, and how one knows that it is good."""

    net: Network
    average: Network
    """The same network; keeps the exponential moving average of the weights, and the result."""
    draw_loss: Callable[[nn.Module, torch.Generator], Tensor]
    """Draws this process's batch from the generator alone; returns the loss on it of the module given."""
    validate: Callable[[], dict[int, float]]
    """Scores of ``average`` by scale factor, larger is better; the best mean is kept as ``best.pth``."""
    weights_name: str
    """Name of the file of averaged weights."""
    score_name: str
    """What ``validate`` returns, with its unit."""


@dataclass
class _Progress:
    """How far a training has come."""

    step: int = 0
    best: float = -math.inf
    log: list[dict[str, Any]] = field(default_factory=list)


def fit(
    training: Training[Network],
    settings: TrainingSettings,
    images: list[Tensor],
    folder: Path,
    resume: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    on_validation: OnValidation | None = None,
) -> None:
    """Train a network; write averaged weights, ``last.pt`` (resumable), ``training.png`` to ``folder``.

    Where several processes train together, each calls this with its own network, draws its own batches, and steps
    along the mean of all gradients; the first one validates, writes and reports.

    Args:
        settings: the whole dataclass counts as the training's identity; resuming with another one is refused.
        images: C×H×W uint8; part of that identity, since draws depend on them.
        resume: a ``last.pt`` to go on from, with the same draws as an unbroken run.
        on_step: called with (step, loss).

    Raises:
        ValueError: the loss diverged, ``resume`` was made with other settings or pictures, or there is none and
            ``folder`` holds another training.
    """
    if resume is None:
        require_new(folder / "last.pt")
    net = training.net
    model: nn.Module = DistributedDataParallel(net) if process_count() > 1 else net
    optimizer = MuonAdam(net, settings.learning_rate, settings.muon_rate)
    identity = _identity(settings, images)
    progress = _Progress() if resume is None else _resumed(resume, training, settings, optimizer, identity)
    losses = []
    began = time.perf_counter() - (progress.log[-1]["seconds"] if progress.log else 0)
    for step in range(progress.step, settings.steps):
        loss = training.draw_loss(model, step_generator(settings.seed, step, process_rank()))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
        optimizer.step(learning_rate_factor(step, settings.steps, settings.warmup))
        _average(training, min(settings.ema, (1 + step) / (10 + step)))
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise ValueError(f"the training diverged at step {step + 1}; use smaller --learning-rate and --muon-rate")
        if process_rank() > 0:
            continue
        if on_step is not None:
            on_step(step + 1, losses[-1])
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            entry = {
                "step": step + 1,
                "loss": float(np.median(losses)),
                "scores": training.validate(),
                "seconds": time.perf_counter() - began,
            }
            losses = []
            progress.step = step + 1
            progress.log.append(entry)
            _save(training, optimizer, identity, progress, folder)
            if on_validation is not None:
                on_validation(entry)


def _identity(settings: TrainingSettings, images: list[Tensor]) -> dict[str, Any]:
    """What a resumed training must have in common with the one it goes on with."""
    pictures = [len(images), sum(int(image.sum()) for image in images)]
    return {**_plain(asdict(settings)), "pictures": pictures, "processes": process_count()}


def _resumed(
    path: Path,
    training: Training[Network],
    settings: TrainingSettings,
    optimizer: MuonAdam,
    identity: dict[str, Any],
) -> _Progress:
    """Put networks and optimiser into the state of a checkpoint."""
    state = load_checkpoint(path)
    check_resumable(state, identity, path, _plain({each.name: each.default for each in fields(settings)}))
    if state.get("step", 0) >= settings.steps:
        raise ValueError(f"{path}: this training is finished; its weights lie beside it")
    try:
        training.net.load_state_dict(state["net"])
        training.average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        return _Progress(state["step"], state["best"], state["log"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not a checkpoint of this training; resume from a last.pt") from error


@torch.no_grad()
def _average(training: Training[Network], decay: float) -> None:
    for mean, parameter in zip(training.average.parameters(), training.net.parameters(), strict=True):
        mean.lerp_(parameter, 1 - decay)


def _save(
    training: Training[Network], optimizer: MuonAdam, identity: dict[str, Any], progress: _Progress, folder: Path
) -> None:
    """Write weights, checkpoint and log of a validation."""
    weights = {key: value.contiguous().cpu() for key, value in training.average.state_dict().items()}
    score = float(np.mean(list(progress.log[-1]["scores"].values())))
    if score > progress.best:
        progress.best = score
        save_checkpoint(folder / "best.pth", weights)
    save_checkpoint(folder / training.weights_name, weights)
    state = {
        "settings": identity,
        "net": training.net.state_dict(),
        "average": training.average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "best": progress.best,
        "log": progress.log,
    }
    save_checkpoint(folder / "last.pt", state)
    save_training_log(folder / "training.png", progress.log, training.score_name)
