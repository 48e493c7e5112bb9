"""`streamser models`: list the checkpoints, or show the card of one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from streamser.bundle import Bundle, find_models, load_bundle, model_folders
from streamser.cli.tables import table, terminal_width
from streamser.errors import BundleError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("model", nargs="?", help="name or folder of a checkpoint: verify it and show its card")
    parser.add_argument("--json", action="store_true", help="print everything in bundle.yaml as JSON")


def run(args: argparse.Namespace) -> int:
    """Exit code: 0, or 1 if a checkpoint in the list is damaged."""
    if args.model is not None:
        bundle = load_bundle(args.model)
        print(json.dumps(describe(bundle), indent=2, ensure_ascii=False) if args.json else bundle.card.rstrip())
        return 0
    return _list(as_json=args.json)


def describe(bundle: Bundle) -> dict[str, Any]:
    """The description of a checkpoint, ready for JSON."""
    calibration = bundle.calibration
    return {
        "name": bundle.name,
        "path": str(bundle.path),
        "labels": list(bundle.labels),
        "variant": bundle.variant,
        "licence": bundle.licence,
        "size_bytes": bundle.size_bytes,
        "window_s": bundle.features.length_s,
        "calibration": {"temperature": calibration.temperature, "threshold": calibration.threshold,
                        "risk": calibration.risk},
        "scores": dict(bundle.scores),
        "provenance": dict(bundle.provenance),
    }  # fmt: skip


def _list(*, as_json: bool) -> int:
    good, bad = _load_all()
    if as_json:
        listing = {"models": [describe(bundle) for bundle in good], "errors": bad}
        print(json.dumps(listing, indent=2, ensure_ascii=False))
        return 1 if bad else 0
    if good:
        header = ("name", "variant", "size", "figures", "labels", "licence")
        print(table(header, [_row(bundle) for bundle in good], terminal_width()))
    elif not bad:
        print(f"no checkpoint in {', '.join(str(folder) for folder in model_folders())}")
    for message in bad:
        print(f"damaged: {message}")
    return 1 if bad else 0


def _load_all() -> tuple[list[Bundle], list[str]]:
    """The valid checkpoints, and the errors of the others."""
    good: list[Bundle] = []
    bad: list[str] = []
    for path in find_models().values():
        try:
            good.append(load_bundle(path))
        except BundleError as error:  # noqa: PERF203  # a damaged checkpoint must not hide the others
            bad.append(str(error))
    return good, bad


def _row(bundle: Bundle) -> tuple[str, ...]:
    size = f"{bundle.size_bytes / 1e6:.1f} MB"
    return (
        bundle.name,
        bundle.variant,
        size,
        headline(bundle.scores),
        ", ".join(bundle.labels),
        bundle.licence.partition(":")[0],
    )


_COUNTS = frozenset({"folds", "seeds"})
"""Numbers among the scores that are not metrics."""
_WORDS = {
    "left_out_ua_mean": "UA on left-out corpora",
    "left_out_ua_at_70": "UA of the most confident 70 %",
    "left_out_ece_mean": "calibration error",
    "plain_speech_mood": "plain speech given an emotion",
    "ua": "UA",
    "wa": "WA",
    "ece": "calibration error",
    "validation_ua": "UA of validation speakers",
    "validation_wa": "WA of validation speakers",
}
"""How the listing names the figures of bundle.yaml, in this order; others follow under their own names."""


def headline(scores: Mapping[str, Any]) -> str:
    """The main figures of a checkpoint: the numbers at the top level of its scores.

    >>> headline({"ua": 0.612, "wa": 0.64, "ece": 0.031, "per corpus": {"ravdess": {"ua": 0.7}}})
    'UA 0.612, WA 0.640, calibration error 0.031'
    """
    numbers = {k: v for k, v in scores.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    numbers = {k: v for k, v in numbers.items() if k not in _COUNTS and not k.endswith("_spread")}
    left_out = {k: v for k, v in numbers.items() if not k.startswith("validation_")}
    numbers = left_out or numbers  # figures on left-out corpora are more meaningful than those on validation speakers
    named = [key for key in _WORDS if key in numbers] + [key for key in numbers if key not in _WORDS]
    return ", ".join(f"{_WORDS.get(key, key)} {_short(numbers[key])}" for key in named)


def _short(value: float) -> str:
    """Percentages with one digit after the point, shares with three."""
    return f"{value:.{1 if value > 1 else 3}f}" if isinstance(value, float) else str(value)
