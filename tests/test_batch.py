"""Several pictures searched as one, and stages that overlap: the results are those of one picture after the other."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

import blindsr.batch.checkpoint
import blindsr.batch.run
from blindsr.batch.command import Method, run_batch
from blindsr.batch.inputs import input_items
from blindsr.batch.options import BatchOptions, RunOptions
from blindsr.batch.records import Records
from blindsr.batch.run import Job, process
from blindsr.batch.summary import read_records
from blindsr.degradation import degrade
from blindsr.estimation import Estimate, can_batch
from blindsr.images import read_image
from blindsr.kernel_files import read_kernel
from blindsr.paths import data_folder
from DIPFKP.estimator import DIPEstimator, DIPSettings
from FKP import KernelPrior
from KernelGANFKP.estimator import GANEstimator, GANSettings
from KernelGANFKP.losses import wasserstein_loss

CPU = torch.device("cpu")


class Several:
    """An estimator that takes no time. ``fails`` is asked before each search, with the pictures' grey levels."""

    def __init__(self, fails=lambda means: None):
        self.fails = fails
        self.searched = []

    def __call__(self, lr, scale_factor, *, seed, on_step=None, checkpoint=None):
        return self.batch([lr], scale_factor, seeds=[seed], on_step=on_step)[0]

    def batch(self, lrs, scale_factor, *, seeds, on_step=None, checkpoint=None):
        means = [round(255 * float(lr.mean())) for lr in lrs]
        self.searched.append(means)
        self.fails(means)
        if on_step is not None:
            on_step(1, 1, 0.5)
        kernels = [torch.full((1, 1, 11, 11), 1 / 121) + mean * 1e-6 for mean in means]
        return [
            Estimate(kernel, lr.repeat_interleave(2, 2).repeat_interleave(2, 3), [0.5], 0.0, seed)
            for kernel, lr, seed in zip(kernels, lrs, seeds, strict=True)
        ]

    def batch_key(self, lr, scale_factor):
        if min(lr.shape[2:]) < 6:
            raise ValueError("too small")
        return lr.shape[2] % 2

    def at_once(self, lr, scale_factor):
        return 2


@pytest.fixture
def options(tmp_path):
    """Of eight pictures 1.png to 8.png of those grey levels."""
    (tmp_path / "in").mkdir()
    for level in range(1, 9):
        cv2.imwrite(str(tmp_path / "in" / f"{level}.png"), np.full((8, 9, 3), level, np.uint8))
    return BatchOptions(input_dir=((tmp_path / "in",),), output_dir=tmp_path / "out", run=RunOptions(device="cpu"))


@pytest.fixture(params=[False, True], ids=["one thread", "threads"])
def threads(request, monkeypatch):
    monkeypatch.setattr(blindsr.batch.run, "_overlaps", lambda device: request.param)


def finish(options, estimator, batch=None, **method):
    """Run; returns the exit status."""
    return run_batch(options, Method("DIPFKP", "DIPFKP", estimator, batch=batch, **method))


def states(folder):
    return {record.name: record.state for record in read_records(folder)}


