"""The fuzz targets accept any bytes: their seeds, their regressions, and variations by hypothesis."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from makers import babble, silence

from streamser.errors import ConfigError
from streamser.recognizer import Recognizer
from streamser.settings import parse_value
from streamser.stream.channel import Stream
from streamser.stream.pcm import PcmConverter

FUZZ = Path(__file__).resolve().parents[1] / "tools" / "fuzz"
sys.path.insert(0, str(FUZZ))

import targets  # noqa: E402  # after the change of sys.path

# The same examples in each run, so that CI does not fail at random; tools/fuzz/fuzz.py searches for new inputs.
few = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def inputs(name: str) -> list[Path]:
    return sorted(path for kind in ("seeds", "regressions") for path in (FUZZ / kind / name).glob("*"))


ALL = [pytest.param(name, path, id=f"{name}-{path.name}") for name in targets.TARGETS for path in inputs(name)]


def test_every_target_has_seeds() -> None:
    assert all(inputs(name) for name in targets.TARGETS)
    kept = {path.name for kind in ("seeds", "regressions") for path in (FUZZ / kind).iterdir()}
    assert kept == set(targets.TARGETS)


@pytest.mark.parametrize(("name", "path"), ALL)
def test_every_seed_and_regression_passes_its_target(name: str, path: Path) -> None:
    targets.TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_damaged_seeds_pass_their_target(name: str) -> None:
    seeds = [path.read_bytes() for path in inputs(name)]

    @few
    @given(st.data())
    def damaged(data: st.DataObject) -> None:
        content = bytearray(data.draw(st.sampled_from(seeds)))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content)))
            cut = data.draw(st.integers(0, 8))
            content[at : at + cut] = data.draw(st.binary(max_size=8))
        targets.TARGETS[name](bytes(content))

    damaged()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_any_bytes_pass_every_target(name: str) -> None:
    few(given(st.binary(max_size=300))(targets.TARGETS[name]))()


# Pushed arrays

NUMBERS = st.sampled_from([np.int8, np.int16, np.int32, np.int64, np.uint8, np.float16, np.float32, np.float64])
ARRAYS = NUMBERS.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=2, max_side=64)))


@few
@given(ARRAYS, st.sampled_from([8_000, 16_000, 44_100, 48_000]))
def test_any_array_of_numbers_becomes_finite_mono_audio_of_its_length(pcm: np.ndarray[Any, Any], rate: int) -> None:
    channels = pcm.shape[1] if pcm.ndim == 2 else 1
    converter = PcmConverter(rate, channels)
    with np.errstate(all="ignore"):
        audio = np.concatenate([converter.feed(pcm), converter.flush()])
    assert audio.dtype == np.float32 and np.isfinite(audio).all()
    assert abs(len(audio) - len(pcm) * 16_000 / rate) <= 1


@few
@given(st.lists(st.integers(0, 40_000), max_size=12), st.sampled_from(["<i2", "<f4", "f8"]))
def test_the_events_do_not_depend_on_the_pieces_in_which_audio_is_pushed(
    recognizer: Recognizer, cuts: list[int], dtype: str
) -> None:
    audio = np.concatenate([silence(0.5), babble(1.0), silence(0.8)])
    whole = (audio * 32767).astype(dtype) if dtype == "<i2" else audio.astype(dtype)
    expected, found = Stream(recognizer), Stream(recognizer)
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    events = [event for a, b in itertools.pairwise(edges) for event in found.push(whole[a:b])]
    assert [*events, *found.close()] == [*expected.push(whole), *expected.close()]


@few
@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.text(max_size=5) | st.none() | st.booleans())
def test_a_rate_that_is_no_whole_number_within_bounds_is_refused(rate: Any) -> None:
    is_rate = isinstance(rate, int | float) and not isinstance(rate, bool) and math.isfinite(rate) and rate == int(rate)
    if is_rate and 1_000 <= rate <= 768_000:
        assert len(PcmConverter(rate).feed(np.zeros(100, np.float32))) <= 1_600
    else:
        with pytest.raises(ValueError, match="sample_rate: a whole number"):
            PcmConverter(rate)


# Settings


@few
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_yaml_value_is_parsed_unchanged_or_refused(value: Any) -> None:
    import yaml

    try:
        found = parse_value(yaml.safe_dump(value), "--set x")
    except ConfigError:
        return
    assert found == value or (value != value and found != found) or "nan" in repr(value)
