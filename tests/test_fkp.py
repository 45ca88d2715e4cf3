import math

import numpy as np
import pytest
import scipy.stats
import torch

from blindsr.checkpoints import load_checkpoint
from blindsr.kernels import kernel_side, random_kernels
from blindsr.paths import pretrained_path
from FKP import KernelPrior, SphericalAdam, project_to_sphere
from FKP.flow import NormalizingFlow
from FKP.sources import Family, validation_grid
from FKP.training import PriorSettings, negative_log_likelihood, normal_reference, train

OFFICIAL = (2, 3, 4)
SHIPPED = (2, 3, 4, 8)


@pytest.fixture
def official(reference):
    """official(s) → the prior with the official weights."""
    return lambda s: KernelPrior.from_pretrained(s, reference / "pretrained_models" / f"FKP_x{s}.pt")


@pytest.mark.parametrize("scale_factor", OFFICIAL)
def test_flow_matches_the_release(golden, official, scale_factor):
    archive, prior = golden(f"flow_x{scale_factor}"), official(scale_factor)
    values = {name: torch.from_numpy(archive[name]) for name in archive.files if archive[name].ndim}
    x = prior.net.inverse(values["z"])
    torch.testing.assert_close(x, values["x"])
    torch.testing.assert_close(prior._from_logits(x), values["kernel"])
    tolerance = {"rtol": 1e-4, "atol": 1e-3}
    u, log_det = prior.net(values["x"])
    torch.testing.assert_close(u, values["u"], **tolerance)
    torch.testing.assert_close(-log_det, values["inverse_logdet"], **tolerance)
    torch.testing.assert_close(prior.log_prob_logits(values["x"]), values["log_prob_x"], **tolerance)
    torch.testing.assert_close(prior.net(values["logits"])[0], values["u_logits"], **tolerance)
    torch.testing.assert_close(prior.log_prob_logits(values["logits"]), values["log_prob_logits"], **tolerance)
    torch.testing.assert_close(KernelPrior(scale_factor).normalization, values["normalization"])


def test_spherical_adam_matches_the_release(golden):
    archive = golden("dip")
    code = torch.from_numpy(archive["code0"]).requires_grad_()
    optimizer = SphericalAdam([code], lr=0.5)
    for expected in archive["code_after_steps"]:
        optimizer.zero_grad()
        (code - torch.from_numpy(archive["target"])).square().sum().backward()
        optimizer.step()
        np.testing.assert_allclose(code.detach(), expected, atol=2e-6)


@pytest.fixture
def small_flow():
    """A flow over 9 numbers in float64 with non-trivial weights and statistics, in evaluation mode."""
    flow = NormalizingFlow(dimension=9, hidden=6, blocks=3).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in flow.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    flow.train()
    for _ in range(50):
        flow(2 + torch.randn(100, 9, generator=generator, dtype=torch.float64))
    return flow.eval()


def test_inverse_undoes_forward(small_flow):
    x = torch.randn(7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(small_flow.inverse(small_flow(x)[0]), x)


def test_log_determinant_is_that_of_autograds_jacobian(small_flow):
    x = torch.randn(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    _, log_det = small_flow(x)
    for row, expected in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: small_flow(v[None])[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, expected)


@pytest.mark.parametrize("scale_factor", SHIPPED)
def test_shipped_prior_makes_kernels(scale_factor):
    prior = KernelPrior.from_pretrained(scale_factor)
    samples = prior.sample(64, torch.Generator().manual_seed(0))
    side = kernel_side(scale_factor)
    assert samples.shape == (64, 1, side, side)
    assert (samples >= 0).all()
    torch.testing.assert_close(samples.sum((1, 2, 3)), torch.ones(64))
    torch.testing.assert_close(prior.sample(64, torch.Generator().manual_seed(0)), samples)
    kernels = random_kernels(64, scale_factor, torch.Generator().manual_seed(1))
    # Encoding adds the mean of the dequantisation noise, 0.5/720 of N, to every pixel; normalising spreads it.
    raised = kernels + 0.5 / 720 * prior.normalization
    raised = raised / raised.sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(prior.decode(prior.encode(kernels)), raised, atol=2e-5, rtol=1e-3)
    noise = torch.rand_like(kernels)
    assert prior.log_prob(kernels).min() > prior.log_prob(noise / noise.sum((1, 2, 3), keepdim=True)).max()


@pytest.mark.parametrize("scale_factor", OFFICIAL)
def test_shipped_prior_is_at_least_as_likely_as_the_official_one(official, scale_factor):
    kernels = validation_grid(scale_factor)
    ours, _ = negative_log_likelihood(KernelPrior.from_pretrained(scale_factor), kernels)
    theirs, _ = negative_log_likelihood(official(scale_factor), kernels)
    assert ours <= theirs


def test_decoded_kernels_sum_to_one_with_official_weights(official):
    latent = project_to_sphere(torch.randn(32, 361, generator=torch.Generator().manual_seed(0)))
    kernels = official(4).decode(latent)
    torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(32))


def test_decode_is_differentiable_in_the_latent():
    prior = KernelPrior.from_pretrained(2)
    latent = prior.initial_latent().requires_grad_()
    prior.decode(latent)[0, 0, 5, 5].backward()
    assert latent.grad is not None
    assert latent.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in prior.parameters())


