"""Inside the capture process: from PortAudio's thread, through a ring at the device's rate, into the sample ring."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serstream.capture_clock import CaptureClock
from serstream.resampler import Resampler
from serstream.ring import FAULTS, SampleRing, Slot
from serstream.sameness import Sameness


class DeviceRing:
    """What PortAudio's thread writes into and the main thread reads from: samples at the device's rate.

    Calling it is the audio callback: it copies, advances and counts, and does nothing else. The interpreter's
    lock orders what it stores; ``stamp_ns`` is set before ``written`` and read after it, so that a pair that
    does not belong together looks late, never early.
    """

    def __init__(self, n_samples: int, channels: int) -> None:
        self.samples: NDArray[np.float32] = np.zeros((n_samples, channels), np.float32)
        self.written = 0
        self.stamp_ns = 0
        self.callbacks = 0
        self.overflows = 0
        self.overflow_at = 0
        self.finished = False
        self.wake_fd = os.eventfd(0)

    def __call__(self, indata: NDArray[np.float32], n_samples: int, _time: Any, status: Any) -> None:
        """Copy one block; called from PortAudio's thread."""
        self.stamp_ns = time.monotonic_ns()
        at = self.written % len(self.samples)
        head = min(n_samples, len(self.samples) - at)
        self.samples[at : at + head] = indata[:head]
        self.samples[: n_samples - head] = indata[head:]
        if status.input_overflow:
            self.overflow_at = self.written
            self.overflows += 1
        self.written += n_samples
        self.callbacks += 1
        os.eventfd_write(self.wake_fd, 1)

    def finish(self) -> None:
        """Say that no more will come; called from PortAudio's thread."""
        self.finished = True
        os.eventfd_write(self.wake_fd, 1)


class Transfer:
    """From the device's ring to the sample ring: mixed down, resampled, counted; on the main thread."""

    def __init__(
        self, device: DeviceRing, ring: SampleRing, rate: int, latency_s: float, silence_s: float | None = None
    ) -> None:
        self._device, self._ring, self._rate = device, ring, rate
        self._ring_rate = ring.header[Slot.RATE]
        self._latency_ns = int(latency_s * 1e9)
        self._watch = Sameness(rate, silence_s)
        self._resampler = Resampler(rate, self._ring_rate, self._watch)
        self._clock = CaptureClock(rate)
        self._read = 0
        self._overflows = 0
        self._skipped_ns = 0

    def run(self) -> None:
        """Move everything that has arrived since the last call."""
        overflows, overflow_at = self._device.overflows, self._device.overflow_at
        written = self._device.written
        stamp_ns = self._device.stamp_ns
        if written == 0:
            return
        if written - self._read > len(self._device.samples):
            self._overrun(written)
        if overflows != self._overflows:
            self._move(overflow_at)
            lost_s = self._clock.lost(stamp_ns, written)
            self._count_overflow(overflows - self._overflows, lost_s)
            self._overflows = overflows
        elif lost_s := self._clock.lost_unannounced(stamp_ns, written):
            self._move(written)
            self._count_overflow(1, lost_s)
        self._stamp(stamp_ns, written)
        self._move(written)

    def _overrun(self, written: int) -> None:
        """Skip what was overwritten because this thread did not run for longer than the ring holds."""
        lost_s = (written - self._read) / self._rate
        self._read = written
        self._skipped_ns += int(lost_s * 1e9)
        self._count_overflow(1, lost_s)

    def _count_overflow(self, events: int, lost_s: float) -> None:
        header = self._ring.header
        header[Slot.OVERFLOW_AT] = header[Slot.WRITE]
        header[Slot.OVERFLOW_SAMPLES] += max(1, round(lost_s * self._ring_rate))
        self._ring.fence()
        header[Slot.OVERFLOW_EVENTS] += events

    def _stamp(self, stamp_ns: int, written: int) -> None:
        header = self._ring.header
        header[Slot.ORIGIN_NS] = self._clock.update(stamp_ns, written) + self._skipped_ns - self._latency_ns
        if (drift_ppm := self._clock.drift_ppm) is not None:
            header[Slot.RATE_UHZ] = round(self._ring_rate * (1e6 + drift_ppm))
        header[Slot.CALLBACKS] = self._device.callbacks
        header[Slot.HEARTBEAT_NS] = stamp_ns

    def _move(self, end: int) -> None:
        """Write the device's samples up to ``end`` to the ring."""
        capacity = len(self._device.samples)
        while self._read < end:
            at = self._read % capacity
            n_samples = min(end - self._read, capacity - at)
            self._ring.write(self._resampler.push(self._device.samples[at : at + n_samples]))
            self._read += n_samples
        replaced = self._resampler.non_finite * self._ring_rate
        self._ring.header[Slot.NON_FINITE] = -(-replaced // self._rate)
        fault = self._watch.fault
        self._ring.header[Slot.FAULT] = 0 if fault is None else 1 + FAULTS.index(fault)
