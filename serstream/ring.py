"""The sample ring between a capture process and the analysis, and the two things that come out of a source.

One process writes and never waits; one process reads and never holds the writer up. Indices are absolute, so
what was overwritten is known to the sample.
"""

from __future__ import annotations

import mmap
import os
import threading
from enum import IntEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the capture process loads this module and needs no msgspec
    from serstream.events import Cause, Fault

FAULTS: tuple[Fault, ...] = ("silence", "stuck")
_HEADER_BYTES = 4096
_SAMPLE_BYTES = 4


class Block(NamedTuple):
    """Samples as a source delivers them.

    Attributes
    ----------
    first_sample : int
        Absolute index at 16 kHz of the first of them.
    samples : ndarray of float32, shape (n_samples,)
        Mono at 16 kHz, full scale 1.0, all finite; the receiver owns them.
    captured_s : float or None
        ``time.monotonic()`` at which the sample after the last one was captured; None for what is read faster
        than real time.
    """

    first_sample: int
    samples: NDArray[np.float32]
    captured_s: float | None


class Hole(NamedTuple):
    """Samples were lost.

    Attributes
    ----------
    phase : {'start', 'end'}
        Every start is followed by its end before the next start.
    cause : str
        See :class:`serstream.events.Gap`.
    first_sample : int
        At the start the first index that is lost, at the end the first index that is there again.
    lost_samples : int
        Samples lost at 16 kHz: 0 at a start whose extent is not known yet, else the same at both. With the
        cause ``non_finite`` they are replaced by 0 instead, and the index does not move.
    estimated : bool
        Whether the count was derived from the clock instead of counted.
    """

    phase: Literal["start", "end"]
    cause: Cause
    first_sample: int
    lost_samples: int
    estimated: bool


class Slot(IntEnum):
    """Places in the header: 64-bit integers; the reader writes READ and OVERRUNS, the writer all others.

    WRITE: samples written. CLAIM: samples written or being written. READ: index of the next sample to read.
    OVERRUNS: samples that the reader lost. OVERFLOW_EVENTS, OVERFLOW_SAMPLES, OVERFLOW_AT: how often the
    device lost samples, how many (estimated, at the rate of the ring), and the index behind which it last
    happened. NON_FINITE: samples replaced by 0. CALLBACKS: callbacks so far. HEARTBEAT_NS: monotonic time of
    the last. ORIGIN_NS: monotonic time at which the sample of index 0 was captured. RATE: of the ring, in Hz.
    FAULT: 1 + its place in ``FAULTS``, 0 for none. RATE_UHZ: what RATE is by the system's clock, in millionths of a
    hertz, 0 until that was measured.
    """

    WRITE = 0
    CLAIM = 1
    READ = 2
    OVERRUNS = 3
    OVERFLOW_EVENTS = 4
    OVERFLOW_SAMPLES = 5
    OVERFLOW_AT = 6
    NON_FINITE = 7
    CALLBACKS = 8
    HEARTBEAT_NS = 9
    ORIGIN_NS = 10
    RATE = 11
    FAULT = 12
    RATE_UHZ = 13


class Fence:
    """Keep what is stored or loaded before the call before what is stored or loaded after it.

    x86-64 keeps stores in order by itself; aarch64 does not, and Python has no fence. Releasing a lock lets
    nothing sink below it and acquiring one lets nothing rise above it, so passing two locks, one after the
    other, closes both ways: a store may slip into the first critical section, and one into the second, but
    never past each other.
    """

    __slots__ = ("_first", "_second")

    def __init__(self) -> None:
        self._first = threading.Lock()
        self._second = threading.Lock()

    def __call__(self) -> None:
        """Pass both locks; they are never contended."""
        self._first.acquire()
        self._first.release()
        self._second.acquire()
        self._second.release()


