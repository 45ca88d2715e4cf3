"""Records of measurements, and the tables made of them."""

import pytest
from commands import REPOSITORY, refused, typed


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def test_tables_are_those_of_the_records():
    import logbook
    import tables

    seen = []
    for page in tables.documents():
        text = page.read_text()
        seen += [match["name"] for match in tables.MARKED.finditer(text)]
        assert tables.filled(text, logbook.RESULTS) == text, f"{page}: run python benchmarks/tables.py"
        assert text.count("<!-- table ") == text.count("<!-- end -->")
    assert sorted(seen) == sorted(tables.TABLES)


def test_a_folder_without_records_empties_no_table(tmp_path, monkeypatch):
    import tables

    monkeypatch.setattr(tables, "documents", lambda: pytest.fail("a page was read"))
    monkeypatch.setattr("sys.argv", ["tables.py", "--results", str(tmp_path)])
    with pytest.raises(ValueError, match=f"--results {tmp_path}: holds no records"):
        tables.main()


def test_every_record_says_on_what_it_ran():
    import logbook

    files = [path for path in logbook.RESULTS.glob("*.jsonl") if not path.stem.startswith("gpu-")]
    assert files
    for path in files:
        for record in logbook.read(path):
            assert record.values, path
            assert record.run["device"], path
            assert not any(word.startswith("/") for word in record.run.get("command", "").split()), path
            assert {"commit", "command"} <= record.run.keys() or path.stem == "published", path


def test_a_run_on_record_is_not_repeated(tmp_path, monkeypatch):
    from contextlib import contextmanager

    import logbook

    processes = []

    @contextmanager
    def inline():
        processes.append(1)
        yield lambda function, *arguments: function(*arguments)

    monkeypatch.setattr(logbook, "own_process", inline)
    measured, path = [], tmp_path / "some.jsonl"

    def measure(what):
        measured.append(what)
        return {"psnr": float(what["seed"])}

    row = [{"picture": "a", "seed": seed} for seed in (1, 2)]
    assert [record.values["psnr"] for record in logbook.measured(path, [row], measure)] == [1, 2]
    row.append({"picture": "a", "seed": 3})
    assert [record.values["psnr"] for record in logbook.measured(path, [row], measure)] == [1, 2, 3]
    assert measured == row
    assert len(processes) == 2
    assert {"command", "commit", "device", "threads", "torch"} <= logbook.read(path)[0].run.keys()


def test_a_line_that_is_no_record_is_named(tmp_path):
    import logbook

    path = tmp_path / "some.jsonl"
    path.write_text('{"what": {}, "values": {}, "run": {}}\n{"what": 1}\n')
    with pytest.raises(ValueError, match="line 2: not a record"):
        logbook.read(path)


def test_other_settings_or_weights_have_another_fingerprint(tmp_path):
    from DIPFKP.estimator import preset
    from logbook import fingerprint

    weights = tmp_path / "weights"
    weights.write_bytes(b"a")
    first = fingerprint(preset("search"), weights)
    assert fingerprint(preset("search"), weights) == first
    assert fingerprint(preset("paper"), weights) != first
    weights.write_bytes(b"b")
    assert fingerprint(preset("search"), weights) != first


def test_a_row_is_of_one_setting_and_says_how_many_pictures():
    from logbook import Record
    from tables import pick, psnr_ssim

    def record(picture, psnr, fingerprint=None, **values):
        what = {"method": "search", "picture": picture, "fingerprint": fingerprint}
        return Record(what, {"psnr": psnr, **values}, {})

    transcribed = record(None, 30.0, pictures=3)
    old = [record("a", 10.0, "old"), record("b", 10.0, "old")]
    new = [record("a", 20.0, "new"), record("a", 21.0, "new"), record("b", 22.0, "new")]
    assert pick([transcribed, *old, *new]) == [transcribed]
    assert pick([*old, *new]) == new[1:]
    assert psnr_ssim(pick([*old, *new]), size=3) == "21.50 (2 of 3)"
    assert pick(old, method="paper") == []


