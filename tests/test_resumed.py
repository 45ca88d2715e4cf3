"""Searches that are broken off and go on: to the same result, bit for bit."""

import dataclasses
import io
from functools import partial

import cv2
import numpy as np
import pytest
import torch

import blindsr.batch.checkpoint
from blindsr.batch.checkpoint import SearchFile
from blindsr.batch.command import Method, run_batch
from blindsr.batch.options import BatchOptions, RunOptions
from blindsr.command import Bar
from blindsr.estimation import is_resumable
from DIPFKP.estimator import DIPEstimator, DIPSettings, estimate
from FKP import KernelPrior
from KernelGANFKP.baseline import GeneratorSearch
from KernelGANFKP.crops import PatchSource
from KernelGANFKP.estimator import GANEstimator, GANSettings
from KernelGANFKP.networks import LinearGenerator
from KernelPredictor import KernelPredictor

DIP = DIPSettings(
    iterations=8,
    ssim_iterations=4,
    frozen_iterations=3,
    channels=4,
    non_local=False,
    crop=32,
    image_iterations=6,
    image_channels=6,
    circular=False,
)
GAN = GANSettings(
    iterations=12, crops_per_step=2, critic_steps=2, latent_steps=2, crop=32, shave=0, frozen_iterations=2
)

KERNELGAN = GANSettings(iterations=6, crops_per_step=1, crop=32, shave=0)


class Broken(Exception):
    pass


class Memory:
    """A checkpoint after every iteration, in memory; breaks the search off once ``stop`` iterations are done."""

    def __init__(self):
        self.stop = None
        self.saved = None

    def load(self):
        return None if self.saved is None else torch.load(io.BytesIO(self.saved), weights_only=True)

    def due(self):
        return True

    def save(self, state):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.saved = buffer.getvalue()
        if len(state["losses"]) == self.stop:
            raise Broken


@pytest.fixture(scope="module")
def prior():
    return KernelPrior.from_pretrained(2)


@pytest.fixture(scope="module")
def lr(picture):
    return picture[..., :44, :48].contiguous()


def check_resumed(search, *stops):
    """Broken off after each of ``stops`` iterations and resumed, ``search`` ends as it does unbroken."""
    whole = search()
    memory = Memory()
    done = 0
    for stop in (*stops, None):
        memory.stop, steps = stop, []
        run = partial(search, checkpoint=memory, on_step=lambda done, total, loss, steps=steps: steps.append(done))
        if stop is None:
            found = run()
        else:
            with pytest.raises(Broken):
                run()
        assert steps[0] == done + 1  # nothing is done again
        assert stop is None or steps[-1] == stop
        done = stop
    pairs = list(zip(found, whole, strict=True)) if isinstance(whole, list) else [(found, whole)]
    assert max(len(one.losses) for one, _ in pairs) > max(stops)
    for one, other in pairs:
        assert torch.equal(one.kernel, other.kernel)
        assert (one.image is None) == (other.image is None)
        assert one.image is None or torch.equal(one.image, other.image)
        assert (one.losses, one.critic_losses, one.converged) == (other.losses, other.critic_losses, other.converged)
        assert [after for after, _ in one.path] == [after for after, _ in other.path]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one.path, other.path, strict=True))


# 8 iterations of the joint fit, the first 4 with SSIM, then 6 of the refit, of which again the first 4.
@pytest.mark.parametrize("stops", [[2], [3], [4], [6], [10], [12], [13], [1, 5, 7, 9, 11]])
def test_dip_fkp(lr, prior, stops):
    check_resumed(partial(DIPEstimator(prior, settings=DIP, want_image=True), lr, 2, seed=1), *stops)


def test_dip_fkp_with_the_image_of_the_joint_fit(lr, prior):
    settings = dataclasses.replace(DIP, crop=960, image_iterations=None, non_local=True)
    check_resumed(partial(DIPEstimator(prior, settings=settings, want_image=True), lr, 2, seed=1), 5, 7)


def test_dip_fkp_near_a_prediction(lr, prior):
    settings = dataclasses.replace(DIP, start="predicted", proximal_weight=0.5)
    estimator = DIPEstimator(prior, KernelPredictor.from_pretrained(), settings, want_image=True)
    check_resumed(partial(estimator, lr, 2, seed=1), 6)
    prediction = dataclasses.replace(estimator, settings=dataclasses.replace(settings, iterations=0))
    check_resumed(partial(prediction, lr, 2, seed=1), 3)


