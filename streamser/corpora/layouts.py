"""Read corpora from disk: one reader for each official layout, and one for any folder with a manifest."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PureWindowsPath

from streamser.corpora.clips import Clip, Problem, plain_label
from streamser.errors import CorpusError

Found = Iterator[Clip | Problem]
Reader = Callable[[Path, str], Found]
"""(folder, corpus name) -> a Clip or a Problem for everything that was found."""

CLIP_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
MANIFEST = "manifest.csv"


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout of a corpus's files."""

    name: str
    shape: str
    """The folder's files in words, for the message about a folder without them."""
    matches: Callable[[Path], bool]
    """Whether the folder has this layout; a quick check."""
    read: Reader


def inside(folder: Path, path: Path) -> str:
    """The path within the corpus, without its suffix, the same on every system."""
    return path.relative_to(folder).with_suffix("").as_posix()


def leaves(path: str) -> bool:
    """Whether a path from a manifest leads out of the manifest's folder, on any operating system.

    >>> [leaves(path) for path in ("audio/a.wav", "/etc/passwd", "a/../../b.wav", "C:\\\\a.wav", "a..b/c.wav")]
    [False, True, True, True, False]
    """
    windows = PureWindowsPath(path)
    return ".." in windows.parts or bool(windows.root or windows.drive) or "\0" in path


# ---- any folder with a manifest


def _read_manifest(folder: Path, corpus: str) -> Found:
    manifest = folder / MANIFEST
    try:
        yield from _read_rows(folder, corpus, manifest)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{manifest}: is not UTF-8 text; save it as UTF-8") from error
    except csv.Error as error:
        raise CorpusError(f"{manifest}: is not a table of comma-separated values ({error})") from error


def _read_rows(folder: Path, corpus: str, manifest: Path) -> Found:
    with manifest.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = set(rows.fieldnames or ())
        label_column = "label" if "label" in columns else "emotion"
        missing = [name for name in ("path", label_column, "speaker") if name not in columns]
        if missing:
            raise CorpusError(
                f"{manifest}: no column {' and no column '.join(missing)}; a manifest has path, speaker and label "
                f"(or emotion), this one has {', '.join(sorted(columns)) or 'nothing'}"
            )
        for row in rows:
            yield _manifest_row(folder, corpus, {k: (v or "").strip() for k, v in row.items() if k}, label_column)


def _manifest_row(folder: Path, corpus: str, row: dict[str, str], label_column: str) -> Clip | Problem:
    if not Path(row["path"]).name:  # empty, or a folder such as "."
        return Problem("row without a path", f"{MANIFEST}: {','.join(row.values())}")
    if leaves(row["path"]):
        return Problem(
            "path outside the corpus", row["path"], "a manifest's paths lie below its folder; copy the file in"
        )
    path = folder / row["path"]
    speaker = row["speaker"]
    return Clip(
        path=path,
        corpus=corpus,
        speaker=f"{corpus}/{speaker}" if speaker else "",
        label=plain_label(row[label_column]),
        text_id=row.get("text_id", ""),
        language=row.get("language", ""),
        gender=row.get("gender", "").lower()[:1],
        difficulty=row.get("difficulty") or None,
        session=row.get("session") or None,
        style=row.get("style", "") or row.get("intensity", ""),
        name=Path(row["path"]).with_suffix("").as_posix(),
    )


# ---- corpora whose file names hold all labels


def audio_files(folder: Path) -> list[Path]:
    """Every audio file below a folder, in order, without the hidden files that macOS leaves in archives."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in CLIP_SUFFIXES and path.name[0] != ".")
    return sorted(found)


def _any_named(pattern: re.Pattern[str], *folders: str) -> Callable[[Path], bool]:
    """A check whether a corpus folder, or one of `folders` (globs) below it, has an audio file whose name matches."""

    def matches(root: Path) -> bool:
        places = [root, *(place for folder in folders for place in sorted(root.glob(folder)) if place.is_dir())]
        return any(
            pattern.fullmatch(path.stem) is not None and path.suffix.lower() in CLIP_SUFFIXES
            for place in places
            for path in place.iterdir()
        )

    return matches


@dataclass(frozen=True, slots=True)
class _Named:
    """The fields of `Clip` that an audio file's name gives."""

    speaker: str
    """Name of the speaker within the corpus."""
    label: str
    text_id: str = ""
    language: str = ""
    gender: str = ""
    style: str = ""


