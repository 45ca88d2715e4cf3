"""Every table of README.md and docs/ whose figures are measured, made of the records in benchmarks/results.

python benchmarks/tables.py

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; what is between them is replaced.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from blindsr.command import parse, run
from logbook import REPOSITORY, RESULTS, Record, read

__all__ = ["TABLES", "dataset", "filled", "markdown", "mean", "pick"]

SIZES = {"Set5": 5, "Set14": 14, "BSD100": 100, "Urban100": 100}
"""How many pictures a set has; a row of fewer says so."""
MARKED = re.compile(r"(<!-- table (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/tables.py`` takes."""

    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


# From files to records


def dataset_records(results: Path) -> list[Record]:
    """Those of dataset.py, and the paper's preset on Set5 by gpu.py."""
    return [*read(results / "dataset.jsonl"), *_gpu_records(results, "paper", dataset="Set5", method="paper")]


def estimator_records(results: Path) -> list[Record]:
    """Those of estimators.py, and KernelGAN-FKP's paper preset by gpu.py."""
    method = "KernelGAN-FKP, paper"
    return [*read(results / "estimators.jsonl"), *_gpu_records(results, "kernelgan", method=method)]


def _gpu_records(results: Path, part: str, **what: str) -> list[Record]:
    """What gpu.py has taken down of one part, rehearsals and failures left out."""
    weights = {"paper": "official", "kernelgan": "ours"}[part]
    records = []
    for path in sorted(results.glob("gpu-*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            if line["part"] != part or line.get("quick") or "error" in line:
                continue
            names = ["psnr", "ssim", "kernel_psnr", "gap", "gigabytes"]
            if line.get("at_once", 1) == 1:  # of several as one, nobody waits for one alone
                names.append("seconds")
            identity = {"scale": line["sf"], "weights": weights, "picture": line["picture"], "seed": line["seed"]}
            values = {name: line[name] for name in names if name in line}
            run = {name: line[name] for name in ("command", "commit", "device", "torch")}
            records.append(Record({**what, **identity, "fingerprint": path.stem}, values, run))
    return records


# From records to cells


def pick(records: Iterable[Record], **where: Any) -> list[Record]:
    """The records of one row: those of ``where``, of the settings and weights with which most pictures were run.

    Of settings with equally many the latest are taken, and of a picture and seed measured twice the later one.
    """
    groups: dict[tuple[Any, bool], dict[tuple[Any, Any], Record]] = {}
    for record in records:
        if all(record.what.get(name) == value for name, value in where.items()):
            group = groups.setdefault((record.what.get("fingerprint"), "pictures" in record.values), {})
            group[record.what.get("picture"), record.what.get("seed")] = record
    rows = [list(group.values()) for group in groups.values()]
    return max(reversed(rows), key=pictures, default=[])


def pictures(row: Sequence[Record]) -> int:
    """How many pictures a row has; a transcribed mean counts all of its own."""
    return sum(
        record.values.get("pictures", 1) for record in row if record.what.get("seed") == row[0].what.get("seed")
    )


def mean(row: Sequence[Record], value: str) -> float | None:
    """Mean of ``value`` over pictures and seeds, None where a record lacks it."""
    values = [record.values.get(value) for record in row]
    return None if None in values or not values else float(np.mean(np.array(values, dtype=float)))


def number(value: float | None, digits: int, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.{digits}f}"


def psnr_ssim(row: Sequence[Record], prefix: str = "", size: int | None = None) -> str:
    """PSNR/SSIM, and of how many pictures where these are not all."""
    ssim = number(mean(row, f"{prefix}ssim"), 4)
    cell = number(mean(row, f"{prefix}psnr"), 2) + (f"/{ssim}" if ssim else "")
    return f"{cell} ({pictures(row)} of {size})" if cell and size is not None and pictures(row) < size else cell


def spread(row: Sequence[Record], value: str, digits: int) -> str:
    """Mean over pictures, then mean ± standard deviation over seeds."""
    seeds = dict.fromkeys(record.what.get("seed") for record in row)
    means = [mean([record for record in row if record.what.get("seed") == seed], value) for seed in seeds]
    if not means or None in means:
        return ""
    deviation = mean(row, f"{value}_spread")  # transcribed
    if len(means) > 1:
        deviation = float(np.std(np.array(means, dtype=float), ddof=1))
    cell = number(float(np.mean(np.array(means, dtype=float))), digits)
    return cell if deviation is None else f"{cell} ± {number(deviation, digits)}"


def gap(row: Sequence[Record], oracle: Sequence[Record] = ()) -> float | None:
    """PSNR minus that of the oracle kernel's image, of the same pictures."""
    if (known := mean(row, "gap")) is not None:
        return known
    ours, best = mean(row, "psnr"), mean(oracle, "psnr")
    same = {record.what.get("picture") for record in row} == {record.what.get("picture") for record in oracle}
    return ours - best if ours is not None and best is not None and same else None


def median(row: Sequence[Record], value: str) -> float | None:
    values = [record.values[value] for record in row if record.values.get(value) is not None]
    return float(np.median(values)) if values else None


def largest(row: Sequence[Record], value: str) -> float | None:
    return max((record.values[value] for record in row if record.values.get(value) is not None), default=None)


def devices(row: Sequence[Record]) -> str:
    """On what it ran: processor or GPU, and threads where they are known."""
    names = []
    for record in row:
        threads = record.run.get("threads")
        names.append(record.run["device"] + (f", {threads} thread{'s' * (threads > 1)}" if threads else ""))
    return "; ".join(dict.fromkeys(names))


def quiet(records: Iterable[Record]) -> list[Record]:
    """Those whose seconds count: nothing else kept the processor busy."""
    return [record for record in records if not record.run.get("busy")]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; columns that no row has anything in are left out."""
    lines = [list(head), *map(list, rows)]
    kept = [column for column in range(len(head)) if any(line[column] for line in lines[1:])]
    text = ["".join(["|", *(f" {line[column]} |" if line[column] else " |" for column in kept)]) for line in lines]
    return "\n".join([text[0], f"|{'---|' * len(kept)}", *text[1:]])


# The tables

METHODS = {
    "bicubic": "bicubic",
    "paper": "`--preset paper` run here",
    "prediction": "`--preset prediction`",
    "search": "`--preset search`",
    "oracle": "true kernels + USRNet (oracle)",
}
WEIGHTS = ("none", "official", "ours")


def dataset(results: Path, name: str) -> str:
    """All that is known of DIP-FKP on a dataset, published rows first where there are any."""
    records, published = dataset_records(results), read(RESULTS / "published.jsonl")
    records = [record for record in records if record.what["dataset"] == name]
    rows = []
    scales = sorted({r.what["scale"] for r in [*records, *published] if r.what["dataset"] == name})
    for scale in scales:
        for record in published:
            if record.what["dataset"] == name and record.what["scale"] == scale:
                row = [f"published: {record.what['method']}", "official", psnr_ssim([record]), "", "", "", "", ""]
                rows.append([f"x{scale}", *row])
        for method, title in METHODS.items():
            for weights in WEIGHTS:
                row = pick(records, scale=scale, method=method, weights=weights)
                if not row:
                    continue
                oracle = pick(records, scale=scale, method="oracle", weights=weights)
                timed = pick(quiet(records), scale=scale, method=method, weights=weights)
                timed = [record for record in timed if "seconds" in record.values]
                longest = largest(timed, "seconds_longest") or largest(timed, "seconds")
                seconds = [number(median(timed, "seconds"), 1), number(longest, 1)]
                cells = [
                    psnr_ssim(row, size=SIZES.get(name)),
                    number(mean(row, "kernel_psnr"), 2),
                    "" if method in ("oracle", "bicubic") else number(gap(row, oracle), 2, "+"),
                    ", ".join(filter(None, seconds)),
                    number(largest(row, "gigabytes"), 2),
                    devices(timed),
                ]
                rows.append([f"x{scale}", title, weights, *cells])
                if mean(row, "image_psnr") is not None:
                    image = psnr_ssim(row, "image_", SIZES.get(name))
                    rows.append([f"x{scale}", f"{title}, its own picture", weights, image, "", "", "", "", ""])
    head = ["", "method", "weights", "PSNR/SSIM", "kernel PSNR", "gap to oracle", "s, longest", "GiB", "seconds on"]
    return markdown(head, rows)


def search_gain(results: Path) -> str:
    """What the search changes against the prediction, picture by picture."""
    records = [record for record in dataset_records(results) if record.what.get("picture") is not None]
    rows = []
    for name, scale, weights in itertools.product(SIZES, (2, 3, 4), WEIGHTS):
        where = {"dataset": name, "scale": scale, "weights": weights}
        found, start = (
            {record.what["picture"]: record.values["psnr"] for record in pick(records, method=method, **where)}
            for method in ("search", "prediction")
        )
        changes = [found[picture] - start[picture] for picture in found.keys() & start.keys()]
        if len(changes) < 2:
            continue
        error = 2 * float(np.std(changes, ddof=1)) / math.sqrt(len(changes))
        cells = [f"{np.mean(changes):+.3f} ± {error:.3f}", f"{min(changes):+.2f}", f"{max(changes):+.2f}"]
        rows.append([name, f"x{scale}", weights, str(len(changes)), *cells])
    return markdown(["", "", "weights", "pictures", "mean ± two standard errors", "least", "greatest"], rows)


def reproduction(results: Path) -> str:
    """Set5: what was published, the paper's preset run here, and ours."""
    records, published = dataset_records(results), read(results / "published.jsonl")
    scales = (2, 3, 4)

    def cells(source: list[Record], **where: Any) -> list[str]:
        return [psnr_ssim(pick(source, dataset="Set5", scale=scale, **where), size=5) for scale in scales]

    rows = []
    for method in ("DIP-FKP", "DIP-FKP + USRNet", "true kernels + USRNet"):
        rows.append([f"*published*: {method}", "official", *cells(published, method=method)])
    for method, title in METHODS.items():
        if method == "bicubic":
            continue
        for weights in WEIGHTS:
            row = cells(records, method=method, weights=weights)
            if any(row):
                rows.append([f"*ours*: {title}" if method in ("prediction", "search") else title, weights, *row])
    return markdown(["Set5, PSNR/SSIM", "weights", "x2", "x3", "x4"], rows)


def paper_by_picture(results: Path) -> str:
    """The paper's preset beside prediction and search, picture by picture, official weights."""
    records = [r for r in dataset_records(results) if r.what["weights"] == "official" and r.what.get("picture")]
    rows = []
    keys = {(r.what["dataset"], r.what["scale"], r.what["picture"]) for r in records if r.what["method"] == "paper"}
    for name, scale, picture in sorted(keys):
        where = {"dataset": name, "scale": scale, "picture": picture}
        runs = [pick(records, **where, method=method) for method in ("paper", "prediction", "search", "oracle")]
        timed = [pick(quiet(records), **where, method=method) for method in ("paper", "prediction", "search")]
        times = [number(mean(each, "seconds"), digits) for each, digits in zip(timed, (0, 1, 1), strict=True)]
        scores = [psnr_ssim(each) for each in runs]
        mixed = [cell for pair in zip(scores[:3], times, strict=True) for cell in pair]
        rows.append([name, f"x{scale}", picture, *mixed, scores[3], devices(timed[0])])
    head = ["set", "", "picture", "paper", "s", "prediction", "s", "search", "s", "oracle", "paper's seconds on"]
    return markdown(head, rows)


def own_picture(results: Path) -> str:
    """The deep image prior's own picture."""
    records, published = read(results / "dip_image.jsonl"), read(results / "published.jsonl")
    rows = []
    for scale in (2, 3, 4):
        where = {"dataset": "Set5", "scale": scale}
        rows.append(
            [f"x{scale}", psnr_ssim(pick(records, **where)), psnr_ssim(pick(published, method="DIP-FKP", **where))]
        )
    return markdown(["", "ours", "published"], rows)


def nonblind(results: Path) -> str:
    """USRNet with true kernels."""
    records = read(results / "nonblind.jsonl")
    keys = dict.fromkeys((r.what["dataset"], r.what["scale"], r.what["noise"]) for r in records)
    rows = []
    for name, scale, noise in sorted(keys, key=lambda key: (key[0] == "scikit-image", *key)):
        where = {"dataset": name, "scale": scale, "noise": noise}
        runs = [psnr_ssim(pick(records, **where, weights=weights)) for weights in ("ours", "official")]
        rows.append([name, f"x{scale}", str(noise), *runs])
    return markdown(["images", "", "noise", "ours", "official"], rows)


def noise(results: Path) -> str:
    """DIP-FKP on noisy data, USRNet told the true noise level and the one read off the picture."""
    records = read(results / "noise.jsonl")
    names = ("dataset", "scale", "noise_im", "noise_ker")
    rows = []
    for name, scale, of_image, of_kernel in dict.fromkeys(tuple(r.what[n] for n in names) for r in records):
        where = {"dataset": name, "scale": scale, "noise_im": of_image, "noise_ker": of_kernel}
        for method, title in METHODS.items():
            for weights in WEIGHTS:
                row = pick(records, **where, method=method, weights=weights)
                if not row:
                    continue
                oracle = pick(records, **where, method="oracle", weights=weights)
                cells = [psnr_ssim(row, size=SIZES.get(name)), psnr_ssim(row, "read_")]
                cells += [number(mean(row, "kernel_psnr"), 2)]
                cells += ["" if method in ("oracle", "bicubic") else number(gap(row, oracle), 2, "+")]
                rows.append([name, f"x{scale}", f"{of_image:g}", f"{of_kernel:g}", title, weights, *cells])
    head = ["set", "", "noise of images", "of kernels", "method", "weights"]
    return markdown([*head, "PSNR/SSIM, σ told", "σ read", "kernel PSNR", "gap to oracle, σ told"], rows)


def photographs(results: Path) -> str:
    """Photographs made independently, by what happened to them."""
    records = read(results / "photographs.jsonl")
    methods = ("bicubic", "ours", "search", "true σ", "true kernel", "both")
    rows = []
    for scale in sorted({record.what["scale"] for record in records}):
        of_scale = [record for record in records if record.what["scale"] == scale]
        kinds = list(dict.fromkeys(record.what["damage"] for record in of_scale))
        for kind in (*kinds, "mean"):
            runs = [record.values for record in of_scale if kind in ("mean", record.what["damage"])]
            psnr = {m: [run["psnr"][m] for run in runs if m in run["psnr"]] for m in methods}
            gains = [run["psnr"]["ours"] - run["psnr"]["bicubic"] for run in runs]
            cells = [f"{np.mean(psnr[m]):.2f}" if len(psnr[m]) == len(runs) else "" for m in methods]
            told, true = (np.mean([run[key] for run in runs]) for key in ("sigma", "true sigma"))
            ratio = np.mean([run["made"] for run in runs]) / np.mean([run["expected"] for run in runs])
            shown = [f"{np.mean(gains):+.2f}", f"{min(gains):+.2f}", f"{told:.1f}", f"{true:.1f}", f"{ratio:.2f}"]
            rows.append([f"x{scale}", kind, str(len(runs)), *cells, *shown])
    head = ["", "damage", "pictures", *methods, "gain", "least gain", "σ read", "σ true", "error made / expected"]
    return markdown(head, rows)


def deblurring(results: Path) -> str:
    """USRNet at x1 with the true kernels, beside classical methods."""
    records = read(results / "deblurring.jsonl")
    methods = ("input", "USRNet", "Wiener", "unsupervised Wiener", "Richardson–Lucy")
    rows = []
    for width, noise in sorted({(record.what["width"], record.what["noise"]) for record in records}):
        runs = [r.values["psnr"] for r in records if (r.what["width"], r.what["noise"]) == (width, noise)]
        least = min(run["USRNet"] - run["input"] for run in runs)
        means = [f"{np.mean([run[method] for run in runs]):.2f}" for method in methods]
        rows.append([f"{width:g}", f"{noise:g}", str(len(runs)), *means, f"{least:+.2f}"])
    return markdown(["blur", "noise", "pictures", *methods, "least gain of USRNet"], rows)


def blind(results: Path) -> str:
    """Deblurring at x1 with unknown kernels, beside published methods."""
    records = read(results / "blind.jsonl")
    methods = ("input", "ours", "blind Richardson–Lucy", "Double-DIP", "DIP-FKP, mixed prior", "true kernel")
    rows = []
    for kernels, noise in dict.fromkeys((record.what["kernels"], record.what["noise"]) for record in records):
        runs = {method: pick(records, kernels=kernels, noise=noise, method=method) for method in methods}
        ours, before = ({r.what["picture"]: r.values["psnr"] for r in runs[method]} for method in ("ours", "input"))
        least = min((ours[picture] - before[picture] for picture in ours if picture in before), default=None)
        cells = [_of_some(runs[method], len(ours)) for method in methods]
        left = sum(record.values["left"] for record in runs["ours"])
        rows.append([kernels, f"{noise:g}", str(len(ours)), *cells, str(left), number(least, 2, "+")])
    head = ["blur", "noise", "pictures", *methods, "left as it is", "least gain of ours"]
    return markdown(head, rows)


def _of_some(row: Sequence[Record], all_of_them: int) -> str:
    """Mean PSNR, and of how many pictures where these are not all."""
    few = f" ({len(row)})" if row and len(row) < all_of_them else ""
    return f"{number(mean(row, 'psnr'), 2)}{few}" if row else ""


def local(results: Path) -> str:
    """Photographs whose blur varies in a known way, with one kernel and with a field of them."""
    records = read(results / "local.jsonl")
    methods = ("bicubic", "one kernel", "--local", "true field")
    rows = []
    names = ("scale", "sigma", "quality", "kind")
    for scale, sigma, quality, kind in dict.fromkeys(tuple(r.what[name] for name in names) for r in records):
        row = pick(records, scale=scale, sigma=sigma, quality=quality, kind=kind)
        psnr = {m: [r.values["psnr"][m] for r in row if m in r.values["psnr"]] for m in methods}
        gains = np.subtract(psnr["--local"], psnr["one kernel"])
        cells = [f"{np.mean(psnr[method]):.2f}" if len(psnr[method]) == len(row) else "" for method in methods]
        found = sum(record.values["found"] for record in row)
        gained = [f"{gains.mean():+.2f}", f"{gains.min():+.2f}"]
        damage = (
            "none" if quality is None and not sigma else f"σ {sigma:g}" + (f", JPEG {quality}" if quality else "")
        )
        rows.append([damage, f"x{scale}", kind, str(len(row)), str(found), *cells, *gained])
    rows.sort(key=lambda cells: (cells[0] != "none", *cells[:3]))
    head = ["noise", "", "blur", "pictures", "found to vary", *methods, "gain", "least gain"]
    return markdown(head, rows)


def likelihood(results: Path) -> str:
    """−log p of the validation kernels."""
    records = read(results / "likelihood.jsonl")
    rows = []
    for scale in sorted({record.what["scale"] for record in records}):
        row = pick(records, scale=scale, weights="ours")
        cells = []
        for each in (row, pick(records, scale=scale, weights="official")):
            nll = number(mean(each, "nll"), 2)
            cells.append(f"{nll} ± {number(mean(each, 'two_errors'), 2)}" if nll else "none released")
        rows.append([f"x{scale}", number(mean(row, "kernels"), 0), *cells])
    return markdown(["", "kernels", "ours", "official"], rows)


def variants(results: Path, zoom: float) -> str:
    """DIP-FKP's presets and variants of its search."""
    records = [record for record in read(results / "variants.jsonl") if record.what["zoom"] == zoom]
    rows = []
    for scale, variant, weights in dict.fromkeys(
        tuple(r.what[n] for n in ("scale", "variant", "weights")) for r in records
    ):
        row = pick(records, scale=scale, variant=variant, weights=weights)
        worst = mean(row, "worst_gap") if mean(row, "worst_gap") is not None else min(r.values["gap"] for r in row)
        scores = [number(mean(row, "kernel_psnr"), 2), number(mean(row, "psnr"), 2)]
        gaps = [number(mean(row, "gap"), 2, "+"), number(worst, 2, "+")]
        timed = pick(quiet(records), scale=scale, variant=variant, weights=weights)
        cells = [*scores, *gaps, number(median(timed, "seconds"), 1)]
        rows.append([f"x{scale}", variant, weights, str(pictures(row)), *cells])
    rows.sort(key=lambda cells: int(cells[0][1:]))
    head = ["", "variant", "USRNet", "pictures", "kernel PSNR", "PSNR", "gap to oracle", "largest gap", "s"]
    return markdown(head, rows)


def estimators(results: Path) -> str:
    """All estimators on the same pictures."""
    records = estimator_records(results)
    rows = []
    for scale, method, weights in dict.fromkeys(
        tuple(r.what[n] for n in ("scale", "method", "weights")) for r in records
    ):
        row = pick(records, scale=scale, method=method, weights=weights)
        cells = [str(pictures(row)), str(seeds(row)), spread(row, "kernel_psnr", 2), spread(row, "psnr", 2)]
        cells += [spread(row, "ssim", 4), number(mean(row, "gap"), 2, "+"), number(median(row, "seconds"), 0)]
        rows.append([f"x{scale}", method, weights, *cells, number(largest(row, "gigabytes"), 2)])
    rows.sort(key=lambda cells: cells[0])
    head = [
        "",
        "estimator",
        "USRNet",
        "pictures",
        "seeds",
        "kernel PSNR",
        "PSNR",
        "SSIM",
        "gap to oracle",
        "s",
        "GiB",
    ]
    return markdown(head, rows)


def seeds(row: Sequence[Record]) -> int:
    return sum(r.values.get("seeds", 1) for r in {r.what.get("seed"): r for r in row}.values())


def critic(results: Path) -> str:
    """Seconds of a step of KernelGAN-FKP's critic."""
    records = read(results / "critic.jsonl")
    rows = []
    for layers, device in dict.fromkeys((record.what["layers"], devices([record])) for record in records):
        row = pick([record for record in records if devices([record]) == device], layers=layers)
        rows.append([layers, number(mean(row, "seconds"), 3), device])
    return markdown(["layers", "s/step", "device"], rows)


def image_prior(results: Path) -> str:
    """Seconds of a step of DIP-FKP's image network in both memory layouts."""
    records = read(results / "image_prior.jsonl")
    rows = []
    names = ("preset", "channels", "side")
    keys = dict.fromkeys((*(record.what[name] for name in names), devices([record])) for record in records)
    for *key, device in keys:
        there = [record for record in records if devices([record]) == device]
        where = dict(zip(names, key, strict=True))
        runs = [pick(there, **where, layout=layout) for layout in ("channels last", "channels first")]
        rows.append([*map(str, key), *(number(mean(each, "seconds"), 3) for each in runs), device])
    return markdown(["preset", "channels", "HR side", "channels last", "channels first", "device"], rows)


def photograph_seconds(results: Path) -> str:
    """Seconds of kernel and USRNet for larger photographs."""
    rows = []
    for record in read(results / "seconds.jsonl"):
        what, values = record.what, record.values
        cells = [
            number(values.get(name), 1) for name in ("kernel_seconds", "usrnet_seconds", "usrnet_float32_seconds")
        ]
        rows.append([f"x{what['scale']}", what["lr"], what["method"], *cells, devices([record])])
    return markdown(["", "LR image", "estimator", "kernel", "USRNet", "in float32", "device"], rows)


def confidence(results: Path) -> str:
    """The error that the predictor expects and the error it makes."""
    rows = []
    records = read(results / "confidence.jsonl")
    for scale, group in dict.fromkeys((r.what["scale"], r.what["group"]) for r in records):
        row = pick(records, scale=scale, group=group)
        cells = [number(mean(row, name), 3) for name in ("expected", "actual_rms", "actual_median")]
        rows.append([f"x{scale}", number(mean(row, "predictions"), 0), *cells])
    return markdown(["", "predictions", "expected error", "actual error, rms", "median"], rows)


def report_page(results: Path) -> str:
    """What the report of many pictures costs."""
    rows = []
    for record in read(results / "pages.jsonl"):
        if record.what["page"] == "report":
            values = record.values
            seconds = [number(values[name], 1) for name in ("previews_cpu", "page_cpu", "load", "sort")]
            sizes = [number(values[name], 1) for name in ("mebibytes", "previews_mebibytes")]
            rows.append([str(record.what["pictures"]), *seconds, *sizes, devices([record])])
    head = [
        "pictures",
        "s, with previews",
        "s, again",
        "s to load",
        "s to sort",
        "page, MiB",
        "previews, MiB",
        "device",
    ]
    return markdown(head, rows)


def demo_page(results: Path) -> str:
    """How long a visitor of the demo waits."""
    rows = []
    for record in sorted(read(results / "pages.jsonl"), key=lambda record: record.what.get("sf", 0)):
        if record.what["page"] == "demo":
            names = ("kernel", "kernel_cpu", "result", "result_cpu", "gigabytes")
            rows.append(
                [f"x{record.what['sf']}", *(number(record.values[name], 1) for name in names), devices([record])]
            )
    return markdown(["", "kernel", "processor", "result", "processor", "GiB", "device"], rows)


def workers(results: Path) -> str:
    """Pictures an hour by workers and threads, medians over the rounds, against one worker of one thread."""
    records = read(results / "workers.jsonl")
    ways = dict.fromkeys((record.what["workers"], record.what["threads"]) for record in records)

    def median(way: tuple[int, int], value: str) -> float:
        found = [r.values[value] for r in records if (r.what["workers"], r.what["threads"]) == way]
        return float(np.median(found))

    rows = []
    for count, threads in ways:
        hourly, spent = (median((count, threads), value) for value in ("hourly", "cpu_seconds"))
        gain = hourly / median((1, 1), "hourly")
        cells = [f"{hourly:.0f}", f"{gain:.2f}", f"{100 * gain / (count * threads):.0f} %", f"{spent:.1f}"]
        rows.append([f"{count}", f"{threads}", *cells])
    head = ["workers", "threads each", "pictures an hour", "gain", "efficiency", "CPU seconds a picture"]
    return markdown(head, rows)


def driver(results: Path) -> str:
    """What sharing pictures costs the driver."""
    rows = []
    for record in read(results / "driver.jsonl"):
        what, values = record.what, record.values
        cells = [
            (values["per_second"], 1),
            (values["cpu_ms"], 2),
            (100 * values["cpu_share"], 1),
            (values["gigabytes"], 2),
        ]
        rows.append([f"{what['workers']}", f"{what['pictures']}", *(number(*cell) for cell in cells)])
    head = ["dummies", "pictures", "pictures a second", "driver's CPU, ms a picture", "% of a core", "GiB"]
    return markdown(head, rows)


def misfit(results: Path) -> str:
    """How often the true kernel fits better than another one does."""
    records = read(results / "misfit.jsonl")
    rows = []
    for scale, family in dict.fromkeys((r.what["scale"], r.what["family"]) for r in records):
        row = pick(records, scale=scale, family=family)
        for other in row[0].values["misfit"]:
            if other == "true":
                continue
            ratios = [r.values["misfit"][other] / r.values["misfit"]["true"] for r in row]
            distance = float(np.mean([r.values["kernel_psnr"][other] for r in row]))
            worse = sum(ratio > 1 for ratio in ratios)
            cells = [other, number(distance, 1), f"{worse} of {len(row)}", number(float(np.median(ratios)), 2)]
            rows.append([f"x{scale}", family, *cells])
    head = [
        "",
        "true kernel",
        "held instead",
        "kernel PSNR of that",
        "fits worse",
        "misfit over the true one's, median",
    ]
    return markdown(head, rows)


def off_distribution(results: Path) -> str:
    """What is lost where the kernel is none that the prior was trained on."""
    records = read(results / "off_distribution.jsonl")
    rows = []
    for scale, kernels in dict.fromkeys((r.what["scale"], r.what["kernels"]) for r in records):
        of_kernels = [r for r in records if (r.what["scale"], r.what["kernels"]) == (scale, kernels)]
        best = mean(pick(of_kernels, method="oracle"), "psnr")
        for prior, method in dict.fromkeys((r.what["prior"], r.what["method"]) for r in of_kernels):
            row = pick(of_kernels, method=method, prior=prior)
            psnr, gap = mean(row, "psnr"), None
            if psnr is not None and best is not None and method != "oracle":
                gap = psnr - best
            doubted = [record.values["doubted"] for record in row if "doubted" in record.values]
            told = f"{sum(doubted)} of {len(doubted)}" if doubted else ""
            name = method if prior == "shipped" else f"{method}, {prior} prior"
            cells = [str(pictures(row)), number(mean(row, "kernel_psnr"), 2), number(psnr, 2), number(gap, 2, "+")]
            rows.append([f"x{scale}", kernels, name, *cells, told])
    head = ["", "kernels", "method", "pictures", "kernel PSNR", "PSNR", "gap to oracle", "doubted"]
    return markdown(head, rows)


def known_picture(results: Path) -> str:
    """Kernels found where the picture is known, under each prior."""
    records = read(results / "known_picture.jsonl")
    priors = list(dict.fromkeys(record.what["prior"] for record in records))
    rows = []
    seen = dict.fromkeys((r.what["scale"], r.what["kernels"]) for r in records)
    for scale, kernels in sorted(seen, key=lambda pair: pair[0]):
        found = [pick(records, scale=scale, kernels=kernels, prior=prior) for prior in priors]
        rows.append([f"x{scale}", kernels, *(number(mean(row, "kernel_psnr"), 1) for row in found)])
    return markdown(["", "true kernels", *(f"{prior} prior" for prior in priors)], rows)


def spline_flow(results: Path) -> str:
    """A prior of affine couplings beside those of splines."""
    records = read(results / "spline_flow.jsonl")
    columns = [("ms_a_step", 0), ("nll", 1), ("kernel_psnr", 1), ("kernel_psnr_tenth", 1)]
    rows = []
    keys = ("scale", "kernels", "coupling", "steps", "fingerprint")
    for values in dict.fromkeys(tuple(record.what[key] for key in keys) for record in records):
        row = pick(records, **dict(zip(keys, values, strict=True)))
        cells = [number(mean(row, name), digits) for name, digits in columns]
        cells[1] += f" ± {number(mean(row, 'two_errors'), 1)}"
        pieces = number(100 * (mean(row, "in_pieces") or 0), 1)
        rows.append([f"x{values[0]}", *map(str, values[1:4]), *cells, pieces])
    head = [
        "",
        "kernels",
        "couplings",
        "steps",
        "CPU, ms a step",
        "−log p, nats",
        "nearest, kernel PSNR",
        "a tenth below",
        "in pieces, %",
    ]
    return markdown(head, rows)


TABLES: dict[str, Callable[[Path], str]] = {
    "reproduction": reproduction,
    **{name: lambda results, name=name: dataset(results, name) for name in SIZES},  # type: ignore[misc]
    "search gain": search_gain,
    "paper by picture": paper_by_picture,
    "own picture": own_picture,
    "nonblind": nonblind,
    "noise": noise,
    "photographs": photographs,
    "deblurring": deblurring,
    "blind": blind,
    "local": local,
    "likelihood": likelihood,
    "variants": lambda results: variants(results, 1.0),
    "variants, enlarged": lambda results: variants(results, 1.5),
    "estimators": estimators,
    "critic": critic,
    "image prior": image_prior,
    "seconds": photograph_seconds,
    "confidence": confidence,
    "report": report_page,
    "demo": demo_page,
    "workers": workers,
    "driver": driver,
    "misfit": misfit,
    "off distribution": off_distribution,
    "known picture": known_picture,
    "spline flow": spline_flow,
}
"""What makes each table, by the name between its markers."""


def documents() -> list[Path]:
    """README.md and docs/*.md."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def filled(text: str, results: Path) -> str:
    """``text`` with its tables made anew.

    Raises:
        ValueError: a marker names a table that is not in :data:`TABLES`.
    """

    def replace(match: re.Match[str]) -> str:
        if match["name"] not in TABLES:
            raise ValueError(f"<!-- table {match['name']} -->: there is {', '.join(TABLES)}")
        return f"{match[1]}{TABLES[match['name']](results)}\n{match[3]}"

    return MARKED.sub(replace, text)


def main() -> int:
    options = parse(Options, __doc__ or "")
    if not any(options.results.glob("*.jsonl")):
        raise ValueError(f"--results {options.results}: holds no records; every table would be emptied")
    for path in documents():
        text = path.read_text()
        if (new := filled(text, options.results)) != text:
            path.write_text(new)
            print(f"{path.relative_to(REPOSITORY)}: tables written")
    return 0


if __name__ == "__main__":
    run(main)
