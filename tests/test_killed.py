"""A batch that is killed again and again: what it finished stays whole, and what it ends with is the same.

Killed in the middle of a picture it goes on there.
"""

import dataclasses
import hashlib
import io
import multiprocessing
import os
import random
import signal
import sys
import time
from functools import partial

import cv2
import numpy as np
import pytest
import scipy.io
import torch

import blindsr.batch.checkpoint
import blindsr.batch.run
from blindsr.batch.checkpoint import SearchFile
from blindsr.batch.command import Method, run_batch
from blindsr.batch.options import BatchOptions, RunOptions
from blindsr.batch.summary import read_records
from blindsr.estimation import Estimate
from blindsr.images import read_image
from blindsr.paths import data_folder
from DIPFKP.estimator import DIPEstimator, DIPSettings
from FKP import KernelPrior
from KernelGANFKP.estimator import GANEstimator, GANSettings

PICTURES = 6
KILLS = 10
FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.scandir")


def quick(lr, scale_factor, *, seed, on_step=None):
    """An estimator that takes no time; the files it is killed among are real."""
    kernel = torch.full((1, 1, 11, 11), 1 / 121) + 1e-4 * lr.mean()
    return Estimate(kernel / kernel.sum(), lr.repeat_interleave(2, 2).repeat_interleave(2, 3), [0.5], 0.0, seed)


def batch(name, options, last_event=None):
    """Run in a process of its own; at the ``last_event``-th access to its files it kills itself."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = io.StringIO()
    blindsr.batch.checkpoint.INTERVAL = 0
    if last_event is not None:
        sys.addaudithook(partial(_count_down, [last_event], str(options.output_dir)))
    estimator = quick
    if name != "quick":
        prior = KernelPrior.from_pretrained(2)
        dip_settings = DIPSettings(iterations=2, frozen_iterations=1, channels=2, non_local=False)
        gan_settings = GANSettings(iterations=2, crops_per_step=1, critic_steps=1, latent_steps=1, crop=32, shave=0)
        estimator = {
            "DIPFKP": DIPEstimator(prior, settings=dip_settings, want_image=True),
            "KernelGANFKP": GANEstimator(gan_settings, prior),
        }[name]
    sys.exit(run_batch(options, Method("DIPFKP", "DIPFKP", estimator)))


def _count_down(left, folder, event, arguments):
    if event in FILE_EVENTS and folder in str(arguments[0]):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def context():
    """Processes that start in no time: forks of one that has imported all this, but computed nothing yet."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "blindsr.batch.command", "DIPFKP.estimator", "KernelGANFKP.estimator"])
    return context


@pytest.fixture
def options(tmp_path):
    photo = read_image(data_folder() / "datasets" / "Test" / "DIPFKP_lr_x2" / "chelsea.png")
    (tmp_path / "in").mkdir()
    for i in range(PICTURES):
        crop = (255 * photo[0, :, 40:80, 20 * i : 20 * i + 40]).permute(1, 2, 0).numpy().astype(np.uint8)
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), crop)
    return BatchOptions(input_dir=((tmp_path / "in",),), output_dir=tmp_path / "whole", run=RunOptions(device="cpu"))


def check_intact(folder):
    """Every picture on record as finished has its files, as recorded, and they can be read; returns how many."""
    records = read_records(folder) if folder.exists() else []
    assert len(records) == len(list(folder.glob("*.json")))  # a kill leaves no torn record
    finished = {record.name: record.files for record in records if record.state == "finished"}
    for name, files in finished.items():
        assert {f"{name}.mat", f"{name}_kernel.png"} <= files.keys()
        for file, digest in files.items():
            assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
            content(folder / file)
    return len(finished)


def content(path):
    """What is in a file of results: a MATLAB file begins with the date."""
    if path.suffix == ".mat":
        return scipy.io.loadmat(path)["Kernel"].tobytes()
    assert cv2.imread(str(path)) is not None
    return path.read_bytes()


