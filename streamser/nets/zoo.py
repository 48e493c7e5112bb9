"""Every published variant of the five papers, and the house's own rows: typed by name, built on request.

Scores are percent as printed: UA, the mean of the classes' recalls, and WA, the share of clips judged right. They
were measured by each paper's own protocol and are not comparable with each other, nor with speaker-independent ones.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from streamser.bundle import Bundle
from streamser.errors import BundleError, ConfigError
from streamser.features import FeatureConfig
from streamser.nets.cnn_blstm import CnnBlstm
from streamser.nets.focal_resnet import FocalResNet
from streamser.nets.layers import SerNet
from streamser.nets.lightsernet import LightSerNet
from streamser.nets.lightsernet_variants import LightSerNetVariant, Pooling
from streamser.nets.losses import LossSpec
from streamser.nets.moonshine import STEP_SAMPLES, Moonshine
from streamser.nets.parallel_cnn import ParallelCnn
from streamser.nets.sepconv import SepConv
from streamser.nets.variant import PublishedRecipe, Variant


def _scores(corpus: str, ua: float, wa: float) -> dict[str, float]:
    return {f"{corpus}_ua": ua, f"{corpus}_wa": wa}


def _focal_resnets() -> Iterator[Variant]:
    """Tripathi et al. 2019, table 4: two inputs by two losses."""
    mel = FeatureConfig(
        sample_rate=22_050,
        window_samples=2048,
        hop_samples=512,
        fft_size=2048,
        center=True,
        n_mels=128,
        mel_min_hz=0.0,
        mel_max_hz=11_025.0,
        length_s=6.0,
        short="zero",
        long="head",
    )
    inputs = {"mel": mel, "mfcc": replace(mel, mfcc=40)}
    losses = {"softmax": LossSpec(), "focal": LossSpec(kind="focal", gamma=2.0)}
    published = {  # UA, WA
        ("mel", "softmax"): (55.8, 70.2),
        ("mel", "focal"): (64.3, 74.2),
        ("mfcc", "softmax"): (56.9, 70.7),
        ("mfcc", "focal"): (66.7, 74.6),
    }
    for (front_end, loss), (ua, wa) in published.items():
        yield Variant(
            name=f"focal-resnet-{front_end}-{loss}",
            paper="Tripathi, Kumar et al. 2019",
            table=f"Table 4, {front_end} with {loss} loss",
            features=inputs[front_end],
            build=partial(FocalResNet, bins=inputs[front_end].bins),
            loss=losses[loss],
            recipe=PublishedRecipe(protocol="paper:focal-resnet"),
            corpus="IEMOCAP improvised, 4 classes",
            published=_scores("iemocap", ua, wa),
            notes="Optimizer, rate and batch are ours. The dB reference is fixed, not each clip's own maximum.",
        )


def _parallel_cnns() -> Iterator[Variant]:
    """Tripathi et al. 2019, table 1: two inputs by softmax with or without centre loss and reconstruction."""
    mel = FeatureConfig(
        window_samples=2048,
        hop_samples=512,
        fft_size=2048,
        center=True,
        n_mels=128,
        mel_min_hz=0.0,
        mel_max_hz=8000.0,
        clip=(-80.0, 20.0),  # dB: from below any room to the loudest speech
        scale="unit",
        length_s=6.0,
        short="zero",
        long="head",
    )
    # The first coefficient is sqrt(128) times the mean level, the others stay within some +-200.
    inputs = {"mel": mel, "mfcc": replace(mel, mfcc=40, floor=1e-8, clip=(-900.0, 300.0))}
    published = {  # UA, WA
        ("mfcc", "s"): (61.2, 70.5),
        ("mfcc", "sa"): (65.4, 72.9),
        ("mfcc", "sc"): (66.1, 73.4),
        ("mfcc", "sac"): (66.7, 74.1),
        ("mel", "s"): (61.9, 71.2),
        ("mel", "sa"): (65.2, 73.1),
        ("mel", "sc"): (66.5, 73.6),
        ("mel", "sac"): (67.2, 74.3),
    }
    for (front_end, terms), (ua, wa) in published.items():
        features = inputs[front_end]
        yield Variant(
            name=f"parallel-cnn-{front_end}-{terms}",
            paper="Tripathi, Ramesh et al. 2019",
            table=f"Table 1, {'+'.join(terms.upper())}, {front_end}",
            features=features,
            build=partial(ParallelCnn, bins=features.bins, decode_frames=features.window_frames if "a" in terms else 0),
            loss=LossSpec(centre=4.0 if "c" in terms else 0.0, reconstruction=1.0 if "a" in terms else 0.0),
            recipe=PublishedRecipe(protocol="paper:parallel-cnn", optimizer="adadelta", lr=1.0),
            corpus="IEMOCAP improvised, 4 classes",
            published=_scores("iemocap", ua, wa),
            notes="Lambda 1 is the paper's best, 4; lambda 2, the rate, the batch and the decoder's sizes are ours, "
            "dropout is the middle of the paper's 25 to 75 %.",
        )


def _cnn_blstms() -> Iterator[Variant]:
    """Table 2: softmax, six additive margins, six focal losses, combined pooling; all on one net."""
    features = FeatureConfig(
        window_samples=400,
        hop_samples=160,
        fft_size=512,
        n_mels=40,
        mel_min_hz=0.0,
        mel_max_hz=8000.0,
        log="ln",
        length_s=7.5,
        short="zero",
        long="head",
    )
    row = Variant(
        name="cnn-blstm-softmax",
        paper="Discriminative feature learning for SER, 2019",
        table="Table 2, baseline",
        features=features,
        build=partial(CnnBlstm, bins=40),
        loss=LossSpec(),
        recipe=PublishedRecipe(protocol="paper:cnn-blstm", patience=10),
        corpus="IEMOCAP, 4 classes",
        published=_scores("iemocap", 62.3, 61.0),
        notes="The batch is ours.",
    )
    yield row
    margins = {  # s, m: UA, WA
        (10, 0.1): (65.7, 64.7),
        (10, 0.2): (65.0, 63.6),
        (10, 0.4): (66.7, 65.6),
        (30, 0.1): (65.1, 63.7),
        (30, 0.2): (63.2, 63.5),
        (30, 0.4): (64.2, 63.6),
    }
    for (s, m), scores in margins.items():
        yield replace(
            row,
            name=f"cnn-blstm-ams-s{s}-m{m}",
            table=f"Table 2, AMS, s = {s}, m = {m}",
            build=partial(CnnBlstm, bins=40, cosine_scale=float(s)),
            loss=LossSpec(kind="am_softmax", scale=float(s), margin=m),
            published=_scores("iemocap", *scores),
        )
    focals = {  # gamma, alpha: UA, WA
        (2, 1): (66.1, 64.9),
        (2, 2): (66.3, 65.5),
        (2, 4): (65.8, 65.2),
        (5, 1): (66.5, 65.0),
        (5, 2): (65.8, 64.6),
        (5, 4): (65.8, 64.1),
    }
    for (gamma, alpha), scores in focals.items():
        yield replace(
            row,
            name=f"cnn-blstm-focal-g{gamma}-a{alpha}",
            table=f"Table 2, FL, gamma = {gamma}, alpha = {alpha}",
            loss=LossSpec(kind="focal", gamma=float(gamma), alpha=float(alpha)),
            published=_scores("iemocap", *scores),
        )
    yield replace(
        row,
        name="cnn-blstm-combined",
        table="Table 2, combined attentive pooling",
        build=partial(CnnBlstm, bins=40, combined=True),
        published=_scores("iemocap", 66.7, 65.2),
    )


def _sepconvs() -> Iterator[Variant]:
    """Zhong et al. 2020: one to six inverted residuals by two losses (table 4), and no attention (table 2)."""
    row = Variant(
        name="",
        paper="Zhong et al. 2020",
        table="",
        features=FeatureConfig(
            window_samples=640,
            hop_samples=160,
            fft_size=1024,
            n_mels=128,
            mel_min_hz=0.0,
            mel_max_hz=8000.0,
            length_s=7.0,
            short="keep",
            long="middle",
        ),
        build=partial(SepConv, bins=128),
        loss=LossSpec(weighted=True),
        recipe=PublishedRecipe(protocol="paper:sepconv", lr=3e-4, batch=64),
        corpus="IEMOCAP, 4 classes, and Emo-DB, 7 classes",
        notes="The paper says 25 % overlap; a 40 ms window every 10 ms is what its sizes speak for. Epochs are ours.",
    )
    losses = {"wce": row.loss, "focal": LossSpec(kind="difficulty_focal", weighted=True)}
    published = {  # IEMOCAP UA, WA with weighted cross entropy, with focal loss; Emo-DB UA, WA
        1: ((70.02, 68.50), (70.48, 69.25), (87.68, 89.37)),
        2: ((70.57, 69.11), (70.61, 69.46), (90.57, 91.42)),
        3: ((70.18, 68.49), (70.40, 68.73), (88.08, 90.64)),
        4: ((69.74, 68.64), (70.31, 68.77), (90.10, 91.81)),
        5: ((70.51, 69.63), (71.72, 70.39), (88.79, 90.83)),
        6: ((69.49, 68.05), (70.66, 69.57), (86.90, 88.18)),
    }
    for blocks, (weighted, focal, emodb) in published.items():
        scores = {
            "wce": {**_scores("iemocap", *weighted), **_scores("emodb", *emodb)},
            "focal": _scores("iemocap", *focal),
        }
        for name, loss in losses.items():
            yield replace(
                row,
                name=f"sepconv-n{blocks}-{name}",
                table=f"Table 4, {blocks} blocks, {'weighted CE' if name == 'wce' else 'focal'} loss",
                build=partial(SepConv, bins=128, blocks=blocks),
                loss=loss,
                corpus=row.corpus if name == "wce" else "IEMOCAP, 4 classes",
                published=scores[name],
            )
    yield replace(
        row,
        name="sepconv-no-attention",
        table="Table 2, no attention",
        build=partial(SepConv, bins=128, blocks=5, attention=False),
        published={**_scores("iemocap", 68.21, 66.73), **_scores("emodb", 80.96, 84.03)},
        notes=f"{row.notes} The figures of Emo-DB are of 4 blocks in the paper, those of IEMOCAP of 5.",
    )


def _lightsernets() -> Iterator[Variant]:
    """Aftab et al. 2022: two lengths by two losses; and the report's three corpora."""
    features = FeatureConfig(
        n_mels=128,
        mel_scale="htk",
        mel_norm="none",
        log="ln",
        floor=1e-6,
        mfcc=40,
        length_s=3.0,
        short="zero",
        long="head",
    )
    row = Variant(
        name="",
        paper="Aftab et al. 2022",
        table="",
        features=features,
        build=partial(LightSerNet, bins=40),
        loss=LossSpec(),
        recipe=PublishedRecipe(
            protocol="paper:lightsernet",
            schedule="steps",
            start_epoch=50,
            every_epochs=20,
            factor=math.exp(-0.15),
            epochs=300,
            weight_decay=1e-6,
        ),
        corpus="",
        notes="The published figures pick the best of 300 epochs on the test fold.",
    )
    three_s, seven_s = "IEMOCAP, 4 classes, and EMO-DB, 7 classes", "IEMOCAP, 4 classes"
    losses = {"ce": LossSpec(), "focal": LossSpec(kind="focal", gamma=2.0)}
    published: dict[tuple[int, str], tuple[str, Mapping[str, tuple[float, float]]]] = {
        (3, "ce"): (
            three_s,
            {"emodb": (94.15, 94.21), "iemocap": (65.81, 65.37), "iemocap_improvised": (68.42, 76.60)},
        ),
        (3, "focal"): (
            three_s,
            {"emodb": (92.88, 93.08), "iemocap": (66.10, 65.47), "iemocap_improvised": (68.37, 77.41)},
        ),
        (7, "ce"): (seven_s, {"iemocap": (70.12, 69.15), "iemocap_improvised": (71.51, 78.73)}),
        (7, "focal"): (seven_s, {"iemocap": (70.76, 70.23), "iemocap_improvised": (70.78, 79.87)}),
    }
    for (seconds, loss), (corpus, scores) in published.items():
        yield replace(
            row,
            name=f"lightsernet-{seconds}s-{loss}",
            table=f"Table 2, {seconds} s, {'CE' if loss == 'ce' else 'F-loss'}",
            features=replace(features, length_s=float(seconds)),
            loss=losses[loss],
            corpus=corpus,
            published={key: value for name, pair in scores.items() for key, value in _scores(name, *pair).items()},
        )
    yield from _lightsernet_reports(row)


