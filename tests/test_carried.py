"""What a picture carries besides its pixels, and the format of what is made from it."""

import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, features

from blindsr.encoding import Carried, encode
from blindsr.images import Picture, is_image_name, output_suffix, passed_over, read_picture, to_uint8, write_like

FORMATS = ["png", "jpg", "webp", "tiff"]
RANDOM = np.random.RandomState(0)


@pytest.fixture
def smooth():
    """40×56×3, in colours."""
    rows, cols = np.mgrid[0:40, 0:56]
    return np.stack([4 * cols, 6 * rows, 255 - 2 * rows - 2 * cols], axis=2).astype(np.uint8)


def doubled(picture):
    return picture.image.repeat_interleave(2, -1).repeat_interleave(2, -2)


def camera_exif():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0132] = 6, "Maker", "2020:01:02 03:04:05"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0xA002: 56, 0xA003: 40, 0x829A: 0.01}
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
    return exif


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_and_resolution_stay_and_what_is_no_longer_true_does_not(tmp_path, smooth, suffix, format):
    source = tmp_path / f"camera{suffix}"
    Image.fromarray(smooth).save(source, exif=camera_exif(), dpi=(300, 240))
    picture = read_picture(source)
    assert picture.image.shape[-2:] == (56, 40)
    path = write_like(tmp_path / "result", doubled(picture), picture, format)
    with Image.open(path) as result:
        exif = result.getexif()
        assert result.size == (80, 112)
        assert exif.get(0x0112, 1) == 1
        assert (exif[0x010F], exif[0x0132]) == ("Maker", "2020:01:02 03:04:05")
        camera = exif.get_ifd(0x8769)
        assert (camera[0x9003], float(camera[0x829A])) == ("2020:01:02 03:04:05", 0.01)
        assert not {0xA002, 0xA003} & camera.keys()
        assert exif.get_ifd(0x8825)[2] == (52.0, 30.0, 0.0)
        if suffix != ".webp" and format != "webp":  # which has no place for a resolution
            assert result.info["dpi"] == pytest.approx((300, 240), abs=0.01)


def test_sixteen_bits_carry_the_same(tmp_path, smooth):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    carried = Carried(exif=exif.tobytes(), dpi=(300, 240), png_chunks=((b"gAMA", b"\0\0\xb1\x8f"),))
    (tmp_path / "deep.png").write_bytes(encode(smooth.astype(np.uint16) * 257, ".png", carried))
    picture = read_picture(tmp_path / "deep.png")
    assert picture.bits == 16
    assert picture.carried.exif == carried.exif
    assert picture.carried.png_chunks == carried.png_chunks
    assert picture.carried.dpi == pytest.approx((300, 240), abs=0.01)
    path = write_like(tmp_path / "result", doubled(picture), picture)
    assert path.name == "result.png"
    assert read_picture(path).carried == picture.carried


def test_tags_of_a_tiff_that_tell_how_it_is_stored_do_not_stay(tmp_path, smooth):
    tags = {"photometric": "rgb", "description": "a scan", "resolution": (300, 300)}
    tifffile.imwrite(tmp_path / "scan.tif", smooth, **tags, metadata=None)  # else it writes a second description
    picture = read_picture(tmp_path / "scan.tif")
    path = write_like(tmp_path / "result", doubled(picture), picture)
    assert path.suffix == ".tif"
    np.testing.assert_array_equal(to_uint8(read_picture(path).image), smooth.repeat(2, 0).repeat(2, 1))
    jpeg = Image.open(write_like(tmp_path / "result", doubled(picture), picture, "jpg"))
    assert dict(jpeg.getexif()) == {0x010E: "a scan", 0x0131: "tifffile.py"}


@pytest.mark.parametrize("name", ["gama1.png", "cicp_p3pq.png"])
def test_what_png_says_of_its_colours(cases, tmp_path, caplog, name):
    picture = read_picture(cases / name)
    ((kind, content),) = picture.carried.png_chunks
    written = write_like(tmp_path / "result", doubled(picture), picture).read_bytes()
    assert kind + content in written[: written.index(b"IDAT")]
    assert not caplog.records
    write_like(tmp_path / "result", doubled(picture), picture, "jpg")
    assert f"result.jpg: holds no description of the colours ({kind.decode()})" in caplog.text


