"""What a camera's file leaves of a picture, against NumPy's formulas and Pillow's files."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from blindsr.images import to_uint8
from blindsr.kernels import gaussian_kernels, kernel_side, variance_range
from blindsr.photographs import (
    CameraSettings,
    camera_kernels,
    colour_noise,
    covariance,
    is_grey,
    jpeg,
    noise_level,
    photograph,
    sensor_noise,
)

CLEAN = CameraSettings(clean=1.0, grey=0.0)
NOISY = CameraSettings(clean=0.0, noisy=1.0, compressed=0.0, grey=0.0, signal_dependent=0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def by_numpy(result, noise_free):
    """The level by its definition, in grey levels."""
    error = (255 * (result - noise_free))[0].double().numpy()
    brightness = 0.299 * error[0] + 0.587 * error[1] + 0.114 * error[2]
    return math.sqrt(np.mean(brightness**2)) / math.sqrt(0.299**2 + 0.587**2 + 0.114**2)


@pytest.mark.parametrize("sigma", [2.0, 10.0, 25.0])
def test_white_noise_has_the_level_of_its_standard_deviation(sigma):
    image = torch.full((1, 3, 200, 200), 0.5)
    noisy = sensor_noise(image, sigma / 255, 1.0, seeded())
    assert float(255 * (noisy - image).std()) == pytest.approx(sigma, rel=0.02)
    level = float(255 * noise_level(noisy, image))
    assert level == pytest.approx(by_numpy(noisy, image), rel=1e-4)
    assert level == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 15.0, 40.0])
def test_the_noise_of_colours_is_told_whatever_the_texture(photograph, sigma):
    noisy, _ = with_noise(photograph, sigma)
    assert 255 * colour_noise(noisy) == pytest.approx(sigma, rel=0.1)
    large = noisy.repeat(1, 1, 4, 4)  # only some of its pixels are looked at
    assert 255 * colour_noise(large) == pytest.approx(sigma, rel=0.1)


def test_colours_without_noise_or_stored_as_jpeg_tell_none(photograph):
    clean, _ = with_noise(photograph, 0.0)
    assert 255 * colour_noise(clean) < 1.5
    _, pixels = with_noise(photograph, 10.0)
    compressed = torch.from_numpy(jpeg(pixels.transpose(2, 0, 1), 90))[None] / 255
    assert 255 * colour_noise(compressed) < 1.5
    assert colour_noise(torch.rand(1, 3, 1, 5)) == 0.0


def with_noise(image, sigma):
    pixels = to_uint8(
        image[..., ::2, ::2] + sigma / 255 * torch.randn(image[..., ::2, ::2].shape, generator=seeded())
    )
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None] / 255, pixels


def test_signal_dependent_noise_grows_with_brightness():
    for brightness, read_share in ((0.1, 0.0), (0.5, 0.3), (0.9, 0.3)):
        image = torch.full((1, 3, 200, 200), brightness)
        noise = sensor_noise(image, 10 / 255, read_share, seeded()) - image
        variance = 10**2 * (read_share + (1 - read_share) * 2 * brightness)
        assert float((255 * noise).var()) == pytest.approx(variance, rel=0.03)


def test_pictures_are_rounded_and_not_cut_off():
    image = 0.2 + 0.6 * torch.rand(1, 3, 100, 100, generator=seeded())
    result, level, grey = photograph(image, CLEAN, seeded())
    np.testing.assert_array_equal(255 * result.numpy(), to_uint8(image).transpose(2, 0, 1)[None])
    assert abs(float(255 * (result - image).mean())) < 0.02
    assert float(255 * level) == pytest.approx(1 / math.sqrt(12), rel=0.03)
    assert not grey


@pytest.mark.parametrize(("full_chroma", "subsampling"), [(False, "4:2:0"), (True, "4:4:4")])
@pytest.mark.parametrize("phase", [(0, 0), (3, 13)])
@pytest.mark.parametrize("quality", [40, 90])
def test_jpeg_is_what_pillow_writes_and_reads(photograph, quality, phase, full_chroma, subsampling):
    pixels = to_uint8(photograph[..., 40:121, 100:197])
    whole = np.pad(pixels, ((phase[0], 0), (phase[1], 0), (0, 0)), mode="edge")
    file = io.BytesIO()
    Image.fromarray(whole).save(file, "JPEG", quality=quality, subsampling=subsampling)
    expected = np.asarray(Image.open(file))[phase[0] :, phase[1] :].astype(int)
    found = jpeg(pixels.transpose(2, 0, 1), quality, full_chroma=full_chroma, phase=phase).transpose(1, 2, 0)
    assert found.shape == pixels.shape
    difference = np.abs(found - expected)
    assert difference.mean() < 0.1
    assert np.abs(expected - pixels).mean() > 5 * difference.mean()


def test_draws_come_from_the_generator_alone(photograph):
    crops = torch.cat([photograph[..., :40, 60 * i : 60 * i + 50] for i in range(6)])
    before = torch.get_rng_state()
    first, again, other = (photo(crops, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], other[0])


def photo(crops, seed, settings=CameraSettings(clean=0.1)):  # noqa: B008 (frozen)
    return photograph(crops, settings, seeded(seed))


def test_levels_are_those_of_what_comes_out(photograph):
    crops = torch.cat([photograph[..., :64, 60 * i : 60 * i + 64] for i in range(5)])
    result, levels, _ = photo(crops, 3, CameraSettings(clean=0, grey=0))
    for picture, crop, level in zip(result.split(1), crops.split(1), levels, strict=True):
        assert float(255 * level) == pytest.approx(by_numpy(picture, crop), rel=1e-3)


def test_noise_levels_reach_the_largest_and_are_mostly_low():
    _, levels, _ = photo(torch.full((300, 3, 24, 24), 0.5), 0, replace(NOISY, sigma_max=40))
    levels = 255 * levels
    assert 35 < levels.max() < 45
    assert levels.median() == pytest.approx(10, rel=0.25)


def test_grey_pictures_stay_grey_and_their_noise_is_counted_once():
    image = torch.rand(4, 3, 48, 48, generator=seeded()) * 0.2 + 0.4
    result, levels, grey = photo(image, 5, replace(NOISY, grey=1.0))
    assert grey.all()
    assert all(is_grey(picture) for picture in result.split(1))
    brightness = (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    deviations = (result[:, :1] - brightness).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(levels, deviations, rtol=1e-3, atol=1e-4)
    compressed, _, _ = photo(image, 5, CameraSettings(clean=0, compressed=1, grey=1))
    assert all(is_grey(picture) for picture in compressed.split(1))
    assert not is_grey(image[:1])


def test_each_thing_happens_to_its_share():
    image = torch.full((400, 3, 16, 16), 0.4)
    settings = CameraSettings(clean=0.4, noisy=1.0, compressed=0.0, grey=0.25)
    _, levels, grey = photo(image, 1, settings)
    assert float((255 * levels < 0.35).float().mean()) == pytest.approx(0.4 + 0.6 * math.sqrt(0.3 / 50), abs=0.07)
    assert float(grey.float().mean()) == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize("wrong", [{"clean": 1.5}, {"sigma_max": 300}, {"quality": (90, 50)}, {"quality": (0, 50)}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        CameraSettings(**wrong)


@pytest.mark.parametrize("scale_factor", [2, 4, 8])
def test_cameras_blur_in_ways_that_the_prior_does_not_know(scale_factor):
    kernels = camera_kernels(60, scale_factor, seeded())
    side = kernels.shape[-1]
    assert kernels.shape == (60, 1, side, side)
    assert side % 2 == 1
    assert side > kernel_side(scale_factor)
    assert (kernels >= 0).all()
    torch.testing.assert_close(kernels.sum(dim=(1, 2, 3)), torch.ones(60))
    largest, smallest, _ = covariance(kernels)
    high = variance_range(scale_factor)[1]
    assert 1.3 * high < largest.max() < 4.6 * high
    assert (largest > high).float().mean() > 0.2
    assert (smallest < 0.2 * largest).any()  # lines
    assert torch.equal(kernels, camera_kernels(60, scale_factor, seeded()))
    # Nothing worth mentioning is cut off at the window's border.
    frame = kernels.clone()
    frame[..., 1:-1, 1:-1] = 0
    assert float(frame.sum(dim=(1, 2, 3)).max()) < 0.01


def test_the_covariance_of_a_gaussian_is_the_one_it_was_made_of():
    parameters = [torch.tensor(values) for values in ([4.0, 3.0], [1.0, 2.0], [0.5, 2.0])]
    largest, smallest, theta = covariance(gaussian_kernels(*parameters, 21, 4))
    torch.testing.assert_close(largest, parameters[0], rtol=1e-2, atol=0)
    torch.testing.assert_close(smallest, parameters[1], rtol=1e-2, atol=0)
    torch.testing.assert_close(theta % math.pi, parameters[2], rtol=1e-2, atol=0)


def test_the_covariance_of_a_kernel_is_numpys_for_points():
    kernel = torch.zeros(1, 1, 9, 9)
    points = np.array([[2, 1], [3, 3], [6, 4], [7, 7]])
    for row, column in points:
        kernel[0, 0, row, column] = 0.25
    values = np.linalg.eigvalsh(np.cov(points.T, bias=True))
    largest, smallest, _ = covariance(kernel)
    assert [float(smallest), float(largest)] == pytest.approx(list(values), rel=1e-5)
