"""Initial weights from a generator that is passed, so that no estimation disturbs another's random numbers."""

import math

import torch
from torch import nn

__all__ = ["draw_parameters"]


def draw_parameters(module: nn.Module, generator: torch.Generator) -> None:
    """Redraw every convolution and linear layer of ``module`` from PyTorch's default distribution.

    Weights and biases are uniform in ±1/√fan_in. ``generator`` lives on the CPU, so that a seed gives the same
    weights on every device.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            bound = 1 / math.sqrt(fan_in)
            with torch.no_grad():
                for parameter in (layer.weight, layer.bias):
                    if parameter is not None:
                        draw = torch.rand(parameter.shape, generator=generator)
                        parameter.copy_((2 * draw - 1) * bound)
