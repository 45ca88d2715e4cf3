"""Reading and writing pictures: the only place that knows files of 8 and 16 bits."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from blindsr.files import atomic_write

__all__ = [
    "LUMA",
    "Picture",
    "is_image_name",
    "read_image",
    "read_picture",
    "read_pixels",
    "to_uint8",
    "write_image",
    "write_like",
]

log = logging.getLogger(__name__)

# Pictures by their names; everything else in a folder is not taken for a picture.
_SUFFIXES = {
    ".bmp", ".dib", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".webp", ".avif", ".pbm", ".pgm", ".ppm", ".pnm",
    ".sr", ".ras", ".tiff", ".tif", ".gif",
}  # fmt: skip


LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601, full range)."""
MAX_PIXELS = 2**28
"""Pictures that say in their header that they are larger are not decoded: 100 bytes can unpack to gigabytes."""

# Formats that start other programs (EPS, say) are not among them.
_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "DIB", "PPM", "GIF", "JPEG2000", "AVIF", "SUN")
# Of those, the ones that may hold 16 bits, of which Pillow keeps 8 where there are several channels.
_DEEP_FORMATS = ("PNG", "TIFF", "PPM", "JPEG2000")
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr")

Pixels = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Picture:
    """What a picture file holds, upright, as far as a result made from it keeps it."""

    image: Tensor
    """1×3×H×W float32 in [0, 1], RGB; the three channels of a grey picture are equal."""
    bits: int = 8
    """Bits of a channel, 8 or 16."""
    grey: bool = False
    """Whether the file holds one channel of brightness instead of colours."""
    alpha: Pixels | None = None
    """Opacity, H×W of the file's depth."""
    icc_profile: bytes | None = None
    """What the colours mean, where the file says it and it fits ``grey``."""


def is_image_name(path: Path) -> bool:
    """Whether the name is that of a picture (hidden files are none)."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


@contextmanager
def _opened(path: Path, data: bytes) -> Iterator[Image.Image]:
    """The picture, not decoded yet; what goes wrong in the block as well is told in one line.

    From ``data``, the file's content: from a file, Pillow maps some into memory and turns those TIFFs wrongly.
    """
    pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is known to the last pixel
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            warnings.simplefilter("ignore")  # of odd metadata; what matters raises
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS}; use a smaller one")
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture that can be read; save it as PNG or JPEG, 8 or 16 bits") from error
    except MemoryError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: the picture cannot be read ({error})") from error
    except Exception as error:  # decoders raise whatever they stumble on
        raise ValueError(f"{path}: the picture cannot be decoded ({error}); fetch or export it again") from error
    finally:
        Image.MAX_IMAGE_PIXELS = pillow_limit


def read_picture(path: Path) -> Picture:
    """Read a picture of 8 or 16 bits in any of the usual formats, EXIF orientation applied.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no picture, is cut off, is larger than ``MAX_PIXELS``, or holds something else than
            grey or RGB values of 8 or 16 bit.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    data = path.read_bytes()
    with _opened(path, data) as image:
        pixels, grey = _decode(image, data)
        profile = image.info.get("icc_profile")
    fits = not profile or profile[16:20] == (b"GRAY" if grey else b"RGB ")
    # Tried now: with a damaged profile the result could not be written after all the work.
    if profile and not (fits and _encode(".png", np.zeros((1, 1, 1), np.uint8), profile)):
        log.warning("%s: its colour profile is damaged or not made for such pixels; the result has none", path)
        profile = None
    colours, alpha = pixels, None
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        colours, alpha = pixels[:, :, :-1], np.ascontiguousarray(pixels[:, :, -1])
    colours = colours.reshape(*colours.shape[:2], -1)
    largest = np.iinfo(pixels.dtype).max
    # Division in float64, then one rounding: the published LR images depend on it in the last bit.
    channels = [(colours[:, :, c] / largest).astype(np.float32) for c in range(colours.shape[2])]
    planes = torch.from_numpy(np.stack(channels))[None].expand(-1, 3, -1, -1).contiguous()
    return Picture(planes, bits=8 * pixels.itemsize, grey=grey, alpha=alpha, icc_profile=profile or None)


def _decode(image: Image.Image, data: bytes) -> tuple[Pixels, bool]:
    """Upright pixels, H×W for grey or else H×W×(2, 3 or 4), and whether they are grey. Errors do not name the file.

    Pillow decodes: it knows palettes, colour models and premultiplied alpha, and notices a file that breaks off,
    where OpenCV gives something. Only what has 16 bits is then decoded again by OpenCV.
    """
    mode = image.mode
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # what a camera wrote wrongly there does not spoil the picture
        orientation = 1
    if mode not in (*_GREY_MODES, *_COLOUR_MODES, "I"):
        raise ValueError(f"{mode} pixels are not supported; save it as grey or RGB, with 8 or 16 bits")
    image.load()
    if image.format == "TIFF":
        orientation = 1  # both libraries turn the pixels of this format themselves
    if image.format == "PNG":
        _require_whole_chunks(data)
    if image.format in _DEEP_FORMATS:
        try:
            deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            deep = None
        if deep is not None and deep.dtype == np.uint16:
            deep, grey = _deep_pixels(image, data, deep)
            return _upright(deep, orientation), grey
    if mode.startswith("I"):
        raise ValueError("its pixels have neither 8 nor 16 bits; save it with 8 or 16 bits")
    grey = mode in _GREY_MODES
    colours = "L" if grey else "RGB"
    pixels = np.asarray(image.convert(colours + "A" if image.has_transparency_data else colours))
    return _upright(pixels, orientation), grey


