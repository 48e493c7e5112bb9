"""Write a checkpoint's card: description, provenance, figures, limits, and uses that are not allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamser.bundle import NEUTRAL, PRETRAINED_ON
from streamser.calibration import Calibration
from streamser.nets.variant import Variant
from streamser.training.recipe import Recipe

_INT8 = "With 8-bit weights (`engine: onnx-int8`"
_LIMITS_TITLE = "## Limits"
_LIMITS = """\
- It was trained on acted speech. Spontaneous speech is weaker and different; expect more `uncertain` and more wrong
  predictions.
- It is made for one voice at a time. Two people at once, singing, and shouting over music were not in its training.
- It classifies how a voice sounds, not what a person feels. Do not use it to make decisions about people. The EU AI Act
  (Art. 5(1)(f)) bans inferring emotions at work and in education outside medical and safety uses; Art. 50(3) requires
  that the people concerned are informed."""
_CALIBRATED_ON = {"unheard speakers of its folds": "speakers that were left out of its folds"}
"""Current wording for the sources of calibration that have an outdated name in bundle.yaml."""


def write_card(
    recipe: Recipe,
    variant: Variant,
    calibration: Calibration,
    provenance: Mapping[str, Any],
    scores: Mapping[str, Any],
) -> str:
    """The text of a checkpoint's README.md."""
    corpora = ", ".join(f"{name} ({count} clips)" for name, count in provenance["corpora"].items())
    speakers = len(provenance["train_speakers"])
    parameters = f"{provenance['parameters']:,}"
    pretrained = ", ".join(provenance.get(PRETRAINED_ON, ()))
    if provenance.get("frozen"):
        parameters += f", {provenance['learnt']:,} of them trained on these corpora; the others were copied unchanged"
    sections = [
        f"# {recipe.name}\n\n{recipe.description or variant.name}",
        "## Description\n\n"
        + _table(
            ("what", ""),
            [
                ("labels", ", ".join(recipe.labels)),
                ("network", f"{variant.name} ({variant.paper}), parameters: {parameters}"),
                ("trained on", corpora),
                (
                    "speakers",
                    f"{speakers} for training, {len(provenance['validation_speakers'])} for choosing and calibrating",
                ),
                *(
                    [
                        (
                            "start",
                            f"weights that predict a speech encoder's tokens, learned without labels on {pretrained}",
                        )
                    ]
                    if pretrained
                    else []
                ),
                *(
                    [("teachers", ", ".join(f"{one['name']} ({one['split']})" for one in provenance["teachers"]))]
                    if "teachers" in provenance
                    else []
                ),
                ("protocol", f"`{provenance['protocol']}`: {provenance['split']}"),
                ("seed, versions", f"{provenance['seed']}; torch {provenance['torch']}, {provenance['created']}"),
                ("licence", recipe.licence or "see the corpora"),
            ],
        ),
        "## Calibration\n\n" + _calibration(calibration, scores, recipe.labels),
        "## Figures\n\n" + "\n\n".join(part for part in (_scores(scores, provenance), recipe.figures.strip()) if part),
        f"{_LIMITS_TITLE}\n\n{_LIMITS}",
        "## Training\n\n" + _commands(recipe, scores, provenance),
    ]
    return "\n\n".join(sections) + "\n"


