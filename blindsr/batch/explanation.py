"""What explains a bad result, small enough for a record: the search, and what the result leaves of the input."""

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blindsr.batch.pages import data_uri
from blindsr.batch.previews import Window, encode, textured_window
from blindsr.batch.records import Record
from blindsr.degradation import border, degrade
from blindsr.estimation import Estimate
from blindsr.images import to_uint8
from blindsr.kernel_shape import kernel_png

__all__ = ["AMPLIFIED", "Search", "explain", "read_search"]

SIDES = (120, 160)
"""Most LR pixels that the residual is shown of, rows and columns."""
AMPLIFIED = 4
"""By how much a residual is amplified to be seen; grey is none."""
GAP = 4


@dataclass(frozen=True)
class Search:
    """A search, as the template shows it."""

    kernels: list[tuple[str, str]]
    """(title, address) along the search."""
    losses: list[tuple[str, str]]
    """(name, points of a polyline in the unit square)."""
    logarithmic: bool
    """Whether the losses are drawn so, which takes that all are positive."""
    iterations: int
    ends: str
    """First and last loss of the kernel."""
    picture: str | None
    """Address of input, result made small, and residual."""
    residual: float | None


def explain(
    estimate: Estimate, lr: Tensor, image: Tensor | None, true_kernel: Tensor | None, scale_factor: int
) -> dict[str, Any]:
    """JSON values for a record, pictures as base64.

    Args:
        lr: 1×3×h×w in [0, 1].
        image: the result, 1×3×sh×sw, where there is one.

    Returns:
        ``kernels``: (title, PNG) along the search and of the true one, those of one size on one grey scale;
        ``residual``: root mean square in grey levels of 255 of what lies between the input and the result, blurred
        and made small again, where the input has most texture, or None; ``picture``: WebP of the three.
    """
    along = [("start" if done == 0 else f"after {done}", kernel) for done, kernel in estimate.path]
    named = [*along, ("result", estimate.kernel)]
    if true_kernel is not None:
        named.append(("true", true_kernel))
    largest: dict[int, float] = {}
    for _, kernel in named:
        side = kernel.shape[-1]
        largest[side] = max(largest.get(side, 0), float(kernel.max()))
    kernels = [[title, _text(kernel_png(kernel, largest[kernel.shape[-1]]))] for title, kernel in named]
    residual, picture = (None, None) if image is None else _residual(lr.cpu(), image, estimate, scale_factor)
    return {"kernels": kernels, "residual": residual, "picture": picture}


def _text(content: bytes) -> str:
    return b64encode(content).decode()


def read_search(record: Record) -> Search | None:
    """What a record says of the search; None where it was not asked for, or is nonsense."""
    told: Any = record.result.get("search")
    try:
        kernels = [(str(title), data_uri(b64decode(png))) for title, png in told["kernels"]]
        picture = None if told["picture"] is None else data_uri(b64decode(told["picture"]), "webp")
        residual = None if told["residual"] is None else float(told["residual"])
        curves = {
            str(name): [(int(done), float(loss)) for done, loss in curve]
            for name, curve in record.result["losses"].items()
            if curve
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    iterations = max((done for curve in curves.values() for done, _ in curve), default=0)
    kernel = curves.get("kernel", [])
    ends = f"loss {kernel[0][1]:.3g} at first, {kernel[-1][1]:.3g} at last" if kernel else ""
    logarithmic = all(loss > 0 for curve in curves.values() for _, loss in curve)
    return Search(kernels, _polylines(curves, logarithmic), logarithmic, iterations, ends, picture, residual)


def _polylines(curves: dict[str, list[tuple[int, float]]], logarithmic: bool) -> list[tuple[str, str]]:
    """Points of each curve, all on one scale."""
    steps, losses = (np.array([point[i] for curve in curves.values() for point in curve], float) for i in (0, 1))
    if not (len(losses) and np.isfinite(losses).all()):
        return []
    scale = np.log if logarithmic else np.asarray
    low, high = (float(scale(end)) for end in (losses.min(), losses.max()))
    first, last = steps.min(), steps.max()
    drawn = []
    for name, curve in curves.items():
        x = [(step - first) / max(last - first, 1) for step, _ in curve]
        y = [1 - (float(scale(loss)) - low) / max(high - low, 1e-12) for _, loss in curve]
        drawn.append((name, " ".join(f"{a:.4f},{b:.4f}" for a, b in zip(x, y, strict=True))))
    return drawn


@torch.no_grad()
def _residual(
    lr: Tensor, image: Tensor, estimate: Estimate, scale_factor: int
) -> tuple[float, str] | tuple[None, None]:
    kernel = estimate.kernel
    beyond = border(kernel.shape[-1], scale_factor)
    window = textured_window(to_uint8(lr), *(side + 2 * beyond for side in SIDES))
    if estimate.kernel_field is not None:
        middle = (window.top + window.height / 2, window.left + window.width / 2)
        kernel = estimate.kernel_field.kernels(*(torch.tensor([place]) for place in middle))
    try:
        again = degrade(_cut(image, window, scale_factor), kernel.float(), scale_factor, circular=False)
    except ValueError:  # too small: every pixel sees beyond the border
        return None, None
    seen = _cut(lr, window)[..., beyond:-beyond, beyond:-beyond]
    residual = again - seen
    panels = [to_uint8(panel) for panel in (seen, again, 0.5 + AMPLIFIED * residual)]
    gap: npt.NDArray = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    row = np.hstack([panels[0], gap, panels[1], gap, panels[2]])
    large = cv2.resize(row, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    return round(255 * float(residual.square().mean().sqrt()), 3), _text(encode(large))


def _cut(image: Tensor, window: Window, scale_factor: int = 1) -> Tensor:
    top, left = scale_factor * window.top, scale_factor * window.left
    return image[..., top : top + scale_factor * window.height, left : left + scale_factor * window.width].float()
