"""Print how much the baseline of a stream improves the results, from a run of `streamser train` that left corpora out.

    streamser train models/whisper/recipe.yaml --set protocol=leave-one-corpus-out --seeds 0,1,2 --out runs/left-out
    python tools/measure_baseline.py runs/left-out

Every corpus is scored with a calibration and constants that were chosen on the other corpora. With fewer than three
left-out corpora this is impossible: `--rule whisper` then takes the constants of that checkpoint, and prints a shorter
table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from streamser.bundle import load_bundle
from streamser.evaluation.adaptation import load_corpora, load_left_out
from streamser.evaluation.folds import load_folds
from streamser.evaluation.streammetrics import known_speakers


def print_known_speakers(run: Path, checkpoint: str) -> None:
    """Print UA and macro-F1 of clips on their own, and with a baseline from the speaker's other clips."""
    rule = load_bundle(checkpoint).baseline
    if rule is None:
        raise SystemExit(f"{checkpoint}: has no constants of a baseline")
    corpora = load_corpora(run, load_folds(run), most=1_000_000)
    for name, row in known_speakers(corpora, rule).items():
        print(f"{name:18s} UA {row['ua']:.1f}, macro-F1 {row['macro_f1']:.1f}")


def recipe_risk(run: Path) -> float:
    """The risk for which the run's recipe chooses the threshold, as on the checkpoint's card."""
    return float(json.loads((run / "recipe.json").read_text(encoding="utf-8"))["risk"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--risk", type=float, help="accepted share of wrong predictions (default: the recipe's)")
    parser.add_argument("--rule", metavar="CHECKPOINT", help="take the constants of this checkpoint")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    args = parser.parse_args()
    if args.rule:
        print_known_speakers(args.run, args.rule)
        return
    left_out = load_left_out(args.run)
    risk = recipe_risk(args.run) if args.risk is None else args.risk
    calibration, _ = left_out.calibration(risk)
    metrics = left_out.metrics(calibration, risk)
    if args.json:
        print(json.dumps(metrics, indent=1))
        return
    corpora = sorted({one.name for one in left_out.corpora})
    heads = f"{'UA':>5s} {'interval':12s} {'cover':>6s} {'risk':>5s} {'ECE':>6s}"
    print(f"{'before the clip':18s} {heads}  {'  '.join(corpora)}")
    for name, row in metrics["streams"].items():
        each = "  ".join(f"{row['of'][corpus]['ua']:{len(corpus)}.1f}" for corpus in corpora)
        low, high = row["ua_interval"]
        shares = f"{row['coverage']:6.2f} {row['risk']:5.2f} {row['ece']:6.3f}"
        print(f"{name:18s} {row['ua']:5.1f} [{low:.1f}, {high:.1f}] {shares}  {each}")
    for name, shares in metrics["plain_speech"].items():
        print(f"plain speech, {name}: " + ", ".join(f"{key} {100 * share:.0f} %" for key, share in shares.items()))
    rule = left_out.rule(calibration, risk)
    print("constants chosen on all corpora together:", asdict(rule), asdict(calibration))


if __name__ == "__main__":
    main()
