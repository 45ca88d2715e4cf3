"""The critic and its twice differentiable layers, against PyTorch's own."""

import dataclasses
import importlib

import pytest
import torch
from commands import REPOSITORY
from torch import nn

import KernelGANFKP.main
from blindsr.images import to_uint8, write_image
from KernelGANFKP import estimator
from KernelGANFKP.estimator import GANSettings, pretrained_estimator
from KernelGANFKP.functions import batch_norm_leaky_relu, convolution
from KernelGANFKP.losses import gradient_penalty, wasserstein_loss
from KernelGANFKP.networks import Critic


@pytest.fixture(params=[torch.float64, torch.float32])
def critic(request):
    critic = Critic(torch.Generator().manual_seed(0), channels=8, dtype=request.param).to(request.param)
    # As after some training: scores that differ, norms and slopes of both signs.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return critic


@pytest.fixture
def patches(critic):
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(6, 3, 15, 15, generator=generator).to(critic.dtype) for _ in range(2)]


@pytest.fixture
def of_pytorch(critic, monkeypatch):
    """The network of PyTorch's layers that the benchmark times ours against, with the same weights."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    network = importlib.import_module("critic").PyTorchsLayers(torch.Generator(), channels=8).to(critic.dtype)
    network.load_state_dict(critic.state_dict())
    return network


def gradients(loss, critic):
    return torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True)


def assert_close(first, second, name):
    """To rounding, relative to the largest value."""
    tolerance = 1e-4 if first.dtype == torch.float32 else 1e-9
    first, second = first.detach(), second.detach()
    assert float((first - second).abs().max()) <= tolerance * float(second.abs().max()), name


def test_scores_and_gradients_are_those_of_pytorchs_layers(critic, of_pytorch, patches):
    (mine, margin), (theirs, their_margin) = (
        wasserstein_loss(each, *patches, 0.3, 0.1) for each in (critic, of_pytorch)
    )
    assert_close(mine, theirs, "loss")
    assert_close(margin, their_margin, "margin")
    for name, *pair in zip(
        dict(critic.named_parameters()), gradients(mine, critic), gradients(theirs, of_pytorch), strict=True
    ):
        assert_close(*pair, name)


def test_the_penaltys_own_gradients_are_those_of_pytorchs_layers(critic, of_pytorch, patches):
    mine = gradients(gradient_penalty(critic, *patches, 0.3), critic)
    theirs = gradients(gradient_penalty(of_pytorch, *patches, 0.3), of_pytorch)
    assert mine[-1] is None  # the last bias
    for name, first, second in zip(dict(critic.named_parameters()), mine, theirs, strict=True):
        if first is None or second is None:
            assert (second is None or not second.any()) and (first is None or not first.any()), name
        else:
            assert_close(first, second, name)


def test_input_gradients_can_be_differentiated_again():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    weight, bias = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    kernel = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64)
    for function in (
        lambda x: batch_norm_leaky_relu(x.contiguous(memory_format=torch.channels_last), weight, bias, 0.2),
        lambda x: convolution(x, kernel),
    ):
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)


def test_no_graph_is_made_of_other_gradients(critic, patches):
    score = critic(patches[0]).sum()
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(score, critic.last.weight, create_graph=True)


def test_rounding_to_bfloat16_changes_gradients_less_than_the_draw_of_patches():
    generator = torch.Generator().manual_seed(0)

    def draw():
        wider = torch.rand(16, 3, 21, 21, generator=generator)
        return torch.rand(16, 3, 19, 19, generator=generator), nn.functional.avg_pool2d(wider, 3, stride=1)

    def flat_gradients(dtype, real, fake):
        critic = Critic(torch.Generator().manual_seed(0), dtype=dtype)
        assert critic(real).dtype == torch.float32
        loss, _ = wasserstein_loss(critic, real, fake, 0.3, 0.1)
        return torch.cat([gradient.flatten() for gradient in gradients(loss, critic)])

    batch = draw()
    exact = flat_gradients(torch.float32, *batch)
    rounding = (flat_gradients(torch.bfloat16, *batch) - exact).norm()
    draw_of_patches = (flat_gradients(torch.float32, *draw()) - exact).norm()
    assert 0 < float(rounding) < 0.3 * float(draw_of_patches)


class Watched(Critic):
    """Keeps every critic that is made."""

    made: list[Critic]

    def __init__(self, generator, **options):
        super().__init__(generator, **options)
        self.made.append(self)


@pytest.fixture
def watched(monkeypatch):
    Watched.made = []
    monkeypatch.setattr(estimator, "Critic", Watched)
    return Watched.made


SHORT = GANSettings(iterations=1, crops_per_step=2, critic_steps=1, shave=0)


def test_bfloat16_is_for_devices_that_gain_and_can_be_declined(photograph, monkeypatch, watched):
    for gains in (True, False):
        monkeypatch.setattr(estimator, "gains_from_bfloat16", lambda device, gains=gains: gains)
        for float32 in (False, True):
            found = pretrained_estimator(2, torch.device("cpu"), SHORT, float32=float32)
            found(photograph, 2, seed=0)
    assert [critic.dtype for critic in watched] == [torch.bfloat16, torch.float32, torch.float32, torch.float32]


def test_a_callers_autocast_changes_nothing(photograph):
    found = pretrained_estimator(2, torch.device("cpu"), SHORT, float32=True)
    kernel = found(photograph, 2, seed=0).kernel
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(found(photograph, 2, seed=0).kernel, kernel)


def test_the_critic_goes_on_learning(photograph, watched):
    estimates = [
        pretrained_estimator(2, torch.device("cpu"), dataclasses.replace(SHORT, iterations=iterations))
        for iterations in (1, 2)
    ]
    for estimate in estimates:
        estimate(photograph, 2, seed=0)
    once, twice = (critic.state_dict() for critic in watched)
    stayed = [name for name in once if torch.equal(once[name], twice[name])]
    assert stayed == ["last.bias"]  # which real and fake patches share


def test_the_command_hands_float32_on(photograph, tmp_path, monkeypatch, watched):
    monkeypatch.setattr(estimator, "gains_from_bfloat16", lambda device: True)
    write_image(tmp_path / "a.png", to_uint8(photograph))
    short = ["--iterations", "1", "--frozen-iterations", "0", "--crops-per-step", "2", "-i", str(tmp_path / "a.png")]
    for extra in ([], ["--float32"]):
        monkeypatch.setattr("sys.argv", ["main.py", *short, "-o", str(tmp_path / f"out{len(extra)}"), *extra])
        assert KernelGANFKP.main.main() == 0
    assert [critic.dtype for critic in watched] == [torch.bfloat16, torch.float32]
