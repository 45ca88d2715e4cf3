"""Whether searches on a device do what they do on the CPU, in whatever way they are run there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import blindsr.graphs
import DIPFKP.estimator as dip
import KernelGANFKP.estimator as gan
from blindsr.estimation import BatchEstimator, Estimate, Estimator, Preset
from blindsr.images import read_image, to_uint8
from blindsr.kernel_files import read_kernel
from blindsr.metrics import kernel_psnr, psnr_ssim_y
from blindsr.paths import data_folder
from logbook import own_process
from NonblindSR.tiling import tiled_sr
from NonblindSR.usrnet import USRNet

__all__ = [
    "CPU",
    "Check",
    "Found",
    "critics_together",
    "dip_check",
    "failed_capture",
    "float32",
    "gan_check",
    "graphs",
    "shipped_example",
    "together",
]

CPU = torch.device("cpu")
Found = dict[str, Any]
Check = Callable[[torch.device, bool], Found]
"""Takes the device, and whether this is a rehearsal, on smaller things."""


@contextmanager
def float32() -> Iterator[None]:
    """Without TF32, which convolutions take by default on CUDA."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def shipped_example(scale_factor: int, model: str = "DIPFKP") -> tuple[Tensor, Tensor, Tensor]:
    """LR image, true kernel and HR image of the shipped Test picture."""
    folder = data_folder() / "datasets" / "Test"
    lr = read_image(folder / f"{model}_lr_x{scale_factor}" / "chelsea.png")
    hr = read_image(folder / "HR" / "chelsea.png")[..., : lr.shape[2] * scale_factor, : lr.shape[3] * scale_factor]
    return lr, read_kernel(folder / f"{model}_gt_k_x{scale_factor}" / "chelsea.mat").float(), hr


def _scores(estimate: Estimate, example: tuple[Tensor, Tensor, Tensor], scale_factor: int) -> dict[str, float]:
    lr, kernel, hr = example
    sr = tiled_sr(USRNet.from_pretrained(), lr, estimate.kernel, scale_factor)
    psnr, _ = psnr_ssim_y(to_uint8(sr), to_uint8(hr), scale_factor)
    return {"kernel": kernel_psnr(estimate.kernel, kernel), "psnr": psnr}


def _compared(make: Callable[[torch.device], Estimator], model: str, device: torch.device, small: bool) -> Found:
    """First losses in float32, and the scores as it ships, of one estimator on the CPU and there."""
    lr, kernel, hr = shipped_example(2, model)
    if small:
        lr, hr = lr[..., :48, :64], hr[..., :96, :128]
    with float32():
        exact = make(device)(lr.to(device), 2, seed=0)
    shipped, expected = (make(at)(lr.to(at), 2, seed=0) for at in (device, CPU))
    losses = [estimate.losses[:5] for estimate in (exact, expected)]
    first = max((abs(a - b) / abs(b) for a, b in zip(*losses, strict=True)), default=0.0)
    scores, ours = (_scores(estimate, (lr, kernel, hr), 2) for estimate in (expected, shipped))
    return {
        "first_losses": first,
        "kernel_psnr": ours["kernel"],
        "cpu_kernel_psnr": scores["kernel"],
        "psnr": ours["psnr"],
        "cpu_psnr": scores["psnr"],
        "search_seconds": shipped.seconds,
        "cpu_search_seconds": expected.seconds,
        "ok": first < 0.05 and abs(ours["psnr"] - scores["psnr"]) < 0.5,
    }


def dip_check(name: Preset, model: dip.DIPModel = "DIPFKP") -> Check:
    def check(device: torch.device, quick: bool) -> Found:
        """A search of 40 iterations, or the prediction; that of the large network on a small picture."""
        settings = dip.preset(name, model)
        if settings.iterations:
            settings = replace(settings, iterations=40, ssim_iterations=20, frozen_iterations=10)
            if quick:
                settings = replace(settings, channels=16, iterations=24)
        make = partial(dip.pretrained_estimator, 2, settings=settings, model=model)
        return _compared(make, "DIPFKP", device, quick or name == "paper")

    return check


def gan_check(name: Preset, model: gan.GANModel = "KernelGANFKP") -> Check:
    def check(device: torch.device, quick: bool) -> Found:
        """A search of 30 iterations, or the prediction."""
        settings = gan.preset(name, model, 2)
        if settings.iterations:
            settings = replace(settings, iterations=8 if quick else 30, frozen_iterations=0, shave=0)
            settings = replace(settings, crops_per_step=min(settings.crops_per_step, 4 if quick else 16))
        make = partial(gan.pretrained_estimator, 2, settings=settings, model=model, float32=True)
        return _compared(make, "KernelGANFKP", device, quick)

    return check