def _lightsernet_reports(row: Variant) -> Iterator[Variant]:
    """Scardino et al.: PReLU, a residual connection over each path, Hamming, mel from 40 Hz."""
    features = replace(row.features, window="hamming", mel_min_hz=40.0)
    build = partial(LightSerNet, bins=40, prelu=True, residual=True)
    recipe = replace(row.recipe, protocol="paper:lightsernet-report", start_epoch=0, every_epochs=1)
    # As printed, exp(-0.9) an epoch: the rate is a ten-thousandth of itself after ten epochs.
    recipe = replace(recipe, factor=math.exp(-0.9))
    yield replace(
        row,
        name="lightsernet-report-emodb",
        paper="Scardino et al., report on Aftab et al. 2022",
        table="Our results, EMO-DB",
        # Pieces of two seconds; a last one ends with the clip where the report drops the remainder.
        features=replace(features, length_s=2.0, long="windows", stride_s=2.0),
        build=build,
        recipe=replace(recipe, lr=1e-5),
        corpus="EMO-DB, 7 classes",
        published={"emodb_accuracy": 78.63, "emodb_wa": 82.05},
        notes="The report averages accuracies with weights of its own; its WA is not the papers'.",
    )
    yield replace(
        row,
        name="lightsernet-report-iemocap",
        paper="Scardino et al., report on Aftab et al. 2022",
        table="Our results, IEMOCAP",
        features=features,
        build=build,
        recipe=replace(recipe, epochs=200),
        corpus="IEMOCAP, one session, all labels",
        published={"iemocap_accuracy": 32.78, "iemocap_wa": 49.75},
        notes="One session of five, with every label the annotators gave.",
    )
    yield replace(
        row,
        name="lightsernet-report-asvp",
        paper="Scardino et al., report on Aftab et al. 2022",
        table="Our results, ASVP-ESD",
        features=features,
        build=partial(build, body_filters=(96, 144, 128, 160)),
        recipe=recipe,
        corpus="ASVP-ESD, 12 classes",
        published={"asvp_accuracy": 49.37, "asvp_wa": 65.68},
        notes="The first two blocks are wider by an unnamed amount: half as much again here.",
    )


