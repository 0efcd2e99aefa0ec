"""Every job of an evaluation through one pool of processes, and what they counted in one file."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from serstream.config import Config
from serstream.errors import ConfigError
from serstream.manifest import load_model
from serstream.training.corpora import Clip, read_corpora
from serstream.training.evaluation.bench import Bench, Column, Job, Means, Part
from serstream.training.evaluation.clips import hear, perturb
from serstream.training.evaluation.counts import Result, merged, write
from serstream.training.evaluation.plan import (
    EIGHT_CLASSES,
    Speaker,
    noise,
    readers,
    recordings_of_noise,
    speakers,
    trained_without,
)
from serstream.training.evaluation.streams import hear_noise, hear_reading, hear_stream
from serstream.training.prepare import read_clip

PARTS = ("clips", "robustness", "streams", "noise", "reading")
COLUMNS_OF: dict[str, tuple[Column, ...]] = {
    "five": ("none", "online", "cold", "enrolled"),
    "others": ("none", "online", "enrolled"),
}


class NoiseJob(NamedTuple):
    """Sounds of one kind in one column; ``enrolment`` is of whoever is enrolled while they sound."""

    kind: str
    clips: list[Clip]
    column: Column
    enrolment: list[Clip]


_HEAR: dict[Part, Callable[[Bench, Job, Means], dict[str, Any]]] = {
    "clips": hear,
    "robustness": perturb,
    "streams": hear_stream,
    "reading": hear_reading,
}
_worker: dict[str, Bench] = {}


def _start_worker(bench: Bench) -> None:
    # nothing here may fail: a pool replaces a worker that does not start, for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker["bench"] = bench


def _work(job: Job | NoiseJob) -> dict[str, Any]:
    return do(_worker["bench"], job)


def do(bench: Bench, job: Job | NoiseJob) -> dict[str, Any]:
    """Return the counts of a job as a part of a :class:`Result`; nothing where there is nobody to enrol."""
    if isinstance(job, NoiseJob):
        return hear_noise(bench, *job)
    means = bench.means(job.column, job.speaker.enrolment)
    return {} if means is None or not job.clips else _HEAR[job.part](bench, job, means)


def jobs(scored: list[Speaker], clips: Sequence[Clip], parts: Sequence[str]) -> list[Job | NoiseJob]:
    """Return what is to be done, the longest first; under every condition RAVDESS alone where there is any."""
    five = [s for s in scored if not s.eight]
    perturbed = [s for s in five if s.corpus == EIGHT_CLASSES] or five
    found: list[Job | NoiseJob] = []
    plan: list[tuple[Part, list[Speaker]]] = [("robustness", perturbed), ("clips", scored), ("streams", five)]
    for part, people in plan:
        for s in people:
            columns = COLUMNS_OF["five" if part == "clips" and not s.eight else "others"]
            found += [Job(part, s, column) for column in columns if part in parts]
    read = readers(clips)
    voice = next((s.enrolment for s in [*five, *read] if s.enrolment), [])
    for column in COLUMNS_OF["others"]:
        if "noise" in parts:
            found += [NoiseJob(kind, sounds, column, voice) for kind, sounds in noise(clips).items()]
        if "reading" in parts:
            found += [Job("reading", s, column) for s in read]
    return found


def run_all(
    folder: Path,
    data: Path,
    out: Path,
    *,
    fold: int | None = None,
    parts: Sequence[str] = PARTS,
    run: Path | None = None,
    n_processes: int = 2,
) -> Result:
    """Score a model on everything in ``data`` that it was not trained on, and write the counts to ``out``.

    Parameters
    ----------
    folder, data, out : Path
        Model folder, recordings, JSON file.
    fold : int, optional
        The fold that the model must have been trained without.
    parts : sequence of str
        Some of ``PARTS``.
    run : Path, optional
        The run that the model was exported from, to compare the float network with it.
    n_processes : int

    Raises
    ------
    ConfigError
        If the model was trained without another fold, or a part is unknown.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ConfigError(f"{', '.join(unknown)} is no part of an evaluation; allowed are {', '.join(PARTS)}")
    model = load_model(folder)
    without, seed = trained_without(model.manifest)
    if fold not in (None, without):
        raise ConfigError(
            f"model {folder} was trained without fold {without}, not {fold}: its figures there would be of speakers "
            "that it knows; leave --fold out, or name a model of that fold"
        )
    clips = read_corpora(data)
    scored = speakers(clips, model.manifest)
    bench = Bench(model, Config(), [read_clip(c.path) for c in recordings_of_noise(clips)])
    tree: dict[str, Any] = {"sexes": {s.name: s.sex for s in scored}}
    for done in _all(bench, jobs(scored, clips, parts), n_processes):
        tree = merged(tree, done)
    if run is not None:
        from serstream.training.evaluation.quantisation import count

        tree |= count(run, bench, [s for s in scored if not s.eight])
    about: dict[str, Any] = {"model": folder.name, "sha256": model.manifest.sha256, "made_by": model.manifest.command}
    about |= {"trained_on": model.manifest.corpora, "fold": without, "seed": seed}
    result = msgspec.convert(tree | about, Result)
    write(out, result)
    return result


def _all(bench: Bench, todo: Sequence[Job | NoiseJob], n_processes: int) -> Iterator[dict[str, Any]]:
    """Do the jobs, with a line on standard error for every tenth of them."""
    with multiprocessing.get_context("spawn").Pool(n_processes, _start_worker, (bench,)) as pool:
        for n, done in enumerate(pool.imap_unordered(_work, todo), 1):
            if n * 10 // len(todo) > (n - 1) * 10 // len(todo):
                print(f"{n} of {len(todo)} jobs done", file=sys.stderr, flush=True)
            yield done