def test_the_format_is_the_pictures_own_where_that_loses_nothing(tmp_path):
    image = torch.rand(1, 3, 4, 4)
    glass, opaque = np.full((4, 4), 100, np.uint8), np.full((4, 4), 255, np.uint8)
    own = {"JPEG": ".jpg", "MPO": ".jpg", "AVIF": ".jpg", "HEIF": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}
    for kind in (*own, "PNG", "BMP", "GIF", "JPEG2000"):
        assert output_suffix(Picture(image, kind=kind)) == own.get(kind, ".png")
        assert output_suffix(Picture(image, kind=kind, bits=16)) == ".png"
    assert output_suffix(Picture(image, kind="AVIF", alpha=glass)) == ".png"
    assert output_suffix(Picture(image, kind="AVIF", alpha=opaque)) == ".jpg"
    assert output_suffix(Picture(image, alpha=glass), "jpg") == ".png"
    assert output_suffix(Picture(image), "webp", 4096) == ".png"
    for format, suffix in zip(FORMATS, [".png", ".jpg", ".webp", ".tif"], strict=True):
        assert output_suffix(Picture(image), format) == suffix
        path = write_like(tmp_path / "photo.v1", image, Picture(image), format)
        assert path.name == f"photo.v1{suffix}"
        assert Image.open(path).size == (4, 4)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_every_format_takes_every_picture(tmp_path, smooth, caplog, format, bits, grey, alpha):
    image = torch.from_numpy(smooth / np.float32(255)).permute(2, 0, 1)[None]
    image = image[:, :1].expand(-1, 3, -1, -1) if grey else image
    opacity = np.full((40, 56), 100 if bits == 8 else 25700, f"uint{bits}") if alpha else None
    picture = Picture(image, bits=bits, grey=grey, alpha=opacity)
    path = write_like(tmp_path / "result", image, picture, format)
    result = read_picture(path)
    assert (result.image - image).abs().max() < (0.04 if path.suffix in (".jpg", ".webp") else 0.005)
    assert result.bits == (bits if path.suffix in (".png", ".tif") else 8)
    assert ("8 of its 16 bits" in caplog.text) == (result.bits < bits)
    if alpha:
        assert np.ptp(result.alpha) == 0
        assert result.alpha[0, 0] == (100 if result.bits == 8 else 25700)


def test_jpeg_keeps_colours_at_full_resolution(tmp_path):
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[:, 0, :, ::2] = stripes[:, 2, :, 1::2] = 0.8
    path = write_like(tmp_path / "stripes", stripes, Picture(stripes, kind="JPEG"))
    assert (read_picture(path).image - stripes).abs().max() < 0.05
    small = write_like(tmp_path / "small", stripes, Picture(stripes, kind="JPEG"), quality=30)
    assert small.stat().st_size < path.stat().st_size


def test_grey_stored_as_colours_stays_grey(cases, tmp_path):
    picture = read_picture(cases / "grey_rgb.jpg")
    assert picture.grey_colours
    assert not picture.grey
    tinted = (doubled(picture) + torch.tensor([0.05, 0.0, -0.05]).view(1, 3, 1, 1)).clamp(0, 1)
    for format in FORMATS:
        result = to_uint8(read_picture(write_like(tmp_path / "result", tinted, picture, format)).image).astype(int)
        assert np.ptp(result, axis=2).max() <= (1 if format == "webp" else 0)
    assert not read_picture(cases / "align_hr.png").grey_colours


@pytest.mark.parametrize(("name", "kind"), [("x.JFIF", "JPEG"), ("pic.avif", "AVIF")])
def test_suffixes_of_photographs(cases, name, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    assert is_image_name(cases / name)
    assert read_picture(cases / name).kind == kind


@pytest.mark.parametrize("name", ["anim.gif", "anim.webp", "anim_apng.png", "multipage.tif"])
def test_the_first_of_several_frames_is_told(cases, caplog, name):
    assert read_picture(cases / name).frames == 3
    assert f"{name}: the first of 3 frames or pages" in caplog.text


def test_signed_numbers_are_named(cases):
    with pytest.raises(ValueError, match=r"i16_dem\.tif.*16-bit signed numbers.*save it with 16 bits"):
        read_picture(cases / "i16_dem.tif")


def test_a_folder_says_what_it_passes_over(tmp_path, smooth):
    Image.fromarray(smooth).save(tmp_path / "read.png")
    for name in ("a.cr2", "b.PSD", "c.svg", "d.jxl", "notes.txt", ".hidden.psd"):
        (tmp_path / name).write_bytes(b"II*\0")
    (tmp_path / "e.jpg_large").write_bytes(encode(smooth, ".jpg"))
    (tmp_path / "folder.psd").mkdir()
    reasons = {path.name: reason for path, reason in passed_over(tmp_path)}
    assert list(reasons) == ["a.cr2", "b.PSD", "c.svg", "d.jxl", "e.jpg_large"]
    assert "raw file" in reasons["a.cr2"]
    assert "end in .jpg" in reasons["e.jpg_large"]


def test_heic_without_the_extra_names_it(tmp_path):
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    script = f"""
import sys
sys.modules["pillow_heif"] = None
from pathlib import Path
from blindsr.images import passed_over, read_picture
print(passed_over(Path({str(tmp_path)!r}))[0][1])
try:
    read_picture(Path({str(tmp_path)!r}) / "phone.heic")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("pip install 'blindsr[heic]'") == 2


def test_heic_is_read(tmp_path, smooth):
    pytest.importorskip("pillow_heif")
    Image.fromarray(smooth).save(tmp_path / "phone.heic", quality=95)
    picture = read_picture(tmp_path / "phone.heic")
    assert picture.kind == "HEIF"
    assert abs(to_uint8(picture.image).astype(int) - smooth).max() < 12
    assert output_suffix(picture) == ".jpg"


def test_damaged_exif_data_are_left_out_and_said(tmp_path, smooth, caplog):
    exif = bytearray(camera_exif().tobytes())
    place = exif.index(b"\x87\x69\x00\x04")
    exif[place + 8 : place + 12] = b"\xff\xff\xff\xf0"  # its own directory lies beyond the end
    Image.fromarray(smooth).save(tmp_path / "damaged.jpg", exif=bytes(exif))
    picture = read_picture(tmp_path / "damaged.jpg")
    path = write_like(tmp_path / "result", doubled(picture), picture)
    assert Image.open(path).getexif().get(0x0112, 1) == 1
