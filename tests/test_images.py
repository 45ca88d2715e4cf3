import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps

from blindsr import images
from blindsr.images import Picture, read_image, read_picture, read_pixels, to_uint8, write_image, write_like


@pytest.fixture
def pixels():
    """32×40×3 RGB."""
    return np.random.RandomState(0).randint(0, 256, (32, 40, 3)).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_lossless_formats_round_trip(tmp_path, pixels, suffix):
    path = tmp_path / f"picture{suffix}"
    write_image(path, pixels)
    image = read_image(path)
    assert image.shape == (1, 3, 32, 40)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(to_uint8(image), pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_are_read(tmp_path, suffix):
    smooth = np.full((32, 40, 3), (200, 100, 50), np.uint8)
    write_image(tmp_path / f"picture{suffix}", smooth)
    assert abs(to_uint8(read_image(tmp_path / f"picture{suffix}")).astype(int) - smooth).max() <= 3


def test_grey_becomes_three_channels_and_says_so(tmp_path, pixels, caplog):
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), pixels[:, :, 0])
    np.testing.assert_array_equal(to_uint8(read_image(path)), np.repeat(pixels[:, :, :1], 3, axis=2))
    assert "grey.png" in caplog.text


def test_alpha_is_dropped_and_only_real_transparency_is_mentioned(tmp_path, pixels, caplog):
    for name, alpha in (("opaque", 255), ("glass", 100)):
        bgra = np.dstack([pixels[:, :, ::-1], np.full((32, 40), alpha, np.uint8)])
        cv2.imwrite(str(tmp_path / f"{name}.png"), bgra)
        np.testing.assert_array_equal(to_uint8(read_image(tmp_path / f"{name}.png")), pixels)
    assert "glass.png" in caplog.text
    assert "opaque.png" not in caplog.text


def test_sixteen_bits_are_kept(tmp_path):
    deep = np.arange(32 * 40, dtype=np.uint16).reshape(32, 40)
    cv2.imwrite(str(tmp_path / "deep.png"), np.dstack([deep] * 3))
    image = read_image(tmp_path / "deep.png")
    np.testing.assert_allclose(image[0, 0].numpy() * 65535, deep, atol=0.01)


def plane(image, bits=8):
    """C×H×W → H×W×C in whole numbers of so many bits."""
    return np.rint(image[0].permute(1, 2, 0).numpy() * (2**bits - 1)).astype(f"uint{bits}")


def save(path, pixels, **options):
    """Write RGB(A), LA or grey pixels of 8 or 16 bits; ``exif`` and ``icc_profile`` where Pillow can."""
    if pixels.dtype == np.uint8:
        Image.fromarray(pixels).save(path, **options)
    elif path.suffix == ".tif":
        extra = {"extrasamples": ["unassalpha"]} if pixels.shape[2:] == (4,) else {}
        orientation = [(274, "H", 1, options["exif"][274], True)] if "exif" in options else []
        tifffile.imwrite(
            path, pixels, photometric="rgb" if pixels.ndim == 3 else None, extratags=orientation, **extra
        )
    else:
        Image.fromarray(pixels.astype(np.uint8).copy()).save(path, **options)  # for its chunks
        exif = path.read_bytes()
        colour_type = {(): 0, (2,): 4, (3,): 2, (4,): 6}[pixels.shape[2:]]
        header = struct.pack(">IIBBBBB", *pixels.shape[1::-1], 16, colour_type, 0, 0, 0)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
        kept, position = b"", 8
        while position < len(exif):
            (length,) = struct.unpack_from(">I", exif, position)
            if exif[position + 4 : position + 8] in (b"eXIf", b"iCCP"):
                kept += exif[position : position + 12 + length]
            position += 12 + length
        chunks = chunk(b"IHDR", header) + kept + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        path.write_bytes(exif[:8] + chunks)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


CASES = [(".png", 8, kind) for kind in ("grey", "grey+alpha", "rgb", "rgba")]
CASES += [(".png", 16, kind) for kind in ("grey", "grey+alpha", "rgb", "rgba")]
CASES += [(".tif", 8, kind) for kind in ("grey", "grey+alpha", "rgb", "rgba")]
CASES += [(".tif", 16, kind) for kind in ("grey", "rgb", "rgba")]
CASES += [(".webp", 8, kind) for kind in ("rgb", "rgba")]
CASES += [(".jpg", 8, kind) for kind in ("grey", "rgb")]
CASES = [(*case, orientation) for case in CASES for orientation in range(1, 9)]
CASES += [(".bmp", 8, kind, 1) for kind in ("grey", "rgb")]  # says nothing of orientation


