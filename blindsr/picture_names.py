"""Which files of a folder are pictures, by their names, and why others that hold pictures are not read."""

from pathlib import Path

from PIL import features

try:
    from pillow_heif import register_heif_opener
except ImportError:  # the optional extra "heic"
    HEIC = False
else:
    register_heif_opener()
    HEIC = True

__all__ = ["HEIC", "is_image_name", "is_kernel_picture", "passed_over", "reason_not_read"]

# Pictures by their names; everything else in a folder is not taken for a picture.
_SUFFIXES = {
    ".bmp", ".dib", ".jpeg", ".jpg", ".jpe", ".jfif", ".mpo", ".jp2", ".png", ".apng", ".webp", ".pbm", ".pgm",
    ".ppm", ".pnm", ".sr", ".ras", ".tiff", ".tif", ".gif",
    *([".avif"] if features.check("avif") else []),
    *([".heic", ".heif"] if HEIC else []),
}  # fmt: skip
# What else holds pictures, and what to do about it.
_RAW = "a camera's raw file; develop it to JPEG, TIFF or PNG first"
_EXPORT = "no picture file of pixels alone; export it as PNG"
_CONVERT = "a format that is not read; save it as PNG"
_NOT_READ = {
    ".heic": "HEIC needs pillow-heif: pip install 'blindsr[heic]'",
    ".heif": "HEIC needs pillow-heif: pip install 'blindsr[heic]'",
    ".avif": "this build of Pillow reads no AVIF; install a newer one",
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw"), _RAW),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra", ".svg", ".svgz", ".ai", ".eps", ".pdf"), _EXPORT),
    **dict.fromkeys((".jxl", ".hdr", ".exr", ".tga", ".dds", ".ico", ".j2k", ".jpx", ".pcx"), _CONVERT),
}
# How files begin that hold pictures whatever they are called.
_BEGINNINGS = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif"}


def is_image_name(path: Path) -> bool:
    """Whether the name is that of a picture (hidden files are none)."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def reason_not_read(path: Path) -> str | None:
    """Why a file called so is not read although it holds a picture, and the way out; None for any other name."""
    return None if is_image_name(path) else _NOT_READ.get(path.suffix.lower())


def is_kernel_picture(path: Path) -> bool:
    """Whether a file is the picture of a kernel, of a result whose record and kernel lie beside it."""
    name = path.name.removesuffix("_kernel.png")
    return name != path.name and all(path.with_name(name + end).is_file() for end in (".json", ".mat"))


def passed_over(folder: Path) -> list[tuple[Path, str]]:
    """The files of a folder that hold pictures and that are not read, each with the reason."""
    found = []
    for path in sorted(folder.iterdir()):
        if is_kernel_picture(path):
            found.append((path, "the kernel of an earlier result, no photograph"))
            continue
        if path.name.startswith(".") or is_image_name(path) or not path.is_file():
            continue
        reason = reason_not_read(path)
        if reason is None:
            try:
                with path.open("rb") as file:
                    start = file.read(16)
            except OSError:
                continue
            kinds = [suffix for beginning, suffix in _BEGINNINGS.items() if start.startswith(beginning)]
            reason = f"not called a picture; rename it to end in {kinds[0]}" if kinds else None
        if reason is not None:
            found.append((path, reason))
    return found
