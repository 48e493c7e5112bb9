"""Train the small networks with a teacher, and on labels alone for comparison, within a given time.

    python tools/students_gpu.py OUT --corpora-root CORPORA --minutes 9

Each fold leaves out one corpus, or speakers of EMO-DB. The teachers are trained first, on folds that leave out the same
corpora or speakers; `--teachers whisper=RUN` uses a finished run of a teacher instead. The students follow, one seed
after another, so that if the time ends early, the first seeds are complete for all students. With `--ship`, the
checkpoints are trained at the end; each is calibrated on the finished run of its own student.

The students `idea-...` compare losses and poolings of the papers, each alone, on `lightsernet` with a teacher, and the
students `small-...` on a network that trains six times as fast. The students `size-...` have other numbers of filters,
cepstra and blocks and learn from the labels alone. None of these has a relative head. `--only small,size` trains the
last two groups; without `--only`, all students are trained.

The run folders are in runs/students (`--runs`); a second call with the same options resumes unfinished folds. OUT
receives students.tar.gz (predictions, learning curves and relative head of every fold, no other weights), summary.json
and progress.log. To continue on another machine, unpack the archive at the root of the repository. To try the script on
a CPU in minutes, add `--clips 4 --folds 1 --passes 64 --epochs 1`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from timed_runs import ProgressLog, add_options, end_at, pack, processors, whole_folds

from streamser.corpora.clips import Clip
from streamser.errors import ProtocolError
from streamser.evaluation.adaptation import load_left_out
from streamser.evaluation.folds import load_folds
from streamser.evaluation.foldsummary import summarize
from streamser.training.job import Job, JobEnd, jobs_of
from streamser.training.material import Material, gather, splits_of, with_labels, write_recipe
from streamser.training.options import RunOptions
from streamser.training.recipe import DistilConfig, Recipe, load_recipe
from streamser.training.table import processes_for, run_jobs
from streamser.training.trainer import Trainer
from streamser.training.workers import keep_freed_memory

log = logging.getLogger("students")

KEPT = ("fold.json", "fold.npz", "relative.onnx", "log.jsonl", "recipe.json")
"""Files of a student's run that the archive contains."""
LAST_EPOCHS_S = 40.0
"""No epoch begins in this last part of the time, so that trained folds can still be exported, scored and packed."""
RECIPES = Path("models/recipes")


@dataclass(frozen=True, slots=True)
class Teacher:
    """A run whose checkpoints teach the folds of students that leave out the same corpus or speakers."""

    name: str
    recipe: Path
    protocol: str


@dataclass(frozen=True, slots=True)
class Student:
    """A small network and how its run is trained."""

    name: str
    recipe: Path
    teacher: Teacher
    """Its protocol is also the student's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    taught: bool = True
    """Whether the teacher is used; without it, the recipe is trained on the labels alone, for comparison."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the recipe, none of which changes the clips that it uses."""

    @property
    def material(self) -> str:
        """Name of its clips, which it shares with other students of its recipe; only a teacher adds unlabelled ones."""
        return f"{self.recipe}, {'taught' if self.taught else 'labels'}"


WHISPER = Teacher("whisper", Path("models/whisper/recipe.yaml"), "leave-one-corpus-out")
EMODB = Teacher("whisper-emodb", RECIPES / "whisper-emodb.yaml", "honest-loso")
LIGHTSERNET, SEPCONV = Path("models/lightsernet/recipe.yaml"), Path("models/sepconv/recipe.yaml")
_LEFT_OUT = {"test_corpora": ["emodb", "ravdess", "nemo", "ased", "emovo", "casia"]}  # not those of plain speech
_SMOOTHED = {"weighted": False, "label_smoothing": 0.1}
# One idea of the papers at a time: the ending of the network's name, and the loss (without one, the recipe's).
IDEAS: Mapping[str, tuple[str, Mapping[str, Any] | None]] = {
    "none": ("", None),
    "focal": ("", {"kind": "focal", "weighted": False, "label_smoothing": 0.0}),
    "centre": ("", {"centre": 0.01, **_SMOOTHED}),
    "margin": ("-margin", {}),
    "reconstruction": ("-reconstruction", {"reconstruction": 1.0, **_SMOOTHED}),
    "spread": ("-spread", None),
    "attention": ("-attention", None),
    "combined": ("-combined", None),
    "margin-spread": ("-margin-spread", {}),
}
LABELS_ALONE = ("margin", "spread", "margin-spread")
"""Ideas that are also tried without a teacher."""
SIZES = ("small-40", "small-80", "small-shallow", "smaller", "20")
"""Endings of the names of LightSERNets with other numbers of filters, cepstra and blocks."""


