import re
import runpy
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from matplotlib.figure import Figure

from blindsr import super_resolve
from blindsr.api import _to_planes
from blindsr.degradation import degrade
from blindsr.estimation import Estimate
from blindsr.kernels import random_kernels
from DIPFKP.estimator import DIPSettings, pretrained_estimator

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def blurred(picture):
    kernel = random_kernels(1, 2, torch.Generator().manual_seed(0))
    return degrade(picture, kernel, 2), kernel


def test_every_kind_of_image_gives_its_own_kind_back(blurred):
    lr, kernel = blurred
    array = lr[0].permute(1, 2, 0).numpy()
    expected, _ = super_resolve(lr, 2, kernel=kernel, float32=True)  # bfloat16 would enlarge the rounding
    assert expected.shape == (1, 3, 72, 96)
    for image, tolerance in (
        (lr[0], 1e-6),
        (lr.double(), 1e-6),
        (array, 1e-6),
        (array.astype(np.float64), 1e-6),
        (np.rint(array * 65535).astype(np.uint16), 0.005),
        (np.rint(array * 255).astype(np.uint8), 0.3),
    ):
        sr, _ = super_resolve(image, 2, kernel=kernel[0, 0].numpy(), float32=True)
        assert type(sr) is type(image)
        assert sr.dtype == image.dtype
        assert sr.ndim == image.ndim
        scale = np.iinfo(sr.dtype).max if isinstance(sr, np.ndarray) and sr.dtype.kind == "u" else 1
        flat = torch.as_tensor(sr / scale if scale > 1 else sr)
        if isinstance(sr, np.ndarray):
            flat = flat.permute(2, 0, 1)
        assert (flat.reshape(expected.shape) - expected).abs().max() <= tolerance


def test_grey_stays_grey_and_alpha_is_resized(blurred):
    lr, kernel = blurred
    grey = np.rint(100 + 50 * lr[0].mean(0).numpy()).astype(np.uint8)  # far from what clipping changes
    colours, _ = super_resolve(np.dstack([grey] * 3), 2, kernel=kernel)
    for image in (grey, grey[:, :, None]):
        sr, _ = super_resolve(image, 2, kernel=kernel)
        assert sr.shape == (72, 96, *image.shape[2:])
        assert sr.dtype == np.uint8
        assert np.abs(sr.reshape(72, 96) - colours.mean(2)).max() <= 1
    ramp = torch.linspace(0, 1, 48).expand(1, 36, 48)
    both = np.dstack([grey, 255 - grey])
    sr, _ = super_resolve(both, 2.0, kernel=kernel)
    assert (sr.shape, sr.dtype) == ((72, 96, 2), np.uint8)
    sr, _ = super_resolve(torch.cat([lr[0], ramp]), 2, kernel=kernel)
    torch.testing.assert_close(sr[:3], super_resolve(lr[0], 2, kernel=kernel)[0])
    inside = sr[3, :, 8:-8]
    torch.testing.assert_close(inside, (torch.arange(8, 88) / 2 - 0.25).expand_as(inside) / 47, atol=2e-3, rtol=0)


def test_borders_are_borders_unless_the_image_is_prepared():
    kernel = torch.zeros(11, 11)
    kernel[4:6, 4:6] = 0.25
    image = np.zeros((24, 48, 3), np.uint8)
    image[:, 24:] = 255
    across = [np.ptp(super_resolve(image, 2, kernel=kernel, prepared=p)[0][:, :4].astype(int)) for p in (False, True)]
    assert across[0] < 10 < across[1]


def test_prepared_data_have_no_noise_unless_it_is_told(blurred):
    kernel = torch.ones(3, 3) / 9
    given = {"kernel": kernel, "prepared": True, "float32": True}
    auto, none, some = (
        super_resolve(blurred[0], 2, **given, **told)[0] for told in ({}, {"sigma": 0}, {"sigma": 0.02})
    )
    assert torch.equal(auto, none)
    assert not torch.equal(auto, some)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kernel": np.ones((3, 3)), "estimator": len}, "kernel and estimator"),
        ({"kernel": "kernel.mat"}, "read_kernel"),
        ({"estimator": "KernelGANFKP"}, "pretrained_estimator"),
    ],
)
def test_other_kernels_and_estimators_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        super_resolve(np.zeros((24, 32, 3), np.uint8), 2, **given)


def test_an_image_of_no_numbers_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        super_resolve(np.full((24, 32, 3), np.nan), 2)


def test_an_estimator_of_another_scale_is_refused(blurred):
    estimator = pretrained_estimator(2, torch.device("cpu"))
    with pytest.raises(ValueError, match="one of x2; at x4"):
        super_resolve(blurred[0], 4, estimator=estimator)


def test_without_a_kernel_one_is_estimated(blurred):
    settings = DIPSettings(iterations=4, ssim_iterations=2, frozen_iterations=1, channels=8, non_local=False)
    estimator = pretrained_estimator(2, torch.device("cpu"), settings)
    steps = []
    sr, estimate = super_resolve(
        blurred[0], 2, estimator=estimator, on_step=lambda *step: steps.append(step), float32=True
    )
    # Normalised once more, the kernel differs by its rounding, which bfloat16 would enlarge.
    again, _ = super_resolve(blurred[0], 2, kernel=estimate.kernel, float32=True)
    torch.testing.assert_close(sr, again)
    assert [step[:2] for step in steps] == [(i, 4) for i in (1, 2, 3, 4)] + [(i, 6) for i in range(1, 7)]
    assert [step[2] is None for step in steps] == 4 * [False] + 6 * [True]


