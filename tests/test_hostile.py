"""Damaged files: every one is read or refused in one line that names it; none crashes, hangs or runs code.

``BLINDSR_DAMAGED_FILES=10200 python -m pytest tests/test_hostile.py`` tries as many; without it, 1200. Other damage,
and each input in another process, is what ``benchmarks/hostile.py`` tries.
"""

import faulthandler
import os
import resource
import signal
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindsr import images
from blindsr.checkpoints import load_checkpoint
from blindsr.images import read_image
from blindsr.kernel_files import read_kernel

sys.path.append(str(REPOSITORY / "benchmarks"))
import hostile

FILES = settings(
    max_examples=int(os.environ.get("BLINDSR_DAMAGED_FILES", "1200")) // 3,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def bounded(monkeypatch):
    """At most 4 GiB more than now; whoever computes for 5 seconds ends the process, with a traceback."""
    monkeypatch.setattr(images, "MAX_PIXELS", 2**24)  # the largest pictures that are allowed may take longer
    faulthandler.register(signal.SIGPROF, chain=True)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 4 * 2**30, before[1]))
    yield
    faulthandler.unregister(signal.SIGPROF)
    resource.setrlimit(resource.RLIMIT_AS, before)


@st.composite
def damaged(draw, originals: list[bytes]):
    """A file with bytes changed, cut out, repeated or cut off; now and then anything at all."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 8))):
        place = draw(st.integers(0, max(0, len(content) - 1)) | st.integers(0, min(200, max(0, len(content) - 1))))
        length = draw(st.integers(1, 16))
        kind = draw(st.sampled_from(["change", "change", "change", "cut", "repeat", "end"]))
        if kind == "change":
            content[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "cut":
            del content[place : place + length]
        elif kind == "repeat":
            content[place:place] = content[place : place + length]
        else:
            del content[place:]
    return bytes(content)


def survives(read, path, content):
    path.write_bytes(content)
    signal.setitimer(signal.ITIMER_PROF, 5)
    try:
        read(path)
    except ValueError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@given(content=damaged(list(hostile.pictures())))
@FILES
def test_damaged_pictures(tmp_path, content):
    survives(read_image, tmp_path / "picture.png", content)


@given(content=damaged(list(hostile.kernels())))
@FILES
def test_damaged_kernels(tmp_path, content):
    survives(read_kernel, tmp_path / "kernel.mat", content)


def test_damaged_checkpoints(tmp_path):
    @given(content=damaged(list(hostile.checkpoints(tmp_path))))
    @FILES
    def check(content):
        survives(load_checkpoint, tmp_path / "weights.pt", content)

    check()
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
@pytest.mark.extended
def test_the_benchmark_finds_no_fault(tmp_path):
    lines = []
    options = hostile.Options(count=40, workers=1, keep=tmp_path)
    assert hostile.measure(options, lines.append) == 0
    assert len(lines) == len(hostile.KINDS)
