"""Settings of DIP-FKP and its baselines, and the presets."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from blindsr.checks import require_between, require_choice, require_iterations_beyond_frozen, require_positive
from blindsr.estimation import Preset
from KernelPredictor import Start

__all__ = ["DIPModel", "DIPSettings", "preset"]

DIPModel = Literal["DIPFKP", "DIPSoftmax", "DoubleDIP"]


@dataclass(frozen=True)
class DIPSettings:
    """How an image and its kernel are fitted; in brackets what the paper, section 4.2, and --preset paper take."""

    iterations: int = 1000
    """Iterations of the joint fit (paper: 1000). 0: the predicted start is the kernel."""
    ssim_iterations: int = 80
    """Iterations with the loss 1 − SSIM before the mean squared error takes over (paper: 80)."""
    frozen_iterations: int = 75
    """Iterations before the kernel starts to move (paper: 75)."""
    channels: int = 128
    """Channels of the image network (paper: 128)."""
    non_local: bool = True
    """Non-local blocks at the third to fifth scales of the image network (paper: yes)."""
    crop: int = 960
    """Side in HR pixels of the crop that the kernel is estimated on, where the picture is larger (paper: 960)."""
    crop_position: Literal["centre", "texture"] = "centre"
    """Where that crop is taken: at the centre, or where the gradients are strongest (paper: centre)."""
    image_rate: float = 5e-3
    """Learning rate of Adam for the image network (paper: 5e-3)."""
    kernel_rate: float = 0.5
    """Learning rate of spherical Adam for DIPFKP's latent code (paper: 0.5). Baselines have their own."""
    proximal_weight: float = 0.0
    """Weight of the kernel's squared distance to the predicted one, counted in errors to expect of that, relative to
    the squared error; without effect where the start is not predicted (paper: 0)."""
    image_iterations: int | None = None
    """Iterations of a fit of its own for the picture, where it is wanted. None (paper): the joint fit's picture is
    taken, or, where that covers a crop only, one fitted in as many iterations."""
    image_channels: int | None = None
    """Channels of the image network in that fit. None: those of the joint fit."""
    start: Start = "fixed"
    """Where DIPFKP's search for the kernel starts: at one kernel for all images (paper), or at the predictor's."""
    circular: bool = True
    """The picture has a periodic boundary, as laboratory data has (paper: yes; for photographs no)."""

    def __post_init__(self) -> None:
        require_positive(self, "crop", "image_rate", "kernel_rate")
        require_between(self, 0, 1e9, "proximal_weight")
        require_between(self, 2, 1024, "channels")
        if self.image_iterations is not None:
            require_positive(self, "image_iterations")
        if self.image_channels is not None:
            require_between(self, 2, 1024, "image_channels")
        if self.iterations == 0 and (self.start != "predicted" or self.image_iterations is None):
            raise ValueError(
                "--iterations 0 (as --preset prediction): the predicted start is the kernel, and the picture has a "
                "fit of its own; for another start or fit use --preset search, or --iterations"
            )
        if self.iterations != 0:
            require_positive(self, "iterations")
            require_iterations_beyond_frozen(self)


# Chosen on photographs of BSDS500 and others. The pixel loss hardly tells kernels of different width apart
# (DIP fits the LR image as well with a wrong one), so the kernel stays near where the predictor saw it, the surer
# the nearer. A larger crop changes less than 0.1 dB, in twice the time.
_SEARCH = DIPSettings(
    iterations=150,
    ssim_iterations=50,
    channels=32,
    non_local=False,
    crop=128,
    crop_position="texture",
    frozen_iterations=50,
    kernel_rate=2e-2,
    proximal_weight=0.5,
    image_iterations=500,
    image_channels=64,
    start="predicted",
)


def preset(name: Preset = "search", model: DIPModel = "DIPFKP") -> DIPSettings:
    """The settings of a preset.

    Raises:
        ValueError: there is no such preset, or ``model`` has nothing to predict with.
    """
    require_choice("preset", name, get_args(Preset))
    if name == "paper":
        return DIPSettings()
    if name == "search":
        return _SEARCH
    if model != "DIPFKP":
        raise ValueError(f"--preset prediction: {model} has no predicted start; use --model DIPFKP")
    return replace(_SEARCH, iterations=0)
