"""USRNet, deep unfolding for non-blind super-resolution (Zhang, Van Gool, Timofte, CVPR 2020, arXiv:2003.10428).

Parameter names are those of the published ``usrnet_tiny.pth``, so that weights are interchangeable.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blindsr.checkpoints import load_checkpoint, load_state
from blindsr.paths import pretrained_path

__all__ = ["USRNet"]


class BlurSpectra(NamedTuple):
    """What the data step needs of the kernel and the LR image; computed once per image."""

    kernel: Tensor  # F(k), N×1×H×(W//2+1)
    lr: Tensor  # F(y), N×C×h×(w//2+1)
    power: Tensor  # |F(k)|²⇓s, N×1×h×(w//2+1)
    size: tuple[int, int]  # H, W
    scale_factor: int


def fold_spectrum(spectrum: Tensor, width: int, scale_factor: int) -> Tensor:
    """Average the s² aliases of each LR frequency (⇓s, USRNet eq. 7), on half spectra of real images.

    The half spectrum has columns 0 … W//2 only. Of the s column bands of an LR frequency, band b lies inside it
    when 2b < s; the others are the complex conjugates of mirrored columns.

    Args:
        spectrum: N×C×H×(W//2+1), the real-input DFT of an H×W image.
        width: W, a multiple of s.

    Returns:
        N×C×h×(w//2+1) with h = H/s, w = W/s: the DFT of the image's every s-th pixel.
    """
    lr_width = width // scale_factor
    columns = lr_width // 2 + 1
    total = torch.zeros_like(spectrum[..., :columns])
    for band in range(scale_factor):
        if 2 * band < scale_factor:
            total = total + spectrum[..., band * lr_width : band * lr_width + columns]
        else:
            last = width - band * lr_width
            mirrored = spectrum[..., last - columns + 1 : last + 1].flip(-1, -2).roll(1, -2)
            total = total + mirrored.conj()
    rows = total.unflatten(-2, (scale_factor, -1))
    return rows.mean(dim=-3) / scale_factor


def tile_spectrum(spectrum: Tensor, lr_width: int, scale_factor: int) -> Tensor:
    """Repeat an LR half spectrum s×s times and keep the HR half: N×C×H×(W//2+1). The inverse layout of folding."""
    # Columns beyond the LR half follow from the symmetry of a real signal's spectrum.
    missing = lr_width - spectrum.shape[-1]
    mirrored = spectrum[..., 1 : 1 + missing].flip(-1, -2).roll(1, -2).conj()
    full = torch.cat([spectrum, mirrored], dim=-1)
    tiled = full.repeat(1, 1, scale_factor, scale_factor // 2 + 1)
    return tiled[..., : lr_width * scale_factor // 2 + 1]


def blur_spectra(lr: Tensor, kernel: Tensor, scale_factor: int) -> BlurSpectra:
    """Transform kernel and LR image for the data step.

    Args:
        lr: N×C×h×w.
        kernel: N×1×k×k or 1×1×k×k in the project's convention (cross-correlation).
    """
    height, width = lr.shape[-2] * scale_factor, lr.shape[-1] * scale_factor
    side = kernel.shape[-1]
    # USRNet convolves, our model correlates: flip. Then the centre pixel side//2 goes to the origin.
    padded = F.pad(kernel.flip(-2, -1), (0, width - side, 0, height - side))
    kernel_spectrum = torch.fft.rfft2(padded.roll((-(side // 2), -(side // 2)), (-2, -1)))
    power = kernel_spectrum.real.square() + kernel_spectrum.imag.square()
    power = fold_spectrum(power, width, scale_factor)
    return BlurSpectra(kernel_spectrum, torch.fft.rfft2(lr), power, (height, width), scale_factor)


def data_step(image: Tensor, blur: BlurSpectra, alpha: Tensor) -> Tensor:
    """Closed-form solution of the data subproblem (USRNet eq. 7–8), rearranged.

    With A the forward model, eq. 7 equals x + Aᵀ(AAᵀ + α)⁻¹(y − Ax), where AAᵀ is diagonal in Fourier space. As
    published it divides a difference of nearly equal numbers by α, which is 4e-6 at σ = 0: in float32 that costs
    2e-3 of the image range. This form divides by nothing small and needs no HR spectrum of y.

    Args:
        image: N×C×H×W, the prior step's last output.
        alpha: N×1×1×1, weight of ``image`` against the data.
    """
    spectrum = torch.fft.rfft2(image)
    residual = blur.lr - fold_spectrum(blur.kernel * spectrum, blur.size[1], blur.scale_factor)
    weighted = residual / (blur.power + alpha)
    correction = tile_spectrum(weighted, blur.size[1] // blur.scale_factor, blur.scale_factor)
    return torch.fft.irfft2(spectrum + blur.kernel.conj() * correction, s=blur.size)


def require_room(lr: Tensor, kernel: Tensor, scale_factor: int) -> None:
    """Raise ValueError where the HR image would be smaller than the kernel."""
    height, width = lr.shape[-2:]
    side = kernel.shape[-1]
    if min(height, width) * scale_factor < side:
        raise ValueError(
            f"the LR image ({width}×{height}) is too small for a {side}×{side} kernel at x{scale_factor}; "
            f"it needs {-(-side // scale_factor)} pixels on each side"
        )


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3×3, no biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.res = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


class ResUNet(nn.Module):
    """The prior step: a residual U-Net shared by all iterations (USRNet, section 4.2)."""

    def __init__(self, channels: tuple[int, int, int, int] = (16, 32, 64, 64)) -> None:
        super().__init__()
        c1, c2, c3, c4 = channels
        self.m_head = nn.Conv2d(4, c1, 3, padding=1, bias=False)
        self.m_down1 = self._down(c1, c2)
        self.m_down2 = self._down(c2, c3)
        self.m_down3 = self._down(c3, c4)
        self.m_body = nn.Sequential(ResidualBlock(c4), ResidualBlock(c4))
        self.m_up3 = self._up(c4, c3)
        self.m_up2 = self._up(c3, c2)
        self.m_up1 = self._up(c2, c1)
        self.m_tail = nn.Conv2d(c1, 3, 3, padding=1, bias=False)

    @staticmethod
    def _down(c_in: int, c_out: int) -> nn.Sequential:
        down = nn.Conv2d(c_in, c_out, 2, stride=2, bias=False)
        return nn.Sequential(ResidualBlock(c_in), ResidualBlock(c_in), down)

    @staticmethod
    def _up(c_in: int, c_out: int) -> nn.Sequential:
        up = nn.ConvTranspose2d(c_in, c_out, 2, stride=2, bias=False)
        return nn.Sequential(up, ResidualBlock(c_out), ResidualBlock(c_out))

    def forward(self, image: Tensor, beta: Tensor) -> Tensor:
        """Denoise N×3×H×W at the levels ``beta``, N×1×1×1."""
        height, width = image.shape[-2:]
        x = torch.cat([image, beta.expand(-1, 1, height, width)], dim=1)
        x = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        # Head and tail carry the image itself: under autocast they stay in float32, the rest does not.
        with torch.autocast(image.device.type, enabled=False):
            x1 = self.m_head(x)
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        x = self.m_body(x4)
        x = self.m_up3(x + x4)
        x = self.m_up2(x + x3)
        x = self.m_up1(x + x2)
        with torch.autocast(image.device.type, enabled=False):
            return self.m_tail(x + x1)[..., :height, :width]


class HyPaNet(nn.Module):
    """α₁ … αₙ, β₁ … βₙ from noise level and scale factor (USRNet, section 4.3)."""

    def __init__(self, outputs: int, channels: int = 32) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(2, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, outputs, 1),
            nn.Softplus(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x) + 1e-6


class USRNet(nn.Module):
    """Super-resolve for a known kernel, scale factor and noise level.

    >>> net = USRNet().eval()
    >>> net(torch.rand(1, 3, 8, 8), torch.full((1, 1, 11, 11), 1 / 121), 2, 0.0).shape
    torch.Size([1, 3, 16, 16])

    Args:
        iterations: unfolded iterations n (published: 6).
    """

    def __init__(self, iterations: int = 6) -> None:
        super().__init__()
        self.iterations = iterations
        self.p = ResUNet()
        self.h = HyPaNet(2 * iterations)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> "USRNet":
        """The network with weights from ``path``, or with the shipped ones, in evaluation mode.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it holds other weights.
        """
        path = Path(path or pretrained_path("usrnet_tiny.pth"))
        net = cls()
        load_state(net, load_checkpoint(path), path, "USRNet (tiny)")
        # Convolutions of so few channels take a third less time on CPUs when the channels lie side by side.
        return net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, lr: Tensor, kernel: Tensor, scale_factor: int, sigma: Tensor | float) -> Tensor:
        """Estimate the HR images.

        Args:
            lr: N×3×h×w float32 in [0, 1].
            kernel: N×1×k×k or 1×1×k×k, sum 1, the project's convention.
            scale_factor: s.
            sigma: noise level of ``lr`` in image range, a number or shape (N,).

        Returns:
            N×3×(s·h)×(s·w), not clipped.

        Raises:
            ValueError: the HR image would be smaller than the kernel.
        """
        x, blur, alpha, beta = self.begin(lr, kernel, scale_factor, sigma)
        for i in range(self.iterations):
            # FFTs need float32, whatever autocast does to the prior step.
            with torch.autocast(lr.device.type, enabled=False):
                x = data_step(x, blur, alpha[:, i : i + 1])
            x = self.p(x, beta[:, i : i + 1])
        return x

    def begin(
        self, lr: Tensor, kernel: Tensor, scale_factor: int, sigma: Tensor | float
    ) -> tuple[Tensor, BlurSpectra, Tensor, Tensor]:
        """What the iterations start from; arguments and errors as of :meth:`forward`.

        Returns:
            The first image (N×3×(s·h)×(s·w)), the spectra, and α and β of all iterations, N×n×1×1 each.
        """
        require_room(lr, kernel, scale_factor)
        alpha, beta = self.schedule(lr, scale_factor, sigma)
        with torch.autocast(lr.device.type, enabled=False):
            blur = blur_spectra(lr, kernel, scale_factor)
        return F.interpolate(lr, scale_factor=scale_factor, mode="nearest"), blur, alpha, beta

    def schedule(self, lr: Tensor, scale_factor: int, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """α and β of all iterations, N×n×1×1 each; arguments as of :meth:`forward`."""
        n = len(lr)
        level = torch.as_tensor(sigma, dtype=lr.dtype, device=lr.device).expand(n)
        scale = torch.full_like(level, scale_factor)
        with torch.autocast(lr.device.type, enabled=False):
            alpha, beta = self.h(torch.stack([level, scale], dim=1).view(n, 2, 1, 1)).split(self.iterations, dim=1)
        return alpha, beta
