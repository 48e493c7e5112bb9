#!/usr/bin/env python3
"""Measure the CPU time that the gateway of `streamser serve --ray` needs per live stream, while it serves N streams.

    python tools/bench_gate.py [--streams 20] [--seconds 10] [--block-ms 20]

The server, the gateway and the clients run in separate processes, so that only the gateway's CPU time is counted. Ray
is not needed.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import AsyncGenerator
from multiprocessing.connection import Connection

import aiohttp

from streamser import load
from streamser.cluster.gate import Address, Gate
from streamser.server.app import Server
from streamser.server.options import ServerConfig


async def serve(pipe: Connection) -> None:
    """Run a server for many clients until a message arrives on the pipe."""
    async with Server(load("lightsernet"), ServerConfig(port=0, max_clients=1000)) as server:
        pipe.send(server.port)
        await asyncio.to_thread(pipe.recv)


async def pass_on(pipe: Connection, port: int) -> None:
    """Run the gateway. Respond to each message on the pipe with the CPU seconds so far; the message False ends it."""

    async def pick() -> AsyncGenerator[Address, None]:
        yield ("127.0.0.1", port)
        await asyncio.Event().wait()

    async def drain() -> None:
        pass

    async with Gate(ServerConfig(port=0), pick, drain) as gate:
        pipe.send(gate.port)
        while await asyncio.to_thread(pipe.recv):
            pipe.send(time.process_time())


async def talk(port: int, pipe: Connection, args: argparse.Namespace) -> float:
    """Send audio in all streams; returns the gateway's CPU milliseconds per second of one stream."""
    block = bytes(32 * args.block_ms)
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}/ws/stream?sample_rate=16000"
        sockets = [await session.ws_connect(url) for _ in range(args.streams)]
        readers = [asyncio.create_task(read(socket)) for socket in sockets]
        pipe.send(True)
        before, began_s = await asyncio.to_thread(pipe.recv), time.monotonic()

        async def send(socket: aiohttp.ClientWebSocketResponse) -> None:
            for number in range(args.seconds * 1000 // args.block_ms):
                await socket.send_bytes(block)
                await asyncio.sleep(max(0.0, began_s + number * args.block_ms / 1000 - time.monotonic()))

        await asyncio.gather(*map(send, sockets))
        pipe.send(True)
        spent_s = await asyncio.to_thread(pipe.recv) - before
        for task in readers:
            task.cancel()
    return 1000 * spent_s / (args.streams * args.seconds)


async def read(socket: aiohttp.ClientWebSocketResponse) -> None:
    async for _ in socket:
        pass


def run_server(pipe: Connection) -> None:
    asyncio.run(serve(pipe))


def run_gate(pipe: Connection, port: int) -> None:
    asyncio.run(pass_on(pipe, port))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--block-ms", type=int, default=20)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    to_server, server_end = context.Pipe()
    to_gate, gate_end = context.Pipe()
    server = context.Process(target=run_server, args=(server_end,))
    server.start()
    gate = context.Process(target=run_gate, args=(gate_end, to_server.recv()))
    gate.start()
    cost_ms = asyncio.run(talk(to_gate.recv(), to_gate, args))
    print(f"gateway: {cost_ms:.2f} ms of CPU time per second of a stream, with messages of {args.block_ms} ms")
    to_gate.send(False)
    to_server.send(False)
    gate.join()
    server.join()


if __name__ == "__main__":
    main()
