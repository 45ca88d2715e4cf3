"""Blur that varies over the photographs of a command."""

from dataclasses import replace
from pathlib import Path

import torch

from blindsr.batch.command import Method
from blindsr.batch.options import EstimatorOptions
from KernelPredictor.field import LocalEstimator
from KernelPredictor.predictor import KernelPredictor, predictor_path

__all__ = ["with_field"]


def with_field(method: Method, options: EstimatorOptions, device: torch.device, path: Path | None) -> Method:
    """``method``, after a look at how the blur varies where the options of a command ask for that.

    Args:
        path: weights of the predictor in place of the shipped ones.

    Raises:
        FileNotFoundError, ValueError: there are no such weights, or the pictures have one kernel.
    """
    if not options.method.local:
        return method
    if not options.photographs:
        raise ValueError("--local: laboratory data have one kernel; take photographs, -i or --real, or leave it out")
    if not options.SR:
        raise ValueError(
            "--local: an estimator's own picture is made with one kernel; give --SR too, or leave it out"
        )
    path = path or predictor_path(True, options.sf)
    strong = predictor_path(True, 1)
    networks = (KernelPredictor.from_pretrained(each).to(device) for each in (path, strong))
    settings = method.settings | {"local": True}
    files = method.files | {"path_predictor": path, "path_predictor_x1": strong}
    estimator = LocalEstimator(method.estimator, *networks)
    return replace(method, estimator=estimator, settings=settings, files=files)
