"""Every command and every example of the README and of RESULTS.md, run on small things of the same kind."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import REPOSITORY, typed

from blindsr.images import write_image
from blindsr.kernel_files import write_kernel
from blindsr.kernels import random_kernels
from blindsr.paths import data_folder

TEXT = "\n".join((REPOSITORY / name).read_text() for name in ("README.md", "RESULTS.md"))
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.S | re.M)
COMMANDS = [line for language, block in BLOCKS if not language for line in block.splitlines() if "python" in line]

DIP = "--iterations 3 --ssim-iterations 2 --frozen-iterations 1 --channels 8 --crop 64"
GAN = "--iterations 3 --frozen-iterations 1 --batch 4"
QUICK = {
    r"cd DIPFKP .*--path-KP": f"{DIP} --image-iterations 2 --image-channels 8 -o {{tmp}}/out",
    r"cd DIPFKP .*-o": DIP,
    r"cd DIPFKP": f"{DIP} -o {{tmp}}/out",
    r"cd KernelGANFKP": f"{GAN} -o {{tmp}}/out",
    r"cd NonblindSR .*--kernel": "-o {tmp}/out",
    r"cd NonblindSR .*--train": "--steps 1 --batch 2 --patch 24 --held-out 1 --scales 2 -o {tmp}/out",
    r"cd FKP && python main.py --train": "--epochs 1 --kernels-per-epoch 200 -o {tmp}/out",
    r"cd KernelPredictor": "--steps 1 --crops 16 --pixels 1024 --held-out 1 -o {tmp}/out",
    r"prepare_dataset": "",
    r"benchmarks/set5.*--preset paper": "--scales 4 --seeds 0 --preset search",  # a thousand iterations otherwise
    r"benchmarks/set5": "--scales 4 --seeds 0",
    r"benchmarks/nonblind": "--scales 4 --pictures chelsea",
    r"benchmarks/likelihood": "--scales 2",
    r"benchmarks/confidence": "--scales 2 --zooms 1 --groups 1 --held-out 1",
    r"benchmarks/variants": "--variants 'default preset' --scales 2 --photographs 1 --held-out 1",
    r"benchmarks/critic": "--batch 2 --steps 1",
    r"benchmarks/image_prior": "--sides 32 --steps 1",
    r"benchmarks/estimators": "--methods KernelGAN-FKP --scales 2 --seeds 0 --pictures coins",
}
"""What makes each command short: the first pattern found in it decides."""

ELSEWHERE = r"benchmarks/killed|-m pytest"
"""Ten minutes, and in small tests/test_killed.py; this very run, and tests/test_hostile.py."""


def extra_options(command):
    return next((extra for pattern, extra in QUICK.items() if re.search(pattern, command)), None)


@pytest.fixture(scope="module")
def small(tmp_path_factory, picture):
    """What the commands name: photographs, a kernel, a data set, weights."""
    tmp = tmp_path_factory.mktemp("readme")
    pixels = (255 * picture[0].permute(1, 2, 0).numpy()).astype(np.uint8)[:48, :64]
    for name in ("photo.jpg", "portrait.png", "holiday/a.jpg", "holiday/b.jpg", "Set5/HR/a.png", "DIV2K/HR/a.png"):
        write_image(tmp / name, pixels)
    for name in ("photographs/a.png", "photographs/b.png"):
        write_image(tmp / name, np.kron(pixels, np.ones((7, 7, 1), np.uint8)))
    write_kernel(tmp / "k.mat", random_kernels(1, 3, torch.Generator().manual_seed(0)))
    shutil.copytree(data_folder() / "pretrained_models", tmp / "official")
    for scale_factor in (2, 3, 4):
        done = typed("data", "--sf", scale_factor, "--dataset", tmp / "Set5", script="prepare_dataset.py")
        assert done.returncode == 0, done.stderr
    return tmp


def test_every_command_is_run_here_or_elsewhere():
    assert len(COMMANDS) > 15
    unknown = [c for c in COMMANDS if extra_options(c) is None and not re.search(ELSEWHERE, c)]
    assert not unknown


@pytest.mark.parametrize(
    ("script", "option", "known"), [("variants", "variants", "VARIANTS"), ("estimators", "methods", "METHODS")]
)
def test_what_the_commands_measure_is_known(script, option, known, monkeypatch):
    # The runs below name their own, short ones.
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    names = getattr(importlib.import_module(script), known)
    lines = [line.replace("\n", " ") for line in re.findall(rf"--{option} [^`]*", TEXT)]
    assert lines
    for line in lines:
        words = shlex.split(line)[1:]
        ends = [i for i, word in enumerate(words) if word.startswith("--")]
        assert set(words[: ends[0] if ends else None]) <= set(names), line


@pytest.mark.parametrize("command", [command for command in COMMANDS if extra_options(command) is not None])
def test_command(command, small):
    extra = extra_options(command)
    line = command.removeprefix(". ./setup.sh && ")
    folder = REPOSITORY
    if line.startswith("cd "):
        step, line = line.split(" && ", 1)
        folder = REPOSITORY / step.removeprefix("cd ")
    words = shlex.split(f"{line} {extra.format(tmp=small)}")
    assert words[0] == "python"
    for i, word in enumerate(words):
        first = word.removeprefix("../").split("/")[0]
        if first in {path.name for path in small.iterdir()} | {"sharp", "runs"}:
            words[i] = str(small / word.removeprefix("../"))
    shutil.rmtree(small / "out", ignore_errors=True)
    if "benchmarks/" not in command:
        # Without a process of its own; tests/test_cli.py runs each of these scripts in one.
        done = typed(folder, *words[2:], script=words[1])
    else:
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=280,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_example(block):
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
