"""Batches that are resumed, refused, interrupted and recorded, with an estimator that takes no time."""

import dataclasses
import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from blindsr.batch.cli import EstimatorOptions, run_estimator
from blindsr.batch.inputs import Item, find_items, input_items
from blindsr.batch.records import RECORDS, UNFINISHED, Record, Records, hash_inputs, read_records
from blindsr.batch.run import CURVE, process
from blindsr.estimation import Estimate


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
        return Estimate(kernel, image, [0.5], 1.5, seed, critic_losses, expected_error=0.5, notes=("a note",))


@pytest.fixture(autouse=True)
def figures_take_no_time(monkeypatch):
    def draw(path, *arguments):
        path.write_bytes(b"drawn")

    monkeypatch.setattr("blindsr.batch.run.save_kernel_comparison", draw)
    monkeypatch.setattr("blindsr.batch.run.save_search", draw)


@pytest.fixture
def options(tmp_path):
    """Options for a folder of three pictures, a.png, b.png and c.png."""
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 9, 3))
    for name, picture in zip("abc", pixels, strict=True):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), picture.astype(np.uint8))
    return Options(input_dir=(tmp_path / "in",), output_dir=tmp_path / "out", device="cpu")


@dataclasses.dataclass(frozen=True)
class Options(EstimatorOptions):
    path_KP: Path | None = None

    def files(self):
        return {} if self.path_KP is None else {"path_KP": self.path_KP}


def batch(options, estimator=None, **changes):
    """Run; returns the exit status and how often the estimator was called."""
    estimator = estimator or Quick()
    options = dataclasses.replace(options, **changes)
    return run_estimator(options, "DIPFKP", "DIPFKP", estimator, None), estimator.calls


