"""Loops of equal steps: what surrounds the capture of a CUDA graph, without CUDA, and what a log fetches late."""

import dataclasses
import math
from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import blindsr.graphs
import KernelGANFKP.estimator
import KernelGANFKP.search
from blindsr.graphs import WARM_UP, WORTHWHILE, own_stream, repeated
from blindsr.kernels import random_kernels
from blindsr.search_log import SearchLog
from DIPFKP.estimator import DIPSettings, estimate
from FKP import KernelPrior
from KernelGANFKP.estimator import GANEstimator
from KernelGANFKP.settings import GANSettings

CPU = torch.device("cpu")


class Static:
    """Outputs, once there are some, in memory that stays the same."""

    made = None

    def overwrite(self, made):
        if made is None:
            return
        if self.made is None:
            self.made = type(made)(*map(torch.empty_like, made))
        for static, tensor in zip(self.made, made, strict=True):
            static.copy_(tensor)

    def __getattr__(self, name):
        return getattr(self.made, name)


class Unwaiting(TorchDispatchMode):
    """Refuses what asks the device for a value, as a capture does; optimisers, which ask on a CPU, are let be."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


def step_without_asking(step, patch=torch.optim.Adam.step):
    def optimizer_step(self, closure=None):
        with _disable_current_modes():
            return patch(self, closure)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(torch.optim.Adam, "step", optimizer_step)
        with Unwaiting():
            return step()


class Capture:
    """Stands for CUDA's: nothing is computed, and each replay overwrites the outputs of the one before."""

    def __init__(self, fails=False):
        self.fails, self.made = fails, 0

    def __call__(self, step):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        self.made += 1
        outputs = Static()
        return lambda: outputs.overwrite(step_without_asking(step)), outputs


class Counted(NamedTuple):
    value: torch.Tensor


@pytest.fixture(params=[False, True], ids=["captured", "fails"])
def capture(request, monkeypatch):
    capture = Capture(request.param)
    monkeypatch.setattr(blindsr.graphs, "_can_capture", lambda device: True)
    monkeypatch.setattr(blindsr.graphs, "_capture", capture)
    return capture


def test_a_step_is_done_once_a_call_whether_captured_or_not(capture, caplog):
    value = torch.zeros(())

    def step():
        return Counted(value.add_(1).clone())

    with own_stream(CPU):
        call = repeated(step, CPU, WORTHWHILE)
        counted = [float(call().value) for _ in range(WORTHWHILE)]
    assert counted == [float(n) for n in range(1, WORTHWHILE + 1)]
    assert capture.made == (0 if capture.fails else 1)
    assert len(caplog.messages) == (1 if capture.fails else 0)
    assert "\n" not in "".join(caplog.messages)


def test_a_capture_has_to_be_worth_it_and_possible(capture, monkeypatch):
    def step():
        return ()

    assert repeated(step, CPU, WORTHWHILE - 1) is step
    monkeypatch.setattr(blindsr.graphs, "_can_capture", lambda device: device.type == "cuda")
    assert repeated(step, CPU, 1000) is step


def test_a_code_found_by_replay_is_the_code(capture, monkeypatch):
    prior, kernels = KernelPrior.from_pretrained(2), random_kernels(2, 2, torch.Generator().manual_seed(0))
    replayed = prior.invert(kernels)
    assert capture.made == (0 if capture.fails else 1)
    monkeypatch.setattr(blindsr.graphs, "_can_capture", lambda device: False)
    assert torch.equal(replayed, prior.invert(kernels))


def test_a_replayed_search_is_the_search(capture, picture, monkeypatch):
    monkeypatch.setattr(blindsr.graphs, "WORTHWHILE", WARM_UP + 2)
    settings = DIPSettings(iterations=16, ssim_iterations=6, frozen_iterations=6, channels=8, crop=960)
    settings = dataclasses.replace(settings, non_local=False, image_iterations=8)
    prior = KernelPrior.from_pretrained(2)
    search = {"prior": prior, "settings": settings, "want_image": True}
    replayed = estimate(picture[..., :40, :40], 2, **search)
    assert capture.made == (0 if capture.fails else 3)  # SSIM, squared error with the kernel moving, the image's own
    monkeypatch.setattr(blindsr.graphs, "_can_capture", lambda device: False)
    plain = estimate(picture[..., :40, :40], 2, **search)
    assert torch.equal(replayed.kernel, plain.kernel)
    assert torch.equal(replayed.image, plain.image)
    assert replayed.losses == plain.losses
    for (done, kernel), (done_plain, kernel_plain) in zip(replayed.path, plain.path, strict=True):
        assert done == done_plain
        assert torch.equal(kernel, kernel_plain)


