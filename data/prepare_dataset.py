"""Make the LR pictures and blur kernels of a dataset from its HR pictures (data/datasets/<name>/HR)."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from torch import Tensor

from blindsr.batch.inputs import dataset_folder
from blindsr.batch.prepare import DrawKernel, prepare
from blindsr.command import Bar, parse, run
from blindsr.kernels import centre, kernel_side, kernel_x4_from_x2, random_kernels_numpy, variance_range

DataModel = Literal["DIPFKP", "KernelGANFKP"]
"""Whose test kernels: they differ in size and range (KernelGAN's x4 kernels follow from x2 ones)."""


@dataclass(frozen=True)
class Options:
    """What ``python prepare_dataset.py`` takes."""

    model: DataModel = "DIPFKP"
    """Whose test kernels to draw."""
    sf: Literal[1, 2, 3, 4, 8] = 2
    """Scale factor; KernelGANFKP has 2 and 4. At 1 the pictures are blurred and keep their size."""
    dataset: Annotated[str, tyro.conf.arg(aliases=["-d"])] = "Test"
    """A name under data/datasets, or the path of a folder that holds HR."""
    noise_ker: float = 0.0
    """Level of multiplicative noise on the kernels, 0 to 1."""
    noise_im: float = 0.0
    """Largest σ of Gaussian noise on the LR pictures (range 0 to 1); each picture's σ is drawn below it."""
    seed: int = 1
    """Seed of all draws; 1 gives the published test sets."""
    overwrite: bool = False
    """Replace LR pictures and kernels that are there and differ; without it they are left alone."""


def dipfkp_kernel(rng: np.random.RandomState, scale_factor: int, noise: float) -> Tensor:
    """A test kernel of DIP-FKP, 1×1×k×k float64 (FKP, section 4.1)."""
    return random_kernels_numpy(rng, scale_factor, kernel_side(scale_factor), variance_range(scale_factor), noise)


def kernelganfkp_kernel(rng: np.random.RandomState, scale_factor: int, noise: float) -> Tensor:
    """A test kernel of KernelGAN-FKP: of x2, or the x4 one that follows from it; 1×1×k×k float64."""
    kernel = random_kernels_numpy(rng, 2, 11, (0.35, 5.0), noise)
    return kernel if scale_factor == 2 else centre(kernel_x4_from_x2(kernel), 4)


def kernels_for(model: DataModel, scale_factor: int, noise: float = 0.0) -> DrawKernel:
    """What draws the kernels of one model's published test sets.

    Args:
        noise: level of the multiplicative noise on the kernel, 0 to 1.

    Raises:
        ValueError: the model does not have this scale factor, or the noise level is out of range.
    """
    if model == "KernelGANFKP" and scale_factor not in (2, 4):
        raise ValueError(
            f"--sf {scale_factor}: KernelGANFKP exists for 2 and, by the analytic x2 → x4 kernel, for 4 only"
        )
    if not 0 <= noise <= 1:
        raise ValueError(f"--noise-ker {noise}: must lie between 0 and 1")
    draw = dipfkp_kernel if model == "DIPFKP" else kernelganfkp_kernel
    return partial(draw, scale_factor=scale_factor, noise=noise)


def prepare_for(
    folder: Path, model: DataModel, scale_factor: int, kernel_noise: float = 0.0, **options: Any
) -> Iterator[tuple[Path, str | None]]:
    """:func:`blindsr.batch.prepare.prepare` with the kernels of :func:`kernels_for`; errors as of both."""
    yield from prepare(folder, model, scale_factor, kernels_for(model, scale_factor, kernel_noise), **options)


def main() -> int:
    options = parse(Options, __doc__ or "")
    folder = dataset_folder(options.dataset)
    done = failed = 0
    for _, error in Bar(
        iterable=prepare_for(
            folder,
            options.model,
            options.sf,
            kernel_noise=options.noise_ker,
            image_noise=options.noise_im,
            seed=options.seed,
            overwrite=options.overwrite,
        ),
        unit="picture",
    ):
        if error is None:
            done += 1
        else:
            failed += 1
            Bar.write(f"error: {error}", file=sys.stderr)
    print(f"{done} LR picture{'s' * (done != 1)} in {folder / f'{options.model}_lr_x{options.sf}'}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
