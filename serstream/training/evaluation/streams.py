"""Endless sound: joined clips of one speaker, read speech, and sounds that are no speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from serstream.config import SAMPLE_RATE
from serstream.events import LABELS, Emotion, Speech
from serstream.training.corpora import Clip
from serstream.training.evaluation.bench import Bench, Column, Job, Means
from serstream.training.evaluation.counts import Noise, Reading, Streams
from serstream.training.evaluation.listening import Samples, speech_steps, stream
from serstream.training.evaluation.matching import (
    Span,
    delays,
    histogram,
    matches,
    spans,
    switches,
    utterances,
)
from serstream.training.evaluation.plan import generator
from serstream.training.prepare import read_clip
from serstream.training.score import label_of
from serstream.training.speech import speech_of

PAUSE_S = (1.0, 2.0)
FLOOR_DBFS = -60.0


def hear_stream(bench: Bench, job: Job, means: Means) -> dict[str, Any]:
    """Return how the events of a speaker's joined clips agree with what was said in them."""
    rng = generator(job.speaker.name, "stream")
    clips = [job.clips[i] for i in rng.permutation(len(job.clips))]
    samples, said = joined(clips, [read_clip(c.path) for c in clips], rng)
    events = stream(samples, bench.model, bench.config, means())
    heard, spoken = spans(events), utterances(events)
    found = Streams(
        references=len(said),
        events=len(heard),
        matched=matches(said, heard, whole=False),
        matched_whole=matches(said, heard, whole=True),
        delays=histogram(delays(said, heard)),
        switches=switches(heard, spoken),
        speech_s=sum(end - start for start, end in spoken),
    )
    return {"streams": {job.speaker.corpus: {job.column: msgspec.to_builtins(found)}}}


def joined(clips: Sequence[Clip], samples: Sequence[Samples], rng: np.random.Generator) -> tuple[Samples, list[Span]]:
    """Join clips with pauses of 1 to 2 s over a faint floor; return the stream, and where speech stands in it."""
    parts: list[Samples] = []
    said: list[Span] = []
    at = 0
    for clip, y in zip(clips, samples, strict=True):
        pause = np.zeros(int(rng.uniform(*PAUSE_S) * SAMPLE_RATE), np.float32)
        begin = at + pause.size
        speech = np.flatnonzero(speech_of(y))
        if speech.size:
            start_s, end_s = ((begin + int(n)) / SAMPLE_RATE for n in (speech[0], speech[-1] + 1))
            said.append(Span(LABELS[label_of(clip)], start_s, end_s))
        parts += [pause, y]
        at = begin + y.size
    floor = rng.standard_normal(at, np.float32) * np.float32(10 ** (FLOOR_DBFS / 20))
    return np.concatenate(parts) + floor, said


def hear_reading(bench: Bench, job: Job, means: Means) -> dict[str, Any]:
    """Return which of a reader's utterances were noticed, and the seconds of their speech under each state."""
    mean, detected = means(), 0
    states: dict[str, float] = {}
    for clip in job.clips:
        mean = mean if job.column == "online" else means()
        events = stream(read_clip(clip.path), bench.model, bench.config, mean)
        detected += any(isinstance(e, Speech) for e in events)
        for step, speech_s in speech_steps(events):
            states[step.state] = states.get(step.state, 0.0) + speech_s
    return {"reading": {job.column: msgspec.to_builtins(Reading(len(job.clips), detected, states))}}


def hear_noise(
    bench: Bench, kind: str, clips: Sequence[Clip], column: Column, enrolment: Sequence[Clip]
) -> dict[str, Any]:
    """Join sounds of one kind without a pause, and count the emotions heard in them."""
    means = bench.means(column, enrolment)
    if means is None:
        return {}
    samples = [read_clip(c.path) for c in clips]
    ends = np.cumsum([s.size for s in samples])
    events = stream(np.concatenate(samples), bench.model, bench.config, means())
    onsets = [e for e in events if isinstance(e, Emotion) and e.phase == "onset"]
    sounds: dict[str, int] = {}
    for e in onsets:
        clip = clips[int(np.searchsorted(ends, round(e.start_s * SAMPLE_RATE)))]
        sounds[clip.source] = sounds.get(clip.source, 0) + 1
    found = Noise(float(ends[-1] / SAMPLE_RATE), {k: sum(e.label == k for e in onsets) for k in LABELS}, sounds)
    return {"noise": {column: {kind: msgspec.to_builtins(found)}}}
