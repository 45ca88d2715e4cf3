"""The critic's layers for a loss that contains the critic's input gradient, as WGAN-GP's does.

PyTorch's own layers can be differentiated twice as well, but on a CPU more than half of a critic step's time then
goes into batch norm, whose second derivative is composed of many passes over strided memory.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["EPSILON", "batch_norm_leaky_relu", "convolution"]

EPSILON = 1e-5
"""Added to the variance, as in PyTorch's batch norm."""


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """Convolution with stride 1, without padding.

    With ``create_graph`` only the gradient with respect to ``x`` is formed, which can be differentiated again; those
    of weight and bias come back as None. A gradient penalty has no use for them.

    Args:
        x: N×C×h×w.
        weight: C'×(C/groups)×k×k, of x's dtype.
        bias: C', of x's dtype, or none.
        groups: as of PyTorch's convolutions.
    """
    return _Convolution.apply(x, weight, bias, groups)


def batch_norm_leaky_relu(x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """Batch norm with the batch's own statistics, then LeakyReLU; twice differentiable as :func:`convolution` is.

    Args:
        x: N×C×h×w float32, bfloat16 or float64, channels-last.
        weight, bias: C, float32 (float64 where x is).
        slope: of LeakyReLU for negative values.
    """
    return _BatchNormLeakyReLU.apply(x, weight, bias, slope)


def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    groups: int,
    *,
    to_x: bool = False,
    to_weight: bool = False,
    to_bias: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to input, weight and bias, those asked for."""
    return torch.ops.aten.convolution_backward(
        *(gradient, x, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], groups),
        [to_x, to_weight, to_bias],
    )


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        return F.conv2d(x, weight, bias, groups=groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _ConvolutionInputGradient.apply(gradient, x, weight, ctx.groups), None, None, None
        to_x, to_weight, to_bias, _ = ctx.needs_input_grad
        wanted = {"to_x": to_x, "to_weight": to_weight, "to_bias": to_bias}
        return *_convolution_backward(gradient, x, weight, ctx.groups, **wanted), None


class _ConvolutionInputGradient(Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(gradient, weight)
        ctx.groups = groups
        return _convolution_backward(gradient, x, weight, groups, to_x=True)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        gradient, weight = ctx.saved_tensors
        by_weight = _convolution_backward(gradient, direction, weight, ctx.groups, to_weight=True)[1]
        by_gradient = F.conv2d(direction, weight, groups=ctx.groups) if ctx.needs_input_grad[0] else None
        return by_gradient, None, by_weight, None


class _BatchNormLeakyReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        y, mean, inverse_std = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, EPSILON)
        y = F.leaky_relu_(y, slope)
        ctx.save_for_backward(x, weight, y, mean, inverse_std)
        ctx.slope = slope
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:  # reached only through y, on whose value the penalty does not depend
            return None, None, None, None
        x, weight, y, mean, inverse_std = ctx.saved_tensors
        if torch.is_grad_enabled():
            by_x = _BatchNormLeakyReLUInputGradient.apply(gradient, x, weight, y, mean, inverse_std, ctx.slope)
            return by_x, None, None, None
        gradient = _leaky_relu_backward(gradient, y, ctx.slope)
        return *_batch_norm_backward(gradient, x, weight, mean, inverse_std), None


class _BatchNormLeakyReLUInputGradient(Function):
    """γ/s · P(gradient at the LeakyReLU's input), where P(u) = u − ⟨u⟩ − x̂ ⟨u x̂⟩.

    x̂ is the normalised input, s = √(variance + ε), and means ⟨·⟩ are over a channel's pixels in the batch.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor,
        y: Tensor,
        mean: Tensor,
        inverse_std: Tensor,
        slope: float,
    ) -> Tensor:
        gradient = _leaky_relu_backward(gradient, y, slope)
        by_x, sum_with_x, sum_ = _batch_norm_backward(gradient, x, weight, mean, inverse_std)
        ctx.save_for_backward(gradient, x, weight, y, mean, inverse_std, by_x, sum_with_x, sum_)
        ctx.slope = slope
        return by_x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        gradient, x, weight, y, mean, inverse_std, first_by_x, sum_with_x, sum_ = ctx.saved_tensors
        # P is symmetric, so what the layer does to a direction is what its backward does to a gradient.
        by_gradient, direction_with_x, direction_sum = _batch_norm_backward(direction, x, weight, mean, inverse_std)
        count = x.numel() // x.shape[1]
        # count · ⟨direction · P(gradient)⟩
        product = (direction * gradient).sum(dim=(0, 2, 3)).to(weight.dtype)
        product = product - (direction_sum * sum_ + direction_with_x * sum_with_x) / count
        # How s and x̂, through which P depends on x, change with x; P's own linear part is by_gradient.
        scale = weight * inverse_std * product / count
        by_x = torch.addcmul(
            _per_pixel(scale * inverse_std**2 * mean, x), _rows(x), _per_pixel(-scale * inverse_std**2, x)
        )
        by_x.addcmul_(_rows(by_gradient), _per_pixel(-inverse_std * sum_with_x / count, x))
        by_x.addcmul_(_rows(first_by_x), _per_pixel(-inverse_std * direction_with_x / count, x))
        by_x = by_x.view(x.shape[0], *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
        by_gradient = _leaky_relu_backward(by_gradient, y, ctx.slope)
        return by_gradient, by_x, inverse_std * product, None, None, None, None


def _leaky_relu_backward(gradient: Tensor, y: Tensor, slope: float) -> Tensor:
    return torch.ops.aten.leaky_relu_backward(gradient, y, slope, True)


def _batch_norm_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse_std: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """γ/s · P(gradient), and the sums over pixels of gradient · x̂ and of gradient."""
    # In the layout of x: where they differ PyTorch takes a slow path.
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    return torch.ops.aten.native_batch_norm_backward(
        gradient, x, weight, None, None, mean, inverse_std, True, EPSILON, [True, True, True]
    )


def _rows(x: Tensor) -> Tensor:
    """N×C×h×w → N×(h·w·C), without a copy where x is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1)


def _per_pixel(values: Tensor, x: Tensor) -> Tensor:
    """C values → a row of :func:`_rows`; repeating them is faster than broadcasting over channels."""
    return values.to(x.dtype).repeat(x.shape[2] * x.shape[3])
