"""Whether the predictor knows how sure it is: the error it expects of a kernel's covariance and the error it makes.

Photographs that the predictor was not trained on, as they are, enlarged (as soft ones are) and shrunk, each blurred
by a kernel of its own. A scale factor's predictions are sorted by the error expected and cut into equal groups.

python benchmarks/confidence.py --images ../photographs/predictor/
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

import tables
from blindsr.command import parse, run
from blindsr.degradation import centre_crop, degrade, modcrop, quantize
from blindsr.kernels import gaussian_kernels, kernel_side, variance_range
from blindsr.paths import pretrained_path
from blindsr.training.photographs import hold_out, read_photographs
from KernelPredictor import KernelPredictor
from KernelPredictor.covariance import PIXEL_VARIANCE
from logbook import RESULTS, append, fingerprint

SIDE = 320


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/confidence.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The photographs that the predictor was trained on; those it holds out (the last by name) are taken."""
    scales: tuple[int, ...] = (2, 3, 4)
    """Scale factors."""
    zooms: tuple[float, ...] = (0.5, 1.0, 1.5)
    """Each photograph is taken at so many times its size."""
    groups: int = 4
    """Groups to cut the predictions into."""
    held_out: int = 40
    """As in the predictor's training."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


def errors(
    predictor: KernelPredictor, hr: Tensor, scale_factor: int, generator: torch.Generator
) -> tuple[float, float]:
    """Expected and actual error of the log-covariance for ``hr``, 1×3×H×W, blurred by a random kernel."""
    low, high = variance_range(scale_factor)
    variances = low + (high - low) * torch.rand(2, 1, generator=generator, dtype=torch.float64)
    theta = torch.pi * torch.rand(1, generator=generator, dtype=torch.float64)
    kernel = gaussian_kernels(variances[0], variances[1], theta, kernel_side(scale_factor), scale_factor).float()
    prediction = predictor.predict(quantize(degrade(modcrop(hr, scale_factor), kernel, scale_factor)), scale_factor)
    difference = log_covariance(prediction.kernel, scale_factor) - log_covariance(kernel, scale_factor)
    return prediction.expected_error, float(difference.norm())


def log_covariance(kernel: Tensor, scale_factor: int) -> Tensor:
    """log(Σ/s² + I/12), 2×2, of a 1×1×k×k kernel, as ``to_log_covariance`` has it of variances."""
    offsets = torch.arange(kernel.shape[-1], dtype=torch.float64) - (kernel.shape[-1] - scale_factor) / 2
    grid = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij")).flatten(1)
    covariance = (grid * kernel.double().flatten()) @ grid.T
    values, vectors = torch.linalg.eigh(covariance / scale_factor**2 + PIXEL_VARIANCE * torch.eye(2))
    return vectors @ torch.diag(values.log()) @ vectors.T


def main() -> int:
    options = parse(Options, __doc__ or "")
    _, photographs = hold_out(read_photographs(options.images, SIDE), options.held_out)
    predictor = KernelPredictor.from_pretrained()
    weights = fingerprint(pretrained_path("kernel_predictor.pth"))
    for scale_factor in options.scales:
        generator = torch.Generator().manual_seed(0)
        pairs = []
        for photograph in photographs:
            for zoom in options.zooms:
                hr = centre_crop(photograph, SIDE)[None].float() / 255
                hr = F.interpolate(hr, scale_factor=zoom, mode="bicubic", antialias=True).clamp(0, 1)
                pairs.append(errors(predictor, centre_crop(hr, SIDE), scale_factor, generator))
        for number, group in enumerate(np.array_split(np.array(sorted(pairs)), options.groups)):
            expected, actual = group.T
            figures = (np.mean(expected), np.sqrt(np.mean(actual**2)), np.median(actual))
            names = ("expected", "actual_rms", "actual_median")
            values = {name: round(float(figure), 4) for name, figure in zip(names, figures, strict=True)}
            what = {"scale": scale_factor, "group": number, "fingerprint": weights}
            append(options.results / "confidence.jsonl", what, {"predictions": len(group), **values})
    print(tables.confidence(options.results))
    return 0


if __name__ == "__main__":
    run(main)
