"""Picking the device: the one place that asks what the machine has."""

from typing import Literal

import torch

__all__ = ["DeviceName", "pick_device"]

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def pick_device(name: DeviceName = "auto") -> torch.device:
    """The device called ``name``; "auto" is CUDA where there is one, else Apple's MPS, else the CPU.

    Raises:
        ValueError: the machine, or this build of PyTorch, has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available[name]:
        raise ValueError(f"--device {name}: this machine or this build of PyTorch has none; use --device auto or cpu")
    return torch.device(name)
