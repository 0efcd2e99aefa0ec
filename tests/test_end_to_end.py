"""From a microphone, captured by PortAudio in real time, to a subscriber in another process."""

from __future__ import annotations

import csv
import json
import re
import signal
import socket
import subprocess
import time
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from serstream_process import (
    COMMAND,
    LIMIT_S,
    PROMPT_S,
    Daemon,
    Serstream,
    await_true,
    hear,
    hear_out,
    is_emotion,
    nothing_lost,
)

from serstream import Emotion, Gap, Health, Posterior, Speech
from serstream.events import LABELS
from serstream.resources import packaged

ANY_LABEL = {"decision": {"enter_threshold": 0.0, "exit_threshold": 0.0}}
STEP = 4096


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of the demo, one utterance and a pause."""
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    samples, rate = soundfile.read(packaged("demo.flac"), dtype="int16")
    soundfile.write(path, samples[rate : 6 * rate], rate)
    return path


def running(subscriber: Any) -> None:
    """Wait for the first captured samples."""
    hear(subscriber, lambda event: isinstance(event, Posterior))


def age_s(time_said: str) -> float:
    """Return how long ago an RFC 3339 time in UTC was, in seconds."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time_said)
    return (datetime.now(UTC) - datetime.fromisoformat(time_said)).total_seconds()


def certainty(analysis: dict[str, Any]) -> tuple[int, str]:
    """Return the longest run of steps in the state of one label, and the label."""
    runs = [(len(list(run)), state) for state, run in groupby(step["state"] for step in analysis["steps"])]
    return max((run for run in runs if run[1] in LABELS), default=(0, ""))


