"""Deploy servers with Ray Serve: the number of replicas follows the number of connections."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import warnings
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamser.cluster.gate import Address
from streamser.cluster.replica import Replica
from streamser.cluster.start import Cluster, connected
from streamser.config import Config
from streamser.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["Deployment", "Replicas", "deployed"]

_OTHER_REQUESTS = 32  # requests for pages and files, besides the WebSockets of a replica
_LONGEST_STREAM_S = 24 * 3600.0
"""A replica that is no longer needed ends with its last connection, or after this time."""
_UPSCALE_S, _DOWNSCALE_S = 5.0, 120.0


@dataclass(frozen=True, slots=True)
class Replicas:
    """Number of replicas: between `fewest` and `most`, so that each has about `streams` connections."""

    fewest: int = 1
    most: int | None = None
    """None: one for each CPU of the cluster, but at least `fewest`."""
    streams: int = 16

    def __post_init__(self) -> None:
        if self.fewest < 1 or (self.most is not None and self.most < self.fewest):
            raise ValueError(f"must be N, or FEWEST-MOST with at least 1, not {self.fewest}-{self.most}")
        if self.streams < 1:
            raise ValueError(f"must be at least 1, not {self.streams}")


@dataclass(frozen=True, slots=True)
class Deployment:
    """Running replicas."""

    handle: DeploymentHandle
    most: int
    """Largest number of replicas."""
    machines: int

    async def pick(self) -> AsyncGenerator[Address, None]:
        """Yield the address of a replica that Ray Serve chooses; closing the generator frees the place."""
        response: Any = self.handle.hold.options(stream=True).remote()
        try:
            async for address in response:
                yield address
        finally:
            with suppress(Exception):
                response.cancel()

    async def drain(self) -> None:
        """Ask all replicas to send their last results."""
        responses: Any = self.handle.broadcast("drain")
        with suppress(Exception):  # a replica that has died has nothing to send
            await asyncio.to_thread(responses.results)


@contextmanager
def deployed(address: str | None, config: Config, replicas: Replicas) -> Iterator[Deployment]:
    """Start replicas on the cluster at `address`, or on a new cluster on this machine; remove them afterwards."""
    with connected(address, replicas.most) as cluster:
        _check(config, cluster)
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve_was_there = _serves()
        name = f"streamser-{socket.gethostname()}-{config.server.port or os.getpid()}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
                handle: DeploymentHandle = serve.run(
                    _application(config, replicas, cluster), name=name, route_prefix=None
                )
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
        except RuntimeError as error:
            raise EngineError(f"the replicas could not be started: {str(error).strip()}") from error
        try:
            yield Deployment(handle, replicas.most or max(replicas.fewest, cluster.cpus), cluster.machines)
        finally:
            if not cluster.is_own:  # otherwise everything ends with the cluster
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    serve.delete(name)
                    if not serve_was_there:
                        serve.shutdown()


def _check(config: Config, cluster: Cluster) -> None:
    if cluster.machines > 1 and config.server.token is None:
        raise ConfigError(
            f"--ray: the cluster has {cluster.machines} machines, so audio and results travel over their network, "
            "which needs a token; add --token auto"
        )


def _serves() -> bool:
    """Whether Ray Serve runs on the cluster already."""
    import ray

    return any(actor["name"] == "SERVE_CONTROLLER_ACTOR" for actor in ray.util.list_named_actors(all_namespaces=True))


def _application(config: Config, replicas: Replicas, cluster: Cluster) -> Any:
    from ray import serve

    most = replicas.most or max(replicas.fewest, cluster.cpus)
    scaling: dict[str, Any] = {"num_replicas": most}
    if replicas.fewest < most:
        scaling = {
            "autoscaling_config": {
                "min_replicas": replicas.fewest,
                "max_replicas": most,
                "target_ongoing_requests": replicas.streams,
                "upscale_delay_s": _UPSCALE_S,
                "downscale_delay_s": _DOWNSCALE_S,
            }
        }
    needs_gpu = config.recognizer.compute.startswith("cuda")
    deployment = serve.deployment(
        Replica,
        name="replica",
        max_ongoing_requests=config.server.max_clients + _OTHER_REQUESTS,
        graceful_shutdown_timeout_s=config.server.max_stream_s or _LONGEST_STREAM_S,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": 1 if needs_gpu else 0,
            "runtime_env": {"env_vars": {"RAY_USE_UVLOOP": "0"}},  # the loop that the server is tested on
        },
        **scaling,
    )
    return deployment.bind(config, "127.0.0.1" if cluster.machines == 1 else None)
