"""Split clips into train, validation and test parts by named protocols, and refuse a split that leaks.

`honest`: no speaker is in two parts, and everything is chosen on the validation speakers. `paper:<name>`: the split of
that paper, so that its figure can be compared; only if the paper did so may parts share speakers or may the best epoch
be chosen on the test part. No clip may be in two parts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from streamser.corpora.clips import Clip
from streamser.errors import ProtocolError

ChooseOn = Literal["validation", "test", "nothing"]


@dataclass(frozen=True, slots=True)
class Split:
    """Training, validation and test part of the clips, and the rules of the split."""

    name: str
    fold: int
    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]
    protocol: str = "honest"
    """`honest` or `paper:<name>`."""
    choose_on: ChooseOn = "validation"
    """The part that the best epoch is chosen on; `nothing` keeps the last epoch."""

    @property
    def parts(self) -> dict[str, tuple[Clip, ...]]:
        """The parts that are not empty, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: clips for name, clips in named.items() if clips}

    def text(self) -> str:
        """One line for a log or a card."""
        sizes = ", ".join(
            f"{name} {len(clips)} clips of {len({clip.speaker for clip in clips})} speakers"
            for name, clips in self.parts.items()
        )
        epoch = "last epoch kept" if self.choose_on == "nothing" else f"best epoch chosen on {self.choose_on}"
        return f"{self.name} ({self.protocol}, {epoch}): {sizes}"


@dataclass(frozen=True, slots=True)
class PaperProtocol:
    """How one paper split its corpus."""

    name: str
    how: str
    """Description for the card and the REPRODUCTION table."""
    make: Callable[[Sequence[Clip], int], list[Split]]
    """(clips, seed) -> splits."""
    shares_speakers: bool


# ---- the guard


def check_split(split: Split) -> Split:
    """Return the split if its parts share nothing; else a ProtocolError names what two of them share."""
    _check_filled(split)
    for (first, ours), (second, theirs) in combinations(split.parts.items(), 2):
        _refuse(split, first, second, "clips", {c.id for c in ours} & {c.id for c in theirs}, "take each clip once")
        by_digest = {c.digest: c.id for c in ours if c.digest}
        twins = {f"{c.id} = {by_digest[c.digest]}" for c in theirs if c.digest in by_digest}
        _refuse(split, first, second, "the same audio", twins, "leave out one of the two")
        if not _may_share_speakers(split.protocol):
            shared = {c.speaker for c in ours} & {c.speaker for c in theirs}
            way = "split by speaker (honest), or use protocol 'paper:<name>' to repeat a paper that shares them"
            _refuse(split, first, second, "speakers", shared, way)
    return split


def _check_filled(split: Split) -> None:
    if not split.train:
        raise ProtocolError(f"{split.name}: no clips to train on")
    if split.choose_on != "nothing" and not split.parts.get(split.choose_on):
        raise ProtocolError(f"{split.name}: the best epoch is chosen on the {split.choose_on} part, which is empty")
    if split.protocol == "honest" and split.choose_on == "test":
        raise ProtocolError(
            f"{split.name}: an honest protocol chooses the best epoch on validation speakers, not on the test"
        )
    nameless = [clip.id for clips in split.parts.values() for clip in clips if not clip.speaker]
    if nameless and not _may_share_speakers(split.protocol):
        raise ProtocolError(
            f"{split.name}: {_some(nameless)} have no speaker, so they might share one with another part; "
            "give them speakers or leave them out"
        )
    unlearnt = {clip.label for clip in split.test} - {clip.label for clip in split.train}
    if unlearnt:
        raise ProtocolError(
            f"{split.name}: the test part has labels that the training part lacks: {_some(unlearnt)}; "
            "map or drop these labels first"
        )


def _refuse(split: Split, first: str, second: str, what: str, shared: set[str], way_out: str) -> None:
    if shared:
        raise ProtocolError(
            f"{split.name} ({split.protocol}): {first} and {second} share {what}: {_some(shared)}; {way_out}"
        )


def _some(names: Iterable[str], most: int = 4) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def _may_share_speakers(protocol: str) -> bool:
    if protocol == "honest":
        return False
    if protocol not in PAPERS:
        raise ProtocolError(f"unknown protocol '{protocol}'; known are honest, {', '.join(PAPERS)}")
    return PAPERS[protocol].shares_speakers


# ---- honest protocols: whole speakers


