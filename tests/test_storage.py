"""Pictures and results behind URLs: the same files as in folders, on fsspec's own file systems and over S3."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from test_ray import Quick, batch

from blindsr.batch.options import BatchOptions, RunOptions


@pytest.fixture
def options(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 9, 8, 3)).astype(np.uint8)
    for name, picture in zip(("a.png", "b.png", "c.jpg"), pixels, strict=True):
        cv2.imwrite(str(tmp_path / "in" / name), picture)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    run = RunOptions(device="cpu")
    return BatchOptions(input_dir=((tmp_path / "in",),), output_dir=tmp_path / "whole", run=run)


@pytest.fixture(scope="module")
def s3():
    """The URL of a bucket on a server of this machine that speaks S3's protocol."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto's server is not installed")
    served = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    told = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (told | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}).items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("photos")
        yield "s3://photos"
    served.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def place(request, tmp_path):
    """A URL under which nothing lies yet."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{os.urandom(4).hex()}"
    return {"memory": f"memory://{tmp_path.name}", "file": f"file://{tmp_path}/store"}[request.param]


def results(files, root):
    """Name → content, of records without what tells where and how long."""
    found = {}
    for path in files.ls(root, detail=False):
        name = path.rsplit("/", 1)[-1]
        content = files.cat_file(path) if files.isfile(path) else None
        if name.endswith(".json"):
            record = json.loads(content)
            assert record["input"].endswith(record["name"] + (".jpg" if record["name"] == "c" else ".png"))
            content = {**record, "input": None, "run": None}
        if name not in ("index.html", "report", "results.csv"):
            found[name] = content
    return found


def test_the_same_files_in_a_store(options, tmp_path, place, capsys, caplog):
    assert batch(options, Quick(tmp_path / "marks")) == 0
    whole = results(fsspec.filesystem("file"), str(tmp_path / "whole"))
    assert len(whole) == 3 * 4
    files, root = fsspec.core.url_to_fs(place)
    files.put(f"{tmp_path}/in/", f"{root}/in/", recursive=True)
    stored = dataclasses.replace(options, input_dir=((Path(f"{place}/in"),),), output_dir=Path(f"{place}/out"))
    assert batch(stored, Quick(tmp_path / "stored")) == 0
    assert results(files, f"{root}/out") == whole
    assert files.cat_file(f"{root}/out/results.csv").decode().count("finished") == 3
    assert f"results: {place}/out (<image>.png" in capsys.readouterr().out
    assert json.loads(files.cat_file(f"{root}/out/a.json"))["input"].startswith(place.split(":")[0] + "://")

    # The same command finds them done; one result that is gone or damaged is made again, and no other.
    files.rm_file(f"{root}/out/a.mat")
    files.pipe_file(f"{root}/out/b.json", b"{")
    assert batch(stored, Quick(tmp_path / "again")) == 2
    assert "b.png: no record accounts for this file" in capsys.readouterr().err
    assert len(list((tmp_path / "again").iterdir())) == 1
    overwriting = dataclasses.replace(stored, run=dataclasses.replace(stored.run, overwrite=True))
    assert batch(overwriting, Quick(tmp_path / "overwriting")) == 0
    assert len(list((tmp_path / "overwriting").iterdir())) == 1
    assert results(files, f"{root}/out") == whole

    # Other settings do not replace them.
    other = dataclasses.replace(stored, pictures=dataclasses.replace(stored.pictures, quality=50))
    with pytest.raises(ValueError, match=r"a result of other settings \(--quality 95, now --quality 50\)"):
        batch(other, Quick(tmp_path / "other"))

    # From a store into a folder, and the other way round; by pattern.
    mixed = dataclasses.replace(stored, input_dir=((Path(f"{place}/in/*.png"),),), output_dir=tmp_path / "near")
    assert batch(mixed, Quick(tmp_path / "mixed")) == 0
    near = results(fsspec.filesystem("file"), str(tmp_path / "near"))
    assert near == {name: content for name, content in whole.items() if not name.startswith("c")}
    far = dataclasses.replace(options, output_dir=Path(f"{place}/far"))
    assert batch(far, Quick(tmp_path / "far")) == 0
    assert results(files, f"{root}/far") == whole


def test_what_is_wrong_with_a_url_is_told_in_a_line(options, tmp_path, monkeypatch, capsys):
    def refusal(**changes):
        with pytest.raises((ValueError, OSError)) as refused:
            batch(dataclasses.replace(options, **changes), Quick(tmp_path / "marks"))
        assert len(str(refused.value).splitlines()) == 1
        return str(refused.value)

    assert "memory://nowhere: no picture there" in refusal(input_dir=((Path("memory://nowhere"),),))
    assert "s4:/bucket" in refusal(input_dir=((Path("s4://bucket"),),))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    said = refusal(output_dir=Path("gs://bucket/out"))
    assert said.startswith("gs://bucket/out: cannot be reached (Please install gcsfs")
    fsspec.filesystem("memory").pipe_file("/damaged/x.png", b"no picture")
    damaged = dataclasses.replace(options, input_dir=((Path("memory://damaged"),),))
    assert batch(damaged, Quick(tmp_path / "marks")) == 2
    assert "error: memory://damaged/x.png: not a picture that can be read" in capsys.readouterr().err