@pytest.mark.parametrize("model", ["DoubleDIP", "DIPSoftmax"])
def test_baselines_of_dip_fkp(lr, model):
    estimator = DIPEstimator(settings=DIP, model=model, want_image=True)
    check_resumed(partial(estimator, lr, 2, seed=1), 2, 6, 11)


def test_pictures_that_are_searched_as_one_share_a_checkpoint(lr, prior):
    estimator = DIPEstimator(prior, settings=DIP, want_image=True)
    check_resumed(partial(estimator.batch, [lr, lr.flip(-1)], 2, seeds=[1, 2]), 6, 10)


@pytest.mark.parametrize("stops", [[1], [2], [4], [7], [8, 9]])  # draws are made for 4 iterations at once
def test_kernelgan_fkp(lr, prior, monkeypatch, stops):
    monkeypatch.setattr("KernelGANFKP.search.BLOCK", 4)
    check_resumed(partial(GANEstimator(GAN, prior), lr, 2, seed=1), *stops)


def test_kernelgan_fkp_until_it_has_converged(lr, prior, monkeypatch):
    monkeypatch.setattr("KernelGANFKP.search.WINDOW", 4)
    settings = dataclasses.replace(GAN, stop_when_converged=True, kernel_rate=1e-9, proximal_weight=1.0)
    estimator = GANEstimator(settings, prior)
    assert len(estimator(lr, 2).losses) == 10
    check_resumed(partial(estimator, lr, 4, seed=1), 5, 9)


@pytest.mark.parametrize("stops", [[3], [7, 12]])
def test_several_pictures_of_kernelgan_fkp(lr, prior, monkeypatch, stops):
    """Also after one of them has ended."""
    monkeypatch.setattr("KernelGANFKP.search.BLOCK", 4)
    monkeypatch.setattr("KernelGANFKP.search.WINDOW", 4)
    settings = dataclasses.replace(GAN, iterations=16, stop_when_converged=True, kernel_rate=0.01)
    search = partial(GANEstimator(settings, prior).batch, [lr, lr.flip(-1)], 2, seeds=[1, 2])
    assert sorted(len(found.losses) for found in search()) == [11, 13]
    check_resumed(search, *stops)


def test_kernelgan(lr, monkeypatch):
    for name, value in {"baseline.WINDOW": 3, "search.WINDOW": 3, "search.TOLERANCE": 1e9}.items():
        monkeypatch.setattr(f"KernelGANFKP.{name}", value)
    estimator = GANEstimator(KERNELGAN, model="KernelGAN")
    assert estimator(lr, 2).converged  # as soon as there are two windows of kernels
    check_resumed(partial(estimator, lr, 2, seed=1), 2, 5)


def test_kernelgans_schedule_goes_on(lr):
    def search():
        patches = PatchSource.of(2 * lr - 1, KERNELGAN, LinearGenerator.kernel_side)
        return GeneratorSearch(patches, KERNELGAN, torch.Generator().manual_seed(0), lr.device)

    one, other, memory = search(), search(), Memory()
    one.below.fill_(3)
    one._loosen()
    one._loosen()
    for schedule in one.schedules:
        schedule.optimizer.step()
        schedule.step()
    memory.save({"losses": [], **one._state()})
    other._resume(memory.load())
    assert (other.weights, other.bicubic_weight, int(other.below)) == (one.weights, one.bicubic_weight, 3)
    assert other.weights["sparsity"] == 5
    assert [each.state_dict() for each in other.schedules] == [each.state_dict() for each in one.schedules]


def test_who_is_given_a_checkpoint(prior):
    def old(lr, scale_factor, *, seed, on_step=None):
        raise NotImplementedError

    def new(lr, scale_factor, *, seed, on_step=None, checkpoint=None):
        raise NotImplementedError

    assert not any(is_resumable(each) for each in (old, partial(old), partial(estimate, prior=prior), dict))
    assert all(is_resumable(each) for each in (new, partial(new), DIPEstimator(prior), GANEstimator(GAN, prior)))


def test_the_bar_of_a_resumed_search_counts_on(capsys):
    bar = Bar(total=1)
    for done in (499, 0):
        bar.restart(total=1000, done=done)
        bar.update(1)
        assert (bar.n, bar.total) == (done + 1, 1000)
        assert bar.n - bar.format_dict["initial"] == 1  # what the time left is reckoned from
    bar.close()


