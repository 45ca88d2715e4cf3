"""Train the kernel prior, evaluate its likelihood, or draw kernels from it."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from blindsr.command import Bar, parse, run
from blindsr.devices import DeviceName, pick_device
from blindsr.figures import save_kernel_grid
from blindsr.files import probe_folder
from blindsr.kernel_families import FAMILIES
from blindsr.paths import pretrained_path, runs_folder
from FKP.prior import GAUSSIAN, KernelPrior
from FKP.sources import KernelSource, kernel_source
from FKP.training import (
    PriorSettings,
    negative_log_likelihood,
    normal_reference,
    reconstruction,
    train,
    weights_name,
)

log = logging.getLogger(__name__)

INVERTED = 200
"""Validation kernels whose nearest kernel of the prior is looked for."""


@dataclass(frozen=True)
class Options:
    """What ``python main.py`` takes."""

    train: bool = False
    """Train on random kernels, then evaluate and draw samples."""
    evaluate: bool = False
    """Print −log p on the validation kernels, and how near to them the prior's nearest kernels come."""
    generate: bool = False
    """Draw 100 kernels, sorted by likelihood, into one picture."""
    sf: Literal[1, 2, 3, 4, 8] = 2
    """Scale factor."""
    kernels: Annotated[str | None, tyro.conf.arg(metavar="SOURCE")] = None
    """Kernels to train and validate on: gaussian, motion (camera shake), disk (out of focus), mixed (a third each),
    or a folder of .mat, .npy or .png kernels of one side. Without it gaussian, or what given weights know."""
    scaling: tuple[float, float] = (1.0, 1.0)
    """With a folder: by how much its kernels are also made narrower and wider, as 0.8 1.25."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Where checkpoints and pictures go; without it, runs/prior."""
    restore_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --train: an FKP_x<sf>_last.pt to resume from. Else: the weights to use instead of the shipped ones."""
    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA or MPS where there is one."""
    training: PriorSettings = field(default_factory=PriorSettings)


def source_of(options: Options, kernels: str | None) -> KernelSource:
    """The kernels that ``options`` name, without that ``kernels``.

    Raises:
        ValueError, FileNotFoundError: there are none.
    """
    named = options.kernels or kernels or GAUSSIAN
    if options.kernels is None and named not in FAMILIES:
        raise ValueError(f"{options.restore_file}: trained on a folder called {named}; name it with --kernels")
    return kernel_source(named, options.sf, options.scaling, options.training.seed)


def run_training(options: Options, source: KernelSource, folder: Path) -> Path:
    """Returns where the best weights lie."""
    settings = options.training
    bar = Bar(total=settings.epochs, unit="epoch")

    def on_epoch(entry: dict[str, Any]) -> None:
        bar.update(entry["epoch"] - bar.n)
        bar.set_postfix(loss=f"{entry['loss']:.2f}")
        if "nll" in entry:
            bar.write(f"epoch {entry['epoch']}: -log p = {entry['nll']:.3f} ± {entry['error']:.3f} nats")

    with bar:
        train(source, settings, folder, pick_device(options.device), options.restore_file, on_epoch)
    return folder / weights_name(source, "best")


def evaluate(prior: KernelPrior, source: KernelSource) -> None:
    """Print how well the prior knows kernels that it was not trained on."""
    kernels = source.held_out().to(prior.base_dist_mean.device)
    nll, error = negative_log_likelihood(prior, kernels)
    reference = normal_reference(prior, source)
    print(
        f"x{source.scale_factor}: -log p = {nll:.3f} ± {error:.3f} nats per kernel ({len(kernels)} kernels); "
        f"a normal distribution fitted to such kernels has {reference:.3f}"
    )
    if nll > reference:
        log.warning(
            "these kernels are likelier under that normal distribution than under the prior, which knows little of "
            "them; train it on them anew, with more --epochs or, where it diverged, a smaller --learning-rate"
        )
    chosen = kernels[:: max(1, len(kernels) // INVERTED)][:INVERTED]
    near = reconstruction(prior, chosen)
    worst = float(near.quantile(0.1))
    print(
        f"nearest kernels: {float(near.mean()):.1f} dB kernel PSNR, a tenth below {worst:.1f} ({len(near)} kernels)"
    )


def main() -> int:
    options = parse(Options, __doc__ or "")
    if not (options.train or options.evaluate or options.generate):
        raise ValueError("say what to do: --train, --evaluate or --generate")
    folder = options.output_dir or runs_folder() / "prior"
    source = source_of(options, None) if options.train else None
    if options.train or options.generate:
        probe_folder(folder)
    if source is not None:
        path = run_training(options, source, folder)
    else:
        path = options.restore_file or pretrained_path(f"FKP_x{options.sf}.pt")
    prior = KernelPrior.from_pretrained(options.sf, path)
    print(f"weights: {path}")
    prior = prior.to(pick_device(options.device))
    if options.train or options.evaluate:
        source = source or source_of(options, prior.kernels)
        if source.side != prior.side:
            raise ValueError(
                f"{path}: its kernels are {prior.side}×{prior.side}, those of {source.name} "
                f"{source.side}×{source.side}; evaluate it on kernels of its own side"
            )
        evaluate(prior, source)
    if options.train or options.generate:
        generator = torch.Generator().manual_seed(options.training.seed)
        samples = prior.sample(100, generator)
        order = torch.argsort(prior.log_prob(samples), descending=True)
        kernels = "" if prior.kernels == GAUSSIAN else f"_{prior.kernels}"
        picture = folder / f"FKP{kernels}_x{options.sf}_samples.png"
        save_kernel_grid(picture, samples[order])
        print(f"samples: {picture}")
    return 0


if __name__ == "__main__":
    run(main)
