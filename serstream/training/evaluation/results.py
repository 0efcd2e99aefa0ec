"""Counts of many models and folds, pooled into figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serstream.errors import SourceError
from serstream.training.corpora import SEXES
from serstream.training.evaluation import statistics
from serstream.training.evaluation.counts import Changed, Clips, Result, Streams, merged, read

Confusion = NDArray[np.int64]
Name = Literal["five", "eight"]
LATER_FOLDS = (2, 4, 5)
"""Scored once, after every choice was made on the speakers of folds 1 and 3."""


class Figures(NamedTuple):
    """Clips of one corpus in one column over several models; shares from 0 to 1, ``sd`` None with one seed.

    ``low`` and ``high`` bound 95 % over speakers; ``female`` and ``male`` are the UAR of these voices, ``voice`` that
    of telling them apart; ``named`` is the accuracy among clips with a label above the thresholds; ``seconds`` (8,) is
    the UAR so long after speech began.
    """

    runs: int
    clips: int
    confusion: Confusion
    bins: NDArray[np.float64]
    uar: float
    sd: float | None
    low: float
    high: float
    accuracy: float
    macro_f1: float
    female: float
    male: float
    voice: float
    calibration_error: float
    uncertain: float
    no_speech: float
    named: float
    seconds: list[float]


def load(folder: Path) -> list[Result]:
    """Read every file of counts in ``folder/results``; raises :class:`SourceError` if there is none."""
    paths = sorted((folder / "results").glob("*.json"))
    if not paths:
        raise SourceError(
            f"{folder / 'results'} holds no counts; make them: evaluate MODEL --data DATA --full "
            f"--out {folder / 'results' / 'NAME.json'}"
        )
    return [read(path) for path in paths]


def of_corpus(results: Sequence[Result], corpus: str) -> list[Result]:
    """Return who has counts of a corpus: of a foreign one the model of everyone alone, where it was scored."""
    have = [r for r in results if corpus in r.five]
    return [r for r in have if r.fold == 0] or have


def without_speakers(results: Sequence[Result]) -> list[Result]:
    """Return who tells of noise and reading: the model of everyone, or all where it was not scored."""
    return [r for r in results if r.fold == 0] or list(results)


def figures(results: Sequence[Result], name: Name, corpus: str, column: str) -> Figures | None:
    """Pool the clips of a corpus in a column; None where nobody has any."""
    found = [
        (r, table[column]) for r in of_corpus(results, corpus) if column in (table := getattr(r, name).get(corpus, {}))
    ]
    if not found:
        return None
    by_speaker = _by_speaker([c.confusion for _, c in found])
    confusion = np.sum(list(by_speaker.values()), axis=0)
    sexes = {speaker: sex for r, _ in found for speaker, sex in r.sexes.items()}
    female, male = (
        statistics.uar(_sum([t for s, t in by_speaker.items() if sexes[s] == sex], confusion)) for sex in SEXES
    )
    low, high = statistics.bootstrap_uar(list(by_speaker.values()))
    total = int(confusion.sum())
    named = sum(c.named for _, c in found)
    return Figures(
        runs=len(found),
        clips=total,
        confusion=confusion,
        bins=np.sum([c.bins for _, c in found], axis=0),
        uar=statistics.uar(confusion),
        sd=statistics.spread(_by_seed(found, lambda parts: statistics.uar(_all(parts)))),
        low=low,
        high=high,
        accuracy=statistics.accuracy(confusion),
        macro_f1=statistics.macro_f1(confusion),
        female=female,
        male=male,
        voice=statistics.uar(_voices([c.voice for _, c in found], sexes)),
        calibration_error=float(np.mean(_by_seed(found, _calibration_error))),
        uncertain=statistics.share(sum(c.uncertain for _, c in found), total),
        no_speech=statistics.share(sum(c.no_speech for _, c in found), total),
        named=statistics.share(sum(c.named_right for _, c in found), named),
        seconds=_seconds([c for _, c in found], confusion),
    )


def _by_speaker(tables: Sequence[dict[str, list[list[int]]]]) -> dict[str, Confusion]:
    total: dict[str, Confusion] = {}
    for table in tables:
        for speaker, rows in table.items():
            total[speaker] = total.get(speaker, 0) + np.array(rows)
    return total


def _sum(tables: Sequence[Confusion], like: Confusion) -> Confusion:
    return np.asarray(np.sum([np.zeros_like(like), *tables], axis=0))


def _all(parts: Sequence[Clips]) -> Confusion:
    return np.asarray(np.sum([rows for c in parts for rows in c.confusion.values()], axis=0))


def _calibration_error(parts: Sequence[Clips]) -> float:
    return statistics.calibration_error(np.sum([c.bins for c in parts], axis=0))


def _by_seed(found: Sequence[tuple[Result, Clips]], figure: Callable[[Sequence[Clips]], float]) -> list[float]:
    """Return a figure of each seed that has every fold that any seed has; folds are pooled."""
    folds = {r.fold for r, _ in found}
    seeds = [[(r, c) for r, c in found if r.seed == seed] for seed in sorted({r.seed for r, _ in found})]
    whole = [parts for parts in seeds if {r.fold for r, _ in parts} == folds] or [list(found)]
    return [figure([c for _, c in parts]) for parts in whole]


def _voices(voices: Sequence[dict[str, list[int]]], sexes: dict[str, Literal["F", "M"]]) -> Confusion:
    table = np.zeros((2, 3), np.int64)
    for voice in voices:
        for speaker, said in voice.items():
            table[SEXES.index(sexes[speaker])] += said
    return table


def _seconds(parts: Sequence[Clips], confusion: Confusion) -> list[float]:
    if not parts[0].seconds:
        return []
    right, asked = np.sum([c.seconds for c in parts], axis=0), confusion.sum(axis=1)
    return [float(np.mean(row[asked > 0] / asked[asked > 0])) for row in right]


def corpora(results: Sequence[Result], name: Name = "five") -> list[str]:
    """Return the corpora that anybody was scored on, RAVDESS first, those that no model was trained on last."""
    found = {corpus for r in results for corpus in getattr(r, name)}
    return sorted(found, key=lambda c: (foreign(results, c), not c.startswith("ravdess"), c))


def foreign(results: Sequence[Result], corpus: str) -> bool:
    """Whether a corpus was trained on by none of those that were scored on it, so that it was never divided."""
    return not any(corpus in r.trained_on for r in results if corpus in r.five)


def by_fold(results: Sequence[Result], name: Name, corpus: str, column: str) -> dict[int, Figures]:
    """Return the figures of each fold alone."""
    folds = sorted({r.fold for r in of_corpus(results, corpus)})
    each = {fold: figures([r for r in results if r.fold == fold], name, corpus, column) for fold in folds}
    return {fold: f for fold, f in each.items() if f is not None}


def robustness(results: Sequence[Result], corpus: str, column: str) -> dict[str, Changed]:
    """Return the counts of every condition, pooled over models."""
    found = [r.robustness.get(corpus, {}).get(column, {}) for r in of_corpus(results, corpus)]
    names = list(dict.fromkeys(name for table in found for name in table))
    return {name: _added([table[name] for table in found if name in table]) for name in names}


def _added(parts: Sequence[Changed]) -> Changed:
    return Changed(_sum_lists([p.confusion for p in parts]), sum(p.unchanged for p in parts))


def _sum_lists(tables: Sequence[list[list[int]]]) -> list[list[int]]:
    total = tables[0]
    for table in tables[1:]:
        total = merged(total, table)
    return total


def streams(results: Sequence[Result], corpus: str, column: str) -> Streams | None:
    """Return the counts of the streams of a corpus, pooled over models."""
    found = [r.streams[corpus][column] for r in of_corpus(results, corpus) if column in r.streams.get(corpus, {})]
    if not found:
        return None
    values = ([getattr(s, field) for s in found] for field in Streams.__struct_fields__)
    return Streams(*(np.sum(v, axis=0).tolist() for v in values))


class FalseEvents(NamedTuple):
    """Emotion events per hour of sound without speech, with a 95 % interval; ``hours`` is the sound of one model."""

    hours: float
    per_hour: float
    low: float
    high: float


def false_events(results: Sequence[Result], column: str, kinds: Sequence[str]) -> FalseEvents | None:
    """Count over kinds of sound; models hear the same sounds, so the interval is that of one of them."""
    tables = [r.noise[column] for r in without_speakers(results) if column in r.noise]
    found = [t[kind] for t in tables for kind in kinds if kind in t]
    if not found:
        return None
    hours = sum(n.seconds for n in found) / 3600 / len(tables)
    events = sum(sum(n.events.values()) for n in found) / len(tables)
    low, high = statistics.poisson_interval(round(events))
    return FalseEvents(hours, events / hours, low / hours, high / hours)


def loudest_sounds(results: Sequence[Result], column: str) -> list[tuple[str, float]]:
    """Return the classes of sound by events a model, the most first."""
    found = [n for r in without_speakers(results) for n in r.noise.get(column, {}).values()]
    n_models = sum(column in r.noise for r in without_speakers(results))
    total: dict[str, int] = {}
    for n in found:
        for sound, events in n.sounds.items():
            total[sound] = total.get(sound, 0) + events
    return [(sound, events / n_models) for sound, events in sorted(total.items(), key=lambda item: (-item[1], item[0]))]


class ReadingFigures(NamedTuple):
    """Utterances, the share of them that was noticed, and shares of speech time."""

    utterances: int
    detected: float
    not_calm: float
    uncertain: float


def reading(results: Sequence[Result], column: str) -> ReadingFigures | None:
    """Return the figures of read speech, pooled over models."""
    found = [r.reading[column] for r in without_speakers(results) if column in r.reading]
    if not found:
        return None
    states: dict[str, float] = {}
    for r in found:
        states = merged(states, r.states)
    total = sum(states.values())
    quiet = sum(states.get(s, 0.0) for s in ("calm", "uncertain", "no_speech"))
    return ReadingFigures(
        utterances=sum(r.utterances for r in found) // len(found),
        detected=statistics.share(sum(r.detected for r in found), sum(r.utterances for r in found)),
        not_calm=statistics.share(total - quiet, total),
        uncertain=statistics.share(states.get("uncertain", 0.0), total),
    )


class Int8(NamedTuple):
    """What int8 does to the clips of a corpus; ``loss`` in points of UAR."""

    runs: int
    clips: int
    uar_float: float
    uar_int8: float
    loss: float
    equal: float
    largest: float


def int8(results: Sequence[Result], corpus: str) -> Int8 | None:
    """Pool the comparisons of float networks and int8 models; None where there is none."""
    found = [r.parity[corpus] for r in of_corpus(results, corpus) if corpus in r.parity]
    if not found:
        return None
    exact, quantised = (
        np.sum([np.array(getattr(p, f"confusion_{kind}")) for p in found], axis=0) for kind in ("float", "int8")
    )
    before, after = statistics.uar(exact), statistics.uar(quantised)
    return Int8(
        runs=len(found),
        clips=int(exact.sum()),
        uar_float=before,
        uar_int8=after,
        loss=100 * (before - after),
        equal=statistics.share(sum(p.equal_decisions for p in found), int(exact.sum())),
        largest=max(p.largest_difference for p in found),
    )
