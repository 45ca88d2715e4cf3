"""The project's commands, as tests type them."""

import io
import runpy
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def command(folder, *arguments, cwd=None, script="main.py"):
    """Run ``python <folder>/<script>``; returns the finished process."""
    return subprocess.run(
        [sys.executable, REPOSITORY / folder / script, *map(str, arguments)],
        cwd=cwd or REPOSITORY / folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def typed(folder, *arguments, cwd=None, script="main.py"):
    """What :func:`command` returns, without a process of its own, which takes seconds to import PyTorch."""
    path = REPOSITORY / folder / script
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        patch.setattr("blindsr.command.keep_freed_memory", lambda: None)  # the tests' process gives its memory back
        patch.chdir(cwd or path.parent)
        try:
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(path), run_name="__main__")
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(arguments, ended.value.code, out.getvalue(), err.getvalue())


def refused(process, *words):
    """The command failed with status 2, no traceback, and its error on one line that holds ``words``."""
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    text = process.stdout + process.stderr
    lines = [line for line in text.splitlines() if "error: " in line]
    assert len(lines) == 1, text
    assert "Warning" not in text
    for word in words:
        assert str(word) in lines[0], lines[0]
