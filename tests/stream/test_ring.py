"""The ring returns written samples by absolute index, and reports samples that it no longer has."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from streamser.audio import Samples
from streamser.stream.ring import Ring


def count(start: int, end: int) -> Samples:
    """Samples whose values are their indexes."""
    return np.arange(start, end, dtype=np.float32)


def test_written_samples_are_read_by_their_index() -> None:
    ring = Ring(100)
    ring.write(count(0, 60), 0)
    ring.write(count(60, 90), 60)
    assert np.array_equal(ring.read(10, 80), count(10, 80))
    assert (ring.start, ring.end) == (0, 90)


@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_any_size_are_read_like_the_whole_stream(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ring, position = Ring(97), 0
    for size in rng.integers(0, 250, 60):
        ring.write(count(position, position + int(size)), position)
        position += int(size)
        start = int(rng.integers(ring.start, position + 1))
        end = int(rng.integers(start, position + 1))
        assert np.array_equal(ring.read(start, end), count(start, end))
        assert np.array_equal(ring.read(ring.start, ring.end), count(max(0, position - 97), position))


def test_the_oldest_samples_are_overwritten_and_counted_as_lost() -> None:
    ring = Ring(50)
    ring.write(count(0, 80), 0)
    assert (ring.start, ring.lost(0, 80), ring.lost(20, 40), ring.lost(30, 80)) == (30, 30, 10, 0)
    with pytest.raises(IndexError, match="the buffer has samples 30 to 80, not 29 to 40"):
        ring.read(29, 40)


def test_samples_after_the_end_cannot_be_read() -> None:
    ring = Ring(50)
    ring.write(count(0, 10), 0)
    with pytest.raises(IndexError, match="has samples 0 to 10, not 5 to 11"):
        ring.read(5, 11)


def test_skipped_samples_are_read_as_silence_and_counted_as_lost() -> None:
    ring = Ring(100)
    ring.write(count(1, 11), 0)
    ring.write(count(31, 41), 30)
    assert np.array_equal(ring.read(5, 35), np.concatenate([count(6, 11), np.zeros(20), count(31, 36)]))
    assert (ring.lost(0, 40), ring.lost(15, 20), ring.lost(30, 40)) == (20, 5, 0)
    ring.write(count(41, 131), 40)
    assert ring.lost(30, 130) == 0


def test_a_jump_longer_than_the_ring_loses_all_earlier_samples() -> None:
    ring = Ring(10)
    ring.write(count(0, 10), 0)
    ring.write(count(1_000_000_000, 1_000_000_003), 1_000_000_000)
    assert ring.lost(0, ring.end) == 1_000_000_000
    assert np.array_equal(ring.read(999_999_993, 1_000_000_000), np.zeros(7, np.float32))


def test_writing_before_the_end_is_refused() -> None:
    ring = Ring(10)
    ring.write(count(0, 5), 0)
    with pytest.raises(ValueError, match="start: 4 lies before 5"):
        ring.write(count(4, 8), 4)


def test_a_ring_without_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity: at least 1"):
        Ring(0)


def test_samples_that_were_read_do_not_change_when_the_ring_is_overwritten() -> None:
    ring = Ring(10)
    ring.write(count(0, 10), 0)
    kept = ring.read(0, 10)
    ring.write(count(10, 20), 10)
    assert np.array_equal(kept, count(0, 10))


def test_the_memory_of_the_ring_does_not_grow() -> None:
    ring, block = Ring(16_000), np.ones(320, np.float32)
    ring.write(block, 0)
    tracemalloc.start()
    for start in range(320, 320 * 5_000, 320 * 2):  # every second block is missing: old gaps must be forgotten too
        ring.write(block, start + 320)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 20_000
