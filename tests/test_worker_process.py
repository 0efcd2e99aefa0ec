"""Sources heard in other processes: what they tell, and what becomes of them when such a process dies or hangs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
import soundfile
from heard import LIMIT_S, Heard, bare

from serstream.config import DecisionConfig, DemoSource, FileSource, SourceConfig, SpeechConfig, SyntheticSource
from serstream.errors import SourceError
from serstream.events import AnyEvent, Emotion, Gap, Health, Posterior
from serstream.hearing import Hearing, Orders, Wishes
from serstream.manifest import load_model
from serstream.resources import packaged
from serstream.worker_process import DEADLINE_S, WorkerProcess

RATE = 16_000
STEP = 4096
MODEL = load_model(packaged("models/serstream"))
ANY_LABEL = DecisionConfig(enter_threshold=0.0, exit_threshold=0.0)
WISHES = Wishes(decision=ANY_LABEL, log_level=20)


def orders(sources: dict[str, SourceConfig], wishes: Wishes = WISHES) -> Orders:
    return Orders(
        session=Heard.session,
        started_s=1_800_000_000.0,
        sources=sources,
        speech=SpeechConfig(),
        wishes=wishes,
        manifest=MODEL.manifest,
        network=MODEL.content,
        runtime="litert",
    )


class Workers:
    """Worker processes that hear one source each, and what they tell."""

    def __init__(
        self,
        sources: dict[str, SourceConfig],
        wishes: Wishes = WISHES,
        deadline_s: Mapping[str, float] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        self.heard, self.beats = Heard(), threading.Semaphore(0)
        self.of = {
            name: WorkerProcess(
                i,
                orders({name: source}, wishes),
                self.heard,
                on_progress=lambda _: self.beats.release(),
                on_end=lambda: None,
                deadline_s=deadline_s.get(name, DEADLINE_S),
                **options,
            )
            for i, (name, source) in enumerate(sources.items(), 1)
        }
        for worker in self.of.values():
            worker.start()

    def end(self) -> None:
        for worker in self.of.values():
            worker.stop()
        for worker in self.of.values():
            worker.close(LIMIT_S)


@contextmanager
def running(sources: dict[str, SourceConfig], **options: Any) -> Iterator[Workers]:
    workers = Workers(sources, **options)
    try:
        yield workers
    finally:
        workers.end()


def clip(path: Path, begin_s: float, end_s: float) -> FileSource:
    samples, rate = soundfile.read(packaged("demo.flac"), dtype="int16")
    soundfile.write(path, samples[round(begin_s * rate) : round(end_s * rate)], rate)
    return FileSource(str(path), realtime=False)


def is_onset(source: str) -> Any:
    return lambda e: e.source == source and isinstance(e, Emotion) and e.phase == "onset"


def is_gap(source: str, phase: str, cause: str = "worker_restart") -> Any:
    return lambda e: e.source == source and isinstance(e, Gap) and (e.phase, e.cause) == (phase, cause)


def test_two_workers_tell_what_one_process_tells_and_end_with_their_sources(tmp_path):
    sources = {f"s{i}": clip(tmp_path / f"{i}.wav", i, 3 * i + 4.3) for i in range(2)}
    alone = Heard()
    hearing = Hearing(orders(sources), alone, on_progress=lambda _: None, on_end=lambda: None)
    hearing.start()
    assert hearing.close(LIMIT_S)
    with running(sources) as workers:
        for worker in workers.of.values():
            assert worker.close(LIMIT_S)
            assert (worker.ended, worker.ready, worker.error, worker.pid) == (True, True, None, None)
            assert worker.tend() == worker.loops
    for name in sources:
        told = workers.heard.of(name, "posterior", "emotion", "speech", "gap")
        assert bare(told) == bare(alone.of(name, "posterior", "emotion", "speech", "gap"))
        assert {e.type for e in told} == {"posterior", "emotion", "speech"}
        assert [e.time for e in told] == [e.time for e in alone.of(name) if e.type != "health"]
        last = workers.heard.of(name)[-1]
        assert isinstance(last, Health)
        assert (last.sample, last.counters) == (alone.of(name)[-1].sample, alone.of(name)[-1].counters)
        assert workers.of[name].standings()[name].counters == last.counters


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_is_a_gap_in_its_own_sources_and_they_go_on_where_they_were(number, caplog):
    deadline_s = 2.0 if number == signal.SIGSTOP else DEADLINE_S
    with running({"talk": DemoSource(), "other": SyntheticSource()}, deadline_s={"talk": deadline_s}) as workers:
        heard, talk = workers.heard, workers.of["talk"]
        at = heard.until(is_onset("talk"))
        pid = talk.pid
        assert pid is not None
        os.kill(pid, number)
        at = heard.until(is_gap("talk", "end"), at)
        at = heard.until(is_onset("talk"), at)
        heard.until(lambda e: e.source == "other" and isinstance(e, Health), at)
        assert talk.pid not in (pid, None)
        assert not Path(f"/proc/{pid}").exists()
    how = {signal.SIGKILL: "was ended by signal 9 (Killed)", signal.SIGSTOP: "has given no sign of life for 2 s"}
    assert [f"worker 1 {how[number]}; 1 sources of it go on in another"] == [
        r.getMessage() for r in caplog.records if r.levelname == "ERROR"
    ]
    assert_gone_on(heard.of("talk"))
    assert heard.of("other", "gap") == []
    samples = [e.sample for e in heard.of("other", "posterior")]
    assert samples[:-1] == list(range(samples[0], samples[0] + STEP * (len(samples) - 1), STEP)), "no hole"


def assert_gone_on(events: list[AnyEvent]) -> None:
    """A recording: nothing was lost, what was open ended, ids and counters go on, and so does the index."""
    told = [e for e in events if not isinstance(e, Health)]
    assert [e.sample for e in told] == sorted(e.sample for e in told)
    start = next(i for i, e in enumerate(told) if isinstance(e, Gap))
    kinds = [(e.type, getattr(e, "phase", "")) for e in told[start - 2 : start + 2]]
    assert kinds == [("emotion", "offset"), ("speech", "end"), ("gap", "start"), ("gap", "end")]
    offset, _, start_gap, end_gap = told[start - 2 : start + 2]
    assert (end_gap.lost_samples, end_gap.sample, end_gap.time) == (0, start_gap.sample, start_gap.time)
    assert offset.sample == start_gap.sample >= told[start - 3].sample
    after = [e for e in told[start:] if isinstance(e, Posterior)]
    assert after[0].sample == start_gap.sample + STEP + 256, "the first step behind a hole"
    emotions = [e for e in told if isinstance(e, Emotion)]
    onsets = [e.id for e in emotions if e.phase == "onset"]
    assert onsets == list(range(1, len(onsets) + 1))
    assert len(onsets) == sum(e.phase == "offset" for e in emotions)
    healths = [e for e in events if isinstance(e, Health)]
    assert [e.sample for e in healths] == sorted(e.sample for e in healths)
    last = healths[-1]
    assert last.degraded
    assert last.counters["consumed"] == last.sample == told[-1].sample
    assert last.counters["captured"] == last.counters["consumed"] + last.counters["unread"]


def test_a_wish_reaches_the_process_and_those_after_it():
    muted = Wishes(decision=ANY_LABEL, log_level=20, muted=frozenset({"hum"}))
    with running({"hum": SyntheticSource()}) as workers:
        heard, hum = workers.heard, workers.of["hum"]
        at = heard.until(lambda e: isinstance(e, Posterior))
        hum.wish(muted)
        assert hum.standings()["hum"].status == "muted"
        at = heard.until(is_gap("hum", "start", "muted"), at)
        os.kill(hum.pid, signal.SIGKILL)
        at = heard.until(is_gap("hum", "end"), at)
        at = heard.until(is_gap("hum", "start", "muted"), at)
        at = heard.until(lambda e: isinstance(e, Health) and e.status == "muted", at)
        hum.wish(WISHES)
        heard.until(lambda e: isinstance(e, Posterior), at)
    gaps = [(e.phase, e.cause) for e in heard.of("hum", "gap")]
    assert gaps == [
        *[("start", "muted"), ("end", "muted")],
        *[("start", "worker_restart"), ("end", "worker_restart")],
        *[("start", "muted"), ("end", "muted")],
    ]


def test_a_source_that_is_muted_from_the_start_is_not_heard():
    muted = Wishes(decision=ANY_LABEL, log_level=20, muted=frozenset({"hum"}))
    with running({"hum": SyntheticSource()}, wishes=muted) as workers:
        workers.heard.until(lambda e: isinstance(e, Health) and e.status == "muted" and e.counters != {})
    assert {e.type for e in workers.heard.events} == {"gap", "health"}


def test_a_source_that_fails_in_a_worker_is_its_error(tmp_path):
    whole = packaged("demo.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    with running({"cut": FileSource(str(tmp_path / "cut.flac"), realtime=False)}) as workers:
        cut = workers.of["cut"]
        workers.heard.until(lambda e: isinstance(e, Posterior))
        while cut.error is None:
            assert workers.beats.acquire(timeout=LIMIT_S)
    assert isinstance(cut.error, SourceError)
    assert str(cut.error).startswith(f"{tmp_path}/cut.flac is damaged or cut off after ")
    assert workers.heard.events[-1].status == "failed"
    assert workers.heard.of("cut", "gap") == []


def test_a_worker_that_cannot_run_the_model_says_why():
    broken = msgspec.structs.replace(orders({"hum": SyntheticSource()}), network=b"none")
    woken = threading.Event()
    worker = WorkerProcess(1, broken, Heard(), on_progress=lambda _: None, on_end=woken.set)
    worker.start()
    assert woken.wait(LIMIT_S)
    worker.stop()
    assert worker.close(LIMIT_S)
    assert "cannot run the model" in str(worker.error)


def test_a_worker_that_dies_again_and_again_is_one_gap(monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no interpreter starts so
    with running({"hum": SyntheticSource()}, backoff_s=(0.01, 0.02)) as workers:
        for _ in range(200):
            assert workers.beats.acquire(timeout=LIMIT_S)
    assert [e.phase for e in workers.heard.of("hum", "gap")] == ["start"]
    assert {e.status for e in workers.heard.of("hum", "health")} == {"starting"}
    assert not workers.of["hum"].ready


def test_stopping_tells_the_last_events_and_leaves_no_process():
    with running({"talk": DemoSource()}) as workers:
        talk = workers.of["talk"]
        workers.heard.until(is_onset("talk"))
        pid = talk.pid
        talk.stop()
        assert talk.close(LIMIT_S)
    events = workers.heard.of("talk")
    assert [(e.type, getattr(e, "phase", "")) for e in events[-3:]] == [
        ("emotion", "offset"),
        ("speech", "end"),
        ("health", ""),
    ]
    assert events[-1].counters["consumed"] == events[-1].sample
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_that_does_not_stop_is_killed_and_what_is_open_ends():
    with running({"talk": DemoSource()}) as workers:
        talk = workers.of["talk"]
        workers.heard.until(is_onset("talk"))
        pid = talk.pid
        os.kill(pid, signal.SIGSTOP)
        talk.stop()
        assert not talk.close(0.1)
        assert talk.close(LIMIT_S)
    kinds = [(e.type, getattr(e, "phase", "")) for e in workers.heard.of("talk")[-4:]]
    assert kinds == [("emotion", "offset"), ("speech", "end"), ("gap", "start"), ("health", "")]
    assert not Path(f"/proc/{pid}").exists()