@pytest.fixture(scope="session")
def surest(corpus: Path) -> tuple[Path, str]:
    """A clip of strong emotion that the shipped model is sure about, and what it hears there."""
    with (corpus / "manifest.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["corpus"] == "ravdess_speech" and r["intensity"] == "strong"]
    paths = [str(corpus / r["path"]) for r in rows if r["emotion"] in {"angry", "calm"}][::16][:12]
    done = subprocess.run(
        [*COMMAND, "analyze", "--json", "--steps", *paths], capture_output=True, text=True, check=True, timeout=LIMIT_S
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    best = max(found, key=certainty)
    steps, label = certainty(best)
    assert steps >= 4, f"the model is sure of none of {paths}"
    return Path(best["file"]), label


@pytest.mark.corpus
def test_an_emotion_played_to_the_microphone_begins_and_ends_at_a_subscriber(virtual_mic, surest, tmp_path):
    path, label = surest
    urls = ("--connect", f"ipc://{tmp_path}/events", "--control", f"ipc://{tmp_path}/control")
    heard: list[dict[str, Any]] = []

    def emotion(phase: str, line: str) -> bool:
        event = json.loads(line)
        if event["type"] != "emotion" or event["phase"] != phase or event["label"] != label:
            return False
        heard.append(event | {"age_s": age_s(event["time"])})
        return True

    with Daemon(tmp_path, {}) as daemon, Serstream("listen", "--json", *urls) as listen:
        listen.out.until(lambda line: '"type":"posterior"' in line)
        with virtual_mic.play(path):
            listen.out.until(lambda line: emotion("onset", line))
            listen.out.until(lambda line: emotion("offset", line))
        assert daemon.end(signal.SIGTERM) == 0
    events = [event for event in map(json.loads, listen.out.lines) if event["type"] == "emotion"]
    onset = next(e for e in heard if e["phase"] == "onset")
    offset = next(e for e in heard if e["phase"] == "offset")
    assert (offset["id"], offset["start_s"]) == (onset["id"], onset["start_s"])
    assert onset["start_s"] < offset["end_s"]
    assert [e["stream_s"] for e in events] == sorted(e["stream_s"] for e in events)
    assert [e["time"] for e in events] == sorted(e["time"] for e in events)
    assert all(0.0 < e["latency_s"] < 1.0 for e in events)
    assert all(0.0 <= e["age_s"] < 1.0 for e in heard)
    assert onset["probability"] > 1 / len(LABELS)


def test_speech_played_to_the_microphone_starts_and_ends_with_posteriors_in_between(virtual_mic, clip, tmp_path):
    with Daemon(tmp_path, ANY_LABEL) as daemon, daemon.subscribe() as subscriber:
        running(subscriber)
        with virtual_mic.play(clip):
            events = hear(subscriber, lambda e: isinstance(e, Speech) and e.phase == "end")
        assert age_s(events[-1].time) < PROMPT_S
        last = hear_out(daemon, subscriber, signal.SIGTERM)
    events = [e for e in events if not e.replayed]
    start, end = (e for e in events if isinstance(e, Speech))
    assert 3.0 < end.end_s - end.start_s < 5.0
    assert start.start_s == end.start_s
    assert set(end.posterior) == set(LABELS)
    posteriors = [e for e in events if isinstance(e, Posterior)]
    assert {b.sample - a.sample for a, b in pairwise(posteriors)} == {STEP}
    within = [e for e in posteriors if start.start_s + 1.0 < e.stream_s < end.end_s]
    assert all(sum(e.posterior.values()) == pytest.approx(1.0, abs=0.001) for e in within)
    assert len(within) >= 8
    assert np.median([e.latency_s for e in posteriors]) < 0.3
    emotions = [e for e in events if isinstance(e, Emotion)]
    assert emotions[0].phase == "onset"
    assert emotions[-1].phase == "offset", "an emotion ends with speech"
    assert nothing_lost(last[-1])


def test_mute_closes_the_device_and_unmute_opens_it_again(virtual_mic, tmp_path):
    with Daemon(tmp_path, {}) as daemon, daemon.subscribe() as subscriber:
        running(subscriber)
        before = daemon.children()
        assert len(before) == 1
        daemon.ask("mute")
        (gap,) = [e for e in hear(subscriber, lambda e: isinstance(e, Gap)) if isinstance(e, Gap)]
        assert (gap.phase, gap.cause) == ("start", "muted")
        await_true(lambda: not daemon.children())
        hear(subscriber, lambda e: isinstance(e, Health) and e.status == "muted")
        assert daemon.ask("status")["sources"]["mic"]["status"] == "muted"
        daemon.ask("unmute")
        gap = hear(subscriber, lambda e: isinstance(e, Gap))[-1]
        assert (gap.phase, gap.cause, gap.estimated) == ("end", "muted", True)
        resumed = hear(subscriber, lambda e: isinstance(e, Posterior))[-1]
        assert resumed.sample == gap.sample + STEP + 256, "the first step after a hole"
        assert daemon.children().isdisjoint(before)
        assert age_s(resumed.time) < 1.0, "the hole was counted in"
        assert nothing_lost(hear_out(daemon, subscriber, signal.SIGTERM)[-1])


def test_a_stalled_consumer_loses_nothing_uncounted_and_the_index_moves_on(virtual_mic, tmp_path):
    with Daemon(tmp_path, {}) as daemon, daemon.subscribe() as subscriber:
        running(subscriber)
        daemon.process.send_signal(signal.SIGSTOP)
        (microphone,) = daemon.children()
        stalled_s = time.monotonic()
        # the ring of the capture process, which goes on, holds ten seconds; only time fills it
        await_true(lambda: time.monotonic() - stalled_s > 11.5)
        daemon.process.send_signal(signal.SIGCONT)
        events = hear(subscriber, lambda e: isinstance(e, Gap) and e.phase == "end")
        gap = events[-1]
        assert (gap.cause, gap.estimated) == ("ring_overrun", False)
        events += hear(subscriber, lambda e: isinstance(e, Posterior) and e.sample > gap.sample)
        assert events[-1].sample - gap.sample <= STEP + 256
        assert daemon.children() == {microphone}
        events += hear_out(daemon, subscriber, signal.SIGTERM)
    health = events[-1]
    lost = sum(e.lost_samples for e in events if isinstance(e, Gap) and e.phase == "end")
    assert nothing_lost(health)
    assert health.counters["ring_overruns"] == lost > 16_000
    assert health.sample == health.counters["consumed"] + lost
    assert health.degraded
    assert len([line for line in daemon.err.lines if "ring_overrun" in line]) == 1


def test_sigterm_ends_within_a_second_though_the_sound_server_hangs(virtual_mic, tmp_path):
    stall = {"mic": {"kind": "microphone", "stall_s": 0.5}}
    with Daemon(tmp_path, {"sources": stall}) as daemon, daemon.subscribe() as subscriber:
        running(subscriber)
        virtual_mic.freeze()
        hear(subscriber, lambda e: isinstance(e, Health) and e.status == "stalled")
        asked_s = time.monotonic()
        daemon.process.terminate()
        daemon.process.wait(LIMIT_S)
        assert time.monotonic() - asked_s < PROMPT_S
        last = hear_out(daemon, subscriber)[-1]
    assert nothing_lost(last)


def test_a_sound_server_that_hangs_starves_no_watchdog_while_the_stall_is_waited_for(
    virtual_mic, monkeypatch, tmp_path
):
    patient = {"mic": {"kind": "microphone", "stall_s": 7.0}}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(3.0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        with Daemon(tmp_path, {"sources": patient}) as daemon, daemon.subscribe() as subscriber:
            running(subscriber)
            virtual_mic.freeze()
            told = b""
            while b"mic stalled" not in told:  # which nothing but the stall rule says; each turn comes within 3 s
                while told != b"WATCHDOG=1":
                    told = manager.recv(4096)
                told = manager.recv(4096)
            hear(subscriber, lambda e: isinstance(e, Gap) and e.cause == "stalled")
            assert daemon.end(signal.SIGTERM) == 0
    assert not [line for line in daemon.err.lines if "no progress" in line]


def test_a_microphone_that_is_unplugged_is_lost_ends_the_emotion_and_comes_back(virtual_mic, clip, tmp_path):
    with Daemon(tmp_path, ANY_LABEL) as daemon, daemon.subscribe() as subscriber:
        running(subscriber)
        with virtual_mic.play(clip) as player:
            hear(subscriber, is_emotion("onset"))
            player.kill()
            virtual_mic.unplug()
        events = hear(subscriber, lambda e: isinstance(e, Gap))
        assert [e.phase for e in events if isinstance(e, Emotion)][-1] == "offset"
        assert (events[-1].phase, events[-1].cause) in {("start", "device_lost"), ("start", "stalled")}
        virtual_mic.plug()
        end = hear(subscriber, lambda e: isinstance(e, Gap) and e.phase == "end")[-1]
        assert end.lost_samples > 0
        assert age_s(hear(subscriber, lambda e: isinstance(e, Posterior))[-1].time) < PROMPT_S
        assert nothing_lost(hear_out(daemon, subscriber, signal.SIGTERM)[-1])