@pytest.mark.parametrize(("suffix", "bits", "kind", "orientation"), CASES)
def test_pictures_keep_depth_grey_and_alpha_and_stand_upright(tmp_path, suffix, bits, kind, orientation):
    channels = {"grey": 1, "grey+alpha": 2, "rgb": 3, "rgba": 4}[kind]
    smooth = np.add.outer(3 * np.arange(16), 5 * np.arange(24))[..., None] + 20 * np.arange(channels)
    stored = smooth.astype(np.uint8) if bits == 8 else (smooth * 257 + 31).astype(np.uint16)
    stored = stored[:, :, 0] if channels == 1 else stored
    options = {} if orientation == 1 else {"exif": Image.Exif()}
    if options:
        options["exif"][274] = orientation
    path = tmp_path / f"picture{suffix}"
    save(path, stored, **options, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))

    turned = Image.fromarray(np.arange(16 * 24, dtype=np.int32).reshape(16, 24))  # each pixel's place, by Pillow
    turned.getexif()[274] = orientation
    places = np.asarray(ImageOps.exif_transpose(turned))
    expected = stored.reshape(16 * 24, channels)[places]
    picture = read_picture(path)
    colours = expected[:, :, : 1 if channels < 3 else 3].astype(int)
    difference = abs(plane(picture.image, bits).astype(int) - colours).max()
    assert difference <= (4 if suffix == ".jpg" else 0)
    assert (picture.bits, picture.grey) == (bits, channels < 3)
    if channels in (2, 4):
        np.testing.assert_array_equal(picture.alpha, expected[:, :, -1])
    else:
        assert picture.alpha is None

    doubled = picture.image.repeat_interleave(2, -1).repeat_interleave(2, -2)
    write_like(tmp_path / "result.png", doubled, picture)
    result = read_picture(tmp_path / "result.png")
    assert (result.bits, result.grey) == (bits, channels < 3 and (bits, channels) != (16, 2))
    np.testing.assert_array_equal(plane(result.image, bits), plane(doubled, bits))
    assert Image.open(tmp_path / "result.png").getexif().get(274, 1) == 1
    if picture.alpha is not None:
        interior = (slice(4, -4), slice(4, -4))
        bilinear = cv2.resize(picture.alpha, result.alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)
        assert abs(result.alpha.astype(int) - bilinear)[interior].max() <= (2 if bits == 8 else 200)


@pytest.mark.parametrize(("suffix", "bits"), [(".jpg", 8), (".png", 8), (".png", 16), (".tif", 8), (".webp", 8)])
def test_the_colour_profile_stays_with_the_result(tmp_path, pixels, suffix, bits):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    profile = profile[:16] + b"RGB " + profile[20:]
    save(tmp_path / f"wide{suffix}", pixels.astype(f"uint{bits}"), icc_profile=profile)
    picture = read_picture(tmp_path / f"wide{suffix}")
    assert picture.carried.icc_profile == profile
    write_like(tmp_path / "result.png", picture.image, picture)
    assert Image.open(tmp_path / "result.png").info["icc_profile"] == profile


def test_a_profile_that_cannot_be_kept_is_left_out_and_said(tmp_path, pixels, caplog):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, content, profile in (("cut", pixels, srgb[:200]), ("grey", pixels[:, :, 0], srgb)):
        save(tmp_path / f"{name}.jpg", content, icc_profile=profile)
        assert read_picture(tmp_path / f"{name}.jpg").carried.icc_profile is None
        assert f"{name}.jpg" in caplog.text
    grey = srgb[:16] + b"GRAY" + srgb[20:]
    for name, content in (("grey.png", pixels[:, :, 0]), ("alpha.png", pixels[:, :, :2])):
        save(tmp_path / name, content, icc_profile=grey)
        picture = read_picture(tmp_path / name)
        write_like(tmp_path / "result.png", picture.image, picture)
        assert Image.open(tmp_path / "result.png").info["icc_profile"] == grey


