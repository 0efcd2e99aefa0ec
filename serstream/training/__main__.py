"""``python -m serstream.training prepare|train|export|evaluate|parity|card``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import msgspec

from serstream.errors import ConfigError, SerstreamError
from serstream.training.recipe import Recipe

CORPORA = "ravdess_speech,ravdess_song,crema_d"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serstream.training", description="Train, export and score the network."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("prepare", help="compute the features of all clips, once")
    p.add_argument("--data", type=Path, required=True, help="folder with a manifest.csv, or of RAVDESS recordings")
    p.add_argument("--corpora", default=CORPORA, help="which of them to train on (%(default)s)")
    p.add_argument(
        "--variants", type=int, default=10, help="renderings of each clip, the first unchanged (%(default)s)"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    t = commands.add_parser("train", help="fit a network, or go on with it")
    t.add_argument("run", type=Path, help="folder of the run")
    t.add_argument(
        "--fold",
        type=int,
        default=0,
        choices=range(6),
        help="speakers left out for test, 1 to 5; 0 leaves none out",
    )
    t.add_argument("--recipe", type=Path, help="JSON with fields of the recipe that differ from the default")
    t.add_argument("--seed", type=int, default=0)
    e = commands.add_parser("export", help="quantise a run to int8, calibrate it, and write model folder and manifest")
    e.add_argument("run", type=Path)
    e.add_argument("folder", type=Path, help="folder of the model, for example models/serstream")
    e.add_argument("--data", type=Path, help="recordings to calibrate on: the run's validation speakers")
    e.add_argument("--calibration", type=Path, help="model folder whose calibration is taken over instead")
    v = commands.add_parser("evaluate", help="score a model through the runtime's own pipeline")
    v.add_argument("folder", type=Path, help="folder of the model")
    v.add_argument("--record", type=Path, metavar="MODEL", help="keep the figures in the manifest of this model folder")
    q = commands.add_parser("parity", help="compare a run's float network with the int8 model exported from it")
    q.add_argument("run", type=Path)
    q.add_argument("folder", type=Path, help="folder of the model")
    for command in (v, q):
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--fold", type=int, choices=range(1, 6), help="the speakers of this fold alone")
        command.add_argument("--corpus", default="ravdess_speech", help="corpus to run (%(default)s)")
        command.add_argument("--json", action="store_true", help="print one JSON object")
    c = commands.add_parser("card", help="write the scores of a manifest into documents, between their marks")
    c.add_argument("folder", type=Path, help="folder of the model")
    c.add_argument("documents", type=Path, nargs="+")
    for command in (p, t, e):
        command.add_argument(
            "--cache", type=Path, default=Path("runs/features"), help="prepared features (%(default)s)"
        )
    return parser


def _recipe(args: argparse.Namespace) -> Recipe:
    fields = {"fold": args.fold, "seed": args.seed}
    try:
        if args.recipe is not None:
            fields |= msgspec.json.decode(args.recipe.read_bytes(), type=dict)
        return msgspec.convert(fields, Recipe)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"recipe {args.recipe} cannot be used: {error}; see serstream/training/recipe.py") from error


def _run(args: argparse.Namespace) -> None:
    from serstream.features import FrontEnd
    from serstream.training import prepare

    if args.command == "prepare":
        names = tuple(args.corpora.split(","))
        prepare.prepare(
            args.data,
            args.cache,
            front_end=FrontEnd(),
            n_variants=args.variants,
            seed=args.seed,
            jobs=args.jobs,
            corpora=names,
        )
    elif args.command == "train":
        prepared, recipe = prepare.load_prepared(args.cache), _recipe(args)
        from serstream.training.fit import fit, single_thread

        single_thread()
        fit(prepared, recipe, args.run)
    elif args.command == "export":
        from serstream.training.calibrate import export_calibrated

        export_calibrated(
            args.run, prepare.load_prepared(args.cache), args.folder, data=args.data, other=args.calibration
        )
    elif args.command == "parity":
        from serstream.training.parity import parity

        parity(args.run, args.folder, args.data, corpus=args.corpus, fold=args.fold, as_json=args.json)
    elif args.command == "card":
        from serstream.training.card import write

        write(args.folder, args.documents)
    else:
        from serstream.training.evaluate import evaluate

        evaluate(args.folder, args.data, corpus=args.corpus, fold=args.fold, as_json=args.json, into=args.record)


def main() -> int:
    """Run one command; errors that a user can cause are one sentence."""
    args = _parser().parse_args()
    try:
        _run(args)
        sys.stdout.flush()
    except SerstreamError as error:
        print(f"serstream.training: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("serstream.training: interrupted; `train` goes on from its last whole epoch", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # whoever read our output has gone, as `head` does; the interpreter must not try to flush it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