@dataclass(frozen=True, slots=True)
class _Unusable:
    """Why a file is not a clip."""

    kind: str
    detail: str = ""


def _by_name(pattern: re.Pattern[str], parse: Callable[[Path, re.Match[str]], _Named | _Unusable]) -> Reader:
    """Read a corpus whose file names, matched by a pattern, give speaker and label."""

    def read(root: Path, corpus: str) -> Found:
        for path in audio_files(root):
            name, match = inside(root, path), pattern.fullmatch(path.stem)
            if match is None:
                yield Problem("foreign file name", name, f"not like {pattern.pattern}")
                continue
            found = parse(path, match)
            if isinstance(found, _Unusable):
                yield Problem(found.kind, name, found.detail)
                continue
            speaker = f"{corpus}/{found.speaker}"
            yield Clip(path=path, corpus=corpus, name=name, **{**asdict(found), "speaker": speaker})

    return read


def _numbered(names: Sequence[str], code: str) -> str:
    """The label of a number in a file name; the number itself if it has no label."""
    number = int(code)
    return names[number] if 0 < number < len(names) else code


EMODB_NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])[a-z]?")
EMODB_EMOTIONS = {
    "W": "angry",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}  # the initials of the German words: Wut, Langeweile, Ekel, Angst, Freude, Trauer
EMODB_MEN = {"03", "10", "11", "12", "15"}


def _emodb_file(path: Path, match: re.Match[str]) -> _Named:
    speaker, text, emotion = match.groups()
    return _Named(
        speaker,
        EMODB_EMOTIONS.get(emotion, emotion),
        text_id=text,
        language="de",
        gender="m" if speaker in EMODB_MEN else "f",
    )


RAVDESS_NAME = re.compile(r"(0[123])-(0[12])-(\d\d)-(0[12])-(0[12])-(0[12])-(\d\d)")
RAVDESS_EMOTIONS = ("", "neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")


def _ravdess_file(path: Path, match: re.Match[str]) -> _Named | _Unusable:
    _, channel, emotion, intensity, statement, _, actor = match.groups()
    if channel == "02":
        return _Unusable("song, not speech")
    return _Named(
        actor,
        _numbered(RAVDESS_EMOTIONS, emotion),
        text_id=statement,
        language="en",
        gender="m" if int(actor) % 2 else "f",
        style="normal" if intensity == "01" else "strong",
    )


ASVP_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d+)-(\d+)-(\d+)-(\d+)-(\d+)(?:-(\d+))?.*")
ASVP_EMOTIONS = (
    *("", "boredom", "neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"),
    *("excited", "pleasure", "pain", "disappointment", "breath"),
)
ASVP_LANGUAGES = {"01": "zh", "02": "en", "04": "fr"}
ASVP_SEVERAL_VOICES = "66"


def _asvp_file(path: Path, match: re.Match[str]) -> _Named | _Unusable:
    _, channel, emotion, _, source_rank, actor, _, _, language, likeness = match.groups()
    if likeness == ASVP_SEVERAL_VOICES:
        return _Unusable("several voices at once")
    return _Named(
        str(int(actor)),
        _numbered(ASVP_EMOTIONS, emotion),
        text_id=source_rank,
        language=ASVP_LANGUAGES.get(language, ""),
        gender="f" if int(actor) % 2 else "m",
        style="speech" if channel == "01" else "nonspeech",
    )


def _read_asvp(root: Path, corpus: str) -> Found:
    # Bonus/, beside Audio/, holds recordings of babies, which are not speech
    audio = root / "Audio"
    return _by_name(ASVP_NAME, _asvp_file)(audio if audio.is_dir() else root, corpus)


