"""Batches that are resumed, refused, interrupted and recorded, with an estimator that takes no time."""

import csv
import dataclasses
import hashlib
import json
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from blindsr.batch.command import Method, run_batch
from blindsr.batch.differences import differences
from blindsr.batch.inputs import Item, find_items, input_items
from blindsr.batch.options import BatchOptions, RunOptions
from blindsr.batch.records import JOURNAL, UNFINISHED, Records, hash_inputs, read_record
from blindsr.batch.results import CURVE, from_record
from blindsr.batch.run import Job, process
from blindsr.batch.summary import SUMMARY, read_records
from blindsr.estimation import Estimate, Limits


class Quick:
    """An estimator that widens the picture and remembers how often it was called."""

    def __init__(self, fails=lambda calls: None):
        self.calls = 0
        self.fails = fails

    def __call__(self, lr, scale_factor, *, seed, on_step=None):
        self.calls += 1
        self.fails(self.calls)
        kernel = torch.full((1, 1, 11, 11), 1 / 121 + 1e-6 * seed)
        image = lr.repeat_interleave(scale_factor, 2).repeat_interleave(scale_factor, 3)
        on_step(1, 1, 0.5)
        critic_losses = [float(i) for i in range(4000)]
        return Estimate(
            kernel, image, [0.5], 1.5, seed, critic_losses, expected_error=0.5, limits=LIMITS, notes=("a note",)
        )


LIMITS = Limits(uncertain=0.45)


@pytest.fixture(autouse=True)
def figures_take_no_time(monkeypatch):
    def draw(path, *arguments):
        path.write_bytes(b"drawn")

    monkeypatch.setattr("blindsr.batch.steps.save_kernel_comparison", draw)


@pytest.fixture
def options(tmp_path):
    """Options for a folder of three pictures, a.png, b.png and c.png."""
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 9, 3))
    for name, picture in zip("abc", pixels, strict=True):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), picture.astype(np.uint8))
    return BatchOptions(input_dir=((tmp_path / "in",),), output_dir=tmp_path / "out", run=RunOptions(device="cpu"))


def batch(options, estimator=None, seed=0, path_KP=None, **changes):  # noqa: N803
    """Run; returns the exit status and how often the estimator was called."""
    estimator = estimator or Quick()
    run = {key: changes.pop(key) for key in ("resume", "overwrite", "verbose") if key in changes}
    options = dataclasses.replace(options, run=dataclasses.replace(options.run, **run), **changes)
    files = {} if path_KP is None else {"path_KP": path_KP}
    return run_batch(options, Method("DIPFKP", "DIPFKP", estimator, files=files, seed=seed)), estimator.calls


