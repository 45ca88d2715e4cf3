"""What a picture file says besides its pixels, read so that it can be written again."""

from PIL import Image

from blindsr.encoding import COLOUR_CHUNKS, Carried, keeps_profile

__all__ = ["png_chunks", "read_carried"]

# Orientation, sizes, and places in the file: true of the file that was read and of no other.
_STALE_TAGS = {0x0100, 0x0101, 0x0112, 0x014A, 0x0201, 0x0202, 0xA002, 0xA003, 0xA005, 0x8769, 0x8825}
# Of a TIFF, whose EXIF data are mixed with how its pixels are stored, texts alone.
_TEXT_TAGS = {0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298}


def read_carried(image: Image.Image, data: bytes, grey: bool) -> tuple[Carried, str]:
    """What the file says besides its pixels, and what of it cannot be kept, in words."""
    lost = []
    profile = None if image.mode == "CMYK" else image.info.get("icc_profile")  # the pixels become sRGB
    # Tried now: with a damaged profile the result could not be written after all the work.
    if profile and not keeps_profile(profile, grey):
        lost.append("colour profile is damaged or not made for such pixels")
        profile = None
    try:
        read = image.getexif()
        tags = _TEXT_TAGS if image.format == "TIFF" else read.keys() - _STALE_TAGS
        kept = Image.Exif()
        for tag in sorted(tags & read.keys()):
            kept[tag] = read[tag]
        for tag in (0x8769, 0x8825):  # camera and place have directories of their own
            part = {name: value for name, value in read.get_ifd(tag).items() if name not in _STALE_TAGS}
            if part:
                kept[tag] = part
        exif = kept.tobytes() if len(kept) else None
    except Exception:  # whatever a camera wrote there
        lost.append("EXIF data are damaged")
        exif = None
    try:  # one pixel per inch is what some write that know of none
        across, down = (float(dots) for dots in image.info.get("dpi", (0, 0)))
        dpi = (across, down) if 1 < across <= 65535 and 1 < down <= 65535 else None
    except (TypeError, ValueError, ZeroDivisionError):
        dpi = None
    chunks = png_chunks(data) if image.format == "PNG" else {}
    colours = tuple((kind, chunks[kind]) for kind in COLOUR_CHUNKS if kind in chunks)
    return Carried(profile or None, exif, dpi, colours), " and its ".join(lost)


def png_chunks(png: bytes) -> dict[bytes, bytes]:
    """The content of each kind of chunk, of several of a kind the first.

    Raises:
        EOFError: a chunk is longer than the file: OpenCV would allocate and fill what it says, up to 4 GiB.
    """
    chunks: dict[bytes, bytes] = {}
    place, kind = 8, b""
    while kind != b"IEND" and place < len(png):
        kind = png[place + 4 : place + 8]
        start, place = place + 8, place + 12 + int.from_bytes(png[place : place + 4], "big")
        if place > len(png):
            raise EOFError("a chunk is longer than the file")
        if kind in COLOUR_CHUNKS:
            chunks.setdefault(kind, png[start : place - 4])
    return chunks
