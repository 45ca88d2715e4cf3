"""Pictures shared among workers: the same files, whatever is killed meanwhile; results behind URLs."""

import contextlib
import dataclasses
import json
import os
import pickle
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import torch
from commands import REPOSITORY, refused, typed

from blindsr.batch.cluster import _require_reachable
from blindsr.batch.command import Method, run_batch
from blindsr.batch.options import BatchOptions, RunOptions
from blindsr.batch.summary import read_records
from blindsr.batch.workers import Probe, check_node, versions
from blindsr.estimation import Estimate
from blindsr.images import read_image

PICTURES = 6
FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.scandir")


class Quick:
    """An estimator that takes little time; some pictures take its process down, at a random access to a file.

    Args:
        marks: a folder for a file for each time that a picture was begun.
        deadly: for pictures, by their mean in 1/1000, how many processes each takes down.
    """

    def __init__(self, marks, deadly=None, seconds=0.0):
        self.marks, self.deadly, self.seconds = marks, deadly or {}, seconds

    def __call__(self, lr, scale_factor, *, seed, on_step=None):
        key = name_of(lr)
        self.marks.mkdir(exist_ok=True)
        begun = len(list(self.marks.glob(f"{key}-*")))
        (self.marks / f"{key}-{begun}-{os.getpid()}").touch()
        if begun < self.deadly.get(key, 0):
            left = [random.Random(f"{key} {begun}").randint(1, 20)]

            def count_down(event, arguments):
                if event in FILE_EVENTS and ".unfinished" in str(arguments[0]):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count_down)
        for step in range(10):
            time.sleep(self.seconds / 10)
            on_step(step + 1, 10, 0.5)
        kernel = torch.full((1, 1, 11, 11), 1 / 121) + 1e-4 * lr.mean()
        return Estimate(kernel / kernel.sum(), lr.repeat_interleave(2, 2).repeat_interleave(2, 3), [0.5], 0.0, seed)


