"""That nothing mixes the CPU's tensors with those of another device, without having another device.

Tensors are fake: they have a shape, a type and a device, and refuse to meet those of another device as real ones do.
"""

import contextlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import DIPFKP.estimator as dip
import KernelGANFKP.estimator as gan
from blindsr.restoration import restore
from FKP import KernelPrior
from KernelPredictor import KernelPredictor
from NonblindSR.tiling import tiled_sr
from NonblindSR.usrnet import USRNet

ELSEWHERE = torch.device("meta")  # stands for CUDA, whose tensors cannot even be faked without its runtime


class Fake(FakeTensorMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.5 if args[0].dtype.is_floating_point else 0  # a number where the code asks for one
        return super().__torch_dispatch__(func, types, args, kwargs)


def _numpy(tensor):
    assert tensor.device.type == "cpu"
    return np.full(tensor.shape, 0.5)


def _to(module, device, memory_format=None):
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(value.detach().to(device), value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = value.to(device)
    return module


class _Adam(torch.optim.Adam):
    def __init__(self, params, lr, betas=(0.9, 0.999), fused=None):
        super().__init__(params, lr, betas)


@pytest.fixture
def lr(monkeypatch):
    """A picture elsewhere; everything made while it is in use is fake."""
    monkeypatch.setattr(FakeTensor, "numpy", _numpy)
    monkeypatch.setattr(torch.nn.Module, "to", _to)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch.optim, "Adam", _Adam)
    monkeypatch.setattr(KernelPrior, "invert", KernelPrior.encode)  # without its 200 steps
    with Fake(allow_non_fake_inputs=True):
        yield torch.empty(1, 3, 96, 96, device=ELSEWHERE)


def networks():
    made = KernelPrior(2), KernelPredictor(), USRNet()
    return [network.to(ELSEWHERE).eval().requires_grad_(False) for network in made]


def test_fakes_refuse_to_mix_devices(lr):
    with pytest.raises(RuntimeError, match="device"):
        lr - torch.empty(1, 3, 96, 96)


@pytest.mark.parametrize("model", ["DIPFKP", "DIPSoftmax", "DoubleDIP"])
def test_dip_fkp_on_another_device(lr, model):
    prior, predictor, _ = networks()
    settings = replace(
        dip.preset("search"), iterations=3, ssim_iterations=1, frozen_iterations=1, image_iterations=2, crop=64
    )
    settings = replace(settings, channels=8, image_channels=8, non_local=True)
    estimate = dip.estimate(lr, 2, prior=prior, predictor=predictor, settings=settings, model=model, want_image=True)
    assert estimate.kernel.device.type == estimate.image.device.type == "cpu"


@pytest.mark.parametrize("model", ["KernelGANFKP", "KernelGAN"])
@pytest.mark.parametrize("scale_factor", [2, 4])
def test_kernelgan_fkp_on_another_device(lr, model, scale_factor):
    prior, predictor, _ = networks()
    settings = replace(gan.preset("search", model, scale_factor), iterations=2, frozen_iterations=0)
    estimate = gan.estimate(lr, scale_factor, prior=prior, predictor=predictor, settings=settings, model=model)
    assert estimate.kernel.device.type == "cpu"


@pytest.mark.parametrize("tile", [0, 64])
def test_usrnet_on_another_device(lr, tile):
    nonblind = partial(tiled_sr, networks()[2], tile=tile)
    assert restore(nonblind, lr, torch.empty(1, 1, 11, 11), 2, 0.0, "reflect").device == ELSEWHERE
