"""Seconds and memory of fits, presets and USRNet on a device."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import blindsr.graphs
import DIPFKP.estimator as dip
import DIPFKP.fit
import KernelGANFKP.estimator as gan
from blindsr.degradation import centre_crop, degrade, modcrop, quantize
from blindsr.devices import gains_from_bfloat16
from blindsr.estimation import BatchEstimator, Estimate
from blindsr.images import read_image
from blindsr.kernels import random_kernels
from blindsr.metrics import kernel_psnr
from blindsr.search_log import SearchLog
from DIPFKP.fit import Fit, Target, latent_kernels
from FKP import KernelPrior
from gpu_records import Session, measuring
from KernelPredictor import KernelPredictor
from NonblindSR.tiling import tiled_sr
from NonblindSR.usrnet import USRNet

__all__ = ["Example", "fit_steps", "pictures_per_hour", "usrnet_sizes"]

ONE = "one at a time"
Example = tuple[Tensor, Tensor, Tensor]
"""LR image, kernel and HR image."""


def fit_steps(session: Session) -> None:
    """Milliseconds of an iteration of the search's fit on 128² pixels and the paper's on 256², by pictures at once.

    As a graph, so with another layout, and with cuDNN choosing by trial; and plain. Last, where the time goes.
    """
    records, device, quick = session.records, session.device, session.quick
    search = replace(dip.preset("search"), iterations=6 if quick else 60, ssim_iterations=0, frozen_iterations=0)
    paper = replace(dip.preset("paper"), iterations=2 if quick else 30, ssim_iterations=0, frozen_iterations=0)
    cases = [("search", search, 32 if quick else 128, n) for n in ((1, 2) if quick else (1, 4, 16, 32))]
    cases += [("paper", paper, 32 if quick else 256, n) for n in ((1,) if quick else (1, 5))]
    for name, settings, side, pictures in cases:
        for way in ("plain",) if device.type == "cpu" else ("graph", "channels first", "cuDNN's trials", "plain"):
            if session.clock.left() > 15:
                measure = partial(_fit_seconds, settings, side, pictures, device)
                with _run_by(way):
                    what = {"part": "steps", "method": name, "pictures": pictures, "side": side, "way": way}
                    records.guarded(what, measure)
    if device.type == "cuda" and session.clock.left() > 15:
        records.guarded(
            {"part": "steps", "method": "profile"}, partial(_profile, replace(search, iterations=10), device)
        )


@contextmanager
def _run_by(way: str) -> Iterator[None]:
    before = blindsr.graphs._can_capture, DIPFKP.fit.preferred_memory_format
    if way == "plain":
        blindsr.graphs._can_capture = lambda device: False
    if way == "channels first":
        DIPFKP.fit.preferred_memory_format = lambda device: torch.contiguous_format
    torch.backends.cudnn.benchmark = way == "cuDNN's trials"
    try:
        yield
    finally:
        blindsr.graphs._can_capture, DIPFKP.fit.preferred_memory_format = before
        torch.backends.cudnn.benchmark = False


def _fit_seconds(settings: dip.DIPSettings, side: int, pictures: int, device: torch.device) -> dict[str, Any]:
    """Seconds of an iteration: of a fit less those of one of a fifth of the iterations."""
    seconds = []
    for iterations in (settings.iterations // 5 or 1, settings.iterations):
        fit = _new_fit(replace(settings, iterations=iterations), side, pictures, device)
        with measuring(device) as found:
            fit.run(SearchLog(iterations, None, "", 25), {})
        seconds.append(found["seconds"])
    per_step = (seconds[1] - seconds[0]) / (settings.iterations - (settings.iterations // 5 or 1))
    per_picture = 1000 * per_step / pictures
    return {
        **found,
        "ms_per_step": 1000 * per_step,
        "ms_per_step_and_picture": per_picture,
        "start_seconds": seconds[0],
    }


def _new_fit(settings: dip.DIPSettings, side: int, pictures: int, device: torch.device) -> Fit:
    prior = KernelPrior.from_pretrained(2).to(device)
    lr = torch.rand(pictures, 3, side // 2, side // 2, generator=torch.Generator().manual_seed(0)).to(device)
    kernels = latent_kernels(prior, prior.initial_latent().expand(pictures, -1), settings.kernel_rate)
    generators = [torch.Generator().manual_seed(seed) for seed in range(pictures)]
    return Fit(Target(lr, 2, side=11, circular=True), settings, kernels, generators)


def _profile(settings: dip.DIPSettings, device: torch.device) -> dict[str, Any]:
    """The kernels that take most of 16 pictures' iterations, in ms an iteration."""
    fit = _new_fit(settings, 128, 16, device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        fit.run(SearchLog(settings.iterations, None, "", 25), {})
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)[:12]
    per_step = 1000 * settings.iterations
    return {"ms_by_kernel": {event.key[:60]: round(event.self_device_time_total / per_step, 3) for event in events}}


@cache
def bsd100(reference: Path, scale_factor: int, count: int, side: int) -> list[Example]:
    """Pictures of BSD100 with kernels drawn as for the test sets; their middle, where ``side`` is less than they."""
    generator = torch.Generator().manual_seed(1)
    examples = []
    for path in sorted((reference / "BSD100" / "HR").glob("*.png"))[:count]:
        hr = modcrop(centre_crop(read_image(path), side), scale_factor)
        kernel = random_kernels(1, scale_factor, generator)
        examples.append((quantize(degrade(hr, kernel, scale_factor)), kernel, hr))
    return examples


