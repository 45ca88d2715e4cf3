"""Whether a device computes what the CPU does: each check returns its numbers, and ``ok``.

What is deterministic is compared with the CPU in float32, then as it ships (TF32 and bfloat16 where the device has
them); searches, which amplify rounding, by their first losses and by their scores.
"""

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gpu_search_checks as search
from blindsr.degradation import degrade, quantize
from blindsr.devices import free_memory, gains_from_bfloat16
from blindsr.images import to_uint8
from blindsr.initialization import draw_parameters
from blindsr.kernels import random_kernels
from blindsr.metrics import psnr_ssim_y
from DIPFKP.network import ImagePrior
from FKP import KernelPrior
from gpu_search_checks import CPU, Check, Found, float32, shipped_example
from KernelGANFKP.losses import wasserstein_loss
from KernelGANFKP.networks import Critic
from KernelPredictor import KernelPredictor
from KernelPredictor.training import laplace_loss
from NonblindSR.tiling import tiled_sr
from NonblindSR.usrnet import USRNet

__all__ = ["CHECKS"]


def _relative(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())


def _within(tolerance: float, **differences: float) -> Found:
    return {**differences, "tolerance": tolerance, "ok": all(value <= tolerance for value in differences.values())}


def prior(device: torch.device, quick: bool) -> Found:
    """Decoding, densities and the inversion of a kernel."""
    worst = {"decode": 0.0, "log_prob": 0.0, "invert": 0.0}
    for scale_factor in (2, 4):
        here = KernelPrior.from_pretrained(scale_factor)
        there = copy.deepcopy(here).to(device)
        latent = here.sample_latent(64, torch.Generator().manual_seed(0))
        kernels = here.decode(latent)
        with float32():
            worst["decode"] = max(worst["decode"], _relative(there.decode(latent.to(device)), kernels))
            densities = there.log_prob(kernels.to(device))
            worst["log_prob"] = max(worst["log_prob"], _relative(densities, here.log_prob(kernels)))
            found = there.decode(there.invert(kernels[:2].to(device)))
            worst["invert"] = max(worst["invert"], _relative(found, here.decode(here.invert(kernels[:2]))))
    return {
        **worst,
        "tolerance": 1e-3,
        "ok": worst["decode"] < 1e-4 and worst["log_prob"] < 1e-4 and worst["invert"] < 0.02,
    }


def predictor(device: torch.device, quick: bool) -> Found:
    """Its covariances, in float32 and as it ships, and the kernels that follow."""
    here = KernelPredictor.from_pretrained()
    there = copy.deepcopy(here).to(device)
    lr = shipped_example(2)[0]
    luma = lr.mean(dim=1, keepdim=True)[..., :96, :96]
    expected = here(luma, 2)[0]
    with float32():
        exact = _relative(there(luma.to(device), 2)[0], expected)
    shipped = _relative(there(luma.to(device), 2)[0], expected)
    kernel = _relative(there.predict(lr.to(device), 2).kernel, here.predict(lr, 2).kernel)
    return {
        "float32": exact,
        "shipped": shipped,
        "kernel": kernel,
        "ok": exact < 1e-4 and shipped < 1e-2 and kernel < 1e-2,
    }


def usrnet(device: torch.device, quick: bool) -> Found:
    """Its image in float32, to a grey level of the CPU's, and as it ships, by PSNR; with and without noise."""
    here = USRNet.from_pretrained()
    there = copy.deepcopy(here).to(device)
    lr, kernel, hr = shipped_example(2)
    if quick:
        lr, hr = lr[..., :48, :48], hr[..., :96, :96]
    found: Found = {"ok": True}
    for sigma in (0.0, 10 / 255):
        expected = tiled_sr(here, lr, kernel, 2, sigma)
        with float32():
            exact = tiled_sr(there, lr.to(device), kernel.to(device), 2, sigma).cpu()
        bfloat16 = gains_from_bfloat16(device)
        shipped = tiled_sr(there, lr.to(device), kernel.to(device), 2, sigma, bfloat16=bfloat16).cpu()
        levels = [abs(to_uint8(image).astype(int) - to_uint8(expected).astype(int)) for image in (exact, shipped)]
        scores = [psnr_ssim_y(to_uint8(image), to_uint8(hr), 2)[0] for image in (expected, exact, shipped)]
        name = f"sigma{sigma * 255:.0f}"
        found[f"{name} float32"] = float((exact - expected).abs().max())
        found[f"{name} levels float32"], found[f"{name} levels shipped"] = (int(each.max()) for each in levels)
        found[f"{name} dB float32"], found[f"{name} dB shipped"] = (score - scores[0] for score in scores[1:])
        found["bfloat16"] = bfloat16
        found["ok"] &= bool(
            levels[0].max() <= 1
            and abs(scores[1] - scores[0]) < 0.001
            and abs(scores[2] - scores[0]) < (0.1 if quick else 0.02)
        )
    return found


def tiling(device: torch.device, quick: bool) -> Found:
    """Tiles against none, and against the CPU."""
    here = USRNet.from_pretrained()
    there = copy.deepcopy(here).to(device)
    lr, kernel, _ = shipped_example(2)
    lr = lr[..., :60, :80] if quick else lr
    with float32():
        tiled, whole = (tiled_sr(there, lr.to(device), kernel.to(device), 2, tile=tile).cpu() for tile in (64, 0))
    expected = tiled_sr(here, lr, kernel, 2, tile=64)
    return _within(2e-4, whole=float((tiled - whole).abs().max()), cpu=float((tiled - expected).abs().max()))


