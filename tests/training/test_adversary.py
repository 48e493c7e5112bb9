"""The adversary removes the speaker from an embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from streamser.corpora.clips import Clip
from streamser.errors import ConfigError
from streamser.training.adversary import Adversary
from streamser.training.recipe import AdversaryConfig, recipe_from

CLIPS = [Clip(Path("x"), "one" if i % 2 else "two", f"s{i % 2}", "angry") for i in range(64)]


def test_the_adversary_gets_the_gradient_of_its_loss_and_the_embedding_gets_the_reversed_one() -> None:
    torch.manual_seed(0)
    adversary = Adversary(AdversaryConfig(of="corpus", weight=0.25, warmup_steps=1), CLIPS, 8)
    embedding = torch.randn(64, 8, requires_grad=True)
    adversary(embedding, np.arange(64)).backward()
    pushed = embedding.grad
    assert pushed is not None
    plain = nn.functional.cross_entropy(adversary.guess(embedding), torch.from_numpy(adversary.group_of))
    (straight,) = torch.autograd.grad(plain, embedding)
    torch.testing.assert_close(pushed, -0.25 * straight)
    assert adversary.guess[0].weight.grad is not None


def test_a_recipe_with_an_unknown_target_of_the_adversary_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"adversary.of: must be one of '', corpus, speaker, not 'room'"):
        recipe_from({"name": "x", "variant": "lightsernet", "adversary": {"of": "room"}})
