import copy
import dataclasses
import re

import cv2
import numpy as np
import pytest
import torch
from skimage.registration import phase_cross_correlation

import DIPFKP.estimator
from blindsr.degradation import border, degrade
from blindsr.estimation import place
from blindsr.images import read_image
from blindsr.kernels import centre_of_mass, gaussian_kernels, kernel_side
from blindsr.metrics import kernel_psnr
from DIPFKP.estimator import DIPEstimator, DIPSettings, estimate, preset, pretrained_estimator, ssim, textured_crop
from DIPFKP.fit import Fit
from DIPFKP.network import ImagePrior, scales_for
from FKP import KernelPrior
from FKP.prior import FlowShape
from KernelPredictor import KernelPredictor

SHORT = DIPSettings(
    iterations=20,
    ssim_iterations=4,
    frozen_iterations=4,
    channels=16,
    non_local=False,
    crop=96,
    kernel_rate=0.5,
)


@pytest.fixture(scope="module")
def blurred(picture):
    """LR picture at x2 and its kernel, narrower than the one the search starts from."""
    variances = torch.tensor([0.6])
    kernel = gaussian_kernels(variances, variances, torch.zeros(1), kernel_side(2), 2)
    return degrade(picture, kernel, 2), kernel


@pytest.fixture(scope="module")
def prior():
    return KernelPrior.from_pretrained(2)


def test_papers_network_has_the_papers_size(golden):
    parameters = sum(parameter.numel() for parameter in ImagePrior().parameters())
    assert parameters == int(golden("dip")["dip_parameters"])


def test_ssim_matches_the_release(golden):
    archive = golden("dip")
    value = float(ssim(torch.from_numpy(archive["x"]), torch.from_numpy(archive["y"])))
    assert value == pytest.approx(float(archive["ssim_zero_padded"]), abs=1e-6)


def test_paper_preset_is_the_papers():
    assert preset("paper") == DIPSettings(
        1000, 80, 75, 128, True, 960, "centre", 5e-3, 0.5, 0.0, None, None, "fixed", True
    )
    with pytest.raises(ValueError, match="DoubleDIP has no predicted start"):
        preset("prediction", "DoubleDIP")
    with pytest.raises(ValueError, match="--preset papers: must be one of prediction, search, paper"):
        preset("papers")


def test_the_prediction_alone_is_where_the_search_starts(blurred, prior):
    predictor = KernelPredictor.from_pretrained()
    searches = [dataclasses.replace(preset("search"), iterations=n, frozen_iterations=0, channels=8) for n in (0, 1)]
    assert searches[0] == dataclasses.replace(preset("prediction"), frozen_iterations=0, channels=8)
    alone, started = (
        estimate(blurred[0], 2, prior=prior, predictor=predictor, settings=settings) for settings in searches
    )
    assert torch.equal(alone.kernel, started.path[0][1])
    assert not torch.equal(alone.kernel, started.kernel)
    assert (alone.losses, alone.relative_change, alone.expected_error) == ([], 0, started.expected_error)


def test_the_prediction_alone_has_a_picture_too(blurred, prior):
    settings = dataclasses.replace(preset("prediction"), image_iterations=2, image_channels=8)
    predictor = KernelPredictor.from_pretrained()
    found = estimate(blurred[0], 2, prior=prior, predictor=predictor, settings=settings, want_image=True)
    assert found.image is not None
    assert found.image.shape == (1, 3, 72, 96)
    assert len(found.losses) == 2


def test_no_iterations_need_a_prediction(blurred):
    with pytest.raises(ValueError, match="--iterations 0"):
        DIPSettings(iterations=0, frozen_iterations=0)
    with pytest.raises(ValueError, match="--model DIPSoftmax: it has no predicted start"):
        estimate(blurred[0], 2, model="DIPSoftmax", settings=preset("prediction"))


@pytest.mark.parametrize("size", [(3, 3), (3, 5), (21, 21), (33, 50), (72, 96)])
def test_network_keeps_every_size(size):
    network = ImagePrior(channels=8, scales=scales_for(*size), skip=4)
    assert network(torch.rand(1, 3, *size)).shape == (1, 3, *size)


def test_twenty_iterations_improve_the_kernel(blurred, prior):
    lr, kernel = blurred
    start = prior.decode(prior.initial_latent())
    found = estimate(lr, 2, prior=prior, settings=SHORT)
    assert kernel_psnr(found.kernel, kernel) > kernel_psnr(start, kernel) + 0.1
    assert float(found.kernel.sum()) == pytest.approx(1, abs=1e-5)
    assert len(found.losses) == 20
    assert found.losses[-1] < found.losses[4]
    assert found.image is None


