"""All kernel estimators on the same pictures: kernel PSNR, PSNR/SSIM with USRNet, seconds and peak memory.

Photographs that come with scikit-image (their middle 512×512 pixels), made a dataset as ``prepare_dataset.py --model
KernelGANFKP`` does. Each run is a record in --results and is not repeated. ± is the spread over seeds (standard
deviation) of the mean over pictures.

python benchmarks/estimators.py --path-nonblind official/usrnet_tiny.pth
"""

import tempfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, get_args

import skimage.data
import torch
import tyro
from torch import Tensor

import DIPFKP.estimator
import KernelGANFKP.estimator
import tables
from blindsr.batch.inputs import find_items
from blindsr.command import parse, run
from blindsr.degradation import centre_crop
from blindsr.devices import pick_device
from blindsr.estimation import Estimator, Preset
from blindsr.images import write_image
from blindsr.metrics import kernel_psnr
from blindsr.paths import pretrained_path
from data.prepare_dataset import prepare_for
from logbook import RESULTS, Values, What, fingerprint, measured, peak_gigabytes
from NonblindSR.evaluation import read_example, score
from NonblindSR.usrnet import USRNet

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
METHODS = (
    "KernelGAN",
    *(f"{estimator}, {preset}" for estimator in ("KernelGAN-FKP", "DIP-FKP") for preset in get_args(Preset)),
)
"""What ``--methods`` knows: an estimator and its preset."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/estimators.py`` takes."""

    methods: tuple[str, ...] = tuple(method for method in METHODS if not method.endswith("paper"))
    """Which estimators; those of the paper's preset take up to half an hour a picture, so they have to be named."""
    scales: tuple[int, ...] = (2, 4)
    """Scale factors."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds to average over."""
    pictures: tuple[str, ...] = PHOTOGRAPHS
    """Names of photographs in ``skimage.data``."""
    path_nonblind: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of USRNet other than the shipped ones, for the scores."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


@cache
def examples(scale_factor: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """LR image, kernel and HR image of each of :data:`PHOTOGRAPHS`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "HR").mkdir()
        for photograph in PHOTOGRAPHS:
            array = getattr(skimage.data, photograph)()
            array = array[0] if isinstance(array, tuple) else array  # of a stereo pair the left one
            pixels = torch.from_numpy(array)
            pixels = pixels.unsqueeze(-1).expand(*pixels.shape, 3) if pixels.ndim == 2 else pixels
            pixels = centre_crop(pixels.permute(2, 0, 1), 512).permute(1, 2, 0)
            write_image(folder / "HR" / f"{photograph}.png", pixels.numpy())
        for _, problem in prepare_for(folder, "KernelGANFKP", scale_factor):
            assert problem is None, problem
        items = find_items(name, "KernelGANFKP", scale_factor)
        return {item.name: read_example(item, scale_factor) for item in items}


def settings_of(method: str, scale_factor: int) -> DIPFKP.estimator.DIPSettings | KernelGANFKP.estimator.GANSettings:
    estimator, _, preset = method.partition(", ")
    if estimator == "DIP-FKP":
        return DIPFKP.estimator.preset(preset)  # type: ignore[arg-type]
    model: KernelGANFKP.estimator.GANModel = "KernelGAN" if estimator == "KernelGAN" else "KernelGANFKP"
    return KernelGANFKP.estimator.preset(preset or "paper", model, scale_factor)  # type: ignore[arg-type]


@cache
def estimator_of(method: str, scale_factor: int) -> Estimator:
    device, settings = pick_device(), settings_of(method, scale_factor)
    if isinstance(settings, DIPFKP.estimator.DIPSettings):
        return DIPFKP.estimator.pretrained_estimator(scale_factor, device, settings)
    model: KernelGANFKP.estimator.GANModel = "KernelGAN" if method == "KernelGAN" else "KernelGANFKP"
    return KernelGANFKP.estimator.pretrained_estimator(scale_factor, device, settings, model)


@cache
def network(path: Path) -> USRNet:
    return USRNet.from_pretrained(path).to(pick_device())


@cache
def oracle_psnr(name: str, scale_factor: int, path: Path) -> float:
    """PSNR of the image made with the true kernel."""
    lr, kernel, hr = examples(scale_factor)[name]
    return score(network(path), lr, kernel, hr, scale_factor)[0]


def measure(what: What, path: Path) -> Values:
    """One run, in this process; the memory is that of finding the kernel."""
    scale_factor, name = what["scale"], what["picture"]
    lr, true_kernel, hr = examples(scale_factor)[name]
    found = estimator_of(what["method"], scale_factor)(lr.to(pick_device()), scale_factor, seed=what["seed"])
    gigabytes = peak_gigabytes()
    psnr, ssim = score(network(path), lr, found.kernel, hr, scale_factor)
    return {
        "kernel_psnr": round(kernel_psnr(found.kernel, true_kernel), 3),
        "psnr": round(psnr, 4),
        "ssim": round(ssim, 6),
        "gap": round(psnr - oracle_psnr(name, scale_factor, path), 4),
        "converged": found.converged,
        "seconds": round(found.seconds, 2),
        "gigabytes": round(gigabytes, 2),
    }


def fingerprint_of(method: str, scale_factor: int, path: Path) -> str:
    """Of settings and weights."""
    files = []
    if method != "KernelGAN":
        side = 2 if method.startswith("KernelGAN") else scale_factor  # which at x4 searches the x2 kernel
        files = [pretrained_path(f"FKP_x{side}.pt"), pretrained_path("kernel_predictor.pth")]
    return fingerprint(settings_of(method, scale_factor), path, *files)


def main() -> int:
    options = parse(Options, __doc__ or "")
    for given, known in ((options.methods, METHODS), (options.pictures, PHOTOGRAPHS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is not known; take some of: {'; '.join(known)}")
    path = options.path_nonblind or pretrained_path("usrnet_tiny.pth")
    weights = "ours" if options.path_nonblind is None else "official"
    network(path)
    for method in options.methods:
        for scale_factor in options.scales:
            what = {"scale": scale_factor, "method": method, "weights": weights}
            what |= {"fingerprint": fingerprint_of(method, scale_factor, path)}
            for seed in options.seeds:
                # Each in a process of its own: what one leaves in memory is not the next one's.
                rows = [[what | {"picture": name, "seed": seed}] for name in options.pictures]
                measured(options.results / "estimators.jsonl", rows, partial(measure, path=path))
    print(tables.estimators(options.results))
    return 0


if __name__ == "__main__":
    run(main)