def contents(folder):
    """Path → content of everything in a folder, as far down as it goes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def states(options):
    """The states on record, picture by picture."""
    records = read_records(options.output_dir / RECORDS)
    return {name: [record.state for record in found] for name, found in records.items()}


def test_a_record_says_what_was_done_with_what(options, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"weights")
    assert batch(options, path_KP=tmp_path / "w.pt", seed=7)[0] == 0
    line = json.loads((options.output_dir / RECORDS).read_text().splitlines()[-1])
    digest = hashlib.sha256((tmp_path / "in" / "c.png").read_bytes()).hexdigest()
    assert (line["state"], line["name"], line["input"]) == ("finished", "c", str(tmp_path / "in" / "c.png"))
    assert line["inputs"] == {"lr": digest}
    assert line["settings"]["seed"] == 7
    assert line["settings"]["path_KP"] == hashlib.sha256(b"weights").hexdigest()
    assert line["run"]["files"] == {"path_KP": "w.pt"}
    assert line["run"]["versions"]["torch"] == torch.__version__
    assert line["result"]["seconds"] == 1.5
    assert line["result"]["notes"] == ["uncertain: too little of the blur shows (its variances ± 50%)", "a note"]
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
    with pytest.raises(ValueError, match=r"out/a\.png: .* other settings \(seed 0, now 1\).*-o.*--overwrite"):
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
    with pytest.raises(ValueError, match="path_KP"):
        batch(options, path_KP=tmp_path / "two.pt")


def test_another_picture_of_the_same_name_is_refused(options, tmp_path):
    batch(options)
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: the result of another input.*-o.*--overwrite"):
        batch(options)
    assert batch(options, overwrite=True) == (0, 1)


@pytest.mark.parametrize("ending", [".png", ".mat", "_kernel.png", "_search.png"])
def test_files_that_nobody_accounts_for_are_refused(options, ending):
    options.output_dir.mkdir()
    strange = options.output_dir / f"c{ending}"
    strange.write_bytes(b"precious")
    with pytest.raises(ValueError, match=rf"c{ending}: no record .*-o.*--overwrite"):
        batch(options)
    assert [*contents(options.output_dir)] == [strange]
    strange.unlink()
    strange.symlink_to(options.input_dir[0] / "a.png")
    with pytest.raises(ValueError, match="no record"):
        batch(options)


def test_a_file_that_appears_during_the_run_is_left_alone(options):
    def appear(calls):
        if calls == 2:
            (options.output_dir / "b.mat").write_bytes(b"precious")

    assert batch(options, Quick(appear)) == (2, 3)
    assert (options.output_dir / "b.mat").read_bytes() == b"precious"
    assert not (options.output_dir / "b.png").exists()
    assert states(options)["b"] == ["failed"]


def test_replaced_results_leave_no_old_ones_behind(options):
    batch(options, verbose=True)
    assert (options.output_dir / "a_search.png").exists()
    (options.output_dir / "b_search.png").write_bytes(b"precious")
    batch(options, seed=1, overwrite=True)
    assert not (options.output_dir / "a_search.png").exists()
    assert (options.output_dir / "b_search.png").read_bytes() == b"precious"


def test_verbose_does_again_what_was_not_drawn(options):
    batch(options)
    assert batch(options, verbose=True) == (0, 3)
    assert batch(options) == (0, 0)


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
    assert states(options)["b"] == ["failed"]
    assert batch(options) == (0, 1)
    assert states(options)["b"] == ["failed", "started", "finished"]


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


def test_a_torn_line_is_mended(options):
    batch(options)
    path = options.output_dir / RECORDS
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in (1, 2, len(last) // 2, len(last) - 1):
        path.write_bytes(whole[:-cut])
        # Without its newline a record is still one; without more its picture is done again.
        assert batch(options) == (0, 0 if cut == 1 else 1)
        assert batch(options) == (0, 0)
    path.write_bytes(whole[:-1])
    (options.output_dir / "a.png").unlink()
    assert batch(options) == (0, 1)
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_full_disk_fails_one_picture_and_is_resumed(options, monkeypatch):
    write, left = os.write, [3]

    def full(descriptor, line):
        left[0] -= 1
        return write(descriptor, line[:50] if left[0] == 0 else line)

    monkeypatch.setattr("blindsr.batch.records.os.write", full)
    assert batch(options) == (2, 3)
    monkeypatch.undo()
    assert (options.output_dir / RECORDS).read_bytes().count(b"finished") == 2
    assert batch(options)[0] == 0
    assert len([found for found in states(options).values() if found[-1] == "finished"]) == 3


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
def test_lines_that_are_no_records_are_passed_over(options, line):
    options.output_dir.mkdir()
    (options.output_dir / RECORDS).write_bytes(line)
    assert batch(options) == (0, 3)
    assert batch(options) == (0, 0)


def test_crafted_records_reach_no_file_outside(options, tmp_path):
    batch(options)
    precious = tmp_path / "precious.png"
    precious.write_bytes(b"precious")
    digest = hashlib.sha256(b"precious").hexdigest()
    path = options.output_dir / RECORDS
    honest = [json.loads(line) for line in path.read_text().splitlines()]
    with path.open("a") as file:
        for record in honest:
            for name in (record["name"], "../precious", str(tmp_path / "precious")):
                outside = {"../precious.png": digest, str(precious): digest, "results.jsonl": digest}
                crafted = {**record, "name": name, "files": outside}
                file.write(json.dumps(crafted) + "\n")
                file.write(json.dumps({**crafted, "files": {}}) + "\n")
                file.write(json.dumps({**crafted, "result": {"psnr": [], "notes": 3}}) + "\n")
    for name in ("a.mat", "b.mat"):
        (options.output_dir / name).unlink()
    assert batch(options) == (0, 2)
    assert batch(options, seed=1, overwrite=True) == (0, 3)
    assert precious.read_bytes() == b"precious"
    assert path.exists()


def test_an_earlier_result_has_what_the_first_had(options):
    results = []

    def repeated(lr, kernel, scale_factor, sigma, *, on_step=None):
        return lr.repeat_interleave(scale_factor, 2).repeat_interleave(scale_factor, 3)

    for _ in range(2):
        options.output_dir.mkdir(exist_ok=True)
        with Records(options.output_dir, {}, {}) as entered:
            results.append(
                list(
                    process(
                        input_items(options.input_dir),
                        Quick(),
                        2,
                        options.output_dir,
                        device=torch.device("cpu"),
                        seed=0,
                        nonblind=repeated,
                        progress=lambda item: lambda *step: None,
                        records=entered,
                    )
                )
            )
    first, second = results
    assert all(result.sr_seconds > 0 and result.losses for result in first)
    assert second == [dataclasses.replace(result, earlier=True) for result in first]


@pytest.mark.parametrize(
    "result", [{}, {"seconds": None}, {"ssim": 0.9}, {"psnr": "high"}, {"notes": 3}, {"losses": [1]}]
)
def test_a_record_of_nonsense_is_not_shown(options, result):
    batch(options)
    path = options.output_dir / RECORDS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [{**line, "result": {**line["result"], **result} if result else {}} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in changed))
    assert batch(options) == (0, 3)


def test_the_file_of_records_is_no_link(options, tmp_path):
    options.output_dir.mkdir()
    (tmp_path / "elsewhere").write_bytes(b"")
    (options.output_dir / RECORDS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=RECORDS):
        batch(options)
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_what_was_left_unfinished_goes_unless_somebody_works_there(options, tmp_path):
    left = options.output_dir / f"{UNFINISHED}x"
    options.output_dir.mkdir()
    with Records(options.output_dir, {}, {}):
        left.mkdir()
        (left / "a.png").write_bytes(b"half")
        (left / "link").symlink_to(tmp_path / "in")
        assert batch(options) == (0, 3)
        assert left.exists()
    assert batch(options) == (0, 0)
    assert not left.exists()
    assert (tmp_path / "in" / "a.png").exists()


def test_two_runs_in_one_folder_do_not_mix_their_lines(options):
    items = [Item(f"p{i}", path) for i, path in enumerate([options.input_dir[0] / "a.png"] * 20)]
    options.output_dir.mkdir()

    def work():
        with Records(options.output_dir, {"text": "x" * 5000}, {}) as records:
            cpu = torch.device("cpu")
            for result in process(
                items, Quick(), 2, options.output_dir, device=cpu, seed=0, progress=no_bar, records=records
            ):
                assert result.error is None, result.error

    failures = []
    hook, threading.excepthook = threading.excepthook, failures.append
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    threading.excepthook = hook
    assert not failures
    lines = (options.output_dir / RECORDS).read_bytes().splitlines()
    assert all(Record(**json.loads(line)).state in ("started", "finished") for line in lines)
    assert {json.loads(line)["name"] for line in lines} == {item.name for item in items}


def no_bar(item):
    return lambda *step: None


def test_without_records_results_are_just_written(options):
    options.output_dir.mkdir()
    items = input_items(options.input_dir)
    for _ in range(2):
        done = list(
            process(
                items,
                Quick(),
                2,
                options.output_dir,
                device=torch.device("cpu"),
                seed=0,
                progress=no_bar,
                records=None,
            )
        )
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
    assert batch(options, input_dir=(odd,)) == (0, 3)
    assert batch(options, input_dir=(odd,)) == (0, 0)
    shutil.copytree(odd, tmp_path / "D" / "DIPFKP_lr_x2")
    (tmp_path / "D" / "HR").mkdir()
    found = find_items(str(tmp_path / "D"), "DIPFKP", 2)
    assert [item.name for item in found] == sorted(names, key=lambda name: names.index(name))
    assert all(hash_inputs(item)["hr"] is None for item in found)
