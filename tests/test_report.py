"""The page of a folder's results."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import cv2
import matplotlib
import numpy as np
import pytest
import torch

from blindsr.batch.command import Method, run_batch
from blindsr.batch.options import BatchOptions, RunOptions
from blindsr.batch.previews import Window, enlarge, textured_window
from blindsr.batch.report import main, write_report
from blindsr.estimation import Estimate, Limits
from blindsr.kernel_shape import kernel_png, kernel_shape, save_kernel_comparison
from blindsr.kernels import gaussian_kernels

LIMITS = Limits(uncertain=0.45, wide=0.85)
HOSTILE = "<img src=x onerror=alert(1)>"


def estimator(lr, scale_factor, *, seed, on_step=None):
    if lr.shape[3] > 200:
        raise ValueError(f"bad luck {HOSTILE}")
    lambdas = torch.tensor([9.0, 1.0])[:, None]
    kernel = gaussian_kernels(*lambdas, torch.tensor([0.5]), 21, 4)
    image = lr.repeat_interleave(scale_factor, 2).repeat_interleave(scale_factor, 3)
    return Estimate(kernel, image, [0.5], 1.5, seed, expected_error=0.5, limits=LIMITS, notes=(f"a note {HOSTILE}",))


@pytest.fixture
def folder(tmp_path):
    """A folder of results: two pictures, one of them of a hostile name, and one that failed."""
    (tmp_path / "in").mkdir()
    for name, width in ((HOSTILE, 90), ("plain", 96), ("failed", 240)):
        pixels = np.random.default_rng(width).integers(0, 255, (72, width, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), pixels)
    options = BatchOptions(
        input_dir=((tmp_path / "in",),), output_dir=tmp_path / "out", sf=4, run=RunOptions(device="cpu")
    )
    assert run_batch(options, Method("DIPFKP", "DIPFKP", estimator)) == 2
    return tmp_path / "out"


class Page(HTMLParser):
    """What a page refers to, its scripts and its text."""

    def __init__(self, path):
        super().__init__()
        self.addresses, self.handlers, self.text = [], [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def test_all_that_the_page_names_is_there_and_near(folder):
    page = Page(folder / "index.html")
    near = [address for address in page.addresses if not address.startswith("data:image/png;base64,")]
    assert not [address for address in near if ":" in address or address.startswith("/")]
    for address in near:
        assert (folder / unquote(address)).is_file(), address
    assert {f"{HOSTILE}.png", "plain.png", "plain.mat", "plain.json", "results.csv"} <= set(map(unquote, near))
    assert len([address for address in near if address.endswith("-before.webp")]) == 2


def test_names_and_messages_are_escaped(folder):
    page = Page(folder / "index.html")
    assert not page.handlers
    for shown in (HOSTILE, f"bad luck {HOSTILE}", f"a note {HOSTILE}"):
        assert shown in page.text


def test_the_policy_lets_the_own_script_run_and_no_other(folder):
    html = (folder / "index.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}" in html or f"script-src 'sha256-{digest}'" in html
    assert "default-src 'none'" in html


def test_the_page_says_what_is_known(folder):
    text = " ".join(Page(folder / "index.html").text.split())
    for shown in (
        "2 finished, 1 failed, 2 with doubts",
        r"2\.\d+ × 1\.0\d ± 0\.7\d px at 1\d\d°",
        "--sf 4",
        "DIPFKP",
    ):
        assert re.search(shown, text), text
    assert "take a part with edges" in text  # the remedy


def test_the_same_records_make_the_same_page_without_any_picture(folder, monkeypatch):
    before = (folder / "index.html").read_bytes()
    monkeypatch.setattr("blindsr.batch.previews.read_pixels", None)
    monkeypatch.setattr("sys.argv", ["report", str(folder)])
    assert main() == 0
    assert (folder / "index.html").read_bytes() == before


def test_previews_of_replaced_results_do_not_stay(folder):
    (folder / "report" / "mine.webp").touch()
    before = set((folder / "report").iterdir())
    options = BatchOptions(
        input_dir=((folder.parent / "in",),),
        output_dir=folder,
        sf=3,
        run=RunOptions(device="cpu", overwrite=True),
    )
    assert run_batch(options, Method("DIPFKP", "DIPFKP", estimator)) == 2
    after = set((folder / "report").iterdir())
    assert before & after == {folder / "report" / "mine.webp"}
    shown = {unquote(address) for address in Page(folder / "index.html").addresses if address.startswith("report/")}
    assert shown == {f"report/{path.name}" for path in after - before}
    assert len(shown) == 6


def test_what_is_gone_or_changed_is_left_out(folder):
    shutil.rmtree(folder / "report")
    (folder / "plain.png").write_bytes(b"no picture")
    (folder / "plain.mat").write_bytes(b"no kernel")
    shutil.rmtree(folder.parent / "in")
    write_report(folder)
    page = Page(folder / "index.html")
    assert len([address for address in page.addresses if address.endswith("-after.webp")]) == 1
    assert not [address for address in page.addresses if address.endswith("-before.webp")]
    assert "no preview" in page.text


@pytest.mark.parametrize(
    "nonsense",
    [
        {"result": {"psnr": "high", "notes": 3, "losses": 1}, "run": {"versions": 1, "given": []}},
        {"result": {"psnr": float("inf"), "ssim": True}, "settings": {"sf": "4"}},
        {"name": "../in/plain", "files": {"../in/plain.png": "0", "../in/plain.mat": "0"}},
        {"name": "\ud800", "inputs": {"lr": None}, "input": "/dev/zero"},
        {"settings": {"sf": 4}, "files": {}, "inputs": {}},
    ],
)
def test_records_of_nonsense_break_nothing(folder, nonsense):
    record = json.loads((folder / "plain.json").read_text())
    (folder / "plain.json").write_text(json.dumps(record | nonsense))
    write_report(folder)
    page = Page(folder / "index.html")
    assert HOSTILE in page.text
    assert not [address for address in page.addresses if "../" in unquote(address) and not address.endswith(".json")]


@pytest.mark.parametrize("aligned", [True, False])
def test_the_enlarged_input_lies_over_the_result(aligned):
    """LR pixel i sees the HR point s·i + (s − 1)/2, or as published s·i − (s − 1)/2."""
    ramp = np.tile(np.arange(0, 120, 3, dtype=np.uint8)[None, :, None], (30, 1, 3))  # 3 i
    shown = enlarge(ramp, Window(5, 8, 10, 20), 3, aligned)
    assert shown.shape == (30, 60, 3)
    x = np.arange(24, 84)
    expected = x - 1 if aligned else x + 1
    np.testing.assert_allclose(shown[3, :, 0], expected, atol=1)


def test_the_window_is_where_the_texture_is():
    lr = np.zeros((50, 60, 3), np.uint8)
    lr[30:40:2, 41:50] = 255
    window = textured_window(lr, 12, 12)
    assert window.cut(lr).sum() == lr.sum()
    assert window.cut(lr).shape == (12, 12, 3)
    assert textured_window(lr, 99, 99) == Window(0, 0, 50, 60)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_the_shape_of_a_gaussian(degrees):
    theta = torch.tensor([np.pi - np.pi * degrees / 180])  # rows count downwards
    kernel = gaussian_kernels(torch.tensor([6.0]), torch.tensor([1.5]), theta.float(), 21, 4)
    shape = kernel_shape(kernel)
    assert shape.wide == pytest.approx(6**0.5, abs=0.03)
    assert shape.narrow == pytest.approx(1.5**0.5, abs=0.03)
    assert min(abs(shape.angle - degrees), 180 - abs(shape.angle - degrees)) < 1
    pixels = cv2.imdecode(np.frombuffer(kernel_png(kernel), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.shape == (21, 21)
    assert pixels.max() == 255


def test_kernels_are_drawn_in_matplotlibs_colours_on_one_scale(tmp_path):
    true, estimated = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    save_kernel_comparison(tmp_path / "kernels.png", {"true": true, "estimated": estimated / 2})
    pixels = cv2.imread(str(tmp_path / "kernels.png"))[:, :, ::-1]
    for left, kernel in ((20, true), (280, estimated / 2)):
        colours = matplotlib.colormaps["viridis"](kernel[0, 0].numpy() / float(true.max()), bytes=True)[..., :3]
        drawn = pixels[40:280, left : left + 240][15::30, 15::30]  # the middles of the kernel's pixels
        np.testing.assert_allclose(drawn.astype(int), colours.astype(int), atol=3)


def test_a_round_kernel_has_no_direction():
    shape = kernel_shape(torch.full((1, 1, 5, 5), 1 / 25))
    assert shape.describe(0.2) == "1.41 ± 0.14 px, round"
    with pytest.raises(ValueError, match="no width"):
        kernel_shape(torch.zeros(1, 1, 5, 5))
