import copy
import dataclasses

import numpy as np
import pytest
import torch

from blindsr.degradation import degrade
from blindsr.kernels import centre, centre_of_mass, gaussian_kernels, kernel_x4_from_x2, normalize
from blindsr.search_log import SearchLog
from FKP import KernelPrior
from KernelGANFKP.crops import CropSampler, crop_probabilities, gradient_map, half_size
from KernelGANFKP.estimator import GANEstimator, GANSettings, estimate, preset, pretrained_estimator
from KernelGANFKP.losses import bicubic_loss, boundary_weights, gradient_penalty, kernel_losses, post_process
from KernelGANFKP.networks import Critic, Discriminator, LinearGenerator
from KernelGANFKP.search import LatentSearch
from KernelPredictor import KernelPredictor
from KernelPredictor.predictor import Prediction

SHORT = GANSettings(iterations=4, crops_per_step=8, shave=0)


@pytest.fixture
def release(golden):
    return golden("kernelgan")


@pytest.fixture(scope="module")
def prior():
    return KernelPrior.from_pretrained(2)


@pytest.fixture(scope="module")
def lr(photograph):
    variances = torch.tensor([1.2])
    return degrade(photograph, gaussian_kernels(variances, variances, torch.zeros(1), 11, 2), 2)


def image_of(release):
    return torch.from_numpy(release["image_uint8"]).permute(2, 0, 1)[None].double() / 255


def test_half_size_matches_the_release_inside_the_border(release):
    half = half_size(image_of(release))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(half[3:-3, 3:-3], release["imresize_half"][3:-3, 3:-3], atol=1e-4, rtol=0)


def test_gradient_map_matches_the_release(release):
    np.testing.assert_allclose(gradient_map(image_of(release)), release["gradient_map"], atol=1e-8, rtol=0)


def test_crop_probabilities_match_the_release(release):
    ours = crop_probabilities(release["gradient_map"], 26)
    np.testing.assert_allclose(ours.ravel(), release["probability_map_crop26"], atol=1e-12, rtol=0)


def test_kernel_losses_match_the_release(release):
    np.testing.assert_allclose(boundary_weights(13), release["penalty_mask_13"], atol=1e-12, rtol=0)
    losses = kernel_losses(torch.from_numpy(release["kernel13"])[None, None])
    names = {"sum": "sum2one", "boundary": "boundaries", "centre": "centralized", "sparsity": "sparse"}
    for ours, theirs in names.items():
        assert float(losses[ours]) == pytest.approx(float(release[theirs]), abs=1e-6, rel=1e-5)


def test_bicubic_loss_matches_the_release(release):
    patches, downsampled = torch.from_numpy(release["g_input"]), torch.from_numpy(release["g_output"])
    assert float(bicubic_loss(patches, downsampled)) == pytest.approx(float(release["bicubic_loss"]), rel=1e-5)


def test_post_processing_matches_the_release(release):
    ours = post_process(torch.from_numpy(release["kernel13"])[None, None])
    np.testing.assert_allclose(ours[0, 0], release["post_processed_11"], atol=1e-6, rtol=0)


def test_the_linear_generators_kernel_does_what_its_layers_do():
    generator = LinearGenerator(torch.Generator().manual_seed(0))
    patches = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    layered = generator.layers(patches)[..., ::2, ::2]
    at_once = torch.nn.functional.conv2d(patches, generator.kernel(), stride=2)
    torch.testing.assert_close(at_once, layered, atol=1e-6, rtol=1e-3)
    assert generator.kernel().shape[-1] == LinearGenerator.kernel_side


