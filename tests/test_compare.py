"""Paired differences of two folders of results."""

import json

import cv2
import numpy as np
import pytest
from commands import REPOSITORY, refused, typed
from scipy import stats

PSNR = {"a": (30.0, 30.5), "b": (25.0, 26.5), "c": (28.0, 27.9), "d": (31.0, 31.5)}


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


@pytest.fixture
def folders(tmp_path):
    """Two folders of results; those of "b" differ in a square, those of the others by a grey level everywhere."""
    made = tmp_path / "first", tmp_path / "second"
    rng = np.random.default_rng(0)
    for name, scores in PSNR.items():
        pixels = rng.integers(60, 180, (120, 160, 3), dtype=np.uint8)
        for number, folder in enumerate(made):
            folder.mkdir(exist_ok=True)
            shown = pixels + np.uint8(number)
            if name == "b" and number:
                shown[70:94, 100:124] += 40
            write(folder, name, shown, psnr=scores[number], seconds=[6.0, 1.0][number])
    return made


def write(folder, name, pixels, lr="same", **result):
    cv2.imwrite(str(folder / f"{name}.png"), pixels)
    record = {"state": "finished", "name": name, "input": f"/gone/{name}.png", "inputs": {"lr": lr}, "settings": {}}
    record |= {"run": {}, "files": {f"{name}.png": ""}, "result": result}
    (folder / f"{name}.json").write_text(json.dumps(record))


def compared(*arguments):
    process = typed("benchmarks", *arguments, script="compare.py")
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_differences_are_paired_and_have_students_interval(folders, tmp_path):
    text = compared(*folders, "--figure", tmp_path / "parts.png")
    first, second = np.array(list(PSNR.values())).T
    low, high = stats.ttest_rel(second, first).confidence_interval()
    assert f"| PSNR | 4 | 28.50 dB | 29.10 dB | +0.600 | {low:+.3f} to {high:+.3f} | 3 of 4 |" in text
    assert "| seconds, kernel | 4 | 6.0 s | 1.0 s | -5.00 | -5.00 to -5.00 | 0 of 4 |" in text
    assert "SSIM" not in text
    assert cv2.imread(str(tmp_path / "parts.png")).shape[2] == 3


def test_the_part_shown_first_is_where_they_differ_most(folders):
    import compare

    common, left_out = compare.pairs(folders)
    assert not left_out
    parts = {name: compare.part(name, pair, 24) for name, pair in common.items()}
    assert max(parts, key=lambda name: parts[name].error) == "b"
    assert parts["b"].error == pytest.approx(41)
    assert parts["a"].error == pytest.approx(1)
    whole = cv2.imread(str(folders[1] / "b.png"))[..., ::-1]
    assert np.array_equal(parts["b"].views["B"], whole[70:94, 100:124])


def test_what_does_not_pair_is_left_out_and_said(folders, tmp_path):
    pixels = np.full((120, 160, 3), 90, np.uint8)
    write(folders[1], "c", pixels, lr="another", psnr=90.0)
    write(folders[1], "d", pixels[:60], psnr=float("inf"))
    write(folders[1], "e", pixels, psnr=90.0)
    text = compared(*folders, "--figure", tmp_path / "parts.png")
    assert "| PSNR | 2 | 27.50 dB | 28.50 dB | +1.000 |" in text
    assert "1 in one folder alone left out" in text
    assert "1 of different inputs left out: c" in text
    for name in ("b", "c", "d", "e"):
        (folders[1] / f"{name}.json").unlink()
    assert "| PSNR | 1 | 30.00 dB | 30.50 dB | +0.500 | 1 of 1 |" in compared(
        *folders, "--figure", tmp_path / "parts.png"
    )


def test_the_ground_truth_is_shown_where_it_lies_beside_the_input(folders, tmp_path):
    import compare
    from blindsr.batch.records import hash_file

    truth = tmp_path / "set" / "HR" / "a.png"
    truth.parent.mkdir(parents=True)
    cv2.imwrite(str(truth), np.full((121, 161, 3), 7, np.uint8))
    path = folders[0] / "a.json"
    record = json.loads(path.read_text()) | {"input": str(tmp_path / "set" / "lr" / "a.png")}
    record["inputs"]["hr"] = hash_file(truth)
    path.write_text(json.dumps(record))
    common, _ = compare.pairs(folders)
    assert (compare.part("a", common["a"], 24).views["ground truth"] == 7).all()
    assert "ground truth" not in compare.part("b", common["b"], 24).views


def test_folders_without_a_common_picture_are_refused(folders, tmp_path):
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", "z", np.zeros((20, 20, 3), np.uint8))
    figure = tmp_path / "parts.png"
    for other, words in (("other", "no result of the same picture"), ("missing", "no such folder")):
        refused(typed("benchmarks", folders[0], tmp_path / other, "--figure", figure, script="compare.py"), words)
    assert not figure.exists()
