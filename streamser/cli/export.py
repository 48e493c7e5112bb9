"""`streamser export`: build a checkpoint's network from its weights and write it as ONNX again."""

from __future__ import annotations

import argparse
from pathlib import Path

from streamser.bundle import load_bundle
from streamser.errors import BundleError, MissingExtraError, StreamserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("model", metavar="MODEL", help="name or folder of a checkpoint")
    parser.add_argument("--out", metavar="FILE", type=Path, help="file to write (default: ./<name>.onnx)")


def run(args: argparse.Namespace) -> int:
    """Exit code 0 if the new graph agrees with the weights and with the checkpoint's own graph."""
    bundle = load_bundle(args.model)
    try:
        from streamser.nets.export import TOLERANCE, compare_graphs, export_onnx
        from streamser.nets.zoo import restore
    except ImportError as error:
        raise MissingExtraError("streamser export", "torch") from error
    net = restore(bundle)
    graph = export_onnx(net, bundle.features, len(bundle.labels))
    difference = compare_graphs(graph, bundle.graph(), net, bundle.features)
    if not difference <= TOLERANCE:
        raise BundleError(
            f"{bundle.onnx_path}: differs from the graph of the checkpoint's own weights by {difference:.1e}, more "
            f"than {TOLERANCE:.0e}: the two are not from the same training; train or download the checkpoint again"
        )
    out = args.out or Path(f"{bundle.name}.onnx")
    try:
        out.write_bytes(graph)
    except OSError as error:
        raise StreamserError(f"{out}: cannot be written ({error.strerror}); give another file with --out") from error
    print(
        f"{out}: frames (batch, time, {net.bins}) -> logits (batch, {net.n_classes}), "
        f"embedding (batch, {net.embedding_dim}); {len(graph) / 1e6:.1f} MB; "
        f"equal to the checkpoint's graph within {difference:.1e}"
    )
    return 0