def test_a_seed_gives_one_result_and_disturbs_nobody(blurred, prior):
    lr, _ = blurred
    settings = dataclasses.replace(SHORT, iterations=8)
    torch.manual_seed(7)
    undisturbed = torch.rand(3)
    torch.manual_seed(7)
    first = estimate(lr, 2, prior=prior, settings=settings, seed=1)
    second = estimate(lr, 2, prior=prior, settings=settings, seed=1)
    other = estimate(lr, 2, prior=prior, settings=settings, seed=2)
    assert torch.equal(first.kernel, second.kernel)
    assert first.losses == second.losses
    assert not torch.equal(first.kernel, other.kernel)
    assert torch.equal(torch.rand(3), undisturbed)


def test_a_picture_too_large_for_the_memory_is_told_before_the_search(blurred, prior, monkeypatch):
    monkeypatch.setattr(DIPFKP.estimator, "free_memory", lambda device: 2**20)
    settings = dataclasses.replace(SHORT, image_iterations=2)
    steps = []

    def on_step(*step):
        steps.append(step)

    for want_image in (True, False):
        with pytest.raises(ValueError, match=r"GiB.*--SR"):
            estimate(blurred[0], 2, prior=prior, settings=settings, want_image=want_image, on_step=on_step)
    assert not steps
    monkeypatch.setattr(DIPFKP.estimator, "free_memory", lambda device: None)
    assert estimate(blurred[0], 2, prior=prior, settings=settings).image is None


def test_the_layout_is_the_processors_and_changes_nothing(blurred, prior, monkeypatch):
    layouts, images = [], []

    def forward(self, noise, forward=ImagePrior.forward):
        both = noise, self.ups[0][1][0].weight
        layouts.append([tensor.is_contiguous(memory_format=torch.channels_last) for tensor in both])
        images.append(forward(self, noise))
        return images[-1]

    monkeypatch.setattr(ImagePrior, "forward", forward)
    settings = dataclasses.replace(SHORT, iterations=5)
    for avx512 in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda avx512=avx512: {"avx2": True, "avx512_f": avx512})
        estimate(blurred[0], 2, prior=prior, settings=settings)
    assert layouts == [[True, True]] * 5 + [[False, False]] * 5
    assert torch.allclose(images[0], images[5], atol=1e-5)  # before Adam, whose first steps follow signs alone


def test_the_papers_search_runs(blurred, prior):
    settings = dataclasses.replace(preset("paper"), iterations=8, ssim_iterations=5, frozen_iterations=4)
    found = estimate(blurred[0], 2, prior=prior, settings=settings, want_image=True)
    assert len(found.losses) == 8
    assert found.relative_change > 0
    assert float(found.kernel.sum()) == pytest.approx(1, abs=1e-5)
    assert found.image.shape[-2:] == tuple(2 * side for side in blurred[0].shape[-2:])


@pytest.mark.parametrize("model", ["DIPSoftmax", "DoubleDIP"])
def test_baselines_move_their_kernel(blurred, model):
    found = estimate(blurred[0], 2, model=model, settings=SHORT)
    assert found.kernel.shape == (1, 1, 11, 11)
    assert float(found.kernel.sum()) == pytest.approx(1, abs=1e-5)
    shorter = dataclasses.replace(SHORT, iterations=5)
    before = estimate(blurred[0], 2, model=model, settings=shorter)
    assert not torch.allclose(found.kernel, before.kernel)


@pytest.mark.parametrize("model", ["DIPSoftmax", "DoubleDIP"])
def test_of_a_photograph_a_free_centre_is_put_in_place(blurred, prior, model):
    found = estimate(blurred[0], 2, model=model, settings=dataclasses.replace(SHORT, circular=False))
    assert place(found, 2, photograph=False) is found  # as published
    assert (centre_of_mass(found.kernel) - 4.5).abs().max() > 0.2
    placed = place(found, 2, photograph=True)
    assert (centre_of_mass(placed.kernel) - 6.5).abs().max() < 0.05  # of 13×13 at x2, as KernelGAN's release has it
    assert float(placed.kernel.sum()) == pytest.approx(1, abs=1e-5)
    assert not estimate(blurred[0], 2, prior=prior, settings=SHORT).free_centre  # that of Gaussians is held


