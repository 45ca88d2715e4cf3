"""From a picture file's bytes to upright pixels of 8 or 16 bits."""

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from blindsr import cmyk
from blindsr.carried import png_chunks
from blindsr.encoding import Pixels

__all__ = ["decode", "jpeg_quality"]

# Formats that may hold 16 bits, of which Pillow keeps 8 where there are several channels.
_DEEP_FORMATS = ("PNG", "TIFF", "PPM", "JPEG2000")
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr")

_STANDARD_TABLE_SUM = 3688
"""Of JPEG's standard quantization table for brightness (ITU-T T.81, table K.1), which quality 50 takes as it is."""


def decode(image: Image.Image, data: bytes) -> tuple[Pixels, bool]:
    """Upright pixels, H×W for grey or else H×W×(2, 3 or 4), and whether they are grey.

    Pillow decodes: it knows palettes, colour models and premultiplied alpha, and notices a file that breaks off,
    where OpenCV gives something. Only what has 16 bits is then decoded again by OpenCV.

    Args:
        image: opened, not loaded yet.
        data: the whole file.

    Raises:
        ValueError: what the pixels are is not supported; the file is not named.
        Exception: whatever decoders raise on damaged files.
    """
    mode = image.mode
    if mode == "CMYK" and image.format == "TIFF" and max(_tiff_bits(image)) > 8:
        mode = "CMYK of 16 bits"
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # what a camera wrote wrongly there does not spoil the picture
        orientation = 1
    if mode not in (*_GREY_MODES, *_COLOUR_MODES, "CMYK", "I"):
        raise ValueError(f"{_numbers(image)} pixels are not supported; save it as grey or RGB, with 8 or 16 bits")
    image.load()
    if image.format == "TIFF":
        orientation = 1  # both libraries turn the pixels of this format themselves
    if mode == "CMYK":
        return _upright(np.asarray(cmyk.to_srgb(image)), orientation), False
    if image.format == "PNG":
        png_chunks(data)
    if image.format in _DEEP_FORMATS and not (image.format == "TIFF" and max(_tiff_bits(image)) <= 8):
        try:
            deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            deep = None
        if deep is not None and deep.dtype == np.uint16:
            deep, grey = _deep_pixels(image, data, deep)
            return _upright(deep, orientation), grey
    if mode.startswith("I"):
        raise ValueError(
            f"its pixels are {_numbers(image)}, not 0 to 255 or 65535; scale them and save it with 16 bits"
        )
    grey = mode in _GREY_MODES
    colours = "L" if grey else "RGB"
    pixels = np.asarray(image.convert(colours + "A" if image.has_transparency_data else colours))
    return _upright(pixels, orientation), grey


def _tiff_bits(image: Image.Image) -> tuple[int, ...]:
    return image.tag_v2.get(258) or (1,)  # type: ignore[attr-defined]


def _numbers(image: Image.Image) -> str:
    """What kind of numbers the pixels are, in words, for a file that cannot be read."""
    kinds = {1: "unsigned", 2: "signed", 3: "floating-point"}
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, kind = _tiff_bits(image)[0], kinds.get((tags.get(339) or (1,))[0])
        if kind in ("signed", "floating-point"):
            return f"{bits}-bit {kind} numbers, as of an elevation model or a measurement"
    return {"I": "32-bit numbers", "F": "floating-point numbers"}.get(image.mode, image.mode)


def _upright(pixels: npt.NDArray, orientation: int) -> npt.NDArray:
    """Turn pixels as the EXIF orientation, 1 to 8, says."""
    turned = {2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)}
    quarters, mirrored = turned.get(orientation, (0, False))
    return np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters)


def _deep_pixels(image: Image.Image, data: bytes, pixels: npt.NDArray) -> tuple[Pixels, bool]:
    """16-bit pixels as OpenCV decodes them, BGR(A), put in order; see :func:`decode`."""
    grey = pixels.ndim == 2
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        separate, inverted, premultiplied = tags.get(284) == 2, tags.get(262) == 0, 1 in tags.get(338, ())
        if separate or inverted or premultiplied:
            raise ValueError("16-bit TIFF with separate planes, inverted or with premultiplied alpha; save it as PNG")
    if image.format == "PNG":
        grey = not data[25] & 2  # the header's colour type: OpenCV makes grey with alpha to colours with alpha
    if image.has_transparency_data != (pixels.ndim == 3 and pixels.shape[2] == 4):
        raise ValueError("transparency of a kind that is not supported in 16 bits; save it with an alpha channel")
    if pixels.ndim == 2:
        return pixels, grey
    return pixels[:, :, [0, 3] if grey else [2, 1, 0, 3][: pixels.shape[2]]], grey


def jpeg_quality(image: Image.Image) -> int | None:
    """The quality by which libjpeg scales the standard's quantization table for brightness to the file's."""
    tables = getattr(image, "quantization", None)
    if not tables or 0 not in tables:
        return None
    scale = 100 * sum(tables[0]) / _STANDARD_TABLE_SUM
    return round(min(100.0, max(1.0, 5000 / scale if scale > 100 else 100 - scale / 2)))
