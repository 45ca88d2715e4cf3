"""A network that reads the covariance of the blur off an LR image: where a search of the prior starts."""

from KernelPredictor.predictor import KernelPredictor, Start

__all__ = ["KernelPredictor", "Start"]