@pytest.mark.parametrize(
    ("crop", "image_iterations", "image_channels", "total"),
    [(960, None, None, 6), (960, 8, None, 14), (64, None, None, 12), (64, 3, 24, 9)],
)
def test_a_wanted_image_is_that_of_the_whole_picture(blurred, prior, crop, image_iterations, image_channels, total):
    settings = dataclasses.replace(
        SHORT, iterations=6, crop=crop, image_iterations=image_iterations, image_channels=image_channels
    )
    steps = []
    found = estimate(
        blurred[0],
        2,
        prior=prior,
        settings=settings,
        want_image=True,
        on_step=lambda done, total, loss: steps.append((done, total)),
    )
    assert found.image is not None
    assert found.image.shape == (1, 3, 72, 96)
    assert steps[-1][0] == steps[-1][1] == len(found.losses) == total


@pytest.mark.parametrize("iterations", [{"iterations": 50}, {"iterations": 6, "image_iterations": 50}])
def test_a_photograph_ends_at_its_border(picture, blurred, prior, iterations):
    """What lies beyond is fitted too, where a circular border would have to explain it by the opposite one."""
    kernel = blurred[1]
    seen = picture[..., :48, :48]
    lr = degrade(seen, kernel, 2, circular=False)
    beyond = 2 * border(kernel.shape[-1], 2)
    errors = []
    for circular in (True, False):
        first = beyond if circular else beyond - 1  # a photograph's picture lies over it, s − 1 pixels further
        truth = seen[..., first : first + 48 - 2 * beyond, first : first + 48 - 2 * beyond]
        settings = dataclasses.replace(SHORT, crop=960, circular=circular, **iterations)
        found = estimate(lr, 2, prior=prior, settings=settings, want_image=True)
        assert found.image is not None
        assert found.image.shape == truth.shape
        error = (found.image - truth).square()
        errors.append(float(error.sum() - error[..., 6:-6, 6:-6].sum()))
    assert errors[1] < 0.9 * errors[0]


def test_the_crop_is_where_the_texture_is():
    lr = torch.full((1, 3, 60, 80), 0.5)
    lr[..., 30:50, 50:70] = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    marked = lr + torch.arange(60 * 80).view(60, 80) * 1e-6  # so that the crop tells where it was taken
    first = float((textured_crop(marked, 24) - textured_crop(lr, 24))[0, 0, 0, 0]) / 1e-6
    row, col = divmod(round(first), 80)
    assert 26 <= row <= 30
    assert 46 <= col <= 50
    assert textured_crop(lr, 100).shape == lr.shape


@pytest.mark.parametrize(("rows", "seen"), [(7, 7), (12, 12), (13, 7), (64, 58)])
def test_a_thin_picture_is_searched_whole(prior, monkeypatch, rows, seen):
    """A crop's border does not count, and where that would be most of it no crop is taken."""
    fitted = []

    def run(self, log, resumed):
        fitted.append(tuple(self.target.lr.shape[-2:]))

    monkeypatch.setattr(Fit, "run", run)
    estimate(torch.rand(1, 3, rows, 90), 2, prior=prior, settings=dataclasses.replace(SHORT, crop=128))
    assert fitted == [(seen, 90 if rows == seen else 58)]


def test_a_tiny_picture_is_refused(prior):
    with pytest.raises(ValueError, match="at least 6 pixels"):
        estimate(torch.rand(1, 3, 5, 40), 2, prior=prior, settings=SHORT)
    assert np.isfinite(estimate(torch.rand(1, 3, 6, 8), 2, prior=prior, settings=SHORT).losses).all()


PICTURES = [(slice(0, 32), slice(0, 40)), (slice(4, 36), slice(8, 48)), (slice(2, 34), slice(1, 41))]


@pytest.mark.parametrize("model", ["DIPFKP", "DIPSoftmax", "DoubleDIP"])
def test_pictures_searched_as_one_come_out_as_they_do_alone(blurred, prior, double_precision, model):
    settings = dataclasses.replace(
        SHORT, iterations=8, channels=8, non_local=True, image_iterations=3, kernel_rate=0.1, circular=False
    )
    estimator = DIPEstimator(copy.deepcopy(prior).double(), None, settings, model, want_image=True)
    lrs = [blurred[0][..., rows, cols].double() for rows, cols in PICTURES]
    together = estimator.batch(lrs, 2, seeds=[5, 6, 7])
    for lr, seed, found in zip(lrs, (5, 6, 7), together, strict=True):
        alone = estimator(lr, 2, seed=seed)
        assert found.seed == seed
        torch.testing.assert_close(found.kernel, alone.kernel, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.image, alone.image, atol=1e-6, rtol=0)
        assert found.losses == pytest.approx(alone.losses, rel=1e-6)
        assert [done for done, _ in found.path] == [done for done, _ in alone.path]


