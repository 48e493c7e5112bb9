"""Training end to end on a tiny corpus: it learns, resumes with the same weights, and writes a loadable checkpoint."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from corpus_maker import make_corpus
from makers import noise, tone
from safetensors.torch import load_file, save_file

from streamser import cli
from streamser.audio import SAMPLE_RATE, read_audio
from streamser.bundle import load_bundle
from streamser.cli.train import add_arguments
from streamser.corpora.benchmarks import BENCHMARKS, benchmark_of
from streamser.corpora.clips import PLAIN
from streamser.errors import ConfigError, ProtocolError
from streamser.evaluation.folds import load_folds
from streamser.evaluation.foldsummary import left_out_metrics, summarize
from streamser.filelock import try_lock
from streamser.nets.lightsernet import LightSerNet
from streamser.nets.whisper import Whisper
from streamser.recognizer import load
from streamser.training.batches import BatchMaker
from streamser.training.featureaugment import FeatureAugment
from streamser.training.fit import with_common_labels
from streamser.training.material import Material, gather, recipe_of
from streamser.training.options import RunOptions
from streamser.training.recipe import Recipe, recipe_from
from streamser.training.schedules import Schedule, rate_factor
from streamser.training.store import Copies, build_store
from streamser.training.trainer import Trainer
from streamser.training.windows import clip_logits


def make_recipe(**changes: object) -> Recipe:
    return recipe_from(
        {
            "name": "tiny",
            "variant": "lightsernet",
            "corpora": ["tiny"],
            "labels": ["angry", "sad"],
            "folds": 2,
            "validation_speakers": 0.34,
            "features": {"scale": "standard", "n_mels": 40, "length_s": 0.8},
            "loss": {"weighted": False},
            "epochs": 4,
            "passes_per_epoch": 32,
            "batch": 8,
            "lr": 2e-3,
            "ema": 0.5,
            "schedule": {"kind": "onecycle"},
            "feature_augment": {"gain_db": 3.0, "mask_mels": 4, "mixup": 0.2},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    make_corpus(root / "tiny")
    make_corpus(root / "other", speakers=4, takes=2, seed=8)
    return root


@pytest.fixture(scope="module")
def material(corpora: Path, cache: Path) -> Material:
    return gather(make_recipe(), corpora, cache)


def trainer(recipe: Recipe, material: Material, folder: Path, cache: Path) -> Trainer:
    return Trainer(recipe, material, folder, RunOptions(cache=cache))


def test_training_learns_and_every_score_comes_from_speakers_outside_training(
    material: Material, tmp_path: Path, cache: Path
) -> None:
    one = trainer(make_recipe(), material, tmp_path, cache)
    for split in one.splits(0):
        result = one.run_split(split, 0)
        assert not result.shared_speakers
    folds = load_folds(tmp_path)
    summary = summarize(folds)
    assert summary["ua"] > 90  # chance is 50
    assert {clip for fold in folds for clip in fold.clips} == {clip.id for clip in material.clips}
    # A finished fold is not trained again.
    assert one.run_split(one.splits(0)[0], 0).logits.tolist() == folds[0].logits.tolist()
    assert {fold.epochs for fold in folds} == {4}


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings that are not speech."""
    folder = tmp_path_factory.mktemp("noises")
    for seed in range(8):
        soundfile.write(folder / f"hiss-{seed}.wav", noise(1.0, seed=seed), SAMPLE_RATE)
        soundfile.write(folder / f"whistle-{seed}.wav", tone(900.0 + 100 * seed, 1.0), SAMPLE_RATE)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder in half precision, like the file that tools/whisper_weights.py writes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    save_file({name: value.half() for name, value in Whisper(2).state_dict().items() if "encoder" in name}, path)
    return path


