"""Teach a network to predict the tokens of a checkpoint's frozen encoder, for the key `start` of a recipe.

    python tools/teach_tokens.py models/sepconv/recipe.yaml runs/taught.safetensors --corpora-root CORPORA

No labels are used. Name only corpora that no fold of the recipe tests on: one teaching then serves all folds. If the
command is interrupted, it continues where it stopped when it is given again. The default takes about an hour and a half
on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save

from streamser.bundle import load_bundle
from streamser.corpora.reader import AudioCheck, read_corpora
from streamser.errors import ConfigError, StreamserError
from streamser.nets import zoo
from streamser.nets.whisper import Whisper
from streamser.training.options import RunOptions
from streamser.training.recipe import Recipe, load_recipe
from streamser.training.setup import set_up
from streamser.training.store import build_store, standard_of
from streamser.training.tokens import Figures, TeachConfig, Teaching, token_store

CORPORA = ("librispeech_subset", "speechocean_en", "hindi_talks", "asterisk_prompts", "cremad_part", "tess")


def teach(
    recipe: Recipe,
    encoder: str,
    corpora: Sequence[str],
    config: TeachConfig,
    options: RunOptions,
    root: Path,
    out: Path,
) -> None:
    """Teach the network of a recipe, and write the weights that it was taught."""
    setup, bundle = set_up(recipe), load_bundle(encoder)
    teacher = zoo.restore(bundle)
    if not isinstance(teacher, Whisper):
        raise ConfigError(f"{encoder} has no encoder whose tokens a network could predict")
    clips, _ = read_corpora(
        [root / name for name in corpora], labelled=False, check=AudioCheck(options.cache / "heard.json")
    )
    levels, heard = (
        build_store(clips, features, cache=options.cache, workers=options.workers, progress=options.stage("features"))
        for features in (setup.features, bundle.features)
    )
    tokens = token_store(teacher.encoder, heard, options)
    mean, std = standard_of(levels, range(len(clips)), setup.features)
    features = replace(setup.features, mean=mean, std=std) if setup.features.scale == "standard" else setup.features
    teaching = Teaching(setup.build(features), features, levels, tokens, clips, config)
    print(f"{len(clips)} clips, {tokens.lengths.sum() / 50 / 3600:.1f} h, {config.steps} steps")
    out.parent.mkdir(parents=True, exist_ok=True)
    weights = teaching.run(out.with_suffix(".state"), show)
    halves = {name: value.half().contiguous() for name, value in weights.items()}  # a start needs no more precision
    out.write_bytes(save(halves, {"taught_on": ",".join(corpora)}))
    print(f"{out}: {sum(value.numel() for value in weights.values()):,} values")


def show(figures: Figures) -> None:
    """Print a line of progress."""
    print(
        f"step {figures.step}: loss {figures.loss:.3f}; of the clips that are held back, "
        f"{figures.columns:.1%} of the tokens' variance predicted, {figures.pieces:.1%} of the pieces'",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="the recipe whose network is taught")
    parser.add_argument("out", type=Path, help="the .safetensors file to write; its state is kept beside it")
    parser.add_argument("--corpora-root", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--corpora", nargs="+", default=CORPORA, metavar="NAME", help=f"default: {' '.join(CORPORA)}")
    parser.add_argument("--encoder", default="whisper", help="a checkpoint with a frozen encoder (default: whisper)")
    parser.add_argument(
        "--passes", type=int, default=TeachConfig.passes, help="pieces of 2.56 s (default: %(default)s)"
    )
    parser.add_argument("--begin", default="", help="begin with these weights, with a new schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="as in streamser train")
    parser.add_argument("--workers", type=int, default=1, help="processes that compute features")
    parser.add_argument("--device", default="cpu", help="where the encoder runs (default: cpu)")
    args = parser.parse_args()
    options = RunOptions(cache=args.cache, device=args.device, workers=args.workers)
    config = TeachConfig(passes=args.passes, seed=args.seed)
    try:
        recipe = load_recipe(args.recipe, {"start": args.begin})
        teach(recipe, args.encoder, args.corpora, config, options, args.corpora_root, args.out)
    except StreamserError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command continues from the last line") from None


if __name__ == "__main__":
    main()
