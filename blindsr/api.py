"""Blind super-resolution of one image in memory, in one call."""

from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
import torch.nn.functional as F
from PIL import ImageOps
from torch import Tensor

from blindsr.devices import DeviceName, pick_device
from blindsr.doubts import doubts, is_left_alone
from blindsr.estimation import Estimate, Estimator, OnStep, place
from blindsr.kernels import SCALE_FACTORS, as_kernel, locate, normalize
from blindsr.restoration import Padding, enlarge, restore

__all__ = ["super_resolve"]

Image = TypeVar("Image", Tensor, npt.NDArray[Any], PIL.Image.Image)


def super_resolve(
    image: Image,
    scale_factor: int,
    *,
    kernel: Tensor | npt.NDArray[Any] | None = None,
    estimator: Estimator | None = None,
    sigma: float | Literal["auto"] = "auto",
    prepared: bool = False,
    periodic: bool = False,
    local: bool = False,
    seed: int = 0,
    device: DeviceName = "auto",
    float32: bool = False,
    on_step: OnStep | None = None,
) -> tuple[Image, Estimate]:
    """Find the kernel that blurred an image, and super-resolve the image with it.

    >>> sr, estimate = super_resolve(np.zeros((24, 32, 3), np.uint8), 2, kernel=np.full((3, 3), 1 / 9))
    >>> sr.shape, sr.dtype
    ((48, 64, 3), dtype('uint8'))

    Args:
        image: an array h×w or h×w×C (uint8, uint16, or floating in [0, 1]) or a floating tensor C×h×w or 1×C×h×w
            in [0, 1]; C is 1 (grey) or 3 (RGB), one more with alpha, which is resized. Or a Pillow image, which is
            turned upright as its EXIF data says.
        scale_factor: s, one of 2, 3, 4, 8; 1 deblurs the image at its own size.
        kernel: k×k or 1×1×k×k where it is known, applied by cross-correlation; nothing is estimated then. Where its
            centre lies is seen (:func:`blindsr.kernels.locate`).
        estimator: any function of :class:`blindsr.estimation.Estimator`'s form; without it, DIP-FKP's search.
        sigma: noise level of the image, relative to its range; "auto" reads it off the image (0 with ``prepared``).
        prepared: the image is laboratory data (``prepare_dataset.py``), not a photograph: displaced as the published
            ones are, with a periodic boundary.
        periodic: the image is a texture that tiles, and so does the result.
        local: the blur may vary over the photograph: read it everywhere, and undo it place by place. Where it does
            not vary enough to be told, this changes nothing; otherwise the estimate has a ``kernel_field``.
        seed: of every random number.
        float32: all of USRNet in float32; without it, devices that gain from bfloat16 take that inside.
        on_step: called with (iterations done, iterations in all, loss) by estimators that iterate, and then with
            (steps done, steps in all, None) by USRNet.

    Returns:
        The image at s times the size, of the kind, number type and range of ``image``, and the estimate, whose kernel
        is aligned unless ``prepared`` and whose ``notes`` say what speaks against the result.

    Raises:
        ValueError: ``image``, ``kernel``, ``scale_factor`` or another argument is none of these, or the image is too
            small.
    """
    # This and _default_estimator are the only arrow from here to the subprojects; inside the calls, so that importing
    # blindsr loads none of them.
    from NonblindSR.weights import LARGEST_SIGMA, choose_nonblind, shipped_weights

    _require_arguments(scale_factor, seed)
    _require_one_way(kernel, estimator)
    _require_sigma(sigma, LARGEST_SIGMA[shipped_weights(not prepared, scale_factor).name])
    if local and (prepared or periodic or kernel is not None):
        raise ValueError("local: prepared data, textures that tile and known kernels have one kernel; leave it out")
    scale_factor = int(scale_factor)
    where = pick_device(device)
    planes = _to_planes(image).to(where)
    # Of grey three equal channels, as estimators and USRNet expect.
    lr = planes[None, : 1 if _is_grey(planes) else 3].expand(1, 3, -1, -1)
    # Of a photograph none given is read off it; prepared data have none.
    told = None if isinstance(sigma, str) else 255 * sigma
    step = choose_nonblind(not prepared, scale_factor, told, where, float32=float32)
    if kernel is not None:
        known, aligned = locate(normalize(as_kernel(kernel)), scale_factor)
        estimate = Estimate(known.float(), None, losses=[], seconds=0.0, seed=seed, aligned=aligned)
    else:
        estimator = estimator or _default_estimator(scale_factor, prepared, where)
        if local:
            estimator = _local(estimator, scale_factor, where)
        estimate = estimator(lr, scale_factor, seed=seed, on_step=on_step)
    found = place(estimate, scale_factor, photograph=not prepared)
    noise = step.sigma(lr, found.sigma) if callable(step.sigma) else step.sigma
    read = 255 * noise if callable(step.sigma) else None
    notes = doubts(found, not prepared, read, own_size=scale_factor == 1) + found.notes
    padding: Padding = "circular" if periodic else "none" if prepared else "reflect"
    if is_left_alone(found, not prepared, read):
        sr = enlarge(lr, scale_factor)[0]
    else:
        sr = restore(step.network, lr, found.blur, scale_factor, noise, padding, on_step)[0]
    return _like(_as_planes(sr, planes, scale_factor).clamp(0, 1), image), replace(found, notes=notes)


