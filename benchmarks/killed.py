"""Kill both estimators' commands (SIGKILL) at random moments and run them again: is anything lost, or different?

Each estimator super-resolves six small crops of the Test picture. After every kill, each picture on record as
finished must have its files as recorded; at the end, all must be those of a run that nobody killed.

python benchmarks/killed.py
"""

import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt

from blindsr.batch.summary import read_records
from blindsr.command import parse, run
from blindsr.images import read_image, to_uint8, write_image
from blindsr.kernel_files import read_kernel
from blindsr.paths import data_folder

REPOSITORY = Path(__file__).resolve().parent.parent
ARGUMENTS = {
    "DIPFKP": ["--iterations", "60", "--ssim-iterations", "20", "--frozen-iterations", "10"],
    "KernelGANFKP": ["--iterations", "20", "--frozen-iterations", "5", "--crops-per-step", "8"],
}


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/killed.py`` takes."""

    kills: int = 20
    """How often each estimator's command is killed."""
    pictures: int = 6
    """Pictures in the folder."""
    seed: int = 0
    """Seed of the moments."""


def start(estimator: str, pictures: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start the command that writes into ``folder``."""
    main = REPOSITORY / estimator / "main.py"
    arguments = ["--SR", "--real", "--sf", "2", "-i", pictures, "-o", folder, *ARGUMENTS[estimator]]
    return subprocess.Popen(
        [sys.executable, main, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def intact(folder: Path) -> int:
    """How many pictures are finished.

    Raises:
        ValueError: one of them lacks a file, or has another than its record says.
    """
    finished = [record for record in read_records(folder) if record.state == "finished"]
    for record in finished:
        for file, digest in record.files.items():
            path = folder / file
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise ValueError(f"{path}: not the file of {json.dumps(record.files)}")
    return len(finished)


def results(folder: Path) -> dict[str, npt.NDArray]:
    """The content of each picture and kernel."""
    paths = [path for path in folder.iterdir() if path.suffix in (".png", ".mat")]
    return {path.name: (read_kernel(path) if path.suffix == ".mat" else read_image(path)).numpy() for path in paths}


def main() -> int:
    options = parse(Options, __doc__ or "")
    moments = random.Random(options.seed)
    photo = to_uint8(read_image(data_folder() / "datasets" / "Test" / "DIPFKP_lr_x2" / "chelsea.png"))
    different = 0
    for estimator in ARGUMENTS:
        with tempfile.TemporaryDirectory() as name:
            pictures, whole = Path(name) / "in", Path(name) / "whole"
            for i in range(options.pictures):
                write_image(pictures / f"{i}.png", photo[20 : 20 + 64, 12 * i : 12 * i + 64])
            began = time.perf_counter()
            if start(estimator, pictures, whole).wait() != 0:
                raise ValueError(f"{estimator}: the run that nobody kills failed")
            seconds = time.perf_counter() - began
            # Long enough for the command to start, and too short for most runs to get through.
            folder, folders, kills, finished = Path(name) / "killed", 1, 0, []
            while kills < options.kills:
                process = start(estimator, pictures, folder)
                try:
                    process.wait(moments.uniform(0.2, 0.6) * seconds)
                except subprocess.TimeoutExpired:
                    process.kill()
                status = process.wait()
                done = intact(folder)
                if status == -signal.SIGKILL:
                    kills += 1
                    finished.append(done)
                    print(f"{estimator}: kill {kills}, {done} pictures finished", file=sys.stderr, flush=True)
                elif status != 0:
                    raise ValueError(f"{estimator}: ended with status {status} after {kills} kills")
                else:  # it was through before: begin another folder
                    different += compare(whole, folder)
                    folder, folders = Path(name) / f"killed{folders}", folders + 1
            if start(estimator, pictures, folder).wait() != 0 or intact(folder) != options.pictures:
                raise ValueError(f"{estimator}: the last run did not finish what the killed ones left")
            different += compare(whole, folder)
            print(
                f"{estimator}: {kills} kills in {folders} folders (an unbroken run takes {seconds:.0f} s); finished "
                f"pictures of {options.pictures} each time: {finished}; files that differ: {different}",
                flush=True,
            )
    return 2 if different else 0


def compare(whole: Path, folder: Path) -> int:
    """How many files of two folders differ, or are in one only; hidden leftovers count."""
    a, b = results(whole), results(folder)
    return len(a.keys() ^ b.keys()) + sum(not (a[key] == b[key]).all() for key in a.keys() & b.keys())


if __name__ == "__main__":
    run(main)
