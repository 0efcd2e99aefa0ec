"""Run the fits, each in a process with one thread, and keep every result as it comes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.events import LABELS
from serstream.training.corpora import Clip
from serstream.training.reproduction import svm
from serstream.training.reproduction.features import digest, seed_feature
from serstream.training.reproduction.outcome import Outcome, Parts, Rows
from serstream.training.reproduction.plan import APART, MODELS, Job, Target
from serstream.training.reproduction.rungs import CLASSES, emotion_of, voice_of


class Result(NamedTuple):
    """A finished fit: what it depended on and how long it took, predictions and curves."""

    job: Job
    about: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class Bench:
    """The clips of a ladder, and a folder with their features and the results.

    A result is a JSON file with all that it depends on, and arrays beside it; it is used again only for the same.
    What the code does is not among that: start in a fresh folder after changing a model.
    """

    def __init__(self, folder: Path, clips: list[Clip], seed: int) -> None:
        self.folder, self.seed, self.digest = folder, seed, digest(clips)
        self.emotion, self.voice = emotion_of(clips), voice_of(clips)
        self.features = folder / "features.npz"

    def labels(self, target: Target) -> NDArray[np.int64]:
        """Return the class of every clip."""
        return self.emotion + len(LABELS) * self.voice if target == "ten" else self.emotion

    def rows(self, job: Job, part: str) -> NDArray[np.int64]:
        """Return the clips of a part, of one voice alone where the target says so."""
        rows: NDArray[np.int64] = getattr(job.split, part)
        return rows[self.voice[rows] == APART.index(job.target)] if job.target in APART else rows

    def depends_on(self, job: Job) -> dict[str, Any]:
        """Return what another result must share with this job to be its result."""
        return {"model": job.model, "split": job.split.name, "target": job.target} | {
            "epochs": job.epochs,
            "seed": self.seed,
            "clips": self.digest,
        }

    def load(self, job: Job) -> Result | None:
        """Return the result of a job, None if there is none."""
        try:
            about = json.loads((self.folder / f"{job.name}.json").read_text())
        except FileNotFoundError:
            return None
        if any(about[key] != value for key, value in self.depends_on(job).items()):
            return None
        with np.load(self.folder / f"{job.name}.npz") as arrays:
            return Result(job, about, dict(arrays))

    def save(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """Write the arrays, then the file that says they are whole."""
        np.savez(self.folder / f"{job.name}.npz", **outcome.arrays())
        about = {"chosen": outcome.chosen, "parameters": outcome.n_parameters, "seconds": round(seconds, 1)}
        partial = self.folder / f"{job.name}.partial"
        partial.write_text(json.dumps(self.depends_on(job) | about))
        os.replace(partial, self.folder / f"{job.name}.json")


def fit(bench: Bench, job: Job, features: dict[str, NDArray[np.float32]]) -> Outcome:
    """Fit one model on one split."""
    plan = MODELS[job.model]
    x = seed_feature(features["matrix"]) if plan.features == "seed" else features[plan.features]
    y = bench.labels(job.target)
    parts = Parts(*(Rows(x[rows], y[rows]) for rows in (bench.rows(job, part) for part in Parts._fields)))
    if plan.scaled:
        parts = parts.scaled()
    if job.model == "svm":
        return svm.fit(parts)
    from serstream.training.reproduction import networks

    n_classes = len(CLASSES) if job.target == "ten" else len(LABELS)
    return networks.fit(job.model, parts, n_classes=n_classes, epochs=job.epochs, seed=bench.seed)


_worker: dict[str, Any] = {}


def _start_worker(bench: Bench) -> None:
    # nothing here may fail: a pool replaces a worker that does not start, for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _worker["bench"] = bench


def _work(job: Job) -> tuple[Job, float]:
    bench: Bench = _worker["bench"]
    if "features" not in _worker:
        with np.load(bench.features) as file:
            _worker["features"] = {name: file[name] for name in ("matrix", "egemaps")}
    if job.epochs and "tensorflow" not in _worker:
        from serstream.training.reproduction.networks import single_thread

        single_thread()
        _worker["tensorflow"] = True
    started = time.monotonic()
    outcome = fit(bench, job, _worker["features"])
    seconds = time.monotonic() - started
    bench.save(job, outcome, seconds)
    return job, seconds


def run(bench: Bench, jobs: list[Job], n_processes: int) -> None:
    """Do the jobs that have no result yet, a line on standard error for each."""
    missing = [job for job in jobs if bench.load(job) is None]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} fits are there already", file=sys.stderr, flush=True)
    if not missing:
        return
    with multiprocessing.get_context("spawn").Pool(n_processes, _start_worker, (bench,)) as pool:
        for done, (job, seconds) in enumerate(pool.imap_unordered(_work, missing), 1):
            epochs = f"{job.epochs} epochs, " if job.epochs else ""
            print(f"{done} of {len(missing)}: {job.name}, {epochs}{seconds:.0f} s", file=sys.stderr, flush=True)
