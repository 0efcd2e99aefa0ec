"""What is known of a stream from its events: what ends with its process, and where another goes on."""

from __future__ import annotations

from typing import Any

import pytest

from serstream.account import Account
from serstream.config import FileSource, MicrophoneSource, SourceConfig
from serstream.events import AnyEvent, Emotion, Gap, Health, Speech
from serstream.pulled import Resume

RATE = 16_000
WALL_S = 1_800_000_000.0
COUNTED = {"captured": 99, "consumed": 99, "ring_overruns": 0, "input_overflows": 0, "unread": 3, "callbacks": 7}


def account(config: SourceConfig | None = None) -> Account:
    """Return that of a stream that began at second 0."""
    return Account("mic", "6f1c", config or MicrophoneSource(), now_s=0.0, wall_s=WALL_S)


def at(second: float, **fields: Any) -> dict[str, Any]:
    """Return what an event carries that speaks of the sample of this second."""
    ids = {"source": "mic", "session": "6f1c", "time": f"{second}", "seq": 9}
    return ids | {"sample": round(second * RATE), "stream_s": second} | fields


def hear(found: Account, *events: AnyEvent) -> None:
    """Push events of samples that were captured without delay."""
    for event in events:
        found.push(event, event.stream_s)


def emotion(second: float, phase: Any, **fields: Any) -> Emotion:
    return Emotion(**at(second), phase=phase, id=4, label="happy", probability=0.7, start_s=1.0, **fields)


def gap(second: float, phase: Any, cause: Any, lost: int = 0) -> Gap:
    return Gap(**at(second), phase=phase, cause=cause, lost_samples=lost, estimated=False)


def health(second: float, **counters: int) -> Health:
    figures = {"rtf": 0.1, "latency_p50_s": 0.1, "latency_p99_s": 0.1, "topics": {}}
    return Health(**at(second), **figures, status="running", degraded=False, counters=COUNTED | counters)


def balanced(resume: Resume) -> bool:
    c = resume.counters
    return c["captured"] == c["consumed"] + c.get("ring_overruns", 0) + c["unread"]


def test_what_is_open_ends_before_the_gap_at_the_last_sample_that_was_told_of():
    found = account()
    hear(found, Speech(**at(0.5), phase="start", start_s=0.2), emotion(1.0, "onset"), emotion(2.0, "update"))
    hear(found, health(3.0))
    offset, end, start = found.interrupt(now_s=9.0, wall_s=WALL_S + 9.0)
    assert (offset.phase, offset.id, offset.label, offset.start_s, offset.end_s) == ("offset", 4, "happy", 1.0, 3.0)
    assert (end.phase, end.start_s, end.end_s, end.label) == ("end", 0.2, 3.0, None)
    assert (start.phase, start.cause, start.lost_samples, start.estimated) == ("start", "worker_restart", 0, True)
    assert {(e.sample, e.time) for e in (offset, end, start)} == {(3 * RATE, "3.0")}
    assert found.resume(5.0)[:2] + found.resume(5.0)[3:] == (3 * RATE, 3.0, 4, 5.0)


def test_what_has_ended_does_not_end_again():
    found = account()
    hear(found, Speech(**at(0.5), phase="start", start_s=0.2), emotion(1.0, "onset"))
    hear(found, emotion(2.0, "offset", end_s=2.0), Speech(**at(2.0), phase="end", start_s=0.2, end_s=1.9))
    assert [e.type for e in found.interrupt(now_s=3.0, wall_s=WALL_S)] == ["gap"]
    assert found.interrupt(now_s=4.0, wall_s=WALL_S) == [], "the next process died before it heard anything"


def test_a_hole_that_is_open_ends_with_what_the_clock_says_was_lost():
    found = account()
    hear(found, health(2.0), gap(2.0, "start", "device_lost"))
    end, start = found.interrupt(now_s=7.0, wall_s=WALL_S)
    assert (end.phase, end.cause, end.lost_samples, end.sample) == ("end", "device_lost", 5 * RATE, 7 * RATE)
    assert (start.cause, start.sample, start.stream_s) == ("worker_restart", 7 * RATE, 7.0)
    resume = found.resume(0.0)
    assert (resume.first_sample, resume.since_s) == (7 * RATE, 7.0)
    assert resume.counters["device_lost"] == 5 * RATE
    assert balanced(resume)


def test_a_recording_waits_through_every_hole():
    found = account(FileSource("a.wav"))
    hear(found, gap(2.0, "start", "muted"))
    end, start = found.interrupt(now_s=7.0, wall_s=WALL_S)
    assert (end.cause, end.lost_samples, end.estimated) == ("muted", 0, False)
    assert (start.cause, start.sample, start.estimated) == ("worker_restart", 2 * RATE, False)


def test_every_sample_up_to_there_was_consumed_or_lost():
    found = account()
    hear(found, health(1.0, ring_overruns=1, non_finite=5))
    for cause, lost in (("ring_overrun", 100), ("input_overflow", 30), ("suspended", 7), ("non_finite", 5)):
        hear(found, gap(2.0, "start", cause, lost), gap(2.0, "end", cause, lost))
    hear(found, health(1.5, non_finite=5), emotion(4.0, "onset"))
    found.interrupt(now_s=4.0, wall_s=WALL_S)
    counters = found.resume(0.0).counters
    assert counters == {
        "captured": 4 * RATE - 37,
        "consumed": 4 * RATE - 137,
        "ring_overruns": 100,
        "input_overflows": 30,
        "suspended": 7,
        "non_finite": 5,
        "unread": 0,
        "callbacks": 7,
        "worker_restart": 0,
    }
    assert balanced(found.resume(0.0))


def test_while_nobody_hears_it_a_stream_starts_again_and_is_degraded():
    found = account()
    assert (found.health.status, found.health.degraded, found.health.counters) == ("starting", False, {})
    hear(found, health(1.0))
    assert found.health.status == "running"
    found.interrupt(now_s=2.0, wall_s=WALL_S)
    assert (found.health.status, found.health.degraded, found.health.sample) == ("starting", True, RATE)
    assert found.health.counters == found.resume(0.0).counters


@pytest.mark.parametrize(("config", "age_s"), [(MicrophoneSource(), 3.0), (FileSource("a.wav"), 0.0)])
def test_only_what_is_live_grows_old(config, age_s):
    found = account(config)
    hear(found, health(2.0))
    assert found.age_s(5.0) == age_s
