"""Blur that varies over a picture: read, undone place by place, told in record and report."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import refused, typed
from PIL import Image, ImageDraw
from scipy import ndimage

from blindsr import super_resolve
from blindsr.batch.ellipses import read_ellipses
from blindsr.batch.records import read_record
from blindsr.degradation import degrade
from blindsr.doubts import doubts
from blindsr.estimation import Estimate
from blindsr.field import KernelField, degrade_locally
from blindsr.kernel_shape import kernel_shape
from blindsr.kernels import align, gaussian_kernels, random_kernels
from KernelPredictor import KernelPredictor
from KernelPredictor.field import UNVARIED, read_field
from KernelPredictor.predictor import predictor_path
from NonblindSR.tiling import tiled_sr
from NonblindSR.usrnet import USRNet

WIDTHS = np.linspace(0.9, 2.0, 10)
"""Of the blur from left to right, in HR pixels."""


@pytest.fixture(scope="module")
def leaves():
    """A sharp picture, 160×400×3: ellipses of many sizes, each over those before ("dead leaves")."""
    rng, size = np.random.default_rng(0), (800, 320)
    canvas = Image.new("RGB", size)
    draw = ImageDraw.Draw(canvas)
    for _ in range(1000):
        x, y = rng.uniform(0, size)
        a, b = np.minimum(12 / rng.uniform(0.06, 1, 2), 150)
        draw.ellipse((x - a, y - b, x + a, y + b), fill=tuple(rng.integers(20, 235, 3).tolist()))
    return np.asarray(canvas.reduce(2))


def shrunk(hr, widths):
    """LR pixels of an HR picture, blurred by SciPy in strips of other widths, seen at the middle of each block."""
    strips = np.array_split(np.arange(hr.shape[1]), len(widths))
    blurred = [ndimage.gaussian_filter(hr.astype(float), (width, width, 0)) for width in widths]
    joined = np.hstack([each[:, strip] for each, strip in zip(blurred, strips, strict=True)])
    middles = ndimage.shift(joined, (-0.5, -0.5, 0), order=3, mode="mirror")
    return np.rint(middles[::2, ::2].clip(0, 255)).astype(np.uint8)


def as_image(pixels):
    return torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255


@pytest.fixture(scope="module")
def varied(leaves):
    return shrunk(leaves, WIDTHS)


@pytest.fixture(scope="module")
def predictor():
    return KernelPredictor.from_pretrained(predictor_path(photographs=True))


@pytest.fixture(scope="module")
def strong():
    return KernelPredictor.from_pretrained(predictor_path(photographs=True, scale_factor=1))


def test_the_field_is_that_of_the_picture(predictor, strong, varied, leaves):
    field = read_field(predictor, as_image(varied), 2, strong)
    cols = [20, 60, 100, 140, 180]
    widths = [
        kernel_shape(kernel[None, None]).wide for kernel in field.kernels(torch.tensor([40]), torch.tensor(cols))[0]
    ]
    np.testing.assert_allclose(widths, np.interp(cols, (np.arange(10) + 0.5) * 20, WIDTHS), rtol=0.15)
    turned = read_field(predictor, as_image(varied).transpose(2, 3), 2, strong)
    again = [kernel_shape(kernel[None]).wide for kernel in turned.kernels(torch.tensor(cols), torch.tensor([40]))]
    np.testing.assert_allclose(again, widths, rtol=0.1)
    assert read_field(predictor, as_image(shrunk(leaves, [1.3])), 2, strong) is None  # it does not vary
    assert read_field(predictor, as_image(varied[:64, :64]), 2, strong) is None  # one window
    assert read_field(predictor, as_image(varied[:8]), 2, strong) is None  # too thin to be read
    assert read_field(predictor, as_image(varied[:20]), 2, strong) is not None


@pytest.mark.parametrize(("narrow", "wide"), [(0.7, 4.4), (1.4, 4.4), (2.0, 4.4)])
def test_blur_beyond_the_kernels_beside_little_is_seen(predictor, strong, leaves, narrow, wide):
    """The weights for x2 know no blur beyond 2.24 HR pixels. Alone, they took the first two for one kernel, and the
    narrow side of the last for the wide one."""
    field = read_field(predictor, as_image(shrunk(leaves, [narrow, wide])), 2, strong)
    near, far = field.kernels(torch.tensor([40]), torch.tensor([20, 180]))[0]
    assert kernel_shape(near[None, None]).wide == pytest.approx(narrow, rel=0.2)
    widest = gaussian_kernels(*torch.tensor([[5.0], [5.0], [0.0]]), 11, 2)
    assert kernel_shape(far[None, None]).wide == pytest.approx(kernel_shape(widest).wide, rel=0.02)
    assert field.beyond == pytest.approx(0.45, abs=0.15)


def test_between_its_cells_a_field_is_interpolated_and_outside_it_goes_on():
    covariances = torch.tensor([[[1.0, 2.0, 0.0], [3.0, 4.0, 0.5]]], dtype=torch.float64)
    field = KernelField(covariances, 2, (40, 80))
    found = field.at(torch.tensor([20.0]), torch.tensor([-9.0, 20.0, 40.0, 60.0, 99.0]))
    expected = torch.stack([covariances[0, 0], covariances[0, 0], covariances.mean(1)[0], *covariances[0, [1, 1]]])
    torch.testing.assert_close(found[0], expected)
    again = KernelField.from_json(json.loads(json.dumps(field.as_json())))
    assert torch.equal(again.covariances, covariances)
    assert again.describe() == "1.19 to 1.85 px"  # fourth roots of 1·2 and 3·4 − ½²


def test_patches_of_one_kernel_leave_no_trace(photograph):
    """On sides that are no multiples of anything; only near the picture's border, which is periodic, they differ."""
    image, net = photograph[..., :182, :230], USRNet.from_pretrained()
    kernel = align(random_kernels(1, 2, torch.Generator().manual_seed(0)), 2)
    kernels = kernel.expand(2, 3, -1, -1)
    lr = degrade(image, kernel, 2)
    torch.testing.assert_close(degrade_locally(image, kernels, 2)[..., 9:-9, 9:-9], lr[..., 9:-9, 9:-9])
    once = tiled_sr(net, lr, kernel, 2, 3 / 255)
    difference = (tiled_sr(net, lr, kernels, 2, 3 / 255) - once).abs()[..., 32:-32, 32:-32]
    assert difference.max() < 1 / 255


