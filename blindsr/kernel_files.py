"""Reading and writing kernels: MATLAB and NumPy files."""

import io
import zlib
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import scipy.io
from torch import Tensor

from blindsr.files import atomic_write
from blindsr.kernels import as_kernel

__all__ = ["Centre", "read_centre", "read_kernel", "write_kernel"]

Centre = Literal["published", "aligned"]
"""Where a kernel's centre lies, see :mod:`blindsr.kernels`."""


def read_kernel(path: Path) -> Tensor:
    """Read the variable ``Kernel`` of a MATLAB file, or a NumPy file (``.npy``) that holds one array.

    Returns:
        1×1×k×k float64, as stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such a file, or no kernel (:func:`blindsr.kernels.as_kernel`).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such kernel file; check it (prepare_dataset.py makes a data set's)")
    try:
        if path.suffix.lower() == ".npy":
            content = {"Kernel": np.load(path, allow_pickle=False)}  # unpickling would run what the file says
        else:
            _require_numbers(path.read_bytes())
            content = scipy.io.loadmat(str(path), variable_names=["Kernel"])
    except Exception as error:  # the parsers raise whatever they stumble on
        kind = "NumPy array" if path.suffix.lower() == ".npy" else "MATLAB file"
        reason = " ".join(str(error).split())
        if "allow_pickle" in reason:  # NumPy's advice to load it all the same is not ours
            reason = "it holds Python objects, which could run code"
        raise ValueError(f"{path}: not a {kind} that can be read ({reason})") from error
    if "Kernel" not in content:
        raise ValueError(f"{path}: holds no variable 'Kernel'; save the kernel under that name")
    try:
        return as_kernel(content["Kernel"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _require_numbers(mat: bytes) -> None:
    """Refuse a MATLAB file whose ``Kernel`` is not of real numbers of a known type.

    SciPy looks the type up in a table without checking it: a damaged file of version 5 would end the program.
    """
    if len(mat) < 128 or 0 in mat[:4]:
        return  # of version 4, or nothing at all, which SciPy tells
    order: Literal["little", "big"] = "little" if mat[126:127] == b"I" else "big"

    def element(data: bytes, place: int) -> tuple[int, bytes, int]:
        """Type, content and end of the data element at ``place``."""
        kind, size = (int.from_bytes(data[place + i : place + i + 4], order) for i in (0, 4))
        if kind >> 16:  # a small one: type, size and at most four bytes of content
            return kind & 0xFFFF, data[place + 4 : place + 4 + min(kind >> 16, 4)], place + 8
        return kind, data[place + 8 : place + 8 + size], place + 8 + size

    end = 128
    while end < len(mat):
        kind, variable, end = element(mat, end)
        if kind == 15:  # compressed; the beginning tells enough
            variable = zlib.decompressobj().decompress(variable, 1024)[8:]
        flags = int.from_bytes(variable[8:12], order)
        _, _, place = element(variable, 16)  # the shape
        _, name, place = element(variable, place + -place % 8)
        if name != b"Kernel":
            continue
        kind, _, _ = element(variable, place + -place % 8)
        if not 6 <= flags & 0xFF <= 15 or flags & 0x800 or kind not in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13):
            raise TypeError("its Kernel is not a matrix of real numbers")


def read_centre(path: Path) -> Centre | None:
    """Where the centre of the kernel in a file that :func:`write_kernel` made lies; None where the file does not say.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_kernel`.
    """
    read_kernel(path)
    if path.suffix.lower() == ".npy":
        return None
    said = scipy.io.loadmat(str(path), variable_names=["Centre"]).get("Centre")
    return next((centre for centre in get_args(Centre) if said is not None and [centre] == list(said.ravel())), None)


def write_kernel(path: Path, kernel: Tensor, centre: Centre = "published") -> None:
    """Write a 1×1×k×k kernel as the variable ``Kernel`` (float64) of a MATLAB file, whole or not at all.

    A kernel with the aligned centre (:mod:`blindsr.kernels`) is written with a variable ``Centre`` that says so.

    The same kernel makes the same file: the description that it begins with, in which SciPy puts the date, is fixed.
    """
    content = io.BytesIO()
    variables: dict[str, Any] = {"Kernel": kernel.detach()[0, 0].cpu().double().numpy()}
    scipy.io.savemat(content, variables if centre == "published" else {**variables, "Centre": centre})
    description = b"MATLAB 5.0 MAT-file, a blur kernel".ljust(116)
    with atomic_write(path) as temporary:
        temporary.write_bytes(description + content.getvalue()[116:])
