"""A training run as one YAML file: network, corpora, protocol and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from streamser.corpora.benchmarks import ALL_LABELS
from streamser.errors import ConfigError
from streamser.features import FeatureConfig
from streamser.settings import check_choice, check_keys, fill, read_mapping
from streamser.training.augment import AugmentConfig
from streamser.training.featureaugment import FeatureAugment
from streamser.training.optimizers import OPTIMIZERS
from streamser.training.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class AdversaryConfig:
    """An adversary that predicts the corpus or speaker from the embedding (`streamser.training.adversary`)."""

    of: Literal["", "corpus", "speaker"] = ""
    """What the adversary predicts: corpus or speaker; empty for no adversary."""
    weight: float = 0.5
    """Scale of the adversary's reversed gradient in the network."""
    warmup_steps: int = 400
    """Steps over which the adversary's weight rises to its full value; a batch with mixup counts as two."""

    def __post_init__(self) -> None:
        if self.of not in ("", "corpus", "speaker"):
            raise ValueError(f"of: 'corpus' or 'speaker', not {self.of!r}")
        if self.weight <= 0:
            raise ValueError(f"weight: {self.weight} is not above 0; leave `of` empty for no adversary")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierConfig:
    """Recordings without speech, trained towards equal probabilities for all classes (Hendrycks et al., ICLR 2019)."""

    folder: str = ""
    """A folder of recordings, or a corpus's name; empty for none."""
    names: tuple[str, ...] = ("*",)
    """Patterns of the file names to train on; keep other kinds of audio for testing."""
    tones: int = 0
    """Number of generated tones, chords and melodies to add."""
    share: float = 0.1
    """Number of outliers in a batch, relative to its clips."""
    weight: float = 0.5
    """Weight of the outlier loss relative to the clip loss."""

    def __post_init__(self) -> None:
        if self.tones < 0:
            raise ValueError(f"tones: must be 0 or more, not {self.tones}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share: {self.share} is not above 0 and at most 1; leave `folder` empty for none")
        if self.weight <= 0:
            raise ValueError(f"weight: {self.weight} is not above 0; leave `folder` empty for none")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainConfig:
    """Speech that is not acted, labelled neutral: reading, broadcasts, prompts.

    Acted neutral speech is flat and slow. A network trained on it alone often classifies plain reading as happy.
    """

    corpora: tuple[str, ...] = ()
    """Corpus folders, below the corpora root; their clips need no label."""
    weight: float = 0.25
    """How often each corpus is drawn, relative to an emotional corpus."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight: {self.weight} is not above 0; leave `corpora` empty for no plain speech")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineConfig:
    """Training of the relative head, which compares an utterance's embedding with a baseline of the same speaker."""

    train: bool = False
    shrinkage: float = 2.0
    """Weight of the training corpora's mean neutral speech in every baseline; a neutral utterance has weight 1."""
    most: int = 16
    """A training baseline is the mean of 1 to this many neutral clips of the speaker."""
    mistakes: float = 0.5
    """Share of training baselines that also contain clips of any label, with a weight of at most 0.4 each."""

    def __post_init__(self) -> None:
        if not self.shrinkage > 0:
            raise ValueError(f"shrinkage: {self.shrinkage} is not above 0")
        if self.most < 1:
            raise ValueError(f"most: {self.most} is below 1")
        if not 0 <= self.mistakes <= 1:
            raise ValueError(f"mistakes: {self.mistakes} is not within 0..1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig:
    """Distillation: the network is trained on a teacher's predictions in addition to the labels. The teacher gets the
    clean clip, the network an augmented copy."""

    teachers: tuple[str, ...] = ()
    """Checkpoints by name or folder, whose predictions are averaged; empty for no teacher. If a teacher is a run's
    folder, each fold uses the run's checkpoint for the fold of the same name, which left out the same clips."""
    weight: float = 0.5
    """Weight of the teacher's predictions in the loss; the labels have the rest."""
    temperature: float = 2.0
    """Divides the logits of the teacher and of the network: a larger value makes their probabilities more equal."""
    embedding: float = 0.0
    """Weight of the distance between the teacher's embedding and a linear map of the network's."""
    unlabelled: tuple[str, ...] = ()
    """Corpus folders whose clips are trained on the teacher's predictions only, without their labels. Clips that
    `corpora` or `plain` already use with a label are left out.
    """
    unlabelled_share: float = 0.2
    """Share of unlabelled clips among the clips drawn, if the recipe has `balance`."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(
                f"weight: {self.weight} is not above 0 and at most 1; leave `teachers` empty for no teacher"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature: {self.temperature} is not above 0")
        if self.embedding < 0:
            raise ValueError(f"embedding: {self.embedding} is below 0")
        if not 0 < self.unlabelled_share < 1:
            raise ValueError(f"unlabelled_share: {self.unlabelled_share} is not between 0 and 1")
        if self.unlabelled and not self.teachers:
            raise ValueError("unlabelled: clips without labels need teachers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings of a training run; the same recipe and seed give the same weights on a CPU."""

    name: str
    variant: str
    """A row of the zoo: the network, its front end and its loss."""
    start: str = ""
    """Weights to begin with: a checkpoint's name or folder, or a .safetensors file. Every tensor whose name and shape
    match one of the network's is copied, except the head's. Empty: random weights.
    """
    corpora: tuple[str, ...] = ()
    """Corpus folders, below the corpora root."""
    plain: PlainConfig = field(default_factory=PlainConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    judge_only: tuple[str, ...] = ()
    """Corpora (of `corpora`, `plain.corpora` and `distil.unlabelled`) that are never trained on; leave-one-corpus-out
    may test on them."""
    labels: tuple[str, ...] = ("angry", "happy", "neutral", "sad")
    """[all] stands for every label that the clips have."""
    label_map: Mapping[str, str] = field(default_factory=dict)
    """New names of a corpus's labels: {calm: neutral} trains calm clips as neutral."""
    styles: tuple[str, ...] = ()
    """Only clips of these styles, as the corpus names them: [improvised] for half of IEMOCAP. Empty takes all."""
    sessions: tuple[str, ...] = ()
    """Only clips of these sessions, as the corpus names them: [Ses01] for a fifth of IEMOCAP. Empty takes all."""
    quiet_dbfs: float = -46.0
    """Leave out clips whose peak is below this level; the run's left-out.csv names each of them."""
    protocol: str = "honest"
    """honest, honest-loso, leave-one-corpus-out, ship, or paper:<name>."""
    folds: int = 5
    validation_speakers: float = 0.15
    """Share of the training speakers that are not trained on; the epoch, the temperature and the threshold are chosen
    on their clips."""
    test_corpora: tuple[str, ...] = ()
    """leave-one-corpus-out: leave out only these corpora, one at a time (default: every corpus)."""
    seeds: tuple[int, ...] = (0,)
    features: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the variant's FeatureConfig."""
    loss: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the variant's loss."""
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    outliers: OutlierConfig = field(default_factory=OutlierConfig)
    mask_absent_labels: bool = True
    """Compute a clip's loss only over the labels that its corpus has, so that a corpus does not affect other labels.
    A corpus has a label if 2 % of its clips have it; clips with rarer labels are not trained on."""
    epochs: int = 40
    passes_per_epoch: int = 0
    """Clips drawn in an epoch; 0 draws as many as there are training clips."""
    batch: int = 32
    train_window_s: float = 0.0
    """Train on pieces of this length; 0: the network's window. With a network that pools over time, predictions may use
    longer windows."""
    optimizer: str = "adamw"
    """A name in `streamser.training.optimizers.OPTIMIZERS`: adam, adamw, adadelta or sgd."""
    lr: float = 2e-3
    weight_decay: float = 1e-2
    schedule: Schedule = field(default_factory=Schedule)
    gradient_clip: float = 0.0
    """Largest gradient norm; 0 for no limit."""
    ema: float = 0.0
    """Decay of the running average of the weights that is validated and kept; 0 keeps the weights themselves."""
    patience: int = 0
    """Stop after this many epochs without a better validation score; 0 runs to the end."""
    validate_every: int = 1
    norm_clips: int = 0
    """Before each validation, re-estimate batch norm's statistics from this many training clips; 0 keeps the running
    averages, which follow the weights too slowly if the learning rate is large."""
    choose_by: Literal["ua", "wa", "loss", "last"] = "ua"
    """Criterion by which the best epoch is chosen, on the part that the protocol names; `last` keeps the last epoch."""
    balance: tuple[str, ...] = ()
    """Draw evenly over these clip properties, outermost first: corpus, label, speaker."""
    augment: AugmentConfig | None = None
    """Waveform augmentation, computed once into `copies` copies of each clip."""
    copies: int = 0
    augment_by: Literal["clip", "speaker"] = "clip"
    """Draw the room, noise and speed of each copy separately for every clip (clip), or once for all clips of a speaker
    (speaker), which suits the relative head: a speaker's utterances then share a room with the baseline."""
    feature_augment: FeatureAugment = field(default_factory=FeatureAugment)
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the training. A CPU without instructions for bf16 trains in fp32, which is faster there."""
    risk: float = 0.25
    """Accepted share of wrong predictions among those that are not uncertain."""
    licence: str = ""
    """Terms of the corpora, for the card."""
    description: str = ""
    """Description of the checkpoint, for the card."""
    figures: str = ""
    """Further figures for the card, as Markdown, which were measured by other means than a run of this recipe."""

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)


def recipe_from(values: Mapping[str, Any], lines: Mapping[str, str] | None = None, *, where: str = "recipe") -> Recipe:
    """Make a Recipe from plain values and check it; `lines` maps each dotted key to the place where it was written."""

    def line_of(dotted: str) -> str:
        while dotted and dotted not in (lines or {}):
            dotted = dotted.rpartition(".")[0]
        return (lines or {}).get(dotted, where)

    recipe = fill(Recipe, values, line_of)
    check_keys(FeatureConfig, recipe.features, line_of, "features")
    rules = {
        "epochs must be at least 1": recipe.epochs >= 1,
        "batch must be at least 2 (batch norm needs two)": recipe.batch >= 2,
        "lr must be positive": recipe.lr > 0,
        "labels must be at least two, each once, or [all]": recipe.labels == ALL_LABELS
        or len(set(recipe.labels)) == len(recipe.labels) >= 2,
        "ema must be at least 0 and below 1": 0 <= recipe.ema < 1,
        "risk must be above 0 and below 1": 0 < recipe.risk < 1,
        "seeds must name at least one seed": len(recipe.seeds) >= 1,
        "validation_speakers must be above 0 and below 1": 0 < recipe.validation_speakers < 1,
    }
    broken = [rule for rule, held in rules.items() if not held]
    if broken:
        raise ConfigError(f"{where}: " + "; ".join(broken))
    return recipe


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe file; `overrides` replace keys, such as {"epochs": 3} or {"schedule.kind": "cosine"}."""
    known = "the shipped ones are models/*/recipe.yaml and models/recipes/*.yaml"
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe; {known}")
    values, lines = read_mapping(path, "a recipe", known)
    values.setdefault("name", path.parent.name if path.name == "recipe.yaml" else path.stem)
    return recipe_from(*_overridden(values, lines, overrides or {}), where=str(path))


def changed(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe with some values replaced, checked; keys are written as in `load_recipe`."""
    return recipe_from(*_overridden(asdict(recipe), {}, overrides), where=recipe.name)


def _overridden(
    values: dict[str, Any], lines: dict[str, str], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    for dotted, value in overrides.items():
        outer, _, inner = dotted.rpartition(".")
        group = values.setdefault(outer, {}) if outer else values
        if group is None:  # a group that the recipe leaves out, such as augment
            group = values[outer] = {}
        if not isinstance(group, dict):
            raise ConfigError(f"--set {dotted}: {outer} is not a group of keys")
        group[inner or dotted] = value
        lines[dotted] = f"--set {dotted}"
    return values, lines
