"""The borrowed encoder: one step a frame, deaf to the level, and no training moves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from makers import babble

from streamser.features import extract
from streamser.nets.moonshine import STEP_SAMPLES, Encoder, Moonshine, _rotate, _turns
from streamser.nets.zoo import get

FEATURES = get("moonshine").features


@pytest.fixture(scope="module")
def net() -> Moonshine:
    torch.manual_seed(0)
    made = Moonshine(4).eval()
    with torch.no_grad():  # as if trained: the statistics of untrained layers are all much the same
        made.standard.running_mean.normal_(std=0.1)
        made.standard.running_var.fill_(0.01)
    return made


def heard(seed: int = 0, gain: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(extract(babble(1.0, seed=seed) * np.float32(gain), FEATURES))[None]


@pytest.mark.parametrize("gain", [0.03, 0.3, 3.0])
def test_the_level_changes_nothing(net: Moonshine, gain: float) -> None:
    with torch.no_grad():
        plain, changed, other = net(heard()).logits, net(heard(gain=gain)).logits, net(heard(seed=1)).logits
    assert (plain - changed).abs().max() < 0.02
    assert (plain - other).abs().max() > 0.1  # the control: another voice does


@pytest.mark.parametrize("frames", [1, 2, 3, 50, 125])
def test_there_is_one_step_a_frame(frames: int) -> None:
    encoder, steps = Encoder(1).eval(), []
    encoder.layers[0].register_forward_hook(lambda _, inputs, output: steps.append(output.shape[1]))
    net = Moonshine(4, layers=1).eval()
    net.encoder = encoder
    output = net(torch.zeros(2, frames, STEP_SAMPLES))
    assert steps == [frames]
    assert torch.isfinite(output.logits).all()  # of digital silence, too


def test_training_leaves_the_encoder_alone(net: Moonshine) -> None:
    one = Moonshine(4)
    one.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(one.parameters(), lr=0.1, weight_decay=0.5)
    torch.nn.functional.cross_entropy(
        one.train()(torch.cat([heard(), heard(1)])).logits, torch.tensor([0, 1])
    ).backward()
    optimizer.step()
    for name, value in net.state_dict().items():
        moved = not torch.equal(one.state_dict()[name], value)
        assert moved != name.startswith("encoder."), name


def test_positions_are_told_by_their_distance_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 8, 1, 36).expand(2, 1, 8, 40, 36).unbind(0)
    turn = _turns(torch.zeros(1, 40, 288))
    scores = (_rotate(query, turn) @ _rotate(key, turn).transpose(2, 3))[0, 0]
    torch.testing.assert_close(scores[3, 10], scores[23, 30], atol=1e-4, rtol=1e-4)
    assert (scores[3, 10] - scores[3, 11]).abs() > 1e-3
