"""The rows that the five papers published: one variant for each line of their tables and each reading of the text.

Scores are percent as printed, by benchmark: UA, the mean of the classes' recalls, WA, the share of clips classified
correctly, and F1. They were measured with each paper's own protocol and cannot be compared with each other, or with
speaker-independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from streamser.features import FeatureConfig
from streamser.nets.cnn_blstm import CnnBlstm
from streamser.nets.focal_resnet import FocalResNet
from streamser.nets.lightsernet import LightSerNet
from streamser.nets.losses import LossSpec
from streamser.nets.parallel_cnn import EMBEDDING, ParallelCnn
from streamser.nets.sepconv import SepConv
from streamser.nets.variant import PublishedRecipe, Variant

NORM_CLIPS = 2048
"""Number of clips from which batch norm's statistics are estimated; more clips would not change them."""

Scores = dict[str, dict[str, float]]
"""Benchmark -> figure -> percent."""


def _scores(benchmark: str, ua: float, wa: float, f1: float | None = None) -> Scores:
    return {benchmark: {"ua": ua, "wa": wa} | ({} if f1 is None else {"f1": f1})}


def _recipe(paper: str, **settings: object) -> PublishedRecipe:
    return PublishedRecipe(protocol=f"paper:{paper}", norm_clips=NORM_CLIPS, **settings)  # type: ignore[arg-type]


def _focal_resnets() -> Iterator[Variant]:
    """Tripathi et al. 2019, table 4: each of two inputs with each of two losses."""
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
            recipe=_recipe("focal-resnet"),
            published=_scores("iemocap-improvised-happy", ua, wa),
            notes="Optimizer, learning rate and batch are ours. The dB reference is fixed, not each clip's maximum.",
        )


# The paper's best lambda 1 is 4. We read its centre loss as a mean over the embedding's values, like its reconstruction
# error: with half the sum over the values, which is 32 times as much, the embedding collapses and the variants with C
# stay at chance (EMO-DB, 12 epochs). `LossSpec.centre` is the weight of half the sum.
_CENTRE = 4.0 * 2 / EMBEDDING


def _parallel_cnns() -> Iterator[Variant]:
    """Tripathi et al. 2019, table 1: each of two inputs, with or without centre loss and reconstruction."""
    mel = FeatureConfig(
        window_samples=2048,
        hop_samples=512,
        fft_size=2048,
        center=True,
        n_mels=128,
        mel_min_hz=0.0,
        mel_max_hz=8000.0,
        clip=(-80.0, 20.0),  # dB: from below any room's noise to the loudest speech
        scale="unit",
        length_s=6.0,
        short="zero",
        long="head",
    )
    # The first coefficient is sqrt(128) times the mean level; the others stay between about -200 and 200.
    inputs = {"mel": mel, "mfcc": replace(mel, mfcc=40, floor=1e-8, clip=(-900.0, 300.0))}
    published = {  # UA, WA of table 1; test MSE of the reconstruction of table 2, in 1e-4
        ("mfcc", "s"): (61.2, 70.5, None),
        ("mfcc", "sa"): (65.4, 72.9, 3.62),
        ("mfcc", "sc"): (66.1, 73.4, None),
        ("mfcc", "sac"): (66.7, 74.1, 3.47),
        ("mel", "s"): (61.9, 71.2, None),
        ("mel", "sa"): (65.2, 73.1, 3.23),
        ("mel", "sc"): (66.5, 73.6, None),
        ("mel", "sac"): (67.2, 74.3, 3.29),
    }
    for kind, features in inputs.items():
        row = Variant(
            name="",
            paper="Tripathi, Ramesh et al. 2019",
            table="",
            features=features,
            build=partial(ParallelCnn, bins=features.bins),
            loss=LossSpec(),
            recipe=_recipe("parallel-cnn", optimizer="adadelta", lr=1.0),
            notes="Lambda 1 is the paper's best, 4, for the mean over the embedding's values; lambda 2, the learning "
            "rate, the batch and the decoder's sizes are ours, dropout is the middle of the paper's 25 to 75 %.",
        )
        decoding = partial(ParallelCnn, bins=features.bins, decode_frames=features.window_frames)
        yield replace(
            row,
            name=f"parallel-cnn-{kind}-a",
            table=f"Table 2, A only, {kind}",
            build=decoding,
            loss=LossSpec(classification=0.0, reconstruction=1.0),
            recipe=replace(row.recipe, choose_by="last"),
            published={"iemocap-improvised-happy": {"mse_e4": 21.32 if kind == "mfcc" else 18.31}},
            notes=f"{row.notes} Only the reconstruction is trained: its predictions are at chance level.",
        )
        for (of, terms), (ua, wa, mse) in published.items():
            if of != kind:
                continue
            scores = _scores("iemocap-improvised-happy", ua, wa)
            if mse is not None:
                scores["iemocap-improvised-happy"]["mse_e4"] = mse
            yield replace(
                row,
                name=f"parallel-cnn-{kind}-{terms}",
                table=f"Table 1, {'+'.join(terms.upper())}, {kind}",
                build=decoding if "a" in terms else row.build,
                loss=LossSpec(centre=_CENTRE if "c" in terms else 0.0, reconstruction=1.0 if "a" in terms else 0.0),
                published=scores,
            )