def _is_grey(planes: Tensor) -> bool:
    return len(planes) < 3


def _as_planes(sr: Tensor, planes: Tensor, scale_factor: int) -> Tensor:
    """A 3×(s·h)×(s·w) result with the channels of ``planes``: grey again, and with their alpha, resized."""
    if _is_grey(planes):
        sr = sr.mean(dim=0, keepdim=True)
    if len(planes) % 2 == 0:
        alpha = F.interpolate(planes[None, -1:], scale_factor=scale_factor, mode="bicubic")[0]
        sr = torch.cat([sr, alpha.to(sr.device)])
    return sr


def _default_estimator(scale_factor: int, prepared: bool, device: torch.device) -> Estimator:
    """DIP-FKP's search with the shipped weights."""
    from DIPFKP.estimator import preset, pretrained_estimator
    from KernelPredictor.predictor import predictor_path

    weights = predictor_path(not prepared, scale_factor)
    return pretrained_estimator(scale_factor, device, replace(preset(), circular=prepared), path_predictor=weights)


def _local(estimator: Estimator, scale_factor: int, device: torch.device) -> Estimator:
    """``estimator``, after a look at how the blur varies over a photograph."""
    from KernelPredictor.field import LocalEstimator
    from KernelPredictor.predictor import KernelPredictor, predictor_path

    paths = (predictor_path(True, each) for each in (scale_factor, 1))
    return LocalEstimator(estimator, *(KernelPredictor.from_pretrained(path).to(device) for path in paths))


def _require_arguments(scale_factor: int, seed: int) -> None:
    if scale_factor not in SCALE_FACTORS:
        raise ValueError(f"scale factor {scale_factor!r}: must be one of {', '.join(map(str, SCALE_FACTORS))}")
    if not (isinstance(seed, int | np.integer) and 0 <= seed < 2**63):
        raise ValueError(f"seed {seed!r}: must be a whole number between 0 and 2^63 − 1")


def _require_one_way(kernel: object, estimator: object) -> None:
    if kernel is not None and estimator is not None:
        raise ValueError("kernel and estimator: a known kernel needs no estimator; leave one out")
    if kernel is not None and not isinstance(kernel, Tensor | np.ndarray):
        raise ValueError(
            f"a kernel of type {type(kernel).__name__}: pass an array or a tensor, as "
            "blindsr.kernel_files.read_kernel reads it from a file"
        )
    if not (estimator is None or callable(estimator)):
        raise ValueError(
            f"estimator {estimator!r}: pass a function, as DIPFKP.estimator.pretrained_estimator returns it"
        )


