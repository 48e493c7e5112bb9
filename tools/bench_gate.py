#!/usr/bin/env python3
"""Measure the CPU time that a server and the gateway of `streamser serve --ray` need per live stream of speech.

    python tools/bench_gate.py [--model whisper] [--streams 20] [--seconds 20] [--block-ms 20]

The server, the gateway and the clients run in separate processes, so that the CPU time of each is known. Ray is not
needed.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import AsyncGenerator, Sequence
from multiprocessing.connection import Connection

import aiohttp

from streamser import load
from streamser.audio import to_pcm16
from streamser.bench.speech import compose
from streamser.cluster.gate import Address, Gate
from streamser.server.app import Server
from streamser.server.options import ServerConfig


async def serve(pipe: Connection, model: str) -> None:
    """Run a server for many clients and report its CPU time."""
    async with Server(load(model, "cpu"), ServerConfig(port=0, max_clients=1000)) as server:
        pipe.send(server.port)
        await report(pipe)


async def report(pipe: Connection) -> None:
    """Respond to each message on the pipe with this process's CPU seconds so far; the message False ends it."""
    while await asyncio.to_thread(pipe.recv):
        pipe.send(time.process_time())


async def pass_on(pipe: Connection, port: int) -> None:
    """Run the gateway and report its CPU time."""

    async def pick() -> AsyncGenerator[Address, None]:
        yield ("127.0.0.1", port)
        await asyncio.Event().wait()

    async def drain() -> None:
        pass

    async with Gate(ServerConfig(port=0), pick, drain) as gate:
        pipe.send(gate.port)
        await report(pipe)


async def cpu_s(pipes: Sequence[Connection]) -> list[float]:
    for pipe in pipes:
        pipe.send(True)
    return [await asyncio.to_thread(pipe.recv) for pipe in pipes]


async def talk(port: int, pipes: Sequence[Connection], args: argparse.Namespace) -> tuple[list[float], int]:
    """Send speech in all streams, each from another position.

    Returns each process's CPU milliseconds per second of a stream, and how many partial results the server skipped.
    """
    speech = to_pcm16(compose(1.0)).tobytes()
    size = 32 * args.block_ms
    blocks = [speech[at : at + size] for at in range(0, len(speech) - size, size)]
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}/ws/stream?sample_rate=16000"
        sockets = [await session.ws_connect(url) for _ in range(args.streams)]
        readers = [asyncio.create_task(read(socket)) for socket in sockets]
        before, began_s = await cpu_s(pipes), time.monotonic()

        async def send(place: int, socket: aiohttp.ClientWebSocketResponse) -> None:
            first = place * len(blocks) // args.streams
            late_s = place * args.block_ms / 1000 / args.streams  # real clients do not send at the same moments
            for number in range(args.seconds * 1000 // args.block_ms):
                due_s = began_s + late_s + number * args.block_ms / 1000
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                await socket.send_bytes(blocks[(first + number) % len(blocks)])

        await asyncio.gather(*(send(place, socket) for place, socket in enumerate(sockets)))
        after = await cpu_s(pipes)
        for socket in sockets:
            await socket.send_str('{"type": "end"}')
        skipped = sum(await asyncio.gather(*readers))
    costs_ms = [1000 * (end - start) / (args.streams * args.seconds) for start, end in zip(before, after, strict=True)]
    return costs_ms, skipped


async def read(socket: aiohttp.ClientWebSocketResponse) -> int:
    """Read until the stream's end; returns the number of partial results that the server skipped."""
    skipped = 0
    async for message in socket:
        event = message.json()
        skipped = event.get("skipped", skipped)
        if event["type"] == "stream_ended":
            break
    return skipped


def run_server(pipe: Connection, model: str) -> None:
    asyncio.run(serve(pipe, model))


def run_gate(pipe: Connection, port: int) -> None:
    asyncio.run(pass_on(pipe, port))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="whisper")
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--block-ms", type=int, default=20)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    to_server, server_end = context.Pipe()
    to_gate, gate_end = context.Pipe()
    server = context.Process(target=run_server, args=(server_end, args.model))
    server.start()
    gate = context.Process(target=run_gate, args=(gate_end, to_server.recv()))
    gate.start()
    costs_ms, skipped = asyncio.run(talk(to_gate.recv(), (to_server, to_gate), args))
    for name, cost_ms in zip((f"server of {args.model}", "gateway"), costs_ms, strict=True):
        print(f"{name}: {cost_ms:.2f} ms of CPU time per second of a stream, with messages of {args.block_ms} ms")
    print(f"{skipped} partial results were skipped" + (": too many streams for this machine" if skipped else ""))
    to_gate.send(False)
    to_server.send(False)
    gate.join()
    server.join()


if __name__ == "__main__":
    main()
