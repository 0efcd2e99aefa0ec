"""``python -m serstream.training reproduce``: clips, features, fits, report."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from pathlib import Path
from typing import Any

from serstream.errors import ConfigError, SourceError
from serstream.training.corpora import Clip
from serstream.training.reproduction import features, figures, ladder, plots, voices
from serstream.training.reproduction.plan import Job, jobs
from serstream.training.reproduction.report import markdown
from serstream.training.reproduction.rungs import RUNGS, TEST_FOLDS, paper_clips, splits

QUICK_CLIPS_EACH = 2
"""Clips of each speaker and emotion in a quick run."""
PACKAGES = ("tensorflow-cpu", "tensorflow", "keras", "librosa", "opensmile", "scikit-learn", "numpy")


def reproduce(
    data: Path,
    out: Path,
    *,
    work: Path,
    quick: bool,
    only: str | None,
    n_processes: int,
    seed: int,
    ours: Path | None,
) -> None:
    """Fit what has no result yet, and report on all that has one.

    Parameters
    ----------
    data : Path
        Recordings, as for :func:`serstream.training.corpora.read_corpora`.
    out : Path
        Folder of the report: ``README.md``, ``results.json`` and PNG files, aggregated figures alone.
    work : Path
        Folder of features and results, with which a later start goes on.
    quick : bool
        A few clips and epochs, to show that it runs.
    only : str, optional
        Rungs to fit, separated by commas; the report has the others too where they were fitted before.
    n_processes : int
        Fits side by side, each with one thread.
    seed : int
        Of divisions and networks.
    ours : Path, optional
        What ``evaluate --fold 1 --json`` printed of serstream's own network.

    Raises
    ------
    ConfigError
        If ``only`` names no rung, or ``ours`` cannot be used.
    SourceError
        If the recordings do not suffice for every rung.
    """
    wanted, own = _rungs(only), None if ours is None else _own(ours)
    clips = _clips(data, quick)
    divided = splits(clips, seed=seed, test_folds=TEST_FOLDS[:1] if quick else TEST_FOLDS)
    planned = jobs(divided, quick=quick)
    folder = work / ("quick" if quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    bench = ladder.Bench(folder, clips, seed)
    features.compute(clips, bench.features, jobs=n_processes)
    ladder.run(bench, [job for job in planned if job.split.rung in wanted], n_processes)
    out.mkdir(parents=True, exist_ok=True)
    summary = summarise(bench, clips, planned, out) | {"quick": quick, "ours": own}
    (out / "results.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    text = markdown(summary)
    (out / "README.md").write_text(text, encoding="utf-8")
    print(text, end="")


def _rungs(only: str | None) -> tuple[str, ...]:
    if only is None:
        return tuple(RUNGS)
    if unknown := [name for name in only.split(",") if name not in RUNGS]:
        raise ConfigError(f"{unknown[0]!r} is no rung; name some of {','.join(RUNGS)} with --only")
    return tuple(only.split(","))


def _own(path: Path) -> tuple[float, float]:
    """Return accuracy and UAR from the scores of serstream's own network on fold 1's actors."""
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        scored, figures_ = (scores["corpus"], scores["fold"]), (float(scores["accuracy"]), float(scores["uar"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be used ({error!r}); give what `evaluate --fold 1 --json` printed") from error
    if scored != ("ravdess_speech", 1):
        raise ConfigError(
            f"{path} scores fold {scored[1]} of {scored[0]}; give what `evaluate --fold 1 --json` printed"
        )
    return figures_


def _clips(data: Path, quick: bool) -> list[Clip]:
    clips = paper_clips(data, QUICK_CLIPS_EACH if quick else None)
    if missing := {"ravdess_speech", "savee"} - {c.corpus for c in clips}:
        raise SourceError(
            f"{data} holds no clips of {' and '.join(sorted(missing))}; the paper's are RAVDESS speech and SAVEE: "
            "list both in one manifest.csv"
        )
    return clips


def summarise(bench: ladder.Bench, clips: list[Clip], planned: list[Job], out: Path) -> dict[str, Any]:
    """Return every figure of the report, and draw its pictures into ``out``."""
    results = [result for job in planned if (result := bench.load(job)) is not None]
    done = {result.job.name for result in results}
    rows = figures.ladder(bench, clips, results)
    return {
        "seed": bench.seed,
        "clips": dict(Counter(c.corpus for c in clips)),
        "yardstick": len(planned[0].split.yardstick),
        "runs": {
            "done": len(done),
            "planned": len(planned),
            "missing": [j.name for j in planned if j.name not in done],
        },
        "seconds": sum(result.about["seconds"] for result in results),
        "packages": _versions(),
        "ladder": rows,
        "voices": voices.compare(bench, results),
        "pictures": plots.save(out, bench, results, rows),
    }


def _versions() -> dict[str, str]:
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}