class SampleRing:
    """Preallocated single-producer, single-consumer ring of float32 samples over shared memory.

    :meth:`write` is called from one thread of one process, :meth:`read` from one thread of one process;
    everything else may be called from either. The file descriptor ``fd`` is what the other process attaches
    to.

    Attributes
    ----------
    fd : int
        Descriptor of the memory; owned and closed by the ring, and then -1.
    capacity : int
        Samples that the ring holds.
    keep : int
        Newest samples that the reader keeps when it was overrun, at most half the capacity.
    header : memoryview of int64
        The counters, see :class:`Slot`.
    """

    def __init__(self, fd: int, *, keep: int = 0) -> None:
        self.fd = fd
        size = os.fstat(fd).st_size
        self.capacity = (size - _HEADER_BYTES) // _SAMPLE_BYTES
        self.keep = min(keep, self.capacity // 2)
        self._memory = mmap.mmap(fd, size)
        self._whole = memoryview(self._memory)
        self.header = self._whole[:_HEADER_BYTES].cast("q")
        self._samples: NDArray[np.float32] = np.frombuffer(self._whole[_HEADER_BYTES:], np.float32)
        self._fence = Fence()

    @classmethod
    def create(cls, capacity: int, rate: int, *, keep: int = 0) -> SampleRing:
        """Allocate a ring of ``capacity`` (at least 2) samples at ``rate`` Hz."""
        fd = os.memfd_create("serstream-ring")
        os.ftruncate(fd, _HEADER_BYTES + capacity * _SAMPLE_BYTES)
        ring = cls(fd, keep=keep)
        ring.header[Slot.RATE] = rate
        return ring

    @property
    def backlog(self) -> int:
        """Samples written and neither read nor counted as lost."""
        return self.header[Slot.WRITE] - self.header[Slot.READ]

    def captured_s(self, index: int) -> float:
        """Return the monotonic time in seconds at which the sample of this index was captured."""
        return self.header[Slot.ORIGIN_NS] / 1e9 + index / self.header[Slot.RATE]

    @property
    def drift_ppm(self) -> float | None:
        """How much faster the device's clock is than the system's, in millionths; None until that was measured."""
        measured = self.header[Slot.RATE_UHZ]
        return measured / self.header[Slot.RATE] - 1e6 if measured else None

    def fence(self) -> None:
        """Keep the order of what is written to the header before and after the call."""
        self._fence()

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append samples, over the oldest ones when the reader is late; never waits. Called by the writer."""
        # claiming half the ring at most leaves the reader something to jump to, even if the writer dies in it
        piece = self.capacity // 2
        for begin in range(0, samples.size, piece):
            self._write_piece(samples[begin : begin + piece])

    def _write_piece(self, samples: NDArray[np.float32]) -> None:
        start = self.header[Slot.WRITE]
        self.header[Slot.CLAIM] = start + samples.size
        self._fence()
        at = start % self.capacity
        head = min(samples.size, self.capacity - at)
        self._samples[at : at + head] = samples[:head]
        self._samples[: samples.size - head] = samples[head:]
        self._fence()
        self.header[Slot.WRITE] = start + samples.size

    def read(self, limit: int) -> tuple[int, NDArray[np.float32]]:
        """Copy out the oldest samples that are there; never waits. Called by the reader.

        Samples that were overwritten before or while they were copied are counted in ``Slot.OVERRUNS``
        together with those that the jump to the newest ``keep`` samples passes over.

        Parameters
        ----------
        limit : int
            Samples to return at most.

        Returns
        -------
        first : int
            Absolute index of the first sample returned: larger than the end of the last read by what was
            lost.
        samples : ndarray of float32, shape (n_samples,)
            Empty when there is nothing new.
        """
        while True:
            start = self.header[Slot.READ]
            available = self.header[Slot.WRITE] - start
            self._fence()
            block = self._copy(start, min(available, limit, self.capacity))
            self._fence()
            if self.header[Slot.CLAIM] - start <= self.capacity:
                self.header[Slot.READ] = start + block.size
                return start, block
            self._jump(start)

    def _copy(self, start: int, n_samples: int) -> NDArray[np.float32]:
        at = start % self.capacity
        block = np.empty(n_samples, np.float32)
        head = min(n_samples, self.capacity - at)
        block[:head] = self._samples[at : at + head]
        block[head:] = self._samples[: n_samples - head]
        return block

    def _jump(self, start: int) -> None:
        newest = self.header[Slot.WRITE] - self.keep
        self.header[Slot.OVERRUNS] += newest - start
        self.header[Slot.READ] = newest

    def close(self) -> None:
        """Release the memory and the descriptor; calling it again does nothing."""
        if self.fd < 0:
            return
        del self._samples
        self.header.release()
        self._whole.release()
        self._memory.close()
        os.close(self.fd)
        self.fd = -1
