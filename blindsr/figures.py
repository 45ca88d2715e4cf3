"""Kernels and trainings for people to look at."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from blindsr.files import atomic_write

__all__ = ["draw_kernel", "save_kernel_grid", "save_training_log"]


def draw_kernel(kernel: Tensor, title: str, axes: Axes | None = None) -> Axes:
    """Draw a 1×1×k×k kernel, its axes in HR pixels from the window's middle, into ``axes`` or a new figure."""
    if axes is None:
        import matplotlib.pyplot as plt  # it picks a window system, which no command needs

        axes = plt.figure(figsize=(3.6, 3.2), layout="constrained").subplots()
    reach = kernel.shape[-1] / 2
    extent = (-reach, reach, reach, -reach)
    drawn = axes.imshow(kernel.detach()[0, 0].cpu().numpy(), cmap="viridis", vmin=0, extent=extent)
    axes.set_title(title)
    axes.set_xlabel("HR pixels")
    axes.figure.colorbar(drawn, ax=axes, shrink=0.8)
    return axes


def save_kernel_grid(path: Path, kernels: Tensor, columns: int = 10) -> None:
    """Draw N×1×k×k kernels as a grid, row by row, each on its own grey scale."""
    array = kernels.detach()[:, 0].cpu().numpy()
    array = array / array.max(axis=(1, 2), keepdims=True)
    array = np.pad(array, ((0, -len(array) % columns), (1, 1), (1, 1)), constant_values=0.4)
    rows = [np.concatenate(list(row), axis=1) for row in array.reshape(-1, columns, *array.shape[1:])]
    grid = np.concatenate(rows, axis=0)
    figure = Figure(figsize=(8, 8 * grid.shape[0] / grid.shape[1]))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(grid, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_axis_off()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def save_training_log(path: Path, log: list[dict[str, Any]], score: str) -> None:
    """Draw loss and scores against steps, from the entries of :data:`blindsr.training.loop.OnValidation`.

    Args:
        score: what the scores are, with their unit.
    """
    steps = [entry["step"] for entry in log]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, [entry["loss"] for entry in log])
    left.set_ylabel("training loss")
    for scale_factor in log[0]["scores"]:
        scores = np.array([entry["scores"][scale_factor] for entry in log])
        right.plot(steps, scores - scores[-1], label=f"x{scale_factor}, last: {scores[-1]:#.4g}")
    right.set_ylabel(f"{score} − last")
    right.legend()
    for axis in (left, right):
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
