"""Reading and writing pictures: the only place that knows files of 8 and 16 bits."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from blindsr import cmyk
from blindsr.carried import read_carried
from blindsr.decoding import decode, jpeg_quality
from blindsr.encoding import QUALITY, SUFFIXES, Carried, OutputFormat, Pixels, encode
from blindsr.files import atomic_write
from blindsr.picture_names import HEIC, is_image_name, passed_over, reason_not_read

__all__ = [
    "LUMA",
    "OutputFormat",
    "Picture",
    "is_image_name",
    "output_suffix",
    "passed_over",
    "picture_size",
    "read_image",
    "read_picture",
    "read_pixels",
    "to_uint8",
    "write_image",
    "write_like",
]

log = logging.getLogger(__name__)

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601, full range)."""
MAX_PIXELS = 2**28
"""Pictures that say in their header that they are larger are not decoded: 100 bytes can unpack to gigabytes."""

# Formats that start other programs (EPS, say) are not among them.
_FORMATS = (
    "PNG",
    "JPEG",
    "TIFF",
    "WEBP",
    "BMP",
    "DIB",
    "PPM",
    "GIF",
    "JPEG2000",
    "AVIF",
    "SUN",
    *(["HEIF"] if HEIC else []),
)
_LOSSY = ("JPEG", "MPO", "AVIF", "HEIF")

_GREY_ROUNDING = 2
"""Levels of 255 by which the channels of a grey picture may differ that was stored as a JPEG in colours."""


