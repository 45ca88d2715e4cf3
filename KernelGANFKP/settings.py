"""Settings of KernelGAN-FKP and KernelGAN, and the presets."""

from dataclasses import dataclass
from typing import Literal, get_args

from blindsr.checks import (
    require_between,
    require_choice,
    require_iterations_beyond_frozen,
    require_positive,
    require_unchanged,
)
from blindsr.estimation import Preset
from KernelPredictor import Start

__all__ = ["GANModel", "GANSettings", "preset", "require_possible"]

GANModel = Literal["KernelGANFKP", "KernelGAN"]

NOT_KERNELGANS = (
    "start",
    "proximal_weight",
    "frozen_iterations",
    "critic_steps",
    "latent_steps",
    "penalty",
    "stop_when_converged",
)
"""Settings without a meaning for KernelGAN."""


@dataclass(frozen=True)
class GANSettings:
    """How the kernel is searched; in brackets what the paper's supplement and the release take."""

    iterations: int = 1000
    """Iterations (paper: 1000 at x2, 4000 at x4; KernelGAN: 3000). 0: the predicted start is the kernel."""
    critic_steps: int = 3
    """Critic steps per iteration (release: 3)."""
    latent_steps: int = 3
    """Latent steps per iteration, along one gradient (release: 3)."""
    crops_per_step: int = 64
    """Crops per step (release: 64; for KernelGAN the preset takes 1)."""
    crop: int = 64
    """Side in LR pixels of the crops that are downsampled; smaller images get smaller ones (paper: 64)."""
    critic_rate: float = 5e-4
    """Learning rate of Adam for the critic (paper: 5e-4)."""
    kernel_rate: float = 5e-4
    """Learning rate of spherical Adam for the latent code (paper: 5e-4)."""
    penalty: float = 0.1
    """Weight of the gradient penalty (release: 0.1)."""
    stop_when_converged: bool = False
    """End the search once the kernel has converged: its means over the last 50 iterations and over the 50 before
    differ by less than 1 % (release: no)."""
    frozen_iterations: int = 0
    """Iterations in which the critic learns alone before the kernel starts to move (release: 0)."""
    proximal_weight: float = 0.0
    """Weight of the kernel's squared distance to the start, relative to the critic's margin (release: 0)."""
    start: Start = "fixed"
    """Where KernelGANFKP's search starts: at one kernel for all images (paper), or at the predictor's."""
    shave: int = 10
    """Pixels left off each side of the LR image, whose border the degradation made, or as many as leave 40 (release:
    10; with --real 0)."""

    def __post_init__(self) -> None:
        require_positive(self, "critic_steps", "latent_steps", "crops_per_step", "critic_rate", "kernel_rate")
        require_between(self, 32, 256, "crop")
        require_between(self, 0, 1000, "shave")
        require_between(self, 0, 1e9, "proximal_weight", "penalty")
        if self.iterations == 0 and self.start != "predicted":
            raise ValueError(
                "--iterations 0 (as --preset prediction): the predicted start is the kernel; for another start take "
                "some iterations"
            )
        if self.iterations != 0:
            require_positive(self, "iterations")
            require_iterations_beyond_frozen(self)


def preset(name: Preset, model: GANModel, scale_factor: int) -> GANSettings:
    """The settings of a preset, which for the paper's depend on model and scale factor.

    Raises:
        ValueError: there is no such preset, or KernelGAN has nothing to predict with.
    """
    require_choice("preset", name, get_args(Preset))
    if model == "KernelGAN" and name == "prediction":
        raise ValueError("--preset prediction: KernelGAN has no predicted start; use --model KernelGANFKP")
    if model == "KernelGAN":
        # One crop a step, as we understand KernelGAN's own release.
        return GANSettings(iterations=3000, crops_per_step=1, critic_rate=2e-4, kernel_rate=2e-4)
    if name == "paper":
        return GANSettings(iterations=1000 if scale_factor == 2 else 4000)
    # Chosen on photographs of BSDS500. Left alone the critic leads the kernel away from the true one, since an
    # image's patches are sharper at half its size whatever the kernel; near the predicted one it does no harm.
    return GANSettings(
        iterations=0 if name == "prediction" else 300,
        critic_steps=1,
        latent_steps=1,
        crops_per_step=16,
        kernel_rate=1e-3,
        stop_when_converged=True,
        frozen_iterations=50,
        proximal_weight=10.0,
        start="predicted",
    )


def require_possible(scale_factor: int, settings: GANSettings, model: GANModel) -> None:
    """Raise ValueError where the scale factor is not 2 or 4, or KernelGAN has not what ``settings`` choose."""
    if scale_factor not in (2, 4):
        raise ValueError(
            f"--sf {scale_factor}: an image's patches recur at half its size, which tells the x2 kernel and the x4 "
            "kernel that follows from it, no other; use DIPFKP"
        )
    if model == "KernelGAN":
        given = preset("search", model, scale_factor)
        require_unchanged(settings, given, NOT_KERNELGANS, "KernelGAN has no such choice; leave it out")
