"""Estimate an image's blur kernel with KernelGAN-FKP and super-resolve the image with it.

A dataset with ground truth, scored: python main.py --SR --sf 2 --dataset Test

A photograph of yours: python main.py --SR --sf 2 --real -i photo.png
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from blindsr.batch.cli import SearchOptions, parse, peek, peek_flag, run, run_estimator
from blindsr.checks import require_unchanged
from blindsr.devices import pick_device
from blindsr.estimation import Preset
from KernelGANFKP.estimator import GANModel, GANSettings, preset, pretrained_estimator
from NonblindSR.tiling import pretrained_nonblind


@dataclass(frozen=True)
class Options(SearchOptions):
    """What ``python main.py`` takes."""

    sf: Annotated[Literal[2, 3, 4, 8], tyro.conf.arg(metavar="{2,4}")] = 2
    """Scale factor."""
    model: GANModel = "KernelGANFKP"
    """KernelGANFKP, or the baseline without the kernel prior: KernelGAN, whose only preset is its paper's."""
    preset: Preset = "search"
    """Settings: prediction (the predicted kernel, in a second), search (at most 300 iterations that start there), or
    paper (1000 iterations at x2, 4000 at x4). Options below
    override it; those that nothing reads are refused."""
    float32: bool = False
    """Compute all of USRNet, and of KernelGANFKP's critic, in float32. Without it, processors that gain from bfloat16
    take that for the layers inside, which with USRNet changed PSNR by at most 0.006 dB where it was measured."""
    settings: GANSettings = field(default_factory=GANSettings)

    def files(self) -> dict[str, Path]:
        # At x4 too the x2 kernel is searched.
        return super().files() | (self.search_files(2, self.settings.start) if self.model == "KernelGANFKP" else {})

    def reads_float32(self) -> bool:
        return super().reads_float32() or (self.model == "KernelGANFKP" and self.settings.iterations > 0)


def main() -> int:
    # A preset depends on model and scale factor; real photos have no border that a degradation made.
    model, sf = peek("--model", "KernelGANFKP"), peek("--sf", "2")
    settings = preset(peek("--preset", "search", get_args(Preset)), model, int(sf) if sf.isdigit() else 2)  # type: ignore[arg-type]
    if peek_flag("--real"):
        settings = replace(settings, shave=0)
    options = parse(Options, __doc__ or "", Options(settings=settings))
    if options.model == "KernelGAN":
        options = replace(options, preset="paper")  # both names mean the same, so records have one
    if options.settings.iterations == 0 and options.model == "KernelGANFKP":
        names = [each.name for each in fields(settings) if each.name not in ("iterations", "start")]
        reason = "has no effect without a search (--iterations 0, as --preset prediction has it); leave it out"
        require_unchanged(options.settings, settings, names, reason)
    device = pick_device(options.device)
    estimator = pretrained_estimator(
        options.sf,
        device,
        options.settings,
        options.model,
        path_prior=options.path_KP,
        path_predictor=options.path_predictor,
        float32=options.float32,
    )
    nonblind = None
    if options.SR:
        nonblind = pretrained_nonblind(options.path_nonblind, device, options.tile, float32=options.float32)
    return run_estimator(options, "KernelGANFKP", options.model, estimator, nonblind)


if __name__ == "__main__":
    run(main)
