"""tools/students_gpu.py trains teachers first, then students and their controls. A second call resumes the work."""

from __future__ import annotations

import json
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from corpus_maker import make_corpus

from streamser.bundle import load_bundle
from streamser.corpora.clips import Clip
from streamser.training.job import Job, JobEnd
from streamser.training.material import Material
from streamser.training.options import RunOptions
from streamser.training.recipe import DistilConfig, load_recipe
from streamser.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import students_gpu
from students_gpu import PLAN, Student, Teacher

CORPORA = ("one", "three", "two")
RECIPE = {
    "variant": "lightsernet",
    "corpora": list(CORPORA),
    "labels": ["angry", "neutral"],
    "label_map": {"sad": "neutral"},
    "protocol": "ship",
    "test_corpora": list(CORPORA),
    "validation_speakers": 0.34,
    "features": {"scale": "standard", "n_mels": 40, "length_s": 0.8},
    "loss": {"weighted": False},
    "baseline": {"train": True},
    "epochs": 2,
    "passes_per_epoch": 16,
    "batch": 8,
    "choose_by": "last",
}


def plan(folder: Path) -> tuple[Student, ...]:
    teacher, student = folder / "teacher.yaml", folder / "student.yaml"
    teacher.write_text(yaml.safe_dump({**RECIPE, "baseline": {}}), encoding="utf-8")
    student.write_text(yaml.safe_dump({**RECIPE, "distil": {"teachers": ["whisper"]}}), encoding="utf-8")
    return (Student("small", student, Teacher("big", teacher, "leave-one-corpus-out"), (0,)),)


def one_after_the_other(
    jobs: Sequence[Job], materials: Mapping[str, Material], *, cache: Path, until: float, **_: object
) -> Iterator[JobEnd]:
    """`run_jobs` without processes, each of which would import torch."""
    for job in jobs:
        if time.time() < until:
            trainer = Trainer(job.recipe, materials[job.material], job.folder, RunOptions(cache=cache))
            trainer.run_split(next(split for split in trainer.splits(job.seed) if split.name == job.fold), job.seed)
        yield JobEnd(job, "done" if time.time() < until else "out of time", 0.0)


@pytest.mark.slow
def test_a_second_call_trains_the_folds_that_the_first_had_no_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "corpora"
    for seed, name in enumerate(CORPORA):
        make_corpus(root / name, speakers=3, takes=2, seed=seed)
    monkeypatch.setattr(students_gpu, "PLAN", plan(tmp_path))
    monkeypatch.setattr(students_gpu, "run_jobs", one_after_the_other)
    runs, out = tmp_path / "runs" / "students", tmp_path / "out"

    def call(minutes: float) -> dict[str, dict[str, object]]:
        command = [str(out), "--corpora-root", str(root), "--runs", str(runs), "--compute", "cpu", "--processes", "1"]
        assert students_gpu.main([*command, "--minutes", str(minutes), "--epochs", "1"]) == 0
        found: dict[str, dict[str, object]] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        return found

    monkeypatch.setattr(students_gpu, "LAST_EPOCHS_S", 1e6)
    assert call(20)["runs"] == {}
    monkeypatch.setattr(students_gpu, "LAST_EPOCHS_S", 0.0)
    found = call(20)
    assert len(found["jobs"]) == 6 and {state for state, _ in found["jobs"].values()} == {"done"}  # type: ignore[misc]
    for name in CORPORA:
        taught = load_bundle(runs / "small" / f"without-{name}-s0" / "bundle").provenance
        assert not [one for one in taught["teacher_speakers"] if one.startswith(f"{name}/")]
    assert set(found["runs"]["small"]["left_out"]["streams"]["first"]["of"]) == set(CORPORA)  # type: ignore[index]
    with tarfile.open(out / "students.tar.gz") as archive:
        names = [Path(name).name for name in archive.getnames()]
    assert names.count("fold.npz") == names.count("relative.onnx") == 3
    assert not [name for name in names if name.endswith(".safetensors")]
    assert call(20)["jobs"] == {}  # no fold is trained twice


def test_a_control_learns_only_from_labels(tmp_path: Path) -> None:
    (student,) = plan(tmp_path)
    options = students_gpu.Options(
        out=tmp_path, root=tmp_path, runs=tmp_path / "runs", compute=("cpu",), processes=1, until=0.0, clips=0, folds=0,
        changes={"epochs": 3}, teachers={},
    )  # fmt: skip
    taught = students_gpu.student_recipe(student, options)
    control = students_gpu.student_recipe(replace(student, taught=False), options)
    assert taught.distil.teachers == (str(tmp_path / "runs" / "teacher-big"),)
    assert replace(taught, distil=DistilConfig()) == control
    assert control.epochs == 3


def test_every_student_leaves_out_the_same_corpora_as_its_teacher() -> None:
    for student in (one for one in PLAN if one.taught):
        recipe = load_recipe(student.recipe, {"protocol": student.teacher.protocol})
        teacher = load_recipe(student.teacher.recipe, {"protocol": student.teacher.protocol})
        assert student.seeds
        for key in ("corpora", "plain", "judge_only", "labels", "label_map", "test_corpora", "validation_speakers"):
            assert getattr(recipe, key) == getattr(teacher, key), key


def test_a_small_selection_of_clips_has_every_label_and_takes_speakers_in_turn() -> None:
    clips = tuple(
        Clip(Path(f"{speaker}-{label}-{take}.wav"), "c", f"c/{speaker}", label)
        for speaker in "abc"
        for label in ("angry", "sad")
        for take in range(3)
    )
    few = students_gpu.some_of(Material(clips, (), {}), 3)
    assert [(clip.speaker, clip.label) for clip in few.clips] == [
        (f"c/{speaker}", label) for speaker in "abc" for label in ("angry", "sad")
    ]
    assert students_gpu.some_of(Material(clips, (), {}), 0).clips == clips


@pytest.mark.parametrize("group", ["idea", "small"])
def test_each_idea_changes_one_thing_in_the_recipe_of_lightsernet(group: str) -> None:
    options = students_gpu.Options(
        out=Path(), root=Path(), runs=Path("runs"), compute=("cpu",), processes=1, until=0.0, clips=0, folds=0,
        changes={}, teachers={},
    )  # fmt: skip
    ideas = {one.name: students_gpu.student_recipe(one, options) for one in PLAN if one.name.startswith(f"{group}-")}
    plain, labels = ideas.pop(f"{group}-none"), ideas.pop(f"{group}-labels")
    assert replace(labels, distil=plain.distil) == plain and not labels.distil.teachers
    for name in students_gpu.LABELS_ALONE:
        alone = ideas.pop(f"{group}-labels-{name}")
        assert alone == replace(ideas[f"{group}-{name}"], distil=labels.distil)
    assert len(plain.test_corpora) == 6 and not set(plain.test_corpora) & set(plain.plain.corpora)
    assert len(ideas) == 8
    for name, recipe in ideas.items():
        assert recipe.distil == plain.distil and recipe.distil.teachers
        assert (recipe.variant, recipe.loss) != (plain.variant, plain.loss), name
        assert replace(recipe, variant=plain.variant, loss=plain.loss) == plain, name
