"""The measurements that only a GPU can make, rehearsed without one; and where there is one, their checks."""

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from commands import REPOSITORY

from KernelPredictor.training import PredictorSettings

ESSENTIALS = ("prior", "predictor", "usrnet", "tiling", "training steps", "channels last", "graphs", "together")
ESTIMATORS = ("DIP-FKP prediction", "DIP-FKP search", "KernelGAN-FKP search", "KernelGAN", "out of memory")
WITHOUT_TYRO = "import runpy, sys; sys.modules['tyro'] = None; sys.argv[0] = path = sys.argv.pop(1); "
WITHOUT_TYRO += "sys.path.insert(0, path.rpartition('/')[0]); runpy.run_path(path, run_name='__main__')"


@pytest.mark.slow
@pytest.mark.extended
def test_a_rehearsal_leaves_a_line_for_each_result(tmp_path):
    """Without tyro, which the machine with the GPU lacks."""
    output = tmp_path / "results" / "gpu.jsonl"
    script, rehearsal = str(REPOSITORY / "benchmarks" / "gpu.py"), ["--device", "cpu", "--quick", "--budget", "12"]
    selection = ["--parts", "checks", "speed", "--checks", "channels last", "training steps", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TYRO, script, *rehearsal, *selection],
        env={**os.environ, "OMP_NUM_THREADS": "1", "BLINDSR_REFERENCE": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    methods = [line["what"]["method"] for line in lines]
    assert methods[:3] == ["channels last", "training steps", "all"], done.stderr
    assert all(line["values"]["ok"] for line in lines[:2])
    assert {"command", "commit", "device", "torch", "at"} <= set(lines[0]["run"])
    assert lines[0]["run"]["quick"] is True
    # What a part cannot do is told, and the rest goes on.
    assert ("error" in lines[-1]["values"]) == (done.returncode == 1)


def test_a_line_that_was_cut_off_is_dropped_and_a_run_that_was_not_is_known(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    records, path = importlib.import_module("gpu_records").Records, tmp_path / "gpu.jsonl"
    first = records(path, torch.device("cpu"), quick=False)
    done, failed = ({"part": "paper", "method": "a search", "picture": "bird", "seed": seed} for seed in (0, 1))
    first.add(done, {"psnr": 30.0})
    first.guarded(failed, lambda: {"psnr": 1 / 0})
    assert first.failed == 1
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    second = records(path, torch.device("cpu"), quick=False)
    assert path.read_text() == whole
    assert second.has(done)
    assert not second.has(failed)
    assert not records(path, torch.device("cpu"), quick=True).has(done)


def test_a_training_plans_its_steps_ends_in_time_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    training, records = (importlib.import_module(name) for name in ("gpu_training", "gpu_records"))
    calls = []

    def train(images, settings, folder, device, resume, start, on_step):
        calls.append((folder.name, settings.steps, resume, start))
        for step in range(1, settings.steps + 1):
            clock.left = 9.0 if folder.name == "probe" or resume else -1.0 if step == 4 else 9.0
            on_step(step, 0.5)
            if step == 2:
                folder.mkdir(exist_ok=True)
                (folder / "last.pt").write_bytes(b"")

    class Clock:
        left = 9.0

    clock = Clock()
    kept = records.Records(tmp_path / "gpu.jsonl", torch.device("cpu"), quick=True)
    fake = type("Fake", (), {"left": lambda self: clock.left})()
    session = records.Session(kept, fake, torch.device("cpu"), quick=True)
    folder, start = tmp_path / "run", tmp_path / "weights.pth"
    arguments = (train, start, PredictorSettings(), None, folder, session)
    first = training._trained(*arguments)
    assert (first["step"], first["steps"]) == (4, 8)
    assert "out of time" in first["note"]
    second = training._trained(*arguments)
    assert (second["step"], second["steps"]) == (8, 8)
    assert calls == [
        ("probe", 6, None, start),
        ("run", 8, None, start),
        ("run", 8, folder / "last.pt", start),
    ]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", [*ESSENTIALS, *ESTIMATORS])
def test_cuda_computes_what_the_cpu_does(name, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    found = importlib.import_module("gpu_checks").CHECKS[name](torch.device("cuda"), False)
    assert found["ok"], found
