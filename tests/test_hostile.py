"""Damaged files: every one is read or refused in one line that names it; none crashes, hangs or runs code.

``BLINDSR_DAMAGED_FILES=10200 python -m pytest tests/test_hostile.py`` tries as many; without it, 1200.
"""

import faulthandler
import io
import os
import pickle
import resource
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from blindsr import images
from blindsr.checkpoints import load_checkpoint
from blindsr.images import read_image
from blindsr.kernel_files import read_kernel

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


def pictures() -> list[bytes]:
    pixels = np.random.RandomState(0).randint(0, 256, (12, 17, 4)).astype(np.uint8)
    files = []
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tiff", ".ppm", ".jp2", ".gif", ".avif", ".hdr", ".exr"):
        content = pixels[..., :3].astype(np.float32) if suffix in (".hdr", ".exr") else pixels[..., :3]
        try:
            done, encoded = cv2.imencode(suffix, content)
        except cv2.error:
            continue  # not every build writes every format
        if done:
            files.append(encoded.tobytes())
    files.append(cv2.imencode(".png", pixels)[1].tobytes())
    files.append(cv2.imencode(".png", pixels[..., 0].astype(np.uint16) * 257)[1].tobytes())
    files.append(cv2.imencode(".tiff", pixels[..., :3].astype(np.uint16) * 257)[1].tobytes())
    palette = io.BytesIO()
    Image.fromarray(pixels[..., :3]).quantize(16).save(palette, "PNG", icc_profile=b"profile" * 20)
    files.append(palette.getvalue())
    return files


def checkpoints(tmp: Path) -> list[bytes]:
    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp / "executed",)

    zipped, old = io.BytesIO(), io.BytesIO()
    state = {"model_state": {"weight": torch.rand(3, 4), "count": torch.tensor(3)}, "step": 7, "names": ["a", "b"]}
    torch.save(state, zipped)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    evil = pickle.dumps({"model_state": Payload()}, protocol=2)
    return [zipped.getvalue(), old.getvalue(), evil]


def kernels() -> list[bytes]:
    files = []
    kernel = np.full((11, 11), 1 / 121)
    for content in ({"Kernel": kernel}, {"Kernel": kernel.astype(np.float32), "other": "text"}, {"Kernel": [[1, 2]]}):
        for options in ({}, {"do_compression": True}, {"format": "4"}):
            buffer = io.BytesIO()
            scipy.io.savemat(buffer, content, **options)
            files.append(buffer.getvalue())
    return files


@given(content=damaged(pictures()))
@FILES
def test_damaged_pictures(tmp_path, content):
    survives(read_image, tmp_path / "picture.png", content)


@given(content=damaged(kernels()))
@FILES
def test_damaged_kernels(tmp_path, content):
    survives(read_kernel, tmp_path / "kernel.mat", content)


def test_damaged_checkpoints(tmp_path):
    @given(content=damaged(checkpoints(tmp_path)))
    @FILES
    def check(content):
        survives(load_checkpoint, tmp_path / "weights.pt", content)

    check()
    assert not (tmp_path / "executed").exists()
