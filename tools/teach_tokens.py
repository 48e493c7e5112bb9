"""Teach a network to predict the tokens of a checkpoint's frozen encoder, for the key `start` of a recipe.

    python tools/teach_tokens.py sepconv-taught runs/taught.safetensors --corpora-root CORPORA

No labels are used. Name only corpora that no fold of the recipe tests on: one teaching then serves all folds. If the
command is interrupted, it continues where it stopped when it is given again. The default takes about an hour and a half
on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from streamser.bundle import load_bundle
from streamser.corpora.reader import AudioCheck, read_corpora
from streamser.errors import ConfigError, StreamserError
from streamser.nets import zoo
from streamser.nets.sepconv import TaughtSepConv
from streamser.nets.whisper import Whisper
from streamser.training.options import RunOptions
from streamser.training.store import build_store, level_config, standard_of
from streamser.training.tokens import Figures, TeachConfig, Teaching, token_store

CORPORA = ("librispeech_subset", "speechocean_en", "hindi_talks", "asterisk_prompts", "cremad_part", "tess")


def teach(
    variant: str, encoder: str, corpora: Sequence[str], config: TeachConfig, options: RunOptions, root: Path, out: Path,
    begin: Path | None = None,
) -> None:  # fmt: skip
    """Teach the network of a row of the zoo, and write the weights of its frozen part."""
    bundle, features = load_bundle(encoder), zoo.get(variant).features
    teacher, net = zoo.restore(bundle), zoo.build(variant, len(bundle.labels))
    if not isinstance(teacher, Whisper):
        raise ConfigError(f"{encoder} has no encoder whose tokens a network could predict")
    if not isinstance(net, TaughtSepConv):
        raise ConfigError(f"{variant} has no frozen part that could be taught")
    clips, _ = read_corpora(
        [root / name for name in corpora], labelled=False, check=AudioCheck(options.cache / "heard.json")
    )
    levels, heard = (
        build_store(
            clips, level_config(front_end), cache=options.cache, workers=options.workers,
            progress=options.stage("features"),
        )
        for front_end in (features, bundle.features)
    )  # fmt: skip
    tokens = token_store(teacher.encoder, heard, options)
    mean, deviation = standard_of(levels, range(len(clips)), features)
    net.input.set(torch.tensor(mean), torch.tensor(deviation))
    if begin is not None:
        net.load_state_dict(load_file(begin), strict=False)
    print(f"{len(clips)} clips, {tokens.lengths.sum() / 50 / 3600:.1f} h, {config.steps} steps")
    out.parent.mkdir(parents=True, exist_ok=True)
    weights = Teaching(net, features, levels, tokens, clips, config).run(out.with_suffix(".state"), show)
    save_file({name: value.contiguous() for name, value in weights.items()}, out, {"taught_on": ",".join(corpora)})
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
    parser.add_argument("variant", help="the network's row, such as sepconv-taught")
    parser.add_argument("out", type=Path, help="the .safetensors file to write; its state is kept beside it")
    parser.add_argument("--corpora-root", type=Path, required=True, help="folder that holds the corpora")
    parser.add_argument("--corpora", nargs="+", default=CORPORA, metavar="NAME", help=f"default: {' '.join(CORPORA)}")
    parser.add_argument("--encoder", default="whisper", help="a checkpoint with a frozen encoder (default: whisper)")
    parser.add_argument(
        "--passes", type=int, default=TeachConfig.passes, help="pieces of 2.56 s (default: %(default)s)"
    )
    parser.add_argument("--begin", type=Path, help="begin with these weights, with a new schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="as in streamser train")
    parser.add_argument("--workers", type=int, default=1, help="processes that compute features")
    parser.add_argument("--device", default="cpu", help="where the encoder runs (default: cpu)")
    args = parser.parse_args()
    options = RunOptions(cache=args.cache, device=args.device, workers=args.workers)
    config = TeachConfig(passes=args.passes, seed=args.seed)
    try:
        teach(args.variant, args.encoder, args.corpora, config, options, args.corpora_root, args.out, args.begin)
    except StreamserError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command continues from the last line") from None


if __name__ == "__main__":
    main()
