"""A process that ends while its threads compute ends with its own exit code, without an abort and without a delay."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

ATTEMPTS = 3

END = """
import time
from streamser.native import native_call

class SlowToDelete:
    # Delays the interpreter's end until the thread's call returns; in a large program, this happens by chance.
    def __del__(self, calls=native_call._depths, sleep=time.sleep):
        for _ in range(1000):
            if calls:
                sleep(0.01)

slow = SlowToDelete()
while computes and not native_call._depths:
    time.sleep(0.001)
sys.exit(7)
"""

WORKER = """
import sys, numpy as np, streamser
from streamser.audio import Segment
from streamser.stream.worker import InferenceWorker

samples = np.random.default_rng(0).normal(0, 0.1, 16_000 * 6).astype(np.float32)
worker = InferenceWorker(streamser.load(compute="cpu")).start()
stream = worker.open("talk", lambda event: None)
for number in range(1, 31):
    stream.submit(Segment(number, number * len(samples), samples, final=True))
"""

DAEMON = """
import sys, threading, numpy as np

def start(call):
    called = threading.Event()

    def work():
        while True:
            call()
            called.set()

    threading.Thread(target=work, daemon=True).start()
    called.wait()
"""

RESAMPLER = (
    DAEMON
    + """
from streamser.audio import Resampler

resampler, second = Resampler(44_100), np.zeros(44_100 * 20, np.float32)
start(lambda: resampler.feed(second))
"""
)

TORCH = (
    DAEMON
    + """
import streamser
from streamser.engines.torch import TorchEngine

bundle = streamser.load(compute="cpu").bundle
engine, features = TorchEngine(bundle), bundle.features
frames = np.zeros((1, features.window_frames, features.bins), np.float32)
start(lambda: engine.run(frames))
"""
)

HANGS = """
import sys, threading, streamser
from streamser.native import native_call

with native_call:
    began, never = threading.Event(), threading.Event()

def hang():
    began.set()
    never.wait()

threading.Thread(target=hang, daemon=True).start()
began.wait()
"""

FORKED = """
import os, sys, threading
from streamser.native import native_call

began, done = threading.Event(), threading.Event()

def compute():
    with native_call:
        began.set()
        done.wait()

threading.Thread(target=compute, daemon=True).start()
began.wait()
child = os.fork()
if child:
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    done.set()
"""


def end_of(script: str, *, computes: bool = True) -> tuple[int, str]:
    """Exit code and standard error of a program that ends with code 7 after the script, while a thread computes."""
    whole = f"{script}\ncomputes = {computes}\n{END}"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("ending", "printed"),
    [("assert not worker.close(0.05)", r"closed with 2\d results not yet computed"), ("", "")],
    ids=["closed", "never closed"],
)
def test_a_program_that_ends_while_finals_wait_for_the_worker_ends_with_its_own_exit_code(
    ending: str, printed: str
) -> None:
    for _ in range(ATTEMPTS):
        code, errors = end_of(WORKER + ending)
        assert code == 7, errors
        assert re.fullmatch(printed, errors.strip())


def test_a_program_that_ends_while_a_thread_resamples_ends_with_its_own_exit_code() -> None:
    for _ in range(ATTEMPTS):
        code, errors = end_of(RESAMPLER)
        assert code == 7, errors


def test_a_program_that_ends_while_torch_computes_ends_with_its_own_exit_code() -> None:
    pytest.importorskip("torch")
    for _ in range(ATTEMPTS):
        assert end_of(TORCH) == (7, "")


def test_the_end_of_a_process_does_not_wait_for_a_thread_that_hangs_elsewhere() -> None:
    assert end_of(HANGS, computes=False) == (7, "")  # a wait that reaches its limit prints a warning


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_process_does_not_wait_for_a_call_of_its_parent() -> None:
    assert end_of(FORKED, computes=False) == (7, "")
