"""The packets of one stream between the thread that takes them from the network and the one that analyses them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple
from uuid import UUID

from serstream.config import SAMPLE_RATE
from serstream.errors import PacketError
from serstream.packets import Header, Packet

QUEUE_S = 10.0
"""Sound that waits for its reader before what comes is dropped."""
LEAST_SAMPLES = 80
"""A packet takes at least the room of so many at 16 kHz, or tiny ones would fill the memory."""
AHEAD_S = 60.0
"""So far a run may be ahead of the clock: what is heard as it is spoken never is, an index gone wrong is."""
PAST_RUNS = 16
PATIENCE_S = 0.3
"""So long sound waits at most for what its reader wants to take together with it."""


def now_s() -> float:
    """Return the time, in seconds, on a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Arrival(NamedTuple):
    """A packet, when it came by :func:`now_s`, and how many seconds of sound were dropped right before it."""

    packet: Packet
    at_s: float
    dropped_s: float


def in_stretches(arrivals: Iterable[Arrival]) -> list[list[Arrival]]:
    """Return arrivals in order, those together of which each goes on where the one before it ends."""
    stretches: list[list[Arrival]] = []
    for arrival in arrivals:
        if stretches and _goes_on(stretches[-1][-1].packet, arrival):
            stretches[-1].append(arrival)
        else:
            stretches.append([arrival])
    return stretches


def _goes_on(before: Packet, arrival: Arrival) -> bool:
    a, b = before.header, arrival.packet.header
    follows = a.run == b.run and a.first_sample + before.n_samples == b.first_sample
    return follows and a.format == b.format and not b.end and not arrival.dropped_s


class Inbox:
    """Takes what comes next in a stream, refuses the rest, and keeps it until it is read.

    :meth:`put` is called from the inlet's thread, :meth:`get` from the analysis thread.

    Attributes
    ----------
    refused : int
        Packets that were not what comes next.
    last_s : float
        When the last packet was taken, or the inbox made, by :func:`now_s`.
    dropped_s : float
        Seconds of sound dropped since the last packet that found room.
    on_packet : callable
        Called, from the inlet's thread, when there is something to get.
    """

    def __init__(self) -> None:
        self.on_packet: Callable[[], object] = lambda: None
        self._wanted = 0
        self.refused = 0
        self.last_s = now_s()
        self.dropped_s = 0.0
        self._run: Header | None = None
        self._run_s = 0.0
        self._next = 0
        self._past: deque[UUID] = deque(maxlen=PAST_RUNS)
        self._queue: list[Arrival] = []
        self._queued = 0
        self._came = threading.Condition()

    def put(self, packet: Packet, at_s: float) -> None:
        """Take a packet that came at a time by :func:`now_s`; without room for it, drop it and count that.

        Raises
        ------
        PacketError
            If it is not what comes next: the stream goes on without it.
        """
        header = packet.header
        try:
            self._follow(header, packet.duration_s, at_s)
        except PacketError:
            self.refused += 1
            raise
        self._next = header.first_sample + packet.n_samples
        if header.end:
            self._leave()
        room = max(round(packet.duration_s * SAMPLE_RATE), LEAST_SAMPLES)
        with self._came:
            self.last_s = at_s
            if self._queued + room > QUEUE_S * SAMPLE_RATE:
                self.dropped_s += packet.duration_s
                return
            self._queue.append(Arrival(packet, at_s, self.dropped_s))
            self._queued += room
            self.dropped_s = 0.0
            if not self._is_due():
                return
            self._came.notify()
        self.on_packet()

    def want(self, n_samples: int) -> None:
        """Say how many samples at 16 kHz are to come together: with less of a run the reader is not troubled.

        What has come is not kept from it for longer than ``PATIENCE_S``.
        """
        with self._came:
            self._wanted = n_samples
            if not self._is_due():
                return
        self.on_packet()

    def get(self, timeout_s: float) -> list[Arrival]:
        """Return all packets, the oldest first: none if less than is wanted comes within the timeout."""
        with self._came:
            if timeout_s > 0.0:
                self._came.wait_for(self._is_due, timeout_s)
            if not self._is_due():
                return []
            arrivals, self._queue, self._queued = self._queue, [], 0
            return arrivals

    def _is_due(self) -> bool:
        if self._queued >= self._wanted or not self._queue:
            return bool(self._queue)
        return self._run is None or now_s() - self._queue[0].at_s > PATIENCE_S

    def _follow(self, header: Header, duration_s: float, at_s: float) -> None:
        """Refuse what does not come next; a run that is new comes next whenever it begins."""
        run, stream = self._run, f"stream {header.stream}"
        if run is None or run.run != header.run:
            self._begin(header, at_s)
            return
        if header.sample_rate != run.sample_rate:
            raise PacketError(
                f"{stream} changes from {run.sample_rate} to {header.sample_rate} Hz; begin a run for each rate"
            )
        if header.first_sample < self._next:
            raise PacketError(f"{stream} sends sample {header.first_sample} late or again; the next is {self._next}")
        sent_s = (header.first_sample - run.first_sample) / run.sample_rate + duration_s
        passed_s = at_s - self._run_s
        if sent_s > passed_s + AHEAD_S:
            raise PacketError(
                f"{stream} is at {sent_s:.0f} s of its run after {passed_s:.0f} s; send sound no faster than it lasts, "
                "with the index of each first sample"
            )

    def _begin(self, header: Header, at_s: float) -> None:
        if header.run in self._past:
            raise PacketError(
                f"stream {header.stream} goes on with run {header.run}, which has ended, or a newer one came; "
                "give each sender another stream, and each of its starts another run"
            )
        if header.end:
            raise PacketError(f"stream {header.stream} ends run {header.run}, of which nothing was heard")
        self._leave()
        self._run, self._run_s = header, at_s

    def _leave(self) -> None:
        if self._run is not None:
            self._past.append(self._run.run)
            self._run = None
