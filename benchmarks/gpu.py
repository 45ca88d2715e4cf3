"""What only a GPU can tell: whether it computes what the CPU does, how fast, and the runs that take a CPU days.

Each result is printed and appended to a file at once, so that a run that is cut off loses its end only; runs of the
paper's presets that the file holds already are not repeated. What a part cannot do in its time is left out. Besides
PyTorch it needs NumPy, SciPy, OpenCV, scikit-image, matplotlib and tqdm. The folder that BLINDSR_REFERENCE names
holds the official weights (pretrained_models), Set5 and BSD100.

BLINDSR_REFERENCE=reference python benchmarks/gpu.py                      ten minutes of measurements
python benchmarks/gpu.py --device cpu --quick                             a rehearsal
python benchmarks/gpu.py train-usrnet --images ../photographs/usrnet/ --budget 600   trains, then scores
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY)]  # from a bare checkout

from blindsr.devices import keep_freed_memory, pick_device  # noqa: E402
from gpu_checks import CHECKS  # noqa: E402
from gpu_folders import folders  # noqa: E402
from gpu_records import Clock, Records, Session  # noqa: E402
from gpu_runs import kernelgan_paper, set5_paper  # noqa: E402
from gpu_speed import fit_steps, pictures_per_hour, usrnet_sizes  # noqa: E402
from gpu_training import train_predictor, train_usrnet  # noqa: E402

SHARES = {"checks": 0.2, "folders": 0.12, "speed": 0.25, "paper": 0.3, "kernelgan": 1.0}
"""Largest share of the budget that each part takes; the last one takes what is left."""
TRAININGS = {"train-usrnet": train_usrnet, "train-predictor": train_predictor}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="?", default="measure", choices=["measure", *TRAININGS], help="default: measure"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"], help="where to compute")
    parser.add_argument("--quick", action="store_true", help="a rehearsal on small things; its figures mean nothing")
    parser.add_argument("--budget", type=float, default=540, metavar="SECONDS", help="for all parts (default: 540)")
    parser.add_argument("--parts", nargs="+", default=list(SHARES), choices=list(SHARES), help="of the measurements")
    parser.add_argument("--checks", nargs="+", default=list(CHECKS), choices=list(CHECKS), help="of the part checks")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/gpu-<device>.jsonl")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs to train on")
    parser.add_argument("--photographs", action="store_true", help="train for photographs, not for laboratory data")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where a training's weights go, and go on from")
    return parser.parse_args()


def measure(options: argparse.Namespace, session: Session) -> None:
    def checks(part: Session) -> None:
        for name in options.checks:
            if part.clock.left() > 0:
                what = {"part": "checks", "method": name}
                session.records.guarded(what, partial(CHECKS[name], session.device, session.quick))

    def speed(part: Session) -> None:
        fit_steps(part.part(0.3 * part.clock.left()))
        usrnet_sizes(part)
        pictures_per_hour(part)

    parts = {"checks": checks, "folders": folders, "speed": speed, "paper": set5_paper, "kernelgan": kernelgan_paper}
    for name in options.parts:

        def run(name: str = name) -> dict[str, float]:
            parts[name](session.part(SHARES[name] * options.budget))
            return {"left": session.clock.left()}

        if session.clock.left() > 0:
            session.records.guarded({"part": name, "method": "all"}, run)


def main() -> int:
    options = arguments()
    keep_freed_memory()
    device = pick_device(options.device)
    path = options.output or REPOSITORY / "benchmarks" / "results" / f"gpu-{device.type}.jsonl"
    records = Records(path, device, options.quick)
    session = Session(records, Clock(options.budget), device, options.quick)
    print(f"{records.run['device']}, torch {torch.__version__}, {options.budget:.0f} s, to {path}", flush=True)
    if options.what == "measure":
        measure(options, session)
    else:
        train = partial(TRAININGS[options.what], options.images, options.folder, options.photographs, session)
        records.guarded({"part": "training", "method": options.what}, train)
    print(f"{records.failed} failed, {session.clock.left():.0f} s left")
    return int(records.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
