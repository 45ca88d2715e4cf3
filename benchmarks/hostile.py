"""Damaged inputs: every one is read, or refused in one line that names it; none crashes, hangs or runs code.

Pictures of every format, EXIF data, kernels and checkpoints, with bytes changed, cut out, repeated or cut off, are
read in other processes, which may take 4 GiB and 5 seconds each. Of pictures that can be read a result is written,
which must succeed. What fails is kept beside the report.

python benchmarks/hostile.py
"""

import io
import multiprocessing
import pickle
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import torch
from PIL import Image

from blindsr.checkpoints import load_checkpoint, load_state
from blindsr.command import parse, run
from blindsr.kernel_files import read_kernel

SECONDS = 5
MEMORY = 4 * 2**30
KINDS = ("picture", "exif", "kernel", "checkpoint")
SUFFIX = {"picture": ".png", "exif": ".png", "kernel": ".mat", "checkpoint": ".pt"}


@dataclass(frozen=True)
class Options:
    """What ``python benchmarks/hostile.py`` takes."""

    count: int = 10_000
    """How many inputs, of all kinds together."""
    seed: int = 0
    """Seed of the damage."""
    workers: int = 2
    """Processes that read."""
    keep: Path = Path("runs/hostile")
    """Where inputs that fail are kept."""


@lru_cache
def originals(kind: str, folder: Path) -> tuple[bytes, ...]:
    """Sound files of a kind; what a checkpoint could execute makes a file called ``executed`` in ``folder``."""
    if kind == "checkpoint":
        return tuple(checkpoints(folder))
    return tuple({"picture": pictures, "exif": exif_blocks, "kernel": kernels}[kind]())


def pixels() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (12, 17, 4)).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pictures() -> Iterator[bytes]:
    colours, deep = pixels()[..., :3], pixels().astype(np.uint16) * 257
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tiff", ".ppm", ".gif", ".avif", ".hdr", ".exr", ".ras"):
        try:
            done, encoded = cv2.imencode(
                suffix, colours.astype(np.float32) if suffix in (".hdr", ".exr") else colours
            )
        except cv2.error:
            continue  # not every build writes every format
        if done:
            yield encoded.tobytes()
    for content in (deep, deep[..., 0], deep[..., :3]):
        for suffix in (".png", ".tiff"):
            yield cv2.imencode(suffix, content)[1].tobytes()
    yield cv2.imencode(".ppm", deep[..., :3])[1].tobytes()
    photo, frames = Image.fromarray(colours), [Image.fromarray(np.roll(colours, i, 0)) for i in range(3)]
    yield saved(photo.quantize(16), "PNG", icc_profile=b"profile" * 20)
    yield saved(photo.quantize(16), "PNG", transparency=3)
    for kind in ("PNG", "WEBP", "GIF", "TIFF"):
        yield saved(frames[0], kind, save_all=True, append_images=frames[1:])
    for kind in ("PNG", "TIFF", "WEBP", "JPEG2000"):
        yield saved(Image.fromarray(pixels()), kind)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield saved(photo, "TIFF", compression=compression)
    yield saved(photo, "JPEG", progressive=True)
    yield saved(photo.convert("L"), "JPEG")
    yield saved(photo.convert("1"), "TIFF", compression="group4")


def exif_blocks() -> Iterator[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "Maker", 300.0
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0x829A: 0.01, 0x927C: b"maker" * 9}
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
    photo = Image.fromarray(pixels()[..., :3])
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        yield saved(photo, kind, exif=exif.tobytes(), dpi=(300, 300))


def kernels() -> Iterator[bytes]:
    kernel = np.full((11, 11), 1 / 121)
    cell = np.empty((1, 1), object)
    cell[0, 0] = kernel
    contents = ({"Kernel": kernel}, {"k": kernel.astype(np.float32), "other": "text"}, {"Kernel": [[1, 2]]})
    for content in (*contents, {"Kernel": cell}, {"kernel": kernel[:8, :8], "sigma": 3}):
        for options in ({}, {"do_compression": True}, {"format": "4"}):
            file = io.BytesIO()
            try:
                scipy.io.savemat(file, content, **options)
            except (TypeError, ValueError):
                continue  # version 4 holds no cells
            yield file.getvalue()


def checkpoints(folder: Path) -> Iterator[bytes]:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (folder / "executed",)

    state = {"params": {"module.weight": torch.rand(3, 4), "module.bias": torch.rand(3)}, "step": 7, "names": ["a"]}
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        file = io.BytesIO()
        torch.save(state, file, **options)
        yield file.getvalue()
    yield pickle.dumps({"model_state": Payload()}, protocol=2)