def _house() -> Iterator[Variant]:
    """The shipped checkpoints: the papers' nets with a front end and a recipe that suit new speakers better."""
    features = FeatureConfig(
        n_mels=128,
        mel_min_hz=80.0,
        mel_max_hz=7600.0,
        log="ln",
        floor=1e-8,  # -80 dB: below any room, so that digital silence is no class of its own
        mfcc=40,
        length_s=3.0,
        short="tile",
        long="windows",
    )
    row = Variant(
        name="lightsernet",
        paper="Aftab et al. 2022",
        table="none: a house row",
        features=features,
        build=partial(LightSerNet, bins=40),
        loss=LossSpec(weighted=True, label_smoothing=0.1),
        recipe=PublishedRecipe(
            protocol="honest", optimizer="adamw", lr=2e-3, schedule="onecycle", epochs=60, weight_decay=1e-4
        ),
        corpus="several",
    )
    yield row
    # Ideas of papers 1 to 3 on this net, each alone, so that they can be compared.
    idea = partial(LightSerNetVariant, bins=40)
    margin = LossSpec(kind="am_softmax", scale=10.0, margin=0.4)
    rebuild = LossSpec(reconstruction=1.0)
    yield replace(row, name="lightsernet-margin", build=partial(idea, cosine_scale=10.0), loss=margin)
    decode_frames = features.window_frames
    yield replace(
        row, name="lightsernet-reconstruction", build=partial(idea, decode_frames=decode_frames), loss=rebuild
    )
    poolings: tuple[Pooling, ...] = ("spread", "attention", "combined")
    for pooling in poolings:
        yield replace(row, name=f"lightsernet-{pooling}", build=partial(idea, pooling=pooling))
    yield replace(
        row,
        name="sepconv",
        paper="Zhong et al. 2020",
        # Half the published bins, dropout, and values in [0, 1] for a net without norms.
        features=replace(features, n_mels=64, mfcc=0, log="db", clip=(-80.0, 20.0), scale="unit"),
        build=partial(SepConv, bins=64, blocks=4, dropout=0.3),
    )
    yield Variant(
        name="moonshine",
        paper="Jeffries et al. 2024",
        table="none: a house row",
        features=FeatureConfig(
            kind="samples",
            window_samples=STEP_SAMPLES,
            hop_samples=STEP_SAMPLES,
            fft_size=STEP_SAMPLES,
            length_s=3.0,
            short="keep",
            long="windows",
            trim_db=25.0,
        ),
        build=partial(Moonshine),
        loss=LossSpec(label_smoothing=0.1),
        recipe=PublishedRecipe(
            protocol="honest", optimizer="adamw", lr=2e-3, schedule="onecycle", epochs=10, weight_decay=0.02
        ),
        corpus="several",
        notes="The encoder of a speech recognizer, frozen: a recipe names it under `start`.",
    )


