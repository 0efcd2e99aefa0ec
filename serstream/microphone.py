"""A microphone, as the daemon sees it: the capture process started, read, watched, replaced and killed.

The daemon never waits for the sound library. Whatever happens to the device, the session goes on: a hole
starts, the process is replaced until samples come again, and the index has moved on by what the clock says
was lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from serstream.capture import Device, choose
from serstream.capture_process import CaptureProcess, devices, hardware_ns
from serstream.config import SAMPLE_RATE, MicrophoneSource
from serstream.events import Cause, Fault, Status
from serstream.pulled import Resume
from serstream.ring import FAULTS, Block, Hole, SampleRing, Slot

_log = logging.getLogger(__name__)

BACKOFF_S = (0.5, 2.0)
"""Least and most seconds from one start of the capture process to the next; a new sound card does not wait for it."""
_BLOCK_LIMIT = SAMPLE_RATE
_SAMPLE_COUNTERS = ("captured", "consumed", "input_overflows", "ring_overruns", "non_finite", "unread")
_HOLE_COUNTERS = ("device_lost", "stalled", "muted", "worker_restart")
_EVENT_COUNTERS = ("input_overflow_events", "callbacks", "restarts")


class Microphone:
    """A source that lives as long as the daemon, whatever becomes of the device.

    Nobody reading for more than ``RING_S`` seconds loses samples; the loss is counted. At any time
    ``captured`` equals ``consumed`` plus ``ring_overruns`` plus what lies in the ring, and after
    :meth:`close` that last part is ``unread``. :meth:`read`, :meth:`open` and :meth:`close` are called from
    the analysis thread, everything else from any.
    """

    def __init__(
        self,
        config: MicrophoneSource,
        spawn: Callable[[MicrophoneSource], CaptureProcess] = CaptureProcess,
        backoff_s: tuple[float, float] = BACKOFF_S,
        hardware_ns: Callable[[], int] = hardware_ns,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._spawn = spawn
        self._least_backoff_s, self._most_backoff_s = backoff_s
        self._now_s = now_s
        self._hardware_ns, self._known_ns = hardware_ns, hardware_ns()
        self._capture: CaptureProcess | None = None
        self._queue: deque[Block | Hole] = deque()
        self._hole: Cause | None = None
        self._verdict: Cause | None = None
        self._first = 0
        self._ring_first = 0
        self._ring_non_finite = 0
        self._overflows = 0
        self._overflow_samples = 0
        self._last_s = 0.0
        self._drift_ppm: float | None = None
        self._retry_s = 0.0
        self._backoff_s = self._least_backoff_s
        self._closed = False
        self._release_lock = threading.Lock()
        self._mute_wanted = False
        self._changed = threading.Event()
        self._totals = dict.fromkeys((*_SAMPLE_COUNTERS, *_HOLE_COUNTERS, *_EVENT_COUNTERS), 0)

    def check(self) -> Device:
        """Return the device that would be used.

        Raises
        ------
        SourceError
            If there is no such device (the sentence lists what there is), or PortAudio is missing.
        """
        return choose(devices(), self._config.device)

    def go_on(self, resume: Resume) -> None:
        """Take the place of a microphone whose worker has died: the index moves on by the time until samples come."""
        self._first, self._last_s = resume.first_sample, resume.since_s
        self._totals |= {name: resume.counters.get(name, 0) for name in self._totals}
        self._hole = "worker_restart"

    def open(self) -> None:
        """Start capturing, unless muted; a device that is not there is waited for."""
        if self._hole is None:
            self._last_s = self._now_s()
        if self._mute_wanted:
            self._begin_hole("muted")
        else:
            self._start()

    @property
    def ended(self) -> bool:
        """Whether no more will come: a microphone has no end."""
        return self._closed

    @property
    def capture_pid(self) -> int | None:
        """Process id of the capture process, None while there is none."""
        capture = self._capture
        return capture.pid if capture else None

    @property
    def status(self) -> Status:
        """How the source is."""
        if self._mute_wanted:
            return "muted"
        if self._hole is None:
            return "running" if self._totals["consumed"] else "starting"
        by_cause: dict[Cause, Status] = {"stalled": "stalled", "device_lost": "lost"}
        return by_cause.get(self._hole, "starting")

    @property
    def fault(self) -> Fault | None:
        """What is wrong with what the device delivers."""
        with self._release_lock:
            place = self._capture.ring.header[Slot.FAULT] if self._capture and self.status == "running" else 0
        return FAULTS[place - 1] if place else None

    @property
    def drift_ppm(self) -> float | None:
        """How much faster the device's clock is than the system's, in millionths, as it was last measured."""
        with self._release_lock:
            return self._measured()

    def _measured(self) -> float | None:
        measured = self._capture.ring.drift_ppm if self._capture else None
        return self._drift_ppm if measured is None else measured

    @property
    def counters(self) -> dict[str, int]:
        """Samples at 16 kHz since :meth:`open`; but overflow events, callbacks and restarts.

        ``input_overflows`` is estimated: what the device lost by its own account of the time. So are
        ``device_lost``, ``stalled`` and ``muted``, which are known, and counted, when such a hole ends.
        """
        with self._release_lock:
            return self._add_up()

    def _add_up(self) -> dict[str, int]:
        counters = dict(self._totals)
        for name, value in self._current().items():
            counters[name] += value
        return counters

    def _current(self) -> dict[str, int]:
        """Return what the running capture process has counted."""
        if self._capture is None:
            return {}
        header = self._capture.ring.header
        return {
            "captured": header[Slot.WRITE],
            "ring_overruns": header[Slot.OVERRUNS],
            "input_overflow_events": header[Slot.OVERFLOW_EVENTS],
            "non_finite": header[Slot.NON_FINITE],
            "callbacks": header[Slot.CALLBACKS],
        }

    def call(self, came: Callable[[], object]) -> bool:
        """Return False: what comes is to be looked for."""
        return False

    def want(self, n_samples: int) -> None:
        """Do nothing: what comes is at once there to be read."""

    def mute(self) -> None:
        """Close the device at once; reading goes on and delivers a hole."""
        self._mute_wanted = True
        self._verdict = "muted"
        if capture := self._capture:
            capture.kill()
        self._changed.set()

    def unmute(self) -> None:
        """Open the device again."""
        self._mute_wanted = False
        self._changed.set()

    def read(self, timeout_s: float) -> Block | Hole | None:
        """Return the next block or hole, or None when nothing came within the timeout.

        Never takes much longer than ``timeout_s`` (plus a second when a process has to be killed).
        """
        deadline = self._now_s() + timeout_s
        while not self._closed:
            if not self._queue:
                self._take()
            if not self._queue:
                self._supervise()
            if self._queue:
                return self._deliver()
            remaining_s = deadline - self._now_s()
            if remaining_s <= 0:
                return None
            self._wait(remaining_s)
        return None

    def _deliver(self) -> Block | Hole:
        item = self._queue.popleft()
        if isinstance(item, Block):
            self._totals["consumed"] += item.samples.size
        return item

    def _wait(self, remaining_s: float) -> None:
        if self._capture is None:
            due_s = remaining_s if self._mute_wanted else self._retry_s - self._now_s()
            self._changed.wait(max(0.0, min(remaining_s, due_s)))
            self._changed.clear()
        else:
            due_s = self._config.stall_s - self._capture.silent_s()
            self._capture.wait(max(0.0, min(remaining_s, due_s)))

    def _take(self) -> None:
        """Put what the ring holds into the queue, with the losses that lie before it."""
        if self._capture is None:
            return
        ring = self._capture.ring
        if self._hole:
            if not ring.backlog:
                return
            lost = self._end_hole(self._captured_s(ring, self._ring_first))
            _log.info("the microphone is back; about %.1f s were lost", lost / SAMPLE_RATE)
        self._take_overflow(ring)
        limit = _BLOCK_LIMIT
        if self._overflows != ring.header[Slot.OVERFLOW_EVENTS]:
            limit = min(limit, ring.header[Slot.OVERFLOW_AT] - ring.header[Slot.READ])
        first, samples = ring.read(limit)
        if not samples.size:
            return
        self._lose("ring_overrun", first - self._ring_first, estimated=False)
        self._take_non_finite(ring)
        captured_s = self._captured_s(ring, first + samples.size)
        self._queue.append(Block(self._first, samples, captured_s))
        self._first += samples.size
        self._ring_first = first + samples.size
        self._last_s = captured_s
        self._backoff_s = self._least_backoff_s

    def _captured_s(self, ring: SampleRing, index: int) -> float:
        """Return when a sample was captured; the ring's clock is that of what follows an overflow, read or not."""
        ahead = index <= ring.header[Slot.OVERFLOW_AT]
        lost = ring.header[Slot.OVERFLOW_SAMPLES] - self._overflow_samples if ahead else 0
        return ring.captured_s(index) - lost / SAMPLE_RATE

    def _take_overflow(self, ring: SampleRing) -> None:
        events = ring.header[Slot.OVERFLOW_EVENTS]
        if events == self._overflows or ring.header[Slot.READ] < ring.header[Slot.OVERFLOW_AT]:
            return
        lost = ring.header[Slot.OVERFLOW_SAMPLES] - self._overflow_samples
        self._overflows = events
        self._overflow_samples += lost
        self._totals["input_overflows"] += lost
        self._lose("input_overflow", lost, estimated=True)
        self._last_s = self._captured_s(ring, self._ring_first)  # if nothing follows, the next hole begins here

    def _take_non_finite(self, ring: SampleRing) -> None:
        replaced = ring.header[Slot.NON_FINITE]
        self._lose("non_finite", replaced - self._ring_non_finite, estimated=False)
        self._ring_non_finite = replaced

    def _lose(self, cause: Cause, lost: int, *, estimated: bool) -> None:
        """Queue a hole whose extent is known, and move the index on unless the samples were only replaced."""
        if lost <= 0:
            return
        self._queue.append(Hole("start", cause, self._first, lost, estimated))
        if cause != "non_finite":
            self._first += lost
        self._queue.append(Hole("end", cause, self._first, lost, estimated))

    def _mark(self, phase: Literal["start", "end"], cause: Cause, lost: int) -> None:
        self._queue.append(Hole(phase, cause, self._first, lost, estimated=True))

    def _begin_hole(self, cause: Cause) -> bool:
        """Begin a hole, unless one is open that is not a worker's end; return whether it began."""
        if self._hole == "worker_restart":
            self._end_hole(self._now_s())
        if self._hole is not None:
            return False
        self._hole = cause
        self._mark("start", cause, 0)
        return True

    def _end_hole(self, captured_s: float) -> int:
        """End the open hole at a sample captured at this time; return how many samples were lost."""
        assert self._hole is not None
        lost = self._count_hole(self._hole, captured_s)
        self._first += lost
        self._last_s = captured_s
        self._mark("end", self._hole, lost)
        self._hole = None
        return lost

    def _count_hole(self, cause: Cause, end_s: float) -> int:
        lost = max(0, round((end_s - self._last_s) * SAMPLE_RATE))
        self._totals[cause] += lost
        return lost

    def _supervise(self) -> None:
        """Look after the capture process once its ring is empty."""
        capture = self._capture
        if capture is None:
            if not self._mute_wanted and (self._now_s() >= self._retry_s or self._hardware_changed()):
                self._totals["restarts"] += 1
                self._start()
        elif capture.ended:
            if not capture.ring.backlog:
                self._bury(capture)
        elif self._mute_wanted or capture.silent_s() > self._config.stall_s:
            self._verdict = "muted" if self._mute_wanted else "stalled"
            capture.kill()
            capture.reap()

    def _hardware_changed(self) -> bool:
        before, self._known_ns = self._known_ns, self._hardware_ns()
        if changed := self._known_ns != before:
            self._backoff_s = self._least_backoff_s
        return changed

    def _start(self) -> None:
        self._capture = self._spawn(self._config)
        self._ring_first = self._ring_non_finite = self._overflows = self._overflow_samples = 0
        self._verdict = None
        self._retry_s = self._now_s() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, self._most_backoff_s)

    def _bury(self, capture: CaptureProcess) -> None:
        """Begin a hole, unless one is open, after a capture process has ended; another will follow."""
        cause: Cause = self._verdict or "device_lost"
        if self._begin_hole(cause) and cause != "muted":
            _log.warning("no samples: %s; trying again", self._reason(cause, capture))
        self._retry_s = 0.0 if cause == "muted" else max(self._retry_s, self._now_s() + self._least_backoff_s)
        self._release(capture)

    def _reason(self, cause: Cause, capture: CaptureProcess) -> str:
        return (
            capture.last_words()
            if cause == "device_lost"
            else f"the microphone has stalled for {self._config.stall_s} s"
        )

    def _release(self, capture: CaptureProcess) -> None:
        """Add up what the process counted, and let it go."""
        with self._release_lock:
            self._totals["unread"] += capture.ring.backlog
            self._totals, self._drift_ppm = self._add_up(), self._measured()
            self._capture = None
            capture.close()

    def close(self) -> None:
        """End capturing; what was not read is counted as ``unread``. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._hole:
            self._count_hole(self._hole, self._now_s())
        if self._capture:
            self._capture.kill()
            self._capture.reap()
            self._release(self._capture)
        self._totals["unread"] += sum(item.samples.size for item in self._queue if isinstance(item, Block))
        self._queue.clear()