def _require_sigma(sigma: object, largest: float) -> None:
    """Raise ValueError unless it is a noise level of at most ``largest`` grey levels of 255, or "auto"."""
    if not (sigma == "auto" or (isinstance(sigma, float | int | np.number) and 0 <= 255 * sigma <= largest)):
        shown = f"{sigma:.4g}" if isinstance(sigma, float) else repr(sigma)
        raise ValueError(
            f"sigma {shown}: must be 'auto', or relative to the image's range, from 0 to {largest:g} / 255; "
            "a noise level of 10 grey levels is 10 / 255"
        )


def _pixels(image: PIL.Image.Image) -> npt.NDArray[Any]:
    """h×w or h×w×C, upright."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("1", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
        colours = "L" if upright.mode == "1" else "RGB"
        upright = upright.convert(colours + "A" if upright.has_transparency_data else colours)
    return np.asarray(upright)


def _to_planes(image: object) -> Tensor:
    """C×h×w float32 in [0, 1] with 1 to 4 channels."""
    if isinstance(image, PIL.Image.Image):
        image = _pixels(image)
    if not isinstance(image, Tensor | np.ndarray):
        raise ValueError(
            f"an image of type {type(image).__name__}: pass an array, a tensor or a Pillow image, as PIL.Image.open "
            "reads it from a file"
        )
    if isinstance(image, Tensor):
        planes = image[0] if image.ndim == 4 and len(image) == 1 else image
        known = planes.is_floating_point()
    else:
        scaled = image / np.iinfo(image.dtype).max if image.dtype.kind == "u" else image
        planes = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(scaled), dtype=np.float32)).movedim(-1, 0)
        known = image.dtype in (np.uint8, np.uint16) or image.dtype.kind == "f"
    if not known or planes.ndim != 3 or len(planes) not in (1, 2, 3, 4) or planes.numel() == 0:
        raise ValueError(
            f"an image of shape {tuple(image.shape)} and type {image.dtype}: pass an array h×w or h×w×C (uint8, "
            f"uint16 or floating) or a floating tensor C×h×w or 1×C×h×w, where C is 1 to 4{_way_out(image)}"
        )
    if not torch.isfinite(planes).all():
        raise ValueError("an image with values that are no numbers (NaN or infinite): replace them first")
    low, high = float(planes.min()), float(planes.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"a floating image must hold values between 0 and 1, not {low:g} to {high:g}; divide it by its range, "
            "which is 255 for 8 bits"
        )
    return planes.detach().float()


def _way_out(image: Tensor | npt.NDArray[Any]) -> str:
    """What makes an image that is not taken one that is, where that can be told."""
    channels = (1, 2, 3, 4)
    if image.ndim == 4:
        return "; one image at a time: image[0]"
    if isinstance(image, Tensor):
        if image.ndim == 3 and len(image) not in channels and image.shape[2] in channels:
            return "; channels come first in a tensor: image.permute(2, 0, 1)"
        return "" if image.is_floating_point() else "; make it floating: image / 255"
    if image.ndim == 3 and len(image) in channels and image.shape[2] not in channels:
        return "; channels come last in an array: np.moveaxis(image, 0, -1)"
    ways = {
        "i": "; make 8 bits of it: image.clip(0, 255).astype(np.uint8)",
        "b": "; make it floating: image.astype(float)",
    }
    return ways.get(image.dtype.kind, "")


def _like(sr: Tensor, image: Image) -> Image:
    """``sr``, C×H×W in [0, 1], as the kind of thing that ``image`` is."""
    if isinstance(image, PIL.Image.Image):
        return PIL.Image.fromarray(_like(sr, _pixels(image)))
    if isinstance(image, Tensor):
        return (sr if image.ndim == 3 else sr[None]).to(image)
    array = sr.movedim(0, -1).cpu().numpy()
    if image.dtype.kind == "u":
        array = np.rint(array * np.iinfo(image.dtype).max)
    return array.reshape(*array.shape[:2], *image.shape[2:]).astype(image.dtype)
