"""Critic of KernelGAN-FKP; generator and discriminator of KernelGAN (Bell-Kligler et al., NeurIPS 2019).

Critics of several pictures are one network of as many groups, whose channels are those of the first picture, then
those of the second and so on. Batch norm is then each picture's own, and a single picture is the case of one group.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from blindsr.initialization import draw_parameters
from KernelGANFKP.functions import EPSILON, batch_norm_leaky_relu, convolution

__all__ = ["Critic", "Discriminator", "LinearGenerator"]


class Critic(nn.Module):
    """Scores patches, without a bound: five 3×3 convolutions without padding (FKP, supplement).

    All but the last have no bias, which the batch norm behind them would take off again; LeakyReLU follows.

    >>> Critic(torch.Generator().manual_seed(0))(torch.rand(2, 3, 27, 27)).shape
    torch.Size([2, 1, 17, 17])

    Args:
        generators: one for each picture, draws the weights: N(0, 0.02), those of the batch norms N(1, 0.02); the last
            bias as PyTorch does.
        channels: of the hidden layers, for each picture.
        dtype: what the layers compute in: float32, bfloat16 (parameters are float32), or after ``.double()`` float64.
    """

    slope = 0.2
    """Of LeakyReLU."""

    def __init__(self, *generators: torch.Generator, channels: int = 32, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype, self.pictures = dtype, len(generators)
        inputs, width, groups = (3, channels, channels, channels), channels * self.pictures, self.pictures
        self.hidden = nn.ModuleList(nn.Conv2d(n * groups, width, 3, bias=False, groups=groups) for n in inputs)
        # Only their parameters are used.
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, EPSILON, track_running_stats=False) for _ in inputs)
        self.last = nn.Conv2d(width, groups, 3, groups=groups)
        draw_parameters(self.last, *generators)
        for module in (*self.hidden, *self.norms, self.last):
            mean = 0.0 if isinstance(module, nn.Conv2d) else 1.0
            for part, generator in zip(module.weight.detach().chunk(groups), generators, strict=True):
                nn.init.normal_(part, mean, 0.02, generator=generator)

    def forward(self, patches: Tensor) -> Tensor:
        """N×(P·3)×p×p in [0, 1] → N×P×(p − 10)×(p − 10), for P pictures."""
        x = (2 * patches - 1).to(self.dtype, memory_format=torch.channels_last)
        for hidden, norm in zip(self.hidden, self.norms, strict=True):
            x = convolution(x, hidden.weight.to(self.dtype), groups=self.pictures)  # type: ignore[arg-type]
            x = batch_norm_leaky_relu(x, norm.weight, norm.bias, self.slope)  # type: ignore[arg-type]
        weight, bias = (parameter.to(self.dtype) for parameter in self.last.parameters())
        return convolution(x, weight, bias, self.pictures).to(patches.dtype)


class LinearGenerator(nn.Module):
    """A kernel that six convolutions without non-linearities make together (KernelGAN, section 4).

    The release sends the patches through the six, the last with stride 2. Being linear, they do to an image what one
    convolution with this kernel does; its gradient reaches their weights alike and costs far less.

    Args:
        generator: draws the weights: Xavier-normal with gain 0.1.
    """

    sides = (7, 5, 3, 1, 1, 1)
    kernel_side = 13
    """Side of the kernel that the six make together."""

    def __init__(self, generator: torch.Generator, channels: int = 64) -> None:
        super().__init__()
        widths = [1, *[channels] * (len(self.sides) - 1), 1]
        self.layers = nn.Sequential(
            *(
                nn.Conv2d(c_in, c_out, side, bias=False)
                for c_in, c_out, side in zip(widths, widths[1:], self.sides, strict=False)
            )
        )
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight, gain=0.1, generator=generator)  # type: ignore[arg-type]

    def kernel(self) -> Tensor:
        """The kernel, 1×1×13×13, differentiable: what the layers make of an impulse, turned round."""
        weight = self.layers[0].weight
        impulse = torch.zeros(1, 1, 25, 25, dtype=weight.dtype, device=weight.device)  # type: ignore[arg-type]
        impulse[..., 12, 12] = 1
        return self.layers(impulse).flip(-2, -1)


class Discriminator(nn.Sequential):
    """Says of every 7×7 patch how real it looks, 0 to 1 (KernelGAN, section 4).

    Args:
        generator: draws the weights: Xavier-normal with gain 0.1.
    """

    def __init__(self, generator: torch.Generator, channels: int = 64) -> None:
        convolutions = [nn.Conv2d(3, channels, 7), *(nn.Conv2d(channels, channels, 1) for _ in range(5))]
        convolutions.append(nn.Conv2d(channels, 1, 1))
        for layer in convolutions:
            nn.init.xavier_normal_(layer.weight, gain=0.1, generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            # Exact singular vectors, where PyTorch starts from the global random numbers.
            u, _, v = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
            spectral_norm(layer)
            vectors = {"parametrizations.weight.0._u": u[:, 0], "parametrizations.weight.0._v": v[0]}
            layer.load_state_dict(vectors, strict=False)
        first, *hidden, last = convolutions
        blocks: list[nn.Module] = []
        for layer in hidden:
            blocks += [layer, nn.BatchNorm2d(channels), nn.ReLU()]
        super().__init__(first, *blocks, last, nn.Sigmoid())
