"""Make the LR pictures and blur kernels of a dataset from its HR pictures (data/datasets/<name>/HR)."""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from blindsr.cli import parse, run
from blindsr.datasets import DataModel, dataset_folder, prepare


@dataclass(frozen=True)
class Options:
    """What ``python prepare_dataset.py`` takes."""

    model: DataModel = "DIPFKP"
    """Whose test kernels to draw."""
    sf: Literal[2, 3, 4, 8] = 2
    """Scale factor; KernelGANFKP has 2 and 4."""
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


def main() -> int:
    options = parse(Options, __doc__ or "")
    folder = dataset_folder(options.dataset)
    done = failed = 0
    for _, error in tqdm(
        prepare(
            folder,
            options.model,
            options.sf,
            kernel_noise=options.noise_ker,
            image_noise=options.noise_im,
            seed=options.seed,
            overwrite=options.overwrite,
        ),
        unit="picture",
        delay=0.1,
    ):
        if error is None:
            done += 1
        else:
            failed += 1
            tqdm.write(f"error: {error}", file=sys.stderr)
    print(f"{done} LR picture{'s' * (done != 1)} in {folder / f'{options.model}_lr_x{options.sf}'}")
    return 2 if failed else 0


if __name__ == "__main__":
    run(main)
