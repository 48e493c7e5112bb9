"""Pretrain the network of a recipe without labels, for the key `start` of a recipe (see docs/training.md).

    python tools/pretrain_tokens.py models/sepconv/recipe.yaml runs/start.safetensors --corpora-root CORPORA

The network learns to predict the tokens of a checkpoint's frozen encoder. Name only corpora that no fold of the recipe
tests on: one pretraining then serves all folds. If the command is interrupted, give it again: it continues where it
stopped. The default takes about an hour on one core, and minutes on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from streamser.bundle import PRETRAINED_ON, load_bundle
from streamser.corpora.reader import AudioCheck, read_corpora
from streamser.errors import ConfigError, StreamserError
from streamser.nets import zoo
from streamser.nets.whisper import Whisper
from streamser.training.augment import AugmentConfig
from streamser.training.options import RunOptions
from streamser.training.pretraining import Figures, PretrainConfig, Pretraining
from streamser.training.recipe import Recipe, load_recipe
from streamser.training.setup import processor, set_up
from streamser.training.start import START_SUFFIX, pretrained_on
from streamser.training.store import Copies, build_store, standard_of
from streamser.training.tokens import TOKEN_S, Speech, token_store

CORPORA = ("librispeech_subset", "speechocean_en", "hindi_talks", "asterisk_prompts", "cremad_part", "tess")
SPEED = (0.8, 1.25)
"""Range of the speed of a copy: tempo and pitch change together, like another speaker."""


def pretrain(
    recipe: Recipe,
    encoder: str,
    corpora: Sequence[str],
    config: PretrainConfig,
    options: RunOptions,
    root: Path,
    out: Path,
) -> None:
    """Pretrain the recipe's network, and write the weights of the modules that compute its columns."""
    if out.suffix != START_SUFFIX:
        raise ConfigError(f"{out}: the name must end in {START_SUFFIX}")
    setup, bundle = set_up(recipe), load_bundle(encoder)
    source = zoo.restore(bundle)
    if not isinstance(source, Whisper):
        raise ConfigError(f"{encoder} has no encoder whose tokens a network could predict")
    torch.manual_seed(config.seed)
    net = setup.build()
    if not net.column_modules:
        raise ConfigError(f"{setup.variant.name} has no columns, so it cannot be pretrained")
    clips, _ = read_corpora(
        [root / name for name in corpora], labelled=False, check=AudioCheck(options.cache / "heard.json")
    )
    copies = Copies(AugmentConfig(speed_probability=1.0, speed=SPEED) if config.copies else None, config.copies)
    levels, of_encoder = (  # both draw the same speeds
        build_store(
            clips, features, copies, cache=options.cache, workers=options.workers, progress=options.stage("features")
        )
        for features in (setup.features, bundle.features)
    )
    tokens = token_store(source.encoder, of_encoder, options)
    mean, std = standard_of(levels, range(len(clips)), setup.features)
    features = replace(setup.features, mean=mean, std=std) if setup.features.scale == "standard" else setup.features
    pretraining = Pretraining(net, features, Speech(clips, levels, tokens), config, options.device)
    hours = tokens.lengths.sum() * TOKEN_S / 3600
    print(f"{len(clips)} clips and {config.copies} copies of each, {hours:.1f} h, {config.steps} steps", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    state = out.with_suffix(".state")
    weights = pretraining.run(state, show)
    names = sorted({clip.corpus for clip in clips} | set(pretrained_on(recipe.start)))
    about = {PRETRAINED_ON: ",".join(names), "encoder": encoder, "variant": setup.variant.name, "config": repr(config)}
    out.write_bytes(save({name: stored(value) for name, value in weights.items()}, about))
    state.unlink()
    print(f"{out}: {sum(value.numel() for value in weights.values()):,} values")


def stored(value: Tensor) -> Tensor:
    """Half precision, which is enough to start from, unless a value is too large for it or is not a float."""
    fits = value.is_floating_point() and float(value.abs().max()) < torch.finfo(torch.float16).max
    return (value.half() if fits else value).contiguous()


def show(figures: Figures) -> None:
    """Print a line of progress."""
    print(
        f"step {figures.step}: loss {figures.loss:.3f}; on clips that are not trained on, it predicts "
        f"{figures.columns:.1%} of the variance of the columns' tokens and {figures.pieces:.1%} of the pieces'",
        flush=True,
    )


def show_stage(stage: str, done: int, total: int) -> None:
    """Print how far the features and tokens are, about ten times."""
    if done == total or done // 32 % max(1, total // 320) == 0:
        print(f"{stage}: {done} of {total}", flush=True)


def main() -> None:
    usual = PretrainConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="the recipe whose network is pretrained")
    parser.add_argument("out", type=Path, help="the .safetensors file to write; its state is kept beside it")
    parser.add_argument("--corpora-root", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--corpora", nargs="+", default=CORPORA, metavar="NAME", help=f"default: {' '.join(CORPORA)}")
    parser.add_argument("--encoder", default="whisper", help="a checkpoint with a frozen encoder (default: whisper)")
    parser.add_argument("--passes", type=int, default=usual.passes, help="pieces of 2.56 s (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=usual.batch, help="pieces in a step (default: %(default)s)")
    parser.add_argument(
        "--copies", type=int, default=usual.copies,
        help="copies of each clip at another speed, which sound like other speakers (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--begin", default="", help="continue these weights with a new schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="as in streamser train")
    parser.add_argument("--workers", type=int, default=1, help="processes that compute features")
    parser.add_argument(
        "--compute", default="auto", metavar="PROCESSOR", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    args = parser.parse_args()
    try:
        device = processor(args.compute)
        options = RunOptions(cache=args.cache, device=device, workers=args.workers, progress=show_stage)
        config = PretrainConfig(passes=args.passes, batch=args.batch, copies=args.copies, seed=args.seed)
        recipe = load_recipe(args.recipe, {"start": args.begin})
        pretrain(recipe, args.encoder, args.corpora, config, options, args.corpora_root, args.out)
    except StreamserError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command continues from the last line") from None


if __name__ == "__main__":
    main()
