"""Figures of docs/ whose numbers are measured, made of the records in benchmarks/results.

python benchmarks/figures.py

docs/accuracy.png: PSNR against seconds a picture of each preset, and what was published; docs/kernel_psnr.png: kernel
PSNR picture by picture.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blindsr.command import parse, run
from blindsr.files import atomic_write
from logbook import REPOSITORY, RESULTS, Record, read
from tables import SIZES, dataset_records, mean, median, pick, pictures, quiet

SCALES = (2, 3, 4)
SEARCHED = {"prediction": "C0", "search": "C1", "paper": "C2"}
"""The presets, and each one's colour."""
MARKERS = {"official": "o", "ours": "s"}
PUBLISHED = "DIP-FKP + USRNet"


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/figures.py`` takes."""

    dataset: str = "Set5"
    """Which data set's records to draw."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = REPOSITORY / "docs"
    """Folder of the figures."""


def accuracy(records: list[Record], published: Iterable[Record], name: str) -> Figure:
    """Mean PSNR against the median of seconds, a panel for each scale factor; lines where no seconds are known."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for scale, axis in zip(SCALES, figure.subplots(1, len(SCALES)), strict=True):
        for method, colour in SEARCHED.items():
            for weights, marker in MARKERS.items():
                row = pick(records, scale=scale, method=method, weights=weights)
                _point(axis, row, f"{method}, {weights} weights", name, color=colour, marker=marker)
        lines = {"published (mean of 5 runs)": (pick(published, dataset=name, scale=scale, method=PUBLISHED), "C3")}
        for weights, colour in (("official", "0.3"), ("ours", "0.6")):
            oracle = pick(records, scale=scale, method="oracle", weights=weights)
            lines[f"true kernel, {weights} weights"] = oracle, colour
        for label, (row, colour) in lines.items():
            if (psnr := mean(row, "psnr")) is not None:
                axis.axhline(psnr, color=colour, linestyle="--", linewidth=1, label=label)
        axis.set_xscale("log")
        axis.set_title(f"{name}, x{scale}")
        axis.set_xlabel("seconds a picture")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("PSNR on Y (dB)")
    _legend(figure)
    return figure


def _point(axis: Axes, row: list[Record], label: str, name: str, **style: Any) -> None:
    """A row's place: filled where its seconds were taken on a processor that did nothing else, else hollow."""
    timed = [record for record in row if "seconds" in record.values]
    calm = quiet(timed)
    seconds, psnr = median(calm or timed, "seconds"), mean(row, "psnr")
    if seconds is None or psnr is None:
        return
    axis.plot(seconds, psnr, linestyle="", markersize=8, fillstyle="full" if calm else "none", label=label, **style)
    if pictures(row) < SIZES.get(name, 0):
        told = f"{pictures(row)} of {SIZES[name]} "
        axis.annotate(told, (seconds, psnr), (-6, -4), textcoords="offset points", ha="right", size=7)


def kernel_psnr(records: list[Record], name: str) -> Figure:
    """Kernel PSNR of each picture, official weights, a panel for each scale factor."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    for scale, axis in zip(SCALES, figure.subplots(1, len(SCALES), sharey=True), strict=True):
        rows = {method: pick(records, scale=scale, method=method, weights="official") for method in SEARCHED}
        found = {method: values for method, row in rows.items() if (values := _by_picture(row))}
        names = sorted({picture for values in found.values() for picture in values})
        for index, (method, values) in enumerate(found.items()):
            places = np.arange(len(names)) + 0.28 * (index - (len(found) - 1) / 2)
            heights = [values.get(picture, np.nan) for picture in names]
            axis.bar(places, heights, width=0.26, color=SEARCHED[method], label=method)
        axis.set_xticks(range(len(names)), names, rotation=40 if len(names) <= 14 else 90, fontsize=8)
        axis.set_title(f"{name}, x{scale}")
        axis.set_ylim(bottom=30)
        axis.grid(axis="y", alpha=0.3)
    figure.axes[0].set_ylabel("kernel PSNR (dB)")
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    """One for all panels."""
    entries: dict[str, Artist] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(list(entries.values()), list(entries), loc="outside right center", fontsize=8)


def _by_picture(row: list[Record]) -> dict[str, float]:
    """Mean over seeds of each picture whose kernel was scored."""
    scored = [record for record in row if record.what.get("picture") and "kernel_psnr" in record.values]
    names = dict.fromkeys(record.what["picture"] for record in scored)
    return {
        name: float(np.mean([r.values["kernel_psnr"] for r in scored if r.what["picture"] == name])) for name in names
    }


def main() -> int:
    options = parse(Options, __doc__ or "")
    records = [record for record in dataset_records(options.results) if record.what["dataset"] == options.dataset]
    if not records:
        raise ValueError(f"--dataset {options.dataset}: no records of it in {options.results}; run dataset.py first")
    published = read(RESULTS / "published.jsonl")
    figures = {
        "accuracy": accuracy(records, published, options.dataset),
        "kernel_psnr": kernel_psnr(records, options.dataset),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        path = options.output / f"{name}.png"
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=80, format="png")
        print(path)
    return 0


if __name__ == "__main__":
    run(main)
