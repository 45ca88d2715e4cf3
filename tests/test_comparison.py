"""Several folders of results of the same pictures on one page."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from test_report import HOSTILE, Page, estimator, folder  # noqa: F401

from blindsr.batch.command import Method, run_batch
from blindsr.batch.comparison import write_comparison
from blindsr.batch.options import BatchOptions, RunOptions
from blindsr.batch.report import main
from blindsr.kernel_files import write_kernel

LUMA = np.array([65.481, 128.553, 24.966]) / 255
"""Of ITU-R BT.601 in the studio range, as MATLAB's rgb2ycbcr."""


@pytest.fixture
def folders(folder, tmp_path):  # noqa: F811
    """The folder of results, and one of plain pictures: "plain" differs by 10 grey levels, the hostile one by 2."""
    other = tmp_path / "other tool"
    other.mkdir()
    for name, difference in (("plain", 10), (HOSTILE, 2)):
        sr = cv2.imread(str(folder / f"{name}.png")).astype(int)
        cv2.imwrite(str(other / f"{name}.png"), np.where(sr < 128, sr + difference, sr - difference))
    cv2.imwrite(str(other / "alone.png"), np.zeros((9, 9, 3)))
    return [folder, other]


def with_scores(folder, psnr):  # noqa: F811
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        if record["state"] == "finished":
            record["result"] |= {"psnr": psnr[record["name"]], "ssim": 0.9}
            path.write_text(json.dumps(record))


def test_what_differs_most_comes_first_beside_its_input(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["report", *map(str, folders), "-o", str(tmp_path / "compare")])
    assert main() == 0
    path = tmp_path / "compare" / "index.html"
    assert capsys.readouterr().out.strip() == str(path)
    page = Page(path)
    assert not page.handlers
    near = [address for address in page.addresses if address]
    assert near[:2] == ["../in/plain.png"] * 2
    assert set(near[2:6]) == {"../out/plain.png", "../other%20tool/plain.png"}
    assert "%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E.png" in near[-1]
    assert re.findall(r"differs by (\S+) of 255", page.text) == ["10.00", "2.00"]
    assert "1 in one alone left out" in page.text


def test_scores_are_compared_in_pairs(folders, tmp_path):
    first = folders[0]
    second = tmp_path / "second"
    second.mkdir()
    for path in first.glob("*.*"):
        (second / path.name).write_bytes(path.read_bytes())
    with_scores(first, {"plain": 30.0, HOSTILE: 20.0})
    with_scores(second, {"plain": 30.5, HOSTILE: 21.5})
    text = Page(write_comparison([first, second], tmp_path / "compare")).text
    assert "26.00 dB, +1.00 ± 0.50, better in 2 of 2" in text
    assert "PSNR 30.50 dB (+0.50)" in text


def test_another_programs_pictures_are_scored_where_the_truth_is_known(tmp_path, picture):
    hr = np.rint(255 * picture[0].permute(1, 2, 0).numpy()).astype(np.uint8)
    data = tmp_path / "data"
    for name in ("HR", "DIPFKP_lr_x4", "DIPFKP_gt_k_x4", "other"):
        (data / name).mkdir(parents=True)
    Image.fromarray(hr).save(data / "HR" / "a.png")
    Image.fromarray(hr[::4, ::4]).save(data / "DIPFKP_lr_x4" / "a.png")
    write_kernel(data / "DIPFKP_gt_k_x4" / "a.mat", torch.full((1, 1, 3, 3), 1 / 9))
    other = np.clip(hr.astype(int) + np.random.default_rng(0).integers(-9, 9, hr.shape), 0, 255).astype(np.uint8)
    Image.fromarray(other).save(data / "other" / "a.png")
    options = BatchOptions(dataset=str(data), output_dir=tmp_path / "out", sf=4, run=RunOptions(device="cpu"))
    assert run_batch(options, Method("DIPFKP", "DIPFKP", estimator)) == 0

    inner = (slice(4, -4), slice(4, -4))
    y = [np.asarray(Image.fromarray(image).convert("RGB"), float)[inner] @ LUMA for image in (hr, other)]
    psnr = 10 * np.log10(255**2 / np.mean((y[0] - y[1]) ** 2))
    text = Page(write_comparison([tmp_path / "out", data / "other"], tmp_path / "compare")).text
    found = re.findall(r"PSNR (\d+\.\d\d) dB \(", text)
    assert [float(value) for value in found] == pytest.approx([psnr], abs=0.01)

    Image.fromarray(hr[::-1]).save(data / "HR" / "a.png")  # another truth by now
    text = Page(write_comparison([tmp_path / "out", data / "other"], tmp_path / "compare")).text
    assert not re.findall(r"PSNR (\d+\.\d\d) dB \(", text)


def test_what_cannot_be_compared_is_one_line(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "index.html").write_text("precious")
    (tmp_path / "strange").mkdir()
    cv2.imwrite(str(tmp_path / "strange" / "strange.png"), np.zeros((9, 9, 3)))
    for given, output, told in (
        (folders[:1], "compare", "two folders"),
        ([folders[0], folders[0]], "compare", "twice"),
        ([folders[0], tmp_path / "strange"], "compare", "same name"),
        (folders, "out", "another folder"),
        (folders, "foreign", "not ours"),
    ):
        with pytest.raises(ValueError, match=told):
            write_comparison(given, tmp_path / output)
    with pytest.raises(FileNotFoundError):
        write_comparison([folders[0], tmp_path / "empty"], tmp_path / "compare")
    assert (tmp_path / "foreign" / "index.html").read_text() == "precious"


def test_sizes_and_inputs_that_differ_are_told(folders, tmp_path):
    cv2.imwrite(str(folders[1] / "plain.png"), np.zeros((9, 9, 3)))
    text = Page(write_comparison(folders, tmp_path / "compare")).text
    assert "the sizes differ" in text
    assert text.count("differs by") == 1
