"""``python -m serstream.training prepare|train|export|evaluate|parity|card|reproduce|report``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path

import msgspec

from serstream.errors import ConfigError, SerstreamError
from serstream.training.recipe import Recipe

CORPORA = "ravdess_speech,ravdess_song,crema_d,esc50,speechcommands_bg"

GOES_ON = ("`train` goes on from its last whole epoch", "`reproduce` goes on with the fits that are missing")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serstream.training", description="Train, export and score the network."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("prepare", help="compute the features of all clips, once")
    p.add_argument("--data", type=Path, required=True, help="folder with a manifest.csv, or of RAVDESS recordings")
    p.add_argument("--corpora", default=CORPORA, help="which of them to train on (%(default)s)")
    p.add_argument("--variants", type=int, default=8, help="renderings of each clip, the first unchanged (%(default)s)")
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
    e.add_argument(
        "--calibration", type=Path, nargs="+", default=[], help="model folders whose median calibration is taken over"
    )
    v = commands.add_parser("evaluate", help="score a model through the runtime's own pipeline")
    v.add_argument("folder", type=Path, help="folder of the model")
    v.add_argument("--record", type=Path, metavar="MODEL", help="keep the figures in the manifest of this model folder")
    _add_full(v)
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
    o = commands.add_parser("report", help="make the report of all that `evaluate --full` counted")
    o.add_argument(
        "folder", type=Path, help="folder of the report, for example docs/evaluation; counts in its results/"
    )
    o.add_argument("--card", type=Path, nargs="+", default=[], help="write the summary into these, between their marks")
    _add_reproduce(commands.add_parser("reproduce", help="fit the paper's models rung by rung, and report"))
    for command in (p, t, e):
        command.add_argument(
            "--cache", type=Path, default=Path("runs/features"), help="prepared features (%(default)s)"
        )
    return parser


def _add_full(v: argparse.ArgumentParser) -> None:
    v.add_argument("--full", action="store_true", help="the whole protocol, on all that the model was not trained on")
    v.add_argument("--out", type=Path, metavar="JSON", help="with --full: file of the counts")
    v.add_argument(
        "--parts",
        default="clips,robustness,streams,noise,reading",
        help="with --full: some of these alone (%(default)s)",
    )
    v.add_argument(
        "--run", type=Path, help="with --full: the run that the model came from, to compare its float network"
    )
    v.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="with --full: processes (%(default)s)")


def _evaluate(args: argparse.Namespace) -> None:
    from serstream.training.evaluate import evaluate

    if not args.full:
        evaluate(args.folder, args.data, corpus=args.corpus, fold=args.fold, as_json=args.json, into=args.record)
        return
    if args.out is None:
        raise ConfigError(
            "evaluate --full needs --out with the file of its counts, such as docs/evaluation/results/m.json"
        )
    _need("evaluate --full", "scipy", extras="evaluate")
    from serstream.training.evaluation.run import run_all

    run_all(
        args.folder,
        args.data,
        args.out,
        fold=args.fold,
        parts=tuple(args.parts.split(",")),
        run=args.run,
        n_processes=args.jobs,
    )


def _report(args: argparse.Namespace) -> None:
    _need("report", "scipy", "matplotlib", extras="evaluate")
    from serstream.training.evaluation.report import report

    report(args.folder, args.card)


def _need(command: str, *modules: str, extras: str) -> None:
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"{command} needs {', '.join(missing)}; pip install 'serstream[{extras}]'")


def _add_reproduce(r: argparse.ArgumentParser) -> None:
    r.add_argument("--data", type=Path, required=True, help="folder whose manifest.csv lists RAVDESS speech and SAVEE")
    r.add_argument("--out", type=Path, required=True, help="folder of the report")
    r.add_argument(
        "--work", type=Path, default=Path("runs/reproduction"), help="features and results, kept (%(default)s)"
    )
    r.add_argument("--quick", action="store_true", help="a few clips and epochs, to show that it runs")
    r.add_argument("--only", metavar="RUNG,...", help="fit these rungs alone; the report has whatever was fitted")
    r.add_argument(
        "--ours", type=Path, metavar="JSON", help="what `evaluate --fold 1 --json` printed of serstream's own"
    )
    r.add_argument("--seed", type=int, default=0)
    r.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="fits side by side, a thread each (%(default)s)"
    )


def _reproduce(args: argparse.Namespace) -> None:
    modules = ("tensorflow", "keras", "librosa", "matplotlib", "opensmile", "sklearn")
    _need("reproduce", *modules, extras="train,reproduce")
    from serstream.training.reproduction.command import reproduce

    reproduce(
        args.data,
        args.out,
        work=args.work,
        quick=args.quick,
        only=args.only,
        n_processes=args.jobs,
        seed=args.seed,
        ours=args.ours,
    )


def _recipe(args: argparse.Namespace) -> Recipe:
    fields = {"fold": args.fold, "seed": args.seed}
    try:
        if args.recipe is not None:
            fields |= msgspec.json.decode(args.recipe.read_bytes(), type=dict)
        return msgspec.convert(fields, Recipe)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"recipe {args.recipe} cannot be used: {error}; see serstream/training/recipe.py") from error


def _prepare(args: argparse.Namespace) -> None:
    from serstream.features import FrontEnd
    from serstream.training.prepare import prepare

    prepare(
        args.data,
        args.cache,
        front_end=FrontEnd(),
        n_variants=args.variants,
        seed=args.seed,
        jobs=args.jobs,
        corpora=tuple(args.corpora.split(",")),
    )


def _train(args: argparse.Namespace) -> None:
    from serstream.training.prepare import load_prepared

    prepared, recipe = load_prepared(args.cache), _recipe(args)
    from serstream.training.fit import fit, single_thread  # which takes seconds: what is wrong was said before

    single_thread()
    fit(prepared, recipe, args.run)


def _export(args: argparse.Namespace) -> None:
    from serstream.training.calibrate import export_calibrated
    from serstream.training.prepare import load_prepared

    export_calibrated(args.run, load_prepared(args.cache), args.folder, data=args.data, others=args.calibration)


def _parity(args: argparse.Namespace) -> None:
    from serstream.training.parity import parity

    parity(args.run, args.folder, args.data, corpus=args.corpus, fold=args.fold, as_json=args.json)


def _card(args: argparse.Namespace) -> None:
    from serstream.training.card import write

    write(args.folder, args.documents)


RUN = {
    "prepare": _prepare,
    "train": _train,
    "export": _export,
    "evaluate": _evaluate,
    "parity": _parity,
    "card": _card,
    "reproduce": _reproduce,
    "report": _report,
}


def main() -> int:
    """Run one command; errors that a user can cause are one sentence."""
    args = _parser().parse_args()
    try:
        RUN[args.command](args)
        sys.stdout.flush()
    except SerstreamError as error:
        print(f"serstream.training: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"serstream.training: interrupted; {GOES_ON[args.command == 'reproduce']}", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # whoever read our output has gone, as `head` does; the interpreter must not try to flush it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