def test_the_networks_are_drawn_from_the_generator_alone():
    patches = torch.rand(2, 3, 27, 27, generator=torch.Generator().manual_seed(1))
    for network, shape in ((Critic, (2, 1, 17, 17)), (Discriminator, (2, 1, 21, 21))):
        torch.manual_seed(3)
        first = network(torch.Generator().manual_seed(0)).eval()(patches)
        torch.manual_seed(4)
        second = network(torch.Generator().manual_seed(0)).eval()(patches)
        assert first.shape == shape
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_the_gradient_penalty_is_that_of_a_linear_critic():
    class Linear(torch.nn.Module):
        def forward(self, x):
            return (x * torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1, 1)).sum(1, keepdim=True)

    real, fake = torch.rand(2, 2, 3, 5, 5)
    assert float(gradient_penalty(Linear(), real, fake, 0.3)) == pytest.approx((5 - 1) ** 2)


def test_crops_start_at_even_pixels_and_where_the_probability_is():
    image = torch.arange(60 * 80.0).view(1, 1, 60, 80)
    probabilities = np.zeros((60, 80))
    probabilities[31, 41] = probabilities[0, 79] = 0.5
    crops = CropSampler(image, probabilities, 20).draw(64, torch.Generator().manual_seed(0))
    assert crops.shape == (64, 1, 20, 20)
    corners = {divmod(int(corner), 80) for corner in crops[:, 0, 0, 0]}
    assert corners == {(20, 30), (0, 60)}
    row, col = 20, 30
    inside = crops[crops[:, 0, 0, 0] == row * 80 + col][0, 0]
    assert torch.equal(inside, image[0, 0, row : row + 20, col : col + 20])


def test_a_flat_picture_is_cropped_everywhere():
    energy = gradient_map(torch.full((1, 3, 60, 80), 0.5))
    np.testing.assert_allclose(energy, 1)
    probabilities = crop_probabilities(energy, 20)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities.min() >= 0


@pytest.mark.parametrize("total", [1, 12, 13, 20, 23, 150, 1000])
def test_a_search_is_drawn_a_dozen_times_besides_its_start(total):
    log = SearchLog(total, None, "")
    log.kernel(torch.ones(1, 1, 3, 3))
    for _ in range(total):
        log.step(torch.tensor(1.0))
        log.kernel(torch.ones(1, 1, 3, 3))
    log.kernel(torch.ones(1, 1, 3, 3), last=True)
    done = [iterations for iterations, _ in log.of()["path"]]
    assert done[0] == 0
    assert done[-1] == total
    assert min(total, 7) <= len(done) - 1 <= 12
    assert done == sorted(set(done))


@pytest.mark.parametrize("model", ["KernelGANFKP", "KernelGAN"])
def test_a_seed_gives_one_kernel_that_sums_to_one(lr, prior, model):
    torch.manual_seed(7)
    first = estimate(lr, 2, prior=prior, settings=SHORT, model=model, seed=1)
    torch.manual_seed(8)
    second = estimate(lr, 2, prior=prior, settings=SHORT, model=model, seed=1)
    other = estimate(lr, 2, prior=prior, settings=SHORT, model=model, seed=2)
    assert torch.equal(first.kernel, second.kernel)
    assert first.losses == second.losses
    assert not torch.equal(first.kernel, other.kernel)
    assert first.kernel.shape == (1, 1, 11, 11)
    assert float(first.kernel.sum()) == pytest.approx(1, abs=1e-5)
    assert len(first.losses) == len(first.critic_losses) == 4
    assert first.image is None
    assert first.path[0][0] == 0
    assert first.path[-1][0] == 4
    # KernelGAN does not start at a kernel.
    assert (first.relative_change is None) if model == "KernelGAN" else (first.relative_change > 0)


@pytest.mark.parametrize("model", ["KernelGANFKP", "KernelGAN"])
def test_the_x4_kernel_follows_from_the_x2_one(lr, prior, model):
    x2 = estimate(lr, 2, prior=prior, settings=SHORT, model=model).kernel
    x4 = estimate(lr, 4, prior=prior, settings=SHORT, model=model).kernel
    torch.testing.assert_close(x4, normalize(centre(kernel_x4_from_x2(x2), 4)))
    assert x4.shape == (1, 1, 21, 21)
    assert (centre_of_mass(x4) - 8.5).abs().max() < 0.1


