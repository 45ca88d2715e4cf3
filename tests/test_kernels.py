import numpy as np
import pytest
import scipy.ndimage
import torch

from blindsr.kernels import (
    centre,
    centre_of_mass,
    from_kernelgan,
    gaussian_kernels,
    kernel_side,
    kernel_x4_from_x2,
    random_kernels,
    random_kernels_numpy,
    random_motion_kernels,
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


@pytest.mark.parametrize(("side", "scale_factor"), [(11, 2), (15, 3), (19, 4), (21, 8)])
def test_kernelgan_convention_is_a_flip_that_maps_its_centre_to_ours(side, scale_factor):
    ours = random_kernels(8, scale_factor, torch.Generator().manual_seed(1))
    theirs = from_kernelgan(ours)
    their_centre = side // 2 + 0.5 * (scale_factor - 1)
    assert (centre_of_mass(theirs) - their_centre).abs().max() < 0.1
    torch.testing.assert_close(from_kernelgan(theirs), ours)


def test_kernelgan_conversion_refuses_even_sides():
    with pytest.raises(ValueError, match="odd"):
        from_kernelgan(torch.rand(1, 1, 12, 12))
