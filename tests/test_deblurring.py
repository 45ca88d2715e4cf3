"""Deblurring at a picture's own size (x1): what comes back, what stays as it is, and what borders do."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import refused, typed
from PIL import Image
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio
from skimage.registration import phase_cross_correlation

from blindsr import super_resolve
from blindsr.degradation import degrade
from blindsr.doubts import doubts, is_left_alone
from blindsr.estimation import Estimate
from blindsr.kernel_files import write_kernel
from blindsr.kernels import gaussian_kernels, kernel_side, random_kernels, variance_range
from blindsr.paths import pretrained_path
from blindsr.restoration import _continued, restore
from DIPFKP.estimator import preset, pretrained_estimator
from FKP import KernelPrior
from KernelPredictor import KernelPredictor
from KernelPredictor.predictor import OWN_SIZE_LIMITS, PHOTO_LIMITS, predictor_path
from KernelPredictor.training import PredictorSettings, train
from NonblindSR.tiling import pretrained_nonblind
from NonblindSR.weights import choose_nonblind, shipped_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sharp(photograph):
    """A photograph that is sharp: averaged down to 144×216 pixels."""
    pixels = np.rint(255 * photograph[0].permute(1, 2, 0).numpy()).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).reduce(2))


@pytest.fixture(scope="module")
def quick():
    settings = replace(preset("prediction"), circular=False)
    return pretrained_estimator(1, CPU, settings, path_predictor=predictor_path(True, 1))


def blurred(sharp, width, noise=0.0):
    """By SciPy's Gaussian filter, with noise, rounded."""
    made = ndimage.gaussian_filter(sharp.astype(float), (width, width, 0), mode="mirror")
    made += noise * np.random.default_rng(0).standard_normal(made.shape)
    return np.rint(made.clip(0, 255)).astype(np.uint8)


@pytest.mark.parametrize(("width", "noise", "gain"), [(0.8, 0, 2), (1.5, 3, 1), (2.5, 0, 1)])
def test_a_blurred_photograph_comes_back_in_place(sharp, quick, width, noise, gain):
    given = blurred(sharp, width, noise)
    result, estimate = super_resolve(given, 1, estimator=quick)
    before, after = (peak_signal_noise_ratio(sharp, each) for each in (given, result))
    assert after > before + gain
    assert estimate.spread == pytest.approx((width, width), rel=0.25)
    assert np.abs(phase_cross_correlation(sharp, result, upsample_factor=50)[0]).max() <= 0.1


def test_a_sharp_photograph_is_left_as_it_is(sharp, quick):
    result, estimate = super_resolve(sharp, 1, estimator=quick)
    np.testing.assert_array_equal(result, sharp)
    assert estimate.notes[0].startswith("sharp")


SEEN = Estimate(
    torch.ones(1, 1, 3, 3) / 9, None, [], 0.0, 0, expected_error=0.2, spread=(0.2, 0.1), limits=OWN_SIZE_LIMITS
)


def test_what_is_left_alone_is_said():
    assert is_left_alone(SEEN, True)
    assert not is_left_alone(replace(SEEN, limits=PHOTO_LIMITS), True)  # made larger, it needs its kernel
    assert not is_left_alone(SEEN, False)
    strong = replace(SEEN, expected_error=0.8, spread=(6.0, 1.0))
    assert is_left_alone(strong, True)
    (line,) = doubts(strong, True, own_size=True)
    assert line.startswith("motion")
    assert "left as it is" in line
    assert not doubts(replace(SEEN, spread=(2.5, 2.0)), True, own_size=True)


def test_kernels_are_as_wide_as_they_should_be_and_their_window_holds_them():
    low, high = variance_range(1)
    assert (low, high) == (0.175, 9)
    kernels = random_kernels(2000, 1, torch.Generator().manual_seed(0))
    assert kernels.shape[-1] == kernel_side(1) == 25
    rows = kernels.sum(dim=-1)[:, 0] @ (torch.arange(25.0) - 12) ** 2
    assert math.sqrt(low) - 0.15 < rows.sqrt().min() < 0.6 < 2.6 < rows.sqrt().max() < 3.05
    assert rows.sqrt().median() == pytest.approx((math.sqrt(low) + 3) / 2, abs=0.2)  # uniform in pixels


def test_the_continuation_is_periodic_and_has_no_kink():
    ramp = torch.linspace(0, 1, 100).view(1, 1, 1, -1) ** 2
    continued = _continued(ramp, -1, 32)[0, 0, 0]
    twice = torch.cat([continued, continued])
    torch.testing.assert_close(continued[32:132], ramp[0, 0, 0])
    bends = twice.diff().diff().abs()
    assert bends.max() < 0.01
    mirrored = np.pad(ramp[0, 0, 0].numpy(), 32, mode="reflect")
    assert bends.max() < 0.3 * np.abs(np.diff(mirrored, 2)).max()
    level = torch.full((1, 3, 40, 50), 0.7)
    torch.testing.assert_close(_continued(_continued(level, -1, 10), -2, 19), level.new_full((1, 3, 78, 70), 0.7))


