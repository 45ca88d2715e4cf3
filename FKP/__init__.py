"""The flow-based kernel prior (Liang et al., CVPR 2021), and a predictor of kernels."""

from FKP.predictor import KernelPredictor, Start, load_for_search
from FKP.prior import KernelPrior, SphericalAdam, project_to_sphere

__all__ = ["KernelPredictor", "KernelPrior", "SphericalAdam", "Start", "load_for_search", "project_to_sphere"]
