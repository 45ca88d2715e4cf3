"""Pictures and results behind URLs that fsspec knows (s3://, gs://, memory://): fetched, worked on, brought back.

Whatever reads or writes a picture sees files: a picture behind a URL is fetched into a folder of its own first, and
results that belong behind one are made in such a folder, with those of an earlier run that are there already. The
record goes last, as on a disk: a picture without it is not finished.
"""

import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from blindsr.batch.inputs import Item
from blindsr.batch.records import ENDINGS, Records, hash_file, record_path
from blindsr.batch.run import Job, Result, process
from blindsr.batch.summary import SUMMARY, write_summary
from blindsr.estimation import OnStep
from blindsr.urls import connect

__all__ = ["Store", "process_stored", "require_replaceable"]

MakeRecords = Callable[[Path], Records]
"""From a folder to the records of this run in it."""


class Store:
    """A folder behind a URL.

    Raises:
        ValueError: what the URL needs is not installed, or not known.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.files, root = connect(url)
        self._root = root.rstrip("/")

    def names(self) -> set[str]:
        """Of what lies in the folder."""
        self.files.invalidate_cache()
        try:
            return {path.rsplit("/", 1)[-1] for path in self.files.ls(self._root, detail=False)}
        except FileNotFoundError:
            return set()

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        self.files.invalidate_cache()
        return bool(self.files.exists(f"{self._root}/{name}"))

    def fetch(self, name: str, folder: Path) -> None:
        """Copy a file into a folder."""
        self.files.get_file(f"{self._root}/{name}", str(folder / name))

    def put(self, path: Path) -> None:
        """Copy a file to the store; where that has folders, this one is made."""
        self.files.makedirs(self._root, exist_ok=True)
        self.files.put_file(str(path), f"{self._root}/{path.name}")

    def remove(self, name: str) -> None:
        """Remove a file."""
        self.files.rm_file(f"{self._root}/{name}")

    def probe(self) -> None:
        """Do what storing a result does.

        Raises:
            ValueError: that is refused; says why.
        """
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f".probe-{secrets.token_hex(4)}"
            path.write_bytes(b"content")
            try:
                self.put(path)
                path.unlink()
                self.fetch(path.name, path.parent)
                self.remove(path.name)
            except Exception as error:  # each file system has its own
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(f"{self.url}: cannot take files ({reason[:200]}); choose another place") from error

    def summarize(self) -> None:
        """Put ``results.csv``, of the records that are there."""
        with tempfile.TemporaryDirectory() as scratch:
            names = sorted(name for name in self.names() if name.endswith(".json"))
            if names:  # at once: the file systems of clouds take a hundred at a time
                self.files.get([f"{self._root}/{name}" for name in names], [f"{scratch}/{name}" for name in names])
            write_summary(Path(scratch))
            self.put(Path(scratch) / SUMMARY)


def process_stored(
    items: list[Item],
    job: Job,
    output: Path | Store,
    make_records: MakeRecords,
    progress: Callable[..., OnStep] | None = None,
) -> Iterator[Result]:
    """What :func:`blindsr.batch.run.process` does, for pictures or results that lie behind URLs.

    Args:
        output: a folder that exists, or a store.
    """
    near = [item for item in items if item.source is None]
    if isinstance(output, Path) and near:
        yield from process(near, job, output, progress=progress, records=make_records(output))
    for item in items if isinstance(output, Store) else [item for item in items if item.source is not None]:
        with tempfile.TemporaryDirectory(prefix="blindsr-") as scratch:
            yield _process_fetched(item, job, output, make_records, progress, Path(scratch))


def _process_fetched(
    item: Item,
    job: Job,
    output: Path | Store,
    make_records: MakeRecords,
    progress: Callable[..., OnStep] | None,
    scratch: Path,
) -> Result:
    folder = output if isinstance(output, Path) else scratch / "out"
    try:
        fetched = _fetched(item, scratch / "in")
        earlier = _pulled(item, output, folder) if isinstance(output, Store) else {}
        records = make_records(folder)
        records.require_replaceable(fetched)
        (result,) = process([fetched], job, folder, progress=progress, records=records)
        if isinstance(output, Store):
            _push(item, output, folder, earlier)
    except Exception as error:  # each file system has its own; the other pictures are done
        reason = " ".join(str(error).split()) or type(error).__name__
        return Result(item=item, error=reason if item.shown in reason else f"{item.shown}: {reason}")
    return replace(result, item=item)


def _fetched(item: Item, folder: Path) -> Item:
    """``item`` with its picture in ``folder``, if that is not on this machine anyway."""
    if item.source is None:
        return item
    folder.mkdir()
    files, path = connect(item.source)
    files.get_file(path, str(folder / item.lr.name))
    return replace(item, lr=folder / item.lr.name)


def _pulled(item: Item, store: Store, folder: Path) -> dict[str, str]:
    """Copy the results of ``item`` that are there into ``folder``, which is made: name → SHA-256."""
    folder.mkdir(exist_ok=True)
    for ending in (".json", *ENDINGS):
        if store.has(f"{item.name}{ending}"):
            store.fetch(f"{item.name}{ending}", folder)
    return {path.name: hash_file(path) for path in folder.iterdir()}


def _push(item: Item, store: Store, folder: Path, earlier: dict[str, str]) -> None:
    """Put what has changed, the record last."""
    record = record_path(folder, item.name)
    now = {path.name: hash_file(path) for path in folder.iterdir() if not path.name.startswith(".")}
    changed = {name for name, digest in now.items() if earlier.get(name) != digest}
    for name in sorted(earlier.keys() - now.keys()):
        store.remove(name)
    for name in sorted(changed - {record.name}):
        store.put(folder / name)
    if record.name in changed:
        store.put(record)


def require_replaceable(items: list[Item], store: Store, make_records: MakeRecords) -> None:
    """Check the first of ``items`` that has results in ``store`` already; the others are checked in their turn.

    Raises:
        ValueError: they are not what the same settings made of the same input; says what, and how to go on.
    """
    names = store.names()
    for item in items:
        if any(f"{item.name}{ending}" in names for ending in (".json", *ENDINGS)):
            with tempfile.TemporaryDirectory(prefix="blindsr-") as scratch:
                folder = Path(scratch) / "out"
                _pulled(item, store, folder)
                try:
                    make_records(folder).require_replaceable(_fetched(item, Path(scratch) / "in"))
                except ValueError as error:
                    raise ValueError(str(error).replace(str(folder), store.url)) from error
            return
