"""How long people wait for the pages: the demo from drop to kernel and result, and the report of many pictures.

In headless Chromium, with the extra demo: python benchmarks/pages.py
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from blindsr.batch.records import hash_file
from blindsr.batch.report import write_report
from blindsr.command import parse, run
from blindsr.demo.server import served
from blindsr.images import read_pixels, write_image
from blindsr.paths import data_folder
from DIPFKP.main import Options as DIPOptions
from DIPFKP.main import process
from logbook import RESULTS, Values, What, measured, peak_gigabytes

SIDES = (1250, 1600)
"""Of the photograph that is dropped, which is 2 megapixels."""
LONGEST = 900
"""Seconds to wait for anything."""


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/pages.py`` takes."""

    scales: tuple[int, ...] = (2, 3, 4)
    """Scale factors of the demo."""
    pictures: int = 2000
    """Pictures in the report; 0 for none."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RESULTS
    """Folder of the records."""


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, driven by Selenium."""
    from selenium import webdriver

    program, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if program is None or driver is None:
        raise ValueError("no Chromium; on Debian: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--no-sandbox"):
        options.add_argument(argument)
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield started
    finally:
        started.quit()


def waited_for(page: Any, script: str) -> float:
    """Seconds until a script returns something."""
    began = time.perf_counter()
    while not page.execute_script(f"return {script}"):
        if time.perf_counter() - began > LONGEST:
            raise ValueError(f"nothing came of {script}")
        time.sleep(0.2)
    return time.perf_counter() - began


def demo(scale_factor: int) -> Values:
    """Drop a photograph, wait for its kernel, then for the result, then for another blur width."""
    chelsea = read_pixels(data_folder() / "datasets" / "Test" / "HR" / "chelsea.png")
    rows, cols = (np.arange(side) % (2 * length) for side, length in zip(SIDES, chelsea.shape[:2], strict=True))
    mirrored = np.pad(chelsea, [(0, side) for side in chelsea.shape[:2]] + [(0, 0)], "symmetric")[rows][:, cols]
    click = "[...document.querySelectorAll('button')].find(b => b.innerText === 'Super-resolve').click()"
    linked = f"document.querySelector('a[href*=\"photo_x{scale_factor}.png\"]')"
    shown = "/blur \\d.* px/.test(document.body.innerText)"
    with tempfile.TemporaryDirectory() as name, served() as address, browser() as page:
        photo = Path(name) / "photo.jpg"
        write_image(photo, mirrored)
        page.get(address)
        waited_for(page, "document.querySelector('input[type=file]')")
        page.execute_script(f"document.querySelectorAll('input[type=radio]')[{scale_factor - 2}].click()")
        began = time.process_time()
        page.find_element("css selector", "input[type=file]").send_keys(str(photo))
        kernel, kernel_cpu = waited_for(page, shown), time.process_time() - began
        began = time.process_time()
        page.execute_script(click)
        result = waited_for(page, linked)
        result_cpu = time.process_time() - began
    values = {"kernel": kernel, "kernel_cpu": kernel_cpu, "result": result, "result_cpu": result_cpu}
    return {**{key: round(value, 1) for key, value in values.items()}, "gigabytes": round(peak_gigabytes(), 2)}


def report(pictures: int) -> Values:
    """Write the report of so many slightly different results, twice, and load it."""
    with tempfile.TemporaryDirectory() as name, browser() as page:
        folder = Path(name) / "out"
        process(DIPOptions(dataset="Test", sf=4, preset="prediction", SR=True, output_dir=folder))
        _multiply(folder, pictures)
        began = time.process_time()
        path = write_report(folder)
        previews_cpu = time.process_time() - began
        began = time.process_time()
        write_report(folder)
        page_cpu = time.process_time() - began
        page.get(path.as_uri())
        load = page.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
        sort = "const s = document.getElementById('sort'); s.value = 'psnr'; const began = performance.now();"
        sort += "s.dispatchEvent(new Event('change')); document.body.offsetHeight; return performance.now() - began"
        sorting = page.execute_script(sort) / 1000
        mebibytes = path.stat().st_size / 2**20
        small = sum(file.stat().st_size for file in (folder / "report").iterdir()) / 2**20
    values = {"previews_cpu": previews_cpu, "page_cpu": page_cpu, "load": load, "sort": sorting}
    values |= {"mebibytes": mebibytes, "previews_mebibytes": small}
    return {key: round(value, 2) for key, value in values.items()}


def _multiply(folder: Path, pictures: int) -> None:
    """Of the folder's one result so many, each with a pixel of its own."""
    record = json.loads((folder / "chelsea.json").read_text())
    lr, sr = (read_pixels(path).copy() for path in (Path(record["input"]), folder / "chelsea.png"))
    inputs = folder.parent / "in"
    inputs.mkdir()
    for number in range(pictures):
        name = f"picture {number}"
        lr[0, 0], sr[0, 0] = (number % 256, number // 256, 0), (number % 256, number // 256, 0)
        write_image(inputs / f"{name}.png", lr)
        write_image(folder / f"{name}.png", sr)
        shutil.copy(folder / "chelsea.mat", folder / f"{name}.mat")
        files = {f"{name}.png": hash_file(folder / f"{name}.png"), f"{name}.mat": record["files"]["chelsea.mat"]}
        result = {**record["result"], "psnr": record["result"]["psnr"] + number % 97 / 97}
        own = {"name": name, "input": str(inputs / f"{name}.png"), "files": files, "result": result}
        own["inputs"] = {**record["inputs"], "lr": hash_file(inputs / f"{name}.png")}
        (folder / f"{name}.json").write_text(json.dumps(record | own))


def measure(what: What) -> Values:
    return report(what["pictures"]) if what["page"] == "report" else demo(what["sf"])


def main() -> int:
    options = parse(Options, __doc__ or "")
    whats: list[What] = [{"page": "demo", "pixels": SIDES[0] * SIDES[1], "sf": scale} for scale in options.scales]
    if options.pictures:
        whats.append({"page": "report", "pictures": options.pictures})
    records = measured(options.results / "pages.jsonl", ([what] for what in whats), measure)
    for record in records:
        print(record.what, record.values)
    return 0


if __name__ == "__main__":
    run(main)
