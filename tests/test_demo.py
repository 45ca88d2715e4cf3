"""The page for one photograph: what it does, and in a browser where Gradio and Chromium are there."""

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from commands import typed
from PIL import Image
from test_browser import browser  # noqa: F401

from blindsr.demo import find_kernel, page, scaled, super_resolved, write_downloads
from blindsr.images import to_uint8
from blindsr.kernel_shape import kernel_shape
from blindsr.kernels import align, centre_of_mass, gaussian_kernels


@pytest.fixture(scope="module")
def photo(tmp_path_factory, picture):
    """A JPEG with what a camera writes into it, turned by a quarter."""
    path = tmp_path_factory.mktemp("demo") / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    Image.fromarray((255 * picture[0].permute(1, 2, 0).numpy()).astype(np.uint8)[:48, :64]).save(path, exif=exif)
    return path


@pytest.fixture(scope="module")
def typed_result(photo):
    """What the command line makes of it."""
    done = typed(
        "DIPFKP", "--SR", "--preset", "prediction", "-i", photo, "--format", "png", "-o", photo.parent / "out"
    )
    assert done.returncode == 0, done.stderr
    return cv2.imread(str(photo.parent / "out" / "photo.png"))


@pytest.fixture(scope="module")
def session(photo):
    return find_kernel(str(photo), 2, 2.0, None)


def test_the_pixels_are_those_of_the_command_line(session, typed_result):
    image = super_resolved(session, 1, None, None)
    np.testing.assert_array_equal(to_uint8(image)[:, :, ::-1], typed_result)


def test_what_has_not_changed_is_not_looked_for_again(session, photo):
    assert find_kernel(str(photo), 2, 2.0, session) is session
    assert find_kernel(str(photo), 3, 2.0, session) is not session


@pytest.mark.parametrize("width", [0.5, 1.5, 2])
def test_the_widths_follow_the_slider_and_the_centre_stays(session, width):
    lambdas = torch.tensor([3.0])[:, None]
    kernel = align(gaussian_kernels(lambdas[0], lambdas[0] / 2, torch.tensor([0.7]), 11, 2), 2)
    made = scaled(replace(session.estimate, kernel=kernel), 2, width).kernel
    before, after = kernel_shape(kernel), kernel_shape(made)
    assert after.wide == pytest.approx(width * before.wide, rel=0.05)
    assert after.angle == pytest.approx(before.angle, abs=2)
    middles = [centre_of_mass(k) - (k.shape[-1] - 1) / 2 for k in (kernel, made)]
    np.testing.assert_allclose(middles[0], middles[1], atol=0.1)


def test_downloads_keep_what_the_camera_wrote(session, tmp_path):
    png, jpeg = write_downloads(tmp_path, session, super_resolved(session, 1, 20.0, None))
    with Image.open(png) as one, Image.open(jpeg) as other:
        assert one.size == other.size == (96, 128)
        assert (other.getexif().get(0x0112, 1), other.getexif()[0x010F]) == (1, "a camera")


def test_other_files_are_one_line_without_the_servers_paths(photo, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"^broken\.jpg: not a picture"):
        find_kernel(str(tmp_path / "broken.jpg"), 2, 2.0, None)
    with pytest.raises(ValueError, match=r"48×64 pixels are more than 0\.001 megapixels"):
        find_kernel(str(photo), 2, 0.001, None)


@pytest.mark.slow
def test_in_a_browser(browser, photo, typed_result, tmp_path):  # noqa: F811
    pytest.importorskip("gradio", reason="no Gradio: pip install blindsr[demo]")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    blocks = page()
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        for path, shown in ((tmp_path / "broken.jpg", "broken.jpg: not a picture"), (photo, "photo_x2")):
            browser.get(address)
            waited_for(browser, "return document.querySelector('input[type=file]')").send_keys(str(path))
            waited_for(browser, "return document.body.innerText.includes('⇣')")  # it is there
            clicked = "[...document.querySelectorAll('button')].find(b => b.innerText === 'Super-resolve').click()"
            browser.execute_script(clicked)
            waited_for(browser, f"return document.body.innerText.includes('{shown}')")
        link = waited_for(browser, "return document.querySelector('a[href*=\"photo_x2.png\"]')?.href")
        fetched = "fetch(arguments[0]).then(r => r.arrayBuffer()).then(b => arguments[1]([...new Uint8Array(b)]))"
        content = np.array(browser.execute_async_script(fetched, link), np.uint8)
    finally:
        blocks.close()
    np.testing.assert_array_equal(cv2.imdecode(content, cv2.IMREAD_COLOR), typed_result)


def waited_for(browser, script):  # noqa: F811
    """What a script returns once that is something."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = browser.execute_script(script)
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing came of {script}\n{browser.find_element('tag name', 'body').text}")
