"""The colors of emotions can be distinguished, also with color vision deficiency, and have enough contrast."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from streamser.colors import COLORS, color_of

# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency",
# severity 1.0, on linear RGB.
EYES = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour: str) -> NDArray[np.float64]:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def cielab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", EYES)
def test_the_colors_of_any_two_emotions_can_be_distinguished(eye: str) -> None:
    seen = {name: cielab(np.array(EYES[eye]) @ linear(colour)) for name, colour in COLORS.items()}
    distances = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in combinations(seen, 2)}
    assert min(distances.values()) >= 19, min(distances, key=lambda pair: distances[pair])


@pytest.mark.parametrize("name", COLORS)
def test_every_color_has_enough_contrast_on_a_dark_background(name: str) -> None:
    light, dark = (float(TO_XYZ[1] @ linear(colour)) for colour in (COLORS[name], "#121417"))
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 2.1, graphical objects


@pytest.mark.parametrize("name", ["ang", "Anger", "happiness", "neu", "fear", "surprise", "boredom", "calmness"])
def test_the_label_names_of_corpora_have_a_color(name: str) -> None:
    assert color_of(name) in COLORS.values()


def test_an_unknown_emotion_gets_its_own_color() -> None:
    assert color_of("awe") == color_of("awe") not in COLORS.values()
