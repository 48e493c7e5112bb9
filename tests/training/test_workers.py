"""Worker processes end with their parent, and keep freed memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

POOL = """
    import sys, time
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    import os
    from streamser.training.workers import begin_worker

    if __name__ == "__main__":
        with ProcessPoolExecutor(1, get_context("spawn"), begin_worker) as pool:
            print(pool.submit(os.getpid).result(), flush=True)
            pool.submit(time.sleep, 600).result()
"""
FAULTS = """
    import resource, sys, torch
    from streamser.training.workers import keep_freed_memory

    if sys.argv[1] == "keep" and not keep_freed_memory():
        raise SystemExit(5)
    for _ in range(20):
        torch.empty(12 << 20).fill_(1.0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def lives(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(textwrap.dedent(POOL), encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert lives(worker)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while lives(worker) and time.monotonic() < end:
        time.sleep(0.05)
    try:
        assert not lives(worker)
    finally:
        if lives(worker):
            os.kill(worker, signal.SIGKILL)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting belongs to glibc")
def test_freed_memory_is_not_fetched_from_the_system_again() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(FAULTS), mode], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode == 5:
            pytest.skip("this C library has no such setting")
        return int(done.stdout)

    pages = 20 * (48 << 20) // 4096  # what all tensors need
    assert faults("keep") < faults("usual") - pages / 2
