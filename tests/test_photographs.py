"""What photographs come out as: in place, as bright as they were, grey where they were."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from blindsr import super_resolve
from blindsr.kernels import gaussian_kernels, kernel_side
from DIPFKP.estimator import preset, pretrained_estimator
from KernelPredictor.predictor import predictor_path


def quick(scale_factor):
    """DIP-FKP's prediction for photographs."""
    weights = predictor_path(True, scale_factor)
    return pretrained_estimator(scale_factor, torch.device("cpu"), preset("prediction"), path_predictor=weights)


@pytest.mark.parametrize("scale_factor", [2, 3, 4, 8])
def test_the_result_lies_over_the_photograph(photograph, scale_factor):
    """Made smaller by Pillow's box filter, which is no blur of ours; compared with Pillow's enlargement of it."""
    pixels = np.rint(255 * photograph[0].permute(1, 2, 0).numpy()).astype(np.uint8)[:192, :240]
    small = Image.fromarray(pixels).reduce(scale_factor)
    sr, _ = super_resolve(np.asarray(small), scale_factor, estimator=quick(scale_factor))
    enlarged = np.asarray(small.resize((240, 192), Image.Resampling.BICUBIC))
    inside = (slice(16, -16), slice(16, -16), 1)
    found = phase_cross_correlation(enlarged[inside], sr[inside], upsample_factor=50)[0]
    assert np.abs(found).max() <= 0.1


@pytest.mark.parametrize("scale_factor", [2, 4, 8])
@pytest.mark.parametrize("sigma", [0, 10, 50])
def test_constant_grey_stays_as_bright_as_it_was(scale_factor, sigma):
    kernel = gaussian_kernels(*torch.tensor([[1.5], [0.8], [0.3]]), kernel_side(scale_factor), scale_factor)
    for level in (8, 128, 247):
        image = torch.full((1, 3, 24, 24), level / 255)
        sr, _ = super_resolve(image, scale_factor, kernel=kernel, sigma=sigma / 255)
        assert abs(float((255 * sr - level).mean())) < 0.3


def test_noise_beyond_what_the_weights_know_is_refused():
    with pytest.raises(ValueError, match="0 to 50 / 255"):
        super_resolve(np.zeros((24, 24, 3), np.uint8), 2, kernel=np.ones((3, 3)), sigma=60 / 255)


@pytest.mark.parametrize("sigma", [2, 5, 10, 20, 40])
def test_the_noise_level_is_read_off_the_photograph(photograph, sigma):
    sharp = Image.fromarray(np.rint(255 * photograph[0].permute(1, 2, 0).numpy()).astype(np.uint8))
    pixels = np.asarray(sharp.reduce(2)).astype(float)
    noise = np.random.default_rng(0).normal(0, sigma, pixels.shape)
    noisy = np.rint(np.clip(pixels + noise, 0, 255)).astype(np.uint8)
    lr = torch.from_numpy(noisy).permute(2, 0, 1)[None].float() / 255
    found = quick(2)(lr, 2, seed=0)
    assert 255 * found.sigma == pytest.approx(sigma, rel=0.2)


def test_a_texture_that_tiles_has_no_seam(cases):
    texture = np.asarray(Image.open(cases / "seamless.png").convert("RGB"))
    sr, _ = super_resolve(texture, 2, estimator=quick(2), periodic=True)
    wide = sr.astype(float)
    inside = np.abs(np.diff(wide, axis=1)).mean(), np.abs(np.diff(wide, axis=0)).mean()
    seam = np.abs(wide[:, 0] - wide[:, -1]).mean(), np.abs(wide[0] - wide[-1]).mean()
    assert max(np.array(seam) / inside) < 1.3


def centroid(channel):
    """Row and column of the middle of what differs from the corner by more than half of the largest difference."""
    difference = np.abs(channel.astype(float) - channel[0, 0])
    return np.argwhere(difference > difference.max() / 2).mean(0)


@pytest.mark.parametrize("scale_factor", [2, 4])
def test_colour_and_alpha_stay_on_one_spot(cases, scale_factor):
    truth = Image.open(cases / "alpha_hr.png")  # a disc on a gradient
    small = truth.reduce(scale_factor)
    sr, _ = super_resolve(np.asarray(small), scale_factor, estimator=quick(scale_factor), sigma=0.0)
    enlarged = np.asarray(small.resize(truth.size, Image.Resampling.BICUBIC))
    for channel in (0, 3):
        assert np.abs(centroid(sr[..., channel]) - centroid(enlarged[..., channel])).max() < 0.1


def test_motion_is_enlarged_by_bicubic_and_said(photograph):
    pixels = np.rint(255 * photograph[0].permute(1, 2, 0).numpy()).astype(float)[:240, :240]
    line = np.ones((1, 21, 1)) / 21
    shaken = Image.fromarray(np.rint(ndimage.convolve(pixels, line, mode="mirror")).astype(np.uint8)).reduce(2)
    sr, estimate = super_resolve(np.asarray(shaken), 2, estimator=quick(2))
    assert any(note.startswith("motion") and "bicubic" in note for note in estimate.notes)
    enlarged = np.asarray(shaken.resize((240, 240), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(sr - enlarged).max() <= 1
