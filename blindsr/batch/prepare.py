"""Making the LR pictures and kernels of a dataset from its HR pictures."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from blindsr.batch.inputs import picture_paths
from blindsr.degradation import degrade, modcrop
from blindsr.images import read_image, to_uint8, write_image
from blindsr.kernel_files import read_kernel, write_kernel

__all__ = ["DrawKernel", "prepare"]

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
    paths = picture_paths(folder / "HR")
    twice = [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]
    if twice:
        raise ValueError(f"{folder / 'HR'}: several pictures are called '{twice[0]}'; rename all but one")

    def examples() -> Iterator[tuple[Path, tuple[npt.NDArray[np.uint8], Tensor] | str]]:
        """Of each HR picture the LR pixels and the kernel, or why there are none."""
        rng = np.random.RandomState(seed)
        for path in paths:
            try:
                kernel = draw_kernel(rng)
                hr = modcrop(read_image(path), scale_factor)
                lr = degrade(hr, kernel.float(), scale_factor)[0].permute(1, 2, 0).numpy()
                # Drawn even at level 0: the next picture's kernel depends on it.
                lr += rng.normal(0, rng.uniform(0, image_noise), lr.shape)
                yield path, ((np.clip(lr, 0, 1) * 255).astype(np.uint8), kernel)
            except (ValueError, OSError) as error:
                message = str(error) if str(path) in str(error) else f"{path}: {error}"
                yield path, f"{message} (its draws are missing: later pictures get other kernels than the published)"

    kernels, lrs = (folder / f"{model}_{what}_x{scale_factor}" for what in ("gt_k", "lr"))
    stems = {path.stem for path in paths}
    stale = [path for path in (*lrs.glob("*.png"), *kernels.glob("*.mat")) if path.stem not in stems]
    if stale and not overwrite:
        raise ValueError(f"{stale[0]}: has no HR picture any more; replace the set with --overwrite")
    for path in stale:
        path.unlink()
    if not overwrite and (kernels.exists() or lrs.exists()):  # all is compared before anything is written
        for path, example in examples():
            if not isinstance(example, str):
                pixels, kernel = example
                # The arithmetic differs in the last bit between machines; truncation can make a level of it.
                _require_alike(lrs / f"{path.stem}.png", lambda file: to_uint8(read_image(file)), pixels, 1)
                _require_alike(kernels / f"{path.stem}.mat", lambda file: read_kernel(file).numpy(), kernel, 1e-9)
    for path, example in examples():
        if isinstance(example, str):
            yield path, example
            continue
        pixels, kernel = example
        kernel_path, lr_path = kernels / f"{path.stem}.mat", lrs / f"{path.stem}.png"
        try:
            if overwrite or not kernel_path.exists():
                write_kernel(kernel_path, kernel)
            if overwrite or not lr_path.exists():
                write_image(lr_path, pixels)
            yield path, None
        except OSError as error:
            yield path, f"{path}: {error}"


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
