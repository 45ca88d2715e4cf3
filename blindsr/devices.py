"""The one place that asks what the machine has: devices, and its allocator."""

import ctypes
import sys
from pathlib import Path
from typing import Literal

import torch

__all__ = [
    "DeviceName",
    "fetch_interval",
    "free_memory",
    "gains_from_bfloat16",
    "keep_freed_memory",
    "pick_device",
    "preferred_memory_format",
]

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
    if not available.get(name):
        raise ValueError(f"--device {name}: this machine or this build of PyTorch has none; use --device auto or cpu")
    return torch.device(name)


def free_memory(device: torch.device) -> int | None:
    """Bytes that ``device`` has left for this process, or None where nothing tells."""
    if device.type == "cuda":
        # What PyTorch has reserved and does not use counts as free as well.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return None
    entries = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(entries["MemAvailable"].split()[0]) * 1024


def fetch_interval(device: torch.device) -> int:
    """After how many iterations a loop should look at what it computed: a GPU stands still meanwhile."""
    return 1 if device.type == "cpu" else 25


def gains_from_bfloat16(device: torch.device) -> bool:
    """Whether convolutions and what goes with them are faster there in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def preferred_memory_format(device: torch.device) -> torch.memory_format:
    """The memory layout in which wide convolutions on a whole picture are fitted fastest there.

    Channels last, but for processors with AVX2 and without AVX-512: of their code for the gradient of the weights the
    one for channels last takes three to five times as long as the other (layers of 32 to 128 channels, on an EPYC).
    """
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    slow = capabilities.get("avx2") and not capabilities.get("avx512_f")
    return torch.contiguous_format if slow else torch.channels_last


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
