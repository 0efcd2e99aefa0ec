"""One stream of the network as a source.

Its sender may stall, go away and come back: the session goes on, and its index moves on by what was lost. Within a run
the sender's own index counts that; from one run to the next the clock does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serstream.capture_clock import CaptureClock
from serstream.clock import slept_s
from serstream.config import SAMPLE_RATE, NetworkSource
from serstream.events import Cause, Status
from serstream.inbox import Arrival, Inbox, in_stretches, now_s
from serstream.pcm import to_float
from serstream.pulled import Pulled
from serstream.resampler import Resampler
from serstream.ring import Block, Hole
from serstream.sameness import Sameness

_log = logging.getLogger(__name__)


class _Stretch:
    """Packets of one run without a hole: from the index of the sender to that of the session, and to time.

    Attributes
    ----------
    run : UUID
    next : int
        Index of the sender that follows what was pushed.
    clock : CaptureClock
    """

    def __init__(self, arrival: Arrival, first_sample: int, watch: Sameness | None) -> None:
        header = arrival.packet.header
        self.run, self.next = header.run, header.first_sample
        self._rate, self._begin, self._first = header.sample_rate, header.first_sample, first_sample
        self._resampler = Resampler(header.sample_rate, SAMPLE_RATE, watch)
        self.clock = CaptureClock(header.sample_rate)
        self._origin_ns = self.clock.update(int((arrival.at_s - arrival.packet.duration_s) * 1e9), 0)

    def place(self, index: int) -> int:
        """Return the sample of the session of an index of the sender."""
        return self._first + round((index - self._begin) * SAMPLE_RATE / self._rate)

    def captured_s(self, sample: int) -> float:
        """Return when a sample of the session was captured, by :func:`now_s`, as far as its arrival tells."""
        return self._origin_ns / 1e9 + (sample - self._first) / SAMPLE_RATE

    def push(self, arrivals: list[Arrival]) -> tuple[NDArray[np.float32], int]:
        """Return what packets give at 16 kHz together, and how many of their samples were not finite."""
        for arrival in arrivals:
            self.next += arrival.packet.n_samples
            self._origin_ns = self.clock.update(int(arrival.at_s * 1e9), self.next - self._begin)
        payload = b"".join([arrival.packet.payload for arrival in arrivals])
        return self._resample(to_float(payload, arrivals[0].packet.header.format), last=False)

    def finish(self) -> tuple[NDArray[np.float32], int]:
        """Return what the resampler still holds."""
        return self._resample(np.empty(0, np.float32), last=True)

    def _resample(self, samples: NDArray[np.float32], *, last: bool) -> tuple[NDArray[np.float32], int]:
        before = self._resampler.non_finite
        resampled = self._resampler.push(samples[:, np.newaxis], last=last)
        replaced = (self._resampler.non_finite - before) * SAMPLE_RATE
        return resampled, -(-replaced // self._rate)


class Remote(Pulled):
    """A live source that others send to :attr:`inbox`.

    Before the first packet nothing is lost. ``stall_s`` seconds without a packet begin a hole; so does the end of a run
    that its sender tells of, in which nothing is lost: the index stands until the next run. ``network`` counts the
    samples that were lost, ``runs`` the starts of senders, ``packets_refused`` what was not what comes next.
    """

    def __init__(self, config: NetworkSource) -> None:
        super().__init__(realtime=False)
        self.inbox = Inbox()
        self._stall_s, self._silence_s = config.stall_s, config.silence_s
        self._stretch: _Stretch | None = None
        self._hole: Cause | None = None
        self._over = False
        self._counters |= {"network": 0, "runs": 0}

    @property
    def status(self) -> Status:
        """How the source is: ``lost`` while nobody sends."""
        if self._mute_wanted:
            return "muted"
        if self._hole == "network" or self._is_silent():
            return "lost"
        return super().status if self._hole is None else "starting"

    @property
    def counters(self) -> dict[str, int]:
        """Samples at 16 kHz since :meth:`open`; but runs and packets refused."""
        return super().counters | {"packets_refused": self.inbox.refused}

    def call(self, came: Callable[[], object]) -> bool:
        """Call ``came`` when there is something to read: from the inlet's thread, or after a read."""
        self.inbox.on_packet = came
        return True

    def want(self, n_samples: int) -> None:
        """Let what comes wait for so many samples together, a third of a second at most."""
        self.inbox.want(n_samples if self._hole is None else 0)

    def mute(self) -> None:
        """Hear no more, from the next read on, which is called for."""
        super().mute()
        self.inbox.on_packet()

    def read(self, timeout_s: float) -> Block | Hole | None:
        """Return the next block or hole, or None if there was none within the timeout."""
        deadline = time.monotonic() + timeout_s
        while not self._queue and not self._closed:
            if self._mute_wanted and self._hole is None:
                self._begin_hole("muted")
            elif arrivals := self.inbox.get(deadline - time.monotonic()):
                for stretch in in_stretches(arrivals):
                    self._take(stretch)
            elif self._hole is None and self._stretch is not None and self._is_silent():
                _log.warning("run %s has sent nothing for %g s", self._stretch.run, self._stall_s)
                self._begin_hole("network")
            else:
                return None
        item = self._deliver() if self._queue else None
        if self._queue:
            self.inbox.on_packet()
        return item

    def _is_silent(self) -> bool:
        return now_s() - self.inbox.last_s > self._stall_s

    def _take(self, arrivals: list[Arrival]) -> None:
        """Take packets that go on from each other."""
        arrival = arrivals[0]
        if self._mute_wanted and self._hole == "muted":  # nobody listens: the hole grows
            if self._stretch is None:
                self._begin_stretch(arrival)
            return
        stretch = self._join(arrival)
        header = arrival.packet.header
        if header.end:
            _log.info("stream %s: run %s has ended", header.stream, header.run)
            self._begin_hole("network")
            self._over = True
        elif self._mute_wanted:
            self._begin_hole("muted")
        else:
            self._hear(*stretch.push(arrivals))
            self.drift_ppm = self.drift_ppm if stretch.clock.drift_ppm is None else stretch.clock.drift_ppm

    def _join(self, arrival: Arrival) -> _Stretch:
        """Return the stretch that a packet goes on with; tell before of what is missing, and end the hole there."""
        stretch, header = self._stretch, arrival.packet.header
        goes_on = stretch is not None and header.run == stretch.run
        if stretch is not None and goes_on and self._hole is None and header.first_sample == stretch.next:
            return stretch
        self._flush()
        lost, estimated = self._missing(arrival)
        if self._hole is not None:
            self._end_hole(self._hole, lost, estimated=estimated)
        elif stretch is not None:
            dropped = min(lost, round(arrival.dropped_s * SAMPLE_RATE))
            if dropped:
                self._counters["captured"] += dropped
                self._lose("ring_overrun", dropped, estimated=estimated)
            if lost > dropped or not goes_on:
                self._lose("network", lost - dropped, estimated=estimated)
        return self._begin_stretch(arrival)

    def _missing(self, arrival: Arrival) -> tuple[int, bool]:
        """Return the samples between what was heard and a packet, and whether the clock alone tells."""
        stretch, packet = self._stretch, arrival.packet
        if stretch is None:
            return 0, False
        if packet.header.run == stretch.run:
            return max(0, stretch.place(packet.header.first_sample) - self._first), False
        if self._over:
            return 0, False
        silent_s = arrival.at_s - packet.duration_s - stretch.captured_s(self._first)
        return max(0, round(silent_s * SAMPLE_RATE)), True

    def _begin_stretch(self, arrival: Arrival) -> _Stretch:
        header = arrival.packet.header
        if self._stretch is None or self._stretch.run != header.run:
            self._counters["runs"] += 1
            self._watch = Sameness(header.sample_rate, self._silence_s)
            _log.info("stream %s: run %s has begun, %d Hz", header.stream, header.run, header.sample_rate)
        self._over = False
        self._stretch = _Stretch(arrival, self._first, self._watch)
        return self._stretch

    def _begin_hole(self, cause: Cause) -> None:
        self._flush()
        self._hole = cause
        self.want(0)
        self._mark("start", cause, 0, estimated=False)

    def _end_hole(self, cause: Cause, lost: int, *, estimated: bool) -> None:
        self._count(cause, lost)
        self._first += lost
        self._mark("end", cause, lost, estimated=estimated)
        self._hole = None

    def _lose(self, cause: Cause, lost: int, *, estimated: bool) -> None:
        """Tell of a hole whose extent is known."""
        self._mark("start", cause, lost, estimated=estimated)
        self._end_hole(cause, lost, estimated=estimated)

    def _mark(self, phase: Literal["start", "end"], cause: Cause, lost: int, *, estimated: bool) -> None:
        self._queue.append(Hole(phase, cause, self._first, lost, estimated))

    def _count(self, cause: Cause, lost: int) -> None:
        self._counters["ring_overruns" if cause == "ring_overrun" else cause] += lost

    def _flush(self) -> None:
        """Give out what the resampler holds, before a hole."""
        if self._stretch is not None and self._hole is None:
            self._hear(*self._stretch.finish())

    def _hear(self, samples: NDArray[np.float32], replaced: int) -> None:
        self._counters["captured"] += samples.size
        self._enqueue(samples, replaced)

    def _captured_s(self, end: int) -> float | None:
        return None if self._stretch is None else self._stretch.captured_s(end) - slept_s()

    def close(self) -> None:
        """End; what came and was not read is counted as ``unread``."""
        if not self._closed:
            self._count_rest()
        super().close()

    def _count_rest(self) -> None:
        if self._hole is not None:
            if self._stretch is not None and not self._over:
                self._count(self._hole, max(0, round((now_s() - self._stretch.captured_s(self._first)) * SAMPLE_RATE)))
            return
        self.want(0)
        for arrival in self.inbox.get(0.0):
            self._count_left(arrival.packet.duration_s, arrival.dropped_s)
        self._count_left(0.0, self.inbox.dropped_s)

    def _count_left(self, unread_s: float, dropped_s: float) -> None:
        unread, dropped = round(unread_s * SAMPLE_RATE), round(dropped_s * SAMPLE_RATE)
        self._counters["captured"] += unread + dropped
        self._counters["unread"] += unread
        self._counters["ring_overruns"] += dropped