def contents(folder):
    """Path → content of everything in a folder, as far down as it goes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def states(options):
    """The state on record of each picture."""
    return {record.name: record.state for record in read_records(options.output_dir)}


def test_a_record_says_what_was_done_with_what(options, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"weights")
    assert batch(options, path_KP=tmp_path / "w.pt", seed=7)[0] == 0
    line = json.loads((options.output_dir / "c.json").read_text())
    digest = hashlib.sha256((tmp_path / "in" / "c.png").read_bytes()).hexdigest()
    assert (line["state"], line["name"], line["input"]) == ("finished", "c", str(tmp_path / "in" / "c.png"))
    assert line["inputs"] == {"lr": digest}
    assert line["settings"]["seed"] == 7
    assert line["settings"]["path_KP"] == hashlib.sha256(b"weights").hexdigest()
    assert line["run"]["files"] == {"path_KP": "w.pt"}
    assert line["run"]["versions"]["torch"] == torch.__version__
    assert line["result"]["seconds"] == 1.5
    doubt, note = line["result"]["notes"]
    assert "its variances ± 50%" in doubt
    assert note == "a note"
    kernel, critic = (np.array(line["result"]["losses"][name]) for name in ("kernel", "critic"))
    assert kernel.tolist() == [[1, 0.5]]
    assert len(critic) == CURVE
    assert critic[[0, -1]].tolist() == [[1, 0], [4000, 3999]]
    assert (critic[:, 1] == critic[:, 0] - 1).all()
    for name in ("c.png", "c.mat", "c_kernel.png"):
        content = (options.output_dir / name).read_bytes()
        assert line["files"].pop(name) == hashlib.sha256(content).hexdigest()
    assert not line["files"]


def test_a_second_run_does_nothing_and_says_the_same(options, capsys):
    assert batch(options) == (0, 3)
    before, first = contents(options.output_dir), capsys.readouterr().out
    # What does not decide the result may differ.
    assert batch(options, output_dir=options.output_dir / ".." / "out", overwrite=True) == (0, 0)
    second = capsys.readouterr().out
    assert contents(options.output_dir) == before
    assert second.count("done before") == 3
    assert second.replace("done before  ", "") == first
    assert batch(options, resume=False) == (0, 3)


def test_scores_of_earlier_runs_count_in_the_mean(options, tmp_path, capsys):
    for name in "abc":
        lr = cv2.imread(str(tmp_path / "in" / f"{name}.png"))
        (tmp_path / "D" / "HR").mkdir(parents=True, exist_ok=True)
        hr = cv2.resize(lr, None, fx=4, fy=4)
        cv2.imwrite(str(tmp_path / "D" / "HR" / f"{name}.png"), hr)
        (tmp_path / "D" / "DIPFKP_gt_k_x4").mkdir(exist_ok=True)
        scipy.io.savemat(tmp_path / "D" / "DIPFKP_gt_k_x4" / f"{name}.mat", {"Kernel": np.full((11, 11), 1 / 121)})
    shutil.copytree(tmp_path / "in", tmp_path / "D" / "DIPFKP_lr_x4")
    options = dataclasses.replace(options, input_dir=(), dataset=str(tmp_path / "D"), sf=4)

    def stop(calls):
        if calls == 3:
            raise KeyboardInterrupt

    assert batch(options, Quick(stop))[0] == 130
    assert batch(options) == (0, 1)
    resumed = [line for line in capsys.readouterr().out.splitlines() if "mean of 3" in line]
    assert batch(options, output_dir=tmp_path / "whole") == (0, 3)
    whole = [line for line in capsys.readouterr().out.splitlines() if "mean of 3" in line]
    assert resumed == whole
    assert "PSNR" in whole[0]


def test_a_missing_or_changed_result(options):
    batch(options)
    (options.output_dir / "a.mat").unlink()
    assert batch(options) == (0, 1)
    (options.output_dir / "b.png").write_bytes(b"retouched by hand")
    with pytest.raises(ValueError, match=r"b\.png: no record .*-o.*--overwrite"):
        batch(options)
    assert (options.output_dir / "b.png").read_bytes() == b"retouched by hand"
    assert batch(options, overwrite=True) == (0, 1)
    assert batch(options) == (0, 0)


def test_other_settings_are_refused_before_any_work(options):
    batch(options)
    before = contents(options.output_dir)
    estimator = Quick()
    with pytest.raises(ValueError, match=r"out/a\.png: .* \(--seed 0, now --seed 1\).*-o.*--overwrite"):
        batch(options, estimator, seed=1)
    with pytest.raises(ValueError, match="other settings"):
        batch(options, estimator, seed=1, resume=False)
    assert estimator.calls == 0
    assert contents(options.output_dir) == before
    assert batch(options, seed=1, overwrite=True) == (0, 3)
    assert batch(options, seed=1) == (0, 0)
    with pytest.raises(ValueError, match="other settings"):
        batch(options)


def test_other_weights_are_other_settings_wherever_they_lie(options, tmp_path):
    for name, content in (("one.pt", b"1"), ("same.pt", b"1"), ("two.pt", b"2")):
        (tmp_path / name).write_bytes(content)
    assert batch(options, path_KP=tmp_path / "one.pt") == (0, 3)
    assert batch(options, path_KP=tmp_path / "same.pt") == (0, 0)
    with pytest.raises(ValueError, match=r"--path-KP one.pt \(\w{8}\), now --path-KP two.pt \(\w{8}\)"):
        batch(options, path_KP=tmp_path / "two.pt")


def test_the_difference_is_told_as_it_was_typed():
    def told(then, now, presets=(None, None)):
        runs = [{"given": {"--preset": p} if p else {}, "files": {"path_KP": "mine.pt"}} for p in presets]
        return differences(then, runs[0], now, runs[1])

    assert told({"estimator": "A", "seed": 1}, {"estimator": "B", "seed": 2}) == ["A's, now B's"]
    assert told({"SR": False, "sigma": None}, {"SR": True, "sigma": 5.0}) == [
        "--no-SR, now --SR",
        "no --sigma, now --sigma 5.0",
    ]
    # Of an option that decides which weights are read, not the weights.
    assert told({"local": True, "path_predictor": "0123456789"}, {}) == ["--local, now no --local"]
    assert told({"path_KP": "0123456789"}, {}) == ["--path-KP mine.pt (01234567), now no --path-KP"]
    searched, predicted = ({"settings": {"crop_position": "centre", "iterations": n}} for n in (150, 0))
    assert told(predicted, searched, ("prediction", None)) == [
        "--preset prediction, now no --preset",
        "--iterations 0, now --iterations 150",
    ]
    many = told({"settings": {}}, {"settings": dict.fromkeys("abcdef", 1)})
    assert len(many) == 4
    assert many[-1] == "and 3 more"


def test_another_picture_of_the_same_name_is_refused(options, tmp_path):
    batch(options)
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    with pytest.raises(ValueError, match=r"in/b\.png or its ground truth has changed since.*-o.*--overwrite"):
        batch(options)
    (tmp_path / "there").mkdir()
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "there" / "b.png")
    there = dataclasses.replace(options, input_dir=((tmp_path / "there" / "b.png",),))
    with pytest.raises(ValueError, match=r"another picture of this name, .*in/b\.png; .*-o.*--overwrite"):
        batch(there)
    assert batch(options, overwrite=True) == (0, 1)


@pytest.mark.parametrize("ending", [".png", ".mat", "_kernel.png"])
def test_files_that_nobody_accounts_for_are_refused(options, ending):
    options.output_dir.mkdir()
    strange = options.output_dir / f"c{ending}"
    strange.write_bytes(b"precious")
    with pytest.raises(ValueError, match=rf"c{ending}: no record .*-o.*--overwrite"):
        batch(options)
    assert [*contents(options.output_dir)] == [strange]
    strange.unlink()
    strange.symlink_to(options.paths[0] / "a.png")
    with pytest.raises(ValueError, match="no record"):
        batch(options)


def test_a_file_that_appears_during_the_run_is_left_alone(options):
    def appear(calls):
        if calls == 2:
            (options.output_dir / "b.mat").write_bytes(b"precious")

    assert batch(options, Quick(appear)) == (2, 3)
    assert (options.output_dir / "b.mat").read_bytes() == b"precious"
    assert not (options.output_dir / "b.png").exists()
    assert states(options) == {"a": "finished", "c": "finished"}  # a record would seem to account for the file


def test_replaced_results_leave_no_old_ones_behind(options):
    batch(options)
    record = json.loads((options.output_dir / "a.json").read_text())
    record["files"]["a_old.png"] = hashlib.sha256(b"old").hexdigest()
    (options.output_dir / "a.json").write_text(json.dumps(record))
    for name, content in (("a", b"old"), ("b", b"precious")):
        (options.output_dir / f"{name}_old.png").write_bytes(content)
    batch(options, seed=1, overwrite=True)
    assert not (options.output_dir / "a_old.png").exists()
    assert (options.output_dir / "b_old.png").read_bytes() == b"precious"


def test_verbose_does_again_what_was_not_explained(options):
    batch(options)
    assert batch(options, verbose=True) == (0, 3)
    assert batch(options) == (0, 0)
    assert batch(options, verbose=True) == (0, 0)
    kernels = read_record(options.output_dir / "a.json").result["search"]["kernels"]
    assert [title for title, _ in kernels] == ["result"]
    assert not (options.output_dir / "a_search.png").exists()


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError, MemoryError, ZeroDivisionError])
def test_one_bad_picture_ends_nothing_and_is_tried_again(options, capsys, error):
    def fail(calls):
        if calls == 2:
            raise error("bad\nluck")

    assert batch(options, Quick(fail)) == (2, 3)
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert "b.png" in lines[0]
    assert "bad" in lines[0]
    assert states(options)["b"] == "failed"
    assert batch(options) == (0, 1)
    assert states(options)["b"] == "finished"


def test_interrupted_says_what_is_done_and_goes_on(options, capsys):
    def interrupt(calls):
        if calls == 1:
            raise ValueError("bad luck")
        if calls == 3:
            raise KeyboardInterrupt

    assert batch(options, Quick(interrupt)) == (130, 3)
    assert "1 done, 1 failed, 1 left; the same command goes on" in capsys.readouterr().err
    assert not list(options.output_dir.glob(f"{UNFINISHED}*"))
    assert batch(options) == (0, 2)


def test_a_cut_off_record_is_none(options):
    batch(options)
    path = options.output_dir / "a.json"
    whole = path.read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"a\.png: no record .*--overwrite"):
            batch(options)
        assert batch(options, overwrite=True) == (0, 1)


def test_a_full_disk_fails_one_picture_and_is_resumed(options, monkeypatch):
    write, left = Path.write_text, [2]

    def full(path, text, **arguments):
        left[0] -= 1
        if left[0] == 0:
            write(path, text[:50], **arguments)
            raise OSError(28, "No space left on device")
        return write(path, text, **arguments)

    monkeypatch.setattr(Path, "write_text", full)
    assert batch(options) == (2, 3)
    monkeypatch.undo()
    assert sorted(states(options).values()) == ["failed", "finished", "finished"]
    assert batch(options) == (0, 1)
    assert set(states(options).values()) == {"finished"}


def test_what_a_killed_process_left_half_in_place_is_completed(options):
    batch(options)
    finished = contents(options.output_dir)
    made = options.output_dir / f"{UNFINISHED}a"
    made.mkdir()
    (options.output_dir / "a.mat").rename(made / "a.mat")  # a.png was moved, then the process died
    (options.output_dir / "a.json").rename(made / JOURNAL)
    (options.output_dir / SUMMARY).unlink()
    assert batch(options) == (0, 0)
    assert contents(options.output_dir) == finished


def test_results_that_were_not_complete_are_made_anew(options, tmp_path):
    made = options.output_dir / f"{UNFINISHED}a"
    made.mkdir(parents=True)
    (made / "a.png").write_bytes(b"half")
    (made / "link").symlink_to(tmp_path / "in")
    assert batch(options) == (0, 3)
    assert not made.exists()
    assert (tmp_path / "in" / "a.png").exists()
    assert cv2.imread(str(options.output_dir / "a.png")) is not None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"state": "finished", "name": ["a"], "input": "", "inputs": {}, "settings": {}, "run": {}}',
        b'{"state": "finished", "name": "a", "input": "", "inputs": {}, "settings": [], "run": {}}',
    ],
)
def test_a_file_that_is_no_record_is_nobodys(options, line):
    options.output_dir.mkdir()
    (options.output_dir / "a.json").write_bytes(line)
    assert read_record(options.output_dir / "a.json") is None
    assert read_records(options.output_dir) == []
    with pytest.raises(ValueError, match=r"a\.json: no record .*-o.*--overwrite"):
        batch(options)
    assert batch(options, overwrite=True) == (0, 3)


def test_crafted_records_reach_no_file_outside(options, tmp_path):
    batch(options)
    precious = tmp_path / "precious.png"
    precious.write_bytes(b"precious")
    digest = hashlib.sha256(b"precious").hexdigest()
    for name in "abc":
        path = options.output_dir / f"{name}.json"
        record = json.loads(path.read_text())
        record["files"] |= {"../precious.png": digest, str(precious): digest}
        path.write_text(json.dumps(record))
    assert batch(options) == (0, 3)  # files that are not there
    made = options.output_dir / f"{UNFINISHED}a"
    made.mkdir()
    (made / "precious.png").write_bytes(b"other")
    (made / JOURNAL).write_text(json.dumps(record | {"name": "a"}))
    assert batch(options, seed=1, overwrite=True) == (0, 3)
    assert precious.read_bytes() == b"precious"


def test_the_input_on_record_is_the_same_however_its_folder_is_typed(options, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for folder in (tmp_path / "in" / ".." / "in", tmp_path / "link"):
        assert batch(dataclasses.replace(options, input_dir=((folder,),)), overwrite=True, resume=False)[0] == 0
        assert read_record(options.output_dir / "a.json").input == str(tmp_path / "in" / "a.png")


def test_an_earlier_result_has_what_the_first_had(options):
    results = []

    def repeated(lr, kernel, scale_factor, sigma, *, on_step=None):
        return lr.repeat_interleave(scale_factor, 2).repeat_interleave(scale_factor, 3)

    for _ in range(2):
        options.output_dir.mkdir(exist_ok=True)
        records = Records(options.output_dir, {}, {})
        job = Job(Quick(), 2, torch.device("cpu"), repeated)
        done = process(input_items(options.paths), job, options.output_dir, progress=no_bar, records=records)
        results.append(list(done))
    first, second = results
    assert all(result.sr_seconds > 0 and result.losses for result in first)
    assert second == [dataclasses.replace(result, earlier=True) for result in first]
    item = first[0].item
    record = read_record(options.output_dir / f"{item.name}.json")
    del record.result["relative_change"]  # of a version that did not know it
    assert from_record(item, record) == second[0]


@pytest.mark.parametrize(
    "result", [{}, {"seconds": None}, {"ssim": 0.9}, {"psnr": "high"}, {"notes": 3}, {"losses": [1]}]
)
def test_a_record_of_nonsense_is_not_shown(options, result):
    batch(options)
    for path in options.output_dir.glob("*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"result": record["result"] | result if result else {}}))
    assert batch(options) == (0, 3)


def test_a_record_is_no_link(options, tmp_path):
    batch(options)
    record = options.output_dir / "a.json"
    record.rename(tmp_path / "elsewhere")
    record.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"a\.png: no record"):
        batch(options)


def test_two_runs_in_one_folder_share_the_work(options):
    items = [Item(f"p{i}", path) for i, path in enumerate([options.paths[0] / "a.png"] * 20)]
    options.output_dir.mkdir()
    both_at_work, done = threading.Barrier(2), {}

    def slow(calls):
        if calls == 1:
            both_at_work.wait(10)

    def work(number):
        estimator = Quick(slow)
        records = Records(options.output_dir, {}, {})
        job = Job(estimator, 2, torch.device("cpu"))
        results = list(process(items, job, options.output_dir, progress=no_bar, records=records))
        assert not any(result.error for result in results), results
        done[number] = estimator.calls

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done.values()) == 20
    assert min(done.values()) > 0
    assert {record.name for record in read_records(options.output_dir)} == {item.name for item in items}


def test_a_picture_that_another_process_works_on_is_left_to_it(options, capsys):
    options.output_dir.mkdir()
    with Records(options.output_dir, {}, {}).claim(Item("b", options.paths[0] / "b.png")) as made:
        (made / "b.png").write_bytes(b"half")
        assert batch(options) == (0, 2)
        assert "1 of 3 pictures were left to another process" in capsys.readouterr().out
        assert (made / "b.png").exists()
    assert batch(options) == (0, 1)
    assert not [path for path in options.output_dir.iterdir() if path.name.startswith(".")]


def test_the_summary_has_a_line_a_picture(options):
    def fail(calls):
        if calls == 2:
            raise ValueError("bad luck, with a comma")

    batch(options, Quick(fail))
    with (options.output_dir / SUMMARY).open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["state"]) for row in rows] == [("a", "finished"), ("b", "failed"), ("c", "finished")]
    assert rows[1]["error"].endswith("bad luck, with a comma")
    assert rows[0]["seconds"] == "1.5"


def no_bar(item):
    return lambda *step: None


def test_without_records_results_are_just_written(options):
    options.output_dir.mkdir()
    items = input_items(options.paths)
    for _ in range(2):
        done = list(process(items, Job(Quick(), 2, torch.device("cpu")), options.output_dir, progress=no_bar))
        assert [result.error for result in done] == [None] * 3
    assert len(list(options.output_dir.iterdir())) == 9


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a\\b", "/a", ".a", "a\nb", "a\0b"])
def test_names_stay_in_their_folder(name):
    with pytest.raises(ValueError, match="rename"):
        Item(name, Path("a.png"))


def test_pictures_with_odd_names_are_done_under_plain_ones(options, tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in ("a\\..\\b.png", "new\nline.png", "é ü.png", ".hidden.png", "...png"):
        shutil.copy(tmp_path / "in" / "a.png", odd / name)
    names = [item.name for item in input_items((odd,))]
    assert sorted(names) == ["a_.._b", "new_line", "é ü"]
    assert input_items((odd / "...png",))[0].name.startswith("_.")
    assert batch(options, input_dir=((odd,),)) == (0, 3)
    assert batch(options, input_dir=((odd,),)) == (0, 0)
    shutil.copytree(odd, tmp_path / "D" / "DIPFKP_lr_x2")
    (tmp_path / "D" / "HR").mkdir()
    found = find_items(str(tmp_path / "D"), "DIPFKP", 2)
    assert [item.name for item in found] == sorted(names, key=lambda name: names.index(name))
    assert all(hash_inputs(item)["hr"] is None for item in found)
