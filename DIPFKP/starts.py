"""Where a search starts: at the prior's kernel nearest to the predicted one; under a prior of other kernels than a
predictor reads, at the best of several, briefly tried."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from blindsr.estimation import SearchLog
from DIPFKP.fit import Fit, SearchedKernels, latent_kernels
from DIPFKP.settings import DIPSettings
from DIPFKP.target import Target
from FKP import KernelPrior, project_to_sphere
from KernelPredictor import KernelPredictor

__all__ = ["best_start", "predicted_start"]

STARTS = 5
"""Kernels that are tried."""
SHARE = 3
"""A start is tried in one of so many parts of the search's iterations."""
LAST = 5
"""Iterations over whose squared errors starts are compared."""


def predicted_start(
    prior: KernelPrior,
    predictor: KernelPredictor,
    lrs: Sequence[Tensor],
    joint: Target,
    settings: DIPSettings,
    generators: Sequence[torch.Generator],
) -> tuple[SearchedKernels, list[dict[str, Any]]]:
    """The kernels that a search begins with, and what an estimate says of them.

    Args:
        lrs: P images, 1×3×h×w, for the predictor.
        joint: the same, as the kernels are searched on them.
        generators: one for each.
    """
    predictions = [predictor.predict(lr, joint.scale_factor) for lr in lrs]
    predicted = torch.cat([prediction.kernel for prediction in predictions]).to(joint.lr.device)
    if settings.iterations and not prior.is_published:
        latents = [
            best_start(replace(joint, lr=lr), settings, prior, kernel, generator)
            for lr, kernel, generator in zip(joint.lr.split(1), predicted.split(1), generators, strict=True)
        ]
        # What else is predicted is said of Gaussian kernels.
        noise = [{"sigma": prediction.sigma} for prediction in predictions]
        return latent_kernels(prior, torch.cat(latents), settings.kernel_rate, None), noise
    kernels = latent_kernels(prior, prior.invert(predicted), settings.kernel_rate, predicted)
    return kernels, [prediction.findings for prediction in predictions]


def best_start(
    target: Target, settings: DIPSettings, prior: KernelPrior, predicted: Tensor, generator: torch.Generator
) -> Tensor:
    """The latent code, 1×side², whose brief search fits one image best.

    Tried are the prior's kernel nearest to the predicted Gaussian and draws of the prior, all with the same image
    network.

    Args:
        predicted: 1×1×k×k.
        generator: of the draws; that of the search is left as it is.
    """
    seed = generator.initial_seed()
    draws = prior.sample_latent(STARTS - 1, torch.Generator().manual_seed(seed))
    latents = torch.cat([prior.invert(predicted), project_to_sphere(draws)])
    count = len(latents)
    part = {name: getattr(settings, name) // SHARE for name in ("ssim_iterations", "frozen_iterations")}
    brief = replace(settings, iterations=max(settings.iterations // SHARE, part["frozen_iterations"] + 1), **part)
    several = replace(target, lr=target.lr.repeat(count, 1, 1, 1))
    kernels = latent_kernels(prior, latents, settings.kernel_rate, None)
    log = SearchLog(brief.iterations, None, "use a smaller --image-rate or --kernel-rate")
    Fit(several, brief, kernels, [torch.Generator().manual_seed(seed) for _ in range(count)]).run(log, {})
    errors = [sum(log.of(start)["losses"][-LAST:]) for start in range(count)]
    assert kernels.optimizer is not None
    (searched,) = kernels.optimizer.param_groups[0]["params"]
    best = min(range(count), key=errors.__getitem__)
    return searched[best : best + 1].detach()
