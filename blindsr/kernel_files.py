"""Reading and writing kernels: MATLAB and NumPy files."""

import io
import math
import re
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.io
from torch import Tensor

from blindsr.files import atomic_write
from blindsr.kernels import as_kernel

__all__ = ["Centre", "pad_to_odd", "read_centre", "read_kernel", "read_scale_factor", "write_kernel"]

Centre = Literal["published", "aligned"]
"""Where a kernel's centre lies, see :mod:`blindsr.kernels`."""

DESCRIPTION = "MATLAB 5.0 MAT-file, a blur kernel"
"""How the MATLAB files written here begin; those of aligned kernels go on with :data:`ALIGNED`."""
ALIGNED = ", aligned centre"


def read_kernel(path: Path, variable: str | None = None) -> Tensor:
    """Read the kernel that a MATLAB file, up to version 7, or a NumPy file (``.npy``) holds.

    Of a MATLAB file the variable ``Kernel``, else one called ``kernel`` or ``k``, else the only matrix of numbers in
    it; a cell array that holds but one matrix stands for that. A kernel of even side n is padded to n + 1 by
    :func:`pad_to_odd`.

    Args:
        variable: which variable of a MATLAB file to take; for files with several matrices.

    Returns:
        1×1×k×k float64, k odd, as stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such a file, no kernel (:func:`blindsr.kernels.as_kernel`), or several; says what is in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such kernel file; check it (prepare_dataset.py makes a dataset's)")
    kind = "NumPy array" if path.suffix.lower() == ".npy" else "MATLAB file"
    try:
        if kind == "NumPy array":
            values = np.load(path, allow_pickle=False)  # unpickling would run what the file says
        else:
            values = _read_mat(path.read_bytes(), variable)
    except _NoKernelError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # the parsers raise whatever they stumble on, MemoryError where a size is damaged
        reason = " ".join(str(error).split()) or "a size in it is out of range"
        if "allow_pickle" in reason:  # NumPy's advice to load it all the same is not ours
            reason = "it holds Python objects, which could run code"
        other = "" if path.suffix.lower() in (".mat", ".npy") else "; kernels are .mat or .npy files"
        raise ValueError(f"{path}: not a {kind} that can be read ({reason}){other}") from error
    try:
        return as_kernel(pad_to_odd(values))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def pad_to_odd(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A square array …×n×n of even n with a row of zeros below and a column of zeros on the right; others as is.

    The pixel that lies on the image's own, n//2 on both axes, stays the one it is for correlation in the way of
    ``scipy.signal.correlate(mode="same")`` and ``scipy.ndimage.correlate``: both kernels do the same.
    """
    side = values.shape[-1] if values.ndim >= 2 else 1
    if side == 0 or side % 2 or values.shape[-2] != side or values.dtype.kind not in "fiu":
        return values
    return np.pad(values, [(0, 0)] * (values.ndim - 2) + [(0, 1), (0, 1)])


_LARGEST = 2**26
"""Bytes of the largest matrix that is taken for a kernel."""


class _NoKernelError(ValueError):
    """A sound file in which no one kernel can be found."""


def _read_mat(mat: bytes, variable: str | None) -> npt.NDArray[Any]:
    """The variable that is the kernel; see :func:`read_kernel`."""
    if mat.startswith(b"MATLAB 7.3") or b"\x89HDF\r\n\x1a\n" in mat[:1024]:
        raise _NoKernelError("a MATLAB file of version 7.3 (HDF5), which is not read; save it with save -v7")
    sound = _matrices_of_numbers(mat)
    found = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(io.BytesIO(mat))}
    matrices = [
        name
        for name, (shape, kind) in found.items()
        if sound.get(name, kind not in ("cell", "char")) and (kind == "cell" or (len(shape) == 2 and min(shape) > 1))
    ]
    listed = ", ".join(
        f"{''.join(c if c.isprintable() else '?' for c in name)} ({'×'.join(map(str, shape))} {kind})"
        for name, (shape, kind) in list(found.items())[:8]
    )
    if variable is not None:
        chosen = [variable] if variable in found else []
    elif "Kernel" in found:
        chosen = ["Kernel"]
    else:
        named = [name for name in matrices if name.lower() in ("kernel", "k")]
        chosen = named if len(named) == 1 else matrices
    if not chosen:
        wanted = f"no variable '{variable}'" if variable is not None else "no kernel"
        raise _NoKernelError(f"holds {wanted}, but {listed or 'nothing'}; save the kernel as a matrix called Kernel")
    if len(chosen) > 1:
        raise _NoKernelError(f"holds {listed}; say which is the kernel with --kernel-variable")
    name = chosen[0]
    if not sound.get(name, True):
        raise _NoKernelError(f"its {name} is not one matrix of real numbers; it holds {listed}")
    values = scipy.io.loadmat(io.BytesIO(mat), variable_names=[name])[name]
    return values.item() if values.dtype == object and values.size == 1 else values


