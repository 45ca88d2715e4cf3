"""Ray, started on this machine or joined where it runs, and how many workers with what each."""

import contextlib
import importlib
import logging
import math
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from blindsr.devices import DeviceName, free_memory

__all__ = ["Plan", "check_nodes", "joined", "make_plan", "require_ray"]

log = logging.getLogger(__name__)

REACH_SECONDS = 5
"""How long a cluster's port may take to accept a connection."""
WORKER_BYTES = 3 * 2**29
"""Memory of a worker on pictures of a megapixel; ``--workers auto`` starts no more than have that."""


def require_ray() -> Any:
    """The module of Ray.

    Raises:
        ValueError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ValueError("--workers and --ray need Ray: pip install 'blindsr[ray]'") from error


@dataclass(frozen=True)
class Plan:
    """How many workers, and what each of them gets."""

    workers: int
    threads: int
    gpus: float = 0.0
    """Of each worker; a share where several use one."""
    neighbours: int = 1
    """Workers that share a machine's memory, or a GPU's."""


def make_plan(
    workers: int | Literal["auto"],
    device: DeviceName,
    threads: int | None,
    nodes: Sequence[tuple[int, int]],
    memory: int | None = None,
) -> Plan:
    """Share out what the machines have.

    Args:
        threads: of each worker; without it, as many as its share of the cores.
        nodes: cores and GPUs of each machine.
        memory: bytes that are free, where that bounds the number of workers.

    Raises:
        ValueError: there are none such.

    >>> make_plan("auto", "auto", None, [(8, 0)])
    Plan(workers=8, threads=1, gpus=0.0, neighbours=8)
    >>> make_plan(3, "cpu", None, [(8, 0), (4, 0)])
    Plan(workers=3, threads=4, gpus=0.0, neighbours=2)
    >>> make_plan("auto", "auto", None, [(16, 4), (16, 4)])
    Plan(workers=8, threads=4, gpus=1.0, neighbours=1)
    """
    cores, gpus = sum(cores for cores, _ in nodes), sum(gpus for _, gpus in nodes)
    if device == "cuda" and not gpus:
        raise ValueError("--device cuda: Ray finds no GPU; use --device auto or cpu")
    if device in ("auto", "cuda") and gpus:
        count = gpus if workers == "auto" else workers
        shared = math.ceil(count / gpus)
        return Plan(count, threads or max(1, cores // count), 1 / shared, shared)
    if workers == "auto":
        fitting = cores if memory is None else max(1, min(cores, memory // WORKER_BYTES))
        count = fitting if threads is None else max(1, fitting // threads)
    else:
        count = workers
    each = threads or max(1, cores // count)
    while threads is None and each > 1 and sum(cores // each for cores, _ in nodes) < count:
        each -= 1
    return Plan(count, each, 0.0, min(count, max(max(1, cores // each) for cores, _ in nodes)))


@contextmanager
def joined(
    address: str | None, workers: int | Literal["auto"], device: DeviceName, threads: int | None
) -> Iterator[tuple[Any, Plan]]:
    """Ray, started on this machine or joined at ``address``, and the plan for it; left again after the block.

    Raises:
        ValueError: Ray is not installed, does not start or answer, or the machines lack what is asked for.
    """
    ray = require_ray()
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
            plan = make_plan(workers, device, threads, [(cores, gpus)], free_memory(torch.device("cpu")))
            ray.init(
                address="local",
                num_cpus=max(cores, plan.workers * plan.threads),
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=100 * 2**20,  # pictures go through files
                **quiet,
            )
        else:
            _join(ray, address, quiet)
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            plan = make_plan(workers, device, threads, [(int(n.get("CPU", 0)), int(n.get("GPU", 0))) for n in nodes])
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)  # Ray's own handler would leave without a word
        _silence(ray)
        yield ray, plan
    finally:
        ray.shutdown()


def _join(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    log.warning("joining Ray at %s", address)
    _require_reachable(address)
    try:
        ray.init(address=address, **(quiet if "://" not in address else {}))
    except Exception as error:  # of many kinds: no answer, another version, another secret
        if address == "auto" and isinstance(error, ConnectionError):
            raise ValueError(
                "--ray auto: no cluster runs on this machine; start one with ray start --head, or name another's "
                "HOST:6379"
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"--ray {address}: no cluster to work on there ({reason}); start one with ray start, and "
            "set RAY_AUTH_MODE=token where it has a secret"
        ) from error


def _require_reachable(address: str) -> None:
    """Raise ValueError where ``address`` is none, or no server like Ray's is there; Ray itself tries for minutes."""
    if address == "auto":
        return
    found = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address)
    if not found:
        raise ValueError(f"--ray {address}: not an address; take auto, HOST:6379 or ray://HOST:10001")
    try:
        socket.create_connection((found[1], int(found[2])), REACH_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ValueError(
            f"--ray {address}: nothing answers there ({error}); is the address right, and ray start --head running?"
        ) from error
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return  # who connects needs certificates
    grpc = importlib.import_module("grpc")
    direct = [("grpc.enable_http_proxy", 0)]  # as Ray itself goes
    with grpc.insecure_channel(address.removeprefix("ray://"), direct) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=REACH_SECONDS)
        except grpc.FutureTimeoutError as error:
            raise ValueError(
                f"--ray {address}: what answers there is no cluster of Ray's; take auto, HOST:6379 or ray://HOST:10001"
            ) from error


def _silence(ray: Any) -> None:
    """Ray prints a paragraph for each worker that dies; here that is a line of its own."""
    with contextlib.suppress(AttributeError):
        ray._private.worker.print_to_stdstream = lambda *_, **__: None


def check_nodes(ray: Any, check: Callable[[], None]) -> None:
    """Run ``check``, an importable function or a partial of one, on every machine of the cluster that can work.

    Raises:
        ValueError: of the first one on which it fails; in one line.
    """
    on_node = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    task = ray.remote(lambda: check())
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].keys() & {"CPU", "GPU"}]
    asked = {
        task.options(
            num_cpus=0, max_retries=0, scheduling_strategy=on_node(node["NodeID"], soft=False)
        ).remote(): node
        for node in nodes
    }
    for ref, node in asked.items():
        try:
            ray.get(ref)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, ValueError):
                raise ValueError(str(cause)) from error
            reason = " ".join(str(cause or error).split())[-200:]
            raise ValueError(
                f"{node['NodeManagerHostname']}: cannot work ({reason}); install the same there"
            ) from error