def _compared(name: str, variant: str, loss: Mapping[str, Any] | None = None, *, taught: bool = True) -> Student:
    """A student that is only compared with others, by its answers to single utterances: it has no relative head.

    It begins with random weights, and has the passes and the learning rate of the recipe before it had a start file.
    """
    changes = {**_LEFT_OUT, "variant": variant, "baseline": {"train": False}, "start": "", "lr": 0.002, "epochs": 10}
    return Student(
        name, LIGHTSERNET, WHISPER, taught=taught, changes={**changes, **({} if loss is None else {"loss": loss})}
    )


def _ideas(prefix: str, network: str) -> Iterator[Student]:
    """The ideas on one network, all with a teacher, and some on the labels alone."""
    yield _compared(f"{prefix}-labels", network, taught=False)
    for name in LABELS_ALONE:
        ending, loss = IDEAS[name]
        yield _compared(f"{prefix}-labels-{name}", f"{network}{ending}", loss, taught=False)
    for name, (ending, loss) in IDEAS.items():
        yield _compared(f"{prefix}-{name}", f"{network}{ending}", loss)


PLAN = (
    Student("lightsernet-labels", LIGHTSERNET, WHISPER, taught=False),
    Student("sepconv-labels", SEPCONV, WHISPER, taught=False),
    Student("lightsernet", LIGHTSERNET, WHISPER),
    Student("sepconv", SEPCONV, WHISPER),
    Student("lightsernet-emodb", Path("models/lightsernet-emodb/recipe.yaml"), EMODB),
    *_ideas("idea", "lightsernet"),
    *_ideas("small", "lightsernet-small"),
    *(_compared(f"size-{ending}", f"lightsernet-{ending}", taught=False) for ending in SIZES),
)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line, in the form that `Students` uses."""

    out: Path
    root: Path
    runs: Path
    compute: tuple[str, ...]
    processes: int
    until: float
    clips: int
    folds: int
    changes: Mapping[str, Any]
    teachers: Mapping[str, Path]

    @property
    def cache(self) -> Path:
        return self.runs.parent / "cache"

    def run_options(self) -> RunOptions:
        """Options for work in this process: the first processor of `compute`, and all CPU cores."""
        return RunOptions(cache=self.cache, device=self.compute[0], workers=os.cpu_count() or 1)


def some_of(material: Material, clips: int) -> Material:
    """The material with at most `clips` clips per corpus and label, taken from the speakers in turn; 0 keeps all."""

    def few(of: Sequence[Clip]) -> tuple[Clip, ...]:
        groups: dict[tuple[str, str], dict[str, list[Clip]]] = defaultdict(lambda: defaultdict(list))
        for clip in of:
            groups[clip.corpus, clip.label][clip.speaker].append(clip)
        chosen = []
        for speakers in groups.values():
            rounds = range(max(map(len, speakers.values())))
            order = [members[turn] for turn in rounds for members in speakers.values() if turn < len(members)]
            chosen += order[:clips]
        ids = {clip.id for clip in chosen}
        return tuple(clip for clip in of if clip.id in ids)

    return replace(material, clips=few(material.clips), unlabelled=few(material.unlabelled)) if clips else material


def teacher_recipe(teacher: Teacher, options: Options) -> Recipe:
    """The recipe of a teacher, with the protocol of its students and one seed."""
    return load_recipe(teacher.recipe, {"protocol": teacher.protocol, "seeds": [0], **options.changes})


def student_recipe(student: Student, options: Options) -> Recipe:
    """The recipe of a student, with the run of its teacher as the source of predictions."""
    changes = {"protocol": student.teacher.protocol, "seeds": list(student.seeds), **student.changes}
    recipe = load_recipe(student.recipe, {**changes, **options.changes})
    run = str(run_of(student.teacher, options))
    return replace(recipe, distil=replace(recipe.distil, teachers=(run,)) if student.taught else DistilConfig())


def run_of(teacher: Teacher, options: Options) -> Path:
    """The run folder of a teacher."""
    return options.teachers.get(teacher.name, options.runs / f"teacher-{teacher.name}")


class Students:
    """Trains the teachers and students of a plan, and keeps how each job ended."""

    def __init__(self, plan: Sequence[Student], options: Options, progress: ProgressLog) -> None:
        self.plan, self.options, self.progress = plan, options, progress
        self.ends: list[JobEnd] = []
        self._materials: dict[str, Material] = {}

    def run(self) -> None:
        """Train the teachers that unfinished students need, then the students, until all is done or time is over."""
        for teacher in dict.fromkeys(student.teacher for student in self.plan if student.taught):
            students = [one for one in self.plan if one.taught and one.teacher == teacher]
            if any(not job.done for student in students for job in self._jobs(student)):
                self._teach(teacher)
        left = [job for student in self.plan for job in self._jobs(student) if not job.done]
        unfinished = {student.name for student in self.plan} & {job.folder.name for job in left}
        for student in (one for one in self.plan if one.name in unfinished and self._in_time()):
            self._prepare(student)
        # all students with the first seed, then the next: when time is over, their figures can be compared
        order = {student.name: place for place, student in enumerate(self.plan)}
        self._train(sorted(left, key=lambda job: (job.seed, order[job.folder.name])))

    def material(self, name: str, recipe: Recipe) -> Material:
        """The clips of a recipe; each `name` is read from disk only once."""
        if name not in self._materials:
            whole = gather(recipe, self.options.root, self.options.cache)
            self._materials[name] = some_of(whole, self.options.clips)
        return self._materials[name]

    def _jobs(self, student: Student) -> list[Job]:
        recipe = student_recipe(student, self.options)
        material = self.material(student.material, recipe)
        folder = self.options.runs / student.name
        write_recipe(with_labels(recipe, material), folder)
        return jobs_of(recipe, student.material, material, folder, self.options.folds)

    def _teach(self, teacher: Teacher) -> None:
        if teacher.name in self.options.teachers:
            return
        recipe, folder = teacher_recipe(teacher, self.options), run_of(teacher, self.options)
        material = self.material(f"teacher-{teacher.name}", recipe)
        jobs = jobs_of(recipe, f"teacher-{teacher.name}", material, folder, self.options.folds)
        left = [job for job in jobs if not (job.place / "bundle" / "bundle.yaml").exists()]
        if left and self._in_time():
            self.progress.report(f"teacher {teacher.name}: computing features and encoder outputs")
            write_recipe(recipe, folder)
            Trainer(
                recipe, material, folder, self.options.run_options()
            )  # stores features in the cache, for the processes
            self._train(left)

    def _prepare(self, student: Student) -> None:
        """Compute the features and the teacher's predictions on all cores, and store them for the processes."""
        self.progress.report(f"{student.name}: computing features and the teacher's predictions")
        recipe = student_recipe(student, self.options)
        material = self.material(student.material, recipe)
        trainer = Trainer(recipe, material, self.options.runs / student.name, self.options.run_options())
        if trainer.teachers is not None:
            trainer.teachers.predictions(trainer.splits(recipe.seeds[0])[0], recipe.seeds[0])

    def _train(self, jobs: Sequence[Job]) -> None:
        options = self.options
        self.progress.report(f"{len(jobs)} folds left; {options.processes} processes on {', '.join(options.compute)}")
        for end in run_jobs(
            jobs, self._materials, cache=options.cache, devices=options.compute, processes=options.processes,
            until=options.until,
        ):  # fmt: skip
            self.ends.append(end)
            self.progress.report_end(end)

    def _in_time(self) -> bool:
        return time.time() < self.options.until

    def ship(self) -> None:
        """Train the checkpoint of each student of `whisper` whose run is complete; the teacher is the installed one."""
        for student in (one for one in self.plan if one.taught and one.teacher == WHISPER and not one.changes):
            folder = self.options.runs / student.name
            target = self.options.out / student.name
            if not self._in_time() or target.exists() or any(not job.done for job in self._jobs(student)):
                continue
            changes = {"name": student.name, "protocol": "ship", "distil": {"teachers": [student.teacher.name]}}
            recipe = load_recipe(student.recipe, {**changes, **self.options.changes})
            material = self.material(student.material, recipe)
            trainer = Trainer(recipe, material, folder / "ship", self.options.run_options())
            bundle = trainer.ship(splits_of(recipe, material, 0)[0], 0, target, folder)
            self.progress.report(f"{student.name}: shipped, {bundle.size_bytes / 1e6:.2f} MB")


