import numpy as np
import pytest
import torch

from blindsr.degradation import border, degrade, modcrop
from blindsr.kernels import random_kernels


@pytest.mark.parametrize("scale_factor", [2, 3, 4])
def test_matches_the_release(golden, scale_factor):
    archive = golden("degradation")
    hr = torch.from_numpy((archive["hr_uint8"] / 255).astype(np.float32)).permute(2, 0, 1)[None]
    kernel = torch.from_numpy(golden("kernels_fixed")[f"x{scale_factor}_3"]).float()[None, None]
    lr = degrade(modcrop(hr, scale_factor), kernel, scale_factor)
    np.testing.assert_allclose(lr[0].permute(1, 2, 0), archive[f"lr_x{scale_factor}"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale_factor", [2, 3])
def test_equals_a_direct_loop(picture, scale_factor):
    image = modcrop(picture.double(), scale_factor)[..., :24, :30]
    kernel = random_kernels(1, scale_factor, torch.Generator().manual_seed(4)).double()
    side, (height, width) = kernel.shape[-1], image.shape[-2:]
    expected = torch.zeros(1, 3, height // scale_factor, width // scale_factor, dtype=torch.float64)
    for row in range(expected.shape[2]):
        for col in range(expected.shape[3]):
            for i in range(side):
                for j in range(side):
                    y = (row * scale_factor + i - side // 2) % height
                    x = (col * scale_factor + j - side // 2) % width
                    expected[0, :, row, col] += kernel[0, 0, i, j] * image[0, :, y, x]
    torch.testing.assert_close(degrade(image, kernel, scale_factor), expected)


@pytest.mark.parametrize("scale_factor", [2, 3, 4, 8])
def test_without_circular_border_the_interior_is_the_same(picture, scale_factor):
    kernel = random_kernels(1, scale_factor, torch.Generator().manual_seed(4))
    outside = border(kernel.shape[-1], scale_factor)
    whole = degrade(picture, kernel, scale_factor)
    inner = degrade(picture, kernel, scale_factor, circular=False)
    torch.testing.assert_close(inner, whole[..., outside:-outside, outside:-outside])


def test_gradient_is_the_adjoint(picture):
    image = picture.double().requires_grad_()
    kernel = random_kernels(1, 3, torch.Generator().manual_seed(5)).double()
    lr = degrade(image, kernel, 3)
    other = torch.rand(lr.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    (adjoint,) = torch.autograd.grad(lr, image, other)
    torch.testing.assert_close((lr * other).sum(), (image * adjoint).sum())


def test_one_kernel_for_each_image(picture):
    images = torch.cat([picture, picture.flip(-1), 1 - picture])
    kernels = random_kernels(3, 2, torch.Generator().manual_seed(7))
    together = degrade(images, kernels, 2)
    alone = torch.cat([degrade(images[i : i + 1], kernels[i : i + 1], 2) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_brightness_is_kept():
    kernel = random_kernels(1, 4, torch.Generator().manual_seed(8))
    torch.testing.assert_close(degrade(torch.full((1, 3, 40, 40), 0.3), kernel, 4), torch.full((1, 3, 10, 10), 0.3))


def test_too_small_or_mismatched_input_is_refused():
    with pytest.raises(ValueError, match="smaller than the kernel"):
        degrade(torch.rand(1, 3, 10, 40), torch.rand(1, 1, 11, 11), 2)
    with pytest.raises(ValueError, match="3 kernels for 2 images"):
        degrade(torch.rand(2, 3, 40, 40), torch.rand(3, 1, 11, 11), 2)
    with pytest.raises(ValueError, match="free of its border"):
        degrade(torch.rand(1, 3, 12, 40), torch.rand(1, 1, 11, 11), 2, circular=False)