def _require_whole_chunks(png: bytes) -> None:
    """Refuse a PNG with a chunk longer than the file: OpenCV would allocate and fill what it says, up to 4 GiB."""
    place, kind = 8, b""
    while kind != b"IEND" and place < len(png):
        kind = png[place + 4 : place + 8]
        place += 12 + int.from_bytes(png[place : place + 4], "big")
        if place > len(png):
            raise EOFError("a chunk is longer than the file")


def _upright(pixels: npt.NDArray, orientation: int) -> npt.NDArray:
    """Turn pixels as the EXIF orientation, 1 to 8, says."""
    turned = {2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)}
    quarters, mirrored = turned.get(orientation, (0, False))
    return np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters)


def _deep_pixels(image: Image.Image, data: bytes, pixels: npt.NDArray) -> tuple[Pixels, bool]:
    """16-bit pixels as OpenCV decodes them, BGR(A), put in order; see :func:`_decode`."""
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


def read_image(path: Path) -> Tensor:
    """What :func:`read_picture` reads, without alpha and as colours; what is lost by that is logged.

    Returns:
        1×3×H×W float32 in [0, 1], RGB.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_picture`.
    """
    picture = read_picture(path)
    if picture.grey:
        log.warning("%s: a grey picture, treated as three equal channels", path)
    if picture.alpha is not None and picture.alpha.min() < np.iinfo(picture.alpha.dtype).max:
        log.warning("%s: transparency is dropped, the colours are kept as they are", path)
    return picture.image


def read_pixels(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture for people to look at: upright H×W×3 RGB, 8 bits, without alpha.

    Takes a quarter of the memory of :func:`read_picture`.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_picture`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    data = path.read_bytes()
    with _opened(path, data) as image:
        pixels, _ = _decode(image, data)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    colours = pixels[:, :, :3] if pixels.shape[2] > 2 else pixels[:, :, [0, 0, 0]]
    return np.ascontiguousarray(colours)


def to_uint8(image: Tensor) -> npt.NDArray[np.uint8]:
    """Clip 1×C×H×W in [0, 1] and round to 8 bits: H×W×C, RGB."""
    return _quantize(image, np.dtype(np.uint8))


def _quantize(image: Tensor, dtype: np.dtype) -> npt.NDArray:
    pixels = np.empty((*image.shape[2:], image.shape[1]), dtype)
    for c in range(image.shape[1]):  # one after another: a large picture's copies add up
        pixels[:, :, c] = np.rint(np.clip(image[0, c].detach().cpu().numpy(), 0, 1) * np.iinfo(dtype).max)
    return pixels


def write_like(path: Path, image: Tensor, picture: Picture) -> None:
    """Write ``image`` with the depth, the greyness, the alpha channel (resized) and the profile of ``picture``.

    Args:
        path: PNG; it holds all of these.
        image: 1×3×H×W in [0, 1], clipped here.

    Raises:
        OSError: the file cannot be written.
    """
    dtype = np.dtype(np.uint8 if picture.bits == 8 else np.uint16)
    pixels = _quantize(image.mean(1, keepdim=True) if picture.grey else image, dtype)
    if picture.alpha is not None:
        alpha = cv2.resize(picture.alpha, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        pixels = np.dstack([pixels, alpha])
    write_image(path, pixels, picture.icc_profile)


def write_image(path: Path, pixels: Pixels, icc_profile: bytes | None = None) -> None:
    """Write H×W×C pixels, whole or not at all; the suffix of ``path`` chooses the format.

    Args:
        pixels: grey, grey and alpha (in 16 bits written as colours: no library writes that), RGB or RGBA.

    Raises:
        OSError: the file cannot be written.
    """
    if pixels.shape[2] == 2 and pixels.dtype == np.uint8:
        with atomic_write(path) as temporary:
            Image.fromarray(pixels).save(temporary, icc_profile=icc_profile)
        return
    if pixels.shape[2] == 2:
        pixels, icc_profile = pixels[:, :, [0, 0, 0, 1]], None  # a profile for grey does not go with colours
    data = _encode(path.suffix, pixels, icc_profile)
    if not data:
        raise OSError(f"{path}: the picture cannot be encoded")
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _encode(suffix: str, pixels: Pixels, icc_profile: bytes | None) -> bytes:
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
