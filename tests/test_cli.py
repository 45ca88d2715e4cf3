"""The commands as a user types them: each in a subprocess once, and further ones in this process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from commands import REPOSITORY, command, refused, typed

import blindsr.command
import DIPFKP.main
import KernelGANFKP.main
from blindsr.batch.command import _settings
from blindsr.degradation import degrade
from blindsr.devices import gains_from_bfloat16
from blindsr.kernels import align, random_kernels
from blindsr.paths import pretrained_path, shipped_dataset

QUICK = [
    "--iterations",
    "4",
    "--ssim-iterations",
    "2",
    "--frozen-iterations",
    "1",
    "--channels",
    "8",
    "--crop",
    "64",
    "--image-iterations",
    "3",
    "--image-channels",
    "8",
]


@pytest.fixture
def own(tmp_path, picture):
    """A folder ``own`` with one good picture of the user's, photo.png."""
    folder = tmp_path / "own"
    folder.mkdir()
    pixels = (255 * picture[0].permute(1, 2, 0).numpy()).astype(np.uint8)
    cv2.imwrite(str(folder / "photo.png"), pixels[:48, :64])
    return folder


def test_prediction_searches_nothing(tmp_path, own):
    photo = [str(own / "photo.png"), "--SR", "--real", "--sf", 2, "--verbose"]
    searched = ["--iterations", 3, "--ssim-iterations", 1, "--frozen-iterations", 1]
    losses = []
    for name, extra in (("prediction", []), ("search", searched)):
        done = typed("DIPFKP", "-i", *photo, "-o", tmp_path / name, "--preset", name, *extra)
        assert done.returncode == 0, done.stderr
        entry = json.loads((tmp_path / name / "photo.json").read_text())
        losses.append(entry["result"]["losses"])
    assert losses[0] == {}
    assert len(losses[1]["kernel"]) == 3
    done = typed("DIPFKP", "-i", *photo, "-o", tmp_path / "fixed", "--preset", "prediction", "--start", "fixed")
    refused(done, "--iterations 0", "--preset search")


def test_the_bar_counts_a_search_and_then_usrnets_tiles(own, monkeypatch):
    monkeypatch.setattr("blindsr.command.LOG_INTERVAL", 0)  # draw every step
    photo = ["-i", own / "photo.png", "-o", own.parent / "out", "--real", "--SR", "--tile", 96]
    done = typed(
        "DIPFKP", *photo, "--preset", "search", "--iterations", 3, "--ssim-iterations", 1, "--frozen-iterations", 1
    )
    assert done.returncode == 0, done.stderr
    drawn = re.findall(r"(\d+)/(\d+) \[[^]]*(loss|USRNet)", done.stderr)
    tiles = 6 * 2 * 2  # of 6 iterations: with the mirrored border, 192×160 pixels
    steps = [(i, 3, "loss") for i in (1, 2, 3)] + [(i, tiles, "USRNet") for i in range(1, tiles + 1)]
    shown = [(int(n), int(total), what) for n, total, what in drawn]
    assert [step for step in dict.fromkeys(shown) if step[0]] == steps


def test_options_that_nothing_reads_are_refused(own):
    photo = ["-i", own / "photo.png", "--sf", 2, "--real", "-o", own.parent / "out"]
    none = "no effect without a search"
    for project, arguments, told in (
        ("DIPFKP", ["--SR", "--preset", "prediction", "--proximal-weight", 3], ("--proximal-weight 3.0", none)),
        ("DIPFKP", ["--SR", "--preset", "search", "--iterations", 0, "--crop", 64], ("--crop 64", none)),
        ("DIPFKP", ["--preset", "prediction", "--proximal-weight", 3], ("--proximal-weight 3.0", none)),
        ("DIPFKP", ["--SR", "--preset", "prediction", "--non-local"], ("--non-local:", none)),
        ("DIPFKP", ["--SR", "--preset", "prediction", "--circular"], ("--circular:", none)),
        ("DIPFKP", ["--model", "DoubleDIP", "--proximal-weight", 3], ("--proximal-weight 3.0", "DoubleDIP")),
        ("KernelGANFKP", ["--preset", "prediction", "--critic-steps", 3], ("--critic-steps 3", none)),
        ("KernelGANFKP", ["--preset", "prediction", "--no-stop-when-converged"], ("--no-stop-when-converged:", none)),
        ("KernelGANFKP", ["--preset", "prediction", "--start", "fixed"], ("--iterations 0",)),
        ("KernelGANFKP", ["--model", "KernelGAN", "--proximal-weight", 3], ("--proximal-weight 3.0", "KernelGAN")),
    ):
        refused(typed(project, *photo, *arguments), *told)
    assert not (own.parent / "out").exists()
    for project, arguments in (
        ("DIPFKP", ["--preset", "search", "--iterations", 0]),
        ("KernelGANFKP", ["--preset", "prediction"]),
        ("KernelGANFKP", ["--iterations", 0]),
    ):
        done = typed(project, *photo, *arguments, "--SR", "--overwrite")
        assert done.returncode == 0, done.stderr


