"""Maximum-likelihood training of the kernel prior on kernels drawn on the fly (FKP, section 4.1)."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.checkpoints import check_resumable, load_checkpoint, save_checkpoint
from blindsr.checks import require_positive
from blindsr.initialization import draw_parameters
from blindsr.kernels import gaussian_kernels, kernel_side, random_kernels, variance_range
from FKP.flow import FlowBatchNorm
from FKP.prior import KernelPrior

__all__ = ["PriorSettings", "negative_log_likelihood", "train", "validation_kernels"]

CHUNK = 5000
"""Kernels drawn at once while training: many batches, so that drawing costs next to nothing."""


@dataclass(frozen=True)
class PriorSettings:
    """How the prior is trained; in brackets what the paper, section 4.1, takes."""

    epochs: int = 100
    """Epochs (paper: 100)."""
    kernels_per_epoch: int = 50_000
    """Fresh kernels per epoch (paper: 50 000)."""
    batch: int = 100
    """Kernels per step (paper: 100)."""
    learning_rate: float = 1e-3
    """Rate of Adam (paper: 1e-4), halved at epochs 40, 50, 60, 70, 80 and 90 of 100."""
    weight_decay: float = 1e-6
    """Weight decay of Adam (paper: 1e-6)."""
    validate_every: int = 5
    """Epochs between validations and checkpoints."""
    seed: int = 0
    """Seed of the initial weights and of every draw."""

    def __post_init__(self) -> None:
        require_positive(self, "epochs", "kernels_per_epoch", "learning_rate", "validate_every")
        if self.batch < 2:
            raise ValueError("--batch must be at least 2: batch normalisation needs a variance")
        if self.kernels_per_epoch % self.batch:
            raise ValueError(
                f"--kernels-per-epoch {self.kernels_per_epoch}: must be a multiple of --batch {self.batch}"
            )


def validation_kernels(scale_factor: int) -> Tensor:
    """The official validation grid: all λ1, λ2 in steps of 0.3 pixels² and θ in steps of 0.2.

    Returns:
        N×1×k×k float32 (4 624 kernels at x2, 17 424 at x4).
    """
    low, high = variance_range(scale_factor)
    lambdas = torch.arange(low, high + 0.3, 0.3, dtype=torch.float64)
    thetas = torch.arange(0, math.pi, 0.2, dtype=torch.float64)
    grid = torch.cartesian_prod(lambdas, lambdas, thetas)
    kernels = gaussian_kernels(grid[:, 0], grid[:, 1], grid[:, 2], kernel_side(scale_factor), scale_factor)
    return kernels.float()


@torch.no_grad()
def calibrate(prior: KernelPrior, generator: torch.Generator, count: int = 20_000) -> None:
    """Set the running statistics of the flow's batch norms to those of ``count`` fresh kernels.

    Evaluation and the inverse use the running statistics. An average over the last few batches of 100 is a poor
    estimate of them at larger learning rates: the likelihood of held-out kernels can be hundreds of nats worse
    than that of the training batches.
    """
    norms = [layer for layer in prior.net if isinstance(layer, FlowBatchNorm)]
    momenta = [norm.momentum for norm in norms]
    was_training = prior.training
    prior.train()
    for norm in norms:
        norm.momentum = 0.0
    prior.log_prob(random_kernels(count, prior.scale_factor, generator), generator)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    prior.train(was_training)


@torch.no_grad()
def negative_log_likelihood(prior: KernelPrior, kernels: Tensor, seed: int = 0) -> tuple[float, float]:
    """Mean −log p in nats per kernel, and two standard errors of that mean.

    Args:
        prior: put into evaluation mode for the while.
        seed: of the dequantisation noise; the same seed gives the same noise for any weights.
    """
    was_training = prior.training
    prior.eval()
    generator = torch.Generator().manual_seed(seed)
    values = -torch.cat([prior.log_prob(chunk, generator) for chunk in kernels.split(CHUNK)]).cpu().double()
    prior.train(was_training)
    return float(values.mean()), float(2 * values.std() / math.sqrt(len(values)))


def train(
    scale_factor: int,
    settings: PriorSettings,
    folder: Path,
    device: torch.device,
    resume: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> KernelPrior:
    """Train a prior; write ``FKP_x<s>_best.pt`` and ``FKP_x<s>_last.pt`` (resumable) into ``folder``.

    Both hold ``model_state``, so :meth:`KernelPrior.from_pretrained` reads either.

    Args:
        resume: a last checkpoint of the same settings; the run goes on exactly as if it had not been broken off.
        on_epoch: called after every epoch with its log entry: epoch, loss, and nll and error where validated.

    Returns:
        The trained prior, in evaluation mode.

    Raises:
        ValueError: ``resume`` was made with other settings or for another scale.
    """
    run = _Run.begin(scale_factor, settings, folder, device)
    if resume is not None:
        run.resume(resume)
    validation = validation_kernels(scale_factor).to(device)
    for epoch in range(run.epoch, settings.epochs):
        entry: dict[str, Any] = {"epoch": epoch + 1, "loss": run.train_one_epoch()}
        if not math.isfinite(entry["loss"]):
            raise ValueError(f"the training diverged in epoch {epoch + 1}; use a smaller --learning-rate")
        if (epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs:
            calibrate(run.prior, torch.Generator(device).manual_seed(settings.seed + 1))
            entry["nll"], entry["error"] = negative_log_likelihood(run.prior, validation)
            run.save(entry["nll"])
        if on_epoch is not None:
            on_epoch(entry)
    return run.prior.eval()


@dataclass
class _Run:
    """A training with its state."""

    prior: KernelPrior
    settings: PriorSettings
    folder: Path
    generator: torch.Generator
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    epoch: int = 0
    """Epochs done."""
    best: float = math.inf
    """Smallest −log p of a validation."""
    best_state: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def begin(cls, scale_factor: int, settings: PriorSettings, folder: Path, device: torch.device) -> "_Run":
        prior = KernelPrior(scale_factor)
        draw_parameters(prior, torch.Generator().manual_seed(settings.seed))
        prior = prior.to(device)
        optimizer = torch.optim.Adam(
            prior.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        milestones = [max(1, settings.epochs * tenth // 10) for tenth in (4, 5, 6, 7, 8, 9)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5)
        return cls(prior, settings, folder, torch.Generator(device).manual_seed(settings.seed), optimizer, schedule)

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed training must have in common with the one it goes on with."""
        return {**asdict(self.settings), "scale_factor": self.prior.scale_factor}

    def path(self, which: str) -> Path:
        return self.folder / f"FKP_x{self.prior.scale_factor}_{which}.pt"

    def resume(self, path: Path) -> None:
        state = load_checkpoint(path)
        check_resumable(state, self.identity, path)
        if state["epoch"] >= self.settings.epochs:
            raise ValueError(f"{path}: this training is finished; its best weights lie beside it")
        save_checkpoint(self.path("best"), {"model_state": state["best_state"]})
        self.prior.load_state_dict(state["model_state"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.epoch, self.best, self.best_state = state["epoch"], state["best"], state["best_state"]

    def train_one_epoch(self) -> float:
        """Returns the mean loss."""
        settings, prior = self.settings, self.prior
        prior.train()
        total, steps = torch.zeros((), device=self.generator.device), 0
        chunk = max(1, CHUNK // settings.batch) * settings.batch
        for start in range(0, settings.kernels_per_epoch, chunk):
            count = min(chunk, settings.kernels_per_epoch - start)
            kernels = random_kernels(count, prior.scale_factor, self.generator)
            for batch in prior._to_logits(kernels, self.generator).split(settings.batch):
                loss = -prior.log_prob_logits(batch).mean()
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                total += loss.detach()
                steps += 1
        self.schedule.step()
        self.epoch += 1
        return float(total) / steps

    def save(self, nll: float) -> None:
        """Write the weights if they are the best so far, and what to resume from."""
        weights = {key: value.cpu() for key, value in self.prior.state_dict().items()}
        if nll < self.best:
            self.best, self.best_state = nll, weights
            save_checkpoint(self.path("best"), {"model_state": weights})
        state = {
            "model_state": weights,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "settings": self.identity,
            "epoch": self.epoch,
            "best": self.best,
            "best_state": self.best_state,
        }
        save_checkpoint(self.path("last"), state)
