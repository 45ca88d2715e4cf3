"""Initial weights from a generator that is passed, so that no estimation disturbs another's random numbers."""

import math

import torch
from torch import nn

__all__ = ["draw_parameters"]


def draw_parameters(module: nn.Module, *generators: torch.Generator) -> None:
    """Redraw every convolution and linear layer of ``module`` from PyTorch's default distribution.

    Weights and biases are uniform in ±1/√fan_in. Generators live on the CPU, so that a seed gives the same weights on
    every device. Of several each draws its share of a layer's outputs, as for a smaller network of its own.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            bound = 1 / math.sqrt(fan_in)
            with torch.no_grad():
                for parameter in (layer.weight, layer.bias):
                    if parameter is None:
                        continue
                    for part, generator in zip(parameter.chunk(len(generators)), generators, strict=True):
                        draw = torch.rand(part.shape, generator=generator)
                        part.copy_((2 * draw - 1) * bound)