@dataclass(frozen=True)
class Picture:
    """What a picture file holds, upright, as far as a result made from it keeps it."""

    image: Tensor
    """1×3×H×W float32 in [0, 1], RGB; the three channels of a grey picture are equal."""
    bits: int = 8
    """Bits of a channel, 8 or 16."""
    grey: bool = False
    """Whether the file holds one channel of brightness instead of colours."""
    grey_colours: bool = False
    """Whether the file holds colours that are all grey, within what JPEG rounds."""
    alpha: Pixels | None = None
    """Opacity, H×W of the file's depth."""
    kind: str = "PNG"
    """The file's format, by Pillow's name."""
    frames: int = 1
    """How many frames or pages the file has, of which this is the first."""
    jpeg_quality: int | None = None
    """Quality that a JPEG was stored with, 1 to 100, as far as its tables tell."""
    carried: Carried = field(default_factory=Carried)
    """What the file says besides."""


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Of odd metadata; what matters raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: Path, data: bytes) -> Iterator[Image.Image]:
    """The picture, not decoded yet; what goes wrong in the block as well is told in one line.

    From ``data``, the file's content: from a file, Pillow maps some into memory and turns those TIFFs wrongly.
    """
    # Pillow, which looks at each part of a file as well, refuses what is more than twice this.
    pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS / 2  # type: ignore[assignment]
    try:
        with _no_warnings(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        reason = reason_not_read(path) or "not a picture that can be read; save it as PNG or JPEG, 8 or 16 bits"
        raise ValueError(f"{path}: {reason}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: its pixels are more than {MAX_PIXELS}; use a smaller picture") from error
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
        frames = _frames(image)
        pixels, grey = decode(image, data)
        carried, lost = read_carried(image, data, grey)
        kind, quality = image.format or "", jpeg_quality(image)
        converted = cmyk.conversion(image) if image.mode == "CMYK" else None
    if lost:
        log.warning("%s: its %s; the result has none", path, lost)
    if converted:
        log.warning("%s: a CMYK picture, converted to sRGB %s", path, converted)
    if frames > 1:
        log.warning("%s: the first of %d frames or pages, the others are left out", path, frames)
    colours, alpha = pixels, None
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        colours, alpha = pixels[:, :, :-1], np.ascontiguousarray(pixels[:, :, -1])
    colours = colours.reshape(*colours.shape[:2], -1)
    largest = np.iinfo(pixels.dtype).max
    # Division in float64, then one rounding: the published LR images depend on it in the last bit.
    channels = [(colours[:, :, c] / largest).astype(np.float32) for c in range(colours.shape[2])]
    planes = torch.from_numpy(np.stack(channels))[None].expand(-1, 3, -1, -1).contiguous()
    return Picture(
        planes,
        bits=8 * pixels.itemsize,
        grey=grey,
        grey_colours=not grey and _all_grey(colours),
        alpha=alpha,
        kind=kind,
        frames=frames,
        jpeg_quality=quality,
        carried=carried,
    )


def _all_grey(colours: Pixels) -> bool:
    """Whether the channels of H×W×3 differ by no more than JPEG rounds, asked row by row: most end at the first."""
    most = _GREY_ROUNDING * (np.iinfo(colours.dtype).max // 255)
    return all(int(np.ptp(row.astype(np.int32), axis=1).max()) <= most for row in colours)


def _frames(image: Image.Image) -> int:
    """Frames of an animation or pages; the other images in a camera's JPEG, previews mostly, do not count."""
    try:
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception:  # what is behind the first one does not matter
        return 1


def picture_size(path: Path) -> tuple[int, int]:
    """Rows and columns of a picture as its header says, EXIF orientation not applied; nothing is decoded.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_picture`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    with _opened(path, path.read_bytes()) as image:
        return image.height, image.width


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
        pixels, _ = decode(image, data)
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


def output_suffix(picture: Picture, format: OutputFormat = "same", scale_factor: int = 1) -> str:
    """How the file is called that :func:`write_like` makes: its suffix, one of ``SUFFIXES``.

    "same" is the picture's own format where a result in it loses nothing visible: JPEG, WebP and TIFF; of what else
    loses, JPEG; PNG for the rest, for 16 bits, and where the chosen format holds no such picture (JPEG and alpha,
    WebP beyond 16383 pixels).
    """
    if format == "same":
        own = {"WEBP": "webp", "TIFF": "tiff", **dict.fromkeys(_LOSSY, "jpg")}.get(picture.kind, "png")
        format = "png" if picture.bits > 8 else own  # type: ignore[assignment]
    longest = scale_factor * max(picture.image.shape[-2:])
    if (format == "jpg" and (_transparent(picture) or longest > 65500)) or (format == "webp" and longest > 16383):
        format = "png"
    return SUFFIXES[format]


def _transparent(picture: Picture) -> bool:
    return picture.alpha is not None and bool(picture.alpha.min() < np.iinfo(picture.alpha.dtype).max)


def write_like(
    path: Path, image: Tensor, picture: Picture, format: OutputFormat = "same", quality: int = QUALITY
) -> Path:
    """Write ``image`` with the depth, the greyness, the alpha channel (resized) and what else ``picture`` carries.

    What the file's format cannot hold is left out, and said in a line of the log.

    Args:
        path: with the suffix of an output format that one; else what :func:`output_suffix` says is appended.
        image: 1×3×H×W in [0, 1], clipped here.
        quality: of JPEG and WebP, 1 to 100.

    Returns:
        The path with its suffix.

    Raises:
        OSError: the file cannot be written.
    """
    if path.suffix not in SUFFIXES.values():
        scale_factor = -(-max(image.shape[-2:]) // max(picture.image.shape[-2:]))
        path = path.with_name(path.name + output_suffix(picture, format, scale_factor))
    deep = picture.bits > 8 and path.suffix in (".png", ".tif")
    lost = [] if deep or picture.bits == 8 else ["8 of its 16 bits"]
    grey = picture.grey or picture.grey_colours
    pixels = _quantize(image.mean(1, keepdim=True) if grey else image, np.dtype(np.uint16 if deep else np.uint8))
    if picture.grey_colours:
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    if picture.alpha is not None and path.suffix != ".jpg":
        alpha = cv2.resize(picture.alpha, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        if not deep and picture.bits > 8:
            alpha = np.rint(alpha / 257)
        pixels = np.dstack([pixels, alpha.astype(pixels.dtype)])
    elif _transparent(picture):
        lost.append("transparency")
    if picture.carried.png_chunks and path.suffix != ".png":
        kinds = ", ".join(kind.decode() for kind, _ in picture.carried.png_chunks)
        lost.append(f"description of the colours ({kinds})")
    if lost:
        log.warning("%s: holds no %s of the picture it was made from", path, " and ".join(lost))
    _write(path, pixels, picture.carried, quality)
    return path


def write_image(path: Path, pixels: Pixels, icc_profile: bytes | None = None) -> None:
    """Write H×W×C pixels, whole or not at all; the suffix of ``path`` chooses the format.

    Args:
        pixels: as in :func:`blindsr.encoding.encode`.

    Raises:
        OSError: the file cannot be written.
    """
    _write(path, pixels, Carried(icc_profile), QUALITY)


def _write(path: Path, pixels: Pixels, carried: Carried, quality: int) -> None:
    try:
        data = encode(pixels, path.suffix, carried, quality)
    except ValueError as error:
        raise OSError(f"{path}: the picture cannot be encoded ({error})") from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
