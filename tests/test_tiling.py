import math
from types import SimpleNamespace

import pytest
import torch

from blindsr.batch.inputs import Item
from blindsr.batch.run import Job, process
from blindsr.degradation import degrade
from blindsr.devices import free_memory
from blindsr.estimation import Estimate
from blindsr.images import read_image, to_uint8, write_image
from blindsr.kernels import gaussian_kernels, kernel_side, random_kernels, random_motion_kernels, variance_range
from NonblindSR import tiling
from NonblindSR.tiling import pretrained_nonblind, tiled_sr
from NonblindSR.usrnet import ResUNet, USRNet

CPU = torch.device("cpu")
GREY_LEVEL = 1 / 255


def wide_kernel(scale_factor):
    variance = torch.tensor([variance_range(scale_factor)[1]])
    return gaussian_kernels(variance, variance, torch.zeros(1), kernel_side(scale_factor), scale_factor)


def motion_kernel(scale_factor):
    return random_motion_kernels(1, scale_factor, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("scale_factor", "sigma", "kernel", "size"),
    [(2, 10 / 255, wide_kernel, (66, 150)), (3, 0.0, motion_kernel, (135, 60))],
)
def test_tiles_leave_no_trace(photograph, monkeypatch, scale_factor, sigma, kernel, size):
    """On pictures of sides that are no multiples of 8, cut across their longer one."""
    net, kernel = USRNet.from_pretrained(), kernel(scale_factor)
    lr = degrade(photograph[..., : size[0], : size[1]], kernel, scale_factor)
    with torch.no_grad():
        whole = net(lr, kernel, scale_factor, sigma)
    assert torch.equal(tiled_sr(net, lr, kernel, scale_factor, sigma, tile=0), whole)
    steps = []
    tiled = tiled_sr(net, lr, kernel, scale_factor, sigma, tile=100, on_step=lambda *step: steps.append(step))
    tiles = math.prod(math.ceil(length / 100) for length in whole.shape[2:])
    assert steps == [(done + 1, 6 * tiles, None) for done in range(6 * tiles)]
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().max() < 1e-5
    monkeypatch.setattr(tiling, "MARGIN", 0)
    seams = (tiled_sr(net, lr, kernel, scale_factor, sigma, tile=100) - whole).abs()
    assert seams.max() > 2 * GREY_LEVEL  # what the margin prevents


def test_tiles_cover_a_picture_in_equal_parts():
    for length, tile in ((1, 64), (64, 64), (65, 64), (1000, 200), (1001, 333), (6000, 1856)):
        cuts = tiling._cuts(length, tile)
        assert [start for start, _ in cuts] == [0, *(stop for _, stop in cuts[:-1])]
        assert cuts[-1][1] == length
        assert all(start % 8 == 0 and 0 < stop - start <= tile + 7 for start, stop in cuts)


def test_the_tile_follows_from_the_free_memory():
    assert free_memory(CPU) is None or 2**24 < free_memory(CPU) < 2**50
    sides = {size: tiling._tile_that_fits(int(size * 2**30), 10**6) for size in (0.01, 0.5, 1, 4, 64)}
    assert sides[0.01] == tiling.SMALLEST_TILE
    assert sides[64] == tiling.LARGEST_TILE
    assert sides[0.5] < sides[1] < sides[4]
    assert tiling._tile_that_fits(2**30, 10**7) < sides[1]
    assert tiling._tile_that_fits(None, 10**6) < tiling.LARGEST_TILE
    taken = (sides[1] + 2 * tiling.MARGIN) ** 2 * tiling.PRIOR_STEP_BYTES + 10**6 * tiling.PICTURE_BYTES
    assert 0.75 * 2**30 < taken < 0.9 * 2**30


def test_what_can_never_fit_is_not_tried(cramped, monkeypatch):
    net, *arguments = cramped(math.inf)
    monkeypatch.setattr(tiling, "free_memory", lambda device: 24 * 400 * 288 - 1)
    with pytest.raises(MemoryError, match="400×288 result pixels take"):
        tiled_sr(net, *arguments)
    assert not net.p.tried


class SmallMemory(ResUNet):
    """A prior step that fails, as in a full memory, above so many pixels; once moved (to the CPU) it never does."""

    limit = math.inf
    error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    tried: list[int]

    def forward(self, image, beta):
        self.tried.append(image[0, 0].numel())
        if self.tried[-1] > self.limit:
            raise self.error
        return super().forward(image, beta)

    def _apply(self, function, recurse=True):
        self.limit = math.inf
        return super()._apply(function, recurse)


@pytest.fixture
def cramped(photograph):
    """cramped(limit) → a network with such a prior step and the arguments to call it with."""

    def make(limit):
        net = USRNet(iterations=1)
        net.p = SmallMemory()
        net.load_state_dict(USRNet(iterations=1).state_dict())
        net.p.limit, net.p.tried = limit, []
        return net.eval(), degrade(photograph[..., :288, :400], motion_kernel(2), 2), motion_kernel(2), 2, 0.0

    return make


