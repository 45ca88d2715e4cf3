"""Families of kernels, and a folder of one's own, as what a prior is trained on."""

import logging

import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import torch
from commands import typed
from PIL import Image

from blindsr.kernel_families import FAMILIES, random_disk_kernels
from blindsr.kernels import centre_of_mass, kernel_side
from blindsr.metrics import kernel_psnr
from blindsr.paths import pretrained_path
from FKP import KernelPrior
from FKP.prior import FlowShape
from FKP.sources import Family, KernelFolder, kernel_source
from FKP.training import PriorSettings, reconstruction, train

CPU = torch.device("cpu")


@pytest.mark.parametrize("scale_factor", [2, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_kernels_of_the_published_centre(name, scale_factor):
    source = Family(name, scale_factor)
    kernels = source.draw(300, torch.Generator().manual_seed(0))
    side = kernel_side(scale_factor)
    assert kernels.shape == (300, 1, side, side)
    assert kernels.min() > -1e-3  # Gaussians are shifted by splines and left so
    assert kernels.max() < source.largest + 0.01
    torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(300))
    assert (centre_of_mass(kernels) - (side - scale_factor) / 2).abs().max() < 0.1
    assert torch.equal(kernels, source.draw(300, torch.Generator().manual_seed(0)))


def test_discs_have_the_variances_of_ellipses():
    """Uniform over an ellipse with radii a and b: variances a²/4 and b²/4; the rim adds little to a large one."""
    kernels = random_disk_kernels(2000, 4, torch.Generator().manual_seed(0))[:, 0].double().numpy()
    offset = np.arange(19) - 7.5
    xx = (kernels.sum(1) * offset**2).sum(1)
    yy = (kernels.sum(2) * offset**2).sum(1)
    xy = (kernels * offset[:, None] * offset).sum((1, 2))
    root = np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    long, short = 2 * np.sqrt((xx + yy) / 2 + root), 2 * np.sqrt((xx + yy) / 2 - root)
    wide = long > 4
    assert 0.55 < (short / long)[wide].min() < 0.65
    assert 0.97 < (short / long).max() <= 1
    flat = kernels.max((1, 2)) * np.pi * long * short  # height times area, 1 of a disc and 2 of a Gaussian
    assert abs(flat[wide].mean() - 1) < 0.2
    assert flat[wide].max() < 1.4


def paths(side, count, seed=0):
    """Sharp curves in a window, as motion leaves them."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        kernel = np.zeros((side, side))
        steps = np.cumsum(rng.normal(0, 0.4, (60, 2)), axis=0)
        for row, column in np.rint(steps - steps.mean(0)).astype(int) + side // 2:
            if 2 <= row < side - 2 and 2 <= column < side - 2:
                kernel[row, column] += 1
        found.append(scipy.ndimage.gaussian_filter(kernel, 0.6))
    return [kernel / kernel.sum() for kernel in found]


@pytest.fixture
def folder(tmp_path):
    """folder(count, side) → a folder of kernels in all three formats."""

    def make(count, side=13):
        for i, kernel in enumerate(paths(side, count)):
            if i % 3 == 0:
                scipy.io.savemat(tmp_path / f"{i:03}.mat", {"Kernel": kernel})
            elif i % 3 == 1:
                np.save(tmp_path / f"{i:03}.npy", kernel)
            else:
                pixels = np.rint(65535 * kernel / kernel.max()).astype(np.uint16)
                Image.fromarray(pixels).save(tmp_path / f"{i:03}.png")
        return tmp_path

    return make


def test_a_folder_is_split_turned_and_mirrored(folder):
    source = kernel_source(str(folder(40)), 2)
    assert isinstance(source, KernelFolder)
    assert (len(source.kernels), len(source.validation), source.side) == (36, 4, 13)
    assert source.held_out().shape == (32, 1, 13, 13)
    drawn = source.draw(500, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.sum((1, 2, 3)), torch.ones(500))
    assert (centre_of_mass(drawn) - 5.5).abs().max() < 0.15
    # No kernel held out is drawn, in any orientation; those to train on are, in all eight.
    distance = torch.cdist(drawn[::2].flatten(1), source.held_out().flatten(1))
    assert distance.min() > 0.01
    one = KernelFolder("one", 1, source.kernels[:1], source.validation)
    orientations = torch.cat([torch.rot90(k, t, (2, 3)) for k in (one.kernels, one.kernels.mT) for t in range(4)])
    drawn = one.draw(200, torch.Generator().manual_seed(0))[::2].flatten(1)
    assert set(torch.cdist(drawn, orientations.flatten(1)).argmin(1).tolist()) == set(range(8))


def test_scaling_makes_kernels_wider(folder):
    kernels = KernelFolder.read(folder(40, 25), 1).kernels
    widths = []
    for factor in (0.7, 1.4):
        drawn = KernelFolder("scaled", 1, kernels, kernels, (factor, factor)).draw(
            400, torch.Generator().manual_seed(0)
        )
        offset = torch.arange(25) - 12.0
        widths.append(float((drawn[1::2, 0].sum(1) * offset**2).sum(1).mean().sqrt()))
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.1)


def test_a_folder_that_is_of_no_use_is_told_in_one_line(folder, caplog):
    with pytest.raises(FileNotFoundError, match="--kernels nowhere: no such folder, and none of gaussian, motion"):
        kernel_source("nowhere", 2)
    path = folder(9)
    with pytest.raises(ValueError, match=r"9 kernels .* too few: a prior of them would know nothing else"):
        kernel_source(str(path), 2)
    folder(30)
    with caplog.at_level(logging.WARNING):
        kernel_source(str(path), 2)
    assert "30 kernels are few" in caplog.text
    caplog.clear()
    short = ["--epochs", 1, "--kernels-per-epoch", 100, "-o", path.parent / "out"]
    assert typed("FKP", "--train", "--kernels", path, *short).returncode == 0
    assert caplog.text.count("30 kernels are few") == 1
    with pytest.raises(ValueError, match="--scaling 2 1"):
        kernel_source(str(path), 2, (2, 1))
    with pytest.raises(ValueError, match="--scaling: motion"):
        kernel_source("motion", 2, (0.5, 1))
    np.save(path / "999.npy", np.ones((7, 7)))
    with pytest.raises(ValueError, match=r"999\.npy: 7×7, where 000\.mat is 13×13"):
        kernel_source(str(path), 2)
    (path / "999.npy").unlink()
    (path / "998.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"998\.png: not a picture"):
        kernel_source(str(path), 2)


SHORT = PriorSettings(epochs=2, kernels_per_epoch=4000, hidden=32, blocks=4)


def test_a_prior_of_own_kernels_needs_its_file_only(folder, tmp_path):
    source = kernel_source(str(folder(40)), 4)
    train(source, SHORT, tmp_path / "runs", CPU)
    path = tmp_path / "runs" / f"FKP_{source.name}_x4_best.pt"
    prior = KernelPrior.from_pretrained(path)
    assert (prior.scale_factor, prior.side, prior.kernels) == (4, 13, source.name)
    assert float(prior.normalization) == pytest.approx(source.largest + 0.01, abs=1e-4)
    samples = prior.sample(20, torch.Generator().manual_seed(0))
    assert samples.shape == (20, 1, 13, 13)
    true = source.held_out()[:8]
    near = reconstruction(prior, true)
    far = [kernel_psnr(prior.decode(prior.initial_latent()), kernel) for kernel in true.split(1)]
    assert near.mean() > np.mean(far) + 5
    with pytest.raises(ValueError, match=r"made for x4, not for x2"):
        KernelPrior.from_pretrained(2, path)
    with pytest.raises(ValueError, match="other settings"):
        last = path.with_name(path.name.replace("best", "last"))
        train(Family("mixed", 4), SHORT, tmp_path / "runs", CPU, resume=last)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"_last\.pt: a training lies there; .*--restore-file"):
        train(source, SHORT, tmp_path / "runs", CPU)
    assert path.read_bytes() == before


def test_a_sharp_kernel_in_a_large_window_is_more_than_its_noise():
    """With the release's noise of width 1/720 its mean over 33² pixels would weigh 0.76 of such a kernel."""
    peak = torch.zeros(1, 1, 33, 33)
    peak[..., 16, 16] = 1
    prior = KernelPrior(2, FlowShape(33, hidden=4, blocks=1), "own", largest=1.0).eval().requires_grad_(False)
    decoded = prior.decode(prior.encode(peak))
    assert float(decoded[0, 0, 16, 16]) == pytest.approx(1 / 1.1, abs=0.02)
    assert KernelPrior(2).dequantisation == 1 / 720


@pytest.mark.parametrize("scale_factor", [1, 2, 4])
@pytest.mark.parametrize(("family", "names"), [("motion", ("motion",)), ("mixed", ("gaussian", "motion", "disk"))])
def test_a_shipped_prior_holds_kernels_that_it_has_not_seen(family, names, scale_factor):
    path = pretrained_path(f"FKP_{family}_x{scale_factor}.pt")
    assert path.stat().st_size < 5e6
    prior = KernelPrior.from_pretrained(path)
    side = kernel_side(scale_factor)
    assert (prior.scale_factor, prior.side, prior.kernels) == (scale_factor, side, family)
    drawn = [Family(name, scale_factor).draw(4, torch.Generator().manual_seed(123)) for name in names]
    for name, near in zip(names, reconstruction(prior, torch.cat(drawn)).split(4), strict=True):
        assert near.min() > 45, name
    noise = torch.rand(8, 1, side, side, generator=torch.Generator().manual_seed(0))
    noise = noise / noise.sum((1, 2, 3), keepdim=True)
    motion = Family("motion", scale_factor).draw(8, torch.Generator().manual_seed(123))
    shipped = KernelPrior.from_pretrained(scale_factor)
    assert prior.log_prob(motion).min() > prior.log_prob(noise).max()
    assert prior.log_prob(motion).mean() > shipped.log_prob(motion).mean() + 100
