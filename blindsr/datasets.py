"""Where a dataset's HR images, LR images and kernels lie."""

from dataclasses import dataclass
from pathlib import Path

from blindsr.cli import REPOSITORY
from blindsr.images import is_image_name

__all__ = ["Item", "dataset_folder", "find_items", "input_items", "picture_paths"]


@dataclass(frozen=True)
class Item:
    """One LR picture and, where they are known, its HR picture and its kernel."""

    name: str
    lr: Path
    hr: Path | None = None
    kernel: Path | None = None


def dataset_folder(dataset: str) -> Path:
    """The folder of a dataset: ``data/datasets/<name>``, or ``dataset`` itself where that is a folder's path.

    Raises:
        FileNotFoundError: neither exists.
    """
    named = REPOSITORY / "data" / "datasets" / dataset
    for folder in (named, Path(dataset)):
        if dataset and folder.is_dir():
            return folder.resolve()
    raise FileNotFoundError(
        f"{named}: no such dataset; put its HR pictures into {named / 'HR'} and run data/prepare_dataset.py"
    )


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
    """
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
            name=lr.stem,
            lr=lr,
            hr=hr_paths.get(lr.stem, folder / "HR" / f"{lr.stem}.png"),
            kernel=kernels / f"{lr.stem}.mat",
        )
        for lr in lr_paths
    ]


def input_items(path: Path) -> list[Item]:
    """The pictures of a folder, or one picture, without any ground truth.

    Raises:
        FileNotFoundError: see :func:`picture_paths`.
    """
    return [Item(name=lr.stem, lr=lr) for lr in picture_paths(path)]