@pytest.fixture
def options(tmp_path, lr, monkeypatch):
    monkeypatch.setattr(blindsr.batch.checkpoint, "INTERVAL", 0)
    pixels = (255 * lr[0].permute(1, 2, 0).numpy()).astype(np.uint8)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.b.png"), pixels)
    return BatchOptions(input_dir=((tmp_path / "in",),), output_dir=tmp_path / "out", run=RunOptions(device="cpu"))


class Interrupted:
    """DIP-FKP, which ``error`` breaks off after 5 iterations, or later in the same way."""

    def __init__(self, prior, error=None):
        self.dip, self.error, self.steps = DIPEstimator(prior, settings=DIP, want_image=True), error, []

    def __call__(self, lr, scale_factor, *, seed, on_step=None, checkpoint=None):
        def count(done, total, loss):
            on_step(done, total, loss)
            self.steps.append(done)
            if self.error is not None and done > 5:
                raise self.error

        return self.dip(lr, scale_factor, seed=seed, on_step=count, checkpoint=checkpoint)


def batch(options, estimator, seed=0, **run):
    options = dataclasses.replace(options, run=dataclasses.replace(options.run, **run))
    return run_batch(options, Method("DIPFKP", "DIPFKP", estimator, seed=seed)), estimator.steps[:1]


def hidden(options):
    return [path.name for path in options.output_dir.glob(".*")]


def test_an_interrupted_picture_goes_on(options, prior):
    assert batch(options, Interrupted(prior, KeyboardInterrupt)) == (130, [1])
    assert hidden(options) == [".a.b.checkpoint"]
    assert batch(options, Interrupted(prior, KeyboardInterrupt)) == (130, [6])
    assert batch(options, Interrupted(prior)) == (0, [6])
    assert hidden(options) == []
    resumed = (options.output_dir / "a.b.png").read_bytes()
    assert batch(options, Interrupted(prior), resume=False) == (0, [1])
    assert (options.output_dir / "a.b.png").read_bytes() == resumed


def test_no_search_goes_on_from_another_or_from_a_damaged_checkpoint(options, prior):
    path = options.output_dir / ".a.b.checkpoint"
    batch(options, Interrupted(prior, KeyboardInterrupt))
    whole = path.read_bytes()
    assert batch(options, Interrupted(prior, KeyboardInterrupt), seed=1) == (130, [1])
    assert batch(options, Interrupted(prior, KeyboardInterrupt)) == (130, [1])
    assert batch(options, Interrupted(prior, KeyboardInterrupt), resume=False) == (130, [1])
    for damaged in (b"", whole[: len(whole) // 2], whole[:100] + bytes(100) + whole[200:]):
        path.write_bytes(damaged)
        assert batch(options, Interrupted(prior, KeyboardInterrupt)) == (130, [1])
    assert batch(options, Interrupted(prior, KeyboardInterrupt)) == (130, [6])
    picture = cv2.imread(str(options.paths[0] / "a.b.png"))
    cv2.imwrite(str(options.paths[0] / "a.b.png"), 255 - picture)
    assert batch(options, Interrupted(prior)) == (0, [1])
    assert hidden(options) == []


def test_a_failed_picture_leaves_no_checkpoint(options, prior):
    assert batch(options, Interrupted(prior, ValueError("bad luck"))) == (2, [1])
    assert hidden(options) == []


def test_what_was_left_of_a_finished_picture_is_removed(options, prior):
    assert batch(options, Interrupted(prior)) == (0, [1])
    (options.output_dir / ".a.b.checkpoint").write_bytes(b"left")
    assert batch(options, Interrupted(prior)) == (0, [])
    assert hidden(options) == []


def test_short_searches_write_no_checkpoint(options, prior, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(SearchFile, "save", None)
    assert blindsr.batch.checkpoint.INTERVAL >= 60
    assert batch(options, Interrupted(prior)) == (0, [1])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("failed writing file")])
def test_a_full_disk_ends_the_checkpoints_but_not_the_search(options, prior, monkeypatch, caplog, error):
    def full(path, content):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(blindsr.batch.checkpoint, "save_checkpoint", full)
    assert batch(options, Interrupted(prior)) == (0, [1])
    assert len(caplog.messages) == 1
    assert hidden(options) == []
    assert not (options.output_dir / ".a.b.checkpoint").exists()