def results(folder):
    """Name → content of the results. What a kill at the very start or end can leave is hidden and in nobody's way."""
    assert not list(folder.glob(".*.checkpoint"))
    paths = [path for path in folder.iterdir() if path.suffix in (".png", ".mat") and not path.name.startswith(".")]
    return {path.name: content(path) for path in paths}


def finish(context, name, options):
    """A run that is not killed: it ends well and cleans up; returns the results."""
    process = context.Process(target=batch, args=(name, options))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert check_intact(options.output_dir) == PICTURES
    return results(options.output_dir)


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.parametrize("name", ["quick", "DIPFKP", "KernelGANFKP"])
def test_killed_at_random_moments(context, options, tmp_path, name):
    began = time.perf_counter()
    whole = finish(context, name, options)
    seconds = time.perf_counter() - began
    assert len(whole) == PICTURES * (2 if name == "KernelGANFKP" else 3)
    moments = random.Random(0)
    kills = 0
    options = dataclasses.replace(options, output_dir=tmp_path / "killed")
    while kills < KILLS:
        # Right at an access to a file; or from outside at some time, in the middle of the computation most likely.
        event = moments.randint(1, 80) if name == "quick" else None
        process = context.Process(target=batch, args=(name, options, event))
        process.start()
        process.join(None if event else moments.uniform(0, seconds / 4))
        process.kill()
        process.join()
        check_intact(options.output_dir)
        if process.exitcode == 0:  # it was through before: begin another folder
            assert results(options.output_dir) == whole
            options = dataclasses.replace(options, output_dir=tmp_path / f"killed{kills}")
        else:
            assert process.exitcode == -signal.SIGKILL
            kills += 1
    assert finish(context, name, options) == whole


def long_batch(name, options, last_save, resumed):
    """Run, with a checkpoint after every iteration, in a process that kills itself after the ``last_save``-th.

    Its exit status is 7 where the first picture does not go on after ``resumed`` iterations.
    """
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = io.StringIO()
    blindsr.batch.checkpoint.INTERVAL = 0
    save, saves, loads = SearchFile.save, [], []

    class Killed(SearchFile):
        def load(self):
            loads.append(super().load())
            if len(loads) == 1 and resumed != (0 if loads[0] is None else len(loads[0]["losses"])):
                os._exit(7)
            return loads[-1]

        def save(self, state):
            save(self, state)
            saves.append(state)
            if len(saves) == last_save:
                os.kill(os.getpid(), signal.SIGKILL)

    blindsr.batch.run.SearchFile = Killed
    prior = KernelPrior.from_pretrained(2)
    dip_settings = DIPSettings(
        iterations=6, ssim_iterations=2, frozen_iterations=1, channels=2, non_local=False, image_iterations=4
    )
    gan_settings = GANSettings(iterations=9, crops_per_step=1, critic_steps=1, latent_steps=1, crop=32, shave=0)
    estimator = {
        "DIPFKP": DIPEstimator(prior, settings=dip_settings, want_image=True),
        "KernelGANFKP": GANEstimator(gan_settings, prior),
    }[name]
    sys.exit(run_batch(options, Method("DIPFKP", "DIPFKP", estimator)))


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.parametrize("name", ["DIPFKP", "KernelGANFKP"])
def test_killed_in_the_middle_of_a_picture(context, options, tmp_path, name):
    def run(folder, last_save, resumed):
        changed = dataclasses.replace(options, input_dir=((tmp_path / "in" / "0.png",),), output_dir=folder)
        process = context.Process(target=long_batch, args=(name, changed, last_save, resumed))
        process.start()
        process.join()
        return process.exitcode

    assert run(tmp_path / "whole", None, 0) == 0
    killed = tmp_path / "killed"
    assert run(killed, 4, 0) == -signal.SIGKILL
    assert run(killed, 4, 4) == -signal.SIGKILL
    assert not list(killed.glob("*.json"))
    assert run(killed, None, 8 if name == "KernelGANFKP" else 9) == 0
    assert check_intact(killed) == 1
    assert results(killed) == results(tmp_path / "whole")
    assert not list(killed.glob(".*"))