def _table(*rows: Iterator[Variant]) -> dict[str, Variant]:
    return {variant.name: variant for family in rows for variant in family}


VARIANTS = _table(_focal_resnets(), _parallel_cnns(), _cnn_blstms(), _sepconvs(), _lightsernets())
"""The 46 published rows, by name."""

HOUSE_VARIANTS = _table(_house())
"""The rows that ship with weights, and those that serve ablations."""


def get(name: str) -> Variant:
    """The variant of that name; ConfigError, with the nearest name, when there is none."""
    found = HOUSE_VARIANTS.get(name) or VARIANTS.get(name)
    if found is None:
        near = difflib.get_close_matches(name, [*HOUSE_VARIANTS, *VARIANTS], n=1, cutoff=0.0)
        raise ConfigError(f"unknown variant {name!r}; did you mean {near[0]!r}?")
    return found


def build(name: str, n_classes: int) -> SerNet:
    """A fresh net of that variant."""
    return get(name).build(n_classes)


def restore(bundle: Bundle) -> SerNet:
    """The net of a checkpoint's variant with the checkpoint's weights, ready to judge."""
    try:
        net = build(bundle.variant, len(bundle.labels))
    except ConfigError as error:
        raise BundleError(f"{bundle.path}: {error}; the onnx engine does not need the variant") from error
    if net.bins != bundle.features.bins:
        raise BundleError(
            f"{bundle.path}: variant {bundle.variant} takes {net.bins} bins, but features give {bundle.features.bins}"
        )
    try:
        net.load_state_dict({name: torch.from_numpy(value) for name, value in bundle.weights().items()})
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise BundleError(f"{bundle.weights_path}: not the weights of variant {bundle.variant} ({said})") from error
    return net.eval().requires_grad_(False)
