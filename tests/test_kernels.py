import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from blindsr.degradation import degrade
from blindsr.kernels import (
    align,
    centre,
    centre_of_mass,
    gaussian_kernels,
    kernel_side,
    kernel_x4_from_x2,
    locate,
    random_kernels,
    random_kernels_numpy,
    random_motion_kernels,
    unalign,
    variance_range,
)

SCALES = (2, 3, 4, 8)


@pytest.mark.parametrize("scale_factor", SCALES)
def test_gaussian_kernels_match_the_release(golden, scale_factor):
    archive = golden("kernels_fixed")
    for i in range(5):
        parameters = torch.from_numpy(archive[f"x{scale_factor}_{i}_params"])[:, None]
        kernel = gaussian_kernels(*parameters, kernel_side(scale_factor), scale_factor)
        np.testing.assert_allclose(kernel[0, 0], archive[f"x{scale_factor}_{i}"], atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("name", "scale_factor", "side", "variances", "noise"),
    [
        ("DIPFKP_x2", 2, 11, (0.35, 5.0), 0.0),
        ("DIPFKP_x3", 3, 15, (0.525, 7.5), 0.0),
        ("DIPFKP_x4", 4, 19, (0.7, 10.0), 0.0),
        ("KernelGANFKP_x2", 2, 11, (0.35, 5.0), 0.0),
        ("DIPFKP_x2_noisy_ker0.4", 2, 11, (0.35, 5.0), 0.4),
    ],
)
def test_random_sequence_matches_the_release(golden, name, scale_factor, side, variances, noise):
    rng = np.random.RandomState(1)
    for expected in golden("kernels_random_seed1")[name]:
        kernel = random_kernels_numpy(rng, scale_factor, side, variances, noise)
        np.testing.assert_allclose(kernel[0, 0], expected, atol=1e-14, rtol=0)


def test_x4_kernel_and_shift_match_the_release(golden):
    archive = golden("kernel_ops")
    kernel = kernel_x4_from_x2(torch.from_numpy(archive["kernel_x2"])[None, None])
    np.testing.assert_allclose(kernel[0, 0], archive["analytic_x4"], atol=1e-14, rtol=0)
    np.testing.assert_allclose(centre(kernel, 4)[0, 0], archive["analytic_x4_shifted"], atol=1e-14, rtol=0)
    off_centre = torch.from_numpy(archive["off_center"])[None, None]
    for scale_factor in (2, 3):
        np.testing.assert_allclose(
            centre(off_centre, scale_factor)[0, 0],
            archive[f"off_center_shifted_sf{scale_factor}"],
            atol=1e-14,
            rtol=0,
        )


def test_centring_is_scipys_spline_shift():
    kernel = torch.rand(1, 1, 15, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    shift = (15 - 3) / 2 - np.array(scipy.ndimage.center_of_mass(kernel[0, 0].numpy()))
    expected = scipy.ndimage.shift(kernel[0, 0].numpy(), shift)
    np.testing.assert_allclose(centre(kernel, 3)[0, 0], expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("scale_factor", SCALES)
def test_random_kernels_sum_to_one_and_are_centred(scale_factor):
    kernels = random_kernels(200, scale_factor, torch.Generator().manual_seed(0))
    side = kernel_side(scale_factor)
    assert kernels.shape == (200, 1, side, side)
    assert kernels.dtype == torch.float32
    torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(200))
    # Wide kernels lose their tails at the window's border, which moves their centre a little.
    assert (centre_of_mass(kernels) - (side - scale_factor) / 2).abs().max() < 0.1


@pytest.mark.parametrize("scale_factor", [2, 3, 4, 8])
def test_motion_kernels_are_centred_blurs_of_many_shapes(scale_factor):
    kernels = random_motion_kernels(200, scale_factor, torch.Generator().manual_seed(0))
    side = kernel_side(scale_factor)
    assert kernels.shape == (200, 1, side, side)
    assert kernels.min() >= 0
    torch.testing.assert_close(kernels.sum((-2, -1)), torch.ones(200, 1))
    assert (centre_of_mass(kernels) - (side - scale_factor) / 2).abs().max() < 0.05
    # A camera path is seldom symmetric about its centre of mass, as a Gaussian always is.
    corner = side - scale_factor + 1
    window = kernels[..., :corner, :corner]
    asymmetry = (window - window.flip(-2, -1)).abs().sum((-3, -2, -1)) / 2
    assert asymmetry.quantile(0.75) > 0.1
    assert not torch.equal(kernels[0], kernels[1])


def test_parameters_are_variances():
    low, high = variance_range(4)
    assert (low, high) == pytest.approx((0.7, 10.0))
    kernel = gaussian_kernels(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([0.0]), 19, 4)[0, 0]
    columns = torch.arange(19.0)
    profile = kernel.sum(0)
    mean = (profile * columns).sum()
    assert float((profile * (columns - mean) ** 2).sum()) == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("scale_factor", [2, 3, 4, 8])
def test_an_aligned_kernel_sees_the_middle_of_each_block(scale_factor):
    """Of a ramp, whose value is its place: LR pixel i has the mean of HR pixels s·i … s·i + s − 1."""
    kernels = random_kernels(4, scale_factor, torch.Generator().manual_seed(1)).double()
    side = 40 * scale_factor
    ramp = torch.arange(side, dtype=torch.float64).expand(4, 1, side, side)
    blocks = ramp[:1, :, ::scale_factor, ::scale_factor] + (scale_factor - 1) / 2
    inside = slice(12, -12)
    for rows in (False, True):
        image = ramp.transpose(2, 3) if rows else ramp
        expected = (blocks.transpose(2, 3) if rows else blocks)[..., inside, inside]
        seen = degrade(image, align(kernels, scale_factor), scale_factor)[..., inside, inside]
        assert (seen - expected).abs().max() < 0.1  # the centre of a drawn kernel is off by as much
        published = degrade(image, kernels, scale_factor)[..., inside, inside]
        assert (published - (expected - (scale_factor - 1))).abs().max() < 0.1
    back = unalign(align(kernels, scale_factor), scale_factor)
    margin = 2 * (scale_factor - 1)
    assert torch.equal(back[..., margin:-margin, margin:-margin], kernels)
    assert torch.equal(degrade(ramp, back, scale_factor), degrade(ramp, kernels, scale_factor))


@pytest.mark.parametrize("scale_factor", [2, 3, 4])
def test_where_a_kernel_lies_is_seen(scale_factor):
    published = random_kernels(1, scale_factor, torch.Generator().manual_seed(1))
    kernel, aligned = locate(published, scale_factor)
    assert not aligned
    assert torch.equal(kernel, published)
    kernel, aligned = locate(align(published, scale_factor), scale_factor)
    assert aligned
    box = torch.full((1, 1, 7, 7), 1 / 49)
    kernel, aligned = locate(F.pad(box, (4, 4, 4, 4)), scale_factor)
    assert not aligned
    assert (centre_of_mass(kernel) - (kernel.shape[-1] - scale_factor) / 2).abs().max() < 0.05
