"""``serstream send``: a source is read here and heard by a daemon elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serstream.audio import Outlet
from serstream.clock import LEAST_SLEEP_S, slept_s
from serstream.config import SAMPLE_RATE
from serstream.signals import noted
from serstream.sources import Block, Source

POLL_S = 0.2
PACKET_S = 0.25
"""Longest packet that is sent; a shorter block is a packet of its own."""
AHEAD_S = 2.0
"""What does not come in real time is sent so far ahead of it, and no further: at the other end it is heard as live."""
SILENCE_S = 3.0
"""When nobody has taken anything for so long, that is said."""
END_LIMIT_S = 1.0
LINGER_S = 5.0

_log = logging.getLogger(__name__)


class Sending:
    """Sends a source until it ends or a signal asks for the end.

    A source that waits loses nothing but what is on its way when a connection breaks. What a live one brings while
    nobody takes it is dropped. The index tells the other end of either.

    Parameters
    ----------
    source : Source
    outlet : Outlet
    live : bool
        Whether the source does not wait.
    slept_s : callable
        As :func:`serstream.clock.slept_s`.

    Attributes
    ----------
    sent_s, dropped_s : float
        Seconds of sound.
    """

    def __init__(self, source: Source, outlet: Outlet, *, live: bool, slept_s: Callable[[], float] = slept_s) -> None:
        self._sent = self._dropped = 0
        self._source, self._outlet, self._live = source, outlet, live
        self._slept_s, self._known_sleep_s = slept_s, slept_s()
        self._asked: list[int] = []
        self._next = 0
        self._due_s = 0.0
        self._failing_s: float | None = None
        self._complained = False

    @property
    def sent_s(self) -> float:
        return self._sent / SAMPLE_RATE

    @property
    def dropped_s(self) -> float:
        return self._dropped / SAMPLE_RATE

    def run(self) -> None:
        """Send; called from the main thread.

        Raises
        ------
        SourceError
            If the source fails.
        """
        with noted() as self._asked:
            try:
                if self._await(self._outlet.ready):
                    _log.info("sending to %s as stream %s", self._outlet.endpoint, self._outlet.stream)
                    self._send_source()
            finally:
                self._outlet.close(END_LIMIT_S if self._asked else LINGER_S)

    def _send_source(self) -> None:
        """Read the source to its end; it is not opened, and no microphone is on, before there is anybody to hear it."""
        try:
            self._source.open()
            while not (self._source.ended or self._asked):
                item = self._source.read(POLL_S)
                if isinstance(item, Block):
                    self._send_block(item)
        finally:
            self._source.close()
            if self._next:
                self._outlet.end(self._next, END_LIMIT_S)

    def _send_block(self, block: Block) -> None:
        if self._live and self._slept_s() - self._known_sleep_s > LEAST_SLEEP_S:
            self._known_sleep_s = self._slept_s()
            self._outlet.begin()  # the index has not counted that time: the other end's clock has
        n_packet = round(PACKET_S * SAMPLE_RATE)
        for at in range(0, block.samples.size, n_packet):
            self._send(block.first_sample + at, block.samples[at : at + n_packet])

    def _send(self, first: int, samples: NDArray[np.float32]) -> None:
        def attempt(timeout_s: float) -> bool:
            return self._outlet.send(first, samples, timeout_s)

        if not self._live:
            self._pace(samples.size)
        taken = self._try(attempt, 0.0) if self._live else self._await(attempt)
        if taken:
            self._sent += samples.size
        elif self._live:
            self._dropped += samples.size
        else:
            return
        self._next = first + samples.size

    def _pace(self, n_samples: int) -> None:
        self._due_s = max(self._due_s, time.monotonic() - AHEAD_S)
        while (wait_s := self._due_s - time.monotonic()) > 0.0 and not self._asked:
            time.sleep(min(wait_s, POLL_S))
        self._due_s += n_samples / SAMPLE_RATE

    def _await(self, attempt: Callable[[float], bool]) -> bool:
        """Try until it works; False if the end was asked for before."""
        while not self._asked:
            if self._try(attempt, POLL_S):
                return True
        return False

    def _try(self, attempt: Callable[[float], bool], timeout_s: float) -> bool:
        begin_s = time.monotonic()
        if attempt(timeout_s):
            if self._complained:
                _log.warning("%s takes sound again; %.1f s were dropped so far", self._outlet.endpoint, self.dropped_s)
            self._failing_s, self._complained = None, False
            return True
        if self._failing_s is None:
            self._failing_s = begin_s
        if not self._complained and time.monotonic() - self._failing_s > SILENCE_S:
            self._complained = True
            _log.warning(
                "nobody takes sound at %s; is a serstream with transport.audio running there? I go on trying",
                self._outlet.endpoint,
            )
        return False