@pytest.mark.parametrize("rate", [1e-4, 0.5], ids=["converges", "moves"])
def test_a_replayed_search_against_a_critic_is_the_search(capture, photograph, monkeypatch, rate):
    monkeypatch.setattr(KernelGANFKP.search, "WINDOW", 10)
    monkeypatch.setattr(blindsr.graphs, "WORTHWHILE", WARM_UP + 2)
    settings = GANSettings(32, 2, crops_per_step=1, crop=32, kernel_rate=rate, frozen_iterations=6)
    estimator = GANEstimator(dataclasses.replace(settings, stop_when_converged=True), KernelPrior.from_pretrained(2))
    lrs = [photograph[..., :64, :64], photograph[..., 64:128, :80]]
    monkeypatch.setattr(KernelGANFKP.estimator, "fetch_interval", lambda device: 7)
    together = estimator.batch(lrs, 2, seeds=[3, 4])
    assert capture.made == (0 if capture.fails else 2)
    monkeypatch.setattr(KernelGANFKP.estimator, "fetch_interval", lambda device: 1)
    monkeypatch.setattr(blindsr.graphs, "_can_capture", lambda device: False)
    for late, plain in zip(together, estimator.batch(lrs, 2, seeds=[3, 4]), strict=True):
        assert torch.equal(late.kernel, plain.kernel)
        assert (late.losses, late.critic_losses) == (plain.losses, plain.critic_losses)
        assert late.converged is plain.converged is (rate == 1e-4)
        assert (len(plain.losses) < 32) is plain.converged
        assert [done for done, _ in late.path] == [done for done, _ in plain.path]


def test_losses_that_are_fetched_late_are_the_same_losses():
    logs, calls = [], []
    for every in (1, 4):
        calls.append([])
        log = SearchLog(10, lambda *step, seen=calls[-1]: seen.append(step), "", every)
        static = torch.zeros(2)
        for value in range(10):
            log.step(static.fill_(value))
            if value == 5:
                assert len(calls[-1]) == (6 if every == 1 else 4)
        logs.append(log.of(1))
    assert logs[0] == logs[1] == {"losses": [float(n) for n in range(10)], "critic_losses": [], "path": []}
    assert calls[0] == calls[1]
    assert calls[0][-1] == (10, 10, 9.0)


def test_a_search_that_diverged_is_told_when_its_losses_are_fetched():
    log = SearchLog(10, None, "use less", every=4)
    for _ in range(3):
        log.step(torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match="diverged; use less"):
        log.step(torch.tensor([1.0, 1.0]))


def test_a_log_ends_where_the_search_says():
    log = SearchLog(3, None, "", every=2)
    for value in range(3):
        log.kernel(torch.full((1, 1, 1, 1), float(value)))
        log.step(torch.tensor(1.0 * value), torch.tensor(-1.0 * value))
    log.end(torch.full((1, 1, 1, 1), 2.0), [2])
    assert log.of()["losses"] == [0, 1]
    assert log.of()["critic_losses"] == [0, -1]
    assert [(done, float(kernel)) for done, kernel in log.of()["path"]] == [(0, 0), (1, 1), (2, 2)]


def test_asking_for_a_value_is_noticed_in_a_step_and_in_its_gradient():
    class Asks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float(gradient.sum())

    x = torch.ones(2, requires_grad=True)
    step_without_asking(lambda: (2 * x).sum().backward())
    with pytest.raises(AssertionError):
        step_without_asking(lambda: float(x.detach().sum()))
    with pytest.raises(AssertionError):
        step_without_asking(lambda: Asks.apply(x).sum().backward())