def test_pictures_are_searched_by_as_many_as_the_option_or_the_estimator_says(options, threads):
    for batch, searched in ((None, 4 * [2]), (3, [3, 3, 2]), (1, 8 * [1])):
        estimator = Several()
        folder = options.output_dir.with_name(f"out{batch}")
        assert finish(dataclasses.replace(options, output_dir=folder), estimator, batch) == 0
        assert [len(means) for means in estimator.searched] == searched
        assert [level for means in estimator.searched for level in means] == list(range(1, 9))
        for level in range(1, 9):
            assert (cv2.imread(str(folder / f"{level}.png")) == level).all()
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_of_each_picture_becomes_what_becomes_of_it_alone(tmp_path):
    """Within 1e-5 and a grey level after a short search: of several groups convolutions sum in another order."""
    photo = read_image(data_folder() / "datasets" / "Test" / "DIPFKP_lr_x2" / "chelsea.png")
    (tmp_path / "in").mkdir()
    for place, (height, width) in enumerate([(44, 44), (40, 52), (60, 44), (20, 20)]):
        pixels = 255 * photo[0, [2, 1, 0], 40 : 40 + height, 20 * place : 20 * place + width]
        cv2.imwrite(str(tmp_path / "in" / f"{place}.png"), pixels.permute(1, 2, 0).numpy().round())
    settings = DIPSettings(iterations=4, ssim_iterations=2, frozen_iterations=1, channels=4, non_local=False, crop=64)
    estimator = DIPEstimator(KernelPrior.from_pretrained(2), settings=settings)

    def nonblind(lr, kernel, scale_factor, sigma, on_step=None):
        return degrade(lr.repeat_interleave(4, 2).repeat_interleave(4, 3), kernel, scale_factor)

    options = BatchOptions(input_dir=((tmp_path / "in",),), run=RunOptions(device="cpu"))
    alone, together = (dataclasses.replace(options, output_dir=tmp_path / name) for name in ("alone", "together"))
    assert finish(alone, estimator, 1, nonblind=nonblind) == 0
    assert finish(together, estimator, 4, nonblind=nonblind) == 0
    for place in range(4):
        kernels = [read_kernel(run.output_dir / f"{place}.mat") for run in (alone, together)]
        torch.testing.assert_close(*kernels, atol=1e-5, rtol=0)
        pixels = [cv2.imread(str(run.output_dir / f"{place}.png")).astype(int) for run in (alone, together)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_a_bad_picture_fails_alone(options, capsys):
    folder = options.input_dir[0][0]
    (folder / "2.png").write_bytes(b"no picture")
    cv2.imwrite(str(folder / "3.png"), np.full((5, 9, 3), 3, np.uint8))  # batch_key refuses it

    def diverges(means):
        if 6 in means:
            raise ValueError("the search diverged")

    estimator = Several(diverges)
    assert finish(options, estimator, 4) == 2
    assert {name for name, state in states(options.output_dir).items() if state == "failed"} == {"2", "3", "6"}
    assert estimator.searched == [[1, 4, 5], [6, 7, 8], [6], [7, 8]]
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert any("6.png: the search diverged" in line for line in errors)


def test_a_search_that_diverges_leaves_those_beside_it_alone(tmp_path, monkeypatch, capsys):
    def poisoned(critic, real, fake, shares, penalty):
        loss, margin = wasserstein_loss(critic, real, fake, shares, penalty)
        dark = real.unflatten(1, (-1, 3)).mean(dim=(0, 2, 3, 4)) < 0.05
        return loss * torch.where(dark, torch.nan, 1.0), margin

    photo = read_image(data_folder() / "datasets" / "Test" / "KernelGANFKP_lr_x2" / "chelsea.png")
    (tmp_path / "in").mkdir()
    for place, (height, width) in enumerate([(44, 44), (48, 44), (44, 60), (20, 20)]):
        pixels = 255 * photo[0, [2, 1, 0], 40 : 40 + height, 20 * place : 20 * place + width]
        pixels = pixels / 20 if place == 1 else pixels
        cv2.imwrite(str(tmp_path / "in" / f"{place}.png"), pixels.permute(1, 2, 0).numpy().round())
    settings = GANSettings(3, 1, 1, 2, crop=32, shave=0)
    estimator = GANEstimator(settings, KernelPrior.from_pretrained(2), float32=True)
    monkeypatch.setattr("KernelGANFKP.search.wasserstein_loss", poisoned)
    options = BatchOptions(input_dir=((tmp_path / "in",),), run=RunOptions(device="cpu"))
    found = []
    for batch in (1, 4):
        folder = tmp_path / f"out{batch}"
        assert finish(dataclasses.replace(options, output_dir=folder), estimator, batch) == 2
        assert {name for name, state in states(folder).items() if state == "failed"} == {"1", "3"}
        error = capsys.readouterr().err
        assert "1.png: the search diverged; use a smaller --critic-rate" in error
        assert "3.png: the picture (20×20) is too small" in error
        found.append([read_kernel(folder / f"{place}.mat") for place in (0, 2)])
    for kernels in zip(*found, strict=True):
        torch.testing.assert_close(*kernels, atol=1e-5, rtol=0)


def test_out_of_memory_halves_this_batch_and_those_after_it(options):
    def too_many(means):
        if len(means) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    estimator = Several(too_many)
    assert finish(options, estimator, 4) == 0
    assert estimator.searched == [[1, 2, 3, 4], [1, 2], [3, 4], [5, 6], [7, 8]]
    hopeless = Several(lambda means: too_many([0, 0, 0]))
    two = (options.input_dir[0][0] / "1.png", options.input_dir[0][0] / "2.png")
    options = dataclasses.replace(options, input_dir=(two,), output_dir=options.output_dir.with_name("none"))
    assert finish(options, hopeless) == 2
    assert set(states(options.output_dir).values()) == {"failed"}


def test_after_an_interruption_nothing_that_was_computed_is_lost(options, threads, capsys):
    def interrupted(means):
        if 5 in means:
            raise KeyboardInterrupt

    assert finish(options, Several(interrupted), 2) == 130
    assert "of 8 pictures 4 done, 0 failed, 4 left" in capsys.readouterr().err
    assert states(options.output_dir) == dict.fromkeys("1234", "finished")
    assert not [path for path in options.output_dir.iterdir() if path.name.startswith(".")]
    estimator = Several()
    assert finish(options, estimator, 4) == 0
    assert estimator.searched == [[5, 6, 7, 8]]
    assert len(states(options.output_dir)) == 8


def test_no_other_process_takes_a_picture_of_a_batch(options):
    items = input_items([options.input_dir[0][0]])
    options.output_dir.mkdir()
    seen = []

    def another(means):
        records, job = Records(options.output_dir, {}, {}), Job(Several(), 2, CPU)
        seen.append([each.claimed for each in process(items, job, options.output_dir, records=records)])

    records = Records(options.output_dir, {}, {})
    job = Job(Several(another), 2, CPU, batch=8)
    found = list(process(items, job, options.output_dir, records=records))
    assert seen == [[True] * 8]
    assert all(result.error is None and not result.claimed for result in found)


def test_a_batch_that_is_broken_off_goes_on(options, monkeypatch):
    monkeypatch.setattr(blindsr.batch.checkpoint, "INTERVAL", 0)
    for level in range(1, 5):
        pixels = np.random.default_rng(level).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(options.input_dir[0][0] / f"{level}.png"), pixels)
    items = [item for item in input_items([options.input_dir[0][0]]) if item.name in "1234"]
    settings = DIPSettings(iterations=6, ssim_iterations=2, frozen_iterations=1, channels=2, non_local=False)
    job = Job(DIPEstimator(KernelPrior.from_pretrained(2), settings=settings), 2, CPU, batch=4)

    def kernels(folder, last=None):
        """The kernels, and the iterations that were done; breaks off after the ``last``."""
        folder.mkdir(exist_ok=True)
        done = []

        def on_step(step, total, loss):
            done.append(step)
            if step == last:
                raise KeyboardInterrupt

        try:
            list(process(items, job, folder, progress=lambda *items: on_step, records=Records(folder, {}, {})))
        except KeyboardInterrupt:
            return [], done
        return [read_kernel(folder / f"{item.name}.mat") for item in items], done

    whole, _ = kernels(options.output_dir)
    broken = options.output_dir.with_name("broken")
    assert kernels(broken, last=4) == ([], [1, 2, 3, 4])
    assert [path.name for path in broken.iterdir()] == [".1.checkpoint"]
    resumed, done = kernels(broken)
    assert done == [4, 5, 6]
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))
    assert not [path for path in broken.iterdir() if path.name.startswith(".")]


def test_an_estimator_without_batches_takes_one_picture_at_a_time(options):
    def single(lr, scale_factor, *, seed, on_step=None):
        return Several()(lr, scale_factor, seed=seed)

    assert can_batch(Several())
    assert not can_batch(single)
    assert finish(options, single, 4) == 0
    assert len(states(options.output_dir)) == 8
    with pytest.raises(ValueError, match="--batch 0"):
        finish(options, single, 0)