def test_what_a_gpu_measured_is_in_the_tables(tmp_path):
    import json

    import logbook
    import tables

    shared = {"command": "", "commit": "", "device": "NVIDIA X", "torch": "", "quick": False}
    names = ("baby", "bird", "butterfly", "head", "woman")
    scores = {"sf": 2, "seed": 0, "psnr": 32.5, "ssim": 0.93, "kernel_psnr": 50.0, "seconds": 20.0}
    lines = [{"part": "paper", "what": "", "picture": name, **scores, **shared} for name in names]
    lines += [{"part": "paper", "what": "", "picture": "bird", **scores, **shared, "psnr": 1, "quick": True}]
    lines += [{"part": "checks", "what": "prior", "ok": True, **shared}]
    (tmp_path / "gpu-cuda.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for path in logbook.RESULTS.glob("*.jsonl"):
        if not path.stem.startswith("gpu-"):
            (tmp_path / path.name).write_text(path.read_text())
    (row,) = [line for line in tables.reproduction(tmp_path).splitlines() if "paper" in line]
    assert "| 32.50/0.9300 |" in row
    assert "NVIDIA X" in tables.dataset(tmp_path, "Set5")


def test_published_figures_stand_only_beside_their_data_set():
    import logbook
    import tables

    assert "published" in tables.dataset(logbook.RESULTS, "Set5")
    assert "published" not in tables.dataset(logbook.RESULTS, "MyPictures")


def test_what_is_missing_is_said_before_anything_is_measured(tmp_path):
    # The Test picture has no x8.
    options = ("--dataset", "Test", "--scales", 2, 8, "--methods", "bicubic", "--results", tmp_path / "results")
    refused(typed("benchmarks", *options, script="dataset.py"), "DIPFKP_lr_x8")
    options = ("--dataset", "Test", "--scales", 2, "--official", tmp_path, "--results", tmp_path / "results")
    refused(typed("benchmarks", *options, script="dataset.py"), "FKP_x2.pt", "nothing was measured")
    assert not (tmp_path / "results").exists()


def test_noisy_pictures_are_those_that_prepare_dataset_makes(tmp_path, picture):
    import numpy as np

    import dataset
    from blindsr.batch.inputs import find_items
    from blindsr.degradation import degrade
    from blindsr.images import read_image, to_uint8, write_image
    from blindsr.kernel_files import read_kernel

    (tmp_path / "set" / "HR").mkdir(parents=True)
    for name in "abc":
        write_image(tmp_path / "set" / "HR" / f"{name}.png", to_uint8(0.25 + 0.5 * picture))
    levels = ("--noise-im", 0.1, "--noise-ker", 0.4)
    assert typed("data", "--sf", 2, "-d", tmp_path / "set", *levels, script="prepare_dataset.py").returncode == 0
    options = dataset.Options(dataset=(str(tmp_path / "set"),), scales=(2,), noise_im=0.1, noise_ker=0.4, pictures=2)
    (tmp_path / "scratch").mkdir()
    (made,) = dataset.check(options, tmp_path / "scratch").values()
    assert list(made) == ["a", "b"]
    prepared = {item.name: item for item in find_items(str(tmp_path / "set"), "DIPFKP", 2)}
    for name, (item, sigma) in made.items():
        lr, kernel = read_image(item.lr), read_kernel(item.kernel)
        assert np.array_equal(lr, read_image(prepared[name].lr))
        assert np.array_equal(kernel, read_kernel(prepared[name].kernel))
        clean = degrade(read_image(item.hr), kernel.float(), 2)
        assert float((lr - clean).std()) == pytest.approx(sigma, rel=0.1)


def test_noise_has_records_of_its_own(tmp_path, monkeypatch):
    from contextlib import nullcontext

    import logbook

    monkeypatch.setattr(logbook, "own_process", lambda: nullcontext(lambda function, *given: function(*given)))
    results = tmp_path / "results"
    options = ("--dataset", "Test", "--scales", 2, "--methods", "bicubic", "--pictures", 1, "--results", results)
    process = typed("benchmarks", *options, "--noise-im", 0.039, script="dataset.py")
    assert "| Test | x2 | 0.039 | 0 | bicubic | none | 29" in process.stdout
    assert [path.name for path in results.iterdir()] == ["noise.jsonl"]