def honest_folds(
    clips: Sequence[Clip], n_folds: int | Literal["loso"], seed: int = 0, validation_speakers: int | float = 0.2
) -> list[Split]:
    """Test every speaker once, with a network trained without that speaker; the epoch is chosen on validation speakers.

    The test folds are the same for every seed: they take the speakers of each corpus and gender in the order of their
    names (so six folds of RAVDESS are actors 1-4, 5-8, ...). The seed draws the validation speakers from the other
    folds: `validation_speakers` of each corpus, a number or a share.
    """
    folds = _loso_groups(clips) if n_folds == "loso" else _speaker_groups(clips, n_folds)
    splits = []
    for fold, speakers in enumerate(folds):
        chosen = set(speakers)
        rest = [clip for clip in clips if clip.speaker not in chosen]
        train, validation = _hold_out_speakers(rest, validation_speakers, np.random.default_rng([seed, fold]))
        test = tuple(clip for clip in clips if clip.speaker in chosen)
        name = f"without-{speakers[0]}" if n_folds == "loso" else f"fold-{fold + 1}-of-{n_folds}"
        splits.append(check_split(Split(name, fold, train, validation, test)))
    return splits


EMOBOX_RAVDESS = (
    (1, 11, 20, 21), (4, 10, 12, 14), (8, 9, 19, 23), (3, 5, 7, 24), (2, 15, 16, 18), (6, 13, 17, 22),
)  # fmt: skip
"""RAVDESS's actors in EmoBox's six folds (Ma et al., Interspeech 2024), to compare our figures with EmoBox's."""


def emobox_ravdess(clips: Sequence[Clip], seed: int = 0, validation_speakers: int | float = 0.15) -> list[Split]:
    """EmoBox's folds of RAVDESS; the validation speakers are drawn from the other five folds."""
    actor = {clip.speaker: int("".join(filter(str.isdigit, clip.speaker)) or 0) for clip in clips}
    if {actor[clip.speaker] for clip in clips} != {one for fold in EMOBOX_RAVDESS for one in fold}:
        raise ProtocolError("emobox-ravdess: needs the 24 actors of RAVDESS and no other speaker")
    splits = []
    for fold, actors in enumerate(EMOBOX_RAVDESS):
        rest = [clip for clip in clips if actor[clip.speaker] not in actors]
        train, validation = _hold_out_speakers(rest, validation_speakers, np.random.default_rng([seed, fold]))
        test = tuple(clip for clip in clips if actor[clip.speaker] in actors)
        splits.append(check_split(Split(f"fold-{fold + 1}-of-6", fold, train, validation, test)))
    return splits


def leave_one_speaker_out(clips: Sequence[Clip], seed: int = 0, validation_speakers: int | float = 0.2) -> list[Split]:
    """One fold for each speaker."""
    return honest_folds(clips, "loso", seed, validation_speakers)


def leave_one_corpus_out(
    clips: Sequence[Clip], seed: int = 0, validation_speakers: int | float = 0.1, test_corpora: Sequence[str] = ()
) -> list[Split]:
    """Test each corpus (or each of `test_corpora`) with a network trained, and its epoch chosen, on the others."""
    corpora = sorted({clip.corpus for clip in clips})
    absent = set(test_corpora) - set(corpora)
    if absent or len(corpora) < 2:
        wrong = f"no clips of {_some(absent)}" if absent else "one corpus cannot be left out of one"
        raise ProtocolError(f"leave-one-corpus-out: {wrong}; there are {', '.join(corpora) or 'none'}")
    splits = []
    for fold, corpus in enumerate(test_corpora or corpora):
        rest = [clip for clip in clips if clip.corpus != corpus]
        train, validation = _hold_out_speakers(rest, validation_speakers, np.random.default_rng([seed, fold]))
        test = tuple(clip for clip in clips if clip.corpus == corpus)
        splits.append(check_split(Split(f"without-{corpus}", fold, train, validation, test)))
    return splits


def ship(clips: Sequence[Clip], seed: int = 0, validation_speakers: int | float = 0.1) -> list[Split]:
    """Train on all speakers except a few, on which epoch, temperature and threshold are chosen; no test part."""
    train, validation = _hold_out_speakers(clips, validation_speakers, np.random.default_rng([seed, 0]))
    return [check_split(Split("ship", 0, train, validation, ()))]


def _speakers(clips: Iterable[Clip]) -> dict[str, tuple[str, str]]:
    """Each speaker's corpus and gender, in the order of their names."""
    found: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for clip in clips:
        found[clip.speaker][clip.corpus, clip.gender] += 1
    return {speaker: found[speaker].most_common(1)[0][0] for speaker in sorted(found)}


def _loso_groups(clips: Sequence[Clip]) -> list[list[str]]:
    return [[speaker] for speaker in _speakers(clips)]