def tables(runs: Path, plan: Sequence[Student]) -> dict[str, Any]:
    """The summary of each student's finished folds, and the metrics on left-out corpora if there are any."""
    found: dict[str, Any] = {}
    for student in plan:
        folder = runs / student.name
        if not any(folder.glob("*/fold.json")):
            continue
        found[student.name] = {"summary": summarize(load_folds(folder))}
        try:
            risk = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["risk"]
            left_out = load_left_out(folder)
            found[student.name]["left_out"] = left_out.metrics(left_out.calibration(risk)[0], risk)
        except ProtocolError as error:  # too few corpora are finished, or the folds leave out speakers instead
            found[student.name]["left_out"] = str(error)
    return found


def pack_all(students: Students) -> None:
    """Write the archive and summary.json for all students that have a finished fold."""
    options = students.options
    paths = [path for student in students.plan for path in whole_folds(options.runs / student.name, KEPT)]
    pack(options.out / "students.tar.gz", paths, tables(options.runs, students.plan), students.ends)


def _options(args: argparse.Namespace, began: float) -> Options:
    compute = processors(args.compute)
    changes = {"epochs": args.epochs, "passes_per_epoch": args.passes}
    return Options(
        out=args.out,
        root=args.corpora_root,
        runs=args.runs,
        compute=compute,
        processes=args.processes or processes_for(compute[0]),
        until=began + args.minutes * 60 - LAST_EPOCHS_S,
        clips=args.clips,
        folds=args.folds,
        changes={key: value for key, value in changes.items() if value},
        teachers={name: Path(run) for name, _, run in (pair.partition("=") for pair in args.teachers)},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train as many folds as the time allows; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(
        parser,
        Path("runs/students"),
        "train only students whose name begins with one of these texts, separated by commas",
    )
    parser.add_argument(
        "--teachers", nargs="*", default=[], metavar="NAME=RUN", help="finished runs to use as teachers"
    )
    parser.add_argument(
        "--ship", action="store_true", help="also train the checkpoints of students whose run is complete"
    )
    parser.add_argument("--clips", type=int, default=0, help="use at most this many clips of each label of a corpus")
    parser.add_argument("--passes", type=int, default=0, help="clips per epoch, to try the script with fewer")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has one core
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    progress = ProgressLog(args.out)
    options = _options(args, progress.began)
    for folder in (options.runs, options.cache):
        folder.mkdir(parents=True, exist_ok=True)
    students = Students([one for one in PLAN if one.name.startswith(tuple(args.only.split(",")))], options, progress)
    timer = end_at(args.minutes, lambda: pack_all(students))
    students.run()
    if args.ship:
        students.ship()
    pack_all(students)
    progress.report(f"packed {sum(end.state == 'done' for end in students.ends)} folds of this run")
    timer.cancel()
    return 0


if __name__ == "__main__":
    sys.exit(main())
