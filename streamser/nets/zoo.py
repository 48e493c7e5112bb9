"""Every variant by name: the rows that the five papers published, and our own; built on request."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from streamser.bundle import Bundle
from streamser.errors import BundleError, ConfigError
from streamser.features import FeatureConfig
from streamser.nets.layers import SerNet
from streamser.nets.lightsernet import FILTERS, LightSerNet
from streamser.nets.lightsernet_variants import LightSerNetVariant, Pooling
from streamser.nets.losses import LossSpec
from streamser.nets.published import published_rows
from streamser.nets.sepconv import SepConv
from streamser.nets.variant import PublishedRecipe, Variant
from streamser.nets.whisper import Whisper


def _own() -> Iterator[Variant]:
    """Rows of our own, shipped or for ablations: front ends and recipes that suit new speakers better."""
    features = FeatureConfig(
        n_mels=128,
        mel_min_hz=80.0,
        mel_max_hz=7600.0,
        log="ln",
        floor=1e-8,  # -80 dB: below any room's noise, so that digital silence does not differ from a quiet room
        mfcc=40,
        length_s=3.0,
        short="tile",
        long="windows",
    )
    row = Variant(
        name="lightsernet",
        paper="Aftab et al. 2022",
        table="none: our own row",
        features=features,
        build=partial(LightSerNet, bins=40),
        loss=LossSpec(weighted=True, label_smoothing=0.1),
        recipe=PublishedRecipe(
            protocol="honest", optimizer="adamw", lr=2e-3, schedule="onecycle", epochs=60, weight_decay=1e-4
        ),
    )
    yield row
    yield from _ideas(row, partial(LightSerNetVariant, bins=40))
    yield from _sizes(row)
    yield replace(
        row,
        name="sepconv",
        paper="Zhong et al. 2020",
        # Half the published bins, dropout, and values in [0, 1] for a network without norms.
        features=replace(features, n_mels=64, mfcc=0, log="db", clip=(-80.0, 20.0), scale="unit"),
        build=partial(SepConv, bins=64, blocks=4, dropout=0.3),
    )
    whisper = Variant(
        name="whisper",
        paper="Radford et al. 2022",
        table="none: our own row",
        features=FeatureConfig(
            window_samples=400,
            hop_samples=160,
            fft_size=400,
            n_mels=80,
            mel_min_hz=0.0,
            mel_max_hz=8_000.0,
            log="ln",
            length_s=20.0,  # the longest utterance; the encoder has positions for 30 s
            stride_s=10.0,
            short="keep",
            long="windows",
            trim_db=25.0,
        ),
        build=partial(Whisper),
        loss=LossSpec(label_smoothing=0.1),
        recipe=PublishedRecipe(
            protocol="honest", optimizer="adamw", lr=2e-3, schedule="onecycle", epochs=10, weight_decay=0.02
        ),
        notes="Two frozen, chunk-causal encoder layers of a speech recognizer; a recipe's `start` names the weights.",
    )
    yield whisper
    yield replace(
        whisper,
        name="whisper-1",
        build=partial(Whisper, layers=1),
        notes="Like `whisper`, with only the first of the two encoder layers.",
    )


def _ideas(row: Variant, build: partial[LightSerNetVariant]) -> Iterator[Variant]:
    """Ideas of papers 1 to 3 (docs/papers.md) on the network of a row, each alone, so that they can be compared, and
    the additive margin together with the standard deviation in the pooling."""
    margin = LossSpec(kind="am_softmax", scale=10.0, margin=0.4)
    rebuild = LossSpec(reconstruction=1.0)
    yield replace(row, name=f"{row.name}-margin", build=partial(build, cosine_scale=10.0), loss=margin)
    decoding = partial(build, decode_frames=row.features.window_frames)
    yield replace(row, name=f"{row.name}-reconstruction", build=decoding, loss=rebuild)
    poolings: tuple[Pooling, ...] = ("spread", "attention", "combined")
    for pooling in poolings:
        yield replace(row, name=f"{row.name}-{pooling}", build=partial(build, pooling=pooling))
    both = partial(build, cosine_scale=10.0, pooling="spread")
    yield replace(row, name=f"{row.name}-margin-spread", build=both, loss=margin)


def _sizes(row: Variant) -> Iterator[Variant]:
    """LightSERNet with other numbers of filters, blocks and cepstra, and the ideas on `lightsernet-small`: half of the
    filters and 20 cepstra instead of 40."""

    def with_cepstra(bins: int) -> Variant:
        return replace(row, features=replace(row.features, mfcc=bins))

    half, quarter = ([count // share for count in FILTERS] for share in (2, 4))
    small = replace(with_cepstra(20), name="lightsernet-small", build=partial(LightSerNet, bins=20, filters=half))
    yield small
    yield from _ideas(small, partial(LightSerNetVariant, bins=20, filters=half))
    for bins in (40, 80):
        build = partial(LightSerNet, bins=bins, filters=half)
        yield replace(with_cepstra(bins), name=f"lightsernet-small-{bins}", build=build)
    shallow = partial(LightSerNet, bins=20, filters=half[:-1])
    yield replace(small, name="lightsernet-small-shallow", build=shallow)
    yield replace(small, name="lightsernet-smaller", build=partial(LightSerNet, bins=20, filters=quarter))
    yield replace(small, name="lightsernet-20", build=partial(LightSerNet, bins=20))


def _table(*rows: Iterator[Variant]) -> dict[str, Variant]:
    return {variant.name: variant for family in rows for variant in family}


VARIANTS = _table(published_rows())
"""The published rows, by name."""

OWN_VARIANTS = _table(_own())
"""The rows with shipped weights, and those for ablations."""


def get(name: str) -> Variant:
    """The variant of that name; if there is none, ConfigError with the nearest name."""
    found = OWN_VARIANTS.get(name) or VARIANTS.get(name)
    if found is None:
        near = difflib.get_close_matches(name, [*OWN_VARIANTS, *VARIANTS], n=1, cutoff=0.0)
        raise ConfigError(f"unknown variant {name!r}; did you mean {near[0]!r}?")
    return found


def build(name: str, n_classes: int) -> SerNet:
    """A fresh network of that variant."""
    return get(name).build(n_classes)


def restore(bundle: Bundle) -> SerNet:
    """The network of a checkpoint's variant with the checkpoint's weights, ready to score."""
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
        reason = " ".join(str(error).split())
        raise BundleError(f"{bundle.weights_path}: not the weights of variant {bundle.variant} ({reason})") from error
    return net.eval().requires_grad_(False)