def _speaker_groups(clips: Sequence[Clip], n_folds: int) -> list[list[str]]:
    """Divide speakers into folds: those of each corpus and gender evenly, in the order of their names."""
    speakers = _speakers(clips)
    if not 2 <= n_folds <= len(speakers):
        raise ProtocolError(f"{n_folds} folds of {len(speakers)} speakers: take 2 to {len(speakers)} folds")
    folds: list[list[str]] = [[] for _ in range(n_folds)]
    strata: dict[tuple[str, str], list[str]] = defaultdict(list)
    for speaker, stratum in speakers.items():
        strata[stratum].append(speaker)
    for members in strata.values():
        share, spare = divmod(len(members), n_folds)
        # the smallest folds get one speaker more, so that small strata do not all fall into the first fold
        richer = set(sorted(range(n_folds), key=lambda fold: len(folds[fold]))[:spare])
        start = 0
        for fold in range(n_folds):
            stop = start + share + (fold in richer)
            folds[fold] += members[start:stop]
            start = stop
    return [sorted(fold) for fold in folds]


def _hold_out_speakers(
    clips: Sequence[Clip], amount: int | float, rng: np.random.Generator
) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """(train, validation): hold out `amount` speakers of each corpus (a number or a share), genders in turn."""
    by_corpus: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for speaker, (corpus, gender) in _speakers(clips).items():
        by_corpus[corpus][gender].append(speaker)
    chosen: set[str] = set()
    for genders in by_corpus.values():
        queues = [rng.permutation(genders[gender]).tolist() for gender in rng.permutation(sorted(genders))]
        order = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
        wanted = amount if isinstance(amount, int) else round(amount * len(order))
        if len(by_corpus) == 1:
            wanted = max(1, wanted)
        chosen.update(order[: min(wanted, len(order) - 1)])  # a corpus always keeps a speaker to train on
    if not chosen:
        raise ProtocolError(
            f"{amount} of each corpus gives no validation speaker (there are {len(_speakers(clips))} speakers); "
            "ask for more validation speakers, or add a corpus with more speakers"
        )
    train = tuple(clip for clip in clips if clip.speaker not in chosen)
    return train, tuple(clip for clip in clips if clip.speaker in chosen)


# ---- the papers' protocols


def _stratified_subsets(clips: Sequence[Clip], n: int, seed: int) -> list[list[Clip]]:
    """Random subsets of equal size, each with the labels in their overall proportions."""
    rng = np.random.default_rng(seed)
    subsets: list[list[Clip]] = [[] for _ in range(n)]
    place = 0
    for label in sorted({clip.label for clip in clips}):
        members = [clip for clip in clips if clip.label == label]
        for index in rng.permutation(len(members)):
            subsets[place % n].append(members[index])
            place += 1
    return subsets


def _join(subsets: Iterable[list[Clip]]) -> tuple[Clip, ...]:
    return tuple(clip for subset in subsets for clip in subset)


def stratified_folds(clips: Sequence[Clip], n_folds: int, seed: int, protocol: str, choose_on: ChooseOn) -> list[Split]:
    """n stratified random subsets of clips, each the test part once; there is no validation part."""
    subsets = _stratified_subsets(clips, n_folds, seed)
    splits = []
    for fold, test in enumerate(subsets):
        train = _join(subset for other, subset in enumerate(subsets) if other != fold)
        splits.append(Split(f"fold-{fold + 1}-of-{n_folds}", fold, train, (), tuple(test), protocol, choose_on))
    return splits


def stratified_10fold_8_1_1(clips: Sequence[Clip], seed: int = 0) -> list[Split]:
    """Ten stratified subsets: the tenth is always the test, each of the other nine once the validation."""
    subsets = _stratified_subsets(clips, 10, seed)
    splits = []
    for fold in range(9):
        train = _join(subset for other, subset in enumerate(subsets[:9]) if other != fold)
        validation, test = tuple(subsets[fold]), tuple(subsets[9])
        splits.append(Split(f"fold-{fold + 1}-of-9", fold, train, validation, test, "paper:sepconv"))
    return splits


def five_folds_by_session(clips: Sequence[Clip], seed: int = 0) -> list[Split]:
    """Each session is held out once: one of its two speakers, drawn by the seed, for validation, the other as test."""
    sessions = sorted({clip.session or "" for clip in clips})
    if len(sessions) < 2 or "" in sessions:
        raise ProtocolError("folds by session need clips with sessions, at least two; IEMOCAP has them")
    rng = np.random.default_rng(seed)
    splits = []
    for fold, session in enumerate(sessions):
        speakers = sorted({clip.speaker for clip in clips if clip.session == session})
        if len(speakers) != 2:
            raise ProtocolError(
                f"session {session} has {len(speakers)} speakers ({_some(speakers)}), the protocol needs two"
            )
        validator = speakers[int(rng.integers(2))]
        train = tuple(clip for clip in clips if clip.session != session)
        held = [clip for clip in clips if clip.session == session]
        validation = tuple(clip for clip in held if clip.speaker == validator)
        test = tuple(clip for clip in held if clip.speaker != validator)
        splits.append(Split(f"session-{session}", fold, train, validation, test, "paper:parallel-cnn"))
    return splits


