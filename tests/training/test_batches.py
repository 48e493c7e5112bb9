"""The store of log-mel and the batches drawn from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus_maker import make_corpus

from streamser.audio import read_audio
from streamser.corpora.clips import Clip
from streamser.corpora.reader import read_corpus
from streamser.errors import ConfigError
from streamser.features import FeatureConfig, cut_window, extract, trimmed, windows
from streamser.training.augment import AugmentConfig
from streamser.training.batches import BatchMaker, sampling_weights
from streamser.training.featureaugment import FeatureAugment
from streamser.training.featurechanges import FEATURE_CHANGES, BatchShape, Scale
from streamser.training.recipe import recipe_from
from streamser.training.store import Copies, LevelStore, build_store, level_config, standard_of

FEATURES = FeatureConfig(n_mels=32, mfcc=20, length_s=1.0, stride_s=0.5, floor=1e-8)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return read_corpus(make_corpus(tmp_path_factory.mktemp("data") / "tiny", speakers=2, takes=2))[0]


@pytest.fixture(scope="module")
def store(clips: list[Clip], cache: Path) -> LevelStore:
    augment = AugmentConfig(gain_probability=1.0, gain_db=(-6.0, 6.0))
    return build_store(clips, FEATURES, Copies(augment, 1), cache=cache, workers=1)


def test_the_clean_copy_is_the_front_ends_log_mel(store: LevelStore, clips: list[Clip]) -> None:
    for i, clip in enumerate(clips):
        levels = extract(read_audio(clip.path), level_config(FEATURES))
        np.testing.assert_allclose(store.frames(i).astype(np.float32), levels, atol=0.04)


def test_the_augmented_copy_differs_by_the_gain_that_was_drawn(store: LevelStore) -> None:
    change = store.frames(0, 1).astype(np.float32) - store.frames(0, 0).astype(np.float32)
    assert abs(float(np.median(change))) > 0.2
    assert float(np.std(change)) < 0.1


def test_a_second_build_reads_the_cache_unless_a_setting_of_the_log_mel_changed(clips: list[Clip], cache: Path) -> None:
    build_store(clips[:2], FEATURES, cache=cache, workers=1)
    before = sorted(cache.iterdir())
    build_store(clips[:2], replace(FEATURES, mfcc=13), cache=cache, workers=1)  # cepstra come after the store
    assert sorted(cache.iterdir()) == before
    build_store(clips[:2], replace(FEATURES, n_mels=24), cache=cache, workers=1)
    assert len(list(cache.iterdir())) == len(before) + 1


def test_the_windows_of_a_clip_are_the_same_in_training_and_in_a_stream(store: LevelStore, clips: list[Clip]) -> None:
    mean, std = standard_of(store, range(len(clips)), FEATURES)
    features = replace(FEATURES, scale="standard", mean=mean, std=std)
    served = windows(extract(read_audio(clips[0].path), features), features)
    trained = BatchMaker(store, features, FeatureAugment()).whole(0).numpy()
    assert served.shape == trained.shape
    np.testing.assert_allclose(trained, served, atol=0.05)


def test_if_the_front_end_trims_only_the_speech_of_a_clip_is_scored() -> None:
    frames = np.full((200, 4), -60.0, np.float16)
    frames[80:120] = -20.0
    clip = LevelStore(frames, np.zeros((1, 1), np.int64), np.full((1, 1), 200))
    features = FeatureConfig(n_mels=4, log="db", length_s=2.0, trim_db=25.0, short="keep")
    windows_of = BatchMaker(clip, features, FeatureAugment()).whole(0)
    assert windows_of.shape == (1, 40 + 2 * 12, 4)  # the speech and a fifth of a second on either side
    everything = BatchMaker(clip, replace(features, trim_db=0.0), FeatureAugment()).whole(0)
    assert everything.shape[0] > 1


def test_a_pause_is_made_of_the_clips_own_quiet_frames() -> None:
    frames = np.repeat(np.linspace(-80, -20, 100, dtype=np.float16)[:, None], 4, axis=1)
    clip = LevelStore(frames, np.zeros((1, 1), np.int64), np.full((1, 1), 100))
    features = FeatureConfig(n_mels=4, log="db", length_s=2.0)
    maker = BatchMaker(clip, features, FeatureAugment(pause_probability=1.0))
    drawn = maker.draw(np.zeros(20, np.int64), np.random.default_rng(0))
    assert drawn.shape == (20, features.window_frames, 4)
    # The clip is a rising ramp. A frame outside the ramp is a pause, made of the ten quietest frames; the ramp's
    # first frame may be an exception.
    ramp = (torch.diff(drawn[:, :, 0], dim=1) - 60 / 99).abs() < 0.1
    strange = ~ramp & (drawn[:, 1:, 0] > -74)
    assert int(strange.sum(dim=1).max()) <= 1
    assert int((~ramp).sum(dim=1).max()) > 20


def test_a_short_clip_is_repeated_in_training_as_in_a_stream(store: LevelStore) -> None:
    maker = BatchMaker(store, replace(FEATURES, mfcc=0), FeatureAugment())
    frames = store.frames(0)[:10]
    expected = cut_window(frames.astype(np.float32), 0, FEATURES)
    np.testing.assert_array_equal(maker._fit(frames, FEATURES.window_frames), expected)


def test_a_batch_depends_only_on_the_random_generator(store: LevelStore) -> None:
    augment = FeatureAugment(gain_db=10, tilt_db=6, noise_probability=0.5, mask_mels=8, mask_frames=8, shift_mels=0.05)
    maker = BatchMaker(store, FEATURES, augment)
    rows = np.array([0, 1, 2, 3])
    first, second, other = (maker.draw(rows, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, other, atol=0.1)


@pytest.mark.parametrize(
    "device",
    [
        "meta",  # computes shapes alone; arithmetic with a value of another device is an error, an index is not
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
        ),
    ],
)
def test_log_mel_is_augmented_on_its_own_device(store: LevelStore, device: str) -> None:
    augment = FeatureAugment(
        gain_db=10, level_db=(-35, 5), channel_swap=0.5, tilt_db=6, room_probability=0.5, noise_probability=0.5,
        mask_mels=8, mask_frames=8, shift_mels=0.05,
    )  # fmt: skip
    features = replace(FEATURES, scale="standard", mean=(0.0,) * FEATURES.mfcc, std=(1.0,) * FEATURES.mfcc)
    maker = BatchMaker(store, features, augment)
    levels = torch.zeros(4, 50, FEATURES.n_mels, device=device)
    batch = maker.finish(maker.augmented(levels, np.random.default_rng(0)))
    assert batch.device == levels.device and batch.shape == (4, 50, FEATURES.mfcc)


@pytest.mark.parametrize(
    "setting",
    [
        FeatureAugment(gain_db=10.0),
        FeatureAugment(tilt_db=6.0),
        FeatureAugment(noise_probability=1.0, noise_snr_db=(0.0, 5.0)),
        FeatureAugment(room_probability=1.0),
        FeatureAugment(pause_probability=1.0),
        FeatureAugment(mask_mels=12),
        FeatureAugment(mask_frames=12),
        FeatureAugment(shift_mels=0.1),
    ],
)
def test_each_feature_augmentation_alone_changes_the_batch(store: LevelStore, setting: FeatureAugment) -> None:
    clean = replace(store, starts=store.starts[:1], lengths=store.lengths[:1])
    features = replace(FEATURES, mfcc=0)
    rows = np.array([0, 5])
    plain = BatchMaker(clean, features, FeatureAugment()).draw(rows, np.random.default_rng(3))
    changed = BatchMaker(clean, features, setting).draw(rows, np.random.default_rng(3))
    assert changed.shape == plain.shape
    assert not torch.allclose(plain, changed, atol=0.5)
    assert bool(torch.isfinite(changed).all())


@dataclass(frozen=True)
class Drop:
    """Set every `every`-th mel band to the floor, for a share of the clips."""

    probability: float
    every: int = 2

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> torch.Tensor:
        return torch.from_numpy(rng.random(shape.clips) < self.probability)

    def apply(self, levels: torch.Tensor, drawn: torch.Tensor, scale: Scale) -> torch.Tensor:
        dropped = levels.clone()
        dropped[:, :, :: self.every] = scale.floor
        return torch.where(drawn[:, None, None], dropped, levels)


def test_one_row_in_a_table_adds_a_feature_augmentation(store: LevelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEATURE_CHANGES, "drop", Drop)
    features = replace(FEATURES, mfcc=0)

    def drawn(**settings: object) -> torch.Tensor:
        recipe = recipe_from({"name": "x", "variant": "lightsernet", "feature_augment": {"changes": settings}})
        return BatchMaker(store, features, recipe.feature_augment).draw(np.array([0, 5]), np.random.default_rng(3))

    plain, changed = drawn(), drawn(drop={"probability": 1, "every": 4})
    assert (changed[:, :, ::4] == changed.min()).all()
    assert torch.equal(plain[:, :, 1::4], changed[:, :, 1::4])
    for settings, words in (
        ({"dorp": {}}, r"feature_augment.changes.dorp: there is no such change; did you mean 'drop'\?"),
        ({"drop": {"probabilty": 1}}, "did you mean 'feature_augment.changes.drop.probability'"),
        ({"drop": {"probability": "often"}}, "drop.probability: must be a number, not 'often'"),
    ):
        with pytest.raises(ConfigError, match=words):
            drawn(**settings)


@dataclass(frozen=True, slots=True)
class Louder:
    """A change whose parameters are a tuple without names."""

    def draw(self, rng: np.random.Generator, shape: BatchShape) -> tuple[torch.Tensor, float]:
        return torch.full((shape.clips,), 2.0), 1.0

    def apply(self, levels: torch.Tensor, drawn: tuple[torch.Tensor, float], scale: Scale) -> torch.Tensor:
        amount, more = drawn
        return levels + amount[:, None, None] + more


def test_the_parameters_of_a_change_may_be_any_tuple(store: LevelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEATURE_CHANGES, "louder", Louder)
    maker = BatchMaker(store, FEATURES, FeatureAugment(changes={"louder": {}}))
    levels = torch.full((2, 5, FEATURES.n_mels), -4.0)
    assert torch.equal(maker.augmented(levels, np.random.default_rng(0)), levels + 3.0)


def test_the_reverberation_after_a_click_follows_the_time_and_the_distance() -> None:
    """After a click of 0 dB in silence, the tail falls by 60 dB in rt60 and is `direct_db` weaker than the click."""
    features = FeatureConfig(n_mels=4, mfcc=0, log="db", floor=1e-20, length_s=1.0, stride_s=0.5)
    frames = np.full((50, 4), -200.0, np.float16)
    frames[10] = 0.0
    click = LevelStore(frames, np.zeros((1, 1), np.int64), np.full((1, 1), 50))
    room = FeatureAugment(room_probability=1.0, room_rt60_s=(0.5, 0.5), room_direct_db=(3.0, 3.0))
    received = BatchMaker(click, features, room).draw(np.array([0]), np.random.default_rng(0))[0, :, 0].numpy()
    assert received[10] == pytest.approx(0.0, abs=0.01) and received[9] < -150
    tail = received[11:41]
    np.testing.assert_allclose(np.diff(tail), -60 * features.hop_s / 0.5, atol=0.01)
    assert 10 * np.log10(np.sum(10 ** (tail / 10))) == pytest.approx(-3.0, abs=0.05)


def test_balanced_drawing_gives_every_corpus_label_and_speaker_its_share() -> None:
    def clip(corpus: str, speaker: str, label: str) -> Clip:
        return Clip(Path("x"), corpus, f"{corpus}/{speaker}", label)

    clips = [clip("big", "a", "angry")] * 90 + [clip("big", "b", "sad")] * 9 + [clip("small", "c", "angry")]
    weights = sampling_weights(clips, ("corpus", "label", "speaker"))
    share: Counter[tuple[str, str]] = Counter()
    for one, weight in zip(clips, weights, strict=True):
        share[one.corpus, one.label] += float(weight)  # type: ignore[assignment]
    assert share == pytest.approx({("big", "angry"): 0.25, ("big", "sad"): 0.25, ("small", "angry"): 0.5})


SAMPLES = FeatureConfig(
    kind="samples", window_samples=384, hop_samples=384, fft_size=384, length_s=0.96, short="keep", trim_db=25.0
)


def test_a_network_with_its_own_front_end_receives_samples(clips: list[Clip], cache: Path) -> None:
    store = build_store(clips, SAMPLES, cache=cache, workers=1)
    batches = BatchMaker(store, SAMPLES, FeatureAugment(crop_probability=0.5, mixup=0.2))
    drawn = batches.draw(np.arange(len(clips)), np.random.default_rng(0))
    assert drawn.shape == (len(clips), SAMPLES.window_frames, 384)
    audio = read_audio(clips[0].path)
    served = windows(extract(trimmed(audio, SAMPLES), SAMPLES), SAMPLES)
    np.testing.assert_allclose(batches.whole(0).numpy(), served, atol=1e-3)
    assert float(np.abs(served).max()) > 0.1
    padded = BatchMaker(store, replace(SAMPLES, short="zero", length_s=30.0), FeatureAugment()).whole(0)[0].numpy()
    assert not padded[-1].any()  # the missing part is silence, as in `cut_window`
    with pytest.raises(ConfigError, match=r"tilt_db, mask_mels change log-mel, but this network takes samples"):
        BatchMaker(store, SAMPLES, FeatureAugment(tilt_db=3.0, mask_mels=4))


def test_clips_in_a_batch_have_one_length_even_if_a_stream_keeps_their_own(clips: list[Clip], cache: Path) -> None:
    keep = replace(FEATURES, short="keep", length_s=30.0)
    batches = BatchMaker(build_store(clips, keep, cache=cache, workers=1), keep, FeatureAugment())
    drawn = batches.draw(np.arange(len(clips)), np.random.default_rng(0))
    assert drawn.shape == (len(clips), keep.window_frames, keep.bins)
    assert batches.whole(0).shape[1] < keep.window_frames