def test_main_job_leaves_picture_kernel_and_comparison(tmp_path):
    done = command("DIPFKP", "--SR", "--sf", 4, "--dataset", "Test", "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "PSNR" in done.stdout + done.stderr
    assert str(tmp_path / "out") in done.stdout
    hr = cv2.imread(str(REPOSITORY / "data/datasets/Test/HR/chelsea.png"))
    sr = cv2.imread(str(tmp_path / "out" / "chelsea.png"))
    assert sr.shape == (hr.shape[0] // 4 * 4, hr.shape[1] // 4 * 4, 3)
    kernel = scipy.io.loadmat(tmp_path / "out" / "chelsea.mat")["Kernel"]
    assert kernel.shape == (19, 19)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert cv2.imread(str(tmp_path / "out" / "chelsea_kernel.png")) is not None
    names = [
        "chelsea.json",
        "chelsea.mat",
        "chelsea.png",
        "chelsea_kernel.png",
        "index.html",
        "report",
        "results.csv",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    again = typed("DIPFKP", "--SR", "--sf", 4, "--dataset", "Test", "-o", tmp_path / "out", *QUICK)
    assert again.stdout == done.stdout.replace("chelsea  ", "chelsea  done before  ")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out" / "chelsea.png")), sr)


@pytest.mark.parametrize(("model", "sf", "side"), [("KernelGANFKP", 2, 11), ("KernelGAN", 4, 21)])
def test_the_second_estimator_leaves_the_same_results(tmp_path, model, sf, side):
    arguments = ["--model", model, "--sf", sf, "-o", tmp_path / "out", "--iterations", 3, "--crops-per-step", 4]
    if model == "KernelGANFKP":
        arguments += ["--frozen-iterations", 1]
    done = command("KernelGANFKP", "--SR", "--verbose", *arguments)
    assert done.returncode == 0, done.stderr
    assert "kernel PSNR" in done.stdout + done.stderr
    hr = cv2.imread(str(REPOSITORY / "data/datasets/Test/HR/chelsea.png"))
    sr = cv2.imread(str(tmp_path / "out" / "chelsea.png"))
    assert sr.shape == (hr.shape[0] // sf * sf, hr.shape[1] // sf * sf, 3)
    assert scipy.io.loadmat(tmp_path / "out" / "chelsea.mat")["Kernel"].shape == (side, side)
    assert cv2.imread(str(tmp_path / "out" / "chelsea_kernel.png")) is not None
    search = json.loads((tmp_path / "out" / "chelsea.json").read_text())["result"]["search"]
    assert [title for title, _ in search["kernels"]][-2:] == ["result", "true"]
    assert len(search["kernels"]) > 3
    assert search["residual"] > 0
    assert "residual × 4" in (tmp_path / "out" / "index.html").read_text()


def test_a_kernel_can_be_estimated_without_an_image(tmp_path):
    short = ("--iterations", 3, "--frozen-iterations", 1, "--crops-per-step", 4, "--batch", 2)
    done = typed("KernelGANFKP", "-o", tmp_path / "out", *short)
    assert done.returncode == 0, done.stderr
    assert "kernel PSNR" in done.stdout + done.stderr
    names = ["chelsea.json", "chelsea.mat", "chelsea_kernel.png", "index.html", "report", "results.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert "<image>.png" not in done.stdout


@pytest.mark.parametrize("sf", [3, 8])
def test_scales_that_kernelgan_lacks_are_one_line(tmp_path, sf):
    refused(typed("KernelGANFKP", "--SR", "--sf", sf, "-o", tmp_path / "out"), f"--sf {sf}", "DIPFKP")
    assert not (tmp_path / "out").exists()


def test_kernelgans_two_preset_names_are_one(own):
    photo = ["-i", own / "photo.png", "-o", own.parent / "out", "--SR", "--real", "--model", "KernelGAN"]
    first = typed("KernelGANFKP", *photo, "--iterations", 2)
    assert first.returncode == 0, first.stderr
    again = typed("KernelGANFKP", *photo, "--iterations", 2, "--preset", "paper")
    assert again.returncode == 0, again.stderr
    assert "done before" in again.stdout
    refused(typed("KernelGANFKP", *photo, "--batch", 2), "--batch 2", "one picture at a time")


def test_own_picture_from_another_folder_with_relative_paths(own):
    done = command("DIPFKP", "--SR", "--real", "--sf", 2, "-i", "own/photo.png", "-o", "out", *QUICK, cwd=own.parent)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(own.parent / "out" / "photo.png")).shape == (96, 128, 3)
    assert "PSNR" not in done.stdout
    assert "note:" not in done.stderr
    assert "\r" not in done.stderr  # a log has lines
    assert sorted(path.name for path in own.iterdir()) == ["photo.png"]
    record = json.loads((own.parent / "out" / "photo.json").read_text())
    assert record["settings"]["settings"]["circular"] is False  # a photograph ends at its border


def test_several_pictures_by_paths_and_a_pattern_in_tiles(own):
    photo = cv2.imread(str(own / "photo.png"))
    (own / "more").mkdir()
    for name in ("a.jpg", "photo.jpg"):
        cv2.imwrite(str(own / "more" / name), photo)
    out = own.parent / "out"
    arguments = ["--SR", "--real", "--sf", 2, "-i", own / "photo.png", own / "more" / "*.jpg", "-o", out, *QUICK]
    done = typed("DIPFKP", *arguments, "--tile", 192)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.glob("*.mat")} == {"photo_png.mat", "photo_jpg.mat", "a.mat"}
    assert cv2.imread(str(out / "a.jpg")).shape == (96, 128, 3)
    refused(typed("DIPFKP", "--SR", "--tile", 5, "-i", own, "-o", out), "--tile 5")


def test_without_sr_the_estimators_image_is_the_result(own):
    done = typed("DIPFKP", "--sf", 2, "-i", own, "-o", own.parent / "out", *QUICK)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(own.parent / "out" / "photo.png")).shape == (96, 128, 3)


def test_bad_pictures_are_named_and_the_others_done(own):
    photo = cv2.imread(str(own / "photo.png"))
    cv2.imwrite(str(own / "tiny.png"), photo[:5, :5])
    (own / "cut.png").write_bytes((own / "photo.png").read_bytes()[:2000])
    (own / "text.png").write_text("no picture")
    cv2.imwrite(str(own / "grey.png"), photo[:, :, 0])
    cv2.imwrite(str(own / "deep.png"), photo.astype(np.uint16) * 257)
    cv2.imwrite(str(own / "rgba.png"), np.dstack([photo, photo[:, :, 0]]))
    done = typed("DIPFKP", "--SR", "--sf", 2, "-i", own, "-o", own.parent / "out", *QUICK)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    for name in ("tiny", "cut", "text"):
        assert sum("error: " in line and f"{name}.png" in line for line in lines) == 1
        assert not (own.parent / "out" / f"{name}.png").exists()
    results = {
        name: cv2.imread(str(own.parent / "out" / f"{name}.png"), -1) for name in ("photo", "grey", "deep", "rgba")
    }
    assert {name: result.shape[2:] for name, result in results.items()} == {
        "photo": (3,),
        "grey": (),
        "deep": (3,),
        "rgba": (4,),
    }
    assert all(result.shape[:2] == (96, 128) for result in results.values())
    assert results["deep"].dtype == np.uint16
    assert abs(results["deep"] / 257 - results["photo"]).max() < 0.51
    assert results["rgba"][:, :, 3].std() > 10


def test_bad_options_and_files_are_one_line(tmp_path, own, evil_pickle):
    out = ["-o", tmp_path / "out"]
    refused(command("DIPFKP", "--SR", "-d", "Nowhere", *out), "Nowhere", "prepare_dataset.py")
    refused(typed("DIPFKP", "--SR", "--sf", 8, *out), "DIPFKP_lr_x8", "--sf 8")
    refused(typed("DIPFKP", "--SR", "-i", own / "absent.png", *out), own / "absent.png")
    refused(typed("DIPFKP", "--SR", "-i", own, "-o", own), own)
    refused(typed("DIPFKP", "--SR", "--sigma", 999, *out), "--sigma 999", "0 to 15")
    refused(typed("DIPFKP", "--path-KP", tmp_path / "absent.pt", *out), "absent.pt")
    refused(typed("DIPFKP", "--sf", 3, "--path-KP", pretrained_path("FKP_x2.pt"), *out), "FKP_x2.pt", "15×15")
    refused(typed("DIPFKP", "--path-KP", evil_pickle, *out), "evil.pt", "plain tensors")
    assert not (tmp_path / "executed").exists()
    refused(typed("DIPFKP", "--SR", "--path-nonblind", pretrained_path("FKP_x2.pt"), *out), "FKP_x2.pt")
    refused(typed("DIPFKP", "--path-predictor", pretrained_path("FKP_x2.pt"), *out), "FKP_x2.pt", "predictor")
    if not torch.cuda.is_available():
        refused(typed("DIPFKP", "--device", "cuda", *out), "--device cuda")
    assert not (tmp_path / "out").exists()


def test_results_of_other_settings_are_one_line(own):
    arguments = ["--SR", "--real", "-i", own, "-o", own.parent / "out", *QUICK]
    assert typed("DIPFKP", *arguments).returncode == 0
    photo = own.parent / "out" / "photo.png"
    refused(typed("DIPFKP", *arguments, "--seed", 1), photo, "--seed 0, now --seed 1", "-o", "--overwrite")
    refused(typed("DIPFKP", *arguments, "--float32"), photo, "no --float32, now --float32")
    before = cv2.imread(str(photo))
    assert typed("DIPFKP", *arguments, "--float32", "--overwrite").returncode == 0
    assert (cv2.imread(str(photo)) != before).any() == gains_from_bfloat16(torch.device("cpu"))


def recorded(module, arguments, monkeypatch):
    """The settings that a command would record."""
    told = []
    monkeypatch.setattr(module, "run_batch", lambda options, method: told.append(_settings(options, method)) or 0)
    monkeypatch.setattr(sys, "argv", ["main.py", *map(str, arguments)])
    assert module.main() == 0
    return told[0]


def test_float32_is_a_setting_where_it_matters_and_somebody_asks_for_it(monkeypatch):
    for module, arguments, expected in (
        (DIPFKP.main, ["--SR"], True),
        (DIPFKP.main, [], False),
        (KernelGANFKP.main, [], True),
        (KernelGANFKP.main, ["--preset", "prediction"], False),
        (KernelGANFKP.main, ["--model", "KernelGAN"], False),
    ):
        assert recorded(module, [*arguments, "--float32"], monkeypatch).get("float32", False) == expected
        assert "float32" not in recorded(module, arguments, monkeypatch)


def test_settings_are_compared_as_they_took_effect(monkeypatch):
    for module in (DIPFKP.main, KernelGANFKP.main):
        one, same = (
            recorded(module, ["--preset", *arguments], monkeypatch)
            for arguments in (["prediction"], ["search", "--iterations", 0])
        )
        assert one == same
        paper, same = (
            recorded(module, ["--preset", "paper", *arguments], monkeypatch)
            for arguments in ([], ["--iterations", 1000])
        )
        assert paper == same
        assert paper != one


def test_photographs_and_laboratory_data(own, monkeypatch):
    photo = ["-i", own / "photo.png"]
    for arguments, photographs in (
        ([], False),
        (photo, True),
        ([*photo, "--real"], True),
        ([*photo, "--prepared"], False),
        (["-d", "Test"], False),
        (["-d", "Test", "--real"], True),
    ):
        settings = recorded(DIPFKP.main, ["--SR", *arguments], monkeypatch)
        assert settings["photographs"] == photographs, arguments
        assert settings["settings"]["circular"] != photographs
        assert (settings["sigma"] == 0) != photographs
        settings = recorded(KernelGANFKP.main, arguments, monkeypatch)
        assert (settings["settings"]["shave"] == 0) == photographs
    for arguments, told in (
        (["--real"], "-i"),
        (["--prepared"], "-i"),
        ([*photo, "--real", "--prepared"], "--prepared and --real"),
        ([*photo, "-d", "Test"], "-i and -d"),
    ):
        refused(typed("DIPFKP", "--SR", *arguments, "-o", own.parent / "out"), told)


def test_pictures_named_by_several_options_are_all_done(own):
    photo = cv2.imread(str(own / "photo.png"))
    for name in ("second", "third"):
        cv2.imwrite(str(own.parent / f"{name}.png"), photo)
    arguments = ["-i", own / "photo.png", own.parent / "second.png", "--SR", "--preset", "prediction"]
    done = typed("DIPFKP", *arguments, "-i", own.parent / "third.png", "-o", own.parent / "out")
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in (own.parent / "out").glob("*.mat")} == {"photo", "second", "third"}


def test_no_pictures_named_is_said_first(tmp_path):
    done = typed("DIPFKP", "--SR", "--preset", "prediction", "--sf", 4, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Test picture" in done.stdout.splitlines()[0]
    refused(typed("DIPFKP", "--SR", "-i"), "-i names no picture")


def test_printing_never_stops_the_work(own):
    (own / "photo.png").rename(own / "2日本語.png")
    cv2.imwrite(str(own / "a.png"), np.zeros((40, 40, 3), np.uint8))
    script = REPOSITORY / "DIPFKP" / "main.py"
    arguments = ["--SR", "--preset", "prediction", "-i", own, "-o", own.parent / "out"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    run = partial(subprocess.run, env=environment, stderr=subprocess.PIPE, timeout=120)
    done = run([sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert len(list((own.parent / "out").glob("*.json"))) == 2
    assert run([sys.executable, script, "--help"], stdout=subprocess.PIPE).returncode == 0
    reader, writer = os.pipe()
    os.close(reader)  # as of `| head -1`, which is gone after a line
    done = run([sys.executable, script, *map(str, arguments), "--no-resume"], stdout=writer)
    os.close(writer)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on(own, number):
    arguments = ["--real", "-i", own, "-o", own.parent / "out", "--iterations", 100_000]
    process = subprocess.Popen(
        [sys.executable, REPOSITORY / "KernelGANFKP" / "main.py", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not list(own.parent.glob("out/.unfinished-*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error
    assert "of 1 pictures 0 done, 0 failed, 1 left; the same command goes on from there" in error
    assert "Traceback" not in error
    assert not list(own.parent.glob("out/.unfinished-*"))


@pytest.mark.parametrize("meanwhile", ["raise RuntimeError('made of it')", "on_step(1, 2, 0.0)"])
def test_an_interruption_is_one_whatever_it_breaks_into(own, meanwhile):
    """An import that a signal breaks into may make another error of it, or go on."""
    script = f"""
import signal
from pathlib import Path
from blindsr.batch.command import Method, run_batch
from blindsr.batch.options import BatchOptions
from blindsr.command import run

def estimator(lr, scale_factor, *, seed, on_step):
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        pass
    {meanwhile}

own = Path({str(own)!r})
options = BatchOptions(input_dir=((own,),), output_dir=own.parent / "out")
run(lambda: run_batch(options, Method("DIPFKP", "DIPFKP", estimator)))
"""
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 130, process.stderr
    assert "of 1 pictures 0 done, 0 failed, 1 left" in process.stderr


def test_results_never_replace_each_other(own):
    arguments = ["--SR", "-i", own, "-o", own.parent / "out", *QUICK]
    (own / "photo_kernel.png").write_bytes((own / "photo.png").read_bytes())
    assert typed("DIPFKP", *arguments).returncode == 0
    assert {path.name for path in (own.parent / "out").glob("*.mat")} == {"photo.mat", "photo_kernel_png.mat"}


def test_names_that_differ_in_case_alone(own, monkeypatch):
    (own / "PHOTO.png").write_bytes((own / "photo.png").read_bytes())
    arguments = ["--SR", "--preset", "prediction", "-i", own]
    assert typed("DIPFKP", *arguments, "-o", own.parent / "out").returncode == 0
    assert {path.name for path in (own.parent / "out").glob("*.mat")} == {"photo.mat", "PHOTO.mat"}
    monkeypatch.setattr("blindsr.batch.command._tells_case_apart", lambda folder: False)
    refused(typed("DIPFKP", *arguments, "-o", own.parent / "other"), "photo.png", "rename")
    assert not (own.parent / "other").exists()


def test_a_name_too_long_for_results_is_told_before_the_work(own):
    (own / "photo.png").rename(own / f"{'n' * 236}.png")
    refused(typed("DIPFKP", "-i", own, "-o", own.parent / "out", *QUICK), "name is too long", "rename")


def test_the_photographs_of_the_shipped_weights(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "data"))
    from training_photographs import WALLPAPERS

    rng = np.random.default_rng(0)
    wallpapers = [tmp_path / "root" / path for path in WALLPAPERS.values()]
    photographs = [tmp_path / "bsds" / "train" / f"{number}.jpg" for number in range(10, 20)]
    for path in (*wallpapers, *photographs):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (321, 481, 3), np.uint8))
    arguments = ["--bsds", tmp_path / "bsds", "--debian", tmp_path / "root", "-o", tmp_path / "out"]
    done = command("data", *arguments, script="training_photographs.py")
    assert done.returncode == 0, done.stderr
    made = {path.name: {file.name for file in path.iterdir()} for path in (tmp_path / "out" / "usrnet").iterdir()}
    assert list(made) and max(made) == "bsds500"  # the trainings hold out the last
    assert made["bsds500"] == {path.name for path in photographs}
    assert {name for name in made["b_averaged"] if name.startswith("half_")} == {"half_10.png", "half_11.png"}
    assert len(made["a640"]) == len(made["a1200"]) == len(WALLPAPERS)
    assert cv2.imread(str(tmp_path / "out/usrnet/b_averaged/half_10.png")).shape == (160, 240, 3)
    assert len(list((tmp_path / "out" / "predictor").iterdir())) == 4
    refused(typed("data", *arguments, script="training_photographs.py"), tmp_path / "out", "exists")
    wallpapers[0].unlink()
    arguments[-1] = tmp_path / "other"
    refused(typed("data", *arguments, script="training_photographs.py"), wallpapers[0], "install")
    assert not (tmp_path / "other").exists()


def test_an_unusable_output_folder_is_told_before_the_work(own):
    (own.parent / "file").touch()
    refused(typed("DIPFKP", "--SR", "-i", own, "-o", own.parent / "file"), own.parent / "file", "-o")


def test_a_thin_picture_is_estimated_whole(own):
    cv2.imwrite(str(own / "photo.png"), cv2.imread(str(own / "photo.png"))[:7])
    done = typed("DIPFKP", "--SR", "--sf", 2, "-i", own, "-o", own.parent / "out", *QUICK)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(own.parent / "out" / "photo.png")).shape == (14, 128, 3)


def test_wrong_options_are_told():
    for arguments in (
        ["--sf", 5],
        ["--bogus"],
        ["--preset", "fast"],
        ["--preset"],
        ["--model", "USRNet"],
        ["--iterations", -1],
        ["--iterations", 20],
        ["--iterations", "abc"],
    ):
        done = typed("DIPFKP", *arguments)
        assert done.returncode == 2
        assert arguments[0] in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_an_empty_argument_is_not_the_current_folder(own):
    for option, arguments in (
        ("-i", ["-i", ""]),
        ("-o", ["-i", "photo.png", "-o", ""]),
        ("--path-KP", ["--path-KP="]),
    ):
        refused(typed("DIPFKP", *arguments, cwd=own), option, "empty")


def test_the_help_shows_every_presets_settings():
    text = " ".join(typed("DIPFKP", "--help").stdout.replace("│", " ").split())
    assert "(prediction: 0, search: 150, paper: 1000)" in text
    first = text[: text.index("picture options")]
    assert re.findall(r"--[\w-]+", first.split("show this help")[1]) == [
        *("--input", "--input-dir", "--output-dir", "--sf", "--dataset", "--SR", "--no-SR", "--preset")
    ]
    for option in ("--model", "--path-nonblind", "--real", "--prepared", "--path-KP", "--seed", "--device"):
        assert option in text


@pytest.mark.parametrize("folder", ["NonblindSR", "KernelPredictor"])
def test_the_help_fills_its_lines_under_headings_in_words(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    lines = [line.rstrip() for line in typed(folder, "--help").stdout.splitlines()]
    assert "Exit status: 0 done, 2 wrong input or a picture that failed, 130 interrupted." in lines
    headings = [line for line, below in pairwise(lines) if below.startswith(" ---")]
    assert " training options" in headings
    assert all(re.fullmatch(r"[a-z -]+", heading) for heading in headings)
    text = [line for line in lines if line.startswith(" " * 12)]
    filled = [(a, b) for a, b in pairwise(lines) if a in text and b in text]
    assert len(filled) > 10
    for line, below in filled:
        assert len(line) + 1 + len(below.split()[0]) > 98, line  # the next word had no room
    assert "None" not in " ".join(text)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("folder", "script", "arguments", "words"),
    [
        ("DIPFKP", "main.py", ["--SR", "photo.png"], "pictures go behind -i: -i photo.png"),
        ("blindsr", "__main__.py", ["-i", "photo.png"], "pictures take no -i here"),
        ("blindsr", "__main__.py", ["photo.png", "--sigma", "high"], "--sigma: 'high' is not a number or auto"),
        ("DIPFKP", "main.py", ["--workers", "0.5"], "--workers: '0.5' is not a whole number or auto"),
        ("DIPFKP", "main.py", ["--iterations", "1e3"], "--iterations: '1e3' is not a whole number"),
        ("DIPFKP", "main.py", ["-d", "Nowhere"], "Nowhere: no such dataset (there: "),
        ("NonblindSR", "main.py", ["--kernel", "photo.png", "-i", "."], "kernels are .mat or .npy files"),
        ("FKP", "main.py", ["--train", "-o", "photo.png"], "photo.png: cannot be made (File exists); choose another"),
        ("data", "prepare_dataset.py", ["-d", "{here}"], "HR: no such folder; put the dataset's HR pictures into it"),
        ("blindsr/batch", "report.py", ["{here}"], "holds no results"),
        ("blindsr/batch", "summary.py", ["{here}"], "holds no results"),
        ("blindsr/batch", "summary.py", ["{here}/missing"], "missing: no such folder"),
    ],
)
def test_what_newcomers_type_is_answered_in_words(own, folder, script, arguments, words):
    before = sorted(own.rglob("*"))
    done = typed(folder, *(str(each).format(here=own) for each in arguments), cwd=own, script=script)
    assert done.returncode == 2
    text = " ".join((done.stdout + done.stderr).split())
    assert words in text
    assert "typing" not in text
    assert "Traceback" not in text
    assert sorted(own.rglob("*")) == before


def test_an_error_of_the_system_names_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("blindsr.command.keep_freed_memory", lambda: None)
    with pytest.raises(SystemExit) as ended:
        blindsr.command.run(lambda: (tmp_path / "absent").stat().st_size)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'absent'}: No such file or directory\n"


def test_missing_ground_truth_is_named(tmp_path):
    shutil.copytree(REPOSITORY / "data" / "datasets" / "Test", tmp_path / "Mine")
    (tmp_path / "Mine" / "DIPFKP_gt_k_x4" / "chelsea.mat").unlink()
    arguments = ["--SR", "--sf", 4, "-d", tmp_path / "Mine", "-o", tmp_path / "out", *QUICK]
    refused_one = typed("DIPFKP", *arguments)
    assert refused_one.returncode == 2
    assert "chelsea.mat: no such kernel file" in refused_one.stdout + refused_one.stderr
    assert typed("DIPFKP", "--real", *arguments).returncode == 0


def test_prepare_dataset(tmp_path):
    shutil.copytree(REPOSITORY / "data" / "datasets" / "Test" / "HR", tmp_path / "Mine" / "HR")
    done = command("data", "--model", "DIPFKP", "--sf", 2, "-d", tmp_path / "Mine", script="prepare_dataset.py")
    assert done.returncode == 0, done.stderr
    made, shipped = tmp_path / "Mine", REPOSITORY / "data" / "datasets" / "Test"
    image, kernel = "DIPFKP_lr_x2/chelsea.png", "DIPFKP_gt_k_x2/chelsea.mat"
    np.testing.assert_array_equal(*(cv2.imread(str(folder / image), -1) for folder in (made, shipped)))
    kernels = [scipy.io.loadmat(folder / kernel)["Kernel"] for folder in (made, shipped)]
    assert kernels[0].dtype == kernels[1].dtype
    # Processors differ in the last bits of float64 (by 11 units in the last place, where it was seen).
    np.testing.assert_allclose(*kernels, rtol=1e-14, atol=0)
    refused(typed("data", "--model", "KernelGANFKP", "--sf", 8, script="prepare_dataset.py"), "--sf 8")
    refused(typed("data", "-d", "Nowhere", script="prepare_dataset.py"), "Nowhere")


def nats_per_kernel(text):
    """−log p that ``FKP/main.py`` prints, of the prior and of a normal distribution."""
    line = next(line for line in text.splitlines() if "nats per kernel" in line)
    return [float(re.search(pattern, line)[1]) for pattern in (r"-log p = (\S+)", r"has (\S+)")]


def test_prior_command(tmp_path, caplog):
    refused(typed("FKP"), "--train", "--evaluate", "--generate")
    done = command("FKP", "--evaluate", "--generate", "--sf", 2, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "-log p =" in done.stdout
    assert cv2.imread(str(tmp_path / "FKP_x2_samples.png")) is not None
    known, normal = nats_per_kernel(done.stdout)
    assert known < normal
    assert "likelier" not in done.stderr
    arguments = ["--train", "--sf", 2, "--epochs", 2, "--kernels-per-epoch", 500, "--validate-every", 1]
    done = typed("FKP", *arguments, "-o", tmp_path)
    assert done.returncode == 0
    hardly_known, same = nats_per_kernel(done.stdout)
    assert hardly_known > normal == same
    assert caplog.text.count("likelier under that normal distribution") == 1
    refused(typed("FKP", *arguments, "--restore_file", tmp_path / "FKP_x2_last.pt"), "FKP_x2_last.pt")
    refused(typed("FKP", "--evaluate", "--restore_file", tmp_path / "absent.pt"), "absent.pt")


def test_predictor_command(tmp_path):
    refused(typed("KernelPredictor", "--train", "--images", tmp_path / "absent"), "absent")
    photo = REPOSITORY / "data/datasets/Test/HR/chelsea.png"
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(photo, tmp_path / "photos" / name)
    arguments = ["--images", tmp_path / "photos", "--steps", 2, "--crops", 16, "--pixels", 1024, "--held-out", 1]
    done = typed("KernelPredictor", "--train", *arguments, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    weights = tmp_path / "run" / "kernel_predictor.pth"
    assert str(weights) in done.stdout
    arguments = ["--SR", "--sf", 4, "-o", tmp_path / "out", "--path-predictor", weights, *QUICK]
    assert typed("DIPFKP", *arguments).returncode == 0


def test_a_known_kernel_of_another_tool_is_used(tmp_path, photograph):
    kernel = random_kernels(1, 3, torch.Generator().manual_seed(5))
    lr = degrade(photograph, align(kernel, 3), 3)[0].permute(1, 2, 0).numpy()
    cv2.imwrite(str(tmp_path / "photo.png"), np.rint(lr[:, :, ::-1].clip(0, 1) * 65535).astype(np.uint16))
    np.save(tmp_path / "kernel.npy", 2 * kernel[0, 0].numpy())
    arguments = ["--kernel", "kernel.npy", "-i", "photo.png", "--sf", 3, "--sigma", 0]
    done = command("NonblindSR", *arguments, "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kernel.npy: the kernel sums to 2" in done.stderr
    used = scipy.io.loadmat(tmp_path / "out" / "photo.mat")["Kernel"]
    np.testing.assert_allclose(used, align(kernel, 3)[0, 0], atol=1e-6)
    # The kernel that was written is read back as what it is.
    again = [*arguments, "-o", "again"]
    again[1] = "out/photo.mat"
    assert typed("NonblindSR", *again, cwd=tmp_path).returncode == 0
    results = [
        cv2.imread(str(tmp_path / folder / "photo.png"), -1)[:, :, ::-1] / 65535 for folder in ("out", "again")
    ]
    np.testing.assert_array_equal(*results)
    hr = photograph[0].permute(1, 2, 0).numpy()
    assert results[0].shape == hr.shape
    error = (results[0] - hr)[24:-24, 24:-24]  # this picture has a periodic boundary, which photographs have not
    assert 10 * np.log10(1 / np.square(error).mean()) > 28
    refused(typed("NonblindSR", *arguments, "-o", ".", cwd=tmp_path), "holds the input pictures")
    refused(typed("NonblindSR", *arguments[:2], cwd=tmp_path), "-i PATH")


def test_nonblind_command(tmp_path, own):
    refused(typed("NonblindSR"), "--train", "--evaluate", "--kernel")
    refused(typed("NonblindSR", "--train"), "--images")
    refused(typed("NonblindSR", "--evaluate", "--model", "KernelGANFKP", "--sf", 3), "--sf 3", "prepare_dataset.py")
    refused(typed("NonblindSR", "--train", "--images", tmp_path / "absent"), "absent")
    done = command("NonblindSR", "--evaluate", "--sf", 4)
    assert done.returncode == 0, done.stderr
    assert re.search(r"mean of 1  PSNR \d\d\.\d\d dB  SSIM 0\.\d{4}\n", done.stdout)


def test_an_evaluation_whose_picture_failed_says_so_and_by_its_status(own):
    shutil.copytree(shipped_dataset("Test"), own / "mine")
    (picture,) = (own / "mine" / "DIPFKP_lr_x4").iterdir()
    picture.write_bytes(b"no picture")
    refused(typed("NonblindSR", "--evaluate", "--sf", 4, "-d", own / "mine"), picture.name)


@pytest.mark.slow
@pytest.mark.extended
def test_two_processes_train_one_network(tmp_path, own):
    shutil.copy(own / "photo.png", own / "second.png")
    arguments = ["--steps", 2, "--batch", 2, "--patch", 24, "--validate-every", 1, "--held-out", 1]
    arguments += ["--scales", 2, 3]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "main.py"]
    shared = [*torchrun, "--train", "--images", own, *arguments, "-o", tmp_path / "shared"]
    done = subprocess.run(
        [str(part) for part in shared], cwd=REPOSITORY / "NonblindSR", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("step 2: loss") == 1
    weights = tmp_path / "shared" / "usrnet_tiny.pth"
    assert typed("NonblindSR", "--evaluate", "--sf", 4, "--path-nonblind", weights).returncode == 0
