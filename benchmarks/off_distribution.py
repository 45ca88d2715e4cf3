"""Blur that the Gaussian prior does not know: what a search loses, and whether the doubt says so.

The middle 256×256 pixels of photographs that the predictor was not trained on, blurred by kernels of each of
:data:`RECIPES`. A run is a photograph with one method: bicubic enlargement, the predicted kernel, the same with
USRNet told noise that there is none of, which keeps it from undoing a wrong kernel to the last, the search, the
prior's kernel nearest to the true one ("oracle latent"), and the true one. Each is a record in --results and is not
repeated.

python benchmarks/off_distribution.py --images ../photographs/predictor/
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

import tables
from blindsr.command import parse, run
from blindsr.degradation import degrade, modcrop, quantize
from blindsr.devices import pick_device
from blindsr.doubts import doubts
from blindsr.estimation import Preset
from blindsr.images import to_uint8
from blindsr.kernel_families import random_disk_kernels
from blindsr.kernels import kernel_side, random_kernels_numpy, random_motion_kernels, variance_range
from blindsr.metrics import kernel_psnr, psnr_ssim_y
from blindsr.paths import pretrained_path
from DIPFKP.estimator import preset, pretrained_estimator
from FKP import KernelPrior
from held_out import held_out_crops
from logbook import RESULTS, Values, What, fingerprint, measured
from NonblindSR.evaluation import score
from NonblindSR.usrnet import USRNet

SIDE = 256
Method = Literal["bicubic", "prediction", "prediction, 2 told", "search", "oracle latent", "oracle"]
METHODS: tuple[Method, ...] = get_args(Method)
PRESETS: dict[Method, Preset] = {"prediction": "prediction", "prediction, 2 told": "prediction", "search": "search"}
TOLD = {"prediction, 2 told": 2 / 255}
"""Noise level that USRNet is told, where it is not 0."""


def noisy(level: float, side: int | None = None, variances: tuple[float, float] | None = None) -> "Recipe":
    """Gaussians of a scale factor, or of given side and variances, with multiplicative noise of up to ``level``."""

    def draw(scale_factor: int, seed: int) -> Tensor:
        range_ = variances or variance_range(scale_factor)
        rng = np.random.RandomState(seed)
        return random_kernels_numpy(rng, scale_factor, side or kernel_side(scale_factor), range_, level).float()

    return draw


Recipe = Callable[[int, int], Tensor]
"""From scale factor and seed to a kernel, 1×1×k×k."""
RECIPES: dict[str, Recipe] = {
    "Gaussian": noisy(0.0),
    "Gaussian, kernel noise 0.4": noisy(0.4),
    "DIV2KRK": noisy(0.25, 11, (0.6, 5.0)),  # KernelGAN, section 5
    "out of focus": lambda scale, seed: random_disk_kernels(1, scale, torch.Generator().manual_seed(seed)),
    "motion": lambda scale, seed: random_motion_kernels(1, scale, torch.Generator().manual_seed(seed)),
}


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/off_distribution.py`` takes."""

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Photographs; those held out of the predictor's training (the last by name) are taken."""
    path_nonblind: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of USRNet other than the shipped ones, which have seen most of these photographs."""
    path_KP: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the kernel prior other than the shipped ones."""
    methods: tuple[Method, ...] = METHODS
    """Which methods."""
    kernels: tuple[str, ...] = tuple(RECIPES)
    """Which recipes."""
    sf: Literal[2, 3, 4] = 2
    """Scale factor."""
    photographs: int = 5
    """How many, evenly out of those held out."""
    held_out: int = 40
    """As in the predictor's training."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


def require_recipes(names: Sequence[str]) -> None:
    """Raise ValueError unless each of ``names`` is one of :data:`RECIPES`."""
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise ValueError(f"--kernels '{unknown[0]}': take some of {', '.join(RECIPES)}")


@cache
def network(path: Path) -> USRNet:
    return USRNet.from_pretrained(path).to(pick_device())


def measure(what: What, pictures: list[Tensor], path: Path, path_prior: Path | None) -> Values:
    """One photograph with one method, in this process."""
    scale_factor, method = what["scale"], what["method"]
    hr = modcrop(pictures[what["picture"]], scale_factor)
    true = RECIPES[what["kernels"]](scale_factor, 1000 + what["picture"])
    lr = quantize(degrade(hr, true, scale_factor))
    if method == "bicubic":
        enlarged = F.interpolate(lr, scale_factor=scale_factor, mode="bicubic")
        return {"psnr": round(psnr_ssim_y(to_uint8(enlarged), to_uint8(hr), scale_factor)[0], 4)}
    kernel, values = true, Values()
    if method == "oracle latent":
        prior = KernelPrior.from_pretrained(scale_factor, path_prior)
        kernel = prior.decode(prior.invert(true))
    elif method != "oracle":
        estimator = pretrained_estimator(scale_factor, pick_device(), preset(PRESETS[method]), path_prior=path_prior)
        found = estimator(lr.to(pick_device()), scale_factor, seed=0)
        kernel = found.kernel
        values = {"expected_error": found.expected_error, "doubted": bool(doubts(found, photograph=False))}
        values["seconds"] = round(found.seconds, 2)
    if method != "oracle":
        values["kernel_psnr"] = round(kernel_psnr(kernel, true), 3)
    psnr, _ = score(network(path), lr, kernel, hr, scale_factor, TOLD.get(method, 0.0))
    return {"psnr": round(psnr, 4), **values}


def main() -> int:
    options = parse(Options, __doc__ or "")
    require_recipes(options.kernels)
    pictures = held_out_crops(options.images, options.held_out, options.photographs, SIDE)
    prior = options.path_KP or pretrained_path(f"FKP_x{options.sf}.pt")
    usrnet = options.path_nonblind or pretrained_path("usrnet_tiny.pth")
    run_one = partial(measure, pictures=pictures, path=usrnet, path_prior=options.path_KP)
    for method in options.methods:
        parts: list[Any] = [options.photographs]
        if method != "bicubic":
            parts.append(usrnet)
        if method in PRESETS:
            parts += [preset(PRESETS[method]), pretrained_path("kernel_predictor.pth")]
        if method in PRESETS or method == "oracle latent":
            parts.append(prior)
        kind = "shipped" if options.path_KP is None else KernelPrior.from_pretrained(options.sf, prior).kernels
        what = {"scale": options.sf, "method": method, "prior": kind, "fingerprint": fingerprint(*parts)}
        rows = [
            [what | {"kernels": kernels, "picture": index} for index in range(options.photographs)]
            for kernels in options.kernels
        ]
        measured(options.results / "off_distribution.jsonl", rows, run_one)
    print(tables.off_distribution(options.results))
    return 0


if __name__ == "__main__":
    run(main)
