"""−log p of the validation kernels under the shipped priors and the official ones, as records and a Markdown table.

python benchmarks/likelihood.py --official DIR     DIR holds FKP_x2.pt, FKP_x3.pt, FKP_x4.pt
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

import tables
from blindsr.command import parse, run
from blindsr.paths import pretrained_path
from FKP import KernelPrior
from FKP.training import negative_log_likelihood, validation_kernels
from logbook import RESULTS, Values, What, fingerprint, measured


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/likelihood.py`` takes."""

    official: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder with the official weights; there are none for x8."""
    scales: tuple[int, ...] = (1, 2, 3, 4, 8)
    """Scale factors."""
    seed: int = 0
    """Seed of the dequantisation noise, the same for both priors."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


def measure(what: What, path: Path) -> Values:
    kernels = validation_kernels(what["scale"])
    nll, error = negative_log_likelihood(KernelPrior.from_pretrained(what["scale"], path), kernels, what["seed"])
    return {"nll": round(nll, 3), "two_errors": round(error, 3), "kernels": len(kernels)}


def main() -> int:
    options = parse(Options, __doc__ or "")
    if not options.official.is_dir():
        raise FileNotFoundError(f"--official {options.official}: no such folder")
    for scale_factor in options.scales:
        name = f"FKP_x{scale_factor}.pt"
        for weights, path in (("ours", pretrained_path(name)), ("official", options.official / name)):
            if weights == "official" and not path.is_file():
                continue
            what = {"scale": scale_factor, "weights": weights, "seed": options.seed, "fingerprint": fingerprint(path)}
            measured(options.results / "likelihood.jsonl", [[what]], partial(measure, path=path))
    print(tables.likelihood(options.results))
    return 0


if __name__ == "__main__":
    run(main)
