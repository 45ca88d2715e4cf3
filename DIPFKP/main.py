"""Find an image's blur kernel with DIP-FKP and super-resolve the image with it.

A dataset with ground truth, scored: python main.py --SR --sf 4 --dataset Test

A photograph of yours: python main.py --SR --sf 2 -i photo.jpg
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, get_args

import tyro

from blindsr.batch.command import Method, run_batch
from blindsr.batch.options import EstimatorOptions, MethodOptions
from blindsr.checks import require_unchanged
from blindsr.command import overridden, overrides, parse, run
from blindsr.estimation import Preset
from blindsr.paths import pretrained_path
from DIPFKP.estimator import DIPModel, DIPSettings, preset, pretrained_estimator
from KernelPredictor.command import with_field
from KernelPredictor.predictor import predictor_path
from NonblindSR.command import with_nonblind

PRESETS: dict[Preset, DIPSettings] = {name: preset(name) for name in get_args(Preset)}
SettingsOptions = overrides(PRESETS, "Single settings of the search, in place of the preset's.")


@dataclass(frozen=True)
class DIPMethodOptions(MethodOptions):
    """Which variant of the method, and how the kernel is looked for."""

    model: DIPModel = "DIPFKP"
    """DIPFKP, or a baseline without the kernel prior: DIPSoftmax, DoubleDIP."""


@dataclass(frozen=True)
class Options(EstimatorOptions):
    """What ``python main.py`` takes."""

    preset: Preset = "search"
    """prediction: the predicted kernel, in a second. search: 150 iterations that start there. paper: the published
    1000 iterations of the large network. Settings below override it; those that nothing reads are refused."""
    method: DIPMethodOptions = field(default_factory=DIPMethodOptions)
    settings: Annotated[Any, tyro.conf.arg(name="search", constructor=SettingsOptions)] = field(
        default_factory=SettingsOptions
    )


def effective_settings(options: Options) -> DIPSettings:
    """The preset's settings with those that were given.

    Raises:
        ValueError: one was given that nothing reads.
    """
    model = options.method.model
    base = replace(preset(options.preset, model), circular=not options.photographs)
    settings = overridden(base, options.settings)
    if model != "DIPFKP":
        reason = f"--model {model} has no such choice; leave it out"
        require_unchanged(settings, base, ("kernel_rate", "proximal_weight", "start"), reason)
    elif settings.iterations == 0:
        unread = ["frozen_iterations", "crop", "crop_position", "kernel_rate", "proximal_weight"]
        if options.SR or settings.image_channels is not None:
            unread.append("channels")
        if options.SR:
            unread += ["ssim_iterations", "non_local", "image_rate", "image_iterations", "image_channels", "circular"]
        reason = "has no effect without a search (--iterations 0, as --preset prediction); leave it out, or search"
        require_unchanged(settings, base, unread, reason)
    return settings


def process(options: Options) -> int:
    """Do what ``options`` say; the exit status.

    Raises:
        ValueError, OSError: they do not go together, or name what is not there.
    """
    settings, method = effective_settings(options), options.method
    files = {}
    if method.model == "DIPFKP":
        files["path_KP"] = method.path_KP or pretrained_path(f"FKP_x{options.sf}.pt")
        if settings.start == "predicted":
            files["path_predictor"] = method.path_predictor or predictor_path(options.photographs, options.sf)
    device = options.run.build_device
    estimator = pretrained_estimator(
        options.sf,
        device,
        settings,
        method.model,
        want_image=not options.SR,
        path_prior=files.get("path_KP"),
        path_predictor=files.get("path_predictor"),
    )
    recorded, batch = {"settings": asdict(settings)}, options.method.batch
    told = Method("DIPFKP", method.model, estimator, recorded, files, method.seed, batch=batch)
    told = with_field(told, options, device, method.path_predictor)
    return run_batch(options, with_nonblind(told, options, device) if options.SR else told)


def main() -> int:
    return process(parse(Options, __doc__ or ""))


if __name__ == "__main__":
    run(main)
