"""A quarter of an hour of further training on a GPU, from the shipped weights, and what it gives on Set5."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from blindsr.batch.inputs import find_items
from blindsr.degradation import add_noise, degrade, quantize
from blindsr.metrics import kernel_psnr
from blindsr.paths import pretrained_path, runs_folder
from blindsr.training.loop import TrainingSettings
from blindsr.training.photographs import read_photographs
from gpu_records import Session
from KernelPredictor import KernelPredictor
from KernelPredictor.training import PredictorSettings
from KernelPredictor.training import train as fit_predictor
from KernelPredictor.training import weights_name as predictor_name
from NonblindSR.evaluation import read_example, score
from NonblindSR.training import USRNetSettings
from NonblindSR.training import train as fit_usrnet
from NonblindSR.training import weights_name as usrnet_name
from NonblindSR.usrnet import USRNet

__all__ = ["train_predictor", "train_usrnet"]

Settings = TypeVar("Settings", bound=TrainingSettings)
Train = Callable[..., nn.Module]
"""``train`` of a network: (images, settings, folder, device, resume, start, on_step)."""
PROBE = 40
"""Steps that tell how long one takes; the first ones compile, so the last half counts."""
SCORING = 90
"""Seconds that are kept for the scores, and for the validations and checkpoints on the way."""


class _OutOfTimeError(Exception):
    pass


def _trained(
    train: Train, start: Path, settings: Settings, images: Path | None, folder: Path, session: Session
) -> dict[str, Any]:
    """Train with as many steps as fit into the time; where ``folder`` holds a training already, go on with that.

    Returns:
        What to take down; the weights lie in ``folder``.
    """
    pictures = _photographs(session) if images is None else read_photographs(images, 200)
    plan = folder / "plan.json"
    resume = folder / "last.pt" if (folder / "last.pt").exists() else None
    if resume is None:
        folder.mkdir(parents=True, exist_ok=True)
        probe = replace(settings, steps=6 if session.quick else PROBE)
        ends: list[float] = []
        with tempfile.TemporaryDirectory() as scratch:  # a call that was cut off leaves no training in the way
            train(
                pictures, probe, Path(scratch) / "probe", session.device, None, start,
                lambda step, loss: ends.append(time.perf_counter()),
            )  # fmt: skip
        per_step = (ends[-2] - ends[len(ends) // 2]) / max(1, len(ends) - 2 - len(ends) // 2)
        steps = max(6, int((session.clock.left() - (0 if session.quick else SCORING)) / per_step))
        plan.write_text(json.dumps({"steps": min(steps, 8) if session.quick else steps}))
    steps = json.loads(plan.read_text())["steps"]
    settings = replace(settings, steps=steps, validate_every=max(1, steps // 8))
    done: dict[str, Any] = {}

    def on_step(step: int, loss: float) -> None:
        done.update(step=step, loss=loss)
        if session.clock.left() < (0 if session.quick else SCORING / 2):
            raise _OutOfTimeError

    began = time.perf_counter()
    try:
        train(pictures, settings, folder, session.device, resume, start, on_step)
    except _OutOfTimeError:
        done["note"] = "out of time: the same command goes on from the last checkpoint"
    return {**done, "steps": steps, "training s": time.perf_counter() - began, "pictures": len(pictures)}


def _photographs(session: Session) -> list[Tensor]:
    """For a rehearsal only: noise."""
    if not session.quick:
        raise ValueError("--images: name a folder of photographs to train on")
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, 400, 400), generator=generator, dtype=torch.uint8) for _ in range(4)]


def train_usrnet(images: Path | None, folder: Path | None, photographs: bool, session: Session) -> dict[str, Any]:
    """USRNet with noise up to 50, then PSNR on Set5 with true kernels, without and with noise of 10 grey levels."""
    folder = folder or runs_folder() / "gpu-usrnet"
    settings = USRNetSettings(
        batch=2 if session.quick else 128,
        patch=96,
        sigma_max=50.0,
        known_sigma=15.0,
        photographs=photographs,
        learning_rate=3e-4,
        muon_rate=1e-3,
        held_out=1 if session.quick else 8,
        warmup=100,
    )
    found = _trained(fit_usrnet, pretrained_path("usrnet_tiny.pth"), settings, images, folder, session)
    for name, path in (("shipped", None), ("trained", folder / usrnet_name(settings))):
        if path is None or path.exists():
            net = USRNet.from_pretrained(path).to(session.device)
            for sigma in (0, 10):
                scores = {f"x{s}": _true_kernel_psnr(net, s, sigma / 255, session) for s in (2, 3, 4)}
                what = {"part": "training", "method": "USRNet", "dataset": "Set5", "weights": name, "sigma": sigma}
                session.records.add(what, {"psnr": scores})
    return found


def _true_kernel_psnr(net: USRNet, scale_factor: int, sigma: float, session: Session) -> float:
    """Mean PSNR (Y, dB) on Set5 with true kernels; noise as in ``benchmarks/nonblind.py``."""
    generator, scores = torch.Generator().manual_seed(0), []
    items = find_items(str(session.reference / "Set5"), "DIPFKP", scale_factor)
    for item in items[: 1 if session.quick else None]:
        lr, kernel, hr = read_example(item, scale_factor)
        if sigma:
            lr = quantize(add_noise(degrade(hr, kernel, scale_factor), sigma, generator))
        scores.append(score(net, lr, kernel, hr, scale_factor, sigma)[0])
    return float(np.mean(scores))


def train_predictor(images: Path | None, folder: Path | None, photographs: bool, session: Session) -> dict[str, Any]:
    """The kernel predictor, then its kernels on Set5: kernel PSNR, and PSNR with the shipped USRNet."""
    folder = folder or runs_folder() / "gpu-predictor"
    settings = PredictorSettings(
        pixels=8_000 if session.quick else 4 * 73_728,
        crops=(40,) if session.quick else (72, 108, 144),
        photographs=photographs,
        sigma_max=50.0 if photographs else 10.0,
        learning_rate=1e-3,
        muon_rate=1e-3,
        held_out=1 if session.quick else 40,
        warmup=100,
    )
    found = _trained(fit_predictor, pretrained_path("kernel_predictor.pth"), settings, images, folder, session)
    net = USRNet.from_pretrained().to(session.device)
    for name, path in (("shipped", None), ("trained", folder / predictor_name(settings))):
        if path is None or path.exists():
            predictor = KernelPredictor.from_pretrained(path).to(session.device)
            for scale_factor in (2, 3, 4):
                scores = partial(_predicted, predictor, net, scale_factor, session)
                what = {"part": "training", "method": "prediction", "dataset": "Set5", "weights": name}
                session.records.guarded({**what, "scale": scale_factor}, scores)
    return found


def _predicted(predictor: KernelPredictor, net: USRNet, scale_factor: int, session: Session) -> dict[str, float]:
    values = []
    items = find_items(str(session.reference / "Set5"), "DIPFKP", scale_factor)
    for item in items[: 1 if session.quick else None]:
        lr, true, hr = read_example(item, scale_factor)
        kernel = predictor.predict(lr.to(session.device), scale_factor).kernel
        values.append((kernel_psnr(kernel, true), *score(net, lr, kernel, hr, scale_factor)))
    return dict(zip(("kernel_psnr", "psnr", "ssim"), map(float, np.mean(values, axis=0)), strict=True))
