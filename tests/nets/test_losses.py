"""Each loss equals values computed in NumPy, and its gradient equals finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from streamser.nets.layers import CosineHead, NetOutput
from streamser.nets.losses import LossSpec, SerLoss, class_weights

CLASSES, DIM, CLIPS = 3, 5, 6
COUNTS = [10, 20, 70]
TARGETS = np.array([0, 1, 2, 2, 1, 0])
DIFFICULTY = np.array([0, 1, 2, 0, 1, 2])
SHARES = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0.25, 0.75], [0, 0, 1], [0.2, 0.8, 0], [1, 0, 0]])


class Batch:
    """A network's output for six clips, and the frames, in float64."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.logits = rng.normal(0.0, 2.0, (CLIPS, CLASSES))
        self.embedding = rng.normal(0.0, 1.0, (CLIPS, DIM))
        self.frames = rng.uniform(0.0, 1.0, (CLIPS, 4, 3))
        self.reconstruction = rng.uniform(0.0, 1.0, (CLIPS, 4, 3))

    def output(self) -> NetOutput:
        return NetOutput(*(torch.from_numpy(v) for v in (self.logits, self.embedding, self.reconstruction)))

    def loss(self, spec: LossSpec) -> float:
        module = built(spec)
        return float(loss_of(module, self.output(), torch.from_numpy(self.frames)).detach())

    def log_p(self) -> np.ndarray:
        """The log-probability of each clip's true class."""
        shown = self.logits - self.logits.max(axis=1, keepdims=True)
        return (shown - np.log(np.exp(shown).sum(axis=1, keepdims=True)))[np.arange(CLIPS), TARGETS]


def built(spec: LossSpec) -> SerLoss:
    module = spec.build(CLASSES, DIM, COUNTS).double()
    if module.centres is not None:
        torch.manual_seed(1)
        torch.nn.init.normal_(module.centres)
    return module


def loss_of(module: SerLoss, output: NetOutput, frames: Tensor) -> Tensor:
    difficulty, shares = torch.from_numpy(DIFFICULTY), torch.from_numpy(SHARES)
    return module(output, torch.from_numpy(TARGETS), frames=frames, difficulty=difficulty, shares=shares)


def test_softmax_is_the_mean_negative_log_probability() -> None:
    batch = Batch()
    assert batch.loss(LossSpec()) == pytest.approx(-batch.log_p().mean())


def test_softmax_of_even_odds_is_the_logarithm_of_the_number_of_classes() -> None:
    output = NetOutput(torch.zeros(2, 4), torch.zeros(2, DIM))
    loss = LossSpec().build(4, DIM)(output, torch.tensor([0, 3]))
    assert float(loss) == pytest.approx(math.log(4.0))


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    batch = Batch()
    log_sum = np.log(np.exp(batch.logits).sum(axis=1, keepdims=True))
    target = np.full((CLIPS, CLASSES), 0.1 / CLASSES)
    target[np.arange(CLIPS), TARGETS] += 0.9
    expected = -(target * (batch.logits - log_sum)).sum(axis=1).mean()
    assert batch.loss(LossSpec(label_smoothing=0.1)) == pytest.approx(expected)


def test_class_weights_are_inverse_frequencies_with_mean_one_over_the_training_set() -> None:
    weights = class_weights(COUNTS).numpy()
    np.testing.assert_allclose(weights, 100.0 / (3 * np.array(COUNTS)), rtol=1e-6)
    assert np.average(weights, weights=COUNTS) == pytest.approx(1.0)


def test_weighted_loss_weighs_each_clip_by_its_class() -> None:
    batch = Batch()
    weights = 100.0 / (3 * np.array(COUNTS))
    assert batch.loss(LossSpec(weighted=True)) == pytest.approx(-(weights[TARGETS] * batch.log_p()).mean(), rel=1e-6)


@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, 1.0), (2.0, 1.0), (2.0, 4.0), (5.0, 2.0)])
def test_focal_loss_is_cross_entropy_times_alpha_times_a_power_of_1_minus_p(gamma: float, alpha: float) -> None:
    batch = Batch()
    expected = (-alpha * (1.0 - np.exp(batch.log_p())) ** gamma * batch.log_p()).mean()
    assert batch.loss(LossSpec(kind="focal", gamma=gamma, alpha=alpha)) == pytest.approx(expected)