def test_the_x4_search_starts_at_the_x2_kernel_behind_the_predicted_blur(prior):
    class Seen(KernelPredictor):
        def predict(self, lr, scale_factor, share=1.0):
            variance = torch.tensor([share * 2.5])
            kernel = gaussian_kernels(variance, variance, torch.zeros(1), 11, scale_factor)
            return Prediction(kernel, 0.07)

    image = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    settings = dataclasses.replace(SHORT, start="predicted", frozen_iterations=3, kernel_rate=1e-6)
    for scale_factor, variance in ((2, 2.5), (4, 5 * 0.8 * 2.5)):
        found = estimate(image, scale_factor, prior=prior, predictor=Seen(), settings=settings)
        assert found.expected_error == 0.07
        steps = torch.arange(found.kernel.shape[-1]) - (found.kernel.shape[-1] - scale_factor) / 2
        assert float((found.kernel[0, 0].sum(0) * steps**2).sum()) == pytest.approx(variance, rel=0.05)


def test_small_pictures_get_smaller_crops_and_say_so(lr, prior):
    found = estimate(lr[..., :40, :70], 4, prior=prior, settings=SHORT)
    assert len(found.notes) == 1
    assert "crops of 32" in found.notes[0]
    assert estimate(lr[..., :100, :100], 4, prior=prior, settings=SHORT).notes == ()
    with pytest.raises(ValueError, match="too small"):
        estimate(lr[..., :39, :70], 2, prior=prior, settings=SHORT)
    found = estimate(lr[..., :57, :86], 4, prior=prior, settings=dataclasses.replace(SHORT, shave=10))
    assert "8 instead of 10 pixels" in found.notes[1]


@pytest.mark.parametrize("scale_factor", [3, 8])
def test_other_scales_are_refused(lr, prior, scale_factor):
    with pytest.raises(ValueError, match="x2"):
        estimate(lr, scale_factor, prior=prior, settings=SHORT)


def test_the_papers_preset():
    assert preset("paper", "KernelGANFKP", 2) == GANSettings(
        1000, 3, 3, 64, 64, 5e-4, 5e-4, 0.1, False, 0, 0.0, "fixed", 10
    )
    assert preset("paper", "KernelGANFKP", 4).iterations == 4000
    assert preset("paper", "KernelGAN", 2) == GANSettings(3000, crops_per_step=1, critic_rate=2e-4, kernel_rate=2e-4)


def test_settings_and_scales_that_there_are_not(lr):
    changed = {
        "start": "predicted",
        "proximal_weight": 1.0,
        "frozen_iterations": 1,
        "stop_when_converged": True,
        "penalty": 1.0,
    }
    for name, value in changed.items():
        settings = dataclasses.replace(preset("search", "KernelGAN", 2), **{name: value})
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')}"):
            estimate(lr, 2, settings=settings, model="KernelGAN")
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')}"):
            pretrained_estimator(2, torch.device("cpu"), settings, "KernelGAN")
    with pytest.raises(ValueError, match="--sf 3"):
        pretrained_estimator(3, torch.device("cpu"))


def test_the_search_ends_when_the_kernel_rests_and_says_whether_it_does(lr, prior, monkeypatch):
    monkeypatch.setattr("KernelGANFKP.search.WINDOW", 10)
    resting = dataclasses.replace(
        SHORT, iterations=30, crops_per_step=1, critic_steps=1, crop=32, kernel_rate=1e-9, stop_when_converged=True
    )
    found = estimate(lr, 2, prior=prior, settings=resting)
    assert len(found.losses) == 20
    assert found.converged is True
    moving = dataclasses.replace(resting, iterations=21, kernel_rate=0.1)
    found = estimate(lr, 2, prior=prior, settings=moving)
    assert len(found.losses) == 21
    assert found.converged is False
    assert estimate(lr, 2, prior=prior, settings=SHORT).converged is False


