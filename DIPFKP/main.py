"""Estimate an image's blur kernel with DIP-FKP and super-resolve the image with it.

A dataset with ground truth, scored: python main.py --SR --sf 4 --dataset Test

A photograph of yours: python main.py --SR --sf 2 --real -i photo.png
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from blindsr.batch.cli import SearchOptions, parse, peek, peek_flag, run, run_estimator
from blindsr.checks import require_unchanged
from blindsr.devices import pick_device
from blindsr.estimation import Preset
from DIPFKP.estimator import DIPModel, DIPSettings, preset, pretrained_estimator
from NonblindSR.tiling import pretrained_nonblind


@dataclass(frozen=True)
class Options(SearchOptions):
    """What ``python main.py`` takes."""

    model: DIPModel = "DIPFKP"
    """DIPFKP, or a baseline without the kernel prior: DIPSoftmax, DoubleDIP."""
    preset: Preset = "search"
    """Settings: prediction (the predicted kernel, in a second), search (150 iterations that start there), or paper
    (1000 iterations of the large network). Options below override it; those that nothing reads are refused."""
    settings: DIPSettings = field(default_factory=DIPSettings)

    def files(self) -> dict[str, Path]:
        return super().files() | (self.search_files(self.sf, self.settings.start) if self.model == "DIPFKP" else {})


def require_effect(options: Options, given: DIPSettings) -> None:
    """Raise ValueError where an option differs from what the preset has given, and nothing reads it."""
    settings = options.settings
    if options.model != "DIPFKP":
        reason = f"--model {options.model} has no such choice; leave it out"
        require_unchanged(settings, given, ("kernel_rate", "proximal_weight", "start"), reason)
    elif settings.iterations == 0:
        unread = ["frozen_iterations", "crop", "crop_position", "kernel_rate", "proximal_weight"]
        if options.SR or settings.image_channels is not None:
            unread.append("channels")
        if options.SR:
            unread += ["ssim_iterations", "non_local", "image_rate", "image_iterations", "image_channels", "circular"]
        reason = "has no effect without a search (--iterations 0, as --preset prediction); leave it out, or search"
        require_unchanged(settings, given, unread, reason)


def main() -> int:
    name, model = peek("--preset", "search", get_args(Preset)), peek("--model", "DIPFKP", get_args(DIPModel))
    settings = preset(name, model)  # type: ignore[arg-type]
    if peek_flag("--real"):
        settings = replace(settings, circular=False)
    options = parse(Options, __doc__ or "", Options(settings=settings))
    require_effect(options, settings)
    device = pick_device(options.device)
    estimator = pretrained_estimator(
        options.sf,
        device,
        options.settings,
        options.model,
        want_image=not options.SR,
        path_prior=options.path_KP,
        path_predictor=options.path_predictor,
    )
    nonblind = None
    if options.SR:
        nonblind = pretrained_nonblind(options.path_nonblind, device, options.tile, float32=options.float32)
    return run_estimator(options, "DIPFKP", options.model, estimator, nonblind)


if __name__ == "__main__":
    run(main)
