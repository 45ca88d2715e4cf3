"""What the estimators, the kernel prior and the non-blind network share.

Images are float32 N×C×H×W tensors in [0, 1], RGB; kernels are float32 N×1×k×k tensors that sum to 1.
"""

from blindsr.api import super_resolve

__all__ = ["super_resolve"]