def test_anybodys_estimator_will_do(blurred):
    lr, kernel = blurred

    def estimator(lr, scale_factor, *, seed, on_step=None):
        return Estimate(kernel, None, losses=[0.5], seconds=1.0, seed=seed)

    sr, estimate = super_resolve(lr, 2, estimator=estimator, seed=3)
    assert estimate.seed == 3
    torch.testing.assert_close(sr, super_resolve(lr, 2, kernel=kernel)[0])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros(8, np.uint8),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.int32),
        np.full((8, 8, 3), 200.0),
        np.full((8, 8, 3), np.nan),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 3, 8, 8),
    ],
    ids=lambda image: f"{tuple(image.shape)} {image.dtype}",
)
def test_other_images_are_refused(image):
    with pytest.raises(ValueError, match="image"):
        super_resolve(image, 2, kernel=torch.ones(3, 3))


@pytest.mark.parametrize(
    ("image", "way_out"),
    [
        (np.zeros((3, 8, 9), np.uint8), "np.moveaxis(image, 0, -1)"),
        (np.zeros((1, 8, 9, 3)), "image[0]"),
        (np.zeros((8, 9, 3), np.int64), "image.clip(0, 255).astype(np.uint8)"),
        (np.zeros((8, 9, 3), bool), "image.astype(float)"),
        (torch.zeros(8, 9, 3), "image.permute(2, 0, 1)"),
        (torch.zeros(3, 8, 9, dtype=torch.uint8), "image / 255"),
    ],
)
def test_the_way_out_that_the_error_names_is_one(image, way_out):
    with pytest.raises(ValueError, match=re.escape(way_out)):
        _to_planes(image)
    assert _to_planes(eval(way_out, {"np": np, "image": image})).shape == (3, 8, 9)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1", "I;16"])
def test_a_pillow_image_gives_one_back(blurred, mode):
    pixels = (255 * blurred[0][0, :, :30, :20].permute(1, 2, 0).numpy()).astype(np.uint8)
    image = PIL.Image.fromarray(pixels)
    image = PIL.Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.getexif()[0x0112] = 6  # turned by a quarter
    sr, _ = super_resolve(image, 2, kernel=torch.ones(1, 1))
    assert sr.size == (60, 40)
    assert sr.mode == {"P": "RGB", "CMYK": "RGB", "1": "L"}.get(mode, mode)
    if mode == "RGB":
        array, _ = super_resolve(np.rot90(pixels, -1), 2, kernel=torch.ones(1, 1))
        assert (np.asarray(sr) == array).all()


def test_other_arguments_are_refused(blurred):
    for sigma in (10, -0.1, 0.3, np.nan, "10", None):
        with pytest.raises(ValueError, match=r"^sigma .* 0 to 50 / 255; .* is 10 / 255"):
            super_resolve(blurred[0], 2, kernel=torch.ones(3, 3), sigma=sigma)
    for scale_factor in ("2", 5):
        with pytest.raises(ValueError, match="scale factor"):
            super_resolve(blurred[0], scale_factor, kernel=torch.ones(3, 3))
    for seed in (1.5, -1, "0"):
        with pytest.raises(ValueError, match="seed"):
            super_resolve(blurred[0], 2, seed=seed)
    with pytest.raises(ValueError, match="str"):
        super_resolve("photo.jpg", 2)


@pytest.mark.parametrize(
    "kernel", [torch.ones(4, 4), torch.ones(3, 5), torch.zeros(3, 3), torch.full((3, 3), np.inf)]
)
def test_other_kernels_are_refused(blurred, kernel):
    with pytest.raises(ValueError, match="kernel"):
        super_resolve(blurred[0], 2, kernel=kernel)


def test_the_prior_serves_another_method(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["calibrate.py"])
    runpy.run_path(str(REPOSITORY / "examples" / "calibrate.py"), run_name="__main__")
    assert float(capsys.readouterr().out.split()[-2]) > 60


@pytest.mark.parametrize("script", sorted((REPOSITORY / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_every_example_says_what_it_is_about(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    first_words = script.read_text().split('"""')[1].split()[:5]
    assert " ".join(first_words) in " ".join(capsys.readouterr().out.split())


def test_an_estimate_shows_itself():
    kernel = torch.zeros(1, 1, 7, 7)
    kernel[..., 2:5, 3] = 1 / 3
    estimate = Estimate(kernel, None, [], 1.0, 0, expected_error=0.5, converged=False, notes=("a <b> note",))
    shown = estimate._repr_html_()
    for part in (
        "data:image/png;base64,",
        "0.82 × 0.00 ± 0.20 px at 90°",
        "a &lt;b&gt; note",
        "converged",
    ):
        assert part in shown
    axes = estimate.plot(Figure().subplots())
    assert axes.get_title() == "0.82 × 0.00 ± 0.20 px at 90°"
    assert axes.images[0].get_array().shape == (7, 7)
