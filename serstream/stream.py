"""One source on its way through the pipeline to an outlet: its holes, its counters and its clock."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from serstream.batch import Asking
from serstream.clock import LEAST_SLEEP_S, slept_s
from serstream.config import SAMPLE_RATE, DecisionConfig, MicrophoneSource, NetworkSource, SourceConfig, StdinSource
from serstream.events import AnyEvent, Fault, Gap, Health, Posterior
from serstream.latencies import Latencies
from serstream.pipeline import Pipeline
from serstream.pulled import Resume
from serstream.sources import Block, Hole, Source, make
from serstream.timing import Header, TimingLog

MEMORY_S = 60.0
"""Latencies and losses of the last minute make percentiles and ``degraded``."""
LATENCIES = 1000
"""The newest of them at most: a minute of sound has a quarter of that, but a file may be read much faster."""
AWAKE = (MicrophoneSource, StdinSource)
"""What is silent while this machine sleeps, and does not know of that."""
LIVE = (*AWAKE, NetworkSource)
"""What is heard as it is spoken; a recording waits for its reader."""
_SENTENCES: dict[Fault, str] = {
    "silence": "every sample is zero; look for a switch that mutes the microphone, or for its volume",
    "stuck": "the signal repeats itself to the bit, as a device that hangs does; plug it in again",
}

_log = logging.getLogger(__name__)


class Outlet(Protocol):
    """Where events go: a publisher, or the way to one in another process. Called from any thread."""

    session: str

    def publish(self, event: AnyEvent, *, time: str, latency_s: float) -> AnyEvent:
        """Stamp and send an event, as :meth:`serstream.publisher.Publisher.publish` does."""


class Sleep:
    """What a machine that is suspended does not hear: monotonic time, which sources count by, stands still meanwhile.

    Parameters
    ----------
    slept_s : callable
        As :func:`slept_s`.
    resume : Resume, optional
        What another knew of it.
    """

    def __init__(self, slept_s: Callable[[], float], resume: Resume | None = None) -> None:
        self._slept_s = slept_s
        self._known_s = slept_s() if resume is None else resume.slept_s
        self.lost_samples = 0 if resume is None else resume.counters.get("suspended", 0)

    def place(self, item: Block | Hole) -> list[Block | Hole]:
        """Return an item moved on by all that was slept through, behind the hole of what is new of that.

        Within a hole that is open it makes that hole larger instead.
        """
        lost = self._lost()
        self.lost_samples += lost
        moved = item._replace(first_sample=item.first_sample + self.lost_samples)
        if not lost:
            return [moved]
        if isinstance(moved, Hole) and moved.phase == "end":
            return [moved._replace(lost_samples=moved.lost_samples + lost, estimated=True)]
        start = Hole("start", "suspended", moved.first_sample - lost, lost, estimated=True)
        return [start, start._replace(phase="end", first_sample=moved.first_sample), moved]

    def _lost(self) -> int:
        jump_s = self._slept_s() - self._known_s
        if jump_s <= LEAST_SLEEP_S:
            return 0
        self._known_s += jump_s
        return round(jump_s * SAMPLE_RATE)


class Stream:
    """A source, what is made of it, and its clock. Called from its worker's thread, but for what says otherwise.

    Parameters
    ----------
    source_id : str
    config : SourceConfig
    pipeline : Pipeline
    outlet : Outlet
    started_s : float, optional
        When the session began, in seconds since 1970: now, if it is left out.
    resume : Resume, optional
        Where it goes on, in the place of a stream whose worker has died.
    slept_s : callable
        As :func:`slept_s`.
    wall_s : callable
        As :func:`time.time`: events follow it when somebody sets it.
    record : str, optional
        Folder into which to write the timing of the source.
    """

    def __init__(
        self,
        source_id: str,
        config: SourceConfig,
        pipeline: Pipeline,
        outlet: Outlet,
        *,
        started_s: float | None = None,
        resume: Resume | None = None,
        slept_s: Callable[[], float] = slept_s,
        wall_s: Callable[[], float] = time.time,
        record: str | None = None,
    ) -> None:
        self.source_id, self.config = source_id, config
        self.source: Source = make(config)
        self.error: Exception | None = None
        self._pipeline, self._outlet = pipeline, outlet
        self._rules: DecisionConfig | None = None
        self._wall_s = wall_s
        self._started_s = wall_s() if started_s is None else started_s
        self._slept_s, self._sleep = slept_s, Sleep(slept_s, resume if isinstance(config, AWAKE) else None)
        self._newest = (0, self._now_s())
        self._busy_s, self._heard = 0.0, 0
        self._latencies, self._latencies_lock = Latencies(MEMORY_S, LATENCIES), threading.Lock()
        self._last_loss_s = -MEMORY_S
        self._lost: dict[str, int] = {}
        self._logged: dict[str, int] = {}
        self._fault: Fault | None = None
        self._timing = self._record_in(Path(record)) if record else None
        if resume is not None:
            self._go_on(resume)

    def _record_in(self, folder: Path) -> TimingLog:
        session, started_s = self._outlet.session, self._started_s
        header = Header(source=self.source_id, session=session, started_s=started_s)
        zero_s = time.monotonic() - (self._wall_s() - started_s)
        return TimingLog(folder / f"{self.source_id}.{session[:8]}.jsonl", header, zero_s=zero_s)

    def _go_on(self, resume: Resume) -> None:
        self._pipeline.go_on(resume.first_sample, resume.emotions)
        self.source.go_on(resume._replace(first_sample=resume.first_sample - self._sleep.lost_samples))
        self._newest = (resume.first_sample, resume.since_s + resume.slept_s)
        self._last_loss_s = math.inf

    def apply(self, decision: DecisionConfig) -> None:
        """Use other rules of decision from the next block on; called from any thread."""
        self._rules = decision

    @property
    def counters(self) -> dict[str, int]:
        """What the source counts, and the samples at 16 kHz that the machine slept through."""
        counters = self.source.counters
        return counters | {"suspended": counters.get("suspended", 0) + self._sleep.lost_samples}

    def health(self) -> Health:
        """Return how the source is, over the time since the last call; called from the main thread."""
        now_s, fault = time.monotonic(), self.source.fault
        busy_s, heard, self._busy_s, self._heard = self._busy_s, self._heard, 0.0, 0
        with self._latencies_lock:
            self._latencies.pass_by(now_s)
            p50_s, p99_s = (round(self._latencies.percentile(share), 6) for share in (0.50, 0.99))
        sample = self._pipeline.next_sample
        return Health(
            source=self.source_id,
            session=self._outlet.session,
            sample=sample,
            stream_s=round(sample / SAMPLE_RATE, 6),
            status="failed" if self.error else self.source.status,
            degraded=fault is not None or now_s - self._last_loss_s < MEMORY_S,
            counters=self.counters,
            rtf=round(busy_s * SAMPLE_RATE / heard, 5) if heard else 0.0,
            latency_p50_s=p50_s,
            latency_p99_s=p99_s,
            topics={},
            fault=fault,
            drift_ppm=_round(self.source.drift_ppm, 2),
        )

    def publish_health(self) -> None:
        """Publish :meth:`health`, and log what is new about it; called from the main thread."""
        health = self.health()
        self._publish([health])
        self._log_fault(health.fault)
        lost = dict(self._lost)
        for cause, samples in lost.items():
            if new := samples - self._logged.get(cause, 0):
                log = _log.info if cause == "muted" else _log.warning
                log("%s: %s, %d samples lost", self.source_id, cause, new)
        self._logged = lost

    def _log_fault(self, fault: Fault | None) -> None:
        before, self._fault = self._fault, fault
        if fault is not None and fault != before:
            _log.warning("%s: %s", self.source_id, _SENTENCES[fault])
        elif fault != before:
            _log.info("%s: the signal is sound again", self.source_id)

    def read(self, timeout_s: float) -> Block | None:
        """Return the next block of the source, if one comes in time; a hole is told of instead.

        Raises
        ------
        SourceError
            If the source does not hold what it promised.
        """
        if (rules := self._rules) is not None:
            self._rules = None
            self._pipeline.configure(rules)
        block = None
        items = self._place(self.source.read(timeout_s))
        if self._timing:
            self._timing.take(items, self.source, self.counters)
        for placed in items:
            if isinstance(placed, Block):
                block = placed
            else:
                self._tell(placed)
        return block

    def _place(self, item: Block | Hole | None) -> list[Block | Hole]:
        if item is None:
            return []
        return self._sleep.place(item) if isinstance(self.config, AWAKE) else [item]

    def hear(self, block: Block) -> Asking[list[AnyEvent]]:
        """Return what is made of a block, for :func:`serstream.batch.together`."""
        captured_s = time.monotonic() if block.captured_s is None else block.captured_s
        self._newest = (block.first_sample + block.samples.size, captured_s + self._slept_s())
        return self._pipeline.hear(block.first_sample, block.samples)

    def tell(self, events: list[AnyEvent], n_samples: int, busy_s: float) -> None:
        """Publish what was made of a block of ``n_samples`` in ``busy_s`` seconds."""
        started_s = time.monotonic()
        self._publish(events)
        self._busy_s += busy_s + time.monotonic() - started_s
        self._heard += n_samples
        self.source.want(self._pipeline.missing)

    def close(self) -> None:
        """Close the source."""
        self.source.close()
        if self._timing:
            self._timing.close(self.source, self.counters)
            self._timing = None

    def hurry(self) -> None:
        """Read from now on whatever there is."""
        self.source.want(0)

    def finish(self) -> None:
        """Analyse what is left of a step and close what is open: the stream is over."""
        self._publish(self._pipeline.finish())

    def _tell(self, hole: Hole) -> None:
        """Publish a loss; what ends with the sound ends before it."""
        if hole.phase == "start" and hole.cause != "non_finite":
            self._publish(self._pipeline.interrupt(self._pipeline.next_sample))
        if hole.cause != "muted":
            self._last_loss_s = math.inf if hole.phase == "start" else time.monotonic()
        if hole.phase == "end":
            self._lost[hole.cause] = self._lost.get(hole.cause, 0) + hole.lost_samples
        gap = Gap(
            source=self.source_id,
            session=self._outlet.session,
            sample=hole.first_sample,
            stream_s=round(hole.first_sample / SAMPLE_RATE, 6),
            phase=hole.phase,
            cause=hole.cause,
            lost_samples=hole.lost_samples,
            estimated=hole.estimated,
        )
        self._publish([gap])

    def _publish(self, events: list[AnyEvent]) -> None:
        for event in events:
            captured_s = self._captured_s(event.sample)
            latency_s = max(0.0, self._now_s() - self._newest[1]) if event.type != "health" else 0.0
            self._outlet.publish(event, time=rfc3339(captured_s), latency_s=round(latency_s, 6))
            if isinstance(event, Posterior):
                with self._latencies_lock:
                    self._latencies.add(latency_s, time.monotonic())

    def _captured_s(self, sample: int) -> float:
        """Return the wall time, in seconds since 1970, at which a sample was captured."""
        if not isinstance(self.config, LIVE):
            return self._started_s + sample / SAMPLE_RATE
        newest, captured_s = self._newest
        return self._wall_s() - self._now_s() + captured_s - (newest - sample) / SAMPLE_RATE

    def _now_s(self) -> float:
        """Return the time, in seconds, on a clock that goes on while the machine sleeps."""
        return time.monotonic() + self._slept_s()


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def rfc3339(seconds: float) -> str:
    """Return a time in seconds since 1970 as events carry it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
