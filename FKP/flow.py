"""Normalizing flow of affine couplings and batch normalisations; knows nothing of kernels or images."""

import torch
from torch import Tensor, nn

__all__ = ["AffineCoupling", "FlowBatchNorm", "NormalizingFlow"]


class AffineCoupling(nn.Module):
    """Affine coupling layer (RealNVP, arXiv:1605.08803, section 3.2) with two separate MLPs.

    u = m·x + (1 − m)·(x − t(m·x))·exp(−s(m·x)), with Tanh inside s and ReLU inside t.

    Args:
        mask: shape (d,), ones where the input passes unchanged.
        hidden: width of the two hidden layers.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.s_net = self._mlp(len(mask), hidden, nn.Tanh)
        self.t_net = self._mlp(len(mask), hidden, nn.ReLU)

    @staticmethod
    def _mlp(dimension: int, hidden: int, activation: type[nn.Module]) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(dimension, hidden),
            activation(),
            nn.Linear(hidden, hidden),
            activation(),
            nn.Linear(hidden, dimension),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """N×d → N×d and the log-determinant, shape (N,)."""
        kept = self.mask * x
        changed = 1 - self.mask
        s, t = self.s_net(kept), self.t_net(kept)
        return kept + changed * (x - t) * torch.exp(-s), -(changed * s).sum(dim=1)

    def inverse(self, u: Tensor) -> Tensor:
        """N×d → N×d, the inverse of :meth:`forward`."""
        kept = self.mask * u
        s, t = self.s_net(kept), self.t_net(kept)
        return kept + (1 - self.mask) * (u * torch.exp(s) + t)


class FlowBatchNorm(nn.Module):
    """Batch normalisation as a flow layer (MAF, arXiv:1705.07057, section 3.3).

    y = exp(log γ)·(x − μ)/√(v + 1e-5) + β. Training uses the batch's mean and unbiased variance and updates the
    running ones, r ← 0.9 r + 0.1 batch; evaluation and the inverse use the running ones.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dimension: int, momentum: float = 0.9, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.log_gamma = nn.Parameter(torch.zeros(dimension))
        self.beta = nn.Parameter(torch.zeros(dimension))
        self.register_buffer("running_mean", torch.zeros(dimension))
        self.register_buffer("running_var", torch.ones(dimension))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """N×d → N×d and the log-determinant, shape (N,)."""
        if self.training:
            var, mean = torch.var_mean(x, dim=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, 1 - self.momentum)
                self.running_var.lerp_(var, 1 - self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        var = var + self.eps
        y = torch.exp(self.log_gamma) * (x - mean) * torch.rsqrt(var) + self.beta
        return y, (self.log_gamma - 0.5 * torch.log(var)).sum().expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """N×d → N×d, the inverse of :meth:`forward` in evaluation mode."""
        std = torch.sqrt(self.running_var + self.eps)
        return (y - self.beta) * torch.exp(-self.log_gamma) * std + self.running_mean


class NormalizingFlow(nn.Sequential):
    """Blocks of [affine coupling, batch norm] with a checkerboard mask that is inverted after every block.

    >>> flow = NormalizingFlow(dimension=9, hidden=4, blocks=2).eval()
    >>> u, log_det = flow(torch.randn(5, 9))
    >>> u.shape, log_det.shape
    (torch.Size([5, 9]), torch.Size([5]))

    Args:
        dimension: d of the vectors that flow through.
        hidden: width of the couplings' hidden layers.
        blocks: number of blocks (paper: 5).
    """

    def __init__(self, dimension: int, hidden: int, blocks: int = 5) -> None:
        layers: list[nn.Module] = []
        mask = torch.arange(dimension).float() % 2
        for _ in range(blocks):
            layers += [AffineCoupling(mask, hidden), FlowBatchNorm(dimension)]
            mask = 1 - mask
        super().__init__(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latent: N×d → N×d and the log-determinant of the Jacobian, shape (N,)."""
        total = x.new_zeros(len(x))
        for layer in self:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def inverse(self, u: Tensor) -> Tensor:
        """Latent to data: N×d → N×d. The log-determinant, which nothing needs, is the negative of forward's there."""
        for layer in reversed(self):
            assert isinstance(layer, AffineCoupling | FlowBatchNorm)
            u = layer.inverse(u)
        return u