def _searched(device: torch.device, settings: dip.DIPSettings | gan.GANSettings, pictures: int) -> list[Estimate]:
    estimator: BatchEstimator
    if isinstance(settings, dip.DIPSettings):
        estimator = dip.pretrained_estimator(4, device, settings)
    else:
        estimator = gan.pretrained_estimator(4, device, settings, float32=True)
    lrs = [shipped_example(4)[0].to(device).roll(10 * n, dims=3) for n in range(pictures)]
    return estimator.batch(lrs, 4, seeds=list(range(pictures)))


def _search_losses(device: torch.device, settings: dip.DIPSettings | gan.GANSettings, pictures: int) -> list[float]:
    """Those of the first picture."""
    return _searched(device, settings, pictures)[0].losses


@contextmanager
def _graphs_by(capture: Callable[..., Any] | None) -> Iterator[None]:
    """With another way to capture steps, or without any."""
    before = blindsr.graphs._capture, blindsr.graphs._can_capture
    if capture is None:
        blindsr.graphs._can_capture = lambda device: False
    else:
        blindsr.graphs._capture = capture
    try:
        yield
    finally:
        blindsr.graphs._capture, blindsr.graphs._can_capture = before


def _apart(losses: list[float], plain: list[float]) -> Found:
    """How far first and all losses are from those of plain steps, which the search amplifies."""
    differences = [abs(a - b) / abs(b) for a, b in zip(losses, plain, strict=True)]
    found = {"first_losses": max(differences[:6]), "all_losses": max(differences)}
    return {**found, "ok": found["first_losses"] < 0.02 and found["all_losses"] < 0.5}


GRAPHED = replace(dip.preset("search"), iterations=48, ssim_iterations=24, frozen_iterations=24, channels=8)
GRAPHED_CRITICS = replace(
    gan.preset("search", "KernelGANFKP", 4), iterations=42, frozen_iterations=21, crops_per_step=2, crop=32
)


def graphs(device: torch.device, quick: bool) -> Found:
    """Searches captured as graphs, and plain ones: of DIP-FKP, and of two pictures against their critics."""
    captured, capture = [], blindsr.graphs._capture

    def counting(step: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        made = capture(step)
        captured.append(made)
        return made

    found: Found = {}
    for name, settings, pictures in (("", GRAPHED, 1), ("critics_", GRAPHED_CRITICS, 2)):
        with float32():
            with _graphs_by(counting):
                replayed = _search_losses(device, settings, pictures)
            with _graphs_by(None):
                plain = _search_losses(device, settings, pictures)
        found |= {name + key: value for key, value in _apart(replayed, plain).items()}
    # Of each two stages, and before them the search for the codes of the predicted kernels.
    found["captured"], expected = len(captured), 6 if device.type == "cuda" else 0
    return {**found, "ok": found["ok"] and found["critics_ok"] and len(captured) == expected}


def failed_capture(device: torch.device, quick: bool) -> Found:
    """A search whose steps cannot be captured, and a plain one; in a process that may be lost."""
    with own_process() as call:
        return call(_failed_capture, str(device))


def _failed_capture(device: str) -> Found:
    capture = blindsr.graphs._capture

    def failing(step: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        def waits() -> Any:
            made = step()
            made.loss.cpu()  # which a capture does not permit
            return made

        return capture(waits)

    with float32():
        with _graphs_by(failing):
            losses = _search_losses(torch.device(device), GRAPHED, 1)
        with _graphs_by(None):
            return _apart(losses, _search_losses(torch.device(device), GRAPHED, 1))


def together(device: torch.device, quick: bool) -> Found:
    """Pictures searched as one against one at a time."""
    settings = replace(dip.preset("search"), iterations=6, ssim_iterations=3, frozen_iterations=2, channels=8)
    with float32():
        batch = _search_losses(device, settings, 3)
        alone = _search_losses(device, settings, 1)
    first, second = (abs(batch[n] - alone[n]) / alone[n] for n in range(2))
    return {"first_loss": first, "second": second, "ok": first < 1e-3 and second < 1e-2}


def critics_together(device: torch.device, quick: bool) -> Found:
    """The same against critics: first losses, and the kernels where the search ends."""
    settings = gan.preset("search", "KernelGANFKP", 4)
    settings = replace(settings, iterations=8 if quick else 60, frozen_iterations=2, crops_per_step=4, crop=32)
    with float32():
        batch, alone = (_searched(device, settings, pictures)[0] for pictures in (3, 1))
    first, second = (abs(batch.losses[n] - alone.losses[n]) / abs(alone.losses[n]) for n in range(2))
    kernels = kernel_psnr(batch.kernel, alone.kernel)
    return {"first_loss": first, "second": second, "kernel_psnr": kernels, "ok": first < 1e-2 and kernels > 50}
