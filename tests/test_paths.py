"""Where things lie in a checkout, and where the package is installed without one."""

from pathlib import Path

from blindsr import paths


def test_in_a_checkout_everything_lies_there():
    root = Path(__file__).resolve().parent.parent
    assert paths.data_folder() == root / "data"
    assert paths.runs_folder() == root / "runs"
    assert paths.pretrained_path("FKP_x2.pt").is_file()
    assert (paths.shipped_dataset("Test") / "HR").is_dir()


def test_nothing_is_written_into_an_installed_package(monkeypatch, tmp_path):
    package = tmp_path / "site-packages" / "blindsr"
    monkeypatch.setattr(paths, "_PACKAGE", package)
    monkeypatch.setattr(paths, "_CHECKOUT", package.parent)
    monkeypatch.chdir(tmp_path)
    assert paths.data_folder() == tmp_path
    assert paths.runs_folder() == tmp_path / "runs"
    assert paths.pretrained_path("FKP_x2.pt") == package / "pretrained_models" / "FKP_x2.pt"
    assert paths.shipped_dataset("Test") == package / "datasets" / "Test"
