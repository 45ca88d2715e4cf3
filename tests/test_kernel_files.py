import shutil

import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import scipy.signal
import torch

from blindsr.degradation import degrade
from blindsr.kernel_files import pad_to_odd, read_kernel, write_kernel
from blindsr.kernels import normalize

RANDOM = np.random.RandomState(0)
KERNEL = RANDOM.rand(5, 5)


def test_kernels_round_trip_exactly(tmp_path):
    kernel = torch.rand(1, 1, 11, 11, dtype=torch.float64)
    write_kernel(tmp_path / "kernel.mat", kernel)
    torch.testing.assert_close(read_kernel(tmp_path / "kernel.mat"), kernel, rtol=0, atol=0)


def test_a_kernel_makes_the_same_file_at_any_time(tmp_path, monkeypatch):
    kernel = torch.rand(1, 1, 11, 11)
    for name in ("a.mat", "b.mat"):
        monkeypatch.setattr("time.asctime", lambda name=name: f"the day of {name}")
        write_kernel(tmp_path / name, kernel)
    assert (tmp_path / "a.mat").read_bytes() == (tmp_path / "b.mat").read_bytes()


def test_kernels_of_numpy_files_are_read_and_never_unpickled(tmp_path, evil_pickle):
    kernel = np.random.RandomState(0).rand(5, 5).astype(np.float32)
    np.save(tmp_path / "kernel.npy", kernel)
    np.testing.assert_array_equal(read_kernel(tmp_path / "kernel.npy")[0, 0], kernel)
    np.save(tmp_path / "four.npy", kernel[None, None])
    np.testing.assert_array_equal(read_kernel(tmp_path / "four.npy")[0, 0], kernel)
    np.save(tmp_path / "two.npy", np.stack([kernel, kernel])[:, None])
    np.save(tmp_path / "objects.npy", np.array([[{}]]))
    shutil.copy(evil_pickle, tmp_path / "evil.npy")
    for name in ("two", "objects", "evil"):
        with pytest.raises(ValueError, match=rf"{name}\.npy"):
            read_kernel(tmp_path / f"{name}.npy")
    assert not (tmp_path / "executed").exists()