def random_55_25_20(clips: Sequence[Clip], seed: int = 0) -> list[Split]:
    """Five random folds of clips, each the test part once; the rest is divided 55 to 25 for training and validation."""
    order = np.random.default_rng(seed).permutation(len(clips))
    splits = []
    for fold, test in enumerate(np.array_split(order, 5)):
        rest = np.random.default_rng([seed, fold]).permutation(np.setdiff1d(order, test))
        n_validation = round(len(clips) * 0.25)
        train, validation, held = (
            tuple(clips[int(i)] for i in part) for part in (rest[n_validation:], rest[:n_validation], test)
        )
        splits.append(Split(f"fold-{fold + 1}-of-5", fold, train, validation, held, "paper:cnn-blstm"))
    return splits


def random_80_20(clips: Sequence[Clip], seed: int = 0) -> list[Split]:
    """One stratified split of four fifths and one fifth, the best epoch chosen on the fifth.

    If a label has only one clip, it is in the training part.
    """
    split = stratified_folds(clips, 5, seed, "paper:lightsernet-report", "test")[0]
    known = {clip.label for clip in split.train}
    single = tuple(clip for clip in split.test if clip.label not in known)
    test = tuple(clip for clip in split.test if clip.label in known)
    return [replace(split, name="80-20", train=(*split.train, *single), test=test)]


PAPERS: dict[str, PaperProtocol] = {
    paper.name: paper
    for paper in (
        PaperProtocol(
            "paper:focal-resnet",
            "stratified 5-fold by clip, an equal number of epochs, speakers shared",
            lambda clips, seed: stratified_folds(clips, 5, seed, "paper:focal-resnet", "nothing"),
            shares_speakers=True,
        ),
        PaperProtocol(
            "paper:parallel-cnn",
            "5 folds by session, one speaker of the held-out session validates, the other is the test",
            five_folds_by_session,
            shares_speakers=False,
        ),
        PaperProtocol(
            "paper:cnn-blstm",
            "random 0.55/0.25/0.2, five folds, speakers shared",
            random_55_25_20,
            shares_speakers=True,
        ),
        PaperProtocol(
            "paper:sepconv",
            "10 stratified subsets, 8 train / 1 validation / 1 fixed test, nine runs, speakers shared",
            stratified_10fold_8_1_1,
            shares_speakers=True,
        ),
        PaperProtocol(
            "paper:lightsernet",
            "stratified 10-fold by clip, best epoch chosen on the test fold, speakers shared",
            lambda clips, seed: stratified_folds(clips, 10, seed, "paper:lightsernet", "test"),
            shares_speakers=True,
        ),
        PaperProtocol(
            "paper:lightsernet-report",
            "one stratified split 80/20, best epoch chosen on the test part, speakers shared",
            random_80_20,
            shares_speakers=True,
        ),
    )
}
"""The papers' protocols. The split 80/20 of `paper:lightsernet-report` follows from the table of its report: only with
these shares is the accuracy on a whole corpus the weighted mean of the accuracies on its parts."""

HONEST = ("honest", "honest-loso", "emobox-ravdess", "leave-one-corpus-out", "poleval-nemo", "ship")
"""The honest protocols a recipe may name."""


def make_splits(
    protocol: str,
    clips: Sequence[Clip],
    *,
    seed: int = 0,
    folds: int = 5,
    validation_speakers: int | float = 0.15,
    test_corpora: Sequence[str] = (),
) -> list[Split]:
    """The splits of a protocol by its name, each checked."""
    if protocol == "honest":
        return honest_folds(clips, folds, seed, validation_speakers)
    if protocol == "honest-loso":
        return leave_one_speaker_out(clips, seed, validation_speakers)
    if protocol == "emobox-ravdess":
        return emobox_ravdess(clips, seed, validation_speakers)
    if protocol == "poleval-nemo":  # PolEval 2025, task 3: nEMO's speakers and language are unknown in training
        return leave_one_corpus_out(clips, seed, validation_speakers, ("nemo",))
    if protocol == "leave-one-corpus-out":
        return leave_one_corpus_out(clips, seed, validation_speakers, test_corpora)
    if protocol == "ship":
        return ship(clips, seed, validation_speakers)
    if protocol in PAPERS:
        return [check_split(split) for split in PAPERS[protocol].make(clips, seed)]
    raise ProtocolError(f"unknown protocol '{protocol}'; known are {', '.join((*HONEST, *PAPERS))}")
