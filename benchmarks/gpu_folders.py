"""From a folder of pictures to a folder of results, as the commands go: files are read, written and recorded."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import DIPFKP.estimator as dip
from blindsr.batch.inputs import Item, input_items
from blindsr.batch.records import Records
from blindsr.batch.run import Job, process
from blindsr.degradation import centre_crop, degrade, quantize
from blindsr.images import read_image, to_uint8, write_image
from blindsr.kernel_files import read_kernel
from blindsr.kernels import random_kernels
from gpu_records import Session, measuring
from NonblindSR.tiling import pretrained_nonblind

__all__ = ["folders"]

HEIGHT, WIDTH = 320, 480
CASES = (("prediction", 2, 60), ("search", 4, 64))
"""Preset, scale factor and how many pictures; one at a time it is an eighth of them."""


def folders(session: Session) -> None:
    """DIP-FKP and USRNet on pictures of BSD100: at x2 from 480×320 to 960×640 pixels, at x4 from 120×80 to 480×320.

    One at a time, and as many as one as the estimator says for the free memory (``--batch``).
    """
    for name, scale_factor, count in CASES:
        with tempfile.TemporaryDirectory() as folder:
            items = _pictures(session, Path(folder), scale_factor, 2 if session.quick else count)
            job = _job(session, name, scale_factor)
            _run(items[:2], job, Path(folder) / "warm-up")
            for batch in (1, 2 if session.device.type == "cpu" else None):
                if session.clock.left() > 15:
                    taken = items[: -(-len(items) // 8)] if batch == 1 else items
                    what = {"part": "folders", "method": f"DIP-FKP {name}, USRNet", "scale": scale_factor}
                    what |= {"batch": batch or "as many as fit", "seed": 0}
                    session.records.guarded(what, partial(_measured, taken, replace(job, batch=batch), Path(folder)))


def _pictures(session: Session, folder: Path, scale_factor: int, count: int) -> list[Item]:
    """As laboratory data: blurred and made small where the scale factor is 4; at x2 the pictures are taken as LR."""
    (folder / "in").mkdir()
    height, width = (48, 64) if session.quick else (HEIGHT, WIDTH)
    generator = torch.Generator().manual_seed(0)
    paths = sorted((session.reference / "BSD100" / "HR").glob("*.png"))
    for path in paths[:count]:
        image = read_image(path)
        image = image if image.shape[3] >= image.shape[2] else image.transpose(2, 3)
        image = centre_crop(image, width)[:, :, :height]
        if scale_factor == 4:
            image = quantize(degrade(image, random_kernels(1, 4, generator), 4))
        write_image(folder / "in" / path.name, to_uint8(image))
    return input_items([folder / "in"])


def _job(session: Session, name: str, scale_factor: int) -> Job:
    settings = dip.preset(name)  # type: ignore[arg-type]
    if session.quick and settings.iterations:
        settings = replace(settings, iterations=4, ssim_iterations=2, frozen_iterations=1, channels=8)
    estimator = dip.pretrained_estimator(scale_factor, session.device, settings)
    return Job(estimator, scale_factor, session.device, pretrained_nonblind(None, session.device))


def _run(items: list[Item], job: Job, folder: Path) -> None:
    folder.mkdir()
    for result in process(items, job, folder, records=Records(folder, {}, {})):
        if result.error is not None:
            raise ValueError(result.error)


def _measured(items: list[Item], job: Job, folder: Path) -> dict[str, Any]:
    """Seconds, and how far results are from those of one picture at a time, where these are there."""
    out, alone = folder / f"out{job.batch}", folder / "out1"
    with measuring(job.device) as found:
        _run(items, job, out)
    each = found["seconds"] / len(items)
    values = {**found, "pictures": len(items), "seconds_per_picture": each, "pictures_per_hour": 3600 / each}
    both = [item.name for item in items if job.batch != 1 and (alone / f"{item.name}.mat").exists()]
    if both:
        kernels = [[read_kernel(place / f"{name}.mat") for name in both] for place in (alone, out)]
        values["kernel_difference"] = max(float((a - b).abs().max()) for a, b in zip(*kernels, strict=True))
        images = [[read_image(place / f"{name}.png") for name in both] for place in (alone, out)]
        values["mean_grey_levels"] = max(float(255 * (a - b).abs().mean()) for a, b in zip(*images, strict=True))
    return values