def damaged(kind: str, folder: Path, number: int, seed: int) -> bytes:
    """The input of that number: a file of the kind with up to eight places changed; of EXIF data, in these."""
    rng = random.Random(f"{seed}/{kind}/{number}")
    content = bytearray(rng.choice(originals(kind, folder)))
    first, last = 0, len(content)
    if kind == "exif":
        first = max(0, content.find(b"MM\0*"))
        last = min(last, first + 300)
    for _ in range(rng.randint(1, 8)):
        reach = rng.choice([200, len(content)])
        place = rng.randrange(first, max(first + 1, min(last, first + reach)))
        length = rng.randint(1, 16)
        what = rng.choice(["bytes", "bytes", "extreme", "bit", "cut", "repeat", "end"])
        if what == "bytes":
            content[place : place + length] = rng.randbytes(length)
        elif what == "extreme":  # lengths and offsets are where readers stumble
            content[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f" + b"\xff" * 3, b"\0\0\0\1"])
        elif what == "bit" and place < len(content):
            content[place] ^= 1 << rng.randrange(8)
        elif what == "cut":
            del content[place : place + length]
        elif what == "repeat":
            content[place:place] = content[place : place + length] * rng.choice([1, 1, 50])
        elif what == "end" and rng.random() < 0.3:
            del content[place:]
    return bytes(content)


def read(kind: str, path: Path) -> str:
    """Read an input and say what came of it."""
    from blindsr import images

    images.MAX_PIXELS = 2**24  # the largest pictures that are allowed may take longer and more
    try:
        if kind == "kernel":
            read_kernel(path)
        elif kind == "checkpoint":
            load_state(torch.nn.Linear(4, 3), load_checkpoint(path), path, "a layer")
        else:
            picture = images.read_picture(path)
            image = picture.image[..., :64, :64]
            cut = None if picture.alpha is None else picture.alpha[:64, :64]
            result = images.Picture(
                image, alpha=cut, **{k: getattr(picture, k) for k in ("bits", "grey", "kind", "carried")}
            )
            try:
                images.write_like(path.with_name("result"), image, result)
            except Exception as error:
                return f"written: {type(error).__name__}: {error}"
    except ValueError as error:
        fine = str(path) in str(error) and "\n" not in str(error)
        return "refused" if fine else f"refused in other words: {error!r}"
    except BaseException as error:
        return f"raised: {type(error).__name__}: {error}"
    return "read"


def work(kind: str, folder: Path, questions: Connection) -> None:
    """Answer for one path after another, within the limits; runs in a process of its own."""
    import logging
    import os
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries' own words
    torch.set_num_threads(1)
    questions.send("ready")
    while True:
        path = questions.recv()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of computing, however busy the machine; its signal ends us
        outcome = read(kind, path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        questions.send(outcome)


def ask(kind: str, numbers: range, options: Options, folder: Path) -> Counter[str]:
    """What came of the inputs of these numbers; a process that ends or does not answer is replaced."""
    context = multiprocessing.get_context("spawn")
    outcomes: Counter[str] = Counter()
    path = folder / f"input{numbers.start}{SUFFIX[kind]}"
    worker: SpawnProcess | None = None
    for number in numbers:
        path.write_bytes(damaged(kind, folder, number, options.seed))
        if worker is None:
            ours, theirs = context.Pipe()
            worker = context.Process(target=work, args=(kind, folder, theirs), daemon=True)
            worker.start()
            theirs.close()
            ours.recv()
        ours.send(path)
        try:
            outcome = ours.recv() if ours.poll(20 * SECONDS) else "did not answer"
        except EOFError:
            worker.join()
            slow = worker.exitcode == -signal.SIGPROF
            outcome = f"took more than {SECONDS} s" if slow else f"ended the process ({worker.exitcode})"
        if outcome not in ("read", "refused"):
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{kind}_{options.seed}_{number}{SUFFIX[kind]}").write_bytes(path.read_bytes())
            print(f"{kind} {number}: {outcome[:200]}", flush=True)
        if outcome.startswith(("took", "ended", "did")):
            worker.kill()
            worker.join()
            worker = None
        outcomes[outcome if outcome in ("read", "refused") else "failed"] += 1
    if worker is not None:
        worker.kill()
        worker.join()
    return outcomes


def measure(options: Options, report: Callable[[str], object] = print) -> int:
    """Try ``options.count`` inputs and report how many were read, refused and failed; returns the last."""
    failed = 0
    for kind in KINDS:
        began, count = time.perf_counter(), options.count // len(KINDS)
        with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.workers) as threads:
            folder = Path(name)
            originals(kind, folder)
            share = -(-count // options.workers)
            parts = [range(i, min(count, i + share)) for i in range(0, count, share)]
            outcomes: Counter[str] = Counter()
            for outcome in threads.map(partial(ask, kind, options=options, folder=folder), parts):
                outcomes += outcome
            if (folder / "executed").exists():
                outcomes["failed"] += 1
                report(f"{kind}: a file's code was run")
        failed += outcomes["failed"]
        numbers = ", ".join(f"{outcomes[name]} {name}" for name in ("read", "refused", "failed"))
        report(f"{kind:>10}: {count} inputs, {numbers}, {time.perf_counter() - began:.0f} s")
    return failed


def main() -> int:
    return 1 if measure(parse(Options, __doc__ or "")) else 0


if __name__ == "__main__":
    run(main)
