"""The pages in a real browser: Chromium, where there is one (on Debian: apt install chromium chromium-driver)."""

import os
import shutil

import pytest
from test_comparison import folders  # noqa: F401
from test_report import HOSTILE, folder  # noqa: F401

from blindsr.batch.comparison import write_comparison

pytestmark = pytest.mark.slow
WIDE, NARROW = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="no Selenium: pip install blindsr[test]")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its chromedriver; on Debian: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser):
    """page(path, size, scheme) → the browser, which shows that page."""

    def open_page(path, size=WIDE, scheme="light"):
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == NARROW}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(path.as_uri())
        return browser

    return open_page


@pytest.fixture
def report(page, folder):  # noqa: F811
    return page(folder / "index.html")


def names(browser):
    """Of the rows that are shown, from top to bottom."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#rows > :not([hidden])')].map(row => row.dataset.name)"
    )


def set_value(browser, name, value, event):
    script = "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
    script += "e.dispatchEvent(new Event(arguments[2], {bubbles: true}))"
    browser.execute_script(script, name, value, event)


def test_the_slider_moves(report):
    from selenium.webdriver import ActionChains

    slider = report.find_element("css selector", ".slider")
    shown = "return [getComputedStyle(document.querySelector('.slider .before')).clipPath]"
    before = report.execute_script(shown)
    ActionChains(report).move_to_element(slider).click_and_hold().move_by_offset(60, 0).release().perform()
    after = report.execute_script(shown)
    assert "50%" in before[0]
    assert after != before
    at = float(report.execute_script("return document.querySelector('.slider input').value"))
    assert at == pytest.approx(50 + 6000 / slider.size["width"], abs=4)


def test_sorting_sorts_and_filtering_filters(report, folder, page):  # noqa: F811
    for seconds in (9.5, 80.25):  # as texts the other way round
        html = (folder / "index.html").read_text()
        place = html.index('data-seconds="1.5"')
        (folder / "index.html").write_text(html[:place] + f'data-seconds="{seconds}"' + html[place + 18 :])
    browser = page(folder / "index.html")
    first, second = names(browser)
    set_value(browser, "sort", "seconds", "change")
    assert names(browser) == [first, second]
    browser.find_element("id", "order").click()
    assert names(browser) == [second, first]
    set_value(browser, "filter", "PLA", "input")
    assert names(browser) == ["plain"]
    assert browser.find_element("id", "shown").text == "1 of 2"


def test_the_hostile_name_does_not_run(report):
    assert HOSTILE in names(report)
    assert HOSTILE in report.find_element("tag name", "body").text
    assert not report.execute_script("return document.querySelectorAll('img[src=x]').length")
    report.switch_to.default_content()  # raises where an alert is open
    assert report.get_log("browser") == []
    # Even where one got through, the policy would not let it run.
    report.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    told = report.execute_async_script("setTimeout(() => arguments[0](window.ran ?? 'not run'), 300)")
    assert told == "not run"
    assert "Content Security Policy" in str(report.get_log("browser"))


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_fits_and_all_pictures_are_there(page, folder, folders, size, scheme):  # noqa: F811
    for path in (folder / "index.html", write_comparison(folders, folder.parent / "compare")):
        browser = page(path, size, scheme)
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
        loaded = "Promise.all([...document.images].map(i => {i.loading = 'eager'; return i.decode()}))"
        assert browser.execute_async_script(f"{loaded}.then(done => arguments[0](done.length))") >= 4
        assert browser.get_log("browser") == []


def test_pictures_that_are_compared_move_together(page, folder, folders):  # noqa: F811
    from selenium.webdriver import ActionChains

    browser = page(write_comparison(folders, folder.parent / "compare"))
    assert names(browser) == ["plain", HOSTILE]
    set_value(browser, "sort", "name", "change")
    assert names(browser) == [HOSTILE, "plain"]
    set_value(browser, "zoom", "2", "input")
    frame = browser.find_elements("css selector", ".frame")[1]
    ActionChains(browser).move_to_element(frame).click_and_hold().move_by_offset(-40, -20).release().perform()
    styles = (
        "return [...document.querySelector('.views').querySelectorAll('img')].map(i => getComputedStyle(i).transform)"
    )
    shown = browser.execute_script(styles)
    matrices = [[float(value) for value in style[7:-1].split(",")] for style in shown]
    assert len(matrices) == 3
    assert matrices[1] == pytest.approx(matrices[2], abs=0.1)
    assert matrices[0][0] == 4
    assert matrices[1][4] == pytest.approx(-1.5 * frame.size["width"] - 40, abs=1)
