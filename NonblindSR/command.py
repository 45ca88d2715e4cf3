"""The non-blind step of a command."""

from dataclasses import replace

import torch

from blindsr.batch.command import Method
from blindsr.batch.options import BatchOptions
from NonblindSR.weights import choose_nonblind

__all__ = ["with_nonblind"]


def with_nonblind(method: Method, options: BatchOptions, device: torch.device) -> Method:
    """``method`` followed by the non-blind step that the options of a command ask for."""
    step = choose_nonblind(
        options.photographs,
        options.sf,
        options.pictures.sigma,
        device,
        options.pictures.path_nonblind,
        path_predictor=method.files.get("path_predictor") if options.photographs else None,
        tile=options.run.tile,
        float32=options.run.float32,
    )
    settings, files = method.settings | step.settings, method.files | step.files
    return replace(method, nonblind=step.network, sigma=step.sigma, settings=settings, files=files)