def pictures_per_hour(session: Session) -> None:
    """Presets and USRNet on pictures of BSD100, one at a time and as one."""
    quick, device = session.quick, session.device
    for scale_factor in (2, 4):
        examples = bsd100(session.reference, scale_factor, 2 if quick else 20, 160 if quick else 1000)
        lrs = [example[0].to(device) for example in examples]
        restore_all = partial(_predict_and_restore, lrs, scale_factor, device)
        restore_all()  # warm-up
        _timed(session, "prediction and USRNet", (scale_factor, ONE), restore_all, examples)
        for name, one, many in (
            ("prediction", lrs[: 1 if quick else 4], lrs),
            ("search", lrs[: 1 if quick else 4], lrs),
            ("paper", lrs[:1], lrs[: 1 if quick else 4]),
        ):
            settings = dip.preset(name)  # type: ignore[arg-type]
            if settings.iterations and quick:
                settings = replace(settings, iterations=4, ssim_iterations=2, frozen_iterations=1, channels=8)
            estimator: BatchEstimator = dip.pretrained_estimator(scale_factor, device, settings)
            if device.type != "cpu" or name != "paper" or quick:
                for way, taken in ((ONE, one), ("as one", many)):
                    run = partial(_estimated, estimator, taken, scale_factor, way)
                    if taken:
                        _timed(session, f"DIP-FKP {name}", (scale_factor, way), run, examples)
        gan_settings = gan.preset("search", "KernelGANFKP", scale_factor)
        if quick:
            gan_settings = replace(gan_settings, iterations=2, frozen_iterations=0, crops_per_step=2)
        estimator = gan.pretrained_estimator(scale_factor, device, gan_settings)
        for way, taken in ((ONE, lrs[: 1 if quick else 3]), ("as one", lrs)):
            run = partial(_estimated, estimator, taken, scale_factor, way)
            _timed(session, "KernelGAN-FKP search", (scale_factor, way), run, examples)


@cache
def _shipped(device: torch.device) -> tuple[KernelPredictor, USRNet]:
    return KernelPredictor.from_pretrained().to(device), USRNet.from_pretrained().to(device)


def _predict_and_restore(lrs: list[Tensor], scale_factor: int, device: torch.device) -> list[Tensor]:
    predictor, net = _shipped(device)
    bfloat16, made = gains_from_bfloat16(device), []
    for lr in lrs:
        kernel = predictor.predict(lr, scale_factor).kernel.to(device)
        made.append(tiled_sr(net, lr, kernel, scale_factor, bfloat16=bfloat16).cpu())
    return made


def _estimated(estimator: Any, lrs: Sequence[Tensor], scale_factor: int, way: str) -> list[Estimate]:
    if way == ONE:
        return [estimator(lr, scale_factor, seed=0) for lr in lrs]
    groups: dict[Hashable, list[Tensor]] = {}
    for lr in lrs:
        groups.setdefault(estimator.batch_key(lr, scale_factor), []).append(lr)
    found = []
    for group in groups.values():
        found += estimator.batch(group, scale_factor, seeds=[0] * len(group))
    return found


def _timed(
    session: Session,
    method: str,
    case: tuple[int, str],
    run: Callable[[], Sequence[Any]],
    examples: list[Example],
) -> None:
    """Take down the time of ``run`` for scale factor and way, and the kernels it finds, one for each example."""
    scale_factor, way = case
    if session.clock.left() < 15:
        return

    def measure() -> dict[str, Any]:
        with measuring(session.device) as found:
            made = run()
        each = found["seconds"] / len(made)
        scores = {}
        if way == ONE and isinstance(made[0], Estimate):
            pairs = zip(made, examples, strict=False)
            scores["kernel_psnr"] = float(np.mean([kernel_psnr(one.kernel, example[1]) for one, example in pairs]))
        return {
            **found,
            "pictures": len(made),
            "seconds_per_picture": each,
            "pictures_per_hour": 3600 / each,
            **scores,
        }

    what = {"part": "speed", "method": method, "scale": scale_factor, "way": way, "seed": 0}
    session.records.guarded(what, measure)


def usrnet_sizes(session: Session) -> None:
    """USRNet for results of 2 and 12 megapixels, in float32 and as it ships."""
    records, device, quick = session.records, session.device, session.quick
    net = USRNet.from_pretrained().to(device)
    kernel = random_kernels(1, 2, torch.Generator().manual_seed(0)).to(device)
    sizes = {"0.01 MP": (50, 50)} if quick else {"2 MP": (576, 864), "12 MP": (1500, 2000)}
    for name, size in sizes.items():
        lr = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
        for bfloat16 in (False, True):

            def measure(lr: Tensor = lr, bfloat16: bool = bfloat16) -> dict[str, Any]:
                tiled_sr(net, lr, kernel, 2, bfloat16=bfloat16)  # warm-up
                with measuring(device) as found:
                    tiled_sr(net, lr, kernel, 2, bfloat16=bfloat16)
                return found

            if session.clock.left() > 20 or device.type == "cuda":
                records.guarded({"part": "speed", "method": "USRNet", "size": name, "bfloat16": bfloat16}, measure)
