import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blindsr.metrics import kernel_psnr, psnr_ssim_y


def test_match_the_protocol(golden):
    archive = golden("metrics")
    psnr, ssim = psnr_ssim_y(archive["a"], archive["b"], 2)
    assert psnr == pytest.approx(float(archive["psnr_y_crop2"]), abs=1e-9)
    assert ssim == pytest.approx(float(archive["ssim_y_crop2"]), abs=1e-9)
    kernels = golden("kernels_fixed")
    first, second = (torch.from_numpy(kernels[name])[None, None] for name in ("x2_1", "x2_2"))
    assert kernel_psnr(first, second) == pytest.approx(float(archive["kernel_psnr"]), abs=1e-9)


def test_the_border_does_not_count():
    image = np.random.RandomState(0).randint(0, 256, (40, 50, 3)).astype(np.uint8)
    other = image.copy()
    other[:4] = 0
    assert psnr_ssim_y(other, image, 4) == (np.inf, 1.0)
    assert psnr_ssim_y(other, image, 3)[0] < 40


def test_mismatches_are_refused():
    image = np.zeros((40, 50, 3), np.uint8)
    with pytest.raises(ValueError, match="same size"):
        psnr_ssim_y(image, image[:-1], 2)
    with pytest.raises(ValueError, match="too small"):
        psnr_ssim_y(image[:12], image[:12], 2)
    with pytest.raises(ValueError, match="two odd or two even"):
        kernel_psnr(torch.rand(1, 1, 11, 11), torch.rand(1, 1, 14, 14))


def test_kernels_of_different_sides_are_compared_around_their_centre():
    kernel = torch.rand(1, 1, 11, 11)
    assert kernel_psnr(kernel, F.pad(kernel, (2, 2, 2, 2))) == np.inf
    assert kernel_psnr(F.pad(kernel, (2, 2, 2, 2)), kernel) == np.inf
    assert kernel_psnr(kernel, F.pad(kernel, (1, 3, 2, 2))) < 40