def test_focal_loss_of_an_easy_clip_is_96_percent_lower_than_cross_entropy_as_in_the_paper() -> None:
    # Tripathi et al. 2019, 3.3: p = 0.8 and gamma = 2.
    logits = torch.log(torch.tensor([[0.8, 0.1, 0.1]]))
    output = NetOutput(logits, torch.zeros(1, DIM))
    plain = LossSpec().build(CLASSES, DIM)(output, torch.tensor([0]))
    focal = LossSpec(kind="focal", gamma=2.0).build(CLASSES, DIM)(output, torch.tensor([0]))
    assert float(focal / plain) == pytest.approx(0.04)


def test_focal_loss_by_difficulty_uses_the_gamma_and_the_class_weight_of_each_clip() -> None:
    batch = Batch()
    gamma = np.array([0.0, 1.0, 2.0])[DIFFICULTY]
    weight = (100.0 / (3 * np.array(COUNTS)))[TARGETS]
    expected = (-weight * (1.0 - np.exp(batch.log_p())) ** gamma * batch.log_p()).mean()
    assert batch.loss(LossSpec(kind="difficulty_focal", weighted=True)) == pytest.approx(expected, rel=1e-6)


def test_clips_that_all_annotators_agree_on_have_the_plain_loss() -> None:
    batch = Batch()
    module = LossSpec(kind="difficulty_focal").build(CLASSES, DIM)
    easy = torch.zeros(CLIPS, dtype=torch.long)
    loss = module(batch.output(), torch.from_numpy(TARGETS), difficulty=easy)
    assert float(loss) == pytest.approx(-batch.log_p().mean())


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 5.0])
def test_focal_loss_of_a_certain_clip_has_finite_gradients(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0], [-200.0, 0.0, 0.0]], requires_grad=True)
    module = LossSpec(kind="difficulty_focal", gamma_by_difficulty=(gamma,)).build(CLASSES, DIM)
    loss = module(NetOutput(logits, logits), torch.tensor([0, 0]), difficulty=torch.tensor([0, 0]))
    loss.backward()
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())
    assert float(loss.detach()) == pytest.approx((200.0 + math.log(2.0)) / 2)


def test_additive_margin_takes_scale_times_margin_from_the_true_class() -> None:
    # Wang et al. 2018: -log of e^{s (cos - m)} over itself and the others' e^{s cos}.
    s, m = 10.0, 0.4
    rng = np.random.default_rng(3)
    cosine = rng.uniform(-1.0, 1.0, (CLIPS, CLASSES))
    own = np.exp(s * (cosine[np.arange(CLIPS), TARGETS] - m))
    others = np.exp(s * cosine).sum(axis=1) - np.exp(s * cosine[np.arange(CLIPS), TARGETS])
    expected = -np.log(own / (own + others)).mean()
    output = NetOutput(torch.from_numpy(s * cosine), torch.zeros(CLIPS, DIM, dtype=torch.float64))
    module = LossSpec(kind="am_softmax", scale=s, margin=m).build(CLASSES, DIM)
    assert float(module(output, torch.from_numpy(TARGETS))) == pytest.approx(expected)


def test_the_cosine_head_gives_scaled_cosines_for_embeddings_of_any_length() -> None:
    torch.manual_seed(0)
    head = CosineHead(DIM, CLASSES, scale=30.0)
    embedding = Batch().embedding.astype(np.float32)
    w = head.weight.detach().numpy()
    cosine = (embedding @ w.T) / np.linalg.norm(embedding, axis=1)[:, None] / np.linalg.norm(w, axis=1)
    for length in (1.0, 100.0):
        logits = head(torch.from_numpy(embedding * np.float32(length))).detach().numpy()
        np.testing.assert_allclose(logits, 30.0 * cosine, atol=1e-4)
    assert not any(name.endswith("bias") for name, _ in head.named_parameters())
    assert bool((head(torch.zeros(1, DIM)) == 0).all())


