"""blindsr photo.jpg: the command for photographs, outside a checkout as well."""

import json
import re

import cv2
import numpy as np
import pytest
from commands import REPOSITORY, refused, typed

FAST = ["--preset", "prediction", "--device", "cpu"]


@pytest.fixture
def photo(tmp_path, picture):
    pixels = (255 * picture[0].permute(1, 2, 0).numpy()).astype(np.uint8)[:48, :64]
    cv2.imwrite(str(tmp_path / "my photo.png"), pixels)
    return tmp_path / "my photo.png"


def blindsr(*arguments, cwd):
    return typed("blindsr", *arguments, cwd=cwd, script="__main__.py")


def test_it_does_what_the_estimators_command_does(photo, tmp_path):
    done = blindsr(photo.name, "--sf", 2, "-o", "one", *FAST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = typed("DIPFKP", "--SR", "--sf", 2, "-i", photo, "-o", tmp_path / "two", *FAST)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "my photo.json").read_text()) for name in ("one", "two"))
    assert one["files"] == two["files"]
    # Each can go on where the other broke off.
    assert one["settings"] == two["settings"]


def test_outside_a_checkout_results_go_below_the_current_folder(photo, tmp_path, monkeypatch):
    monkeypatch.setattr("blindsr.batch.command.data_folder", type(tmp_path).cwd)
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    done = blindsr(photo.name, "--open", *FAST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "log_DIPFKP" / "my photo_DIPFKP_lr_x2" / "index.html"
    assert page.is_file()
    assert opened == [page.as_uri()]
    assert f"no browser can be started here; the page is {page}\n" in done.stdout  # the stand-in opened none


def test_without_a_picture_it_says_how(tmp_path):
    refused(blindsr(cwd=tmp_path), "blindsr photo.jpg")
    refused(blindsr("missing.jpg", cwd=tmp_path), "missing.jpg")


def test_the_help_calls_it_by_its_name(tmp_path):
    done = blindsr("-h", cwd=tmp_path)
    assert done.returncode == 0
    assert "usage: blindsr " in done.stdout
    assert "0 to 50" in " ".join(done.stdout.split())


def test_noise_that_was_told_is_no_doubt(photo, tmp_path):
    done = blindsr(photo.name, "-o", "out", "--sigma", 20, *FAST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "noise: 20" not in done.stdout
    assert json.loads((tmp_path / "out" / "my photo.json").read_text())["result"]["sigma"] == 20


def test_the_script_is_declared():
    assert re.search(r'^blindsr = "blindsr.__main__:script"$', (REPOSITORY / "pyproject.toml").read_text(), re.M)