def test_kernelgan_says_whether_its_kernel_had_converged(lr, monkeypatch):
    for name, value in {"baseline.WINDOW": 3, "search.WINDOW": 3, "search.TOLERANCE": 1e9}.items():
        monkeypatch.setattr(f"KernelGANFKP.{name}", value)
    for iterations in (5, 8):  # two windows of kernels are needed
        settings = GANSettings(iterations=iterations, crops_per_step=1, crop=32, shave=0)
        assert estimate(lr, 2, settings=settings, model="KernelGAN").converged is (iterations == 8)


@pytest.mark.parametrize("scale_factor", [2, 4])
def test_the_prediction_can_be_had_without_a_search(lr, prior, scale_factor):
    predictor = KernelPredictor.from_pretrained()
    settings = preset("prediction", "KernelGANFKP", scale_factor)
    alone = estimate(lr, scale_factor, prior=prior, predictor=predictor, settings=settings)
    assert (alone.losses, alone.relative_change, alone.converged) == ([], 0, None)
    searched = dataclasses.replace(settings, iterations=1, frozen_iterations=0, crops_per_step=2)
    found = estimate(lr, scale_factor, prior=prior, predictor=predictor, settings=searched)
    assert torch.equal(alone.path[0][1], found.path[0][1])
    small = estimate(lr[..., :20, :30], scale_factor, prior=prior, predictor=predictor, settings=settings)
    assert small.notes == ()  # crops are the search's
    with pytest.raises(ValueError, match="--preset prediction"):
        preset("prediction", "KernelGAN", scale_factor)
    with pytest.raises(ValueError, match="--iterations 0"):
        dataclasses.replace(SHORT, iterations=0)


def test_proximal_term_and_frozen_iterations_hold_the_kernel(lr, prior):
    free = dataclasses.replace(SHORT, iterations=12, crops_per_step=2, critic_steps=1, crop=32, kernel_rate=0.05)
    relative_changes = {}
    for weight in (0.0, 1e4):
        settings = dataclasses.replace(free, proximal_weight=weight)
        relative_changes[weight] = estimate(lr, 2, prior=prior, settings=settings).relative_change
    assert relative_changes[1e4] < 0.7 * relative_changes[0.0]
    frozen = estimate(lr, 2, prior=prior, settings=dataclasses.replace(free, frozen_iterations=11))
    assert 0 < frozen.relative_change < relative_changes[0.0]
    assert torch.equal(frozen.path[-2][1], frozen.path[0][1])


def test_a_predicted_start_needs_a_predictor(lr, prior):
    settings = dataclasses.replace(SHORT, start="predicted", iterations=1)
    with pytest.raises(ValueError, match="predictor"):
        estimate(lr, 2, prior=prior, settings=settings)
    predictor = KernelPredictor.from_pretrained()
    found = estimate(lr, 2, prior=prior, predictor=predictor, settings=settings)
    predicted = predictor.predict(lr, 2).kernel
    assert float((found.path[0][1] - predicted).norm() / predicted.norm()) < 0.02


@pytest.fixture
def drawn(monkeypatch):
    """What each iteration draws: numbers of crops and shares of the penalty, a row for each picture."""
    seen, step = [], LatentSearch._step

    def seeing(self, draws, moving):
        seen.append([values.clone() for values in draws])
        return step(self, draws, moving)

    monkeypatch.setattr(LatentSearch, "_step", seeing)
    return seen


def parts(lr):
    """Of three sizes, with crops of one."""
    return [lr[..., rows, cols] for rows, cols in ((slice(60), slice(64)), (slice(20, 84), slice(10, 66)))] + [
        lr[..., 40:100, 60:140]
    ]


