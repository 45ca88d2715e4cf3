"""The page: its controls, and what happens when they are used."""

import tempfile
import time
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindsr.demo.steps import (
    KERNEL,
    NOISE,
    Choice,
    Session,
    described,
    error_of,
    find_kernel,
    photograph,
    super_resolved,
    write_files,
)
from blindsr.images import Picture
from blindsr.paths import shipped_dataset

if TYPE_CHECKING:
    import gradio

__all__ = ["MEGAPIXELS", "SCALE_FACTORS", "page"]

SCALE_FACTORS = (2, 3, 4)
"""To choose from; the first is the default."""
WIDTHS = (0.5, 2.0)
"""Least and most of the blur width, times the predicted one."""
MEGAPIXELS = 2.1
"""Largest photograph: 1920×1080 fits."""
EXAMPLE = ("HR/chelsea.png", 2)
"""In the shipped dataset, and its scale factor."""


def responses(megapixels: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What the page does: show the kernel; show the kernel and then the result."""
    import gradio as gr

    def start(path: str, scale_factor: int, last: Session | None) -> tuple[Picture, Session]:
        try:
            picture = photograph(path, megapixels)
            return picture, find_kernel(path, picture, scale_factor, last)
        except Exception as error:  # whatever a photograph brings about, as on the command line
            raise gr.Error(escape(error_of(path, error)), print_exception=False) from error

    def look(
        path: str | None, scale_factor: int, width: float, automatic: bool, sigma: float, last: Session | None
    ) -> tuple[Any, ...]:
        if path is None:
            return None, "", None
        picture, session = start(path, scale_factor, last)
        return *described(session, picture, Choice(width, None if automatic else sigma)), session

    def respond(
        path: str | None,
        scale_factor: int,
        width: float,
        automatic: bool,
        sigma: float,
        last: Session | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[tuple[Any, ...]]:
        if path is None:
            raise gr.Error("drop a photograph first", print_exception=False)
        picture, session = start(path, scale_factor, last)
        choice = Choice(width, None if automatic else sigma)
        yield *described(session, picture, choice), session, None, gr.update(visible=False)
        with tempfile.TemporaryDirectory() as folder:
            try:
                began = time.perf_counter()
                image = super_resolved(
                    session, picture, choice, lambda done, total, _: progress((done, total), desc="USRNet")
                )
                seconds = time.perf_counter() - began
                files, before = write_files(Path(folder), session, picture, image)
            except Exception as error:
                raise gr.Error(escape(error_of(path, error)), print_exception=False) from error
            shown = gr.update(value=list(map(str, files)), visible=True)
            yield *described(session, picture, choice, seconds), session, (before, files[-1]), shown

    return look, respond


def page(megapixels: float, kept: float) -> "gradio.Blocks":
    """The page, to be launched.

    Args:
        megapixels: larger photographs are refused.
        kept: seconds after which the server deletes uploads and results.
    """
    import gradio as gr

    look, respond = responses(megapixels)
    scales = [(f"x{scale_factor}", scale_factor) for scale_factor in SCALE_FACTORS]
    with gr.Blocks(title="blindsr", analytics_enabled=False) as blocks:
        session = gr.State(None, time_to_live=int(kept))
        gr.Markdown(
            "# blindsr\nSuper-resolves a photograph whose blur nobody knows. Drop one to see its blur kernel. "
            f"Photographs and results are deleted after {kept / 60:.0f} minutes."
        )
        with gr.Row():
            with gr.Column():
                file = gr.File(label=f"Photograph, up to {megapixels:g} megapixels", type="filepath", height=140)
                scale_factor = gr.Radio(scales, value=SCALE_FACTORS[0], label="Scale factor")
                width = gr.Slider(*WIDTHS, 1, step=0.05, label="Blur width, times the predicted one")
                automatic = gr.Checkbox(True, label="Read the noise level off the photograph")
                sigma = gr.Slider(0, NOISE, 5, step=1, label="Noise level, in grey levels of 255", interactive=False)
                button = gr.Button("Super-resolve", variant="primary")
                path, scale = shipped_dataset("Test") / EXAMPLE[0], EXAMPLE[1]
                if path.is_file():
                    labels = [f"{path.stem}, x{scale}"]
                    gr.Examples([[str(path), scale]], [file, scale_factor], label="Example", example_labels=labels)
            with gr.Column():
                kernel = gr.Image(label="Kernel", format="png", height=KERNEL + 40, buttons=[], interactive=False)
                text = gr.Markdown()
        slider = gr.ImageSlider(label="Enlarged by bicubic, and result", interactive=False, max_height=800)
        downloads = gr.File(label="Download", interactive=False, visible=False)
        given = [file, scale_factor, width, automatic, sigma, session]
        seen = [kernel, text, session]
        hidden: dict[str, Any] = {"api_visibility": "private"}
        automatic.change(lambda on: gr.update(interactive=not on), automatic, sigma, **hidden)
        changed = [file.change, scale_factor.change]
        gr.on(changed, lambda: (None, gr.update(visible=False)), None, [slider, downloads], **hidden)
        seldom: dict[str, Any] = {"show_progress_on": kernel, "trigger_mode": "always_last"}
        gr.on([*changed, width.release, automatic.change, sigma.release], look, given, seen, **seldom, **hidden)
        made = [*seen, slider, downloads]
        button.click(respond, given, made, show_progress_on=slider, api_name="super_resolve")
    return blocks.queue(max_size=16, default_concurrency_limit=1)