def _cnn_blstms() -> Iterator[Variant]:
    """Discriminative feature learning, table 2: softmax, additive margins, focal losses, combined pooling."""
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
        recipe=_recipe("cnn-blstm", patience=10, choose_by="wa"),
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
    """Zhong et al. 2020 in two readings of its front end."""
    features = FeatureConfig(
        window_samples=640,
        hop_samples=160,
        fft_size=1024,
        n_mels=128,
        mel_min_hz=0.0,
        mel_max_hz=8000.0,
        length_s=7.0,
        short="keep",
        long="middle",
    )
    loss = "The number of epochs is ours; Lq's q is that of the paper that Zhong et al. cite."
    yield from _sepconv_rows("sepconv", features, f"A 40 ms window every 10 ms, as in the authors' code. {loss}")
    literal = replace(features, window_samples=1024, hop_samples=768)
    yield from _sepconv_rows(
        "sepconv-hop768", literal, f"Windows of 1024 samples that overlap by 25 %, as printed. {loss}"
    )


def _sepconv_rows(name: str, features: FeatureConfig, notes: str) -> Iterator[Variant]:
    """Table 4 (one to six inverted residuals, each with two losses), table 2 (no attention), table 3 (other losses)."""
    weighted = LossSpec(weighted=True)
    focal = LossSpec(kind="difficulty_focal", weighted=True)
    row = Variant(
        name="",
        paper="Zhong et al. 2020",
        table="",
        features=features,
        build=partial(SepConv, bins=128),
        loss=weighted,
        recipe=_recipe("sepconv", lr=3e-4, batch=64),
        notes=notes,
    )
    published = {  # UA, WA, F1: IEMOCAP with weighted cross entropy, with focal loss; Emo-DB
        1: ((70.02, 68.50, 69.03), (70.48, 69.25, 69.74), (87.68, 89.37, 88.47)),
        2: ((70.57, 69.11, 69.61), (70.61, 69.46, 69.92), (90.57, 91.42, 90.63)),
        3: ((70.18, 68.49, 68.92), (70.40, 68.73, 69.06), (88.08, 90.64, 89.25)),
        4: ((69.74, 68.64, 69.14), (70.31, 68.77, 69.12), (90.10, 91.81, 90.67)),
        5: ((70.51, 69.63, 69.97), (71.72, 70.39, 70.85), (88.79, 90.83, 89.80)),
        6: ((69.49, 68.05, 68.58), (70.66, 69.57, 70.01), (86.90, 88.18, 87.48)),
    }
    for blocks, (of_weighted, of_focal, of_emodb) in published.items():
        build = partial(SepConv, bins=128, blocks=blocks)
        yield replace(
            row,
            name=f"{name}-n{blocks}-wce",
            table=f"Table 4, {blocks} blocks, weighted CE loss",
            build=build,
            published={**_scores("emodb", *of_emodb), **_scores("iemocap", *of_weighted)},
        )
        yield replace(
            row,
            name=f"{name}-n{blocks}-focal",
            table=f"Table 4, {blocks} blocks, focal loss",
            build=build,
            loss=focal,
            published=_scores("iemocap", *of_focal),
        )
    without = {5: ("iemocap", 68.21, 66.73, 67.25), 4: ("emodb", 80.96, 84.03, 82.83)}
    for blocks, scores in without.items():
        yield replace(
            row,
            name=f"{name}-no-attention" if blocks == 5 else f"{name}-n{blocks}-no-attention",
            table=f"Table 2, no attention, {blocks} blocks",
            build=partial(SepConv, bins=128, blocks=blocks, attention=False),
            published=_scores(*scores),
            notes=f"{notes} Table 2 gives no number of blocks; its row with attention is table 4's with {blocks}.",
        )
    others = {
        "soft": ("Soft_loss", LossSpec(kind="soft", weighted=True), (69.95, 69.05, 69.29)),
        "lq": ("Lq_loss", LossSpec(kind="lq", weighted=True), (68.74, 68.51, 68.75)),
        "focal-b1.5": (
            "focal, lambda_B = 1.5",
            replace(focal, gamma_by_difficulty=(0.0, 1.5, 2.0)),
            (71.05, 70.07, 70.72),
        ),
    }
    for short, (title, loss, figures) in others.items():
        yield replace(
            row,
            name=f"{name}-{short}",
            table=f"Table 3, {title}",
            build=partial(SepConv, bins=128, blocks=5),
            loss=loss,
            published=_scores("iemocap", *figures),
        )


