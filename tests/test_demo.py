"""The page for one photograph: what it does, and in a browser where Gradio and Chromium are there."""

import hashlib
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from commands import REPOSITORY, typed
from PIL import Image
from test_browser import NARROW, browser  # noqa: F401

from blindsr.demo import steps
from blindsr.demo.server import served
from blindsr.demo.steps import Choice, error_of, find_kernel, photograph, scaled, super_resolved, write_files
from blindsr.images import read_pixels, to_uint8
from blindsr.kernel_shape import kernel_shape
from blindsr.kernels import align, centre_of_mass, gaussian_kernels

FAST = ["--SR", "--preset", "prediction", "--device", "cpu", "--format", "png"]
KINDS = ("photo.jpg", "alpha.png", "inks.jpg", "deep.png", "poor.jpg")


@pytest.fixture(scope="module")
def photos(tmp_path_factory, picture):
    """Photographs of all kinds: the first, turned by a quarter, says what a camera writes; the deep one is grey."""
    folder = tmp_path_factory.mktemp("demo") / "photos"
    folder.mkdir()
    colours = Image.fromarray((255 * picture[0].permute(1, 2, 0).numpy()).astype(np.uint8)[:48, :64])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    colours.save(folder / "photo.jpg", exif=exif)
    clear = Image.fromarray(np.full((48, 64), 90, np.uint8))
    Image.merge("RGBA", (*colours.split(), clear)).save(folder / "alpha.png")
    colours.convert("CMYK").save(folder / "inks.jpg")
    Image.fromarray(np.asarray(colours.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    colours.save(folder / "poor.jpg", quality=20)
    return folder


@pytest.fixture(scope="module")
def results(photos):
    """What the command line makes of them."""
    done = typed("DIPFKP", *FAST, "-i", photos, "-o", photos.parent / "results")
    assert done.returncode == 0, done.stderr
    return photos.parent / "results"


def opened(path, scale_factor=2, last=None):
    picture = photograph(str(path), 2.0)
    return find_kernel(str(path), picture, scale_factor, last), picture


@pytest.mark.parametrize("name", KINDS)
def test_the_pixels_are_those_of_the_command_line(photos, results, tmp_path, name):
    session, picture = opened(photos / name)
    files, before = write_files(tmp_path, session, picture, super_resolved(session, picture, Choice()))
    stem = Path(name).stem
    with Image.open(files[0]) as made, Image.open(results / f"{stem}.png") as typed_one, Image.open(before) as large:
        np.testing.assert_array_equal(np.asarray(made), np.asarray(typed_one))
        assert made.mode == typed_one.mode
        assert large.size == made.size
    notes = json.loads((results / f"{stem}.json").read_text())["result"]["notes"]
    text = steps.described(session, picture, Choice())[1]
    assert all(note in text for note in notes)
    assert ("compression" in text) == (name == "poor.jpg")


def test_what_has_not_changed_is_not_looked_for_again(photos):
    session, picture = opened(photos / "photo.jpg")
    path = session.path
    assert find_kernel(path, picture, 2, session) is session
    assert find_kernel(path, picture, 3, session) is not session


@pytest.mark.parametrize("width", [0.5, 1.5, 2])
def test_the_widths_follow_the_slider_and_the_centre_stays(photos, width):
    session, _ = opened(photos / "photo.jpg")
    lambdas = torch.tensor([3.0])[:, None]
    kernel = align(gaussian_kernels(lambdas[0], lambdas[0] / 2, torch.tensor([0.7]), 11, 2), 2)
    made = scaled(replace(session.estimate, kernel=kernel), 2, width).kernel
    before, after = kernel_shape(kernel), kernel_shape(made)
    assert after.wide == pytest.approx(width * before.wide, rel=0.05)
    assert after.angle == pytest.approx(before.angle, abs=2)
    middles = [centre_of_mass(k) - (k.shape[-1] - 1) / 2 for k in (kernel, made)]
    np.testing.assert_allclose(middles[0], middles[1], atol=0.1)


def test_a_width_that_was_chosen_is_taken_whatever_was_doubted(photos):
    session, picture = opened(photos / "photo.jpg")
    moved = replace(session, estimate=replace(session.estimate, sigma=0.0, expected_error=0.9, spread=(1.5, 0.3)))
    assert "motion" in steps.described(moved, picture, Choice())[1]
    assert "motion" not in steps.described(moved, picture, Choice(width=1.5))[1]
    enlarged, sharper = (super_resolved(moved, picture, choice) for choice in (Choice(), Choice(width=1.5)))
    height, width = picture.image.shape[2:]
    pillow = Image.fromarray(to_uint8(picture.image)).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    assert np.abs(to_uint8(enlarged).astype(int) - np.asarray(pillow)).mean() < 1  # Pillow rounds in between
    assert np.abs(to_uint8(sharper).astype(int) - np.asarray(pillow)).mean() > 3


def test_downloads_keep_what_the_camera_wrote(photos, tmp_path):
    session, picture = opened(photos / "photo.jpg")
    (png, jpeg), _ = write_files(tmp_path, session, picture, super_resolved(session, picture, Choice(sigma=20.0)))
    with Image.open(png) as one, Image.open(jpeg) as other:
        assert one.size == other.size == (96, 128)
        assert (other.getexif().get(0x0112, 1), other.getexif()[0x010F]) == (1, "a camera")


def test_errors_are_the_command_lines_without_the_servers_folders(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "empty.png").touch()
    Image.new("RGB", (40, 30)).save(folder / "half.png")
    (folder / "half.png").write_bytes((folder / "half.png").read_bytes()[:-30])
    Image.new("RGB", (1, 1)).save(folder / "tiny.png")
    Image.new("F", (9, 9)).save(folder / "numbers.tif")
    paths = sorted(folder.iterdir())
    done = typed("DIPFKP", *FAST, "-i", folder, "-o", tmp_path / "out")
    for path in paths:
        with pytest.raises(ValueError) as caught:
            session, picture = opened(path)
            super_resolved(session, picture, Choice())
        line = error_of(str(path), caught.value)
        assert line.startswith(f"{path.name}: ")
        assert line.replace(path.name, str(path)) in done.stderr


def test_large_and_deleted_uploads_are_refused_before_they_are_read(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "read_picture", None)
    with pytest.raises(ValueError, match=r"64×48 pixels are more than 0\.003 megapixels"):
        photograph(str(photos / "photo.jpg"), 0.003)
    with pytest.raises(FileNotFoundError, match="drop it again"):
        photograph(str(tmp_path / "photo.jpg"), 2.0)


class Visitor:
    """Someone who talks to the server without a browser, with a session of their own."""

    def __init__(self, address, name):
        httpx = pytest.importorskip("httpx")
        self.client, self.name = httpx.Client(base_url=address, timeout=60), name
        calls = self.client.get("/config").json()["dependencies"]
        (self.number,) = [call["id"] for call in calls if call["api_name"] == "super_resolve"]

    def upload(self, path):
        sent = self.client.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
        return sent.json()[0]

    def fetch(self, path):
        return self.client.get(f"/gradio_api/file={quote(path)}")

    def super_resolve(self, path, **more):
        """What the server tells, and the paths in it."""
        file = {"path": path, "meta": {"_type": "gradio.FileData"}, **more}
        call = {"data": [file, 2, 1, True, 5, None], "fn_index": self.number, "session_hash": self.name}
        self.client.post("/gradio_api/queue/join", json=call).raise_for_status()
        told = self.client.get("/gradio_api/queue/data", params={"session_hash": self.name}).text
        return told, set(re.findall(r'"path": ?"([^"]+)"', told))


@pytest.mark.slow
def test_no_file_of_one_visitor_reaches_another_and_all_are_deleted(photos):
    pytest.importorskip("gradio", reason="no Gradio: pip install blindsr[demo]")
    with served(kept=20) as address:
        one, other = Visitor(address, "one"), Visitor(address, "other")
        path = one.upload(photos / "photo.jpg")
        cache = Path(path).parent.parent
        assert cache.stat().st_mode & 0o077 == 0  # nor does another user of the machine reach it
        told, paths = one.super_resolve(path)
        mine = {path, *paths}
        assert len(mine) == 5  # the upload, its kernel, before, PNG and JPEG, which is after too
        assert {one.fetch(path).status_code for path in mine} == {200}

        _, theirs = other.super_resolve(other.upload(photos / "poor.jpg"))
        assert len(theirs) >= 4
        assert not theirs & mine
        content = hashlib.sha256((photos / "photo.jpg").read_bytes()).hexdigest()
        guesses = [str(cache), str(cache.parent), "/", f"{cache}/photo.jpg", f"{cache}/{content}/photo.jpg"]
        guesses += ["/etc/passwd", "/proc/self/environ", str(REPOSITORY / "README.md"), str(photos / "photo.jpg")]
        guesses += [f"{cache}/../../etc/passwd", f"{address}config", f"file://{path}"]
        for guess in guesses:
            answer = other.fetch(guess)
            assert answer.status_code in (400, 403, 404), guess
            told, found = other.super_resolve(guess)
            assert '"success":false' in told.replace(" ", ""), guess
            assert not found, guess
        for closed in ("/monitoring", "/monitoring/summary", "/gradio_api/runs"):
            assert other.client.get(closed).status_code >= 400, closed

        until = time.monotonic() + 60
        while any(Path(path).exists() for path in mine) and time.monotonic() < until:
            time.sleep(0.2)
        assert {one.fetch(path).status_code for path in mine} == {403}
        assert [file.name for file in cache.rglob("*") if file.is_file() and "photo" in file.name] == []
        assert list(cache.rglob("chelsea.png"))  # the example stays
        told, _ = one.super_resolve(path)
        assert "photo.jpg: uploads are deleted after a while; drop it again" in told
    assert not cache.exists()


@pytest.mark.slow
def test_in_a_browser(browser, photos, results, tmp_path):  # noqa: F811
    pytest.importorskip("gradio", reason="no Gradio: pip install blindsr[demo]")
    hostile = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    hostile.write_bytes(b"no picture")
    with served() as address:
        browser.get(address)
        waited_for(browser, "return document.querySelector('input[type=file]')").send_keys(str(hostile))
        waited_for(browser, "return document.body.innerText.includes('.jpg: not a picture that can be read')")
        assert not browser.execute_script("return document.querySelectorAll('img[src=x]').length")
        browser.get(address)
        waited_for(browser, "return document.querySelector('input[type=file]')").send_keys(str(photos / "photo.jpg"))
        waited_for(browser, "return /blur \\d.* px/.test(document.body.innerText)")  # at once
        assert not browser.execute_script("return document.body.innerText.includes('photo_x2')")
        clicked = "[...document.querySelectorAll('button')].find(b => b.innerText === 'Super-resolve').click()"
        browser.execute_script(clicked)
        link = waited_for(browser, "return document.querySelector('a[href*=\"photo_x2.png\"]')?.href")
        fetched = "fetch(arguments[0]).then(r => r.arrayBuffer()).then(b => arguments[1]([...new Uint8Array(b)]))"
        (tmp_path / "fetched.png").write_bytes(bytes(browser.execute_async_script(fetched, link)))
        seen = waited_for(browser, "return [...document.images].filter(i => i.src.endsWith('.jpg')).length")
        assert seen == 2  # before and after
        metrics = {"width": NARROW[0], "height": NARROW[1], "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= NARROW[0]
    np.testing.assert_array_equal(read_pixels(tmp_path / "fetched.png"), read_pixels(results / "photo.png"))


def waited_for(browser, script):  # noqa: F811
    """What a script returns once that is something."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = browser.execute_script(script)
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came of {script}\n{browser.find_element('tag name', 'body').text}")
