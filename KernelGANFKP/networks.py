"""Critic of KernelGAN-FKP; generator and discriminator of KernelGAN (Bell-Kligler et al., NeurIPS 2019)."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from blindsr.initialization import draw_parameters

__all__ = ["Critic", "Discriminator", "LinearGenerator"]


class Critic(nn.Sequential):
    """Scores patches, without a bound: five 3×3 convolutions without padding (FKP, supplement).

    >>> Critic(torch.Generator().manual_seed(0))(torch.rand(2, 3, 27, 27)).shape
    torch.Size([2, 1, 17, 17])

    Args:
        generator: draws the weights: N(0, 0.02), those of the batch norms N(1, 0.02); biases as PyTorch does.
        channels: of the hidden layers.
        layers: convolutions; each takes two pixels off height and width.
    """

    def __init__(self, generator: torch.Generator, channels: int = 32, layers: int = 5) -> None:
        blocks: list[nn.Module] = []
        for layer in range(layers - 1):
            blocks += [
                nn.Conv2d(channels if layer else 3, channels, 3),
                nn.BatchNorm2d(channels),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*blocks, nn.Conv2d(channels, 1, 3))
        draw_parameters(self, generator)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                mean = 0.0 if isinstance(module, nn.Conv2d) else 1.0
                nn.init.normal_(module.weight, mean, 0.02, generator=generator)

    def forward(self, patches: Tensor) -> Tensor:
        """N×3×p×p in [0, 1] → N×1×(p − 2·layers)×(p − 2·layers)."""
        return super().forward(2 * patches - 1)


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
        for convolution in convolutions:
            nn.init.xavier_normal_(convolution.weight, gain=0.1, generator=generator)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            # Exact singular vectors, where PyTorch starts from the global random numbers.
            u, _, v = torch.linalg.svd(convolution.weight.detach().flatten(1), full_matrices=False)
            spectral_norm(convolution)
            vectors = {"parametrizations.weight.0._u": u[:, 0], "parametrizations.weight.0._v": v[0]}
            convolution.load_state_dict(vectors, strict=False)
        first, *hidden, last = convolutions
        blocks: list[nn.Module] = []
        for convolution in hidden:
            blocks += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
        super().__init__(first, *blocks, last, nn.Sigmoid())