def test_bad_kernel_files_name_themselves(tmp_path):
    contents = {
        "vector": {"K": np.ones((1, 3))},
        "shape": {"Kernel": np.ones((3, 5))},
        "nan": {"Kernel": np.full((3, 3), np.nan)},
        "zero": {"Kernel": np.zeros((3, 3))},
        "text": {"Kernel": "abc"},
    }
    for name, content in contents.items():
        scipy.io.savemat(tmp_path / f"{name}.mat", content)
    (tmp_path / "damaged.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut off")
    scipy.io.savemat(tmp_path / "type.mat", {"Kernel": np.eye(3)})
    whole = (tmp_path / "type.mat").read_bytes()
    place = whole.index(b"Kernel\0\0") + 8
    assert whole[place] == 9  # double; SciPy alone crashes at an unknown type
    (tmp_path / "type.mat").write_bytes(whole[:place] + b"\xd9" + whole[place + 1 :])
    scipy.io.savemat(tmp_path / "complex.mat", {"Kernel": 1j * np.eye(3)}, do_compression=True)
    scipy.io.savemat(tmp_path / "cells.mat", {"Kernel": np.array([1, "a"], object)})
    for path in tmp_path.glob("*.mat"):
        with pytest.raises(ValueError, match=path.name):
            read_kernel(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_kernel(tmp_path / "absent.mat")


def cell(*contents):
    array = np.empty((1, len(contents)), object)
    array[0] = contents
    return array


@pytest.mark.parametrize("options", [{}, {"do_compression": True}], ids=str)
@pytest.mark.parametrize(
    "content",
    [
        {"k": KERNEL},
        {"kernel": KERNEL, "lr": np.ones((8, 8))},
        {"blur": KERNEL, "sigma": 3.0, "name": "text", "steps": [1, 2, 3]},
        {"Kernel": KERNEL, "k": np.ones((3, 3))},
        {"kernels": cell(KERNEL)},
        {"Kernel": cell(KERNEL.astype(np.float32))},
    ],
    ids=lambda content: "+".join(content),
)
def test_where_there_is_one_reading_a_kernel_is_read(tmp_path, content, options):
    scipy.io.savemat(tmp_path / "other.mat", content, **options)
    np.testing.assert_allclose(read_kernel(tmp_path / "other.mat")[0, 0], KERNEL, rtol=1e-7)


def test_else_the_file_is_listed_and_a_variable_can_be_named(tmp_path):
    path = tmp_path / "several.mat"
    scipy.io.savemat(path, {"first": KERNEL, "second": 2 * KERNEL, "cells": cell(KERNEL, KERNEL), "note": "text"})
    with pytest.raises(ValueError, match=r"first \(5×5 double\), second \(5×5 double\).*--kernel-variable") as caught:
        read_kernel(path)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(read_kernel(path, "second")[0, 0], 2 * KERNEL)
    with pytest.raises(ValueError, match="no variable 'third', but first"):
        read_kernel(path, "third")
    for name in ("cells", "note"):
        with pytest.raises(ValueError, match=f"its {name} is not one matrix"):
            read_kernel(path, name)


@pytest.mark.parametrize("start", [b"MATLAB 7.3 MAT-file".ljust(512), b" " * 512])
def test_version_7_3_names_the_way_out(tmp_path, start):
    (tmp_path / "new.mat").write_bytes(start + b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(ValueError, match=r"new\.mat.*7\.3.*save -v7"):
        read_kernel(tmp_path / "new.mat")


@pytest.mark.parametrize("side", [4, 12])
def test_an_even_side_is_padded_without_a_shift(tmp_path, side):
    """SciPy correlates with the even kernel; our forward model with the padded one keeps every s-th pixel of that."""
    kernel, image = RANDOM.rand(side, side), RANDOM.rand(40, 40)
    kernel /= kernel.sum()
    scipy.io.savemat(tmp_path / "even.mat", {"Kernel": kernel})
    padded = read_kernel(tmp_path / "even.mat")
    assert padded.shape == (1, 1, side + 1, side + 1)
    ours = degrade(torch.from_numpy(image)[None, None], padded, 2)[0, 0].numpy()
    np.testing.assert_allclose(ours, scipy.ndimage.correlate(image, kernel, mode="wrap")[::2, ::2], atol=1e-12)
    inside = slice(8, 12)
    correlated = scipy.signal.correlate(image, kernel, mode="same")[::2, ::2]
    np.testing.assert_allclose(ours[inside, inside], correlated[inside, inside], atol=1e-12)


def test_only_square_kernels_are_padded():
    for shape in ((3, 3), (4, 6), (0, 0), (4,), ()):
        assert pad_to_odd(np.ones(shape)).shape == shape
    assert pad_to_odd(np.ones((1, 1, 4, 4))).shape == (1, 1, 5, 5)


def test_kernels_of_other_tools(cases):
    for name in ("kernel_named_k", "kernel_named_lower"):
        assert read_kernel(cases / f"{name}.mat").shape[-1] == 11
    even = normalize(read_kernel(cases / "kernel_even.mat"))
    assert even.shape[-1] == 13


@pytest.mark.parametrize("place", [152, 168, 184])
def test_a_size_that_the_file_does_not_have_is_refused_before_it_is_allocated(tmp_path, monkeypatch, place):
    """Of the shape, the name, and the numbers of the first variable."""
    path = tmp_path / "size.mat"
    scipy.io.savemat(path, {"Kernel": KERNEL, "more": KERNEL})
    content = bytearray(path.read_bytes())
    content[place : place + 8] = b"\x01\0\0\0\xff\xff\xff\x7f" if place < 184 else b"\x09\0\0\0\xff\xff\xff\x7f"
    path.write_bytes(content)
    monkeypatch.setattr(scipy.io, "loadmat", None)
    with pytest.raises(ValueError, match=r"size\.mat: (not a MATLAB file|its Kernel is not one matrix)"):
        read_kernel(path)
