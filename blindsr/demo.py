"""A page for one photograph: drop it, see its kernel, then the result, and try another blur width or noise level.

python -m blindsr.demo
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from blindsr.api import super_resolve
from blindsr.command import parse, run
from blindsr.devices import pick_device
from blindsr.doubts import doubts
from blindsr.estimation import Estimate, Estimator, OnStep, place
from blindsr.images import Picture, read_picture, to_uint8, write_like
from blindsr.kernel_shape import kernel_png, kernel_shape
from blindsr.kernels import align, gaussian_kernels, kernel_side
from blindsr.paths import shipped_dataset

if TYPE_CHECKING:
    import gradio

__all__ = ["Session", "find_kernel", "page", "photograph", "scaled", "super_resolved", "write_downloads"]

KEPT = 3600
"""Seconds after which uploads and results are deleted."""
NOISE = 50.0
"""Largest noise level to ask for, in grey levels of 255."""
EXAMPLE = "DIPFKP_lr_x4/chelsea.png"


@dataclass(frozen=True)
class Options:
    """What ``python -m blindsr.demo`` takes."""

    host: str = "127.0.0.1"
    """Address to serve at; 0.0.0.0 lets others on the network in."""
    port: int = 7860
    """Port to serve at."""
    megapixels: float = 2.0
    """Larger photographs are refused."""


@dataclass(frozen=True)
class Session:
    """What one visitor's photograph was found to be: the kernel need not be looked for again."""

    path: str
    scale_factor: int
    picture: Picture
    estimate: Estimate


def photograph(path: str, megapixels: float) -> Picture:
    """Read an upload.

    Raises:
        ValueError: no picture, or too large; without the path, which is the server's own.
    """
    try:
        picture = read_picture(Path(path))
    except (OSError, ValueError) as error:
        raise ValueError(str(error).replace(path, Path(path).name)) from error
    height, width = picture.image.shape[2:]
    if height * width > 1e6 * megapixels:
        raise ValueError(
            f"{width}×{height} pixels are more than {megapixels:g} megapixels; make it smaller, or use the "
            "command line"
        )
    return picture


@lru_cache
def _estimator(scale_factor: int) -> Estimator:
    # A front door, as super_resolve is.
    from DIPFKP.estimator import preset, pretrained_estimator
    from KernelPredictor.predictor import predictor_path

    settings = replace(preset("prediction"), circular=False)
    weights = predictor_path(True, scale_factor)
    return pretrained_estimator(scale_factor, pick_device("auto"), settings, path_predictor=weights)


def find_kernel(path: str, scale_factor: int, megapixels: float, last: Session | None) -> Session:
    """The photograph and its predicted kernel, or ``last`` where that is of both; errors as :func:`photograph`."""
    if last is not None and (last.path, last.scale_factor) == (path, scale_factor):
        return last
    picture = photograph(path, megapixels)
    found = _estimator(scale_factor)(picture.image.to(pick_device("auto")), scale_factor, seed=0)
    return Session(path, scale_factor, picture, place(found, scale_factor, photograph=True))


def scaled(estimate: Estimate, scale_factor: int, width: float) -> Estimate:
    """``estimate`` with a Gaussian kernel of ``width`` times its widths; with 1 as it is."""
    if width == 1:
        return estimate
    shape = kernel_shape(estimate.kernel)
    wide, narrow = (torch.tensor([(width * side) ** 2]).clamp(min=0.05) for side in (shape.wide, shape.narrow))
    angle = torch.tensor([-np.pi * shape.angle / 180])  # rows count downwards
    side = 2 * kernel_side(scale_factor) - 1  # room for twice the width
    kernel = gaussian_kernels(wide, narrow, angle.float(), side, scale_factor)
    return replace(estimate, kernel=align(kernel, scale_factor), aligned=True)


def super_resolved(session: Session, width: float, sigma: float | None, on_step: OnStep | None) -> torch.Tensor:
    """1×3×sh×sw: the non-blind step alone.

    Args:
        width: factor to the kernel's widths.
        sigma: noise level in grey levels of 255; None reads it off the photograph.
    """
    estimate = scaled(session.estimate, session.scale_factor, width)

    def known(lr: torch.Tensor, scale_factor: int, *, seed: int, on_step: OnStep | None = None) -> Estimate:
        return estimate

    level: Any = "auto" if sigma is None else sigma / 255
    image = session.picture.image
    return super_resolve(image, session.scale_factor, estimator=known, sigma=level, on_step=on_step)[0]