def test_palettes_bits_and_transparent_colours_are_understood(tmp_path, pixels):
    palette = Image.fromarray(pixels).quantize(16)
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "key.png", transparency=3)
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "tone.png", transparency=int(pixels[0, 0, 0]))
    Image.fromarray(pixels[:, :, 0] > 127).save(tmp_path / "bits.png")
    for name in ("palette", "key"):
        picture = read_picture(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(plane(picture.image), np.asarray(palette.convert("RGB")))
        assert not picture.grey
    np.testing.assert_array_equal(picture.alpha, np.where(np.asarray(palette) == 3, 0, 255))
    tone = read_picture(tmp_path / "tone.png")
    np.testing.assert_array_equal(tone.alpha, np.where(pixels[:, :, 0] == pixels[0, 0, 0], 0, 255))
    np.testing.assert_array_equal(plane(read_image(tmp_path / "bits.png"))[:, :, 0] > 0, pixels[:, :, 0] > 127)


def test_pillow_and_opencv_agree_on_photographs(tmp_path, photograph):
    """The pixels of 8-bit colours are those that OpenCV gave when the results of the project were measured."""
    pixels = to_uint8(photograph)
    for suffix, options in ((".jpg", {"quality": 75}), (".webp", {"quality": 75}), (".png", {}), (".bmp", {})):
        path = tmp_path / f"photo{suffix}"
        Image.fromarray(pixels).save(path, **options)
        decoded = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)[:, :, ::-1]
        expected = (decoded / 255).transpose(2, 0, 1).astype(np.float32)
        assert torch.equal(read_image(path)[0], torch.from_numpy(expected)), suffix


def ink_profile():
    """A CMYK profile whose cyan ink, against all custom, is red: Lab (53, 80, 67). All else but white is black.

    ICC.1:2001, 6.5.8: a table of 8 bits (lut8Type), 4 inks to Lab, two points to each ink.
    """
    white, red, black = (
        bytes([round(2.55 * light), a + 128, b + 128]) for light, a, b in ((100, 0, 0), (53, 80, 67), (0, 0, 0))
    )
    corners = b"".join({(0, 0, 0, 0): white, (1, 0, 0, 0): red}.get(inks, black) for inks in np.ndindex(2, 2, 2, 2))
    unit = np.eye(3).ravel()
    linear = bytes(range(256))
    table = b"mft1" + bytes([0, 0, 0, 0, 4, 3, 2, 0]) + b"".join(struct.pack(">i", round(65536 * e)) for e in unit)
    table += 4 * linear + corners + 3 * linear
    tag = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    head = struct.pack(">I4sI4s4s4s", 144 + len(table), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    white_point = struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(36, b"\0") + b"acsp".ljust(32, b"\0") + white_point.ljust(60, b"\0") + tag + table


def test_cmyk_is_converted_by_its_profile(tmp_path, caplog):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, :, 0] = 255  # cyan above white
    for name, more in (
        ("with.jpg", {"icc_profile": ink_profile()}),
        ("without.jpg", {}),
        ("bad.jpg", {"icc_profile": b"x" * 200}),
    ):
        Image.fromarray(inks, "CMYK").save(tmp_path / name, quality=100, **more)
    found = {name: to_uint8(read_picture(tmp_path / name).image) for name in ("with.jpg", "without.jpg", "bad.jpg")}
    assert np.abs(found["with.jpg"][2, 2].astype(int) - (255, 0, 0)).max() < 12  # Lab (53, 80, 67) is sRGB's red
    for name in ("without.jpg", "bad.jpg"):
        assert np.abs(found[name][2, 2].astype(int) - (0, 255, 255)).max() < 4
    assert all(pixels[14, 14].min() > 250 for pixels in found.values())
    assert "with.jpg: a CMYK picture, converted to sRGB by its profile" in caplog.text
    assert "without.jpg: a CMYK picture, converted to sRGB without a profile, roughly" in caplog.text
    assert "the result has none" not in caplog.text
    assert read_picture(tmp_path / "with.jpg").carried.icc_profile is None
    np.testing.assert_array_equal(read_pixels(tmp_path / "with.jpg"), found["with.jpg"])


