"""The prior's affine couplings against rational-quadratic splines: as many parameters, steps and kernels.

All but the couplings is the same: blocks, masks, batch norms, learning rate, and how nearest kernels are found. The
splines (Durkan et al., arXiv:1906.04032) are zuko's: pip install 'blindsr[benchmarks]'. Each run is a record in
--results and is not repeated.

python benchmarks/spline_flow.py
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import scipy.ndimage
import torch
import tyro
from torch import Tensor, nn

import tables
from blindsr.command import parse, run
from blindsr.initialization import draw_parameters
from FKP import KernelPrior
from FKP.flow import FlowBatchNorm, NormalizingFlow
from FKP.prior import FlowShape
from FKP.sources import Family, KernelSource
from FKP.training import CHUNK, DEEPER, WIDER, calibrate, negative_log_likelihood, reconstruction
from logbook import RESULTS, Values, What, fingerprint, measured

try:
    from zuko.transforms import MonotonicRQSTransform
except ImportError:  # the optional extra "benchmarks"
    MonotonicRQSTransform = None

BINS = 8
INVERTED, SAMPLES = 100, 1000
FAINT = 0.1
"""Of a kernel's peak: what is darker joins no two pieces."""
Coupling = Literal["affine", "spline"]
COUPLINGS: tuple[Coupling, ...] = ("affine", "spline")


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/spline_flow.py`` takes."""

    couplings: tuple[Coupling, ...] = COUPLINGS
    """Which couplings."""
    kernels: tuple[Literal["gaussian", "motion", "disk", "mixed"], ...] = ("motion",)
    """Families that are trained on."""
    sf: Literal[1, 2, 3, 4, 8] = 2
    """Scale factor."""
    steps: int = 1000
    """Of each training."""
    batch: int = 250
    """Kernels per step."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


class SplineCoupling(nn.Module):
    """Coupling layer whose changed half goes through splines on [−5, 5], identities beyond.

    Args:
        mask: shape (d,), ones where the input passes unchanged.
        hidden: width of the two hidden layers.
    """

    def __init__(self, mask: Tensor, hidden: int) -> None:
        super().__init__()
        self.kept, self.changed = mask.bool(), ~mask.bool()
        count, each = int(self.changed.sum()), 3 * BINS - 1
        self.net = nn.Sequential(
            nn.Linear(len(mask) - count, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, count * each),
            nn.Unflatten(1, (count, each)),
        )

    def _splines(self, kept: Tensor) -> Any:
        """The splines of a batch, a zuko transform."""
        return MonotonicRQSTransform(*self.net(kept).split([BINS, BINS, BINS - 1], dim=-1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """N×d → N×d and the log-determinant, shape (N,)."""
        u, log_det = self._splines(x[:, self.kept]).call_and_ladj(x[:, self.changed])
        return self._put(x, u), log_det.sum(dim=1)

    def inverse(self, u: Tensor) -> Tensor:
        """N×d → N×d, the inverse of :meth:`forward`."""
        return self._put(u, self._splines(u[:, self.kept]).inv(u[:, self.changed]))

    def _put(self, x: Tensor, changed: Tensor) -> Tensor:
        columns = self.changed.nonzero()[:, 0].expand(len(x), -1)
        return x.scatter(1, columns, changed)


class SplineFlow(NormalizingFlow):
    """Blocks of [spline coupling, batch norm], behind a batch norm that brings logits to where splines act."""

    def __init__(self, dimension: int, hidden: int, blocks: int) -> None:
        layers: list[nn.Module] = [FlowBatchNorm(dimension)]
        mask = torch.arange(dimension).float() % 2
        for _ in range(blocks):
            layers += [SplineCoupling(mask, hidden), FlowBatchNorm(dimension)]
            mask = 1 - mask
        nn.Sequential.__init__(self, *layers)

    def inverse(self, u: Tensor) -> Tensor:
        for layer in reversed(self):
            assert isinstance(layer, SplineCoupling | FlowBatchNorm)
            u = layer.inverse(u)
        return u


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def untrained(coupling: Coupling, source: KernelSource) -> KernelPrior:
    """The prior as it is shipped, or with splines and no more parameters than that has."""
    prior = KernelPrior(source.scale_factor, FlowShape(source.side, WIDER, DEEPER), source.name, source.largest)
    if coupling != "affine":
        most, hidden = parameters(prior.net), 1
        make = partial(SplineFlow, prior.dimension, blocks=DEEPER)
        while parameters(wider := make(hidden=hidden + 1)) <= most:
            prior.net, hidden = wider, hidden + 1
    draw_parameters(prior, torch.Generator().manual_seed(0))
    return prior


def trained(prior: KernelPrior, source: KernelSource, steps: int, batch: int) -> float:
    """Train as FKP/training.py does. Returns the processor's seconds a step, kernels not counted."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-3, weight_decay=1e-6, fused=True)
    milestones = [max(1, steps * tenth // 10) for tenth in (4, 5, 6, 7, 8, 9)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5)
    seconds, at_once = 0.0, max(1, CHUNK // batch)
    for start in range(0, steps, at_once):
        kernels = source.draw(min(at_once, steps - start) * batch, generator)
        began = time.process_time()
        for each in kernels.split(batch):
            loss = -prior.log_prob(each, generator).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds += time.process_time() - began
    calibrate(prior, source, torch.Generator().manual_seed(1))
    prior.eval().requires_grad_(False)
    return seconds / steps


def in_pieces(kernels: Tensor) -> float:
    """Share of kernels that fall into several pieces, neighbours by side or corner, where they are not faint."""
    clear = (kernels >= FAINT * kernels.amax(dim=(2, 3), keepdim=True))[:, 0].numpy()
    return float(np.mean([scipy.ndimage.label(pixels, np.ones((3, 3)))[1] > 1 for pixels in clear]))


def measure(what: What, batch: int) -> Values:
    """One training, in this process."""
    source = Family(what["kernels"], what["scale"])
    unseen = source.held_out()
    prior = untrained(what["coupling"], source)
    seconds = trained(prior, source, what["steps"], batch)
    nll, error = negative_log_likelihood(prior, unseen)
    near = reconstruction(prior, unseen[:INVERTED])
    return {
        "parameters": parameters(prior.net),
        "nll": round(nll, 3),
        "two_errors": round(error, 3),
        "kernel_psnr": round(float(near.mean()), 3),
        "kernel_psnr_tenth": round(float(near.quantile(0.1)), 3),
        "in_pieces": round(in_pieces(prior.sample(SAMPLES, torch.Generator().manual_seed(0))), 4),
        "ms_a_step": round(1000 * seconds, 1),
    }


def main() -> int:
    options = parse(Options, __doc__ or "")
    if MonotonicRQSTransform is None:
        raise ValueError("the splines need zuko: pip install 'blindsr[benchmarks]'")
    mark = fingerprint(BINS, WIDER, DEEPER, options.batch, options.steps)
    shared = {"scale": options.sf, "steps": options.steps, "fingerprint": mark}
    for kernels in options.kernels:
        rows = [[shared | {"kernels": kernels, "coupling": coupling}] for coupling in options.couplings]
        measured(options.results / "spline_flow.jsonl", rows, partial(measure, batch=options.batch))
    print(tables.spline_flow(options.results))
    return 0


if __name__ == "__main__":
    run(main)
