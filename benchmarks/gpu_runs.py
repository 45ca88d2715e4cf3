"""The runs that only a GPU is fast enough for: the paper's presets, scored."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from torch import Tensor

import DIPFKP.estimator as dip
import KernelGANFKP.estimator as gan
from blindsr.batch.inputs import find_items
from blindsr.batch.prepare import prepare
from blindsr.degradation import centre_crop
from blindsr.estimation import Estimate
from blindsr.images import to_uint8, write_image
from blindsr.kernels import centre, kernel_x4_from_x2, random_kernels_numpy
from blindsr.metrics import kernel_psnr, psnr_ssim_y
from gpu_records import Session, measuring
from gpu_speed import Example
from NonblindSR.evaluation import read_example
from NonblindSR.tiling import tiled_sr
from NonblindSR.usrnet import USRNet

__all__ = ["kernelgan_paper", "set5_paper"]

PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "hubble_deep_field",
    "immunohistochemistry",
    "rocket",
    "stereo_motorcycle",
)
"""Those of ``benchmarks/estimators.py``."""
SEEDS = range(5)
"""The published figures are means of five runs."""


def _scored(
    net: USRNet, estimate: Estimate, example: Example, scale_factor: int, device: torch.device
) -> dict[str, float]:
    lr, kernel, hr = example
    sr = tiled_sr(net, lr.to(device), estimate.kernel.to(device), scale_factor)
    psnr, ssim = psnr_ssim_y(to_uint8(sr), to_uint8(hr), scale_factor)
    return {"kernel_psnr": kernel_psnr(estimate.kernel, kernel), "psnr": psnr, "ssim": ssim}


def set5_paper(session: Session) -> None:
    """DIP-FKP's paper preset on Set5, official flow and USRNet: seed 0 of all pictures, then more seeds as one."""
    records, device, quick = session.records, session.device, session.quick
    weights = session.reference / "pretrained_models"
    net = USRNet.from_pretrained(weights / "usrnet_tiny.pth").to(device)
    settings = dip.preset("paper")
    if quick:
        settings = replace(settings, iterations=2, ssim_iterations=1, frozen_iterations=1, channels=8, crop=64)
    slowest = 0.0
    for seeds in ([0], list(SEEDS)[1:]):
        for scale_factor in (4,) if quick else (2, 3, 4):
            path = weights / f"FKP_x{scale_factor}.pt"
            estimator = dip.pretrained_estimator(scale_factor, device, settings, path_prior=path)
            for item in find_items(str(session.reference / "Set5"), "DIPFKP", scale_factor)[: 1 if quick else None]:
                what = {"part": "paper", "method": "DIP-FKP, paper", "dataset": "Set5", "scale": scale_factor}
                what |= {"weights": "official", "picture": item.name}
                missing = [seed for seed in seeds if not records.has({**what, "seed": seed})]
                if not missing or session.clock.left() < 1.2 * slowest * len(missing) + 5:
                    continue
                example = read_example(item, scale_factor)
                with measuring(device) as found:
                    made = estimator.batch([example[0].to(device)] * len(missing), scale_factor, seeds=missing)
                slowest = max(slowest, found["seconds"] / len(missing))
                for one in made:
                    scores = _scored(net, one, example, scale_factor, device)
                    shared = {**found, "seconds": one.seconds, "at_once": len(missing)}
                    records.add({**what, "seed": one.seed}, {**scores, **shared})


@cache
def kernelgan_examples(scale_factor: int) -> dict[str, Example]:
    """The pictures of ``benchmarks/estimators.py``, those of them that this installation of scikit-image has."""

    def draw_kernel(rng: np.random.RandomState) -> Tensor:
        kernel = random_kernels_numpy(rng, 2, 11, (0.35, 5.0), 0.0)
        return kernel if scale_factor == 2 else centre(kernel_x4_from_x2(kernel), 4)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "HR").mkdir()
        absent: set[str] = set()
        for photograph in PHOTOGRAPHS:
            try:
                array = getattr(skimage.data, photograph)()
            except Exception as error:  # some are fetched from the network at first use
                print(f"{photograph}: not there ({error})")
                array, absent = np.zeros((512, 512, 3), np.uint8), absent | {photograph}
            array = array[0] if isinstance(array, tuple) else array  # of a stereo pair the left one
            pixels = torch.from_numpy(array)
            pixels = pixels.unsqueeze(-1).expand(*pixels.shape, 3) if pixels.ndim == 2 else pixels
            pixels = centre_crop(pixels.permute(2, 0, 1), 512).permute(1, 2, 0)
            write_image(folder / "HR" / f"{photograph}.png", pixels.numpy())  # black for an absent one: kernels stay
        for _, problem in prepare(folder, "KernelGANFKP", scale_factor, draw_kernel):
            assert problem is None, problem
        items = find_items(name, "KernelGANFKP", scale_factor)
        return {item.name: read_example(item, scale_factor) for item in items if item.name not in absent}


def kernelgan_paper(session: Session) -> None:
    """KernelGAN-FKP's paper preset at x4: one picture, then as many pictures and seeds as one as the time allows."""
    records, device, quick = session.records, session.device, session.quick
    net = USRNet.from_pretrained().to(device)
    settings = gan.preset("paper", "KernelGANFKP", 4)
    if quick:
        settings = replace(settings, iterations=2, crops_per_step=2)
    estimator = gan.pretrained_estimator(4, device, settings)
    examples = kernelgan_examples(4)
    what = {"part": "kernelgan", "method": "KernelGAN-FKP, paper", "scale": 4, "weights": "ours"}
    runs: list[dict[str, Any]] = [{**what, "picture": name, "seed": seed} for seed in (0, 1, 2) for name in examples]
    missing = [run for run in runs[: 3 if quick else None] if not records.has(run)]
    count = int(session.clock.left() > 5)
    while missing and count:
        taken, missing = missing[:count], missing[count:]
        lrs = [examples[run["picture"]][0].to(device) for run in taken]
        with measuring(device) as found:
            made = estimator.batch(lrs, 4, seeds=[run["seed"] for run in taken])
        for run, one in zip(taken, made, strict=True):
            example = examples[run["picture"]]
            scores = _scored(net, one, example, 4, device)
            below = _scored(net, replace(one, kernel=example[1]), example, 4, device)["psnr"] - scores["psnr"]
            records.add(run, {**scores, "gap": -below, **found, "seconds": one.seconds, "at_once": len(taken)})
        # As if several took no less time each than those before.
        fits = max(0, int((session.clock.left() - 5) / (1.1 * made[0].seconds)))
        count = min(fits, 2 if quick else estimator.at_once(lrs[0], 4))