CREMAD_NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})")
CREMAD_EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
CREMAD_LEVELS = {"LO": "low", "MD": "medium", "HI": "high"}


def _read_cremad(root: Path, corpus: str) -> Found:
    demographics = root / "VideoDemographics.csv"
    genders: dict[str, str] = {}
    if demographics.is_file():
        with demographics.open(newline="", encoding="utf-8-sig") as file:
            genders = {row["ActorID"]: row["Sex"][:1].lower() for row in csv.DictReader(file)}

    def parse(path: Path, match: re.Match[str]) -> _Named:
        actor, text, emotion, level = match.groups()
        return _Named(
            actor,
            CREMAD_EMOTIONS.get(emotion, emotion),
            text_id=text,
            language="en",
            gender=genders.get(actor, ""),
            style=CREMAD_LEVELS.get(level, ""),
        )

    return _by_name(CREMAD_NAME, parse)(root, corpus)


# one file of the published set is called OA_bite_neutral: an F was lost
TESS_NAME = re.compile(r"(OAF?|YAF)_(\w+?)_(angry|disgust|fear|happy|neutral|ps|sad)", re.IGNORECASE)


def _tess_file(path: Path, match: re.Match[str]) -> _Named:
    speaker, word, emotion = match.groups()
    return _Named(
        "OAF" if speaker.upper().startswith("O") else "YAF",
        "surprise" if emotion.lower() == "ps" else emotion.lower(),  # "pleasant surprise"
        text_id=word.lower(),
        language="en",
        gender="f",
    )


SAVEE_NAME = re.compile(r"(?:(DC|JE|JK|KL)_)?(a|d|f|h|n|sa|su)(\d\d)")
SAVEE_SPEAKERS = ("DC", "JE", "JK", "KL")
SAVEE_EMOTIONS = {
    "a": "angry",
    "d": "disgust",
    "f": "fear",
    "h": "happy",
    "n": "neutral",
    "sa": "sad",
    "su": "surprise",
}


def _savee_file(path: Path, match: re.Match[str]) -> _Named | _Unusable:
    flat, emotion, number = match.groups()
    speaker = flat or path.parent.name
    if speaker not in SAVEE_SPEAKERS:
        return _Unusable("no speaker", f"neither the file nor its folder is one of {SAVEE_SPEAKERS}")
    return _Named(
        speaker,
        SAVEE_EMOTIONS[emotion],
        text_id=f"{emotion}{number}",
        language="en",
        gender="m",
    )


# ---- IEMOCAP: labels, times and votes are in text files beside the audio

IEMOCAP_EMOTIONS = {
    "ang": "angry",
    "dis": "disgust",
    "exc": "excited",
    "fea": "fear",
    "fru": "frustration",
    "hap": "happy",
    "neu": "neutral",
    "oth": "other",
    "sad": "sad",
    "sur": "surprise",
}
# [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
IEMOCAP_TURN = re.compile(r"\[[\d.]+ - [\d.]+\]\s+((Ses\d\d)[FM]_(\S+)_([FM])\S*)\s+(\w+)\s+\[.*")
# C-E2:	Neutral;	() is an annotator's vote; C-F1 and C-M1 are the actors' own votes, which count too
IEMOCAP_VOTE = re.compile(r"C-[EFM]\d+:\s*([^()]*?)\s*\(.*")


def _read_iemocap(root: Path, corpus: str) -> Found:
    for session in sorted(root.glob("Session[1-5]")):
        for dialog in sorted((session / "dialog" / "EmoEvaluation").glob("*.txt")):
            if dialog.name[0] != ".":
                yield from _read_dialog(root, corpus, session, dialog)


def _read_dialog(root: Path, corpus: str, session: Path, dialog: Path) -> Found:
    turn: re.Match[str] | None = None
    votes: list[str] = []
    for line in [*dialog.read_text(encoding="utf-8", errors="replace").splitlines(), "["]:
        if line.startswith("["):  # a new turn, or the end: the turn before it is complete
            if turn is not None:
                yield _iemocap_clip(root, corpus, session, turn, votes)
            turn, votes = IEMOCAP_TURN.fullmatch(line.strip()), []
            if turn is None and line != "[" and "START_TIME" not in line:
                yield Problem("unreadable line", inside(root, dialog), line)
        elif (vote := IEMOCAP_VOTE.fullmatch(line.strip())) is not None:
            votes.append("+".join(plain_label(label) for label in vote[1].split(";") if label.strip()))