def test_out_of_memory_means_smaller_tiles_and_one_line(cramped, caplog):
    net, *arguments = cramped(288 * 400 - 1)
    tiled = tiled_sr(net, *arguments, tile=0)
    assert len(net.p.tried) > 2
    net.p.limit = math.inf
    assert (tiled - tiled_sr(net, *arguments, tile=0)).abs().max() < 1e-5
    assert [record.getMessage() for record in caplog.records] == ["out of memory on cpu: done in tiles of 200 pixels"]


def test_out_of_memory_on_another_device_means_the_cpu(cramped, caplog, monkeypatch):
    """A stand-in for a picture on a GPU, whose network fails there and never once it is moved."""
    net, lr, *rest = cramped(1)
    gpu = SimpleNamespace(device=torch.device("cuda"), shape=lr.shape, cpu=lambda: lr)
    monkeypatch.setattr(tiling, "free_memory", lambda device: 2**30)
    run = tiling._run
    monkeypatch.setattr(tiling, "_run", lambda net, picture, *rest: run(net, lr, *rest))
    result = tiled_sr(net, gpu, *rest)
    assert net.p.limit == 1  # the caller's network stays where it was
    net.p.limit = math.inf
    assert torch.equal(result, tiled_sr(net, lr, *rest))
    assert [record.getMessage() for record in caplog.records] == ["out of memory on cuda: done on the CPU"]


SHORT = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    RuntimeError("could not create a primitive"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("MKL FFT error: Intel oneMKL DFTI ERROR: Memory allocation error"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_a_lack_of_memory_is_known_by_its_words(error):
    assert tiling._out_of_memory(error)


def test_out_of_memory_at_any_size_is_one_error_and_the_next_picture_is_done(cramped, caplog):
    net, *arguments = cramped(1)
    net.p.error = SHORT[0]
    with pytest.raises(MemoryError, match="400×288 result pixels"):
        tiled_sr(net, *arguments)
    net.p.limit = (64 + 2 * 96) ** 2
    tiled_sr(net, *arguments, tile=200)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["out of memory on cpu: done in tiles of 64 pixels"]


def test_other_failures_are_not_taken_for_a_lack_of_memory(cramped, monkeypatch):
    net, *arguments = cramped(1)

    def fail(image, beta):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(net.p, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        tiled_sr(net, *arguments)


@pytest.mark.parametrize("gains", [True, False])
def test_bfloat16_is_for_devices_that_gain_and_can_be_declined(photograph, monkeypatch, gains):
    kernel = motion_kernel(2)
    arguments = degrade(photograph[..., :96, :96], kernel, 2), kernel, 2, 0.0
    exact = tiled_sr(USRNet.from_pretrained(), *arguments)
    monkeypatch.setattr(tiling, "gains_from_bfloat16", lambda device: gains)
    assert torch.equal(pretrained_nonblind(None, CPU, float32=True)(*arguments), exact)
    difference = (pretrained_nonblind(None, CPU)(*arguments) - exact).abs()
    assert bool(difference.any()) == gains
    assert difference.square().mean().sqrt() < 0.5 * GREY_LEVEL


@pytest.mark.parametrize("tile", [-1, 1, 63])
def test_a_tile_that_is_too_small_is_refused(tile):
    with pytest.raises(ValueError, match=f"--tile {tile}"):
        pretrained_nonblind(None, CPU, tile)
    with pytest.raises(ValueError, match=f"--tile {tile}"):
        tiled_sr(USRNet(), torch.rand(1, 3, 8, 8), motion_kernel(2), 2, tile=tile)


def test_a_photograph_has_no_periodic_boundary(tmp_path):
    """Bright above, dark below: a network that takes the picture for periodic leaves a seam at both borders."""
    ramp = torch.linspace(0.1, 0.9, 48).view(1, 1, 48, 1).expand(1, 3, 48, 40)
    write_image(tmp_path / "ramp.png", to_uint8(ramp))
    kernel = random_kernels(1, 2, torch.Generator().manual_seed(0))
    nonblind = pretrained_nonblind(None, torch.device("cpu"))

    def known(lr, scale_factor, *, seed, on_step=None):
        return Estimate(kernel, None, losses=[], seconds=0.0, seed=seed)

    worst = {}
    for periodic in (True, False):
        item = Item("ramp", tmp_path / "ramp.png")
        job = Job(known, 2, torch.device("cpu"), photograph=not periodic, nonblind=nonblind)
        out = tmp_path / str(periodic)
        out.mkdir()
        (result,) = process([item], job, out, progress=lambda item: lambda *step: None)
        assert result.error is None
        sr = read_image(out / "ramp.png")
        smooth = torch.linspace(0.1, 0.9, 96).view(1, 1, 96, 1)
        assert sr.shape == (1, 3, 96, 80)
        worst[periodic] = float((sr - smooth).abs().max())
    assert worst[False] < 0.4 * worst[True]
