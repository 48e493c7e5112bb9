"""`streamser export`, and networks that are rebuilt from a checkpoint's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from makers import LABELS, make_bundle
from netmakers import make_net, make_net_bundle

from streamser.bundle import Bundle
from streamser.cli import main
from streamser.errors import BundleError
from streamser.nets.export import export_onnx, open_session, probe_frames, run_session
from streamser.nets.zoo import get, restore

FEATURES = replace(get("sepconv").features, length_s=1.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_net_bundle(tmp_path_factory.mktemp("checkpoints") / "sep", "sepconv", FEATURES)


def test_export_writes_a_graph_that_computes_the_same_as_the_checkpoints_graph(
    checkpoint: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again.onnx"
    assert main(["export", str(checkpoint.path), "--out", str(out)]) == 0
    message = capsys.readouterr().out
    assert "again.onnx" in message and f"logits (batch, {len(LABELS)})" in message
    probe = probe_frames(FEATURES, 3, 40)
    ours, theirs = (run_session(open_session(path.read_bytes()), probe)[0] for path in (out, checkpoint.onnx_path))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert float(np.ptp(ours, axis=0).max()) > 0.01


def test_export_without_out_writes_into_the_working_directory(
    checkpoint: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(checkpoint.path)]) == 0
    assert (tmp_path / "sep.onnx").is_file()


def test_export_refuses_a_checkpoint_whose_graph_has_other_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, other = (make_net("sepconv", FEATURES, seed) for seed in (0, 1))
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    graph = export_onnx(other, FEATURES, len(LABELS))
    make_bundle(tmp_path / "mixed", features=FEATURES, weights=weights, onnx=graph, variant="sepconv")
    out = tmp_path / "mixed.onnx"
    assert main(["export", str(tmp_path / "mixed"), "--out", str(out)]) == 1
    assert "not from the same training" in capsys.readouterr().err
    assert not out.exists()


def test_export_into_a_missing_folder_is_an_error(
    checkpoint: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(checkpoint.path), "--out", str(tmp_path / "no" / "x.onnx")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_restored_network_computes_the_same_logits_as_the_checkpoints_graph(checkpoint: Bundle) -> None:
    net = restore(checkpoint)
    assert not net.training and not any(parameter.requires_grad for parameter in net.parameters())
    probe = probe_frames(FEATURES, 2, 50)
    graph = run_session(open_session(checkpoint.onnx_path.read_bytes()), probe)[0]
    with torch.no_grad():
        np.testing.assert_allclose(net(torch.from_numpy(probe)).logits, graph, atol=1e-4)


def test_a_checkpoint_of_an_unknown_or_another_variant_is_a_bundle_error(checkpoint: Bundle) -> None:
    with pytest.raises(BundleError, match="unknown variant 'sepconf'; did you mean 'sepconv'"):
        restore(replace(checkpoint, variant="sepconf"))
    with pytest.raises(BundleError, match="takes 40 bins, but features give 64"):
        restore(replace(checkpoint, variant="lightsernet"))


def test_a_checkpoint_with_another_networks_weights_is_a_bundle_error(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "foreign", features=FEATURES, variant="sepconv")
    with pytest.raises(BundleError, match="not the weights of variant sepconv"):
        restore(bundle)