def test_pictures_of_other_kinds_are_refused(tmp_path, pixels):
    photo, deep = Image.fromarray(pixels), pixels.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "CMYK.tif", np.dstack([deep, deep[:, :, 0]]), photometric="separated")
    photo.convert("LAB").save(tmp_path / "LAB.tif")
    photo.convert("L").convert("F").save(tmp_path / "F.tif")
    photo.convert("L").convert("I").save(tmp_path / "neither.tif")
    tifffile.imwrite(tmp_path / "inverted.tif", deep[:, :, 0], photometric="miniswhite")
    tifffile.imwrite(tmp_path / "separate.tif", deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    rgba = np.dstack([deep, deep[:, :, 0]])
    tifffile.imwrite(tmp_path / "premultiplied.tif", rgba, photometric="rgb", extrasamples=["assocalpha"])
    grey_key = struct.pack(">IIBBBBB", 1, 1, 16, 0, 0, 0, 0)
    body = chunk(b"tRNS", b"\0\1") + chunk(b"IDAT", zlib.compress(b"\0\0\1")) + chunk(b"IEND", b"")
    (tmp_path / "transparency.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", grey_key) + body)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 8
    for path in paths:
        with pytest.raises(ValueError, match=path.name) as caught:
            read_picture(path)
        assert path.stem in str(caught.value).replace(str(path), "") or path.suffix == ".tif"
        assert "save it" in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_too_large_a_picture_is_refused_by_its_header(tmp_path, pixels, suffix, monkeypatch):
    path = tmp_path / f"bomb{suffix}"
    write_image(path, pixels)
    if suffix == ".png":  # says that it is of 2^15×2^14 pixels, 1.6 GB once decoded
        content = path.read_bytes()
        header = struct.pack(">II", 2**15, 2**14) + content[24:29]
        path.write_bytes(content[:8] + chunk(b"IHDR", header) + content[33:])
    else:
        monkeypatch.setattr(images, "MAX_PIXELS", pixels[:, :, 0].size - 1)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(ValueError, match=rf"bomb{suffix}.*pixels are more than") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)
    assert Image.MAX_IMAGE_PIXELS is not None


def test_odd_exif_data_does_not_spoil_a_picture(tmp_path, pixels):
    for name, exif in (("text", b"Exif\0\0no TIFF header"), ("cut", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\1")):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", exif=exif)
        np.testing.assert_array_equal(plane(read_picture(tmp_path / f"{name}.png").image), pixels)


def test_results_are_clipped_and_a_grey_one_is_the_mean(tmp_path):
    image = torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    write_like(tmp_path / "colour.png", image, Picture(image))
    write_like(tmp_path / "grey.png", image.clamp(0, 1), Picture(image, bits=16, grey=True))
    assert cv2.imread(str(tmp_path / "colour.png"), -1)[0, 0].tolist() == [255, 128, 0]
    assert cv2.imread(str(tmp_path / "grey.png"), -1)[0, 0] == 32768
    with pytest.raises(OSError, match=r"picture\.nothing"):
        write_image(tmp_path / "picture.nothing", np.zeros((4, 4, 3), np.uint8))


def test_unreadable_files_name_themselves(tmp_path, pixels):
    write_image(tmp_path / "whole.png", pixels)
    write_image(tmp_path / "whole.jpg", pixels)
    for suffix in (".png", ".jpg"):
        content = (tmp_path / f"whole{suffix}").read_bytes()
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(ValueError, match=f"cut{suffix}"):
            read_image(cut)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name in ("text.png", "empty.png"):
        with pytest.raises(ValueError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_image(tmp_path / "absent.png")


def test_a_png_that_promises_more_than_it_holds(tmp_path):
    whole = cv2.imencode(".png", np.zeros((12, 17), np.uint16))[1].tobytes()
    place = whole.index(b"IDAT") - 4
    (tmp_path / "promise.png").write_bytes(whole[:place] + b"\x7f" + whole[place + 1 :])
    with pytest.raises(ValueError, match=r"promise.png.*longer than the file"):
        read_picture(tmp_path / "promise.png")


@pytest.mark.parametrize("quality", [25, 40, 50, 75, 95, 100])
def test_the_quality_of_a_jpeg_is_read_off_its_tables(tmp_path, quality):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=quality)
    assert abs(read_picture(tmp_path / "a.jpg").jpeg_quality - quality) <= 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").jpeg_quality is None


def test_a_frame_that_says_it_is_larger_than_its_picture(tmp_path, pixels):
    path = tmp_path / "frame.gif"
    Image.fromarray(pixels).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(b",\0\0\0\0\x28\0\x20\0")  # the descriptor of the first frame, 40×32
    content[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"frame\.gif.*pixels are more than"):
        read_picture(path)