def test_the_search_of_several_starts_where_each_is_predicted(blurred, prior):
    settings = dataclasses.replace(preset("search"), iterations=2, frozen_iterations=0, channels=8, crop=48)
    estimator = DIPEstimator(prior, KernelPredictor.from_pretrained(), settings)
    lrs = [blurred[0], blurred[0].flip(3)]
    together = estimator.batch(lrs, 2, seeds=[0, 0])
    for lr, found in zip(lrs, together, strict=True):
        alone = estimator(lr, 2, seed=0)
        torch.testing.assert_close(found.path[0][1], alone.path[0][1], atol=1e-4, rtol=0)
        assert found.losses[0] == pytest.approx(alone.losses[0], rel=1e-5)
        assert found.expected_error == alone.expected_error


def test_only_pictures_of_one_size_are_searched_as_one(blurred, prior):
    lr = blurred[0]
    lrs = [lr, lr[..., :30, :40], lr[..., 4:, :], lr]
    whole, cropped = (DIPEstimator(prior, settings=dataclasses.replace(SHORT, crop=crop)) for crop in (960, 40))

    def keys(estimator):
        found = [estimator.batch_key(lr, 2) for lr in lrs]
        return [found.index(key) for key in found]

    assert keys(whole) == keys(dataclasses.replace(cropped, want_image=True)) == [0, 1, 2, 0]
    assert keys(cropped) == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="different sizes"):
        whole.batch(lrs, 2, seeds=[0] * 4)
    assert whole.at_once(lr, 2) == 1  # on a CPU
    steps = []
    found = cropped.batch(lrs[:2], 2, seeds=[0, 1], on_step=lambda *step: steps.append(step))
    assert steps[-1] == (20, 20, pytest.approx(np.mean([each.losses[-1] for each in found])))


@pytest.mark.parametrize("name", ["prediction", "paper"])
def test_the_picture_of_a_photograph_lies_over_it(cases, name):
    """Over the photograph enlarged by OpenCV: fitted by itself, and taken from the joint fit."""
    lr = read_image(cases / "align_box_x2.png")[..., 40:104, 40:104]
    short = (
        {"image_iterations": 60, "image_channels": 16} if name == "prediction" else {"iterations": 60, "channels": 16}
    )
    base = dataclasses.replace(preset(name), circular=False, start="predicted", ssim_iterations=20)
    settings = dataclasses.replace(base, **short, frozen_iterations=50)
    found = pretrained_estimator(2, torch.device("cpu"), settings, want_image=True)(lr, 2, seed=0)
    enlarged = cv2.resize(lr[0, 1].numpy(), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    inside = (slice(8, -8), slice(8, -8))
    shift = phase_cross_correlation(enlarged[inside], found.image[0, 1].numpy()[inside], upsample_factor=50)[0]
    assert np.abs(shift).max() < 0.15


def test_the_time_of_a_large_picture_is_said_beforehand(caplog):
    settings = dataclasses.replace(preset("prediction"), circular=False)
    estimator = pretrained_estimator(2, torch.device("cpu"), settings, want_image=True)

    class Started(Exception):
        pass

    def start(*step):
        raise Started

    with pytest.raises(Started):
        estimator(torch.rand(1, 3, 160, 160), 2, seed=0, on_step=start)
    assert re.search(r"without --SR .* 3\d\d×3\d\d picture, in about \d+ minutes", caplog.text)


def test_kernels_of_any_side_are_searched(blurred):
    lr, _ = blurred
    prior = KernelPrior(2, FlowShape(15, hidden=8, blocks=2), "own").eval().requires_grad_(False)
    predictor = KernelPredictor.from_pretrained()
    settings = dataclasses.replace(SHORT, start="predicted", iterations=6, ssim_iterations=2, frozen_iterations=2)
    found = estimate(lr, 2, prior=prior, predictor=predictor, settings=settings)
    assert found.kernel.shape == (1, 1, 15, 15)
    assert float(found.kernel.sum()) == pytest.approx(1, abs=1e-5)
    nearest = prior.decode(prior.invert(predictor.predict(lr, 2).kernel))
    torch.testing.assert_close(found.path[0][1], nearest)
    # What the predictor expects is said of Gaussians.
    assert found.expected_error is None
    assert found.limits is not None  # a sharp picture is one whatever the prior
    fixed = dataclasses.replace(settings, start="fixed")
    assert estimate(lr, 2, prior=prior, settings=fixed, want_image=True).image.shape[-2:] == (72, 96)
