"""The README's picture: the Test picture at x4 as given, as estimated and super-resolved, and as it was.

cd DIPFKP && python main.py --SR --sf 4 --dataset Test, then python benchmarks/overview.py
"""

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from matplotlib.figure import Figure

from blindsr.batch.inputs import find_items
from blindsr.command import parse, run
from blindsr.degradation import modcrop
from blindsr.images import read_image, to_uint8
from blindsr.kernel_files import read_kernel
from blindsr.paths import data_folder


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/overview.py`` takes."""

    results: Path = data_folder() / "log_DIPFKP" / "Test_DIPFKP_lr_x4"
    """Where the main job left its results."""
    output: Path = data_folder().parent / "docs" / "overview.png"
    """The picture to write."""


def main() -> int:
    options = parse(Options, __doc__ or "")
    (item,) = find_items("Test", "DIPFKP", 4)
    assert item.hr is not None
    assert item.kernel is not None
    lr, hr = read_image(item.lr), modcrop(read_image(item.hr), 4)
    interpolated = F.interpolate(lr, scale_factor=4, mode="bicubic").clamp(0, 1)
    pictures = {
        "given (bicubic to this size)": interpolated,
        "super-resolved": read_image(options.results / f"{item.name}.png"),
        "as it was": hr,
    }
    kernels = {
        "true kernel": read_kernel(item.kernel),
        "estimated": read_kernel(options.results / f"{item.name}.mat"),
    }
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    grid = figure.add_gridspec(2, 7)
    for place, (title, image) in enumerate(pictures.items()):
        axis = figure.add_subplot(grid[:, 2 * place + (place > 0) : 2 * place + 2 + (place > 0)])
        axis.imshow(to_uint8(image)[40:200, 120:330])
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    for row, (title, kernel) in enumerate(kernels.items()):
        axis = figure.add_subplot(grid[row, 2])
        axis.imshow(kernel[0, 0], cmap="viridis", vmin=0, vmax=float(kernels["true kernel"].max()))
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.savefig(options.output, dpi=80)
    print(options.output)
    return 0


if __name__ == "__main__":
    run(main)