def _matrices_of_numbers(mat: bytes) -> dict[str, bool]:
    """For each variable of a MATLAB file of version 5, whether it is a matrix of real numbers, or one in a cell.

    SciPy looks the type of its numbers up in a table without checking it: a damaged file would end the program. Nor
    does it check sizes before it allocates what they say, up to 4 GiB.

    Raises:
        ValueError: the shape or the name of a variable is longer than any.
    """
    if len(mat) < 128 or 0 in mat[:4]:
        return {}  # of version 4, or nothing at all, which SciPy tells
    order: Literal["little", "big"] = "little" if mat[126:127] == b"I" else "big"

    def element(data: bytes, place: int) -> tuple[int, bytes, int]:
        """Type, content and end of the data element at ``place``; what is cut off is missing from the content."""
        kind, size = (int.from_bytes(data[place + i : place + i + 4], order) for i in (0, 4))
        if kind >> 16:  # a small one: type, size and at most four bytes of content
            return kind & 0xFFFF, data[place + 4 : place + 4 + min(kind >> 16, 4)], place + 8
        return kind, data[place + 8 : place + 8 + size], place + 8 + size

    def matrix(content: bytes, inside: bool = False) -> tuple[bytes, bool]:
        """Name of a variable, and whether it is what is asked for; ``inside`` a cell it must be no cell."""
        flags = int.from_bytes(content[8:12], order)
        _, shape, place = element(content, 16)
        _, name, place = element(content, place + -place % 8)
        place += -place % 8
        if place > 1024:
            raise ValueError("a size in it is out of range")
        if flags & 0xFF == 1 and not inside:
            count = math.prod(int.from_bytes(shape[i : i + 4], order) for i in range(0, len(shape), 4))
            kind, inner, _ = element(content, place)
            return name, count == 1 and kind == 14 and matrix(inner, inside=True)[1]
        kind, _, end = element(content, place)
        known = kind in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13) and end - place < _LARGEST
        return name, 6 <= flags & 0xFF <= 15 and not flags & 0x800 and known

    sound: dict[str, bool] = {}
    end = 128
    while end < len(mat):
        kind, content, end = element(mat, end)
        if kind == 15:  # compressed; the beginning tells enough
            content = zlib.decompressobj().decompress(content, 1024)[8:]
        name, good = matrix(content)
        key = name.decode("latin-1")
        sound[key] = good and sound.get(key, True)  # called the same, SciPy may take either
    return sound


def _description(path: Path) -> str:
    """How a file of :func:`write_kernel` begins; "" for other files."""
    with path.open("rb") as file:
        beginning = file.read(116).decode("latin-1")
    return beginning if beginning.startswith(DESCRIPTION) else ""


def read_centre(path: Path) -> Centre | None:
    """Where the centre of the kernel in a file that :func:`write_kernel` made lies; None for other files."""
    beginning = _description(path)
    if not beginning:
        return None
    return "aligned" if ALIGNED in beginning else "published"


def read_scale_factor(path: Path) -> int | None:
    """The scale factor that the kernel in a file of :func:`write_kernel` was found at; None where it does not say."""
    found = re.search(r", x(\d+)", _description(path))
    return int(found[1]) if found else None


def write_kernel(path: Path, kernel: Tensor, centre: Centre = "published", scale_factor: int | None = None) -> None:
    """Write a 1×1×k×k kernel as the variable ``Kernel`` (float64) of a MATLAB file, whole or not at all.

    The same kernel makes the same file: the description that it begins with, in which SciPy puts the date, is fixed.
    It says where the kernel's centre lies and, where given, which scale factor the kernel belongs to.
    """
    content = io.BytesIO()
    scipy.io.savemat(content, {"Kernel": kernel.detach()[0, 0].cpu().double().numpy()})
    description = DESCRIPTION + (ALIGNED if centre == "aligned" else "")
    if scale_factor is not None:
        description += f", x{scale_factor}"
    with atomic_write(path) as temporary:
        temporary.write_bytes(description.encode().ljust(116) + content.getvalue()[116:])
