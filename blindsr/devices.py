"""The one place that asks what the machine has: devices, and its allocator."""

import ctypes
import sys
from typing import Literal

import torch

__all__ = ["DeviceName", "keep_freed_memory", "pick_device"]

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


def keep_freed_memory() -> None:
    """Let the process reuse what it frees instead of handing it back to the system at once; for commands.

    Every iteration of a fit frees and takes the same large tensors. By default glibc maps each anew, and on the CPU a
    third of the time goes into the page faults. Elsewhere than on glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
        mallopt(trim_threshold, -1)
        mallopt(mmap_max, 0)
