"""What the project's metadata promise: that the pinned packages exist for every Python named there."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement

PROMISED = "Programming Language :: Python :: 3."
MINORS = sorted(
    int(line.split(PROMISED)[1].split('"')[0])
    for line in (REPOSITORY / "pyproject.toml").read_text().splitlines()
    if PROMISED in line
)


def pins(python: str) -> list[str]:
    """The packages that requirements.txt pins for that Python, without markers: pip would ask the running one's."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    lines = (line.split("#")[0].strip() for line in (REPOSITORY / "requirements.txt").read_text().splitlines())
    required = [Requirement(line) for line in lines if line and not line.startswith("-")]
    chosen = [one for one in required if one.marker is None or one.marker.evaluate(environment)]
    names = [one.name for one in chosen]
    assert len(names) == len(set(names)), f"pinned twice for Python {python}"
    return [f"{one.name}{one.specifier}" for one in chosen]


def test_every_python_gets_each_package_once():
    names = [{pin.split("==")[0] for pin in pins(f"3.{minor}")} for minor in MINORS]
    assert len(names) >= 2
    assert all(some == names[0] for some in names)


def test_the_lowest_python_is_the_one_that_is_required():
    assert f'requires-python = ">=3.{MINORS[0]}"' in (REPOSITORY / "pyproject.toml").read_text()


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.parametrize("minor", [MINORS[0], MINORS[-1]])
def test_the_pins_can_be_installed(tmp_path, minor):
    """As wheels, on this kind of machine; no interpreter of that version is needed, and none of it is installed."""
    python = f"3.{minor}"
    options = ["--dry-run", "--no-deps", "--only-binary=:all:", "--python-version", python, "--target", str(tmp_path)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--retries", "0", "--timeout", "30"]
    done = subprocess.run([*pip, *options, *pins(python)], capture_output=True, text=True)
    if done.returncode and ("No module named pip" in done.stderr or "(from versions: none)" in done.stderr):
        pytest.skip("no package index answers")
    assert done.returncode == 0, done.stderr[-1000:]
