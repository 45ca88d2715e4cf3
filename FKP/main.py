"""Train the kernel prior, evaluate its likelihood, or draw kernels from it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from blindsr.command import Bar, parse, run
from blindsr.devices import DeviceName, pick_device
from blindsr.figures import save_kernel_grid
from blindsr.paths import pretrained_path, runs_folder
from FKP.prior import KernelPrior
from FKP.training import PriorSettings, negative_log_likelihood, train, validation_kernels


@dataclass(frozen=True)
class Options:
    """What ``python main.py`` takes."""

    train: bool = False
    """Train on random kernels, then evaluate and draw samples."""
    evaluate: bool = False
    """Print −log p on the validation kernels."""
    generate: bool = False
    """Draw 100 kernels, sorted by likelihood, into one picture."""
    sf: Literal[1, 2, 3, 4, 8] = 2
    """Scale factor."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], help_behavior_hint="")] = None
    """Where checkpoints and pictures go; without it, runs/prior."""
    restore_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --train: an FKP_x<sf>_last.pt to resume from. Else: the weights to use instead of the shipped ones."""
    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA or MPS where there is one."""
    training: PriorSettings = field(default_factory=PriorSettings)


def run_training(options: Options, folder: Path) -> KernelPrior:
    settings = options.training
    bar = Bar(total=settings.epochs, unit="epoch")

    def on_epoch(entry: dict[str, Any]) -> None:
        bar.update(entry["epoch"] - bar.n)
        bar.set_postfix(loss=f"{entry['loss']:.2f}")
        if "nll" in entry:
            bar.write(f"epoch {entry['epoch']}: -log p = {entry['nll']:.3f} ± {entry['error']:.3f} nats")

    with bar:
        train(
            options.sf,
            settings,
            folder,
            pick_device(options.device),
            options.restore_file,
            on_epoch,
        )
    best = folder / f"FKP_x{options.sf}_best.pt"
    print(f"weights: {best}")
    return KernelPrior.from_pretrained(options.sf, best)


def main() -> int:
    options = parse(Options, __doc__ or "")
    if not (options.train or options.evaluate or options.generate):
        raise ValueError("say what to do: --train, --evaluate or --generate")
    folder = options.output_dir or runs_folder() / "prior"
    if options.train:
        prior = run_training(options, folder)
    else:
        path = options.restore_file or pretrained_path(f"FKP_x{options.sf}.pt")
        prior = KernelPrior.from_pretrained(options.sf, path)
        print(f"weights: {path}")
    prior = prior.to(pick_device(options.device))
    if options.train or options.evaluate:
        kernels = validation_kernels(options.sf).to(prior.base_dist_mean.device)
        nll, error = negative_log_likelihood(prior, kernels)
        print(f"x{options.sf}: -log p = {nll:.3f} ± {error:.3f} nats per kernel ({len(kernels)} kernels)")
    if options.train or options.generate:
        generator = torch.Generator().manual_seed(options.training.seed)
        samples = prior.sample(100, generator)
        order = torch.argsort(prior.log_prob(samples), descending=True)
        picture = folder / f"FKP_x{options.sf}_samples.png"
        save_kernel_grid(picture, samples[order])
        print(f"samples: {picture}")
    return 0


if __name__ == "__main__":
    run(main)
