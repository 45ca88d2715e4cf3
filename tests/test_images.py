import cv2
import numpy as np
import pytest
import scipy.io
import torch

from blindsr.files import write_whole
from blindsr.images import read_image, read_kernel, to_uint8, write_image, write_kernel


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


def test_kernels_round_trip_exactly(tmp_path):
    kernel = torch.rand(1, 1, 11, 11, dtype=torch.float64)
    write_kernel(tmp_path / "kernel.mat", kernel)
    torch.testing.assert_close(read_kernel(tmp_path / "kernel.mat"), kernel, rtol=0, atol=0)


def test_bad_kernel_files_name_themselves(tmp_path):
    contents = {
        "other": {"K": np.eye(3)},
        "shape": {"Kernel": np.ones((3, 5))},
        "even": {"Kernel": np.ones((4, 4))},
        "nan": {"Kernel": np.full((3, 3), np.nan)},
        "zero": {"Kernel": np.zeros((3, 3))},
        "text": {"Kernel": "abc"},
    }
    for name, content in contents.items():
        scipy.io.savemat(tmp_path / f"{name}.mat", content)
    (tmp_path / "damaged.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut off")
    for path in tmp_path.glob("*.mat"):
        with pytest.raises(ValueError, match=path.name):
            read_kernel(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_kernel(tmp_path / "absent.mat")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")

    def fail():
        with write_whole(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]
