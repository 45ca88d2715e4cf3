"""A picture of the families of kernels that a prior can be trained on, a row for each, and of what priors draw.

python benchmarks/families.py --figure docs/kernels.png
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import tyro

from blindsr.command import parse, run
from blindsr.figures import save_kernel_grid
from blindsr.kernel_families import FAMILIES
from FKP import KernelPrior

COLUMNS = 12


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/families.py`` takes."""

    figure: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture to draw."""
    sf: Literal[2, 3, 4, 8] = 4
    """Scale factor of the families."""
    priors: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")] = ()
    """Weights of priors, which add a row of samples each."""


def main() -> int:
    options = parse(Options, __doc__ or "")
    families = [draw for name, draw in FAMILIES.items() if name != "mixed"]
    rows = [draw(COLUMNS, options.sf, torch.Generator().manual_seed(0)) for draw in families]
    priors = [KernelPrior.from_pretrained(path) for path in options.priors]
    rows += [prior.sample(COLUMNS, torch.Generator().manual_seed(0)) for prior in priors]
    side = max(row.shape[-1] for row in rows)
    framed = [F.pad(row, ((side - row.shape[-1]) // 2,) * 4) for row in rows]
    save_kernel_grid(options.figure, torch.cat(framed).clamp(min=0), COLUMNS)
    return 0


if __name__ == "__main__":
    run(main)
