"""The photographs that benchmarks measure on."""

from pathlib import Path

from torch import Tensor

from blindsr.degradation import centre_crop
from blindsr.training.photographs import hold_out, read_photographs

__all__ = ["held_out_crops"]


def held_out_crops(folder: Path, held_out: int, count: int, side: int) -> list[Tensor]:
    """The middles, 1×3×side×side in [0, 1], of ``count`` of the ``held_out`` photographs that no training saw.

    They are spread evenly over those, by name.

    Raises:
        FileNotFoundError, ValueError: see :func:`blindsr.training.photographs.read_photographs`.
    """
    _, unseen = hold_out(read_photographs(folder, side), held_out)
    chosen = (unseen[int(index * len(unseen) / count)] for index in range(count))
    return [centre_crop(photograph, side)[None].float() / 255 for photograph in chosen]