def test_pictures_searched_as_one_come_out_as_they_do_alone(lr, prior, double_precision, drawn, monkeypatch):
    """With the same draws, each to its own end; to rounding, in float64."""
    monkeypatch.setattr("KernelGANFKP.search.WINDOW", 4)
    monkeypatch.setattr("KernelGANFKP.search.BLOCK", 5)
    settings = GANSettings(14, 1, 2, 2, crop=32, kernel_rate=0.015, stop_when_converged=True, frozen_iterations=2)
    settings = dataclasses.replace(settings, shave=0, proximal_weight=1.0)
    estimator = GANEstimator(settings, copy.deepcopy(prior).double(), float32=True)
    lrs, seeds = [part.double() for part in parts(lr)], (5, 6, 7)
    together, together_drawn = estimator.batch(lrs, 4, seeds=seeds), drawn.copy()
    ends = []
    for picture, (part, seed, found) in enumerate(zip(lrs, seeds, together, strict=True)):
        drawn.clear()
        alone = estimator(part, 4, seed=seed)
        ends.append((len(alone.losses), alone.converged))
        for ours, theirs in zip(together_drawn, drawn, strict=False):
            assert all(torch.equal(one[picture], other[0]) for one, other in zip(ours, theirs, strict=True))
        torch.testing.assert_close(found.kernel, alone.kernel, atol=1e-9, rtol=0)
        assert found.losses == pytest.approx(alone.losses, rel=1e-9)
        assert found.critic_losses == pytest.approx(alone.critic_losses, rel=1e-9)
        assert (found.seed, found.converged, found.notes) == (seed, alone.converged, alone.notes)
        for (done, kernel), (done_alone, kernel_alone) in zip(found.path, alone.path, strict=True):
            assert done == done_alone
            torch.testing.assert_close(kernel, kernel_alone, atol=1e-9, rtol=0)
    assert len(set(ends)) > 1


@pytest.mark.parametrize("name", ["search", "prediction"])
def test_the_search_of_several_starts_where_each_is_predicted(lr, prior, name):
    """In float32, which the search amplifies: see the documentation."""
    settings = preset(name, "KernelGANFKP", 2)
    if settings.iterations:
        settings = dataclasses.replace(settings, iterations=3, frozen_iterations=1, crops_per_step=4, crop=32)
    estimator = GANEstimator(settings, prior, KernelPredictor.from_pretrained(), float32=True)
    lrs = parts(lr)
    for part, found in zip(lrs, estimator.batch(lrs, 2, seeds=[0, 0, 0]), strict=True):
        alone = estimator(part, 2, seed=0)
        torch.testing.assert_close(found.path[0][1], alone.path[0][1], atol=1e-5, rtol=0)
        torch.testing.assert_close(found.kernel, alone.kernel, atol=1e-5, rtol=0)
        assert found.losses == pytest.approx(alone.losses, rel=1e-4)
        assert found.critic_losses == pytest.approx(alone.critic_losses, rel=1e-4, abs=1e-5)
        assert (found.expected_error, found.spread, found.sigma) == (alone.expected_error, alone.spread, alone.sigma)


def test_only_pictures_with_crops_of_one_size_are_searched_as_one(lr, prior):
    lrs = [lr, lr[..., :100, :], lr[..., :50, :], lr[..., :60, :60]]
    searching = GANEstimator(dataclasses.replace(SHORT, crop=48), prior)
    predicting = dataclasses.replace(searching, settings=preset("prediction", "KernelGANFKP", 2))
    for estimator, same in ((searching, [0, 0, 2, 0]), (predicting, [0, 0, 0, 0])):
        keys = [estimator.batch_key(each, 2) for each in lrs]
        assert [keys.index(key) for key in keys] == same
        assert estimator.at_once(lr, 2) == 1  # on a CPU
    with pytest.raises(ValueError, match="different sizes"):
        searching.batch(lrs, 2, seeds=[0] * 4)
    with pytest.raises(ValueError, match="too small"):
        searching.batch_key(lr[..., :39, :], 2)
    baseline = GANEstimator(SHORT, model="KernelGAN")
    assert baseline.batch_key(lr, 2) != baseline.batch_key(lr, 2)
