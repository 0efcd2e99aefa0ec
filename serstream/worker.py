"""One source on its way through the pipeline to the publisher: a thread, its counters and its clock."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from serstream.config import SAMPLE_RATE, DecisionConfig, MicrophoneSource, SourceConfig
from serstream.errors import SerstreamError
from serstream.events import AnyEvent, Gap, Health, Posterior
from serstream.pipeline import Pipeline
from serstream.sources import Block, Hole, Source, make
from serstream.transport import Publisher

READ_TIMEOUT_S = 0.2
MEMORY_S = 60.0
"""Latencies and losses of the last minute make percentiles and ``degraded``."""
SILENT = frozenset({"muted", "lost", "stalled"})
INTERRUPTIONS = frozenset({"device_lost", "stalled", "muted", "suspended"})

_log = logging.getLogger(__name__)


class Worker:
    """Owns a source and the thread that analyses it.

    Parameters
    ----------
    source_id : str
    config : SourceConfig
    pipeline : Pipeline
        Used from the worker's thread alone, once started.
    publisher : Publisher
    on_progress : callable
        Called, from the worker's thread, whenever the loop did what it owes.
    on_end : callable
        Called once, from the worker's thread, when the source has ended or failed.
    """

    def __init__(
        self,
        source_id: str,
        config: SourceConfig,
        pipeline: Pipeline,
        publisher: Publisher,
        *,
        on_progress: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.source_id, self.config = source_id, config
        self.source: Source = make(config)
        self.error: Exception | None = None
        self._pipeline, self._publisher = pipeline, publisher
        self._on_progress, self._on_end = on_progress, on_end
        self._thread = threading.Thread(target=self._run, name=f"serstream-{source_id}", daemon=True)
        self._stop = threading.Event()
        self._rules: DecisionConfig | None = None
        self._started_s = time.time()
        self._newest = (0, time.monotonic())
        self._busy_s, self._heard = 0.0, 0
        self._latencies: deque[tuple[float, float]] = deque()
        self._last_loss_s = -MEMORY_S

    def start(self) -> None:
        """Begin to read; called once."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; :meth:`join` waits for it."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; True if it has ended, with every event published."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def apply(self, decision: DecisionConfig) -> None:
        """Use other rules of decision from the next block on; called from any thread."""
        self._rules = decision

    def health(self) -> Health:
        """Return how the source is, over the time since the last call; called from the main thread."""
        now_s = time.monotonic()
        busy_s, heard, self._busy_s, self._heard = self._busy_s, self._heard, 0.0, 0
        recent = sorted(latency for at, latency in list(self._latencies) if now_s - at <= MEMORY_S)
        sample = self._pipeline.next_sample
        return Health(
            source=self.source_id,
            session=self._publisher.session,
            sample=sample,
            stream_s=round(sample / SAMPLE_RATE, 6),
            status="failed" if self.error else self.source.status,
            degraded=now_s - self._last_loss_s < MEMORY_S,
            counters=self.source.counters,
            rtf=round(busy_s * SAMPLE_RATE / heard, 5) if heard else 0.0,
            latency_p50_s=_percentile(recent, 0.50),
            latency_p99_s=_percentile(recent, 0.99),
            topics=self._publisher.newest(self.source_id),
        )

    def publish_health(self) -> None:
        """Publish :meth:`health`."""
        self._publish([self.health()])

    def _run(self) -> None:
        try:
            self.source.open()
            while not self._stop.is_set() and not self.source.ended:
                self._turn(self.source.read(READ_TIMEOUT_S))
            self._drain()
        except SerstreamError as error:
            self.error = error
        except Exception as error:
            _log.exception("source %s failed", self.source_id)
            self.error = error
        finally:
            self.source.close()
            self._on_end()

    def _turn(self, item: Block | Hole | None) -> None:
        """Do what one item asks for, and say so if the loop owes nothing."""
        if (rules := self._rules) is not None:
            self._rules = None
            self._pipeline.configure(rules)
        if isinstance(item, Block):
            self._analyse(item)
        elif isinstance(item, Hole):
            self._tell(item)
        if item is not None or self.source.status in SILENT or not isinstance(self.config, MicrophoneSource):
            self._on_progress()

    def _drain(self) -> None:
        """Analyse what was captured before the end, then close what is open."""
        deadline_s = time.monotonic() + READ_TIMEOUT_S
        while time.monotonic() < deadline_s and (item := self.source.read(0.0)) is not None:
            self._turn(item)
        self._publish(self._pipeline.finish())

    def _analyse(self, block: Block) -> None:
        started_s = time.monotonic()
        end = block.first_sample + block.samples.size
        self._newest = (end, started_s if block.captured_s is None else block.captured_s)
        events = self._pipeline.push(block.first_sample, block.samples)
        self._publish(events)
        self._busy_s += time.monotonic() - started_s
        self._heard += block.samples.size

    def _tell(self, hole: Hole) -> None:
        """Publish a loss; what ends with the sound ends now."""
        if hole.phase == "start" and hole.cause in INTERRUPTIONS:
            self._publish(self._pipeline.interrupt(self._pipeline.next_sample))
        if hole.cause != "muted":
            self._last_loss_s = time.monotonic()
        if hole.phase == "end":
            log = _log.info if hole.cause == "muted" else _log.warning
            log("%s: %s, %d samples lost", self.source_id, hole.cause, hole.lost_samples)
        gap = Gap(
            source=self.source_id,
            session=self._publisher.session,
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
            latency_s = max(0.0, time.monotonic() - self._newest[1]) if event.type != "health" else 0.0
            self._publisher.publish(event, time=_rfc3339(captured_s), latency_s=round(latency_s, 6))
            if isinstance(event, Posterior):
                self._remember(latency_s)

    def _captured_s(self, sample: int) -> float:
        """Return the wall time, in seconds since 1970, at which a sample was captured."""
        if not isinstance(self.config, MicrophoneSource):
            return self._started_s + sample / SAMPLE_RATE
        newest, captured_s = self._newest
        return time.time() - time.monotonic() + captured_s - (newest - sample) / SAMPLE_RATE

    def _remember(self, latency_s: float) -> None:
        now_s = time.monotonic()
        self._latencies.append((now_s, latency_s))
        while now_s - self._latencies[0][0] > MEMORY_S:
            self._latencies.popleft()


def _percentile(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 6) if ordered else 0.0


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
