"""Files that appear whole or not at all, on file systems that refuse some of what that takes as well."""

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_write", "move_file", "probe_folder"]

# How network mounts and some containers say that they lack an operation. A full disk, say, is not among these.
_REFUSALS = {
    getattr(errno, name)
    for name in ("EACCES", "EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EPERM", "EXDEV")
    if hasattr(errno, name)
}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it into place once the block has succeeded.

    The folder is created. When the block raises, the temporary file is removed and ``path`` is untouched. The
    temporary name keeps the suffix, from which image writers choose the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with _unless_refused():
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        with temporary.open("r+b") as file, _unless_refused():
            os.fsync(file.fileno())  # or a power failure could leave the name without its content
        move_file(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def move_file(source: Path, target: Path) -> None:
    """Rename a file, in one step where the file system can, replacing ``target``; else copy it and remove it.

    Raises:
        OSError: neither can be done; a half copy is not left behind.
    """
    try:
        source.replace(target)
        return
    except OSError as error:
        if error.errno not in _REFUSALS or target.is_dir():
            raise
    try:
        shutil.copyfile(source, target)
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink(missing_ok=True)
        raise
    source.unlink()


def probe_folder(folder: Path) -> None:
    """Do in ``folder`` what storing a result does, so that a folder that refuses it is known before the work.

    The folder is created; nothing stays in it.

    Raises:
        ValueError: files or folders cannot be made, written, put in place, read back or removed there; says which.
    """
    step = "be made"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        step = "take folders"
        inner = Path(tempfile.mkdtemp(dir=folder, prefix=".probe."))
        try:
            step = "take files"
            made, placed = inner / "made", inner / "placed"
            for _ in range(2):  # the second time over the first
                with atomic_write(made) as temporary:
                    temporary.write_bytes(b"content")
                move_file(made, placed)
            step = "give back what is written there"
            if placed.read_bytes() != b"content":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            step = "have files removed"
            placed.unlink()
            step = "have folders removed"
            inner.rmdir()
        finally:
            shutil.rmtree(inner, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise ValueError(f"{folder}: cannot {step} ({reason}); choose another folder with -o") from error


@contextmanager
def _unless_refused() -> Iterator[None]:
    """Of what only hardens a file, let pass that the file system does not have it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise


_asking = threading.Lock()


def _umask() -> int:
    with _asking:  # it can only be read by setting it
        mask = os.umask(0)
        os.umask(mask)
    return mask
