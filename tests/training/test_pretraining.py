"""A network is pretrained on an encoder's tokens: its targets, that it learns them, and that a run can be resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamser.corpora.clips import Clip
from streamser.errors import ConfigError
from streamser.nets.layers import SerNet
from streamser.nets.sepconv import SepConv
from streamser.nets.whisper import Encoder
from streamser.nets.zoo import get
from streamser.training.batches import BatchMaker
from streamser.training.featureaugment import FeatureAugment
from streamser.training.options import RunOptions
from streamser.training.pretraining import Figures, PretrainConfig, Pretraining
from streamser.training.store import LevelStore
from streamser.training.tokens import Pieces, Speech, token_store

FEATURES = replace(get("sepconv").features, n_mels=16, scale="none", clip=None)
CLIPS, TOKENS, SIZE = 60, 100, 3
CONFIG = PretrainConfig(
    passes=480, batch=8, piece_s=0.64, report_every=10, held_back=0.2, ema=0.9, lr=3e-3, augment=FeatureAugment()
)


def store_of(clips: list[NDArray[np.float32]]) -> LevelStore:
    lengths = np.array([len(clip) for clip in clips])
    return LevelStore(np.concatenate(clips).astype(np.float16), (lengths.cumsum() - lengths)[None], lengths[None])


def names(count: int) -> list[Clip]:
    return [Clip(Path(f"{i}.wav"), "ab"[i % 2], f"s{i}", "") for i in range(count)]


def speech(rng: np.random.Generator) -> tuple[LevelStore, LevelStore]:
    """Log-mel of clips, and tokens that follow the level of some bands."""
    levels, tokens = [], []
    for _ in range(CLIPS):
        course = np.repeat(rng.normal(0, 1, (TOKENS // 10, SIZE)), 10, axis=0)  # constant for 200 ms
        at = np.minimum(
            (np.arange(round(TOKENS * 0.02 / FEATURES.hop_s)) * FEATURES.hop_s / 0.02).astype(int), TOKENS - 1
        )
        bands = np.repeat(course[at], 5, axis=1)
        levels.append(np.pad(bands, ((0, 0), (0, 1)), constant_values=0.0))
        tokens.append(course)
    return store_of(levels), store_of(tokens)


def pretraining(seed: int = 0, config: PretrainConfig = CONFIG) -> Pretraining:
    levels, tokens = speech(np.random.default_rng(seed))
    torch.manual_seed(0)
    return Pretraining(SepConv(2, bins=16, blocks=1), FEATURES, Speech(names(CLIPS), levels, tokens), config)


def test_targets_do_not_depend_on_the_position_and_columns_get_the_mean_of_their_tokens() -> None:
    rng = np.random.default_rng(1)
    position = np.sin(np.arange(700) % 600 / 90)[:, None] * [3.0, 1.0, 2.0]
    own = [rng.normal(0, 1, (700, SIZE)) for _ in range(40)]
    tokens = store_of([clip + position for clip in own])
    levels = store_of([np.zeros((1400, 16), np.float32)] * 40)
    batches = BatchMaker(levels, FEATURES, FeatureAugment(), 25)
    edges = np.array([0, 3, 6, 10])
    pieces = Pieces(Speech(names(40), levels, tokens), batches, edges, range(40), torch.device("cpu"))
    spread = pieces.moments.token.numpy()
    assert np.abs(spread - 1).max() < 0.1  # without the positions, the spread would be 2.3 for the first
    where = np.array([0]), np.array([0]), np.array([205]), np.array([8])
    columns, inside, whole = (values[0].numpy() for values in pieces.targets(*where))
    of_columns = np.array([own[0][205:208].mean(axis=0), own[0][208:211].mean(axis=0)]) / spread
    np.testing.assert_allclose(columns[:2], of_columns, atol=0.2)
    assert inside.tolist() == [1, 1, 0]  # the third column ends after the piece
    piece, moments = own[0][205:213], pieces.moments
    found = np.concatenate([piece.mean(axis=0), piece.std(axis=0)])
    np.testing.assert_allclose(whole, (found - moments.mean.numpy()) / moments.spread.numpy(), atol=1.0)


def test_a_pretrained_network_predicts_tokens_of_clips_that_it_was_not_trained_on(tmp_path: Path) -> None:
    seen: list[Figures] = []
    lesson = pretraining()
    before = {name: value.clone() for name, value in lesson.net.state_dict().items()}
    weights = lesson.run(tmp_path / "x.state", seen.append)
    assert [figures.step for figures in seen] == [10, 20, 30, 40, 50, 60]
    assert seen[-1].columns > 0.5 and seen[-1].pieces > 0.3 and seen[-1].loss < seen[0].loss
    assert {name.partition(".")[0] for name in weights} == {"entry", "first", "residuals", "gru"}
    assert all(torch.equal(lesson.net.state_dict()[name], before[name]) for name in before if name not in weights)


def test_an_interrupted_pretraining_continues_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = pretraining().run(tmp_path / "whole.state", lambda _: None)

    def stop(figures: Figures) -> None:
        if figures.step == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretraining().run(tmp_path / "parts.state", stop)
    rest: list[int] = []
    parts = pretraining().run(tmp_path / "parts.state", lambda figures: rest.append(figures.step))
    assert rest == [30, 40, 50, 60]  # the last saved state is that of step 20
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    with pytest.raises(ConfigError, match="other settings"):
        pretraining(config=replace(CONFIG, lr=1e-3)).run(tmp_path / "parts.state", lambda _: None)


def test_a_pretraining_needs_columns_and_clips() -> None:
    levels, tokens = speech(np.random.default_rng(0))
    nothing = SerNet(2, bins=16, embedding_dim=8, min_frames=1, min_bins=1)
    with pytest.raises(ConfigError, match="SerNet has no columns"):
        Pretraining(nothing, FEATURES, Speech(names(CLIPS), levels, tokens), CONFIG)
    short = replace(tokens, lengths=np.full_like(tokens.lengths, 20))
    with pytest.raises(ConfigError, match=r"only 0 clips have 0\.8 s"):
        Pretraining(SepConv(2, bins=16, blocks=1), FEATURES, Speech(names(CLIPS), levels, short), CONFIG)


def test_tokens_are_those_of_the_encoder_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder, rng = Encoder(1).eval(), np.random.default_rng(0)
    levels = replace(store_of([rng.normal(-5, 1, (frames, 80)) for frames in (101, 1300)]), key="sounds")
    options = RunOptions(cache=tmp_path)
    found = token_store(encoder, levels, options)
    assert found.lengths.tolist() == [[50, 650]]
    frames = torch.from_numpy(levels.frames(1).astype(np.float32))
    with torch.no_grad():
        second = encoder(frames[None, 1200:])[0][0]  # the encoder gets 12 s at a time
    np.testing.assert_allclose(found.frames(1)[600:].astype(np.float32), second.numpy(), atol=2e-3)
    monkeypatch.setattr(Encoder, "forward", lambda *_: pytest.fail("the tokens are in the cache"))
    np.testing.assert_array_equal(token_store(encoder, levels, options).levels, found.levels)


def test_pieces_are_drawn_from_every_copy_of_a_clip_with_the_tokens_of_that_copy() -> None:
    """Each copy has its own number as log-mel and as tokens, and another length."""
    lengths = np.array([[100, 120], [60, 200], [90, 80]])  # tokens; (copies, clips)
    starts = np.array([[0, 250], [100, 370], [160, 570]])
    tokens = np.zeros((650, SIZE), np.float16)
    frames_per_token = 0.02 / FEATURES.hop_s
    level_lengths = np.ceil(lengths * frames_per_token).astype(np.int64)
    level_starts = np.concatenate([[0], level_lengths.T.ravel().cumsum()[:-1]]).reshape(2, 3).T
    levels = np.zeros((int(level_lengths.sum()), 16), np.float16)
    for version in range(3):
        for clip in range(2):
            own = 1 + version + 3 * clip
            tokens[starts[version, clip] :][: lengths[version, clip]] = own
            levels[level_starts[version, clip] :][: level_lengths[version, clip]] = own
    speech = Speech(names(2), LevelStore(levels, level_starts, level_lengths), LevelStore(tokens, starts, lengths))
    pieces = Pieces(
        speech, BatchMaker(speech.levels, FEATURES, FeatureAugment(), 80), np.arange(0, 65, 16), [0, 1],
        torch.device("cpu"),
    )  # fmt: skip
    pieces.positions[:] = 0.0
    rng, seen = np.random.default_rng(0), set()
    for _ in range(20):
        batch = pieces.batch(np.array([0, 1]), rng, clean=False)
        for frames, columns, inside in zip(batch.frames, batch.columns, batch.inside, strict=True):
            (own,) = set(frames.unique().round().tolist())
            seen.add(own)
            wanted = columns[inside > 0] * pieces.moments.token
            np.testing.assert_allclose(wanted.numpy(), own, rtol=1e-3)
    assert seen == {1, 2, 3, 4, 5, 6}
    clean = pieces.batch(np.array([0, 1]), rng, clean=True).frames
    assert clean[0].unique().tolist() == [1] and clean[1].unique().tolist() == [4]


def test_a_clip_with_a_short_copy_is_not_used() -> None:
    levels, tokens = speech(np.random.default_rng(0))
    lengths = np.concatenate([tokens.lengths, tokens.lengths])
    lengths[1, [3, 7]] = 39
    both = [
        replace(store, starts=np.concatenate([store.starts] * 2), lengths=of)
        for store, of in ((levels, np.concatenate([levels.lengths] * 2)), (tokens, lengths))
    ]
    lesson = Pretraining(SepConv(2, bins=16, blocks=1), FEATURES, Speech(names(CLIPS), *both), CONFIG)
    used = {*lesson.clips.tolist(), *lesson.held_back.tolist()}
    assert used == set(range(CLIPS)) - {3, 7}


def test_threads_make_the_same_batches_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = pretraining()
    alone = list(lesson._batches())
    monkeypatch.setattr(lesson, "device", torch.device("meta"))  # any device that is not the CPU
    by_threads = list(lesson._batches())
    assert len(alone) == len(by_threads) == CONFIG.steps
    for one, other in zip(alone, by_threads, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_learns_what_a_cpu_learns(tmp_path: Path) -> None:
    levels, tokens = speech(np.random.default_rng(0))
    found = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        one = Speech(names(CLIPS), levels, tokens)
        lesson = Pretraining(SepConv(2, bins=16, blocks=1), FEATURES, one, CONFIG, device)
        seen: list[Figures] = []
        lesson.run(tmp_path / f"{device}.state", seen.append)
        found[device] = seen[-1].columns
        torch.manual_seed(0)
        again = Pretraining(SepConv(2, bins=16, blocks=1), FEATURES, one, CONFIG, device)
        again.run(tmp_path / f"{device}.state", seen.append)
        steps = {state["step"].device.type for state in again.optimizer.state.values()}
        assert again.step == CONFIG.steps and steps == {"cpu"}  # on a GPU, reading them would make each step wait
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.1)


@pytest.mark.parametrize("setting", ["passes", "batch", "copies"])
def test_settings_that_leave_nothing_to_do_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting}: must be at least"):
        PretrainConfig(**{setting: -1})


def test_the_rate_rises_then_falls() -> None:
    config = PretrainConfig(passes=3200)
    rates = [config.rate(step) for step in range(config.steps)]
    assert max(rates) == pytest.approx(config.lr, rel=0.01) and 0 < rates.index(max(rates)) < 10
    assert rates[-1] < 0.03 * config.lr


@pytest.mark.parametrize("count", [40, 64, 65, 100])
def test_frames_and_tokens_of_a_piece_are_of_the_same_time(count: int) -> None:
    """Levels are the number of their frame, tokens their own number, so each can be compared with the other's time."""
    frames = round(count * 0.02 / FEATURES.hop_s)
    levels = [np.repeat(np.arange(frames)[:, None], 16, axis=1).astype(np.float32)] * 6
    tokens = [np.repeat(np.arange(count)[:, None], SIZE, axis=1).astype(np.float32)] * 6
    config = replace(CONFIG, piece_s=1.28)
    torch.manual_seed(0)
    speech = Speech(names(6), store_of(levels), store_of(tokens))
    one = Pretraining(SepConv(2, bins=16, blocks=1), FEATURES, speech, config).pieces
    one.positions[:] = 0.0
    assert one.edges.tolist() == [round(4 * 0.8 * column) for column in range(21)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        batch = one.batch(np.arange(6), rng, clean=True)
        for piece, columns, inside, _ in zip(*batch, strict=True):
            first = float(piece[0, 0])
            usable = min(64, count)
            assert inside.tolist() == [float(edge <= usable) for edge in one.edges[1:].tolist()]
            for column in range(int(inside.sum())):
                seconds = float(piece[4 * column : 4 * column + 4, 0].mean() + 0.5) * FEATURES.hop_s
                wanted = (float(columns[column, 0]) * float(one.moments.token[0]) + 0.5) * 0.02
                assert wanted == pytest.approx(seconds, abs=0.025), (first, column)


@pytest.mark.parametrize("hop", [64, 2048])
def test_columns_that_are_shorter_than_a_token_or_longer_than_a_piece_are_refused(hop: int) -> None:
    levels, tokens = speech(np.random.default_rng(0))
    features = replace(FEATURES, hop_samples=hop, window_samples=4 * hop, fft_size=4 * hop)
    with pytest.raises(ConfigError, match="a column of SepConv must be longer"):
        Pretraining(
            SepConv(2, bins=16, blocks=1), features, Speech(names(CLIPS), levels, tokens), replace(CONFIG, piece_s=0.06)
        )


@pytest.mark.parametrize("name", ["sepconv", "lightsernet", "lightsernet-small-shallow"])
def test_columns_are_computed_by_the_named_modules_alone_and_are_what_the_network_pools(name: str) -> None:
    torch.manual_seed(0)
    net = get(name).build(4).eval()
    frames = torch.randn(2, 5 * 32, net.bins)

    def changed(module: str) -> bool:
        other = get(name).build(4).eval()
        other.load_state_dict(net.state_dict())
        for parameter in getattr(other, module).parameters():
            parameter.add_(0.05)
        return not torch.allclose(other.columns(frames), net.columns(frames))

    with torch.no_grad():
        columns = net.columns(frames)
        assert columns.shape == (2, 5 * 32 // net.frames_per_column, net.column_size)
        assert {module for module, _ in net.named_children() if changed(module)} == set(net.column_modules)
        if name.startswith("lightsernet"):
            torch.testing.assert_close(columns.mean(dim=1), net.embed(frames))
