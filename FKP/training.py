"""Maximum-likelihood training of the kernel prior on kernels drawn on the fly (FKP, section 4.1)."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blindsr.checkpoints import check_resumable, load_checkpoint, require_new, save_checkpoint
from blindsr.checks import require_between, require_positive
from blindsr.initialization import draw_parameters
from blindsr.metrics import kernel_psnr
from FKP.flow import FlowBatchNorm
from FKP.prior import GAUSSIAN, FlowShape, KernelPrior
from FKP.sources import KernelSource

__all__ = [
    "PriorSettings",
    "negative_log_likelihood",
    "normal_reference",
    "reconstruction",
    "train",
    "weights_name",
]

CHUNK = 5000
"""Kernels drawn at once while training: many batches, so that drawing costs next to nothing."""
WIDER, DEEPER = 64, 10
"""Hidden width and blocks of a flow over other kernels than Gaussians, which have more than three parameters."""


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
    hidden: int | None = None
    """Width of the flow's hidden layers. Without it, of Gaussian kernels the paper's (15 to 25), of others 64."""
    blocks: int | None = None
    """Blocks of the flow. Without it, of Gaussian kernels 5 (paper: 5), of others 10."""
    weight_decay: float = 1e-6
    """Weight decay of Adam (paper: 1e-6)."""
    validate_every: int = 5
    """Epochs between validations and checkpoints."""
    seed: int = 0
    """Seed of the initial weights and of every draw."""

    def __post_init__(self) -> None:
        require_positive(self, "epochs", "kernels_per_epoch", "learning_rate", "validate_every")
        for name, most in (("hidden", 2048), ("blocks", 64)):
            if getattr(self, name) is not None:
                require_between(self, 1, most, name)
        if self.batch < 2:
            raise ValueError("--batch must be at least 2: batch normalisation needs a variance")
        if self.kernels_per_epoch % self.batch:
            raise ValueError(
                f"--kernels-per-epoch {self.kernels_per_epoch}: must be a multiple of --batch {self.batch}"
            )


@torch.no_grad()
def calibrate(prior: KernelPrior, source: KernelSource, generator: torch.Generator, count: int = 20_000) -> None:
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
    prior.log_prob(source.draw(count, generator), generator)
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


@torch.no_grad()
def normal_reference(prior: KernelPrior, source: KernelSource, count: int = 10_000) -> float:
    """Mean −log p in nats per held-out kernel under a normal distribution fitted to fresh kernels.

    In the same space as the flow's: a flow that is not below it has learnt less than their mean and covariance.

    Args:
        prior: says what that space is; its weights do not matter.
        count: fresh kernels.
    """
    generator = torch.Generator().manual_seed(0)
    device = prior.base_dist_mean.device
    fresh, held_out = source.draw(count, generator).to(device), source.held_out().to(device)
    logits = prior._to_logits(fresh, generator).cpu().double()
    covariance = torch.cov(logits.T) + 1e-6 * torch.eye(logits.shape[1], dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(logits.mean(dim=0), covariance)
    return -float(normal.log_prob(prior._to_logits(held_out, generator).cpu().double()).mean())


def reconstruction(prior: KernelPrior, kernels: Tensor) -> Tensor:
    """Kernel PSNR in dB of the prior's nearest kernels (:meth:`~FKP.prior.KernelPrior.invert`), shape (N,).

    What a search of the latent space can reach at best.

    Args:
        kernels: N×1×side×side.
    """
    found = prior.decode(prior.invert(kernels))
    return torch.tensor([kernel_psnr(k, true) for k, true in zip(found.split(1), kernels.split(1), strict=True)])


def weights_name(source: KernelSource, which: str) -> str:
    """Name of the file with the ``which`` weights: "best" or "last"."""
    kernels = "" if source.name == GAUSSIAN else f"_{source.name}"
    return f"FKP{kernels}_x{source.scale_factor}_{which}.pt"


def train(
    source: KernelSource,
    settings: PriorSettings,
    folder: Path,
    device: torch.device,
    resume: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> KernelPrior:
    """Train a prior; write its best and last (resumable) weights, :func:`weights_name`, into ``folder``.

    Both hold ``model_state`` and what the prior was made for, so :meth:`KernelPrior.from_pretrained` reads either.

    Args:
        source: of the kernels.
        resume: a last checkpoint of the same settings; the run goes on exactly as if it had not been broken off.
        on_epoch: called after every epoch with its log entry: epoch, loss, and nll and error where validated.

    Returns:
        The trained prior, in evaluation mode.

    Raises:
        ValueError: ``resume`` was made with other settings, kernels or for another scale, or there is none and
            ``folder`` holds another training of that name; or the training diverged.
    """
    run = _Run.begin(source, settings, folder, device)
    if resume is None:
        require_new(run.path("last"))
    else:
        run.resume(resume)
    validation = source.held_out().to(device)
    for epoch in range(run.epoch, settings.epochs):
        entry: dict[str, Any] = {"epoch": epoch + 1, "loss": run.train_one_epoch()}
        _require_finite(entry["loss"], epoch)
        if (epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs:
            calibrate(run.prior, source, torch.Generator(device).manual_seed(settings.seed + 1))
            entry["nll"], entry["error"] = negative_log_likelihood(run.prior, validation)
            _require_finite(entry["nll"], epoch)
            run.save(entry["nll"])
        if on_epoch is not None:
            on_epoch(entry)
    return run.prior.eval()


def _require_finite(value: float, epoch: int) -> None:
    if not math.isfinite(value):
        raise ValueError(f"the training diverged in epoch {epoch + 1}; use a smaller --learning-rate")


def _shape(source: KernelSource, settings: PriorSettings) -> FlowShape:
    """The flow's sizes: as set, else the paper's for Gaussians, larger for others."""
    published = FlowShape.published(source.scale_factor)
    if source.name != GAUSSIAN:
        published = FlowShape(source.side, WIDER, DEEPER)
    return FlowShape(source.side, settings.hidden or published.hidden, settings.blocks or published.blocks)


@dataclass
class _Run:
    """A training with its state."""

    prior: KernelPrior
    source: KernelSource
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
    def begin(cls, source: KernelSource, settings: PriorSettings, folder: Path, device: torch.device) -> "_Run":
        prior = KernelPrior(source.scale_factor, _shape(source, settings), source.name, source.largest)
        draw_parameters(prior, torch.Generator().manual_seed(settings.seed))
        prior = prior.to(device)
        optimizer = torch.optim.Adam(
            prior.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        milestones = [max(1, settings.epochs * tenth // 10) for tenth in (4, 5, 6, 7, 8, 9)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5)
        generator = torch.Generator(device).manual_seed(settings.seed)
        return cls(prior, source, settings, folder, generator, optimizer, schedule)

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed training must have in common with the one it goes on with."""
        return {
            **asdict(self.settings),
            "scale_factor": self.source.scale_factor,
            "kernels": self.source.identity,
        }

    def path(self, which: str) -> Path:
        return self.folder / weights_name(self.source, which)

    def resume(self, path: Path) -> None:
        state = load_checkpoint(path)
        # What is older than the other kernels was trained on Gaussians.
        check_resumable(state, self.identity, path, {"kernels": GAUSSIAN, "hidden": None, "blocks": None})
        if state["epoch"] >= self.settings.epochs:
            raise ValueError(f"{path}: this training is finished; its best weights lie beside it")
        save_checkpoint(self.path("best"), {"model_state": state["best_state"], **self.prior.description})
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
            kernels = self.source.draw(count, self.generator)
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
            save_checkpoint(self.path("best"), {"model_state": weights, **self.prior.description})
        state = {
            "model_state": weights,
            **self.prior.description,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "settings": self.identity,
            "epoch": self.epoch,
            "best": self.best,
            "best_state": self.best_state,
        }
        save_checkpoint(self.path("last"), state)
