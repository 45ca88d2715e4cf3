"""The sphere that latent codes are kept on, and Adam on it (FKP, section 3.3)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["SphericalAdam", "project_to_sphere"]


def project_to_sphere(latent: Tensor) -> Tensor:
    """Scale codes (last dimension side²) to the radius side − 1, near which Gaussian vectors concentrate.

    FKP, section 3.3; the radius is a little less than √d = side, which does slightly better.
    """
    radius = math.sqrt(latent.shape[-1]) - 1
    return latent * radius / torch.sqrt(latent.square().sum(dim=-1, keepdim=True) + 1e-9)


class SphericalAdam(torch.optim.Adam):
    """Adam whose parameters are put back onto the latent sphere after every step (FKP, section 3.3)."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.5, **options: Any) -> None:
        super().__init__(params, lr=lr, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.copy_(project_to_sphere(parameter))
        return loss
