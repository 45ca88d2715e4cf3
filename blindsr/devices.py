"""The one place that asks what the machine has: devices, and its allocator."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

__all__ = [
    "DeviceName",
    "fetch_interval",
    "free_memory",
    "gains_from_bfloat16",
    "keep_freed_memory",
    "pick_device",
    "preferred_memory_format",
    "release_memory",
    "searches_at_once",
    "share_memory",
    "trim_memory",
]

DeviceName = Literal["auto", "cpu", "cuda", "mps"]

MOST_AT_ONCE = 32
"""Most images to search as one, far more than fill a GPU."""

_sharers = 1
"""Processes that share this machine's memory, this one included."""


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
        return (torch.cuda.mem_get_info(device)[0] + unused) // _sharers
    if device.type != "cpu":
        return None
    bounds = [*_machine_memory(), *_container_memory(), *_process_memory()]
    return (max(0, min(bounds)) + _kept_memory()) // _sharers if bounds else None


def searches_at_once(device: torch.device, needed: int) -> int:
    """How many searches, of so many bytes each, to run as one: what a GPU's memory holds, elsewhere 1."""
    free = free_memory(device)
    if device.type != "cuda" or free is None:
        return 1
    return max(1, min(MOST_AT_ONCE, int(0.8 * free) // needed))


def share_memory(processes: int) -> None:
    """Let :func:`free_memory` tell this process its part from now on, as one of so many on this machine."""
    global _sharers
    _sharers = max(1, processes)


def _machine_memory(proc: Path = Path("/proc")) -> Iterator[int]:
    """What the system would hand out without swapping."""
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _container_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What the control groups of this process, versions 1 and 2, have left, each within those around it."""
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts, limit, usage, cache = (
                [cgroups, cgroups / "unified"],
                "memory.max",
                "memory.current",
                "inactive_file",
            )
        elif "memory" in controllers.split(","):
            mounts, limit, usage = [cgroups / "memory"], "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        for mount in mounts:
            # A container may show its own group as the mount's root and yet name the path that the host sees.
            group = mount / path.lstrip("/")
            for folder in (group, *group.parents):
                if not folder.is_relative_to(mount):
                    break
                numbers = [_lines(folder / name)[:1] for name in (limit, usage)]
                if all(number and number[0].isdigit() for number in numbers):  # without a limit it says max
                    reclaimable = [
                        line.split()[1] for line in _lines(folder / "memory.stat") if line.startswith(cache)
                    ]
                    yield int(numbers[0][0]) - int(numbers[1][0]) + int((reclaimable or ["0"])[0])


def _process_memory(proc: Path = Path("/proc")) -> Iterator[int]:
    """What ``ulimit -v`` and ``ulimit -d`` leave to this process."""
    sizes = dict(line.split(":", 1) for line in _lines(proc / "self" / "status") if line.startswith("Vm"))
    for limit, size in (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")):
        most = _process_limit(limit)
        if most is not None and size in sizes:
            yield most - int(sizes[size].split()[0]) * 1024


def _process_limit(name: str) -> int | None:
    """Bytes that a limit of this process allows, or None where there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrlimit(getattr(resource, name))[0]
    return None if most == resource.RLIM_INFINITY else most


def _lines(path: Path) -> list[str]:
    """The lines of one of the system's files; none where it is missing or closed to us."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


class _HeapInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``, of which ``fordblks`` are the bytes that are free inside the heap."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def _kept_memory() -> int:
    """Bytes that the allocator has taken from the system and that nothing uses; 0 where it cannot be asked."""
    ask = _from_glibc("mallinfo2")
    if ask is None:
        return 0
    ask.restype = _HeapInfo
    return ask().fordblks


def release_memory(device: torch.device | None = None) -> None:
    """Hand back to the system all that is not needed any more: after running out of memory, or between pictures."""
    gc.collect()
    if device is not None and device.type == "cuda":
        torch.cuda.empty_cache()
    trim_memory()


def trim_memory() -> None:
    """Hand back to the system what is freed, before work on other sizes; takes milliseconds, unlike garbage."""
    trim = _from_glibc("malloc_trim")
    if trim is not None:
        trim(0)


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
    third of the time goes into the page faults. Elsewhere than on glibc this does nothing, nor where the size of the
    process is limited (``ulimit -v``): what is kept there is missing elsewhere, to compiled convolutions first.
    """
    mallopt = _from_glibc("mallopt")
    if mallopt is not None and all(_process_limit(name) is None for name in ("RLIMIT_AS", "RLIMIT_DATA")):
        trim_threshold, mmap_max = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
        mallopt(trim_threshold, -1)
        mallopt(mmap_max, 0)


def _from_glibc(name: str) -> Any:
    """A function of the C library, or None where there is no such thing."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
