import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from blindsr.training.loop import Training, TrainingSettings, fit, process_rank, step_generator, training_device
from blindsr.training.optimizers import MuonAdam

PICTURES = [torch.zeros(3, 8, 8, dtype=torch.uint8)]
SHORT = TrainingSettings(4, 1e-2, 1e-2, clip=1.0, held_out=1, sigma_max=0.0, warmup=1, validate_every=2)


def network(channels_last=False):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 2, stride=2),
        nn.Conv2d(16, 3, 1),
    )
    return net.to(memory_format=torch.channels_last) if channels_last else net


def loss_of(net, generator):
    return F.mse_loss(net(torch.rand(2, 3, 8, 8, generator=generator)), torch.rand(2, 3, 16, 16, generator=generator))


def test_muon_takes_the_hidden_convolutions_and_adam_the_rest():
    net = network()
    optimizer = MuonAdam(net, 1e-3, 1e-2)
    assert [parameter.shape for parameter in optimizer.hidden] == [net[1].weight.shape, net[3].weight.shape]
    before = [parameter.detach().clone() for parameter in net.parameters()]
    loss_of(net, torch.Generator().manual_seed(1)).backward()
    optimizer.step(0.5)
    changes = [float((a - b.detach()).abs().max()) for a, b in zip(before, net.parameters(), strict=True)]
    assert all(change > 0 for change in changes)
    assert changes[0] == pytest.approx(5e-4, rel=1e-3)  # Adam's first step is its rate, whatever the gradient
    # Muon's has nearly equal singular values (but for dead channels), so large that its entries have
    # a root mean square of 0.2 rates
    step = (net[1].weight - before[2]).detach().flatten(1)
    singular = torch.linalg.svdvals(step)
    assert singular.median() > 0.5 * singular.max()
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2 * 5e-3, rel=0.2)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_memory_format_makes_no_difference():
    plain, channels_last = network(), network(channels_last=True)
    for net in (plain, channels_last):
        optimizer = MuonAdam(net, 1e-3, 1e-3)
        for seed in range(3):
            loss_of(net, torch.Generator().manual_seed(seed)).backward()
            optimizer.step()
    for a, b in zip(plain.parameters(), channels_last.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_draws_differ_between_seeds_steps_and_processes():
    keys = [(0, 1, 0), (0, 0, 1), (1, 0, 0)]
    draws = {float(torch.rand((), generator=step_generator(*key))) for key in keys}
    assert len(draws) == 3


def train_in_one_of_several_processes(folder):
    """What torchrun starts this file for: train, and leave the weights and the draws' seeds in ``folder``."""
    net, seeds = network(), []

    def draw_loss(model, generator):
        seeds.append(generator.initial_seed())
        return loss_of(model, generator)

    with training_device("cpu"):
        training = Training(net, network(), draw_loss, lambda: {2: 0.0}, "weights.pth", "score")
        fit(training, SHORT, PICTURES, folder)
        torch.save({"net": net.state_dict(), "seeds": seeds}, folder / f"process{process_rank()}.pt")


@pytest.mark.slow
@pytest.mark.extended
def test_two_processes_take_the_mean_gradient_of_different_draws(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"process{rank}.pt", weights_only=True) for rank in range(2))
    assert not set(first["seeds"]) & set(second["seeds"])
    assert {path.name for path in tmp_path.iterdir()} >= {"last.pt", "best.pth", "weights.pth", "training.png"}

    def both(model, generator):
        step = first["seeds"].index(generator.initial_seed())
        return (loss_of(model, generator) + loss_of(model, step_generator(SHORT.seed, step, 1))) / 2

    alone = network()
    training = Training(alone, network(), both, lambda: {2: 0.0}, "weights.pth", "score")
    fit(training, SHORT, PICTURES, tmp_path / "alone")
    for (name, expected), a, b in zip(
        alone.state_dict().items(), first["net"].values(), second["net"].values(), strict=True
    ):
        assert torch.equal(a, b), name
        torch.testing.assert_close(a, expected, atol=1e-5, rtol=1e-4)


if __name__ == "__main__":
    train_in_one_of_several_processes(Path(sys.argv[1]))