@pytest.mark.parametrize("sigma", [0.5, 3])
def test_strong_gradients_at_the_border_do_not_ring(sharp, sigma):
    """The border of a window that was cut out of a blurred picture with a strong gradient."""
    ramp = np.linspace(0, 255, sharp.shape[1])[None, :, None]
    whole = 0.5 * sharp + 0.5 * ramp
    made = np.rint(ndimage.gaussian_filter(whole, (2, 2, 0), mode="mirror"))
    window = np.s_[30:-30, 30:-30]
    lr = torch.from_numpy(made[window].transpose(2, 0, 1).copy())[None].float() / 255
    variance = torch.tensor([4.0])
    kernel = gaussian_kernels(variance, variance, 0 * variance, 25, 1)
    net = pretrained_nonblind(shipped_weights(True, 1), CPU)
    result = 255 * restore(net, lr, kernel, 1, sigma / 255, "reflect")[0].permute(1, 2, 0).numpy()
    error = (result.clip(0, 255) - whole[window]) ** 2
    inside = math.sqrt(error[20:-20, 20:-20].mean())
    for border in (np.s_[:, :8], np.s_[:, -8:], np.s_[:8], np.s_[-8:]):
        assert math.sqrt(error[border].mean()) < 1.5 * inside + 1


def test_weights_say_which_scale_factors_they_know():
    own_size, larger = KernelPredictor.from_pretrained(predictor_path(True, 1)), KernelPredictor.from_pretrained()
    picture = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="know x1, not x2"):
        own_size.predict(picture, 2)
    with pytest.raises(ValueError, match="know x2, x3, x4, x8, not x1"):
        larger.predict(picture, 1)
    assert own_size.noise_level(picture) > 0
    step = choose_nonblind(True, 1, None, CPU)
    assert {path.name for path in step.files.values()} == {"usrnet_tiny_x1.pth", "kernel_predictor_x1.pth"}


def test_a_training_at_x1_starts_from_weights_for_other_scales(tmp_path, photograph):
    pixels = torch.from_numpy(np.rint(255 * photograph[0].numpy()).astype(np.uint8))
    settings = PredictorSettings(
        steps=1,
        crops=(24,),
        pixels=2304,
        scales=(1,),
        held_out=1,
        photographs=True,
        learning_rate=1e-9,
        muon_rate=1e-9,
    )
    start = pretrained_path("kernel_predictor_photo.pth")
    train([pixels, pixels], settings, tmp_path, CPU, start=start)
    trained = KernelPredictor.from_pretrained(tmp_path / "kernel_predictor_x1.pth")
    assert trained.scales == (1,)
    before, after = KernelPredictor.from_pretrained(start).head[0].weight, trained.head[0].weight
    torch.testing.assert_close(after, before[:, : after.shape[1]], atol=1e-6, rtol=0)


def test_the_prior_holds_narrow_and_wide_kernels():
    prior = KernelPrior.from_pretrained(1)
    variances = torch.tensor([0.2, 1.0, 8.5])
    kernels = gaussian_kernels(variances, variances.flip(0).clamp(max=2), torch.full((3,), 0.6), 25, 1)
    error = (prior.decode(prior.invert(kernels)) - kernels).square().mean(dim=(1, 2, 3))
    assert (-10 * torch.log10(error)).min() > 50


def test_the_commands_take_scale_factor_1(tmp_path, sharp):
    path = tmp_path / "photo.png"
    Image.fromarray(blurred(sharp, 1.5)[:96, :96]).save(path)
    out = tmp_path / "out"
    for local in ([], ["--local"]):
        arguments = ["--SR", "--sf", 1, "--preset", "prediction", *local, "-i", path, "-o", out, "--overwrite"]
        done = typed("DIPFKP", *arguments)
        assert done.returncode == 0, done.stderr
    kernel = tmp_path / "k.mat"
    variance = torch.tensor([2.25])
    write_kernel(kernel, gaussian_kernels(variance, variance, 0 * variance, 25, 1))
    done = typed("NonblindSR", "--kernel", kernel, "--sf", 1, "-i", path, "-o", tmp_path / "known")
    assert done.returncode == 0, done.stderr
    for folder in (out, tmp_path / "known"):
        assert Image.open(folder / "photo.png").size == (96, 96)
    refused(typed("KernelGANFKP", "--SR", "--sf", 1, "-i", path, "-o", tmp_path / "gan"), "use DIPFKP")


def test_laboratory_data_are_prepared_and_scored(tmp_path, sharp):
    (tmp_path / "Set" / "HR").mkdir(parents=True)
    hr = sharp[:96, :112]
    Image.fromarray(hr).save(tmp_path / "Set" / "HR" / "a.png")
    done = typed("data", "--sf", 1, "--dataset", tmp_path / "Set", script="prepare_dataset.py")
    assert done.returncode == 0, done.stderr
    made = np.asarray(Image.open(tmp_path / "Set" / "DIPFKP_lr_x1" / "a.png"))
    assert made.shape == hr.shape
    done = typed(
        "DIPFKP", "--SR", "--sf", 1, "--preset", "prediction", "-d", tmp_path / "Set", "-o", tmp_path / "lab"
    )
    assert done.returncode == 0, done.stderr
    result = np.asarray(Image.open(tmp_path / "lab" / "a.png"))
    assert peak_signal_noise_ratio(hr, result) > peak_signal_noise_ratio(hr, made) + 1


def test_a_known_kernel_is_undone_as_tensors_and_arrays(sharp):
    image = torch.from_numpy(sharp.transpose(2, 0, 1).copy())[None].float() / 255
    variance = torch.tensor([1.0])
    kernel = gaussian_kernels(variance, variance, 0 * variance, 25, 1)
    lr = (255 * degrade(image, kernel, 1)).round() / 255
    result, _ = super_resolve(lr, 1, kernel=kernel, prepared=True)
    assert ((result - image) ** 2).mean() < 0.3 * ((lr - image) ** 2).mean()
