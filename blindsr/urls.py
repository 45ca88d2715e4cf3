"""URLs in place of paths, for the file systems that fsspec knows: s3://, gs://, and so on."""

from pathlib import Path
from typing import Any

import fsspec

from blindsr.picture_names import is_image_name

__all__ = ["connect", "pictures_behind", "url_of"]

_LOCAL = ("file", "local")


def url_of(path: Path) -> str | None:
    """The URL that an option meant, of which ``Path`` makes s3:/bucket/folder; None for a path of this machine."""
    scheme, colon, rest = path.as_posix().partition(":/")
    if not colon or len(scheme) < 2 or scheme not in fsspec.available_protocols() or path.exists():
        return None
    return f"{scheme}://{'/' if scheme in _LOCAL else ''}{rest}"


def connect(url: str) -> tuple[Any, str]:
    """The file system behind ``url``, and the path in it.

    Raises:
        ValueError: what it needs is not installed; says what.
    """
    try:
        # What other machines write meanwhile is not to be missed.
        files, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url}: cannot be reached ({' '.join(str(error).split())})") from error
    return files, path


def pictures_behind(url: str) -> list[str]:
    """The URLs of the pictures in a folder behind ``url``, sorted, of those of a pattern, or of the one picture.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file system cannot be reached, or refuses.
    """
    files, path = connect(url)
    scheme = url.partition("://")[0]
    try:
        if any(sign in path for sign in "*?["):
            found = [each for each in files.glob(path) if is_image_name(Path(each))]
        elif files.isdir(path):
            found = [each["name"] for each in files.ls(path, detail=True) if each["type"] == "file"]
            found = [each for each in found if is_image_name(Path(each))]
        else:
            found = [path] if files.exists(path) else []
    except Exception as error:  # each file system has its own
        raise ValueError(f"{url}: cannot be read ({' '.join(str(error).split())[:200]})") from error
    if not found:
        raise FileNotFoundError(f"{url}: no picture there")
    if scheme not in _LOCAL:
        found = [each.lstrip("/") for each in found]
    return [each if "://" in each else f"{scheme}://{each}" for each in sorted(found)]