def write_downloads(folder: Path, session: Session, image: torch.Tensor) -> list[str]:
    """The result as PNG and as JPEG (which has no transparency), with what the camera wrote into the photograph."""
    name = f"{Path(session.path).stem}_x{session.scale_factor}"
    written = [write_like(folder / f"{name}.png", image, session.picture)]
    if session.picture.alpha is None:
        written.append(write_like(folder / f"{name}.jpg", image, session.picture))
    return list(map(str, written))


def described(session: Session, width: float) -> tuple[Image.Image, str]:
    """The kernel, large enough to see, and what is known of it."""
    estimate = scaled(session.estimate, session.scale_factor, width)
    picture = Image.open(io.BytesIO(kernel_png(estimate.kernel)))
    large = picture.resize((8 * picture.width, 8 * picture.height), Image.Resampling.NEAREST)
    blur = f"**blur** {kernel_shape(estimate.kernel).describe(estimate.expected_error)}"
    found = doubts(estimate, True, None, session.picture.jpeg_quality, own_size=session.scale_factor == 1)
    lines = [blur, *found, *estimate.notes]
    return large, "\n\n".join(lines)


def answer(megapixels: float) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """What the button does: kernel first, then the result."""
    import gradio as gr

    def respond(
        path: str | None,
        scale_factor: str,
        width: float,
        automatic: bool,
        sigma: float,
        last: Session | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[tuple[Any, ...]]:
        try:
            if path is None:
                raise ValueError("drop a photograph first")
            session = find_kernel(path, int(scale_factor[1:]), megapixels, last)
            kernel, text = described(session, width)
            yield kernel, text, None, None, session
            image = super_resolved(
                session, width, None if automatic else sigma, lambda done, total, _: progress((done, total))
            )
            with tempfile.TemporaryDirectory() as folder:
                files = write_downloads(Path(folder), session, image)
                before = to_uint8(session.picture.image)
                large = Image.fromarray(before).resize((image.shape[3], image.shape[2]), Image.Resampling.BICUBIC)
                yield kernel, text, (large, Image.fromarray(to_uint8(image))), files, session
        except (OSError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    return respond


def page(megapixels: float = 2.0) -> "gradio.Blocks":
    """The page, to be launched."""
    import gradio as gr

    with gr.Blocks(title="blindsr", analytics_enabled=False, delete_cache=(KEPT // 2, KEPT)) as blocks:
        session = gr.State(None, time_to_live=KEPT)
        gr.Markdown("# blindsr\nSuper-resolves a photograph whose blur nobody knows.")
        with gr.Row():
            with gr.Column():
                file = gr.File(label=f"Photograph, up to {megapixels:g} megapixels", type="filepath")
                scale_factor = gr.Radio(["x1", "x2", "x3", "x4"], value="x2", label="Scale factor (x1 deblurs)")
                width = gr.Slider(0.5, 2, 1, step=0.05, label="Blur width, times the predicted one")
                automatic = gr.Checkbox(True, label="Read the noise level off the photograph")
                sigma = gr.Slider(0, NOISE, 10, step=1, label="Noise level, of 255, otherwise")
                button = gr.Button("Super-resolve", variant="primary")
                example = shipped_dataset("Test") / EXAMPLE
                if example.is_file():
                    gr.Examples([[str(example), "x4"]], [file, scale_factor], label="Example")
            with gr.Column():
                kernel = gr.Image(label="Kernel", height=240, buttons=[], interactive=False)
                text = gr.Markdown()
        slider = gr.ImageSlider(label="Input at the result's size, and result", interactive=False)
        downloads = gr.File(label="Download", interactive=False)
        given = [file, scale_factor, width, automatic, sigma, session]
        button.click(answer(megapixels), given, [kernel, text, slider, downloads, session], api_name="super_resolve")
    return blocks.queue(max_size=16, default_concurrency_limit=1)


def main() -> int:
    options = parse(Options, __doc__ or "")
    try:
        import gradio as gr
    except ImportError as error:
        raise ValueError("the demo needs Gradio: pip install 'blindsr[demo]'") from error
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts from a network
    page(options.megapixels).launch(
        server_name=options.host, server_port=options.port, theme=theme, max_file_size="50mb", share=False
    )
    return 0


if __name__ == "__main__":
    run(main)