def test_the_sphere_has_radius_side_minus_one():
    latent = project_to_sphere(torch.randn(5, 121, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(latent.norm(dim=1), torch.full((5,), 10.0))
    start = KernelPrior.from_pretrained(3).initial_latent()
    assert float(start.norm()) == pytest.approx(14, abs=1e-3)


def test_validation_grid_is_the_published_one():
    lambdas = len(np.arange(0.35, 5.3, 0.3))
    assert len(validation_grid(2)) == lambdas**2 * len(np.arange(0, math.pi, 0.2))


GAUSSIAN2 = Family("gaussian", 2)
SHORT = PriorSettings(epochs=4, kernels_per_epoch=2000, validate_every=2)


def test_training_makes_kernels_likelier(tmp_path):
    kernels = validation_grid(2)[::20]
    untrained, _ = negative_log_likelihood(KernelPrior(2), kernels)
    trained, _ = negative_log_likelihood(train(GAUSSIAN2, SHORT, tmp_path, torch.device("cpu")), kernels)
    assert trained < untrained - 20
    best = KernelPrior.from_pretrained(2, tmp_path / "FKP_x2_best.pt")
    assert negative_log_likelihood(best, kernels)[0] < untrained - 20


def test_a_likelihood_that_is_not_finite_ends_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("FKP.training.negative_log_likelihood", lambda prior, kernels: (math.nan, math.nan))
    monkeypatch.setattr("FKP.training.calibrate", lambda *_: None)
    settings = PriorSettings(epochs=1, kernels_per_epoch=200)
    with pytest.raises(ValueError, match="diverged in epoch 1; use a smaller --learning-rate"):
        train(GAUSSIAN2, settings, tmp_path, torch.device("cpu"))
    assert not list(tmp_path.iterdir())


def test_a_normal_distribution_is_the_yardstick():
    prior, disks = KernelPrior.from_pretrained(2), Family("disk", 2)
    generator = torch.Generator().manual_seed(1)
    drawn = prior._to_logits(disks.draw(20_000, generator), generator).double()
    held_out = prior._to_logits(disks.held_out(), generator).double()
    normal = scipy.stats.multivariate_normal(drawn.mean(dim=0).numpy(), np.cov(drawn.numpy().T))
    assert normal_reference(prior, disks) == pytest.approx(-normal.logpdf(held_out.numpy()).mean(), abs=2)
    assert negative_log_likelihood(prior, disks.held_out())[0] > 1000  # of Gaussians, it knows none


def test_a_resumed_training_is_exactly_the_unbroken_one(tmp_path):
    whole = train(GAUSSIAN2, SHORT, tmp_path / "whole", torch.device("cpu"))

    class Stop(Exception):
        pass

    def interrupt(entry):
        if entry["epoch"] == 3:  # an epoch after the last checkpoint
            raise Stop

    with pytest.raises(Stop):
        train(GAUSSIAN2, SHORT, tmp_path / "part", torch.device("cpu"), on_epoch=interrupt)
    last = tmp_path / "part" / "FKP_x2_last.pt"
    assert load_checkpoint(last)["epoch"] == 2
    resumed = train(GAUSSIAN2, SHORT, tmp_path / "part", torch.device("cpu"), resume=last)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_finished_training_is_not_resumed(tmp_path):
    train(GAUSSIAN2, SHORT, tmp_path, torch.device("cpu"))
    with pytest.raises(ValueError, match="finished"):
        train(GAUSSIAN2, SHORT, tmp_path, torch.device("cpu"), resume=tmp_path / "FKP_x2_last.pt")


def test_density_of_a_single_peak_is_finite_and_low():
    prior = KernelPrior.from_pretrained(2)
    peak = torch.zeros(1, 1, 11, 11)
    peak[..., 5, 5] = 1
    usual = random_kernels(20, 2, torch.Generator().manual_seed(0))
    assert torch.isfinite(prior.log_prob(peak)).all()
    assert prior.log_prob(peak) < prior.log_prob(usual).min()
    with pytest.raises(ValueError, match="takes N×1×11×11"):
        prior.log_prob(torch.rand(1, 1, 15, 15))


def test_resuming_with_other_settings_is_refused(tmp_path):
    train(GAUSSIAN2, PriorSettings(epochs=1, kernels_per_epoch=200), tmp_path, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"FKP_x2_last\.pt"):
        train(Family("gaussian", 3), SHORT, tmp_path, torch.device("cpu"), resume=tmp_path / "FKP_x2_last.pt")


def test_bad_weights_are_refused_in_one_line(tmp_path, evil_pickle):
    with pytest.raises(ValueError, match=r"11×11 kernels, x4 has 19×19"):
        KernelPrior.from_pretrained(4, pretrained_path("FKP_x2.pt"))
    with pytest.raises(ValueError, match="not the weights"):
        KernelPrior.from_pretrained(4, pretrained_path("usrnet_tiny.pth"))
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        KernelPrior.from_pretrained(4, tmp_path / "absent.pt")
    with pytest.raises(ValueError, match=r"evil\.pt"):
        KernelPrior.from_pretrained(2, evil_pickle)
    assert not (tmp_path / "executed").exists()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(pretrained_path("FKP_x2.pt").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.pt"):
        KernelPrior.from_pretrained(2, cut)


def test_a_batch_left_over_is_refused():
    """Of one kernel, batch normalisation would make no number."""
    with pytest.raises(ValueError, match="--kernels-per-epoch 201"):
        PriorSettings(kernels_per_epoch=201)
