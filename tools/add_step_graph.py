"""Add a step graph to checkpoints that were trained before step graphs existed.

    python tools/add_step_graph.py models/lightsernet

Nothing else in the folder changes, except the seal of bundle.yaml.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from streamser.bundle import load_bundle, save_bundle
from streamser.nets.stepgraph import export_step
from streamser.nets.zoo import restore


def add_step(folder: Path) -> None:
    """Export the step graph from the checkpoint's weights and save the folder again."""
    bundle = load_bundle(folder)
    step = export_step(restore(bundle), bundle.features)
    if step is None:
        raise SystemExit(f"{folder}: there is no step graph for variant {bundle.variant} with these features")
    save_bundle(folder, bundle.values, replace(bundle.contents(), step=step))
    print(f"{folder}: step.onnx, {len(step) / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    for path in parser.parse_args().folders:
        add_step(path)