def with_int8(card: str, scores: Mapping[str, Any], command: str) -> str:
    """The card with a paragraph about its 8-bit graphs, in place of an earlier one.

    `scores["int8"]` has the figures that `command` measured.
    """
    found = scores["int8"]
    eight = " and ".join(
        f"{found[way]['ua']:.1f} {where}"
        for way, where in (("steps_8", "in streams"), ("whole_8", "on whole files"))
        if way in found
    )
    text = (
        f"{_INT8}) UA is {eight}, {found['whole_32']['ua']:.1f} with 32-bit weights: "
        f"{found['clips']} clips of validation speakers and of corpora that are never trained on, mean of the corpora "
        f"(`{command}`)."
    )
    parts = [part for part in card.split("\n\n") if not part.startswith(_INT8)]
    parts.insert(parts.index(_LIMITS_TITLE), text)
    return "\n\n".join(parts)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _commands(recipe: Recipe, scores: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """The commands that made the checkpoint: the run whose folds calibrate it, if there is one, then its own run."""
    train = f"streamser train models/{recipe.name}/recipe.yaml --corpora-root CORPORA"
    before = {
        "left-out corpora": " --set protocol=leave-one-corpus-out",
        "unheard speakers of its folds": "",
    }.get(scores.get("calibrated_on", ""))
    if before is None:
        return f"```\n{train}\n```"
    epochs = provenance.get("left_out_epochs", recipe.epochs)
    if epochs != recipe.epochs:
        before += f" --set epochs={epochs}"
    seeds = tuple(provenance.get("left_out_seeds", recipe.seeds))
    if seeds != recipe.seeds:
        before += f" --seeds {','.join(map(str, seeds))}"
    run = f"runs/{recipe.name}-left-out"
    ship = f"{train} --set protocol=ship --calibrate-from {run}"
    mean = f" Those of the left-out corpora are means over {len(seeds)} seeds." if len(seeds) > 1 else ""
    return f"```\n{train}{before} --out {run}\n{ship}\n```\n\nThe first run gives the figures above.{mean}"


def _calibration(calibration: Calibration, scores: Mapping[str, Any], labels: Sequence[str]) -> str:
    text = _threshold(calibration, scores)
    if NEUTRAL not in labels:
        return text
    prior = calibration.neutral_prior
    expected = (
        "all labels are equally frequent" if prior is None else f"{100 * prior:.0f} % of the utterances are neutral"
    )
    return f"{text} The predictions assume that {expected}; the setting `recognizer.neutral_prior` changes this."


def _threshold(calibration: Calibration, scores: Mapping[str, Any]) -> str:
    text = f"Temperature {calibration.temperature:.3f}"
    if calibration.bias:
        text += ", class offsets " + ", ".join(f"{value:+.2f}" for value in calibration.bias)
    if not calibration.threshold:
        return text + "; there is no threshold, so low confidence never makes a prediction `uncertain`."
    threshold = scores.get("threshold", {})
    source = scores.get("calibrated_on", "validation speakers")
    text += f", fitted on {_CALIBRATED_ON.get(source, source)}. Below a confidence of "
    text += (
        f"{calibration.threshold:.3f} the prediction is `uncertain`. On the clips on which this threshold was chosen, "
    )
    text += f"{100 * threshold.get('coverage', 0):.0f} % of the predictions are at or above it, and "
    text += f"{100 * (calibration.risk or 0):.0f} % of these are wrong"
    return text + ("." if threshold.get("reached", True) else "; no threshold reaches the requested risk.")


_LEFT_OUT = """\
Corpora that were left out entirely (the same recipe, trained on the others; all their speakers are new), UA %:

"""
_SAME_CORPORA = """\
The same left-out corpora, first utterances, but all clips of each corpus, UA %:

"""
_SCENARIOS = {
    "first": "first utterance of a stream, without a baseline",
    "natural_3": "after 3 utterances, 70 % of them neutral",
    "natural_7": "after 7 such utterances",
    "natural_10": "after 10 such utterances",
    "natural_30": "after 30 such utterances",
    "mixed_10": "after 10 utterances, all labels equally often",
    "one_mood_10": "after 10 utterances with the same label as this one",
    "enrolled_6": "with a profile of 6 neutral utterances",
    "other_speaker_10": "after 10 utterances of another speaker, baseline not reset",
    "two_passes": "all other clips of the speaker known (`label --two-passes`)",
}
_BY_CORPUS = ("first", "natural_10")  # streams for which the card has a table of coverage, risk and ECE by corpus


def _streams(streams: Mapping[str, Mapping[str, Any]]) -> str:
    names = sorted(streams["first"]["of"])
    rows = [
        (
            _SCENARIOS.get(scenario, scenario),
            f"**{row['ua']:.1f}** [{row['ua_interval'][0]:.1f}, {row['ua_interval'][1]:.1f}]",
            *(f"{row['of'][name]['ua']:.1f}" for name in names),
            *_certainty(row),
        )
        for scenario, row in streams.items()
    ]
    each = [
        (_SCENARIOS[scenario], what, *_certainty(row))
        for scenario in _BY_CORPUS
        for what, row in (*sorted(streams[scenario]["of"].items()), ("all pooled", streams[scenario]["pooled"]))
    ]
    return (
        "On corpora that were left out entirely, UA % with its 95 % interval over speakers. Every corpus is scored by "
        "networks trained without it; calibration, threshold and constants were chosen on the other corpora. Covered "
        "is the share of clips at or above the threshold, wrong the share of wrong predictions among them (all labels "
        "have equal weight):\n\n"
        + _table(("streams composed of it", "mean", *names, "covered", "wrong", "ECE"), rows)
        + "\n\nThe same by corpus:\n\n"
        + _table(("streams", "left out", "covered", "wrong", "ECE"), each)
    )


def _certainty(row: Mapping[str, float]) -> tuple[str, str, str]:
    return f"{100 * row['coverage']:.0f} %", f"{100 * row['risk']:.0f} %", f"{row['ece']:.3f}"


def _plain(scores: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    rows = [
        (name, *(f"{100 * row[key]:.0f} %" for key in ("neutral", "mood", "uncertain")))
        for name, row in scores["plain_speech"].items()
    ]
    rows.append(("**mean**", "", f"**{100 * scores['plain_speech_mood']:.0f} %**", ""))
    before = sorted(set(scores["plain_speech"]) & set(provenance.get(PRETRAINED_ON, ())))
    note = f" Without labels, the start weights were trained on {', '.join(before)} before." if before else ""
    return (
        "Plain speech (reading, broadcasts, prompts) of sources that were left out entirely, first utterances, at the "
        f"shipped threshold.{note}\n\n" + _table(("source", "neutral", "angry, happy or sad", "uncertain"), rows)
    )


def _scores(scores: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    parts = []
    if "streams" in scores:
        parts.append(_streams(scores["streams"]))
    if scores.get("plain_speech"):
        parts.append(_plain(scores, provenance))
    if "left_out_ua" in scores:
        rows = [(name, f"{value:.1f}") for name, value in scores["left_out_ua"].items()]
        rows.append(("**mean**", f"**{scores['left_out_ua_mean']:.1f}**"))
        parts.append((_SAME_CORPORA if "streams" in scores else _LEFT_OUT) + _table(("left out", "UA"), rows))
        if scores.get("left_out_together"):
            together = scores["left_out_together"]
            parts.append(
                "Expected calibration error there, temperature fitted on the other left-out corpora: "
                f"{scores['left_out_ece_mean']:.3f} (mean of the corpora), {together['ece']:.3f} "
                "over all of them together, with equal weights. For the 70 % of each corpus's predictions with the "
                f"highest confidence, UA is {scores['left_out_ua_at_70']:.1f} % ({scores['left_out_ua_mean']:.1f} % "
                f"for all); for the same share of all corpora together it is {together['ua_at_70']:.1f} % "
                f"({together['ua']:.1f} % for all)."
            )
    if "validation_ua" in scores:
        parts.append(
            f"Validation speakers, who are not in the training: UA {scores['validation_ua']}, "
            f"WA {scores['validation_wa']} % ({scores['validation_note']})."
        )
    if "folds" in scores:
        parts.append(
            f"The same recipe over {scores['folds']} folds, each tested on speakers left out of its training: "
            f"UA {scores['ua']}, WA {scores['wa']} % ({scores['seeds']} seed, spread {scores['ua_spread']})."
        )
    return "\n\n".join(parts) or "Not measured."