def test_each_place_has_its_own_kernel(photograph):
    kernels = align(random_kernels(6, 2, torch.Generator().manual_seed(1)), 2).view(2, 3, 13, 13)
    image = photograph[..., :256, :384]
    found = degrade_locally(image, kernels, 2)[
        ..., 95:97, :
    ]  # on both sides of the middle of the second row of cells
    first, second = (degrade(image, kernels[1:, col : col + 1], 2)[..., 95:97, :] for col in (1, 2))
    between = (first + second) / 2
    for pixels, expected in ((slice(95, 97), first), (slice(127, 129), between), (slice(159, 192 - 9), second)):
        torch.testing.assert_close(found[..., pixels], expected[..., pixels], atol=3e-3, rtol=0)


def test_a_varied_photograph_gains_and_a_small_one_is_the_same(predictor, varied, leaves):
    def known(lr, scale_factor, *, seed, on_step=None):
        return Estimate(predictor.predict(lr, scale_factor).kernel, None, [], 0.0, seed)

    def error(pixels):
        return np.sqrt(np.mean((pixels.astype(float) - leaves[:, : pixels.shape[1]])[16:-16, 16:-16] ** 2))

    one, alone = super_resolve(varied, 2, estimator=known, sigma=1 / 255)
    several, estimate = super_resolve(varied, 2, estimator=known, sigma=1 / 255, local=True)
    assert error(several) < 0.9 * error(one)
    assert torch.equal(estimate.kernel, alone.kernel)
    assert "over the image" in estimate._repr_html_()
    small = varied[:60, :64]
    same, estimate = super_resolve(small, 2, estimator=known, local=True)
    np.testing.assert_array_equal(same, super_resolve(small, 2, estimator=known)[0])
    assert estimate.kernel_field is None
    assert UNVARIED in estimate.notes
    for other in ({"prepared": True}, {"periodic": True}, {"kernel": np.ones((3, 3))}):
        with pytest.raises(ValueError, match="one kernel"):
            super_resolve(small, 2, local=True, **other)


def test_the_command_records_and_shows_the_field(tmp_path, varied):
    Image.fromarray(varied).save(tmp_path / "varied.png")
    Image.fromarray(varied[:40, :56]).save(tmp_path / "small.png")
    out, alone = tmp_path / "out", tmp_path / "alone"
    given = ["--SR", "--sf", 2, "--preset", "prediction"]
    done = typed(
        "DIPFKP", *given, "-i", tmp_path / "varied.png", tmp_path / "small.png", "-o", out, "--local", "--verbose"
    )
    assert done.returncode == 0, done.stderr
    record = read_record(out / "varied.json")
    assert record.settings["local"] is True
    field = KernelField.from_json(record.result["kernel_field"])
    assert field.size == varied.shape[:2]
    assert f"blur {field.describe()}" in done.stdout
    page = (out / "index.html").read_text()
    assert page.count("<ellipse ") == len(read_ellipses(record).shapes) > 50
    assert "done before" in typed("DIPFKP", *given, "-i", tmp_path / "varied.png", "-o", out, "--local").stdout
    assert typed("DIPFKP", *given, "-i", tmp_path / "small.png", "-o", alone).returncode == 0
    for name in ("small.png", "small.mat"):
        assert (out / name).read_bytes() == (alone / name).read_bytes()
    record.result["kernel_field"]["covariances"] = [[["nonsense"]]]
    assert read_ellipses(record) is None


@pytest.mark.parametrize("folder", ["DIPFKP", "KernelGANFKP"])
def test_where_it_means_nothing_it_is_refused(folder, tmp_path):
    refused(typed(folder, "--SR", "--local", "-o", tmp_path), "--local", "photographs")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    refused(typed(folder, "--local", "-i", tmp_path / "a.png", "-o", tmp_path / "out"), "--local", "--SR")


def test_more_blur_than_kernels_have_is_told():
    field = KernelField(torch.ones(1, 1, 3, dtype=torch.float64), 2, (64, 64), beyond=0.23)
    estimate = Estimate(torch.ones(1, 1, 3, 3) / 9, None, [], 0.0, 0, expected_error=0.2, kernel_field=field)
    (line,) = doubts(estimate, photograph=True)
    assert "23% of the picture" in line
    assert doubts(replace(estimate, kernel_field=replace(field, beyond=0.01)), photograph=True) == ()
