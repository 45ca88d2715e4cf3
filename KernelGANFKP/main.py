"""Find an image's blur kernel with KernelGAN-FKP and super-resolve the image with it.

A dataset with ground truth, scored: python main.py --SR --sf 2 --dataset Test

A photograph of yours: python main.py --SR --sf 2 -i photo.jpg
"""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, get_args

import tyro

from blindsr.batch.command import Method, run_batch
from blindsr.batch.options import EstimatorOptions, MethodOptions
from blindsr.checks import require_unchanged
from blindsr.command import overridden, overrides, parse, run
from blindsr.estimation import Preset
from blindsr.paths import pretrained_path
from KernelGANFKP.estimator import GANModel, GANSettings, preset, pretrained_estimator
from KernelPredictor.command import with_field
from KernelPredictor.predictor import predictor_path
from NonblindSR.command import with_nonblind

PRESETS: dict[Preset, GANSettings] = {name: preset(name, "KernelGANFKP", 2) for name in get_args(Preset)}
SettingsOptions = overrides(PRESETS, "Single settings of the search, in place of the preset's (here: those of x2).")


@dataclass(frozen=True)
class GANMethodOptions(MethodOptions):
    """Which variant of the method, and how the kernel is looked for."""

    model: GANModel = "KernelGANFKP"
    """KernelGANFKP, or the baseline without the kernel prior: KernelGAN, whose only preset is its paper's."""


@dataclass(frozen=True)
class Options(EstimatorOptions):
    """What ``python main.py`` takes."""

    preset: Preset = "search"
    """prediction: the predicted kernel, in a second. search: at most 300 iterations that start there. paper: the
    published 1000 iterations at x2, 4000 at x4. Settings below override it; those that nothing reads are refused."""
    method: GANMethodOptions = field(default_factory=GANMethodOptions)
    settings: Annotated[Any, tyro.conf.arg(name="search", constructor=SettingsOptions)] = field(
        default_factory=SettingsOptions
    )


def effective_settings(options: Options) -> GANSettings:
    """The preset's settings with those that were given.

    Raises:
        ValueError: one was given that nothing reads.
    """
    base = preset(options.preset, options.method.model, options.sf)
    if options.photographs:
        base = replace(base, shave=0)  # photographs have no border that a degradation made
    settings = overridden(base, options.settings)
    if settings.iterations == 0 and options.method.model == "KernelGANFKP":
        names = [each.name for each in fields(settings) if each.name not in ("iterations", "start")]
        reason = "has no effect without a search (--iterations 0, as --preset prediction); leave it out"
        require_unchanged(settings, base, names, reason)
        # Of a search that is not made no setting counts.
        settings = replace(preset("prediction", "KernelGANFKP", options.sf), shave=base.shave)
    return settings


def main() -> int:
    options = parse(Options, __doc__ or "")
    settings, method = effective_settings(options), options.method
    if method.batch is not None and method.model == "KernelGAN":
        raise ValueError(f"--batch {method.batch}: KernelGAN searches one picture at a time; leave it out")
    files, float32 = {}, {}
    if method.model == "KernelGANFKP":
        files["path_KP"] = method.path_KP or pretrained_path("FKP_x2.pt")
        if settings.start == "predicted":
            files["path_predictor"] = method.path_predictor or predictor_path(options.photographs, options.sf)
        if options.run.float32 and settings.iterations:
            float32 = {"float32": True}
    device = options.run.build_device
    estimator = pretrained_estimator(
        options.sf,
        device,
        settings,
        method.model,
        path_prior=files.get("path_KP"),
        path_predictor=files.get("path_predictor"),
        float32=options.run.float32,
    )
    recorded = {"settings": asdict(settings)} | float32
    told = Method("KernelGANFKP", method.model, estimator, recorded, files, method.seed, batch=method.batch)
    told = with_field(told, options, device, method.path_predictor)
    return run_batch(options, with_nonblind(told, options, device) if options.SR else told)


if __name__ == "__main__":
    run(main)