def _lightsernets() -> Iterator[Variant]:
    """Aftab et al. 2022: each of two lengths with each of two losses; and the report's three corpora."""
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
        recipe=_recipe(
            "lightsernet",
            choose_by="wa",
            schedule="steps",
            start_epoch=50,
            every_epochs=20,
            factor=math.exp(-0.15),
            epochs=300,
            weight_decay=1e-6,
        ),
        notes="The published figures are those of the best of 300 epochs on the test fold. The paper leaves open "
        "whether excited counts as happy in the improvised half too; here it does.",
    )
    losses = {"ce": LossSpec(), "focal": LossSpec(kind="focal", gamma=2.0)}
    published: dict[tuple[int, str], Mapping[str, tuple[float, float, float]]] = {  # UA, WA, F1
        (3, "ce"): {
            "emodb": (94.15, 94.21, 94.16),
            "iemocap": (65.81, 65.37, 65.40),
            "iemocap-improvised": (68.42, 76.60, 75.44),
        },
        (3, "focal"): {
            "emodb": (92.88, 93.08, 93.05),
            "iemocap": (66.10, 65.47, 65.42),
            "iemocap-improvised": (68.37, 77.41, 76.01),
        },
        (7, "ce"): {"iemocap": (70.12, 69.15, 69.09), "iemocap-improvised": (71.51, 78.73, 77.86)},
        (7, "focal"): {"iemocap": (70.76, 70.23, 70.20), "iemocap-improvised": (70.78, 79.87, 78.84)},
    }
    for (seconds, loss), scores in published.items():
        yield replace(
            row,
            name=f"lightsernet-{seconds}s-{loss}",
            table=f"Table 2, {seconds} s, {'CE' if loss == 'ce' else 'F-loss'}",
            features=replace(features, length_s=float(seconds)),
            loss=losses[loss],
            published={key: value for name, of in scores.items() for key, value in _scores(name, *of).items()},
        )
    yield from _lightsernet_reports(row)


def _lightsernet_reports(row: Variant) -> Iterator[Variant]:
    """Scardino et al.: PReLU, a residual connection over each path, Hamming, mel from 40 Hz, clips scaled to peak 1.

    The report's schedule has two readings. As printed, "decreased each epoch with a rate of exp(-0.9)", all epochs
    together equal 1.7 epochs at the full rate, and the network learns almost nothing. With the schedule of Aftab et al.
    (from epoch 50, every 20 epochs) it learns.
    """
    features = replace(row.features, window="hamming", mel_min_hz=40.0, peak=True)
    build = partial(LightSerNet, bins=40, prelu=True, residual=True)
    recipe = replace(row.recipe, protocol="paper:lightsernet-report", factor=math.exp(-0.9))
    report = replace(row, paper="Scardino et al., report on Aftab et al. 2022", features=features, build=build)
    rows = (
        replace(
            report,
            name="lightsernet-report-emodb",
            table="Our results, EMO-DB",
            features=replace(features, length_s=2.0, long="pieces", stride_s=2.0),
            recipe=replace(recipe, lr=1e-5),
            published={"emodb": {"accuracy": 78.63, "f1": 78.63, "wa": 82.05} | _parts(94.40, 96.39, 86.44)},
            notes="Accuracy and F1 are equal, 78.63, so F1 was averaged over clips.",
        ),
        replace(
            report,
            name="lightsernet-report-iemocap",
            table="Our results, IEMOCAP",
            recipe=replace(recipe, epochs=200),
            published={"iemocap-session1": {"accuracy": 32.78, "wa": 49.75} | _parts(43.37, 44.81, 37.63)},
            notes="One session of five, with every label the annotators gave.",
        ),
        replace(
            report,
            name="lightsernet-report-asvp",
            table="Our results, ASVP-ESD",
            build=partial(build, filters=(32, 96, 144, 128, 160)),
            recipe=recipe,
            published={"asvp-esd": {"accuracy": 49.37, "wa": 65.68} | _parts(81.90, 85.55, 67.28)},
            notes="The report does not name the width of the first two blocks; here it is 1.5 times the paper's.",
        ),
    )
    own = "The report averages accuracies with weights of its own; its WA is not the papers'."
    for one in rows:
        yield replace(
            one,
            recipe=replace(one.recipe, start_epoch=0, every_epochs=1),
            table=f"{one.table}, its schedule as printed (unable to learn)",
            notes=f"{one.notes} {own}",
        )
        yield replace(
            one,
            name=f"{one.name}-parent",
            table=f"{one.table}, the parent's schedule",
            notes=f"{one.notes} {own}",
        )


def _parts(whole: float, training: float, validation: float) -> dict[str, float]:
    """Accuracy on a whole corpus and on its training and validation parts."""
    return {"whole_wa": whole, "training_wa": training, "validation_wa": validation}


def published_rows() -> Iterator[Variant]:
    """Every row, paper by paper."""
    yield from _focal_resnets()
    yield from _parallel_cnns()
    yield from _cnn_blstms()
    yield from _sepconvs()
    yield from _lightsernets()


__all__ = ["published_rows"]
