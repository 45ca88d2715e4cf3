"""Pages of HTML from templates: one file, no network, nothing in it runs but the page's own script."""

import base64
import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from blindsr.files import atomic_write

__all__ = ["PAGE", "data_uri", "link", "page_path", "write_page"]

PAGE = "index.html"
MARK = b'<meta name="generator" content="blindsr">'
"""What the pages of this package have near their beginning."""


def page_path(folder: Path) -> Path:
    """Where the page of a folder goes.

    Raises:
        ValueError: another page lies there.
    """
    path = folder / PAGE
    if os.path.lexists(path):
        mine = False
        if path.is_file():
            with path.open("rb") as file:
                mine = MARK in file.read(1000)
        if not mine:
            raise ValueError(f"{path}: a page that is not ours; choose another folder with -o")
    return path


def link(*parts: str) -> str:
    """A relative address of a file, from the names of its folders and its own, whatever these hold."""
    return "/".join(quote(part, safe="", errors="replace") for part in parts)


def data_uri(content: bytes, kind: str = "png") -> str:
    """A picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def write_page(path: Path, template: str, script: str, **values: Any) -> None:
    """Fill a template of this package and write the page, whole or not at all.

    Names and messages in ``values`` are escaped. Should one get through, the page's policy still allows no script but
    ``script``, by its hash, and no address on a network.

    Args:
        script: name of the script among the templates.

    Raises:
        OSError: the page cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("blindsr.batch"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loader = environment.loader
    assert loader is not None
    source, style = (loader.get_source(environment, name)[0] for name in (script, "style.css"))
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    page = environment.get_template(template).render(script=source, style=style, script_hash=digest, **values)
    with atomic_write(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", "replace"))
