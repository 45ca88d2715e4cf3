"""What memory a process may take: the machine's, its containers' and its own limits."""

import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY

from blindsr import devices

MIB = 2**20
CPU = torch.device("cpu")


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_the_machine_says_what_is_available(tmp_path):
    write(tmp_path, meminfo="MemTotal:  900 kB\nMemAvailable:   300 kB\nSwapFree: 7 kB")
    assert list(devices._machine_memory(tmp_path)) == [300 * 1024]
    assert list(devices._machine_memory(tmp_path / "absent")) == []


def test_a_container_of_version_2_and_those_around_it_count(tmp_path):
    write(tmp_path / "self", cgroup="0::/outer/inner")
    groups = tmp_path / "cgroups"
    write(groups, memory__max="max", memory__current=5)
    write(groups / "outer", memory__max=100 * MIB, memory__current=80 * MIB)
    write(groups / "outer" / "inner", memory__max="max", memory__current=70 * MIB)
    assert list(devices._container_memory(tmp_path, groups)) == [20 * MIB]
    write(groups / "outer", memory__stat=f"anon 7\ninactive_file {30 * MIB}")  # a cache, given up when needed
    assert list(devices._container_memory(tmp_path, groups)) == [50 * MIB]


def test_a_container_of_version_1_that_does_not_know_its_path(tmp_path):
    write(tmp_path / "self", cgroup="5:cpu:/\n4:blkio,memory:/docker/0123\n0::/")
    groups = tmp_path / "cgroups"
    write(groups / "memory", memory__limit_in_bytes=100 * MIB, memory__usage_in_bytes=90 * MIB)
    assert list(devices._container_memory(tmp_path, groups)) == [10 * MIB]


def test_the_least_of_them_is_what_is_free(monkeypatch):
    monkeypatch.setattr(devices, "_kept_memory", lambda: 3)
    for bounds, free in (((5, 7, 9), 8), ((9, 7, 5), 8), ((9, -4, 5), 3)):
        for name, bound in zip(("_machine", "_container", "_process"), bounds, strict=True):
            monkeypatch.setattr(devices, f"{name}_memory", lambda bound=bound: iter([bound]))
        assert devices.free_memory(CPU) == free
    for name in ("_machine", "_container", "_process"):
        monkeypatch.setattr(devices, f"{name}_memory", lambda: iter([]))
    assert devices.free_memory(CPU) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the size of a process are Linux's")
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_limits_of_a_process(limit):
    """Told within a few MiB, and freed memory counts as free, even where the allocator would have kept it."""
    script = f"""
import resource, torch
from blindsr.devices import free_memory, keep_freed_memory
resource.setrlimit(resource.{limit}, (3 * 2**30, 3 * 2**30))
keep_freed_memory()
free = [free_memory(torch.device("cpu"))]
block = torch.ones(2**28)
free.append(free_memory(torch.device("cpu")))
del block
free.append(free_memory(torch.device("cpu")))
torch.ones(free[-1] // 4 - 2**22)
print(*free)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    before, meanwhile, after = (int(number) / MIB for number in done.stdout.split())
    assert 1024 < before < 3072
    assert before - meanwhile == pytest.approx(1024, abs=32)
    assert after == pytest.approx(before, abs=32)
