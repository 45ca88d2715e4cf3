"""Making the LR pictures and kernels of a dataset from its HR pictures."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from blindsr.batch.inputs import picture_paths
from blindsr.degradation import degrade, modcrop
from blindsr.images import read_image, to_uint8, write_image
from blindsr.kernel_files import read_kernel, write_kernel

__all__ = ["DrawKernel", "Example", "examples", "prepare"]

DrawKernel = Callable[[np.random.RandomState], Tensor]
"""Draws a test kernel, 1×1×k×k float64, from NumPy's legacy generator."""


def prepare(
    folder: Path,
    model: str,
    scale_factor: int,
    draw_kernel: DrawKernel,
    *,
    image_noise: float = 0.0,
    seed: int = 1,
    overwrite: bool = False,
) -> Iterator[tuple[Path, str | None]]:
    """Make the LR pictures and kernels of a dataset from ``folder/HR``, in the published order of draws.

    The published test sets come out pixel for pixel. LR values are clipped and *truncated* to 8 bits, as there.

    Args:
        folder: holds ``HR``; ``<model>_lr_x<s>`` and ``<model>_gt_k_x<s>`` are made beside it.
        model: what the two folders are called after.
        draw_kernel: draws each picture's kernel.
        image_noise: largest σ of the noise on the LR image, in image range; each picture's σ is uniform below it.
        seed: of NumPy's legacy generator (published: 1).
        overwrite: whether to replace what is there and differs, and remove what has no HR picture.

    Yields:
        The HR picture's path, and None or, in one line, why there is no LR picture of it.

    Raises:
        FileNotFoundError: ``folder/HR`` is missing or empty.
        ValueError: two HR pictures of one name; or, unless
            ``overwrite``, an LR picture or a kernel is there that differs (an HR picture more or less changes the
            draws of all after it).
    """
    if not 0 <= image_noise <= 1:
        raise ValueError(f"--noise-im {image_noise}: must lie between 0 and 1, the range of the image")
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed {seed}: must lie between 0 and 2^32 − 1")
    if not (folder / "HR").is_dir():
        raise FileNotFoundError(f"{folder / 'HR'}: no such folder; put the dataset's HR pictures into it")
    paths = picture_paths(folder / "HR")
    twice = [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]
    if twice:
        raise ValueError(f"{folder / 'HR'}: several pictures are called '{twice[0]}'; rename all but one")
    places = _Places(*(folder / f"{model}_{what}_x{scale_factor}" for what in ("lr", "gt_k")))
    _remove_stale(places, {path.stem for path in paths}, overwrite)
    draw = partial(examples, paths, scale_factor, draw_kernel, image_noise, seed)
    if not overwrite and (
        places.lrs.exists() or places.kernels.exists()
    ):  # all is compared before anything is written
        for path, example in draw():
            if isinstance(example, Example):
                # The arithmetic differs in the last bit between machines; truncation can make a level of it.
                _require_alike(places.lr(path), lambda file: to_uint8(read_image(file)), example.pixels, 1)
                _require_alike(places.kernel(path), lambda file: read_kernel(file).numpy(), example.kernel, 1e-9)
    for path, example in draw():
        if isinstance(example, str):
            yield path, example
            continue
        try:
            if overwrite or not places.kernel(path).exists():
                write_kernel(places.kernel(path), example.kernel, scale_factor=scale_factor)
            if overwrite or not places.lr(path).exists():
                write_image(places.lr(path), example.pixels)
            yield path, None
        except OSError as error:
            yield path, f"{path}: {error}"


class Example(NamedTuple):
    """What is made of one HR picture."""

    pixels: npt.NDArray[np.uint8]
    """h×w×3, the LR picture."""
    kernel: Tensor
    """1×1×k×k float64, sum 1."""
    sigma: float
    """Standard deviation of the noise that was added to the LR picture, in image range."""


class _Places(NamedTuple):
    """The folders of the LR pictures and of the kernels."""

    lrs: Path
    kernels: Path

    def lr(self, path: Path) -> Path:
        return self.lrs / f"{path.stem}.png"

    def kernel(self, path: Path) -> Path:
        return self.kernels / f"{path.stem}.mat"


def _remove_stale(places: _Places, stems: set[str], overwrite: bool) -> None:
    """Remove what has no HR picture, or refuse to go on."""
    stale = [path for path in (*places.lrs.glob("*.png"), *places.kernels.glob("*.mat")) if path.stem not in stems]
    if stale and not overwrite:
        raise ValueError(f"{stale[0]}: has no HR picture any more; replace the set with --overwrite")
    for path in stale:
        path.unlink()


def examples(
    paths: list[Path], scale_factor: int, draw_kernel: DrawKernel, image_noise: float = 0.0, seed: int = 1
) -> Iterator[tuple[Path, Example | str]]:
    """What :func:`prepare` makes of HR pictures, or why there is nothing; arguments as there."""
    rng = np.random.RandomState(seed)
    for path in paths:
        try:
            kernel = draw_kernel(rng)
            hr = modcrop(read_image(path), scale_factor)
            lr = degrade(hr, kernel.float(), scale_factor)[0].permute(1, 2, 0).numpy()
            # Drawn even at level 0: the next picture's kernel depends on it.
            sigma = rng.uniform(0, image_noise)
            lr += rng.normal(0, sigma, lr.shape)
            yield path, Example((np.clip(lr, 0, 1) * 255).astype(np.uint8), kernel, sigma)
        except (ValueError, OSError) as error:
            message = str(error) if str(path) in str(error) else f"{path}: {error}"
            yield path, f"{message} (its draws are missing: later pictures get other kernels than the published)"


def _require_alike(
    path: Path, read: Callable[[Path], npt.NDArray], value: npt.NDArray | Tensor, tolerance: float
) -> None:
    """Raise ValueError where ``path`` exists and holds something else than ``value``."""
    if not path.exists():
        return
    expected = np.asarray(value, dtype=np.float64)
    try:
        found = read(path).astype(np.float64)
    except (ValueError, OSError):
        found = np.empty(0)
    if found.shape != expected.shape or np.abs(found - expected).max() > tolerance:
        raise ValueError(
            f"{path}: differs from what these options and HR pictures make (a picture more or less changes the draws "
            "of all after it); nothing was written; replace the set with --overwrite"
        )
