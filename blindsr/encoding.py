"""From pixels to a picture file's bytes, with what goes along: colour profile, EXIF data, resolution."""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

__all__ = ["COLOUR_CHUNKS", "QUALITY", "SUFFIXES", "Carried", "OutputFormat", "Pixels", "encode", "keeps_profile"]

OutputFormat = Literal["same", "png", "jpg", "webp", "tiff"]
SUFFIXES = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
"""What the files of the output formats are called."""
QUALITY = 95
"""Of JPEG and WebP, 1 to 100: nothing of the loss is visible, in colours as in brightness."""
COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"cICP")
"""Chunks of PNG that say what the colours mean."""
_LONGEST_EXIF = 65533 - len(b"Exif\0\0")

Pixels = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Carried:
    """What a picture file says besides its pixels, as far as a result keeps it."""

    icc_profile: bytes | None = None
    """What the colours mean."""
    exif: bytes | None = None
    """Camera, time, place and so on, beginning with ``Exif``; without orientation, sizes and thumbnail."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down."""
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    """Type and content of :data:`COLOUR_CHUNKS`."""


def encode(pixels: Pixels, suffix: str, carried: Carried | None = None, quality: int = QUALITY) -> bytes:
    """The bytes of a file whose name ends in ``suffix``.

    Args:
        pixels: H×W×C of 8 or 16 bits: grey, grey and alpha, RGB or RGBA. In 16 bits, grey and alpha is written as
            colours, and TIFF carries nothing: no library at hand writes either.
        quality: of JPEG (with colours at full resolution) and WebP, 1 to 100.

    Raises:
        ValueError: the format is not known, or cannot hold such pixels.
    """
    carried = carried or Carried()
    if pixels.dtype == np.uint16:
        return _encode_deep(pixels, suffix, carried)
    kind = Image.registered_extensions().get(suffix.lower(), "")
    if kind not in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM"):
        raise ValueError(f"pictures called {suffix or 'without a suffix'} are not written")
    options: dict[str, Any] = {"icc_profile": carried.icc_profile, "exif": carried.exif, "dpi": carried.dpi}
    if kind == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
        if carried.exif is not None and len(carried.exif) > _LONGEST_EXIF:
            options["exif"] = None
    elif kind == "WEBP":
        options |= {"quality": quality, "use_sharp_yuv": True, "exact": True}
        if pixels.shape[2] < 3:  # written as colours, with which a profile for grey does not go
            options["icc_profile"] = None
    elif kind == "TIFF" and carried.exif is None:  # libtiff, which compresses, does not take such data
        options |= {"compression": "tiff_adobe_deflate"}
    elif kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for name, content in carried.png_chunks:
            chunks.add(name, content)
        # Of photographs deflate finds nothing but runs: five times as fast, files are 3 to 5 % larger.
        options |= {"pnginfo": chunks, "compress_type": zlib.Z_RLE}
    file = io.BytesIO()
    try:
        image = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] > 1 else pixels[:, :, 0]))
        image.save(file, kind, **{name: value for name, value in options.items() if value is not None})
    except (OSError, RuntimeError, struct.error, KeyError) as error:
        raise ValueError(f"such pixels cannot be written as {kind} ({error})") from error
    return file.getvalue()


def keeps_profile(profile: bytes, grey: bool) -> bool:
    """Whether a colour profile is made for such pixels, and sound as far as libpng checks it."""
    fits = profile[16:20] == (b"GRAY" if grey else b"RGB ")
    return fits and bool(_encode_opencv(np.zeros((1, 1, 1), np.uint8), ".png", profile))


def _encode_deep(pixels: Pixels, suffix: str, carried: Carried) -> bytes:
    """16 bits: OpenCV writes the pixels and the profile, into PNG the rest is put here."""
    profile = carried.icc_profile
    if pixels.shape[2] == 2:
        pixels, profile = pixels[:, :, [0, 0, 0, 1]], None  # a profile for grey does not go with colours
    data = _encode_opencv(pixels, suffix, profile if suffix == ".png" else None)
    if not data:
        raise ValueError(f"pictures called {suffix or 'without a suffix'} do not hold 16 bits")
    if suffix != ".png":
        return data
    chunks = list(carried.png_chunks)
    if carried.dpi is not None:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(dots / 0.0254) for dots in carried.dpi), 1)))
    if carried.exif is not None:
        chunks.append((b"eXIf", carried.exif.removeprefix(b"Exif\0\0")))
    place = 33  # after signature and header
    return data[:place] + b"".join(_png_chunk(*chunk) for chunk in chunks) + data[place:]


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _encode_opencv(pixels: Pixels, suffix: str, icc_profile: bytes | None) -> bytes:
    """The file's bytes for H×W×(1, 3 or 4) pixels, RGB; none where OpenCV or libpng refuses."""
    pixels = pixels[:, :, {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]]
    try:
        if icc_profile is None:
            done, data = cv2.imencode(suffix, pixels)
        else:
            profile = np.frombuffer(icc_profile, np.uint8)
            done, data = cv2.imencodeWithMetadata(suffix, pixels, [cv2.IMAGE_METADATA_ICCP], [profile])
    except cv2.error:
        done = False
    return data.tobytes() if done else b""