def name_of(lr):
    return round(1000 * float(lr.mean()))


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes on this machine, each with one core."""
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    # The workers cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
        with contextlib.redirect_stdout(None):
            made = Cluster(initialize_head=True, head_node_args=node)
        made.second = made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        yield made
        made.shutdown()


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def options(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 200, (PICTURES, 9, 8, 3))
    for i, picture in enumerate(pixels):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), (picture + 5 * i).astype(np.uint8))
    run = RunOptions(device="cpu", threads=1)
    return BatchOptions(input_dir=((tmp_path / "in",),), output_dir=tmp_path / "whole", run=run)


def shared(options, cluster, folder, workers=2):
    run = dataclasses.replace(options.run, ray=cluster.address, workers=workers)
    return dataclasses.replace(options, output_dir=folder, run=run)


def keys(options):
    paths = sorted(options.paths[0].iterdir())
    return {name_of(read_image(path)): path.stem for path in paths}


def batch(options, estimator):
    return run_batch(options, Method("DIPFKP", "DIPFKP", estimator))


def files(folder):
    """Name → content of all results, of records without the seconds; nothing hidden is left."""
    found = {}
    for path in sorted(folder.rglob("*")):
        assert not path.name.startswith("."), path
        if path.suffix == ".json":
            record = json.loads(path.read_text())
            for key in ("seconds", "sr_seconds"):
                record["result"].pop(key, None)
            found[path.name] = record
        elif path.is_file() and path.suffix != ".html" and path.suffix != ".csv":
            found[path.name] = path.read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.extended
def test_workers_of_this_machine_make_the_same_files(tmp_path, picture, monkeypatch):
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    (tmp_path / "in").mkdir()
    pixels = (255 * picture[0].permute(1, 2, 0).numpy()).astype(np.uint8)
    for i in range(3):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.jpg"), pixels[4 * i : 4 * i + 40, 8 * i : 64])
    search = ["--iterations", 3, "--ssim-iterations", 1, "--frozen-iterations", 1, "--channels", 8, "--crop", 64]
    arguments = ["--SR", "-i", tmp_path / "in", *search, "--threads", 1]
    one = typed("DIPFKP", *arguments, "-o", tmp_path / "one")
    monkeypatch.setattr("blindsr.batch.work.process_stored", None)  # not in this process
    monkeypatch.setattr("blindsr.command.LOG_INTERVAL", 0)
    two = typed("DIPFKP", *arguments, "-o", tmp_path / "two", "--workers", 2)
    assert one.returncode == two.returncode == 0, two.stderr
    assert len(files(tmp_path / "one")) == 3 * (4 + 3)  # and the report's small pictures
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert re.search(r"2 workers, 1 thread each 100%.* 3\.0/3 \[", two.stderr)
    assert sorted(line.split("  ")[0] for line in two.stdout.splitlines()[:3]) == list("012")


@pytest.mark.slow
@pytest.mark.extended
def test_workers_killed_at_random_moments(cluster, options, tmp_path, caplog):
    names = keys(options)
    assert batch(options, Quick(tmp_path / "none")) == 0
    deadly = dict(zip(names, [1, 0, 9, 1], strict=False))
    marks = tmp_path / "marks"
    assert batch(shared(options, cluster, tmp_path / "out"), Quick(marks, deadly)) == 2
    begun = {key: len(list(marks.glob(f"{key}-*"))) for key in names}
    assert [begun[key] for key in names] == [2, 1, 2, 2, *[1] * (PICTURES - 4)]
    (failed,) = [record for record in read_records(tmp_path / "out") if record.state == "failed"]
    assert failed.name == "2"
    assert "given up" in failed.error
    # The same command goes on, with that picture alone.
    assert batch(shared(options, cluster, tmp_path / "out", 1), Quick(marks)) == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert len(list(marks.iterdir())) == sum(begun.values()) + 1


@pytest.mark.slow
@pytest.mark.extended
def test_the_driver_is_interrupted(cluster, options, tmp_path):
    assert batch(options, Quick(tmp_path / "none")) == 0
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY / 'tests')!r})\n"
        "import pickle, test_ray, ray\n"
        "from blindsr.command import run\n"
        "ray.cloudpickle.register_pickle_by_value(test_ray)\n"
        "options, estimator = pickle.load(sys.stdin.buffer)\n"
        "run(lambda: test_ray.batch(options, estimator))\n"
    )
    changed = shared(options, cluster, tmp_path / "out")
    told = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, start_new_session=True)
    told.stdin.write(pickle.dumps((changed, Quick(tmp_path / "marks", seconds=1.0))))
    told.stdin.close()
    told.stdin = None
    while not list((tmp_path / "out").glob("*.json")) and told.poll() is None:
        time.sleep(0.1)
    os.killpg(told.pid, signal.SIGINT)
    _, err = told.communicate(timeout=60)
    assert told.returncode == 130, err.decode()
    assert b"interrupted: of 6 pictures" in err
    assert b"Traceback" not in err
    left = files(tmp_path / "out")
    assert 0 < len([name for name in left if name.endswith(".json")]) < PICTURES
    assert batch(shared(options, cluster, tmp_path / "out", 1), Quick(tmp_path / "marks")) == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.extended
def test_a_node_leaves(cluster, options, tmp_path, caplog):
    """Last of those with the cluster: one of its nodes is gone then."""
    assert batch(options, Quick(tmp_path / "none")) == 0
    marks = tmp_path / "marks"

    def leave():
        while len({path.name.rsplit("-", 1)[1] for path in marks.glob("*")}) < 2:  # both workers are at work
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)

    leaving = threading.Thread(target=leave, daemon=True)
    leaving.start()
    assert batch(shared(options, cluster, tmp_path / "out"), Quick(marks, seconds=1.0)) == 0
    leaving.join()
    assert "is lost (its machine left)" in caplog.text
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_node_without_the_same_files_is_told_in_a_line(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "photo.png").write_bytes(b"a picture")
    probe = Probe.written(tmp_path / "out", tmp_path / "photo.png")
    check_node(versions(), probe)
    for changed, told in (
        ({"path": tmp_path / "elsewhere" / probe.path.name}, f"{tmp_path / 'elsewhere'}: not the same folder on"),
        ({"content": "of another machine"}, f"{tmp_path / 'out'}: not the same folder on"),
        ({"sample": tmp_path / "absent.png"}, f"{tmp_path / 'absent.png'}: not the same picture on"),
        ({"digest": "of another"}, f"{tmp_path / 'photo.png'}: not the same picture on"),
    ):
        with pytest.raises(ValueError, match="storage that all nodes share") as refusal:
            check_node(versions(), dataclasses.replace(probe, **changed))
        assert str(refusal.value).startswith(told)
        assert len(str(refusal.value).splitlines()) == 1
    with pytest.raises(ValueError, match=r"torch 0\.1.*install the same"):
        check_node(versions() | {"torch": "0.1"}, probe)
    probe.remove()
    assert not list((tmp_path / "out").iterdir())


def test_without_ray(options, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # an import of it fails
    photo = ["-i", tmp_path / "in", "-o", tmp_path / "out", "--SR", "--preset", "prediction"]
    for asked in (["--workers", 2], ["--workers", "auto"], ["--ray", "auto"]):
        refused(typed("DIPFKP", *photo, *asked), "pip install 'blindsr[ray]'")
    assert not (tmp_path / "out").exists()
    alone = dataclasses.replace(options, run=dataclasses.replace(options.run, workers=1))
    assert batch(alone, Quick(tmp_path / "marks")) == 0


def test_an_address_without_a_cluster_is_told_at_once(monkeypatch):
    pytest.importorskip("grpc")
    monkeypatch.setattr("blindsr.batch.cluster.REACH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=rf"--ray ray://{address}: what answers there is no cluster"):
            _require_reachable(f"ray://{address}")
    for closed in (address, "[::1]:1", "nowhere.invalid:6379"):
        with pytest.raises(ValueError, match=rf"--ray {re.escape(closed)}: nothing answers there .* ray start"):
            _require_reachable(closed)
    for no_address in ("localhost", "http://localhost:6379/", "6379"):
        with pytest.raises(ValueError, match=rf"--ray {no_address}: not an address; .* HOST:6379"):
            _require_reachable(no_address)


@pytest.mark.parametrize("asked", [("--workers", 0), ("--workers", -1), ("--threads", 0)], ids=str)
def test_numbers_that_make_no_sense(options, tmp_path, asked):
    refused(typed("DIPFKP", "-i", tmp_path / "in", "-o", tmp_path / "out", *asked), *asked)
    assert not (tmp_path / "out").exists()
