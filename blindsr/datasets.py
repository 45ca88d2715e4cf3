"""Where a dataset's HR images, LR images and kernels lie, and how the latter two are made."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from blindsr.degradation import degrade, modcrop
from blindsr.images import is_image_name, read_image, read_kernel, to_uint8, write_image, write_kernel
from blindsr.kernels import centre, kernel_side, kernel_x4_from_x2, random_kernels_numpy, variance_range
from blindsr.paths import DATA

__all__ = [
    "DataModel",
    "Item",
    "dataset_folder",
    "draw_test_kernel",
    "find_items",
    "input_items",
    "picture_paths",
    "prepare",
]

DataModel = Literal["DIPFKP", "KernelGANFKP"]
"""Whose test kernels: they differ in size and range (KernelGAN's x4 kernels follow from x2 ones)."""


@dataclass(frozen=True)
class Item:
    """One LR picture and, where they are known, its HR picture and its kernel.

    Raises:
        ValueError: results called ``name`` would not stay in their folder, or would be hidden.
    """

    name: str
    lr: Path
    hr: Path | None = None
    kernel: Path | None = None

    def __post_init__(self) -> None:
        if self.name != _plain_name(self.name):
            raise ValueError(f"{self.lr}: its results cannot be called '{self.name}'; rename the picture")


def dataset_folder(dataset: str) -> Path:
    """The folder of a dataset: ``data/datasets/<name>``, or ``dataset`` itself where that is a folder's path.

    Raises:
        FileNotFoundError: neither exists.
    """
    named = DATA / "datasets" / dataset
    a_path = dataset in (".", "..") or len(Path(dataset).parts) > 1
    for folder in (Path(dataset), named) if a_path else (named, Path(dataset)):
        if dataset and folder.is_dir():
            return folder.resolve()
    raise FileNotFoundError(
        f"{named}: no such dataset; put its HR pictures into {named / 'HR'} and run data/prepare_dataset.py "
        "with your --model and --sf"
    )


def _plain_name(stem: str) -> str:
    """``stem`` as the name of a file that stays in its folder, is not hidden, and can be printed on one line."""
    name = "".join("_" if c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") else c for c in stem)
    return f"_{name}" if not name or name.startswith(".") else name


def picture_paths(path: Path) -> list[Path]:
    """The pictures of a folder in sorted order, or the one picture that ``path`` names.

    Raises:
        FileNotFoundError: the path does not exist, or the folder holds no picture.
    """
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.is_file() and is_image_name(p))
        if not paths:
            raise FileNotFoundError(f"{path}: no pictures in this folder")
        return paths
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such picture or folder")
    return [path]


def find_items(dataset: str, model: str, scale_factor: int) -> list[Item]:
    """The LR pictures that ``prepare_dataset.py`` made for ``model``, with their HR pictures and kernels.

    A picture whose HR picture or kernel is missing is still listed, with the path where it should be: reading it
    then fails for that picture alone.

    Raises:
        FileNotFoundError: there is no such dataset, or it was not prepared for this model and scale.
        ValueError: KernelGANFKP at another scale than 2 and 4.
    """
    _require_scale(model, scale_factor)
    folder = dataset_folder(dataset)
    lr_folder = folder / f"{model}_lr_x{scale_factor}"
    if not lr_folder.is_dir():
        raise FileNotFoundError(
            f"{lr_folder}: no such folder; make it with "
            f"'cd data && python prepare_dataset.py --model {model} --sf {scale_factor} --dataset {dataset}'"
        )
    lr_paths = picture_paths(lr_folder)
    hr_paths = {path.stem: path for path in (folder / "HR").glob("*") if is_image_name(path)}
    kernels = folder / f"{model}_gt_k_x{scale_factor}"
    return [
        Item(
            name=_plain_name(lr.stem),
            lr=lr,
            hr=hr_paths.get(lr.stem, folder / "HR" / f"{lr.stem}.png"),
            kernel=kernels / f"{lr.stem}.mat",
        )
        for lr in lr_paths
    ]


def _require_scale(model: str, scale_factor: int) -> None:
    if model == "KernelGANFKP" and scale_factor not in (2, 4):
        raise ValueError(
            f"--sf {scale_factor}: KernelGANFKP exists for 2 and, by the analytic x2 → x4 kernel, for 4 only"
        )


def input_items(paths: Sequence[Path]) -> list[Item]:
    """The pictures that ``paths`` name, without any ground truth: pictures, folders, or patterns like photos/*.jpg.

    A picture named twice is taken once. Pictures whose names differ in their suffix alone keep it in their results'
    names, and those of one name in several folders get the folder's, so that no result replaces another.

    Raises:
        FileNotFoundError: see :func:`picture_paths`; or a pattern matches no picture.
    """
    found: list[Path] = []
    for path in paths:
        if path.exists() or not any(sign in str(path) for sign in "*?["):
            found += picture_paths(path)
            continue
        matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        matches = [match for match in matches if match.is_file() and is_image_name(match)]
        if not matches:
            raise FileNotFoundError(f"{path}: no picture matches this pattern")
        found += matches
    unique_paths: dict[Path, Path] = {}
    for picture in found:
        unique_paths.setdefault(picture.parent.resolve() / picture.name, picture)
    pictures = list(unique_paths.values())
    folders = [picture.resolve().parent.name for picture in pictures]
    stems = [picture.stem for picture in pictures]
    suffixed = [picture.name.replace(".", "_") for picture in pictures]
    choices = [stems, suffixed]
    choices += [[f"{folder}_{name}" for folder, name in zip(folders, names, strict=True)] for names in choices]
    counts = [Counter(names) for names in choices]
    # The pictures that results of the others are called, and that lie beside those of an earlier run.
    reserved = {f"{stem}{ending}" for stem in stems for ending in ("_kernel", "_search")}
    items = []
    for i, picture in enumerate(pictures):
        unique = [
            names[i]
            for names, count in zip(choices, counts, strict=True)
            if count[names[i]] == 1 and names[i] not in reserved
        ]
        items.append(Item(name=_plain_name((unique or choices[-1][i : i + 1])[0]), lr=picture))
    return items


def prepare(
    folder: Path,
    model: DataModel,
    scale_factor: int,
    *,
    kernel_noise: float = 0.0,
    image_noise: float = 0.0,
    seed: int = 1,
    overwrite: bool = False,
) -> Iterator[tuple[Path, str | None]]:
    """Make the LR pictures and kernels of a dataset from ``folder/HR``, in the published order of draws.

    The published test sets come out pixel for pixel. LR values are clipped and *truncated* to 8 bits, as there.

    Args:
        folder: holds ``HR``; ``<model>_lr_x<s>`` and ``<model>_gt_k_x<s>`` are made beside it.
        kernel_noise: level of the multiplicative noise on the kernel, 0 to 1.
        image_noise: largest σ of the noise on the LR image, in image range; each picture's σ is uniform below it.
        seed: of NumPy's legacy generator (published: 1).
        overwrite: whether to replace what is there and differs, and remove what has no HR picture.

    Yields:
        The HR picture's path, and None or, in one line, why there is no LR picture of it.

    Raises:
        FileNotFoundError: ``folder/HR`` is missing or empty.
        ValueError: KernelGANFKP at another scale than 2 and 4; two HR pictures of one name; or, unless
            ``overwrite``, an LR picture or a kernel is there that differs (an HR picture more or less changes the
            draws of all after it).
    """
    _require_scale(model, scale_factor)
    if not 0 <= kernel_noise <= 1:
        raise ValueError(f"--noise-ker {kernel_noise}: must lie between 0 and 1")
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
                kernel = draw_test_kernel(rng, model, scale_factor, kernel_noise)
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


def draw_test_kernel(rng: np.random.RandomState, model: DataModel, scale_factor: int, noise: float = 0.0) -> Tensor:
    """Draw the kernel of one test picture: DIPFKP's of this scale, or KernelGANFKP's of x2 or the x4 one it implies.

    Args:
        noise: level of the multiplicative noise on the kernel, 0 to 1.

    Returns:
        1×1×k×k float64.
    """
    if model == "DIPFKP":
        side, variances = kernel_side(scale_factor), variance_range(scale_factor)
        return random_kernels_numpy(rng, scale_factor, side, variances, noise)
    kernel = random_kernels_numpy(rng, 2, 11, (0.35, 5.0), noise)
    return kernel if scale_factor == 2 else centre(kernel_x4_from_x2(kernel), 4)
