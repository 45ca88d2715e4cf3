"""Writing on file systems that lack an operation, as network mounts and some containers do."""

import errno
import os
import shutil

import pytest

from blindsr.files import atomic_write, move_file, probe_folder


def names(folder):
    return [path.name for path in folder.iterdir()]


REFUSED = [errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL]


def refuse(monkeypatch, name, code):
    """Let ``os.name`` fail with that error; returns the list of its calls."""
    calls = []

    def fail(*arguments, **_):
        calls.append(arguments)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, fail)
    return calls


@pytest.mark.parametrize("code", REFUSED)
@pytest.mark.parametrize("name", ["chmod", "fsync", "replace"])
def test_a_refused_operation_costs_no_result(tmp_path, monkeypatch, name, code):
    path = tmp_path / "result.txt"
    path.write_text("old")
    calls = refuse(monkeypatch, name, code)
    probe_folder(tmp_path)
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert calls
    assert path.read_text() == "new"
    assert names(tmp_path) == ["result.txt"]


@pytest.mark.parametrize("name", ["chmod", "fsync", "replace"])
def test_a_full_or_failing_disk_is_no_refusal(tmp_path, monkeypatch, name):
    path = tmp_path / "result.txt"
    path.write_text("old")
    for code in (errno.ENOSPC, errno.EIO):
        refuse(monkeypatch, name, code)
        with pytest.raises(OSError, match=os.strerror(code)), atomic_write(path) as temporary:
            temporary.write_text("new")
        with pytest.raises(ValueError, match="cannot take files"):
            probe_folder(tmp_path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.txt"]


def test_no_half_copy_stays(tmp_path, monkeypatch):
    (tmp_path / "made").write_text("content")

    def half(source, target):
        target.write_text("con")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    refuse(monkeypatch, "replace", errno.EXDEV)
    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(OSError, match="No space"):
        move_file(tmp_path / "made", tmp_path / "placed")
    assert names(tmp_path) == ["made"]


def test_the_probe_leaves_nothing_and_makes_the_folder(tmp_path):
    probe_folder(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []


@pytest.mark.parametrize(
    ("name", "told"),
    [("mkdir", "take folders"), ("open", "take files"), ("unlink", "files removed"), ("rmdir", "folders removed")],
)
def test_a_folder_that_is_of_no_use_is_told_in_one_line(tmp_path, monkeypatch, name, told):
    refuse(monkeypatch, name, errno.EACCES)
    with pytest.raises(ValueError, match=told) as caught:
        probe_folder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: cannot ")
    assert "Permission denied" in str(caught.value)
    assert "-o" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "taken").touch()
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(ValueError, match=r"taken.*cannot be made"):
            probe_folder(folder)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")

    def fail():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]
