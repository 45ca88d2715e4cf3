import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from blindsr.degradation import border, degrade, quantize
from blindsr.images import LUMA
from blindsr.kernels import gaussian_kernels, kernel_side, random_kernels, variance_range
from blindsr.metrics import kernel_psnr
from blindsr.paths import pretrained_path
from blindsr.photographs import WHITE_LUMA
from DIPFKP.estimator import DIPSettings, estimate
from FKP import KernelPrior
from KernelPredictor import KernelPredictor
from KernelPredictor import predictor as predicting
from KernelPredictor.covariance import from_log_covariance, to_log_covariance, variances_and_angle
from KernelPredictor.predictor import (
    NOISE_HEADS,
    NOISE_OFFSET,
    SHRINKAGE,
    TILE,
    TILES,
    Prediction,
    _textured_tiles,
)
from KernelPredictor.training import CropSource, PredictorSettings, laplace_loss, train


@pytest.fixture(scope="module")
def predictor():
    return KernelPredictor.from_pretrained()


@pytest.fixture
def photos(picture):
    large = torch.nn.functional.interpolate(picture, scale_factor=2, mode="bicubic").clamp(0, 1)
    return [(255 * image[0]).byte() for image in (large, large.flip(-1), 1 - large)]


@pytest.mark.parametrize("scale_factor", [2, 3, 4, 8])
def test_log_covariance_is_invertible_and_describes_the_same_kernel(scale_factor):
    low, high = variance_range(scale_factor)
    u = torch.rand(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lambda1, lambda2 = low + (high - low) * u[:2]
    parameters = (lambda1, lambda2, math.pi * u[2])
    again = from_log_covariance(to_log_covariance(*parameters, scale_factor), scale_factor)
    side = kernel_side(scale_factor)
    torch.testing.assert_close(
        gaussian_kernels(*again, side, scale_factor), gaussian_kernels(*parameters, side, scale_factor)
    )


def test_a_share_of_the_variances_is_taken_before_they_are_clipped():
    wide = to_log_covariance(*(torch.tensor([value]) for value in (6.0, 2.0, 0.3)), 2)
    lambda1, lambda2, theta = from_log_covariance(wide, 2, share=0.8)
    assert (float(lambda1), float(lambda2), float(theta)) == pytest.approx((4.8, 1.6, 0.3), rel=1e-4)


def test_predictions_stay_within_the_range_of_variances():
    extreme = torch.tensor([[-20.0, 20.0, 5.0], [20.0, 20.0, 0.0], [-20.0, -20.0, 0.0]])
    for scale_factor in (2, 8):
        low, high = variance_range(scale_factor)
        for variances in from_log_covariance(extreme, scale_factor)[:2]:
            assert ((variances >= low - 1e-6) & (variances <= high + 1e-6)).all()


@pytest.mark.parametrize(("scale_factor", "least_gain"), [(2, 5), (3, 5), (4, 5)])
def test_predicted_kernels_are_far_closer_than_the_fixed_start(predictor, photograph, scale_factor, least_gain):
    prior = KernelPrior.from_pretrained(scale_factor)
    start = prior.decode(prior.initial_latent())
    gains = []
    for kernel in random_kernels(6, scale_factor, torch.Generator().manual_seed(5)).split(1):
        lr = quantize(degrade(photograph, kernel, scale_factor))
        predicted = predictor.predict(lr, scale_factor).kernel
        assert float(predicted.sum()) == pytest.approx(1, abs=1e-5)
        gains.append(kernel_psnr(predicted, kernel) - kernel_psnr(start, kernel))
    assert sum(gains) / len(gains) > least_gain


def test_a_prediction_turns_with_the_image(predictor, photograph):
    # A quarter turn swaps the axes; a kernel 4 times as wide along one must be seen so both ways.
    wide, narrow = torch.tensor([4.0]), torch.tensor([1.0])
    side = kernel_side(2)
    for theta in (0.0, math.pi / 2):
        kernel = gaussian_kernels(wide, narrow, torch.tensor([theta]), side, 2)
        predicted = predictor.predict(quantize(degrade(photograph, kernel, 2)), 2).kernel[0, 0]
        offset = torch.arange(side) - (side - 2) / 2
        along_x, along_y = ((predicted.sum(dim) * offset**2).sum() for dim in (0, 1))
        assert (along_x > 2 * along_y) if theta == 0 else (along_y > 2 * along_x)


def test_mirrored_images_have_mirrored_kernels(predictor, photograph):
    def covariance(lr):
        kernel = predictor.predict(lr, 2).kernel[0, 0].double()
        x = torch.arange(kernel.shape[-1]) - (kernel.shape[-1] - 2) / 2
        y = x[:, None]
        return torch.stack([(kernel * product).sum() for product in (x * x, y * y, x * y)])

    kernel = gaussian_kernels(torch.tensor([4.0]), torch.tensor([1.0]), torch.tensor([0.5]), kernel_side(2), 2)
    lr = quantize(degrade(photograph, kernel, 2))[..., :60, :80]
    xx, yy, xy = covariance(lr)
    # Within what the kernel's window cuts off on one side only.
    assert xy.abs() > 0.3
    torch.testing.assert_close(covariance(lr.flip(3)), torch.stack([xx, yy, -xy]), atol=0.03, rtol=0)
    torch.testing.assert_close(covariance(lr.transpose(2, 3)), torch.stack([yy, xx, xy]), atol=0.03, rtol=0)


@pytest.mark.parametrize("size", [(4, 5), (6, 300), (97, 96)])
def test_any_size_will_do(predictor, size):
    lr = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    prediction = predictor.predict(lr, 4)
    assert prediction.kernel.shape == (1, 1, 19, 19)
    assert torch.isfinite(prediction.kernel).all()
    assert 0 < prediction.expected_error < 20
    assert torch.equal(prediction.kernel, predictor.predict(lr, 4).kernel)


def test_a_prediction_is_narrower_by_a_share_of_the_error_it_expects(predictor, photograph, monkeypatch):
    entries = []
    monkeypatch.setattr(
        predicting, "from_log_covariance", lambda e, *a: entries.append(e) or from_log_covariance(e, *a)
    )
    lr = quantize(degrade(photograph, random_kernels(1, 2, torch.Generator().manual_seed(3)), 2))
    narrowed = predictor.predict(lr, 2)
    monkeypatch.setattr(predicting, "SHRINKAGE", 0.0)
    likeliest = predictor.predict(lr, 2)
    lower = SHRINKAGE * likeliest.expected_error
    torch.testing.assert_close(entries[1] - entries[0], torch.tensor([[lower, lower, 0.0]], dtype=torch.float64))
    assert narrowed.expected_error == likeliest.expected_error
    assert narrowed.kernel.max() > likeliest.kernel.max()


def test_a_flat_picture_is_answered_with_doubt(predictor, photograph):
    flat = predictor.predict(torch.full((1, 3, 40, 40), 0.5), 2)
    assert torch.isfinite(flat.kernel).all()
    kernel = random_kernels(1, 2, torch.Generator().manual_seed(0))
    clear = predictor.predict(quantize(degrade(photograph, kernel, 2)), 2)
    assert clear.expected_error < 0.3 < clear.limits.uncertain < flat.expected_error


@pytest.mark.parametrize(
    "wrong",
    [
        {"scales": ()},
        {"scales": (5,)},
        {"crops": ()},
        {"crops": (8,)},
        {"ema": 2.0},
        {"noisy": 3.0},
        {"zoom": (2, 1)},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"--{next(iter(wrong))}"):
        PredictorSettings(**wrong)


def test_only_the_textured_tiles_of_a_large_picture_are_looked_at():
    luma = torch.full((1, 1, 1000, 900), 0.5)
    luma[..., 600:700, 300:400] = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    tiles = _textured_tiles(luma)
    assert tiles.shape == (TILES, 1, TILE, TILE)
    assert tiles[0].std() > 0.1
    assert len(_textured_tiles(luma[..., :TILE, :TILE])) == 1


@pytest.mark.parametrize("scale_factor", [2, 3, 4])
def test_a_code_is_found_for_every_kernel(scale_factor):
    prior = KernelPrior.from_pretrained(scale_factor)
    for kernel in random_kernels(3, scale_factor, torch.Generator().manual_seed(1)).split(1):
        latent = prior.invert(kernel)
        assert float(latent.norm()) == pytest.approx(kernel_side(scale_factor) - 1, abs=1e-3)
        assert kernel_psnr(prior.decode(latent), kernel) > 60


SMALL_FIT = DIPSettings(channels=8, non_local=False, crop=64, kernel_rate=0.1, start="predicted")


def test_the_search_starts_at_the_prediction(predictor, photograph):
    kernel = random_kernels(1, 2, torch.Generator().manual_seed(2))
    lr = quantize(degrade(photograph, kernel, 2))
    still = replace(SMALL_FIT, iterations=2, frozen_iterations=1, kernel_rate=1e-9)
    found = estimate(lr, 2, prior=KernelPrior.from_pretrained(2), predictor=predictor, settings=still)
    assert kernel_psnr(found.kernel, predictor.predict(lr, 2).kernel) > 60
    with pytest.raises(ValueError, match="predictor"):
        estimate(lr, 2, prior=KernelPrior.from_pretrained(2), settings=still)


def test_the_proximal_term_keeps_the_search_near_a_sure_prediction(predictor, photograph, monkeypatch):
    kernel = random_kernels(1, 2, torch.Generator().manual_seed(2))
    lr = quantize(degrade(photograph, kernel, 2))
    prior, prediction = KernelPrior.from_pretrained(2), predictor.predict(lr, 2)
    distances = []
    for weight, error in ((0.0, 0.1), (1.0, 10.0), (1.0, 0.1)):
        told = replace(prediction, expected_error=error)
        monkeypatch.setattr(predictor, "predict", lambda lr, scale_factor, told=told: told)
        settings = replace(SMALL_FIT, iterations=16, ssim_iterations=2, frozen_iterations=2, proximal_weight=weight)
        found = estimate(lr, 2, prior=prior, predictor=predictor, settings=settings)
        distances.append(float((found.kernel - prediction.kernel).norm()))
    assert distances[2] < 0.5 * distances[0]
    assert distances[2] < 0.8 * distances[1]


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="kernel predictor"):
        KernelPredictor.from_pretrained(pretrained_path("FKP_x2.pt"))


SHORT = PredictorSettings(
    steps=6, crops=(16, 20), pixels=1600, scales=(2, 3), validate_every=2, held_out=1, warmup=1
)  # fmt: skip


def test_crops_are_the_degraded_photographs(photos):
    settings = PredictorSettings(noisy=0.0, zoom=(1.0, 1.0), held_out=1)
    # A photograph of the crops' very size leaves nothing to chance but its eight orientations.
    side = (24 + 2 * border(11, 2)) * 2
    photo = photos[0][:, :side, :side]
    luma, target = CropSource([photo], settings).draw(2, 24, 5, torch.Generator().manual_seed(0))
    assert luma.shape == (5, 1, 24, 24)
    grey = (photo.float() / 255 * torch.tensor(LUMA).view(3, 1, 1)).sum(dim=0)[None, None]
    turned = [torch.rot90(grey, turns, (2, 3)) for turns in range(4)]
    turned += [picture.flip(3) for picture in turned]
    lambda1, lambda2, theta = from_log_covariance(target, 2)
    kernels = gaussian_kernels(lambda1, lambda2, theta, 11, 2)
    for crop, kernel in zip(luma.split(1), kernels.split(1), strict=True):
        expected = [quantize(degrade(picture, kernel, 2, circular=False)) for picture in turned]
        assert min(float((crop - one).abs().max()) for one in expected) < 1.5 / 255


def test_likelihood_is_best_at_the_truth_with_the_right_width():
    target = torch.tensor([[0.3, -0.2, 0.1]])
    wrong = target + torch.tensor([[0.1, 0.0, 0.0]])
    loss = lambda entries, log_error: float(laplace_loss(entries, torch.tensor([log_error]), target))  # noqa: E731
    assert loss(target, -2.0) < loss(wrong, -2.0)
    assert loss(wrong, math.log(0.05)) < min(loss(wrong, math.log(0.005)), loss(wrong, math.log(0.5)))


def test_a_resumed_training_is_exactly_the_unbroken_one(tmp_path, photos, resumes_exactly):
    cpu = torch.device("cpu")
    scores = []
    whole = train(photos, SHORT, tmp_path / "whole", cpu, on_validation=lambda e: scores.append(e["scores"]))
    assert [sorted(score) for score in scores] == [[2, 3]] * 3

    resumes_exactly(partial(train, photos, SHORT), whole, tmp_path / "part")
    KernelPredictor.from_pretrained(tmp_path / "part" / "kernel_predictor.pth")


def test_a_further_stage_starts_from_the_weights_given(tmp_path, photos):
    weights = pretrained_path("kernel_predictor.pth")
    gentle = replace(SHORT, steps=1, learning_rate=1e-9, muon_rate=1e-9)
    trained = train(photos, gentle, tmp_path, torch.device("cpu"), start=weights)
    shipped = KernelPredictor.from_pretrained(weights)
    for a, b in zip(shipped.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_training_lowers_the_error(tmp_path, photos):
    settings = {"crops": (24,), "pixels": 4608, "scales": (2,), "held_out": 1, "warmup": 5, "noisy": 0.0}
    scores = []
    for steps in (1, 60):
        train(
            photos,
            PredictorSettings(steps=steps, **settings),
            tmp_path / str(steps),
            torch.device("cpu"),
            on_validation=lambda e: scores.append(e["scores"][2]),
        )
    assert scores[1] > scores[0] + 0.1
    with pytest.raises(ValueError, match=r"last\.pt: a training lies there"):
        train(photos, PredictorSettings(steps=1, **settings), tmp_path / "1", torch.device("cpu"))


PHOTOGRAPHS = replace(SHORT, photographs=True, noisy=0.6, sigma_max=50.0, other_blur=0.5)


def test_crops_of_photographs_come_with_their_blur_and_noise(photos):
    source = CropSource(photos, PHOTOGRAPHS)
    luma, target, log_noise = source.draw_photographs(2, 30, 40, torch.Generator().manual_seed(0))
    assert luma.shape == (40, 1, 30, 30)
    assert target.shape == (40, 3)
    again = source.draw_photographs(2, 30, 40, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip((luma, target, log_noise), again, strict=True))
    levels = torch.exp(log_noise) - NOISE_OFFSET
    assert (levels >= 0).all()
    assert levels.min() < 0.3 < 10 < levels.max() < 60
    # Wider blurs than the prior's are among them, with their own covariance.
    assert variances_and_angle(target, 2)[0].max() > variance_range(2)[1]


def test_the_noise_of_a_flat_picture_is_what_the_crops_say():
    flat = [torch.full((3, 200, 200), 128, dtype=torch.uint8)]
    settings = replace(PHOTOGRAPHS, noisy=1.0, sigma_max=20.0)
    luma, _, log_noise = CropSource(flat, settings).draw_photographs(2, 40, 20, torch.Generator().manual_seed(0))
    seen = 255 * (luma - 128 / 255).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(torch.exp(log_noise) - NOISE_OFFSET, seen, rtol=0.02, atol=0.02)


def test_weights_for_prepared_data_tell_no_noise_but_the_variances(predictor, photograph):
    kernel = gaussian_kernels(torch.tensor([4.0]), torch.tensor([1.0]), torch.tensor([0.5]), kernel_side(2), 2)
    prediction = predictor.predict(quantize(degrade(photograph, kernel, 2)), 2)
    assert prediction.sigma is None
    largest, smallest = prediction.variances
    assert largest == pytest.approx(4, rel=0.3)
    assert smallest == pytest.approx(1, rel=0.4)


def test_variances_beyond_the_prior_are_told_as_they_are(picture):
    wider = KernelPredictor.from_pretrained()
    wider.head[-1].bias[:2] += 3
    prediction = wider.predict(picture, 2)
    assert prediction.variances[0] > 1.3 * variance_range(2)[1]
    widest = torch.full((1,), variance_range(2)[1])
    torch.testing.assert_close(prediction.kernel, gaussian_kernels(widest, widest, 0 * widest, kernel_side(2), 2))


def test_a_noise_head_is_told_by_the_weights_and_grey_pictures_by_their_channels(tmp_path, picture):
    net = KernelPredictor(noise_heads=NOISE_HEADS)
    torch.save(net.state_dict(), tmp_path / "photo.pth")
    loaded = KernelPredictor.from_pretrained(tmp_path / "photo.pth")
    grey = picture.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    tinted = grey * torch.tensor([1.0, 1.0, 0.9]).view(3, 1, 1)
    coloured = tinted + (grey - tinted).mul(torch.tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
    as_grey, as_colour = loaded.predict(grey, 2).sigma, loaded.predict(coloured, 2).sigma
    assert as_grey is not None
    assert as_colour is not None
    # The luma, and so what the network sees, is the same.
    assert as_grey == pytest.approx(as_colour * WHITE_LUMA, rel=1e-3, abs=1e-6)


def test_predictions_of_older_makers_have_no_noise():
    assert Prediction(torch.ones(1, 1, 3, 3) / 9, 0.1).sigma is None


def test_a_training_on_photographs_resumes_exactly_and_keeps_the_weights_it_starts_from(
    tmp_path, photos, resumes_exactly
):
    cpu, start = torch.device("cpu"), pretrained_path("kernel_predictor.pth")
    whole = train(photos, PHOTOGRAPHS, tmp_path / "whole", cpu)
    resumes_exactly(partial(train, photos, PHOTOGRAPHS), whole, tmp_path / "part")
    assert KernelPredictor.from_pretrained(tmp_path / "part" / "kernel_predictor_photo.pth").noise_heads

    gentle = replace(PHOTOGRAPHS, steps=1, learning_rate=1e-9, muon_rate=1e-9)
    trained = dict(train(photos, gentle, tmp_path / "gentle", cpu, start=start).named_parameters())
    for name, value in KernelPredictor.from_pretrained(start).named_parameters():
        torch.testing.assert_close(trained[name], value, atol=1e-6, rtol=0)
