"""The clips of one speaker, heard in one column, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from serstream.events import LABELS
from serstream.normalisation import CepstralMean
from serstream.training.corpora import SEXES, Clip
from serstream.training.evaluation.bench import Bench, Job, Means, confusion
from serstream.training.evaluation.counts import BESIDE, COLUMNS, N_BINS, SECONDS, Changed, Clips
from serstream.training.evaluation.listening import NOTHING, Heard, listen
from serstream.training.evaluation.perturbations import Spoken, conditions
from serstream.training.evaluation.plan import N_ORDERS, generator
from serstream.training.prepare import read_clip
from serstream.training.score import asked_for, label_of
from serstream.training.speech import speech_level

WARM_S = 30.0
"""Speech behind which a stream counts as warm."""
Rows = list[tuple[Clip, Heard]]


def hear(bench: Bench, job: Job, means: Means) -> dict[str, Any]:
    """Return the counts of a speaker's clips; of ``online`` also those that were heard warm."""
    clips = job.clips
    samples = [read_clip(c.path) for c in clips]
    rows: dict[str, Rows] = {job.column: []}
    for order in _orders(job, means, N_ORDERS):
        heard_s = 0.0
        for i, mean in order:
            heard = listen(samples[i], bench.model, bench.config, mean)
            rows[job.column].append((clips[i], heard))
            if job.column == "online" and heard_s >= WARM_S:
                rows.setdefault("warm", []).append((clips[i], heard))
            heard_s += heard.speech_s
    kept = COLUMNS if job.speaker.eight else (*COLUMNS, *BESIDE)
    counted = {column: count(bench, job, r) for column, r in rows.items() if column in kept}
    return {"eight" if job.speaker.eight else "five": {job.speaker.corpus: counted}}


def _orders(job: Job, means: Means, n_orders: int) -> list[list[tuple[int, CepstralMean]]]:
    """Return in what orders clips are heard, an index and a mean for each; online, the clips of an order share one."""
    n = len(job.clips)
    if job.column != "online":
        return [[(i, means()) for i in range(n)]]
    orders = []
    for k in range(n_orders):
        mean = means()
        orders.append([(int(i), mean) for i in generator(job.speaker.name, "order", k).permutation(n)])
    return orders


def count(bench: Bench, job: Job, rows: Rows) -> dict[str, Any]:
    """Count what was heard in clips of a speaker, as :class:`Clips`."""
    eight, name = job.speaker.eight, job.speaker.name
    classes = bench.model.manifest.emotions if eight else list(LABELS)
    asked = [asked_for(clip, classes) for clip, _ in rows]
    heard = [h for _, h in rows]
    said = [h.emotion_answer if eight else h.answer for h in heard]
    found = Clips(
        confusion={name: confusion(asked, said, len(classes))},
        voice={name: _voices([h.voice for h in heard])},
        bins=_bins(asked, [h.emotion if eight else h.posterior for h in heard]),
        named=sum(h.named != NOTHING for h in heard),
        named_right=sum(h.named == a for h, a in zip(heard, asked, strict=True)) if not eight else 0,
        uncertain=sum(h.named == NOTHING and h.posterior is not None for h in heard),
        no_speech=sum(h.posterior is None for h in heard),
        seconds=[] if eight else [_right(asked, [h.after[k] for h in heard]) for k in range(len(SECONDS))],
    )
    return dict(msgspec.to_builtins(found))


def _right(asked: Sequence[int], said: Sequence[int]) -> list[int]:
    return [sum(a == s == k for a, s in zip(asked, said, strict=True)) for k in range(len(LABELS))]


def _voices(voices: Sequence[list[float] | None]) -> list[int]:
    said = [len(SEXES) if v is None else v.index(max(v)) for v in voices]
    return [said.count(k) for k in range(len(SEXES) + 1)]


def _bins(asked: Sequence[int], probabilities: Sequence[list[float] | None]) -> list[list[float]]:
    bins = [[0.0, 0.0, 0.0] for _ in range(N_BINS)]
    for k, p in zip(asked, probabilities, strict=True):
        if p is not None:
            row = bins[min(int(max(p) * N_BINS), N_BINS - 1)]
            row[:] = [row[0] + 1, row[1] + max(p), row[2] + (p.index(max(p)) == k)]
    return bins


def perturb(bench: Bench, job: Job, means: Means) -> dict[str, Any]:
    """Return what a speaker's clips are heard as under every condition; online, all clips under one, in one order."""
    clips = job.clips
    samples = [read_clip(c.path) for c in clips]
    levels = [speech_level(s) for s in samples]
    asked = [label_of(c) for c in clips]
    found: dict[str, Changed] = {}
    clean: list[int] = []
    for name, change in conditions(bench.noises).items():
        said = [NOTHING] * len(clips)
        for i, mean in _orders(job, means, 1)[0]:
            spoken = Spoken(samples[i], levels[i], generator(clips[i].path.stem, name))
            said[i] = listen(change(spoken), bench.model, bench.config, mean).answer
        clean = clean or said
        same = sum(a == b for a, b in zip(said, clean, strict=True))
        found[name] = Changed(confusion(asked, said, len(LABELS)), same)
    return {"robustness": {job.speaker.corpus: {job.column: msgspec.to_builtins(found)}}}
