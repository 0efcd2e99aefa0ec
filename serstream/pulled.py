"""The seam between the outside and the middle, and what sources that wait for their reader share."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE
from serstream.events import Fault, Status
from serstream.ring import Block, Hole
from serstream.sameness import Sameness

_COUNTERS = (
    *("captured", "consumed", "input_overflows", "ring_overruns", "non_finite", "unread"),
    *("device_lost", "stalled", "muted", "worker_restart"),
)


class Resume(NamedTuple):
    """Where a stream goes on whose worker has died; the gap that this is has begun, and the source ends it.

    Attributes
    ----------
    first_sample : int
        Absolute index at 16 kHz of the first sample that nobody has heard.
    since_s : float
        ``time.monotonic()`` at which the sample before it was captured.
    counters : dict of str to int
        What was counted so far, without what was captured and not heard.
    emotions : int
        Emotions so far.
    slept_s : float
        How long the machine had been suspended by then, as :func:`serstream.stream.slept_s` tells.
    """

    first_sample: int
    since_s: float
    counters: dict[str, int]
    emotions: int
    slept_s: float


class Source(Protocol):
    """The seam between the outside and the middle.

    ``open``, ``read`` and ``close`` are called from the analysis thread, everything else from any thread.
    """

    @property
    def ended(self) -> bool:
        """Whether no more will come."""

    @property
    def status(self) -> Status:
        """How the source is."""

    @property
    def fault(self) -> Fault | None:
        """What is wrong with the signal of a source that delivers."""

    @property
    def drift_ppm(self) -> float | None:
        """How much faster the device's clock is than the system's, in millionths, once that was measured."""

    @property
    def counters(self) -> dict[str, int]:
        """Samples at 16 kHz; once closed, ``captured`` = ``consumed`` + ``ring_overruns`` + ``unread``.

        What was never captured is counted under its cause: ``device_lost``, ``stalled``, ``muted``, ``network`` or
        ``worker_restart``.
        """

    def go_on(self, resume: Resume) -> None:
        """Take the place, before :meth:`open`, of a source whose worker has died."""

    def call(self, came: Callable[[], object]) -> bool:
        """Call ``came``, from any thread, when there is something to read, and after a read if there is more.

        Returns False from what never does.
        """

    def want(self, n_samples: int) -> None:
        """Say how many samples are of use together: a source that calls may wait for them, for part of a second."""

    def open(self) -> None:
        """Begin; raises :class:`SourceError` for what can never be read."""

    def read(self, timeout_s: float) -> Block | Hole | None:
        """Return what comes next, or None if nothing did within the timeout or the source has ended.

        Raises :class:`SourceError` when a file or pipe turns out not to hold what it promised.
        """

    def mute(self) -> None:
        """Stop listening until :meth:`unmute`; reading delivers a hole."""

    def unmute(self) -> None:
        """Listen again."""

    def close(self) -> None:
        """Release everything within bounded time; calling it again does nothing."""


class Pulled:
    """What a file, a pipe and a test signal share: they wait, so that nothing is lost.

    A subclass gives :meth:`_fetch`, and where it is live ``_watch``. While muted nothing is fetched; what is real
    time goes on where it stopped.
    """

    _watch: Sameness | None = None
    drift_ppm: float | None = None

    def __init__(self, *, realtime: bool) -> None:
        self._realtime = realtime
        self._first = 0
        self._queue: deque[Block | Hole] = deque()
        self._pending: tuple[NDArray[np.float32], int] | None = None
        self._start_s: float | None = None
        self._exhausted = False
        self._closed = False
        self._mute_wanted = False
        self._muted_s: float | None = None
        self._lost_muted = 0
        self._changed = threading.Event()
        self._counters = dict.fromkeys(_COUNTERS, 0)

    def _fetch(self, timeout_s: float) -> tuple[NDArray[np.float32], int] | None:
        """Return samples and how many of them were not finite, or None; set ``_exhausted`` at the end."""
        raise NotImplementedError

    def go_on(self, resume: Resume) -> None:
        """Take the place of a source whose worker has died: nothing was lost."""
        self._first = resume.first_sample
        self._counters |= {name: resume.counters.get(name, 0) for name in self._counters}
        if self._realtime:
            self._start_s = time.monotonic() - self._first / SAMPLE_RATE
        self._queue.append(Hole("end", "worker_restart", self._first, 0, estimated=False))

    def call(self, came: Callable[[], object]) -> bool:
        """Return False: what comes is to be looked for."""
        return False

    def want(self, n_samples: int) -> None:
        """Do nothing: what comes is at once there to be read."""

    def open(self) -> None:
        """Begin; raises :class:`SourceError` for what can never be read."""

    @property
    def ended(self) -> bool:
        """Whether no more will come."""
        return self._closed or (self._exhausted and self._pending is None and not self._queue)

    @property
    def status(self) -> Status:
        """How the source is."""
        if self._mute_wanted:
            return "muted"
        return "running" if self._counters["captured"] else "starting"

    @property
    def fault(self) -> Fault | None:
        """What is wrong with the signal, where that is watched."""
        return self._watch.fault if self._watch is not None and self.status == "running" else None

    @property
    def counters(self) -> dict[str, int]:
        """Samples at 16 kHz since :meth:`open`."""
        return dict(self._counters)

    def mute(self) -> None:
        """Stop listening; may be called from any thread."""
        self._mute_wanted = True
        self._changed.set()

    def unmute(self) -> None:
        """Listen again; may be called from any thread."""
        self._mute_wanted = False
        self._changed.set()

    def read(self, timeout_s: float) -> Block | Hole | None:
        """Return the next block or hole, or None if there was none within the timeout or there is no more."""
        deadline = time.monotonic() + timeout_s
        if not self._queue:
            self._switch()
        if not self._queue and self._muted_s is not None:
            self._skip(timeout_s)
            self._switch()
        if not self._queue and self._muted_s is None:
            self._advance(deadline)
        return self._deliver() if self._queue else None

    def _switch(self) -> None:
        """Obey :meth:`mute` and :meth:`unmute`."""
        self._changed.clear()
        if self._mute_wanted and self._muted_s is None:
            self._muted_s, self._lost_muted = time.monotonic(), 0
            self._queue.append(Hole("start", "muted", self._first, 0, estimated=False))
        elif not self._mute_wanted and self._muted_s is not None:
            if self._start_s is not None and not self._lost_muted:
                self._start_s += time.monotonic() - self._muted_s
            self._first += self._lost_muted
            self._queue.append(Hole("end", "muted", self._first, self._lost_muted, estimated=False))
            self._muted_s = None

    def _skip(self, timeout_s: float) -> None:
        """Spend the time while muted."""
        self._changed.wait(timeout_s)

    def _advance(self, deadline: float) -> None:
        """Queue the next block if it comes, and is due, before the deadline."""
        while self._pending is None and not self._exhausted:
            self._pending = self._fetch(max(0.0, deadline - time.monotonic()))
            if self._pending is not None:
                self._counters["captured"] += self._pending[0].size
            elif not self._exhausted and time.monotonic() >= deadline:
                return
        if self._pending is not None and self._is_due(self._pending[0].size, deadline):
            self._enqueue(*self._pending)
            self._pending = None

    def _is_due(self, n_samples: int, deadline: float) -> bool:
        """Wait until the last sample would have been spoken; False if that is after the deadline."""
        if not self._realtime:
            return True
        if self._start_s is None:
            self._start_s = time.monotonic()
        due_s = self._start_s + (self._first + n_samples) / SAMPLE_RATE
        wait_s = min(due_s, deadline) - time.monotonic()
        return (wait_s <= 0 or not self._changed.wait(wait_s)) and due_s <= max(deadline, time.monotonic())

    def _captured_s(self, end: int) -> float | None:
        return self._start_s + end / SAMPLE_RATE if self._start_s is not None else None

    def _enqueue(self, samples: NDArray[np.float32], replaced: int) -> None:
        if replaced:
            self._counters["non_finite"] += replaced
            self._queue.append(Hole("start", "non_finite", self._first, replaced, estimated=False))
            self._queue.append(Hole("end", "non_finite", self._first, replaced, estimated=False))
        if samples.size:
            captured_s = self._captured_s(self._first + samples.size)
            self._queue.append(Block(self._first, samples, captured_s))
            self._first += samples.size

    def _deliver(self) -> Block | Hole:
        item = self._queue.popleft()
        if isinstance(item, Block):
            self._counters["consumed"] += item.samples.size
        return item

    def close(self) -> None:
        """End; what was fetched and not read is counted as ``unread``."""
        self._closed = True
        left = sum(item.samples.size for item in self._queue if isinstance(item, Block))
        self._counters["unread"] += left + (self._pending[0].size if self._pending else 0)
        self._queue.clear()
        self._pending = None
        self._changed.set()
