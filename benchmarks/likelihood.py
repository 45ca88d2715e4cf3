"""−log p of the validation kernels under the shipped priors and the official ones, as a Markdown table.

python benchmarks/likelihood.py --official DIR     DIR holds FKP_x2.pt, FKP_x3.pt, FKP_x4.pt
"""

from dataclasses import dataclass
from pathlib import Path

from blindsr.command import parse, run
from FKP import KernelPrior
from FKP.training import negative_log_likelihood, validation_kernels


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/likelihood.py`` takes."""

    official: Path
    """Folder with the official weights."""
    scales: tuple[int, ...] = (2, 3, 4, 8)
    """Scale factors."""
    seed: int = 0
    """Seed of the dequantisation noise, the same for both priors."""


def main() -> int:
    options = parse(Options, __doc__ or "")
    print("| | kernels | ours | official |\n|---|---|---|---|")
    for scale_factor in options.scales:
        kernels = validation_kernels(scale_factor)
        cells = []
        for path in (None, options.official / f"FKP_x{scale_factor}.pt"):
            if path is not None and not path.is_file():
                cells.append("none released")
                continue
            prior = KernelPrior.from_pretrained(scale_factor, path)
            nll, error = negative_log_likelihood(prior, kernels, options.seed)
            cells.append(f"{nll:.2f} ± {error:.2f}")
        print(f"| x{scale_factor} | {len(kernels)} | {cells[0]} | {cells[1]} |")
    return 0


if __name__ == "__main__":
    run(main)
