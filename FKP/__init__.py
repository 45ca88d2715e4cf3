"""The flow-based kernel prior (Liang et al., CVPR 2021)."""

from FKP.prior import KernelPrior
from FKP.sphere import SphericalAdam, project_to_sphere

__all__ = ["KernelPrior", "SphericalAdam", "project_to_sphere"]
