"""Super-resolve your photographs: blindsr photo.jpg holiday/ --sf 2

The same as DIPFKP/main.py --SR -i; that command has more options, for datasets and for the method.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from blindsr.batch.options import PictureOptions, RunOptions
from blindsr.command import parse, run
from blindsr.estimation import Preset


@dataclass(frozen=True)
class Options:
    """What ``blindsr`` takes."""

    photographs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")
    ] = ()
    """Pictures, folders of pictures, 'photos/*.jpg'."""
    sf: Literal[1, 2, 3, 4, 8] = 2
    """Scale factor; 1 deblurs at the picture's own size."""
    output_dir: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Where results go; without it, log_DIPFKP/<name>_DIPFKP_lr_x<sf> below the current folder, in a checkout below
    its data/."""
    preset: Preset = "search"
    """prediction: the predicted kernel, in a second. search: 150 iterations that start there. paper: the published
    1000 iterations of the large network."""
    sigma: Annotated[float | Literal["auto"], tyro.conf.arg(metavar="LEVEL|auto")] = "auto"
    """Noise level of the photographs, 0 to 50 grey levels of 255; auto reads it off each. More makes smoother
    results."""
    local: bool = False
    """The blur varies over the photographs, towards the corners or with depth. It is read everywhere, and undone
    place by place. Where it does not vary enough to be told, this changes nothing."""
    run: RunOptions = field(default_factory=RunOptions)


def main() -> int:
    # A front door, as super_resolve is: inside the call, so that blindsr depends on no estimator.
    from DIPFKP.main import DIPMethodOptions, process
    from DIPFKP.main import Options as DIPOptions

    options = parse(Options, __doc__ or "", "blindsr")
    if not options.photographs:
        raise ValueError("name a picture or a folder: blindsr photo.jpg; blindsr --help lists the options")
    return process(
        DIPOptions(
            input_dir=(options.photographs,),
            output_dir=options.output_dir,
            sf=options.sf,
            preset=options.preset,
            pictures=PictureOptions(sigma=options.sigma),
            run=options.run,
            SR=True,
            method=DIPMethodOptions(local=options.local),
        )
    )


def script() -> None:
    """The console script."""
    run(main)


if __name__ == "__main__":
    script()