@pytest.mark.parametrize("kind", ["alone", "with an adversary and outliers", "on a frozen encoder"])
def test_a_resumed_run_ends_with_the_same_weights(
    material: Material, tmp_path: Path, cache: Path, noises: Path, encoder: Path, kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("streamser.training.fit.SAVE_EVERY_S", 0.0)
    adversary, outliers = {"of": "speaker", "warmup_steps": 8}, {"folder": str(noises)}
    recipe = {
        "alone": make_recipe(),
        "with an adversary and outliers": make_recipe(adversary=adversary, outliers=outliers),
        "on a frozen encoder": on_samples(start=str(encoder), epochs=4, outliers=outliers),
    }[kind]
    whole = trainer(recipe, material, tmp_path / "whole", cache)
    split = whole.splits(0)[0]
    straight, *_ = whole.fit(split, 0)

    class UnpluggedError(Exception):
        pass

    def unplug(_: str, row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise UnpluggedError

    broken = Trainer(recipe, material, tmp_path / "broken", RunOptions(cache=cache, on_epoch=unplug))
    with pytest.raises(UnpluggedError):
        broken.fit(split, 0)
    curves = broken.folder_of(split, 0) / "curves.png"
    stopped = curves.read_bytes()  # a stopped run has a plot of its curves too
    resumed, *_ = trainer(recipe, material, tmp_path / "broken", cache).fit(split, 0)
    again, other = straight.net.state_dict(), resumed.net.state_dict()
    assert all(torch.equal(again[name], other[name]) for name in again)
    assert straight.history == resumed.history
    lines = (broken.folder_of(split, 0) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == resumed.history
    assert curves.read_bytes() != stopped
    different, *_ = trainer(recipe, material, tmp_path / "seed1", cache).fit(split, 1)
    assert not all(torch.equal(value, different.net.state_dict()[name]) for name, value in again.items())


def test_the_patience_ends_a_run_that_no_longer_improves(material: Material, tmp_path: Path, cache: Path) -> None:
    recipe = make_recipe(epochs=30, patience=2, lr=1e-9, ema=0.0)
    fold = (one := trainer(recipe, material, tmp_path, cache)).run_split(split := one.splits(0)[0], 0)
    assert len((one.folder_of(split, 0) / "log.jsonl").read_text(encoding="utf-8").splitlines()) < 10
    assert fold.epochs == 30, "the fold is not a shortened one"


def test_a_fold_that_is_continued_with_fewer_epochs_records_those_it_had(
    material: Material, tmp_path: Path, cache: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(_: str, row: dict[str, float]) -> None:
        if row["epoch"] == 3:
            raise StoppedError

    stopped = Trainer(make_recipe(), material, tmp_path, RunOptions(cache=cache, on_epoch=stop))
    split = stopped.splits(0)[0]
    with pytest.raises(StoppedError):
        stopped.run_split(split, 0)
    assert trainer(make_recipe(epochs=1), material, tmp_path, cache).run_split(split, 0).epochs == 3


def test_a_shipped_checkpoint_loads_and_records_its_training(
    material: Material, corpora: Path, tmp_path: Path, cache: Path
) -> None:
    both = gather(make_recipe(corpora=["tiny", "other"]), corpora, cache)
    out = trainer(
        make_recipe(corpora=["tiny", "other"], protocol="leave-one-corpus-out", seeds=[0, 1], epochs=4),
        both,
        tmp_path / "loco",
        cache,
    )
    for seed in (0, 1):
        for split in out.splits(seed):
            out.run_split(split, seed)
    one = trainer(make_recipe(protocol="ship", epochs=12, ema=0.0), material, tmp_path, cache)
    bundle = one.ship(one.splits(0)[0], 0, tmp_path / "tiny", tmp_path / "loco")
    recognizer = load(bundle.path)
    right = [recognizer.predict(read_audio(clip.path)).label == clip.label for clip in material.clips[::3]]
    assert sum(right) > 0.8 * len(right)
    assert set(bundle.provenance["train_speakers"]).isdisjoint(bundle.provenance["validation_speakers"])
    assert bundle.scores["calibrated_on"] == "left-out corpora"
    assert set(bundle.scores["left_out_ua"]) == {"tiny", "other"}
    assert "## Limits" in bundle.card
    again = bundle.card.partition("## Training")[2]
    assert "--set protocol=leave-one-corpus-out" in again and "--calibrate-from" in again
    assert "--seeds 0,1" in again and "means over 2 seeds" in again
    assert "--set epochs=4" in again, "the folds were trained for 4 epochs, and this checkpoint for 12"


def test_only_clips_of_the_requested_styles_are_used(corpora: Path, cache: Path) -> None:
    everything = gather(make_recipe(), corpora, cache)
    styles = sorted({clip.style for clip in everything.clips})
    some = gather(make_recipe(styles=styles[:1]), corpora, cache)
    assert len(styles) == 2 and {clip.style for clip in some.clips} == {styles[0]}
    with pytest.raises(ConfigError, match="no clip is of styles sung; there are"):
        gather(make_recipe(styles=["sung"]), corpora, cache)


def test_recordings_without_speech_are_trained_towards_equal_probabilities(
    material: Material, tmp_path: Path, cache: Path, noises: Path
) -> None:
    """Trained on hisses without the whistles, the network gives nearly equal scores for new hisses."""
    apart = {}
    outlier_settings = {"folder": str(noises), "names": ["hiss*"], "share": 1.0, "weight": 2.0}
    for name, outliers in {"without": {}, "with": outlier_settings}.items():
        one = trainer(make_recipe(outliers=outliers, ema=0.0, epochs=16), material, tmp_path / name, cache)
        result = one.run_split(one.splits(0)[0], 0)
        assert (result.logits.argmax(axis=1) == result.targets).mean() > 0.9
        recognizer = load(tmp_path / name / "fold-1-of-2-s0" / "bundle")
        logits = recognizer.logits([noise(1.0, seed=seed) for seed in range(50, 58)])
        apart[name] = np.abs(logits[:, 0] - logits[:, 1]).mean() / np.ptp(result.logits, axis=1).mean()
    assert apart["with"] < 0.4 * apart["without"]
    for settings, count in ({"tones": 3}, 3), ({**outlier_settings, "tones": 2}, 10):
        outliers = trainer(make_recipe(outliers=settings), material, tmp_path / "tones", cache).stores.outliers
        assert outliers is not None and outliers.starts.shape[1] == count
    with pytest.raises(ConfigError, match=r"no file in .* \(16 files\) matches honk\*"):
        trainer(make_recipe(outliers={"folder": str(noises), "names": ["honk*"]}), material, tmp_path, cache)


def test_labels_that_are_rare_in_a_corpus_are_not_trained_on(material: Material) -> None:
    odd = replace(material.clips[0], label="sad", corpus="odd")
    many = [replace(material.clips[0], corpus="odd", label="angry")] * 60
    assert odd not in with_common_labels([*many, odd], ("angry", "sad"))
    assert len(with_common_labels([*many, odd], ("angry", "sad"))) == 60


def test_a_label_that_no_clip_has_is_refused(corpora: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="no clip is labelled happy; see labels and label_map"):
        gather(make_recipe(labels=["angry", "happy"]), corpora, cache)


def test_features_that_do_not_fit_the_network_are_refused(material: Material, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="takes 40 bins, but features give 13"):
        trainer(make_recipe(features={"mfcc": 13}), material, tmp_path, cache)


def test_schedules_follow_their_formulas() -> None:
    assert rate_factor(Schedule(), 7, 10) == 1
    steps = Schedule(kind="steps", start_epoch=50, every_epochs=20, factor=0.5)
    assert [rate_factor(steps, epoch, 300) for epoch in (0, 49.9, 50, 69, 70)] == [1, 1, 0.5, 0.5, 0.25]
    cycle = Schedule(kind="onecycle", warmup=0.25)
    assert rate_factor(cycle, 0, 100) == pytest.approx(0.04)
    assert rate_factor(cycle, 25, 100) == pytest.approx(1.0)
    assert rate_factor(cycle, 100, 100) == pytest.approx(1e-4)


def test_every_published_network_has_a_valid_recipe() -> None:
    from streamser.corpora.protocols import HONEST, PAPERS
    from streamser.nets import zoo

    for variant in zoo.VARIANTS.values():
        for name in variant.published:
            recipe = recipe_of(variant, BENCHMARKS[name])
            assert recipe.protocol in (*HONEST, *PAPERS)
            assert recipe.epochs > 0 and recipe.lr > 0
            assert benchmark_of(asdict(recipe), [BENCHMARKS[name].corpus]) is BENCHMARKS[name]


def test_scores_on_left_out_corpora_use_the_temperature_of_the_other_folds(
    material: Material, corpora: Path, tmp_path: Path, cache: Path
) -> None:
    recipe = make_recipe(corpora=["tiny", "other"], protocol="leave-one-corpus-out", epochs=1)
    out = trainer(recipe, gather(recipe, corpora, cache), tmp_path, cache)
    folds = [out.run_split(split, 0) for split in out.splits(0)]
    assert [fold.test_corpora for fold in folds] == [("other",), ("tiny",)]
    scores = left_out_metrics(folds)
    assert scores["left_out_ua_mean"] == pytest.approx(np.mean(list(scores["left_out_ua"].values())), abs=0.1)
    # The errors of two corpora may cancel but cannot add up.
    assert 0 <= scores["left_out_together"]["ece"] <= scores["left_out_ece_mean"] + 1e-3 <= 1
    twins = left_out_metrics([folds[0], replace(folds[0], fold="without-its-twin")])
    # Two copies of one corpus count like that corpus. The most confident 70 % of the clips may differ by one clip.
    assert twins["left_out_together"]["ua"] == twins["left_out_ua_mean"]
    assert twins["left_out_together"]["ua_at_70"] == pytest.approx(twins["left_out_ua_at_70"], abs=10)


def test_the_command_trains_from_a_file_and_refuses_to_overwrite_a_run(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "variant: lightsernet\ncorpora: [tiny]\nlabels: [angry, sad]\nfolds: 2\nvalidation_speakers: 0.34\n"
        "features: {scale: standard, n_mels: 40, length_s: 0.8}\nepochs: 1\nbatch: 8\n",
        encoding="utf-8",
    )
    words = ["train", str(recipe), "--corpora-root", str(corpora), "--workers", "1", "--threads", "1", "--folds", "0"]
    assert cli.main([*words, "--dry-run"]) == 0
    assert "fold-1-of-2" in capsys.readouterr().out
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["folds"] == 1
    assert "resume" not in (tmp_path / "runs" / "tiny-honest" / "train.log").read_text(encoding="utf-8")
    assert cli.main(words) == 1
    assert "add --resume" in capsys.readouterr().err
    with (tmp_path / "runs" / "tiny-honest" / "train.log").open("ab") as other:
        assert try_lock(other)  # as another process that trains in this folder
        assert cli.main([*words, "--resume"]) == 1
        assert "another process is training there" in capsys.readouterr().err
    assert cli.main([*words, "--resume"]) == 0
    assert cli.main([*words[:-1], "1-5", "--resume"]) == 1
    assert "--folds: there is no fold 2; this protocol has the folds 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "folds"), [("0", {0}), ("0,2", {0, 2}), ("0-2,9", {0, 1, 2, 9}), ("3-3", {3})])
def test_folds_are_given_as_numbers_and_ranges(text: str, folds: set[int]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["recipe.yaml", "--folds", text]).folds == folds


@pytest.mark.parametrize("text", ["", "two", "0,", "-1", "2-", "4-2", "1-2-3", "1.5"])
def test_folds_that_are_not_numbers_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "recipe.yaml", f"--folds={text}"])
    assert "is not a list of numbers such as 0,2 or 0-4" in capsys.readouterr().err


def test_training_works_without_matplotlib(
    material: Material, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = trainer(make_recipe(epochs=1), material, tmp_path / "run", cache)
    fitted, *_ = run.fit(run.splits(0)[0], 0)
    assert len(fitted.history) == 1 and not list((tmp_path / "run").rglob("*.png"))


def test_a_failed_plot_neither_stops_the_training_nor_hides_why_it_stopped(
    material: Material, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("streamser.evaluation.plots.plot_curves", broken)
    run = trainer(make_recipe(epochs=1), material, tmp_path / "run", cache)
    assert run.fit(run.splits(0)[0], 0)[0].history

    def unplug(*_: object) -> None:
        raise KeyboardInterrupt

    stopped = Trainer(make_recipe(epochs=2), material, tmp_path / "stopped", RunOptions(cache=cache, on_epoch=unplug))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(stopped.splits(0)[0], 0)


def test_the_command_lists_the_published_variants(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--list"]) == 0
    assert "lightsernet" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file store: Linux and macOS")
def test_two_processes_train_the_same_network_as_one(corpora: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(  # without batch norm and dropout, which would differ between the processes
        "variant: sepconv-n1-wce\ncorpora: [tiny]\nlabels: [angry, sad]\nprotocol: ship\nvalidation_speakers: 0.34\n"
        "features: {length_s: 0.8}\nloss: {weighted: false}\nepochs: 2\nbatch: 8\npasses_per_epoch: 32\n",
        encoding="utf-8",
    )
    launcher = [
        "torch.distributed.run",
        *["--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", "29571", "-m"],
    ]
    rows = {}
    for name, words in (("one", []), ("two", launcher)):
        command = [
            *(sys.executable, "-m", *words, "streamser", "train", str(recipe), "--corpora-root", str(corpora)),
            *("--out", str(tmp_path / name), "--cache", str(tmp_path / "cache"), "--threads", "1", "--workers", "1"),
            *("--compute", "cpu"),
        ]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert load(tmp_path / name / "tiny").labels == ("angry", "sad")
        last = done.stdout.splitlines()[-1]  # not all scores, which are hundreds of numbers
        assert last.startswith("wrote ") and "UA of validation speakers" in last and len(last) < 300
        (log,) = (tmp_path / name).rglob("log.jsonl")
        rows[name] = [json.loads(line) for line in log.read_text().splitlines()]
    losses = {name: [row["val_loss"] for row in of] for name, of in rows.items()}
    assert losses["two"] == pytest.approx(losses["one"], abs=1e-5)
    assert abs(losses["one"][1] - losses["one"][0]) > 1e-3  # the network has learned
    audio = tone(300.0, 1.0)
    one, two = (load(tmp_path / name / "tiny").predict(audio).scores for name in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-4)


# ---- weights from a file or another checkpoint


def on_samples(**changes: object) -> Recipe:
    plain = {"features": {"length_s": 0.96}, "feature_augment": {}, "loss": {}, "epochs": 1, "variant": "whisper"}
    return make_recipe(**{**plain, **changes})


def test_a_frozen_encoder_comes_from_its_file_and_then_from_the_checkpoint(
    material: Material, tmp_path: Path, cache: Path, encoder: Path
) -> None:
    one = trainer(on_samples(start=str(encoder)), material, tmp_path / "one", cache)
    one.run_split(one.splits(0)[0], 0)
    folder = tmp_path / "one" / f"{one.splits(0)[0].name}-s0" / "bundle"
    bundle = load_bundle(folder)
    shipped, original = bundle.weights(), load_file(encoder)
    for name, value in original.items():
        assert shipped[name].astype(np.float16).tobytes() == value.numpy().tobytes()
    assert bundle.size_bytes < 21e6  # two files of 4.7 million values in half precision
    other = trainer(on_samples(start=str(folder)), material, tmp_path / "other", cache)
    net = other.setup.build()
    assert torch.equal(net.encoder.conv2.weight.half(), original["encoder.conv2.weight"])
    assert not np.allclose(net.head.weight.detach().numpy(), shipped["head.weight"])  # the head is trained again


def test_a_head_on_stored_encoder_output_gives_the_scores_of_the_whole_network(
    material: Material, tmp_path: Path, cache: Path, encoder: Path
) -> None:
    recipe = on_samples(start=str(encoder), epochs=3, copies=1, augment={"gain_probability": 1.0})
    one = trainer(recipe, material, tmp_path, cache)
    split = one.splits(0)[0]
    fitted, features, received = one.fit(split, 0)
    rows = one.part(split.test).rows
    recordings = build_store(material.clips, features, Copies(recipe.augment, 1), cache=cache)
    whole = clip_logits(fitted.net, BatchMaker(recordings, features, FeatureAugment()), rows, torch.device("cpu"))
    np.testing.assert_allclose(
        clip_logits(fitted.net.trained(), received, rows, torch.device("cpu")), whole, atol=2e-3, rtol=1e-3
    )
    assert np.ptp(whole, axis=0).min() > 0.05
    again = trainer(recipe, material, tmp_path / "again", cache)
    assert again.stores.clips.key == one.stores.clips.key  # the stored output is used again
    louder = trainer(replace(recipe, feature_augment=FeatureAugment(crop_probability=1.0)), material, tmp_path, cache)
    assert louder.stores.clips.key != one.stores.clips.key


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("", "name a checkpoint or a file with them under start"),
        ("nowhere.safetensors", "nowhere.safetensors: no such file"),
        ("lightsernet", "lightsernet has no tensor that fits Whisper"),
    ],
)
def test_initial_weights_that_are_missing_or_do_not_fit_are_reported(
    material: Material, tmp_path: Path, cache: Path, start: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        trainer(on_samples(start=start), material, tmp_path, cache)


def test_a_file_that_is_not_safetensors_is_reported(material: Material, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "words.safetensors").write_text("not weights")
    with pytest.raises(ConfigError, match=r"words.safetensors: not a safetensors file"):
        trainer(make_recipe(start=str(tmp_path / "words.safetensors")), material, tmp_path, cache)


def pretrained_weights(path: Path, corpora: str) -> Path:
    """A file like those of tools/pretrain_tokens.py: the weights below the head, and the corpora."""
    torch.manual_seed(5)
    below = {name: value for name, value in LightSerNet(2).state_dict().items() if not name.startswith("head.")}
    save_file(below, path, {"pretrained_on": corpora})
    return path


def test_a_training_starts_from_a_file_in_a_folder_of_checkpoints_and_the_checkpoint_records_its_corpora(
    material: Material, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMSER_MODELS", str(tmp_path))
    file = pretrained_weights(tmp_path / "start.safetensors", "readings,calls")
    one = trainer(make_recipe(start="start.safetensors", epochs=1), material, tmp_path / "run", cache)
    begun = one.setup.build().state_dict()
    for name, value in load_file(file).items():
        assert torch.equal(begun[name], value)
    split = one.splits(0)[0]
    one.check_origin(split, 0)
    one.run_split(split, 0)
    bundle = load_bundle(tmp_path / "run" / f"{split.name}-s0" / "bundle")
    assert bundle.provenance["pretrained_on"] == ["readings", "calls"]
    assert "learned without labels on readings, calls" in (bundle.path / "README.md").read_text()
    again = trainer(make_recipe(start=str(bundle.path)), material, tmp_path / "again", cache)
    again.check_origin(split, 0)
    heard = [replace(clip, corpus="calls") for clip in split.test]
    with pytest.raises(ProtocolError, match="pretrained on calls, which this fold tests on"):
        again.check_origin(replace(split, test=tuple(heard)), 0)  # a checkpoint passes the record on


def test_a_fold_that_tests_on_a_corpus_of_the_pretraining_is_refused(
    material: Material, tmp_path: Path, cache: Path
) -> None:
    file = pretrained_weights(tmp_path / "start.safetensors", "readings,tiny")
    one = trainer(make_recipe(start=str(file)), material, tmp_path, cache)
    split = one.splits(0)[0]
    for check in (one.check_origin, one.run_split):
        with pytest.raises(ProtocolError, match=r"pretrained on tiny, which this fold tests on"):
            check(split, 0)
    plain = replace(split, test=tuple(replace(clip, style=PLAIN, corpus="readings") for clip in split.test))
    one.check_origin(plain, 0)  # plain speech may have been in it; the card names it


def test_a_fold_that_tests_on_what_its_first_checkpoint_was_trained_on_is_refused(
    material: Material, tmp_path: Path, cache: Path, encoder: Path
) -> None:
    first = trainer(make_recipe(epochs=1), material, tmp_path / "first", cache)
    one, other = first.splits(0)
    first.run_split(one, 0)
    folder = str(tmp_path / "first" / f"{one.name}-s0" / "bundle")
    second = trainer(make_recipe(start=folder, epochs=1), material, tmp_path / "second", cache)
    second.check_origin(one, 0)
    for check in (second.check_origin, second.run_split):
        with pytest.raises(ProtocolError, match=r"was trained on tiny/s.*, which this fold tests on"):
            check(other, 0)
    on_encoder = trainer(on_samples(start=str(encoder), epochs=1), material, tmp_path / "encoder", cache)
    on_encoder.run_split(on_encoder.splits(0)[0], 0)
    folder = str(tmp_path / "encoder" / f"{one.name}-s0" / "bundle")
    frozen = trainer(on_samples(start=folder), material, tmp_path / "frozen", cache)
    for split in frozen.splits(0):
        frozen.check_origin(split, 0)  # only the encoder is copied, which no training changes


@pytest.mark.parametrize(
    "changes",
    [{"train_window_s": 0.5}, {"feature_augment": {"pause_probability": 0.5}}, {"feature_augment": {"tilt_db": 3.0}}],
    ids=["pieces", "pauses", "colour"],
)
def test_changes_for_every_batch_are_refused_with_a_frozen_encoder(
    material: Material, tmp_path: Path, cache: Path, encoder: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(
        ConfigError,
        match=r"train_window_s cannot be used with|(pause_probability|tilt_db) would be drawn for every batch",
    ):
        trainer(on_samples(start=str(encoder), **changes), material, tmp_path, cache)
