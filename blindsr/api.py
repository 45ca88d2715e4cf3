"""Blind super-resolution of one image in memory, in one call."""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blindsr.devices import DeviceName, pick_device
from blindsr.estimation import Estimate, Estimator, OnStep
from blindsr.kernels import as_kernel, normalize

__all__ = ["super_resolve"]

Image = TypeVar("Image", Tensor, npt.NDArray[Any])


def super_resolve(
    image: Image,
    scale_factor: int,
    *,
    kernel: Tensor | npt.NDArray[Any] | None = None,
    estimator: Estimator | None = None,
    sigma: float = 0.0,
    seed: int = 0,
    device: DeviceName = "auto",
    on_step: OnStep | None = None,
) -> tuple[Image, Estimate]:
    """Find the kernel that blurred an image, and super-resolve the image with it.

    >>> sr, estimate = super_resolve(np.zeros((24, 32, 3), np.uint8), 2, kernel=np.full((3, 3), 1 / 9))
    >>> sr.shape, sr.dtype
    ((48, 64, 3), dtype('uint8'))

    Args:
        image: RGB; an array h×w×3 (uint8, uint16, or floating in [0, 1]) or a floating tensor 3×h×w or 1×3×h×w in
            [0, 1].
        scale_factor: s, one of 2, 3, 4, 8.
        kernel: k×k or 1×1×k×k where it is known, in the project's convention (:mod:`blindsr.kernels`); nothing is
            estimated then.
        estimator: any function of :class:`blindsr.estimation.Estimator`'s form; without it, DIP-FKP's default preset.
        sigma: noise level of the image, relative to its range; 10/255 suits photographs.
        seed: of every random number.
        on_step: called with (iterations done, iterations in all, loss).

    Returns:
        The image at s times the size, of the kind, number type and range of ``image``, and the estimate.

    Raises:
        ValueError: ``image``, ``kernel`` or ``scale_factor`` is none of these, or the image is too small.
    """
    # The only arrow from here to the subprojects; inside the call, so that importing blindsr loads none of them.
    from DIPFKP.estimator import pretrained_estimator
    from NonblindSR.tiling import pretrained_nonblind

    if not 0 <= sigma <= 1:
        raise ValueError(f"sigma {sigma}: must lie between 0 and 1; 10 grey levels are 10/255")
    where = pick_device(device)
    lr = _to_tensor(image).to(where)
    if kernel is not None:
        estimate = Estimate(normalize(as_kernel(kernel)).float(), None, losses=[], seconds=0.0, seed=seed)
    else:
        estimator = estimator or pretrained_estimator(scale_factor, where)
        estimate = estimator(lr, scale_factor, seed=seed, on_step=on_step)
    nonblind = pretrained_nonblind(None, where, tile=None)
    sr = nonblind(lr, estimate.kernel.to(where), scale_factor, sigma)
    return _like(sr.clamp(0, 1), image), estimate


def _to_tensor(image: Tensor | npt.NDArray[Any]) -> Tensor:
    """1×3×h×w float32 in [0, 1]."""
    if not isinstance(image, Tensor | np.ndarray):
        raise ValueError(f"an image of type {type(image).__name__}: pass an array or a tensor")
    if isinstance(image, Tensor):
        tensor = image if image.is_floating_point() else torch.empty(0)
        tensor = tensor[None] if tensor.ndim == 3 else tensor
    elif image.ndim == 3 and (image.dtype in (np.uint8, np.uint16) or image.dtype.kind == "f"):
        scaled = image / np.iinfo(image.dtype).max if image.dtype.kind == "u" else image
        tensor = torch.from_numpy(scaled.transpose(2, 0, 1)[None].astype(np.float32))
    else:
        tensor = torch.empty(0)
    if tensor.ndim != 4 or tensor.shape[:2] != (1, 3):
        raise ValueError(
            f"an image of shape {tuple(image.shape)} and type {image.dtype}: pass an h×w×3 array (uint8, uint16 or "
            "floating) or a floating tensor, 3×h×w or 1×3×h×w"
        )
    if not (tensor.min() >= 0 and tensor.max() <= 1):
        raise ValueError("a floating image must hold values between 0 and 1")
    return tensor.detach().float()


def _like(sr: Tensor, image: Image) -> Image:
    """``sr``, 1×3×H×W in [0, 1], as the kind of thing that ``image`` is."""
    if isinstance(image, Tensor):
        return (sr[0] if image.ndim == 3 else sr).to(image)
    array = sr[0].permute(1, 2, 0).cpu().numpy()
    if image.dtype.kind == "u":
        array = np.rint(array * np.iinfo(image.dtype).max)
    return array.astype(image.dtype)
