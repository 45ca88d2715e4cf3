"""Pictures for print, in four inks, as the colours of a screen."""

import io

from PIL import Image, ImageCms

__all__ = ["conversion", "to_srgb"]

_SRGB = ImageCms.createProfile("sRGB")


def to_srgb(image: Image.Image) -> Image.Image:
    """The sRGB colours of a CMYK picture: by the profile in the file, or roughly where that lacks a sound one."""
    transform = _transform(image)
    if transform is None:
        return image.convert("RGB")  # each ink absorbs one primary
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return converted


def conversion(image: Image.Image) -> str:
    """How :func:`to_srgb` converts a picture, in words."""
    return "without a profile, roughly" if _transform(image) is None else "by its profile"


def _transform(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    # As programs for print do by default: white stays white and black black.
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    try:
        inks = io.BytesIO(image.info["icc_profile"])
        return ImageCms.buildTransform(inks, _SRGB, "CMYK", "RGB", intent, flags)
    except (KeyError, TypeError, ImageCms.PyCMSError):
        return None