def _gradient(network: nn.Module, loss: Callable[[nn.Module, torch.device], Tensor], device: torch.device) -> Tensor:
    network = copy.deepcopy(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(network, device), parameters, allow_unused=True)
    return torch.cat([gradient.flatten().cpu() for gradient in gradients if gradient is not None])


def _predictor_loss(net: KernelPredictor, luma: Tensor, target: Tensor) -> Tensor:
    reading = net(luma, 2)
    return laplace_loss(reading.entries, reading.log_errors, target)


def training_steps(device: torch.device, quick: bool) -> Found:
    """The gradient of each network's loss."""
    draws = torch.Generator().manual_seed(0)
    hr = torch.rand(4, 3, 48, 48, generator=draws)
    kernels = random_kernels(4, 2, draws)
    lr = quantize(degrade(hr, kernels, 2))
    flow = KernelPrior.from_pretrained(2).train().requires_grad_()
    predicts = KernelPredictor.from_pretrained().train().requires_grad_()
    image_prior = ImagePrior(16, 3, pictures=4)
    draw_parameters(image_prior, *[torch.Generator().manual_seed(seed) for seed in range(4)])
    real, fake = torch.rand(2, 8, 9, 27, 27, generator=draws)
    shares = torch.rand(3, generator=draws)
    target = torch.randn(4, 3, generator=draws)
    losses: dict[str, tuple[nn.Module, Callable[[Any, torch.device], Tensor]]] = {
        "prior": (flow, lambda net, at: -net.log_prob(kernels.to(at)).mean()),
        "predictor": (predicts, lambda net, at: _predictor_loss(net, hr[:, :1].to(at), target.to(at))),
        "usrnet": (
            USRNet.from_pretrained().train(),
            lambda net, at: F.l1_loss(net(lr.to(at), kernels.to(at), 2, torch.zeros(4, device=at)), hr.to(at)),
        ),
        "image prior": (image_prior, lambda net, at: (net(hr.to(at) / 10) - hr.to(at)).square().mean()),
        "critics": (
            Critic(draws, draws, draws),
            lambda net, at: wasserstein_loss(net, real.to(at), fake.to(at), shares.to(at), 0.1)[0].sum(),
        ),
    }
    with float32():
        differences = {
            name: _relative(_gradient(net, loss, device), _gradient(net, loss, CPU))
            for name, (net, loss) in losses.items()
        }
    return _within(2e-3, **differences)


def channels_last(device: torch.device, quick: bool) -> Found:
    """The image network in both memory layouts."""
    network = ImagePrior(16, 3, pictures=2)
    draw_parameters(network, *[torch.Generator().manual_seed(seed) for seed in range(2)])
    noise = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with float32(), torch.no_grad():
        first, last = (
            copy.deepcopy(network).to(device, memory_format=layout)(noise.to(device, memory_format=layout))  # type: ignore[call-overload]
            for layout in (torch.contiguous_format, torch.channels_last)
        )
    return _within(1e-4, layouts=_relative(last, first), cpu=_relative(first, network(noise)))


def out_of_memory(device: torch.device, quick: bool) -> Found:
    """A picture that does not fit into what is left of a filled card comes out in tiles all the same."""
    if device.type != "cuda":
        return {"ok": True, "note": "only with CUDA"}
    net = USRNet.from_pretrained().to(device)
    lr, kernel, _ = shipped_example(2)
    lr = lr.repeat(1, 1, 4, 4).to(device)
    expected = tiled_sr(net, lr, kernel.to(device), 2, tile=256)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("NonblindSR.tiling").addHandler(handler)
    filled = []
    try:
        torch.cuda.empty_cache()
        while (free := free_memory(device) or 0) > 2**29:
            filled.append(torch.empty(min(free - 2**28 - 2**27, 2**33), dtype=torch.uint8, device=device))
        found = tiled_sr(net, lr, kernel.to(device), 2, tile=0).to(device)
    finally:
        filled.clear()
        torch.cuda.empty_cache()
        logging.getLogger("NonblindSR.tiling").removeHandler(handler)
    difference = float((found - expected).abs().max())
    return {"difference": difference, "said": "; ".join(messages), "ok": bool(messages) and difference < 5e-3}


CHECKS: dict[str, Check] = {
    "prior": prior,
    "predictor": predictor,
    "usrnet": usrnet,
    "tiling": tiling,
    "training steps": training_steps,
    "channels last": channels_last,
    "graphs": search.graphs,
    "together": search.together,
    "critics together": search.critics_together,
    "DIP-FKP prediction": search.dip_check("prediction"),
    "DIP-FKP search": search.dip_check("search"),
    "DIP-FKP paper": search.dip_check("paper"),
    "DIPSoftmax": search.dip_check("paper", "DIPSoftmax"),
    "DoubleDIP": search.dip_check("paper", "DoubleDIP"),
    "KernelGAN-FKP prediction": search.gan_check("prediction"),
    "KernelGAN-FKP search": search.gan_check("search"),
    "KernelGAN-FKP paper": search.gan_check("paper"),
    "KernelGAN": search.gan_check("paper", "KernelGAN"),
    "out of memory": out_of_memory,
    "failed capture": search.failed_capture,
}
"""First what the rest rests on, last what might leave the device in disorder."""
