"""The sources of one process: their streams, the network that these share, and the thread that hears them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from serstream.config import DecisionConfig, SourceConfig, SpeechConfig
from serstream.errors import SerstreamError
from serstream.events import Fault, Status
from serstream.manifest import Manifest, Model
from serstream.network import Network
from serstream.pipeline import Pipeline
from serstream.pulled import Resume
from serstream.stream import Outlet, Stream
from serstream.worker import Worker

HEALTH_S = 1.0
TENDED_TOGETHER = 32
"""Of more sources not all tell at once how they are, for what is heard meanwhile waits."""


class Wishes(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="wishes"):
    """What may change while a process hears: the rules of decision, the sources that are muted, the log's level."""

    decision: DecisionConfig
    muted: frozenset[str] = frozenset()
    log_level: int


class Orders(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="orders"):
    """What a process is to hear, and all that it needs for that: it reads no configuration, model or profile.

    ``started_s`` is when the session began, in seconds since 1970; ``profiles`` and ``resumes`` are of some sources;
    ``record`` is the folder into which their timing is written.
    """

    session: str
    started_s: float
    sources: dict[str, SourceConfig]
    speech: SpeechConfig
    wishes: Wishes
    manifest: Manifest
    network: bytes
    runtime: str
    profiles: dict[str, list[float]] = {}
    resumes: dict[str, Resume] = {}
    record: str | None = None


class Standing(NamedTuple):
    """How a source is."""

    status: Status
    counters: dict[str, int]
    fault: Fault | None
    drift_ppm: float | None

    @property
    def words(self) -> str:
        """The status, and the fault if there is one."""
        return self.status if self.fault is None else f"{self.status} ({self.fault})"


class Hearing:
    """Hears sources in this process. Called from its main thread, but for what says otherwise.

    Parameters
    ----------
    orders : Orders
    outlet : Outlet
    on_progress : callable
        Called, from the thread that hears, with the id of a source whenever it did what it owes to it.
    on_end : callable
        Called, from that thread, when a source has ended or failed.

    Attributes
    ----------
    streams : dict of str to Stream
    loops : list of str
        What owes signs of life: the ids of the sources.
    turns : int
        In so many calls of :meth:`tend`, within ``HEALTH_S``, all sources have their turn.
    """

    ready = True

    def __init__(
        self,
        orders: Orders,
        outlet: Outlet,
        *,
        on_progress: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        network = Network(Model(orders.manifest, orders.network, Path()), orders.runtime)
        self._wishes = orders.wishes
        self.streams = {source_id: _stream(source_id, orders, network, outlet) for source_id in orders.sources}
        self.loops = list(self.streams)
        self.turns, self._turn = math.ceil(len(self.streams) / TENDED_TOGETHER), 0
        self._serving = list(self.streams.values())
        self._worker = Worker(self._serving, network, on_progress=on_progress, on_end=on_end)

    @property
    def error(self) -> Exception | None:
        """What a source failed with."""
        return next((s.error for s in self.streams.values() if s.error is not None), None)

    @property
    def ended(self) -> bool:
        """Whether all sources are over, with every event published but the last health."""
        return self._worker.join(0.0)

    def start(self) -> None:
        """Begin to hear."""
        self._worker.start()

    def wish(self, wishes: Wishes) -> None:
        """Obey other wishes from the next block on; called from any thread, one at a time."""
        before, self._wishes = self._wishes, wishes
        for source_id, stream in self.streams.items():
            if wishes.decision != before.decision:
                stream.apply(wishes.decision)
            if source_id in wishes.muted - before.muted:
                stream.source.mute()
            if source_id in before.muted - wishes.muted:
                stream.source.unmute()

    def standings(self) -> dict[str, Standing]:
        """Return how each source is; called from any thread."""
        return {
            i: Standing("failed" if s.error else s.source.status, s.counters, s.source.fault, s.source.drift_ppm)
            for i, s in self.streams.items()
        }

    def tend(self) -> list[str]:
        """Publish how the sources are whose turn it is; return those that are over, whose last health that was."""
        over = []
        self._turn = (self._turn + 1) % self.turns
        for stream in self._serving[self._turn :: self.turns]:
            ended = self._worker.has_ended(stream.source_id)
            stream.publish_health()
            if ended and not stream.error:
                self._serving.remove(stream)
                over.append(stream.source_id)
        return over

    def stop(self) -> None:
        """Ask for the end; called from any thread."""
        self._worker.stop()

    def close(self, timeout_s: float) -> bool:
        """Wait for the end, then publish a last health of each source; False if it did not end in time."""
        in_time = self._worker.join(timeout_s)
        for stream in self._serving:
            with contextlib.suppress(SerstreamError):
                stream.publish_health()
        self._serving.clear()
        return in_time


def _stream(source_id: str, orders: Orders, network: Network, outlet: Outlet) -> Stream:
    pipeline = Pipeline(
        network,
        source=source_id,
        session=orders.session,
        speech=orders.speech,
        decision=orders.wishes.decision,
        mean=orders.manifest.cepstral_mean(orders.profiles.get(source_id)),
    )
    config, resume = orders.sources[source_id], orders.resumes.get(source_id)
    stream = Stream(
        source_id, config, pipeline, outlet, started_s=orders.started_s, resume=resume, record=orders.record
    )
    if source_id in orders.wishes.muted:
        stream.source.mute()
    return stream
