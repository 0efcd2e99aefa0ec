"""One source on its way to the publisher: what is told of a loss, in which order, and when."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from datetime import datetime
from typing import Any

import numpy as np
import pytest
import soundfile
from heard import Heard, bare

from serstream.batch import alone
from serstream.clock import slept_s
from serstream.config import (
    DecisionConfig,
    MicrophoneSource,
    NetworkSource,
    SpeechConfig,
    StdinSource,
    SyntheticSource,
)
from serstream.errors import SourceError
from serstream.events import AnyEvent, Emotion, Gap, Posterior
from serstream.hearing import Hearing, Orders, Wishes
from serstream.manifest import load_model
from serstream.network import Network
from serstream.pipeline import Pipeline
from serstream.pulled import Pulled, Resume
from serstream.resources import packaged
from serstream.sameness import Sameness
from serstream.sources import Block, Hole, Stdin
from serstream.stream import Sleep, Stream
from serstream.worker import Worker

RATE = 16_000
LIMIT_S = 30.0
MODEL = load_model(packaged("models/serstream"))
DEMO = soundfile.read(packaged("demo.flac"), dtype="float32")[0]
ANY_LABEL = DecisionConfig(enter_threshold=0.0, exit_threshold=0.0)


class Played(Pulled):
    """A source that delivers these items and ends, or hangs where an item is None."""

    def __init__(self, items: list[Block | Hole | None]) -> None:
        super().__init__(realtime=False)
        self._items = items
        self.hung = threading.Event()
        self.released = threading.Event()

    def read(self, timeout_s: float) -> Block | Hole | None:
        if not self._items:
            self._exhausted = True
            return None
        if self._items[0] is None:
            self.hung.set()
            self.released.wait(LIMIT_S)
        return self._items.pop(0)


class Clock:
    """How long the machine has slept, as a test says it."""

    slept_s = 100.0

    def __call__(self) -> float:
        return self.slept_s


def served(
    heard: Heard,
    source: Any,
    config: Any = None,
    *,
    source_id: str = "mic",
    slept_s: Any = slept_s,
    on_progress: Any = lambda _: None,
) -> tuple[Stream, Worker]:
    """Return the stream of a source, and the worker that hears it alone."""
    network = Network(MODEL)
    pipeline = new_pipeline(network, heard, source_id)
    stream = Stream(source_id, config or MicrophoneSource(), pipeline, heard, slept_s=slept_s)
    stream.source = source
    return stream, Worker([stream], network, on_progress=on_progress, on_end=lambda: None)


def new_pipeline(network: Network, heard: Heard, source_id: str) -> Pipeline:
    return Pipeline(network, source=source_id, session=heard.session, decision=ANY_LABEL)


def hear_all(items: list[Block | Hole | None], **options: Any) -> list[AnyEvent]:
    heard = Heard()
    stream, running = served(heard, Played(items), **options)
    running.start()
    assert running.join(LIMIT_S)
    assert stream.error is None
    return heard.events


def lossy(cause: str, at: int, lost: int, after: int = 100) -> list[Block | Hole | None]:
    now_s = time.monotonic()
    return [
        Block(0, DEMO[RATE : RATE + at], now_s),
        Hole("start", cause, at, lost, False),
        Hole("end", cause, at + lost, lost, False),
        Block(at + lost, DEMO[:after], now_s),
    ]


# --- losses


@pytest.mark.parametrize(("phase", "degraded"), [("start", True), ("end", False)])
def test_a_source_is_degraded_for_as_long_as_its_hole_is_open(phase, degraded, monkeypatch):
    monkeypatch.setattr("serstream.stream.MEMORY_S", 0.0)
    holes = [Hole("start", "device_lost", 0, 0, True), Hole("end", "device_lost", 500, 500, True)]
    heard = Heard()
    stream, running = served(heard, Played(holes[: 1 if phase == "start" else 2]))
    running.start()
    assert running.join(LIMIT_S)
    assert stream.health().degraded is degraded


def test_a_fault_degrades_its_source_and_is_logged_once(caplog):
    caplog.set_level("INFO")
    heard, played = Heard(), Played([])
    stream, _ = served(heard, played)
    played._watch = watch = Sameness(RATE, 1.0)
    played._counters["captured"] = 1
    for signal, fault in ((DEMO, None), (np.zeros(2 * RATE, np.float32), "silence"), (DEMO, None)):
        watch.push(signal[: 2 * RATE])
        for _ in range(2):
            stream.publish_health()
            health = heard.events[-1]
            assert (health.status, health.fault, health.degraded) == ("running", fault, fault is not None)
    assert [line.partition(";")[0] for line in caplog.messages] == [
        "mic: every sample is zero",
        "mic: the signal is sound again",
    ]


def test_events_follow_the_clock_of_the_system_when_it_is_set_and_the_index_does_not_jump():
    heard, now = Heard(), time.monotonic()
    items = [Block(k * 4096, DEMO[k * 4096 : (k + 1) * 4096], now + 0.256 * (k + 1)) for k in range(8)]
    network, wall = Network(MODEL), [1_000.0]
    stream = Stream(
        "mic", MicrophoneSource(), new_pipeline(network, heard, "mic"), heard, wall_s=lambda: wall[0] + time.monotonic()
    )
    stream.source = Played(items)
    for k in range(8):
        wall[0] = 1_000.0 if k < 4 else 87_400.0
        block = stream.read(0.0)
        assert block is not None
        stream.tell(alone(network, stream.hear(block)), block.samples.size, 0.0)
    steps = heard.of("mic", "posterior")
    assert {after.sample - step.sample for step, after in itertools.pairwise(steps)} == {4096}
    told = [datetime.fromisoformat(step.time).timestamp() for step in steps]
    true = [1_000.0 + 86_400.0 * (step.sample > 4 * 4096) + now + step.sample / RATE for step in steps]
    assert told == pytest.approx(true, abs=0.002)


@pytest.mark.parametrize(
    "cause", ["input_overflow", "ring_overrun", "stalled", "device_lost", "muted", "network", "worker_restart"]
)
def test_what_ends_at_a_hole_is_told_before_the_hole(cause):
    events = hear_all(lossy(cause, 3 * RATE, 500))
    kinds = [(e.type, getattr(e, "phase", "")) for e in events if not isinstance(e, Posterior)]
    begin = kinds.index(("gap", "start"))
    assert kinds[begin - 2 : begin + 2] == [("emotion", "offset"), ("speech", "end"), ("gap", "start"), ("gap", "end")]
    samples = [e.sample for e in events]
    assert samples == sorted(samples)
    last = [e for e in events if isinstance(e, Posterior) and e.sample == 3 * RATE]
    assert last, "what was consumed is analysed to the last sample"


def test_samples_that_were_only_replaced_end_nothing():
    items = lossy("non_finite", 3 * RATE, 0)
    events = hear_all([i if isinstance(i, Block) else i._replace(lost_samples=5) for i in items])
    assert [e.type for e in events if e.sample == 3 * RATE] == ["gap", "gap"]


def test_losses_are_one_line_of_the_log_per_cause_and_interval(caplog):
    items: list[Block | Hole | None] = []
    for i in range(50):
        cause = "ring_overrun" if i % 2 else "input_overflow"
        items += [Hole("start", cause, 10 * i, 10, False), Hole("end", cause, 10 * i + 10, 10, False)]
    heard = Heard()
    stream, running = served(heard, Played(items))
    with caplog.at_level(logging.INFO, "serstream"):
        running.start()
        assert running.join(LIMIT_S)
        assert caplog.messages == []
        stream.publish_health()
        assert sorted(caplog.messages) == [
            "mic: input_overflow, 250 samples lost",
            "mic: ring_overrun, 250 samples lost",
        ]
        stream.publish_health()
        assert len(caplog.messages) == 2, "nothing new"


# --- progress


def test_a_read_that_brings_nothing_in_time_is_progress():
    turns = threading.Semaphore(0)
    _, running = served(Heard(), Stdin(StdinSource(), fd=os.pipe()[0]), on_progress=lambda _: turns.release())
    running.start()
    for _ in range(3):
        assert turns.acquire(timeout=LIMIT_S)
    running.stop()
    assert running.join(LIMIT_S)


def test_a_read_that_hangs_is_none():
    turns = threading.Semaphore(0)
    source = Played([Hole("start", "muted", 0, 0, False), None])
    _, running = served(Heard(), source, on_progress=lambda _: turns.release())
    running.start()
    assert source.hung.wait(LIMIT_S)
    assert turns.acquire(blocking=False)
    assert not turns.acquire(timeout=0.5), "no further beat"
    source.released.set()
    assert running.join(LIMIT_S)


# --- many


def test_streams_of_one_worker_tell_what_each_tells_alone_and_end_one_by_one():
    network = Network(MODEL)
    shared, apart = Heard(), Heard()
    parts = {f"s{i}": DEMO[i * RATE : (i + 3 + i) * RATE] for i in range(6)}
    blocks = {
        name: [Block(at, part[at : at + 4_000], 0.0) for at in range(0, part.size, 4_000)]
        for name, part in parts.items()
    }
    streams, ended = [], []
    for name in parts:
        stream = Stream(name, SyntheticSource(), new_pipeline(network, shared, name), shared)
        stream.source = Played([*blocks[name]])
        streams.append(stream)
        _, running = served(apart, Played([*blocks[name]]), SyntheticSource(), source_id=name)
        running.start()
        assert running.join(LIMIT_S)
    running = Worker(streams, network, on_progress=lambda _: None, on_end=lambda: ended.append(len(shared.events)))
    running.start()
    assert running.join(LIMIT_S)
    for name in parts:
        assert running.has_ended(name)
        mine = bare(shared.of(name))
        assert mine == bare(apart.of(name))
        assert len(mine) > 10
    assert len(ended) == len(set(ended)) == len(parts)


def test_a_stream_that_fails_ends_by_itself_and_the_others_go_on():
    class Broken(Played):
        def read(self, timeout_s: float) -> Block | Hole | None:
            raise SourceError("the pipe does not hold what it promised")

    network, heard = Network(MODEL), Heard()
    streams = [Stream(name, SyntheticSource(), new_pipeline(network, heard, name), heard) for name in ("bad", "good")]
    streams[0].source, streams[1].source = Broken([]), Played([Block(0, DEMO[: 3 * RATE], None)])
    running = Worker(streams, network, on_progress=lambda _: None, on_end=lambda: None)
    running.start()
    assert running.join(LIMIT_S)
    assert isinstance(streams[0].error, SourceError)
    assert streams[1].error is None
    assert {e.source for e in heard.events} == {"good"}


def test_a_source_that_calls_is_read_when_it_does_and_one_that_never_does_again_and_again(monkeypatch):
    monkeypatch.setattr("serstream.worker.LOOK_S", LIMIT_S)
    polls = threading.Semaphore(0)

    class Waiting(Played):
        def __init__(self, *, calls: bool) -> None:
            super().__init__([])
            self.calls, self.reads = calls, 0

        def call(self, came):
            self.came = came
            return self.calls

        def read(self, timeout_s):
            self.reads += 1
            if not self.calls:
                polls.release()
            item = super().read(timeout_s) if self._items else None
            if self.calls and self._items:
                self.came()
            return item

    network, heard = Network(MODEL), Heard()
    streams = [Stream(name, SyntheticSource(), new_pipeline(network, heard, name), heard) for name in ("calls", "not")]
    calling = streams[0].source = Waiting(calls=True)
    streams[1].source = Waiting(calls=False)
    running = Worker(streams, network, on_progress=lambda _: None, on_end=lambda: None)
    running.start()
    for _ in range(5):
        assert polls.acquire(timeout=LIMIT_S)
    assert calling.reads == 1, "at the beginning, as all are"
    calling._items += [Block(0, DEMO[: 2 * RATE], None), Block(2 * RATE, DEMO[2 * RATE : 3 * RATE], None)]
    calling.came()
    heard.until(lambda e: e.sample > 2 * RATE)
    running.stop()
    assert running.join(LIMIT_S)


def test_of_many_sources_a_part_at_a_time_tells_how_it_is_and_all_have_their_turn(monkeypatch):
    monkeypatch.setattr("serstream.hearing.TENDED_TOGETHER", 2)
    heard, ids = Heard(), [f"s{i}" for i in range(5)]
    orders = Orders(
        session=heard.session,
        started_s=0.0,
        sources=dict.fromkeys(ids, SyntheticSource()),
        speech=SpeechConfig(),
        wishes=Wishes(decision=DecisionConfig(), log_level=logging.INFO),
        manifest=MODEL.manifest,
        network=MODEL.content,
        runtime="litert",
    )
    hearing = Hearing(orders, heard, on_progress=lambda _: None, on_end=lambda: None)
    assert hearing.turns == 3
    told: list[str] = []
    for _ in range(hearing.turns):
        heard.events.clear()
        assert hearing.tend() == []
        assert len(heard.events) <= 2
        told += [e.source for e in heard.events]
    assert sorted(told) == ids


# --- a machine that sleeps


def test_the_time_slept_never_runs_backwards_and_is_there():
    assert -0.001 < slept_s() <= slept_s() + 1e-3


def test_a_sleep_is_a_hole_before_the_next_block_and_moves_all_later_ones():
    clock = Clock()
    sleep = Sleep(clock)
    y = np.zeros(10, np.float32)
    assert [b.first_sample for b in sleep.place(Block(0, y, 0.0))] == [0]
    clock.slept_s += 2.0
    start, end, block = sleep.place(Block(10, y, 0.0))
    assert start == Hole("start", "suspended", 10, 32_000, True)
    assert end == Hole("end", "suspended", 32_010, 32_000, True)
    assert block.first_sample == 32_010
    (again,) = sleep.place(Block(20, y, 0.0))
    assert again.first_sample == 32_020
    assert sleep.lost_samples == 32_000


def test_a_sleep_before_another_hole_comes_first():
    clock = Clock()
    sleep = Sleep(clock)
    clock.slept_s += 5.0
    start, end, lost = sleep.place(Hole("start", "device_lost", 10, 0, True))
    assert (start.cause, end.first_sample) == ("suspended", 80_010)
    assert lost == Hole("start", "device_lost", 80_010, 0, True)


def test_a_sleep_within_a_hole_makes_it_larger():
    clock = Clock()
    sleep = Sleep(clock)
    sleep.place(Hole("start", "muted", 10, 0, False))
    clock.slept_s += 5.0
    assert sleep.place(Hole("end", "muted", 12, 2, False)) == [Hole("end", "muted", 80_012, 80_002, True)]


@pytest.mark.parametrize("jump_s", [-3.0, 0.0, 0.9])
def test_less_than_a_second_is_no_sleep(jump_s):
    clock = Clock()
    sleep = Sleep(clock)
    clock.slept_s += jump_s
    assert sleep.place(Hole("start", "muted", 10, 0, False)) == [Hole("start", "muted", 10, 0, False)]


def test_a_closed_lid_is_a_gap_that_ends_the_emotion_and_the_index_and_the_time_move_on():
    clock, heard = Clock(), Heard()
    read, write = os.pipe()
    stream, running = served(heard, Stdin(StdinSource(), fd=read), StdinSource(), slept_s=clock)
    running.start()
    pcm = (DEMO[RATE : 4 * RATE] * 32767).astype("<i2").tobytes()
    with open(write, "wb") as pipe:
        pipe.write(pcm)
        pipe.flush()
        heard.until(lambda e: isinstance(e, Emotion))
        while stream.counters["consumed"] < 3 * RATE:
            assert running.join(0.01) is False
        clock.slept_s += 3600.0
        pipe.write(pcm)
    assert running.join(LIMIT_S)
    events = heard.events
    start, end = (e for e in events if isinstance(e, Gap))
    assert (start.cause, start.phase, start.estimated) == ("suspended", "start", True)
    assert start.sample == 3 * RATE
    assert (end.lost_samples, end.sample) == (3600 * RATE, 3603 * RATE)
    before = [e for e in events[: events.index(start)] if not isinstance(e, Posterior)]
    assert [(e.type, e.phase) for e in before[-2:]] == [("emotion", "offset"), ("speech", "end")]
    assert events[-1].sample == 3606 * RATE
    assert stream.health().sample == 3606 * RATE
    assert stream.health().counters["suspended"] == 3600 * RATE
    told = [datetime.fromisoformat(e.time).timestamp() for e in (start, end)]
    assert told[1] - told[0] == pytest.approx(3600.0, abs=5.0)
    assert told[1] == pytest.approx(time.time(), abs=5.0)


@pytest.mark.parametrize("config", [SyntheticSource(), NetworkSource()])
def test_a_recording_sleeps_with_the_machine_and_the_network_counts_that_itself(config):
    clock = Clock()

    class Nap(Played):
        def read(self, timeout_s):
            clock.slept_s += 10.0
            return super().read(timeout_s)

    heard = Heard()
    stream, running = served(heard, Nap([Block(0, DEMO[:5000], None), Block(5000, DEMO[:5000], None)]), config)
    running.start()
    assert running.join(LIMIT_S)
    assert not [e for e in heard.events if isinstance(e, Gap)]
    assert stream.health().sample == 10_000


# --- in the place of another, whose worker has died


@pytest.mark.parametrize("slept_meanwhile_s", [0.0, 3600.0])
def test_a_stream_goes_on_behind_what_the_machine_slept_through_before_and_meanwhile(slept_meanwhile_s):
    clock, heard = Clock(), Heard()
    counters = {"captured": 5_000, "consumed": 5_000, "suspended": 32_000}
    resume = Resume(37_000, time.monotonic(), counters, emotions=3, slept_s=clock.slept_s)
    clock.slept_s += slept_meanwhile_s
    network = Network(MODEL)
    stream = Stream("mic", StdinSource(), new_pipeline(network, heard, "mic"), heard, resume=resume, slept_s=clock)
    health = stream.health()
    assert (health.sample, health.degraded, health.counters["consumed"]) == (37_000, True, 5_000)
    assert stream.read(0.0) is None
    (end,) = heard.events
    slept = round(slept_meanwhile_s * RATE)
    assert (end.phase, end.cause, end.sample, end.lost_samples) == ("end", "worker_restart", 37_000 + slept, slept)
    assert stream.counters["suspended"] == 32_000 + slept
    assert stream.health().degraded, "within the last minute"
    told = alone(network, stream.hear(Block(end.sample, DEMO[RATE : 4 * RATE], time.monotonic())))
    assert next(e.id for e in told if isinstance(e, Emotion)) == 4
    assert next(e.sample for e in told if isinstance(e, Posterior)) == end.sample + 4096 + 256


# --- times


def test_the_time_of_a_pipe_is_when_it_brought_the_samples():
    heard = Heard()
    read, write = os.pipe()
    _, running = served(heard, Stdin(StdinSource(), fd=read), StdinSource())
    running.start()
    for _ in range(2):  # the second comes when more time has passed than its samples last
        heard.events.clear()
        os.write(write, np.zeros(2 * 4352, "<i2").tobytes())
        heard.until(lambda e: isinstance(e, Posterior))
        arrived_s = time.time()
        assert not running.join(1.5)
    told = datetime.fromisoformat(heard.events[-1].time).timestamp()
    os.close(write)
    assert running.join(LIMIT_S)
    assert told == pytest.approx(arrived_s, abs=0.3)
