"""Many folds train in parallel, each only once. A failed fold does not stop the others. All stop at the time limit."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
from corpus_maker import make_corpus

from streamser.evaluation.folds import load_folds
from streamser.training.job import JobEnd, jobs_of
from streamser.training.material import Material, gather
from streamser.training.recipe import Recipe, recipe_from
from streamser.training.table import run_jobs


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    make_corpus(root / "tiny", speakers=4, takes=2)
    return root


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return recipe_from(
        {
            "name": "tiny", "variant": "lightsernet", "corpora": ["tiny"], "labels": ["angry", "sad"], "folds": 2,
            "features": {"n_mels": 40, "length_s": 0.8}, "epochs": 2, "batch": 8, "validation_speakers": 0.34,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def material(corpora: Path, recipe: Recipe) -> Material:
    return gather(recipe, corpora, corpora / "cache")


def test_a_recipe_has_one_job_for_each_fold_and_seed(recipe: Recipe, material: Material, tmp_path: Path) -> None:
    several = replace(recipe, seeds=(0, 1))
    names = [job.name for job in jobs_of(several, "m", material, tmp_path / "run")]
    assert names == [f"run fold-{fold}-of-2 s{seed}" for seed in (0, 1) for fold in (1, 2)]
    assert len(jobs_of(several, "m", material, tmp_path / "run", most=1)) == 2


@pytest.mark.slow
def test_processes_train_each_job_only_once(recipe: Recipe, material: Material, tmp_path: Path) -> None:
    good = jobs_of(recipe, "m", material, tmp_path / "good")
    broken = jobs_of(replace(recipe, features={"mfcc": 13}), "m", material, tmp_path / "broken", most=1)

    def run(until: float) -> dict[str, str]:
        ends = run_jobs(
            [*broken, *good], {"m": material}, cache=tmp_path / "cache", devices=["cpu"], processes=2, until=until
        )
        return {end.job.name: end.state for end in ends}

    late = run(time.time() - 1)
    assert set(late.values()) == {"out of time"} and not any(job.done for job in good)
    states = run(time.time() + 1000)
    assert [states.pop(job.name) for job in broken] == [
        "ConfigError: tiny: variant lightsernet takes 40 bins, but features give 13"
    ]
    assert set(states.values()) == {"done"} and all(job.done for job in good)
    written = [(job.place / "fold.json").stat().st_mtime_ns for job in good]
    assert set(run(time.time() + 1000).values()) >= {"done"}
    assert [(job.place / "fold.json").stat().st_mtime_ns for job in good] == written
    assert len(load_folds(tmp_path / "good")) == 2
    assert not list((tmp_path / "good").rglob("last.pt"))


@pytest.mark.slow
def test_a_job_that_the_time_limit_stopped_is_resumed(recipe: Recipe, material: Material, tmp_path: Path) -> None:
    long = replace(recipe, epochs=4000, passes_per_epoch=8)
    (job,) = jobs_of(long, "m", material, tmp_path / "long", most=1)
    places = {"m": material}
    # The start of the worker takes an unknown time. Try longer limits until the job stops in the middle.
    for seconds in (10, 20, 40, 80):
        until = time.time() + seconds
        (end,) = run_jobs([job], places, cache=tmp_path / "cache", devices=["cpu"], processes=1, until=until)
        assert end.state == "out of time"
        if (job.place / "last.pt").exists():
            break
    stopped = len((job.place / "log.jsonl").read_text(encoding="utf-8").splitlines())
    assert 0 < stopped < 4000
    short = replace(job, recipe=replace(job.recipe, epochs=stopped + 2))
    (end,) = run_jobs([short], places, cache=tmp_path / "cache", devices=["cpu"], processes=1)
    assert end.state == "done"
    assert len((job.place / "log.jsonl").read_text(encoding="utf-8").splitlines()) == stopped + 2


@pytest.mark.slow
def test_all_jobs_finish_after_a_process_is_killed(recipe: Recipe, material: Material, tmp_path: Path) -> None:
    jobs = jobs_of(replace(recipe, epochs=80, passes_per_epoch=8), "m", material, tmp_path / "run")
    ends: list[JobEnd] = []

    def train() -> None:
        ends.extend(run_jobs(jobs, {"m": material}, cache=tmp_path / "cache", devices=["cpu"], processes=1))

    thread = threading.Thread(target=train)
    thread.start()
    begun = jobs[0].place / "log.jsonl"
    while not (begun.exists() and begun.stat().st_size):
        thread.join(0.1)
    (worker,) = active_children()
    worker.kill()
    thread.join()
    assert [(end.job, end.state) for end in ends] == [(job, "done") for job in jobs]
