"""Connect to a running Ray cluster, or start one on this machine and stop it afterwards."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec

from streamser.errors import ConfigError, EngineError, MissingExtraError

__all__ = ["Cluster", "connected", "require_ray"]

# Rows and file names are small; the default would reserve a third of the memory.
_OBJECT_STORE_BYTES = 200_000_000
_REACH_S = 5.0
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves this machine
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default; Ray warns if it is unset
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_task_oom_retries": "2",  # the default tries a task forever that does not fit into the memory
}


def require_ray(what: str) -> None:
    """MissingExtraError unless Ray is installed."""
    if find_spec("ray") is None:
        raise MissingExtraError(what, "ray")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster that was connected to."""

    cpus: int
    gpus: int
    machines: int
    is_own: bool
    """True when it was started here and ends with the connection."""


@contextmanager
def connected(address: str | None = None, cpus: int | None = None) -> Iterator[Cluster]:
    """Connect to the cluster at `address`; with None, start one with `cpus` on this machine and stop it afterwards."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if address is not None:
        _reach(address)
    import ray

    # Ray would print its messages about dead workers to standard output; there is no public setting for them.
    ray._private.worker._worker_logs_enabled = False
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address is None:
            for last in (False, True):  # Ray waits only 30 s for a start, too short on a busy machine
                if _start(cpus or _usable_cpus(), last=last):
                    break
        else:
            _join(address)
    finally:
        with suppress(ValueError, TypeError):  # not the main thread, or a handler that is not Python's
            for number, handler in ours.items():  # Ray's handler of SIGTERM would end the process without clean-up
                signal.signal(number, handler)
    try:
        found = ray.cluster_resources()
        machines = sum(bool(node["Alive"]) for node in ray.nodes())
        yield Cluster(max(1, int(found.get("CPU", 1))), int(found.get("GPU", 0)), machines, address is None)
    finally:
        ray.shutdown()


def _start(cpus: int, *, last: bool) -> bool:
    import ray

    try:
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:  # Ray raises plain Exceptions here
        ray.shutdown()
        if last:
            raise EngineError(f"Ray could not be started on this machine: {_first_line(error)}") from error
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _reach(address: str) -> None:
    """ConfigError when nothing accepts connections at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        return  # a word such as auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"--ray {address}: no Ray cluster answers there ({_first_line(error)}); give HOST:PORT of its head, "
        "or auto for one on this machine, or leave the address out to start one"
    )


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        if "AuthenticationError" in str(error.__cause__):
            raise ConfigError(
                f"--ray {address}: the cluster needs a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH, as on its machines"
            ) from error
        raise _no_cluster(address, error) from error


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
