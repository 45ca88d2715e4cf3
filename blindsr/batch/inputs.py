"""Where a dataset's HR images, LR images and kernels lie, and how the latter two are made."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blindsr.images import is_image_name
from blindsr.paths import data_folder, shipped_dataset
from blindsr.picture_names import is_kernel_picture
from blindsr.urls import pictures_behind, url_of

__all__ = [
    "Item",
    "dataset_folder",
    "find_items",
    "input_items",
    "picture_paths",
]


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
    source: str | None = None
    """URL of the LR picture where it lies behind one; ``lr`` is then where it was fetched to, if it was."""

    def __post_init__(self) -> None:
        if self.name != _plain_name(self.name):
            raise ValueError(f"{self.lr}: its results cannot be called '{self.name}'; rename the picture")

    @property
    def shown(self) -> str:
        """The LR picture as messages and records call it."""
        return self.source or str(self.lr)


def dataset_folder(dataset: str) -> Path:
    """The folder of a dataset: ``data/datasets/<name>``, or ``dataset`` itself where that is a folder's path.

    Raises:
        FileNotFoundError: neither exists.
    """
    named = data_folder() / "datasets" / dataset
    a_path = dataset in (".", "..") or len(Path(dataset).parts) > 1
    shipped = shipped_dataset(dataset)
    for folder in (Path(dataset), named, shipped) if a_path else (named, shipped, Path(dataset)):
        if dataset and folder.is_dir():
            return folder.resolve()
    there = ", ".join(sorted(path.name for path in named.parent.glob("*") if path.is_dir())) or "none"
    raise FileNotFoundError(
        f"{named}: no such dataset (there: {there}); put its HR pictures into {named / 'HR'} and run "
        "data/prepare_dataset.py with your --model and --sf"
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
        paths = sorted(p for p in path.iterdir() if p.is_file() and is_image_name(p) and not is_kernel_picture(p))
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
    """
    folder = dataset_folder(dataset)
    lr_folder = folder / f"{model}_lr_x{scale_factor}"
    if not lr_folder.is_dir():
        raise FileNotFoundError(
            f"{lr_folder}: no such folder; make it with "
            f"'cd data && python prepare_dataset.py --model {model} --sf {scale_factor} --dataset {dataset}'"
        )
    lr_paths = picture_paths(lr_folder)
    hr_folder, kernel_folder = folder / "HR", folder / f"{model}_gt_k_x{scale_factor}"
    hr_paths = [path for path in sorted(hr_folder.glob("*")) if is_image_name(path)]
    hr_by_stem = _partners(lr_paths, hr_paths)
    kernel_by_stem = _partners(lr_paths, sorted(kernel_folder.glob("*.mat")))
    return [
        Item(
            name=_plain_name(lr.stem),
            lr=lr,
            hr=hr_by_stem.get(lr.stem, hr_folder / f"{lr.stem}.png"),
            kernel=kernel_by_stem.get(lr.stem, kernel_folder / f"{lr.stem}.mat"),
        )
        for lr in lr_paths
    ]


def _partners(lr_paths: list[Path], others: list[Path]) -> dict[str, Path]:
    """Of each LR picture's stem the file of the same stem; where no stem agrees, that of the same last number.

    DIV2KRK, for one, calls its pictures ``im_1``, ``img_1`` and its kernels ``kernel_1``.
    """
    by_stem = {path.stem: path for path in others}
    if by_stem.keys() & {lr.stem for lr in lr_paths}:
        return by_stem
    by_number = {_last_number(path): path for path in others}
    numbers = {_last_number(lr) for lr in lr_paths}
    if None in numbers or len(numbers) < len(lr_paths) or len(by_number) < len(others):
        return {}
    return {lr.stem: by_number[_last_number(lr)] for lr in lr_paths if _last_number(lr) in by_number}


def _last_number(path: Path) -> int | None:
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else None


def input_items(paths: Sequence[Path]) -> list[Item]:
    """The pictures that ``paths`` name, without any ground truth: pictures, folders, or patterns like photos/*.jpg.

    A path may be a URL, as ``Path`` makes of it.

    A picture named twice is taken once. Pictures whose names differ in their suffix alone keep it in their results'
    names, and those of one name in several folders get the folder's, so that no result replaces another.

    Raises:
        FileNotFoundError: see :func:`picture_paths`; or a pattern matches no picture.
    """
    found: list[Path] = []
    sources: dict[Path, str] = {}
    for path in paths:
        if url := url_of(path):
            behind = {Path(each): each for each in pictures_behind(url)}
            sources |= behind
            found += behind
            continue
        if path.exists() or not any(sign in str(path) for sign in "*?["):
            found += picture_paths(path)
            continue
        # Folders that exist are meant as they are, brackets in their names included.
        folder = next(parent for parent in path.parents if parent.is_dir())
        matches = sorted(folder.glob(str(path.relative_to(folder))))
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
    reserved = {f"{stem}_kernel" for stem in stems}
    items = []
    for i, picture in enumerate(pictures):
        unique = [
            names[i]
            for names, count in zip(choices, counts, strict=True)
            if count[names[i]] == 1 and names[i] not in reserved
        ]
        items.append(
            Item(name=_plain_name((unique or choices[-1][i : i + 1])[0]), lr=picture, source=sources.get(picture))
        )
    return items
