"""Photographs to train on: read from a folder, some held out for validation."""

import logging
from pathlib import Path

import torch
from torch import Tensor

from blindsr.images import is_image_name, read_image, to_uint8

__all__ = ["hold_out", "read_photographs"]

logger = logging.getLogger(__name__)


def read_photographs(folder: Path, side: int) -> list[Tensor]:
    """Read the pictures of a folder (and its subfolders) as C×H×W uint8, leaving out those smaller than ``side``.

    Raises:
        FileNotFoundError: the folder does not exist or holds no picture that is large enough.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name one with photographs to train on")
    paths = sorted(path for path in folder.rglob("*") if is_image_name(path))
    images = []
    for path in paths:
        try:
            image = torch.from_numpy(to_uint8(read_image(path)).transpose(2, 0, 1).copy())
        except ValueError as error:
            logger.warning("left out: %s", error)
            continue
        if min(image.shape[1:]) >= side:
            images.append(image)
    if not images:
        raise FileNotFoundError(f"{folder}: holds no picture of at least {side}×{side} pixels")
    return images


def hold_out(images: list[Tensor], count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Split off the last ``count`` pictures for validation.

    Raises:
        ValueError: none would be left to train on.
    """
    if len(images) <= count:
        raise ValueError(f"{len(images)} pictures, of which {count} are held out: use more, or a smaller --held-out")
    return images[:-count], images[-count:]
