"""Reading and writing pictures and kernels: the only place where 8-bit values exist."""

import logging
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import scipy.io
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from blindsr.files import write_whole

__all__ = ["is_image_name", "read_image", "read_kernel", "to_uint8", "write_image", "write_kernel"]

log = logging.getLogger(__name__)

# Formats that OpenCV's wheels read; everything else in a folder is not taken for a picture.
_SUFFIXES = {
    ".bmp", ".dib", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".webp", ".avif", ".pbm", ".pgm", ".ppm", ".pxm",
    ".pnm", ".sr", ".ras", ".tiff", ".tif", ".exr", ".hdr", ".pic", ".gif",
}  # fmt: skip


# Decoded twice, by Pillow for completeness; formats that start other programs (EPS, say) are not among them.
_CHECKED_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "DIB", "PPM", "GIF", "JPEG2000", "AVIF", "SUN")


def is_image_name(path: Path) -> bool:
    """Whether the name is that of a picture (hidden files are none)."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _check_complete(path: Path) -> None:
    """Raise ValueError if the file breaks off. OpenCV fills what is missing of a JPEG with grey, silently."""
    try:
        with Image.open(path, formats=_CHECKED_FORMATS) as image:
            image.load()
            if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                log.warning("%s: transparency is dropped, the colours are kept as they are", path)
    except UnidentifiedImageError:
        return  # a format only OpenCV knows, or no picture at all: OpenCV will tell
    except Exception as error:  # decoders raise whatever they stumble on
        raise ValueError(f"{path}: the picture cannot be decoded ({error}); fetch or export it again") from error


def read_image(path: Path) -> Tensor:
    """Read a picture in any format that OpenCV reads, 8 or 16 bit, EXIF orientation applied.

    A grey picture becomes three equal channels and an alpha channel is dropped; both are logged.

    Returns:
        1×3×H×W float32 in [0, 1], RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no picture, is cut off, or holds values that are not 8 or 16 bit.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    _check_complete(path)
    try:
        # From a buffer, since OpenCV's file functions fail on some names; the flags keep 16 bit and drop alpha.
        data = np.fromfile(path, dtype=np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR) if data.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ValueError(f"{path}: not a picture that can be read; save it as PNG, JPEG or TIFF")
    largest = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(pixels.dtype)
    if largest is None:
        raise ValueError(f"{path}: {pixels.dtype} pixels are not supported; save it with 8 or 16 bits")
    if pixels.ndim == 2:
        log.warning("%s: a grey picture, treated as three equal channels", path)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    # Division in float64, then one rounding: the published LR images depend on it in the last bit.
    scaled = pixels[:, :, ::-1] / largest
    return torch.from_numpy(scaled.transpose(2, 0, 1).astype(np.float32))[None]


def to_uint8(image: Tensor) -> npt.NDArray[np.uint8]:
    """Clip 1×C×H×W in [0, 1] and round to 8 bits: H×W×C, RGB."""
    array = image.detach()[0].permute(1, 2, 0).cpu().numpy()
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)


def write_image(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write H×W×3 RGB pixels, whole or not at all; the suffix of ``path`` chooses the format.

    Raises:
        OSError: the file cannot be written.
    """
    with write_whole(path) as temporary:
        if not cv2.imwrite(str(temporary), pixels[:, :, ::-1]):
            raise OSError(f"{path}: the picture could not be written")


def read_kernel(path: Path) -> Tensor:
    """Read the variable ``Kernel`` of a MATLAB file.

    Returns:
        1×1×k×k float64, as stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a MATLAB file, or no square ``Kernel`` of odd side with finite values and a positive sum.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such kernel file; run prepare_dataset.py, or use --real")
    try:
        content = scipy.io.loadmat(str(path), variable_names=["Kernel"])
    except Exception as error:  # scipy raises whatever its parser stumbles on
        raise ValueError(f"{path}: not a MATLAB file that can be read ({error})") from error
    if "Kernel" not in content:
        raise ValueError(f"{path}: holds no variable 'Kernel'; save the kernel under that name")
    kernel = np.asarray(content["Kernel"])
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(f"{path}: 'Kernel' has shape {'×'.join(map(str, kernel.shape))}; need a square of odd side")
    if kernel.dtype.kind not in "fiu" or not np.isfinite(kernel).all() or kernel.sum() <= 0:
        raise ValueError(f"{path}: 'Kernel' must hold finite numbers with a positive sum")
    return torch.from_numpy(kernel.astype(np.float64))[None, None]


def write_kernel(path: Path, kernel: Tensor) -> None:
    """Write a 1×1×k×k kernel as the variable ``Kernel`` (float64) of a MATLAB file, whole or not at all."""
    with write_whole(path) as temporary:
        scipy.io.savemat(str(temporary), {"Kernel": kernel.detach()[0, 0].cpu().double().numpy()})