def test_soft_labels_are_the_shares_of_the_annotations() -> None:
    batch = Batch()
    log_p = batch.logits - np.log(np.exp(batch.logits).sum(axis=1, keepdims=True))
    assert batch.loss(LossSpec(kind="soft")) == pytest.approx(-(SHARES * log_p).sum(axis=1).mean())
    with pytest.raises(ValueError, match="share of the annotators"):
        built(LossSpec(kind="soft"))(batch.output(), torch.from_numpy(TARGETS))


def test_lq_lies_between_cross_entropy_and_the_absolute_error() -> None:
    batch = Batch()
    p = np.exp(batch.log_p())
    assert batch.loss(LossSpec(kind="lq", q=0.7)) == pytest.approx(((1 - p**0.7) / 0.7).mean())
    assert batch.loss(LossSpec(kind="lq", q=1.0)) == pytest.approx((1 - p).mean())
    assert batch.loss(LossSpec(kind="lq", q=1e-6)) == pytest.approx(-batch.log_p().mean(), rel=1e-3)


def test_with_classification_weight_0_the_loss_is_only_the_other_terms() -> None:
    batch = Batch()
    error = ((batch.reconstruction - batch.frames) ** 2).mean()
    assert batch.loss(LossSpec(classification=0.0, reconstruction=1.0)) == pytest.approx(error)


def test_centre_loss_is_half_the_squared_distance_to_the_centre_of_the_true_class() -> None:
    batch = Batch()
    module = built(LossSpec(centre=4.0))
    assert module.centres is not None
    centres = module.centres.detach().numpy()
    distance = 0.5 * ((batch.embedding - centres[TARGETS]) ** 2).sum(axis=1).mean()
    loss = loss_of(module, batch.output(), torch.from_numpy(batch.frames))
    assert float(loss.detach()) == pytest.approx(-batch.log_p().mean() + 4.0 * distance)


def test_centres_move_to_their_classes_means() -> None:
    batch = Batch()
    module = built(LossSpec(centre=1.0))
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(module, batch.output(), torch.from_numpy(batch.frames)).backward()
        optimizer.step()
    assert module.centres is not None
    means = np.stack([batch.embedding[c == TARGETS].mean(axis=0) for c in range(CLASSES)])
    np.testing.assert_allclose(module.centres.detach().numpy(), means, atol=1e-6)


def test_reconstruction_is_the_mean_squared_error_to_the_input() -> None:
    batch = Batch()
    error = ((batch.reconstruction - batch.frames) ** 2).mean()
    assert batch.loss(LossSpec(reconstruction=2.0)) == pytest.approx(-batch.log_p().mean() + 2.0 * error)


def test_a_loss_with_several_terms_is_the_sum_of_the_terms() -> None:
    batch = Batch()
    parts = [LossSpec(kind="focal"), LossSpec(centre=3.0), LossSpec(reconstruction=0.5)]
    whole = batch.loss(LossSpec(kind="focal", centre=3.0, reconstruction=0.5))
    plain = batch.loss(LossSpec())
    assert whole == pytest.approx(sum(batch.loss(part) for part in parts) - 2 * plain)


