"""The options that the command of every estimator has."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from blindsr.devices import DeviceName, pick_device
from blindsr.encoding import QUALITY, OutputFormat

__all__ = ["BatchOptions", "EstimatorOptions", "MethodOptions", "PictureOptions", "RunOptions"]


def _hint(default: str, **arguments: Any) -> Any:
    """An option whose default the help says in words."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {default})", **arguments)


@dataclass(frozen=True)
class PictureOptions:
    """What the pictures are, and what USRNet makes of them."""

    prepared: bool = False
    """The pictures of -i are laboratory data as prepare_dataset.py makes them: published kernel centre, periodic
    boundary, no noise. Without it they are photographs, and those of -d are laboratory data."""
    real: bool = False
    """The LR pictures of the dataset are treated as photographs: no ground truth is looked for. (Those of -i are.)"""
    sigma: Annotated[float | Literal["auto"] | None, _hint("auto for photographs, 0 for laboratory data")] = None
    """Noise level that USRNet expects, in grey levels of 255: 0 to 50 for photographs, 0 to 15 for laboratory data;
    auto reads it off each picture."""
    path_nonblind: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of USRNet; without it, the shipped ones, for photographs or for laboratory data."""
    format: OutputFormat = "same"
    """Format of the results; same is that of the input where it loses nothing visible, else PNG."""
    quality: int = QUALITY
    """Quality of JPEG and WebP results, 1 to 100."""


@dataclass(frozen=True)
class RunOptions:
    """How the work is done; no result depends on it but for rounding."""

    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA or MPS where there is one."""
    workers: Annotated[
        int | Literal["auto"] | None,
        tyro.conf.arg(metavar="N|auto", help_behavior_hint="(default: 1; with --ray, auto)"),
    ] = None
    """Processes that share the pictures, each with a GPU or its share of the cores; auto: one for each GPU, else for
    each core. Needs the extra "ray", which takes seconds to start: for dozens of
    pictures, not for three."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Workers of this Ray cluster instead of this machine: auto (the one running here), HOST:6379, ray://HOST:10001."""
    threads: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: an equal share of the cores)")] = None
    """Threads of each process. Results are the same byte for byte for the same number, whatever the number of
    workers; another number rounds differently."""
    tile: Annotated[
        int | None, tyro.conf.arg(metavar="PIXELS", help_behavior_hint="(default: what the free memory allows)")
    ] = None
    """USRNet works in tiles of so many result pixels a side; 0 for none."""
    float32: bool = False
    """Compute in float32 throughout. Without it, devices that gain from bfloat16 take that inside USRNet and the
    critic, which changed PSNR by at most 0.006 dB where it was measured."""
    verbose: bool = False
    """Show in the report what explains a bad result: the kernel along the search, the losses, the true kernel where
    it is known, and what lies between the input and the result, blurred and made small again."""
    resume: bool = True
    """Skip pictures that an earlier run of the same settings finished, by the <image>.json beside each result."""
    overwrite: bool = False
    """Replace results of other settings or other pictures; without it they are left alone and nothing is done."""
    open: bool = False
    """Show the report, index.html among the results, in the browser when all is done."""

    @property
    def on_ray(self) -> bool:
        """Whether the pictures go to workers, other processes than this one."""
        return self.ray is not None or self.workers not in (None, 1)

    @property
    def build_device(self) -> torch.device:
        """Where a command puts its networks; workers take them from the CPU to their own devices.

        Raises:
            ValueError: see :func:`blindsr.devices.pick_device`.
        """
        return torch.device("cpu") if self.on_ray else pick_device(self.device)


@dataclass(frozen=True)
class BatchOptions:
    """What every command takes that works through a folder of pictures."""

    input_dir: Annotated[
        tuple[tuple[Path, ...], ...],
        tyro.conf.arg(aliases=["-i", "--input"], metavar="PATH [PATH ...]"),
        tyro.conf.UseAppendAction,
    ] = ()
    """Your photographs: pictures, folders, 'photos/*.jpg'. They are not scored."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Where results go; without it, data/log_<ESTIMATOR>/<name>_<model>_lr_x<sf>, by the name of the dataset, the
    picture or its folder. There a later run's picture of the same name is refused, and needs a folder of its own."""
    sf: Literal[1, 2, 3, 4, 8] = 2
    """Scale factor; 1 deblurs at the picture's own size."""
    dataset: Annotated[
        str | None, tyro.conf.arg(aliases=["-d"], metavar="NAME", help_behavior_hint="(default, without -i: Test)")
    ] = None
    """A prepared dataset: a name under data/datasets, or a folder with HR, LR and kernel folders inside."""
    pictures: Annotated[PictureOptions, tyro.conf.arg(name="picture")] = field(default_factory=PictureOptions)
    run: RunOptions = field(default_factory=RunOptions)

    @property
    def paths(self) -> list[Path]:
        """All that -i names, in order; it may be given several times."""
        return [path for given in self.input_dir for path in given]

    @property
    def photographs(self) -> bool:
        """Whether the pictures are photographs, not laboratory data."""
        return self.pictures.real or (bool(self.paths) and not self.pictures.prepared)


@dataclass(frozen=True)
class MethodOptions:
    """How the kernel is looked for."""

    path_KP: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the kernel prior; without it, the shipped ones of the scale factor."""
    path_predictor: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights of the predictor of the start; without it, the shipped ones, for photographs or for laboratory data."""
    seed: int = 0
    """Seed of every random number; on one CPU the same seed gives the same result."""
    local: bool = False
    """With --SR: the blur varies over the photographs, towards the corners or with depth. It is read everywhere, and
    undone place by place. Where it does not vary enough to be told, this changes nothing."""
    batch: Annotated[int | None, _hint("by the free memory of a GPU; 1 on a CPU", metavar="N")] = None
    """Search up to so many pictures as one: a GPU is hardly busy with one. Each comes out as it does alone, but for
    rounding, which a search amplifies."""


@dataclass(frozen=True)
class EstimatorOptions(BatchOptions):
    """And those that look for the kernel."""

    SR: bool = False
    """Super-resolve with USRNet and the kernel found. Without it the result is the estimator's own image, if any."""
    method: MethodOptions = field(default_factory=MethodOptions)
