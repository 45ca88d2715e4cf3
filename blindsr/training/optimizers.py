"""The optimiser of the trainings: Muon for the hidden convolutions, Adam for what is left."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MuonAdam"]


def _is_hidden_convolution(parameter: Tensor) -> bool:
    """Whether it is the weight of a convolution between features, whose matrix is worth orthogonalising."""
    return parameter.ndim == 4 and parameter.shape[-1] > 1 and min(parameter.shape[:2]) >= 16


def _in_memory_order(values: Tensor, weight: Tensor) -> Tensor:
    """``values``, shaped like the convolution's ``weight``, with dimensions in the order of the weight's memory.

    Muon does not mind in what order a matrix's columns come, so each memory format keeps its own.
    """
    return values if weight.is_contiguous() else values.permute(0, 2, 3, 1)


class MuonAdam:
    """Muon (Jordan et al., 2024) for hidden convolutions, Adam for first, last, 1×1 and all other parameters.

    Muon's update is the nearest orthogonal matrix to the averaged gradient, scaled to the size of an Adam update
    (``match_rms_adamw``): all directions of a weight learn at one rate. PyTorch's takes matrices only; here each
    convolution shares its memory with one.

    Args:
        net: its parameters must stay where they are (device and memory format) afterwards.
        rate: learning rate of Adam.
        muon_rate: learning rate of Muon.
    """

    def __init__(self, net: nn.Module, rate: float, muon_rate: float) -> None:
        parameters = list(net.parameters())
        self.hidden = [parameter for parameter in parameters if _is_hidden_convolution(parameter)]
        # Views, or an error: a copy would keep every update from the network.
        self.matrices = [nn.Parameter(_in_memory_order(p.detach(), p).view(len(p), -1)) for p in self.hidden]
        self.optimizers: list[torch.optim.Optimizer] = []
        self.peaks: list[float] = []
        others = [parameter for parameter in parameters if not _is_hidden_convolution(parameter)]
        if others:
            self.optimizers.append(torch.optim.Adam(others, lr=rate))
            self.peaks.append(rate)
        if self.matrices:
            muon = torch.optim.Muon(self.matrices, lr=muon_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
            self.optimizers.append(muon)
            self.peaks.append(muon_rate)

    def step(self, factor: float = 1.0) -> None:
        """One update at ``factor`` times the learning rates; the gradients are gone afterwards."""
        for parameter, matrix in zip(self.hidden, self.matrices, strict=True):
            if parameter.grad is not None:
                matrix.grad = _in_memory_order(parameter.grad, parameter).reshape(matrix.shape)
                parameter.grad = None
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
