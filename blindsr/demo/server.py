"""Serve the page, and keep what visitors upload for a while only, where nobody else can look."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blindsr.demo.page import MEGAPIXELS, SCALE_FACTORS, page
from blindsr.demo.steps import estimator

__all__ = ["KEPT", "served"]

KEPT = 3600.0
"""Seconds after which uploads and results are deleted."""
INTERVAL = 60.0
"""Seconds between two looks for what is to delete."""


@contextmanager
def served(
    host: str = "127.0.0.1",
    port: int | None = None,
    megapixels: float = MEGAPIXELS,
    kept: float = KEPT,
    show: bool = False,
) -> Iterator[str]:
    """Serve the page inside the block.

    Args:
        port: without it, a free one.
        megapixels: larger photographs are refused.
        kept: seconds after which uploads and results are deleted.
        show: the page in the browser.

    Yields:
        The page's address.

    Raises:
        ValueError: there is no Gradio.
        OSError: the port is taken.
    """
    # Gradio's own place is open to all users of the machine, and what a killed server leaves there stays.
    with tempfile.TemporaryDirectory(prefix="blindsr-demo-") as name:
        earlier = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = name
        try:
            import gradio as gr
        except ImportError as error:
            raise ValueError("the demo needs Gradio: pip install 'blindsr[demo]'") from error
        try:
            for scale_factor in SCALE_FACTORS:
                estimator(scale_factor)  # loads now, so that the first visitor need not wait
            blocks = page(megapixels, kept)
            ended = threading.Event()
            sweeper = threading.Thread(target=_sweep, args=(Path(name), kept, ended), daemon=True)
            sweeper.start()
            _, address, _ = blocks.launch(
                server_name=host,
                server_port=port,
                inbrowser=show,
                prevent_thread_lock=True,
                theme=gr.themes.Base(
                    font=["system-ui", "sans-serif"], font_mono=["monospace"]
                ),  # none from a network
                max_file_size="50mb",
                share=False,
                quiet=True,
                footer_links=[],
                run_history=False,  # nothing of visits is kept or published
                enable_monitoring=False,
            )
            try:
                yield address
            finally:
                ended.set()
                sweeper.join()
                blocks.close(verbose=False)
        finally:
            if earlier is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = earlier


def _sweep(folder: Path, kept: float, ended: threading.Event) -> None:
    """Delete old files, all but those that are there now: the page's example.

    Not by Gradio's ``delete_cache``, which a visitor can stop for good: the name of a folder in place of a file's.
    """
    own = {path for path in folder.rglob("*") if path.is_file()}
    while not ended.wait(min(INTERVAL, kept / 4)):
        for path in folder.rglob("*"):
            try:
                if path not in own and path.is_file() and time.time() - path.stat().st_ctime > kept:
                    path.unlink()
            except OSError:  # gone meanwhile
                continue