SPECS = {
    "softmax": LossSpec(),
    "smoothed, weighted": LossSpec(label_smoothing=0.1, weighted=True),
    "focal": LossSpec(kind="focal", gamma=2.0, alpha=2.0),
    "by difficulty": LossSpec(kind="difficulty_focal", weighted=True),
    "additive margin": LossSpec(kind="am_softmax", scale=10.0, margin=0.4),
    "soft": LossSpec(kind="soft", weighted=True),
    "lq": LossSpec(kind="lq"),
    "centre": LossSpec(centre=4.0),
    "reconstruction": LossSpec(reconstruction=1.0),
    "all": LossSpec(kind="focal", weighted=True, centre=0.5, reconstruction=2.0),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def as_function(spec: LossSpec) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The loss as a function of the tensors that have gradients, and values of these tensors."""
    batch, module = Batch(), built(spec)
    output = batch.output()
    points = [output.logits, output.embedding, output.reconstruction]
    centres = module.centres

    def loss(logits: Tensor, embedding: Tensor, reconstruction: Tensor, *moved: Tensor) -> Tensor:
        if moved:
            del module.centres
            module.centres = moved[0]  # type: ignore[assignment]
        return loss_of(module, NetOutput(logits, embedding, reconstruction), torch.from_numpy(batch.frames))

    if centres is not None:
        points.append(centres.detach())
    return loss, [point.clone().requires_grad_(True) for point in points if point is not None]


@every_spec
def test_gradients_equal_finite_differences(spec: LossSpec) -> None:
    loss, points = as_function(spec)
    assert torch.autograd.gradcheck(loss, points)


@every_spec
def test_gradients_equal_finite_differences_computed_without_torchs_checker(spec: LossSpec) -> None:
    """Each value is changed a little in turn, and the slope of the loss is compared with the gradient."""
    loss, points = as_function(spec)
    gradients = torch.autograd.grad(loss(*points), points, allow_unused=True)
    moved = 0
    for at, gradient in enumerate(gradients):
        for index in np.ndindex(*points[at].shape):
            ends = []
            for step in (1e-6, -1e-6):
                shifted = [point.detach().clone() for point in points]
                shifted[at][index] += step
                ends.append(float(loss(*shifted).detach()))
            slope = 0.0 if gradient is None else float(gradient[index])
            assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)
            moved += abs(slope) > 1e-6
    assert moved >= CLIPS * CLASSES - CLASSES  # the control: most of these slopes are not zero


def test_the_gradient_of_the_cosine_head_is_orthogonal_to_the_embedding() -> None:
    head = CosineHead(DIM, CLASSES, scale=1.0)
    embedding = torch.from_numpy(Batch().embedding).float().requires_grad_(True)
    head(embedding)[:, 0].sum().backward()
    assert embedding.grad is not None
    # A cosine does not change along the vector itself.
    np.testing.assert_allclose((embedding.grad * embedding.detach()).sum(1).numpy(), 0.0, atol=1e-6)


def test_half_precision_outputs_are_scored_in_full_precision() -> None:
    logits = torch.tensor([[8.0, 0.0, 0.0]], dtype=torch.bfloat16)
    loss = LossSpec().build(CLASSES, DIM)(NetOutput(logits, logits), torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(math.log1p(2 * math.exp(-8.0)), rel=1e-4)


def test_only_the_centres_are_parameters() -> None:
    assert list(LossSpec(weighted=True).build(CLASSES, DIM, COUNTS).state_dict()) == []
    assert list(LossSpec(centre=1.0).build(CLASSES, DIM).state_dict()) == ["centres"]


def test_a_loss_without_its_inputs_is_an_error_with_the_reason() -> None:
    output, targets = Batch().output(), torch.from_numpy(TARGETS)
    with pytest.raises(ValueError, match="class_counts"):
        LossSpec(weighted=True).build(CLASSES, DIM)
    with pytest.raises(ValueError, match="class_counts"):
        LossSpec(weighted=True).build(CLASSES, DIM, [1, 2])
    with pytest.raises(ValueError, match="every class needs a clip"):
        class_weights([3, 0])
    with pytest.raises(ValueError, match="difficulty"):
        LossSpec(kind="difficulty_focal").build(CLASSES, DIM)(output, targets)
    with pytest.raises(ValueError, match="decoder"):
        LossSpec(reconstruction=1.0).build(CLASSES, DIM)(output._replace(reconstruction=None), targets, output.logits)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"kind": "hinge"}, "kind must be one of"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"kind": "focal", "label_smoothing": 0.1}, "except for softmax"),
        ({"gamma": -1.0}, "gamma"),
        ({"alpha": 0.0}, "alpha"),
        ({"gamma_by_difficulty": ()}, "gamma_by_difficulty"),
        ({"margin": -0.1}, "margin"),
        ({"centre": -1.0}, "centre"),
    ],
)
def test_an_invalid_loss_is_refused_with_the_rule(changes: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        LossSpec(**changes)  # type: ignore[arg-type]


def test_the_loss_of_another_head_has_no_terms_of_the_networks_own_layers() -> None:
    batch = Batch()
    whole = LossSpec(kind="am_softmax", classification=0.0, centre=3.0, reconstruction=0.5)
    assert batch.loss(whole.alone()) == pytest.approx(-batch.log_p().mean())
    focal = LossSpec(kind="focal", gamma=1.0, centre=3.0)
    assert focal.alone() == LossSpec(kind="focal", gamma=1.0)