def _iemocap_clip(root: Path, corpus: str, session: Path, turn: re.Match[str], votes: list[str]) -> Clip:
    name, number, dialog, gender, code = turn.groups()
    label = IEMOCAP_EMOTIONS.get(code, code)
    path = session / "sentences" / "wav" / name.rpartition("_")[0] / f"{name}.wav"
    return Clip(
        path,
        corpus,
        f"{corpus}/{number}{gender}",  # the letter in a dialog's name is the actor with markers, not the speaker
        label,
        text_id=dialog,
        language="en",
        gender=gender.lower(),
        difficulty=difficulty(label, votes),
        session=number,
        style="improvised" if "impro" in dialog else "scripted",
        votes=tuple(votes),
        name=inside(root, path),
    )


def difficulty(label: str, votes: Sequence[str]) -> str | None:
    """A when all annotations are the label, B from 65 %, C below; None without annotations.

    An annotator who gave two labels made two annotations (Zhong et al. 2020, table 1: four of six, so B).

    >>> difficulty("happy", ["happy", "happy", "happy+excited", "happy+excited"])
    'B'
    """
    annotations = [label for vote in votes for label in vote.split("+") if label]
    if not annotations:
        return None
    share = annotations.count(label) / len(annotations)
    return "A" if share == 1.0 else "B" if share >= 0.65 else "C"


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "manifest",
            f"{MANIFEST} with the columns path, speaker and label (or emotion)",
            lambda folder: (folder / MANIFEST).is_file(),
            _read_manifest,
        ),
        Layout(
            "iemocap",
            "Session1..5, each with dialog/EmoEvaluation/*.txt and sentences/wav/<dialog>/<turn>.wav",
            lambda folder: any(folder.glob("Session[1-5]/dialog/EmoEvaluation/*.txt")),
            _read_iemocap,
        ),
        Layout(
            "emodb",
            "wav/03a01Fa.wav: speaker, sentence, emotion, version",
            _any_named(EMODB_NAME, "wav"),
            _by_name(EMODB_NAME, _emodb_file),
        ),
        Layout(
            "ravdess",
            "Actor_01/03-01-05-01-01-01-01.wav: modality, channel, emotion, intensity, sentence, repetition, actor",
            _any_named(RAVDESS_NAME, "Actor_*", "*/Actor_*"),
            _by_name(RAVDESS_NAME, _ravdess_file),
        ),
        Layout(
            "asvp-esd",
            "Audio/actor_1/03-01-06-01-02-12-02-01-01-16.wav: modality, channel, emotion, intensity, rank, actor, age, "
            "source, language, likeness",
            _any_named(ASVP_NAME, "Audio/*", "actor_*", "*/Audio/*"),
            _read_asvp,
        ),
        Layout(
            "crema-d",
            "AudioWAV/1001_DFA_ANG_XX.wav (actor, sentence, emotion, level) and perhaps VideoDemographics.csv",
            _any_named(CREMAD_NAME, "AudioWAV", "AudioMP3"),
            _read_cremad,
        ),
        Layout(
            "tess",
            "OAF_angry/OAF_back_angry.wav: speaker, word, emotion",
            _any_named(TESS_NAME, "OAF_*", "YAF_*", "*/OAF_*"),
            _by_name(TESS_NAME, _tess_file),
        ),
        Layout(
            "savee",
            "AudioData/DC/a01.wav (speaker, emotion, sentence), or all in one folder as DC_a01.wav",
            _any_named(SAVEE_NAME, "AudioData/*", "ALL", "DC"),
            _by_name(SAVEE_NAME, _savee_file),
        ),
    )
}
"""Every layout by name, in the order in which `auto` tries them."""
