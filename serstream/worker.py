"""A thread that hears any number of streams, and lets them ask the network together."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from serstream.batch import together
from serstream.errors import SerstreamError
from serstream.network import Network
from serstream.ring import Block, Hole
from serstream.stream import Stream

READ_TIMEOUT_S = 0.2
"""So long a source that is alone is waited for at a time."""
LOOK_S = 0.5
"""Sources that call are looked at so often all the same: that nobody sends, nobody calls for."""
POLL_S = 0.005
"""Where nobody can wait for one source alone, those that do not call are looked at so often."""
GATHER_S = 0.02
"""Where all call, what comes within this time is heard together: that costs each of them less."""

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Worker:
    """Owns streams that share a network, and the thread that hears them.

    Parameters
    ----------
    streams : sequence of Stream
        At least one; their pipelines share ``network``.
    network : Network
    on_progress : callable
        Called with the id of a source, from the worker's thread, whenever the loop did what it owes to it.
    on_end : callable
        Called, from the worker's thread, when a source has ended or failed.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        network: Network,
        *,
        on_progress: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        self._streams, self._network = list(streams), network
        self._on_progress, self._on_end = on_progress, on_end
        self._ended: set[str] = set()
        self._called: set[Stream] = set()
        self._polled: set[Stream] = set()
        self._all_s = -math.inf
        self._thread = threading.Thread(target=self._run, name="serstream-analysis", daemon=True)
        self._stop = threading.Event()

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

    def has_ended(self, source_id: str) -> bool:
        """Whether a source is over, with every event published; called from any thread."""
        return source_id in self._ended

    def _run(self) -> None:
        try:
            for stream in list(self._streams):
                if not stream.source.call(partial(self._called.add, stream)):
                    self._polled.add(stream)
                self._try(stream, stream.source.open)
            self._serve()
            self._drain()
        except Exception as error:
            _log.exception("analysis failed")
            for stream in self._streams:
                stream.error = error
        finally:
            for stream in list(self._streams):
                self._let_go(stream)

    def _serve(self) -> None:
        while self._streams and not self._stop.is_set():
            if len(self._streams) == 1:
                self._turn(self._streams, READ_TIMEOUT_S)
            else:
                self._gather()

    def _gather(self) -> None:
        """Hear what has come, all of it that is not called for if there is time, and let more come together."""
        now_s = time.monotonic()
        until_s = now_s + (POLL_S if self._polled else GATHER_S)
        came = self._polled.intersection(self._turn(self._due(now_s), 0.0))
        while came and time.monotonic() < until_s:
            came = self._polled.intersection(self._turn(came, 0.0))
        if not came:
            self._stop.wait(until_s - time.monotonic())

    def _due(self, now_s: float) -> Iterable[Stream]:
        """Return the streams to look at: those that called and those that never do, and now and then all."""
        called = [self._called.pop() for _ in range(len(self._called))]
        if now_s - self._all_s < LOOK_S:
            return self._polled.union(called)
        self._all_s = now_s
        return self._streams

    def _drain(self) -> None:
        """Analyse what was captured before the end, then close what is open."""
        for stream in self._streams:
            stream.hurry()
        deadline_s = time.monotonic() + READ_TIMEOUT_S
        while time.monotonic() < deadline_s and self._turn(self._streams, 0.0):
            pass
        for stream in list(self._streams):
            stream.finish()

    def _turn(self, streams: Iterable[Stream], timeout_s: float) -> list[Stream]:
        """Read sources once, hear together what came, and say that the loop goes round; return whose sources those are.

        A read that brought nothing in time is no fault of the loop: whether a device is deaf is the source's to notice.
        """
        left = [stream for stream in streams if not self.has_ended(stream.source_id)]
        came = [(stream, item) for stream in left if (item := self._read(stream, timeout_s))]
        self._hear([(stream, item) for stream, item in came if isinstance(item, Block)])
        return [stream for stream, _ in came]

    def _read(self, stream: Stream, timeout_s: float) -> Block | Hole | None:
        item = self._try(stream, lambda: stream.read(timeout_s))
        if item is None and not self.has_ended(stream.source_id) and stream.source.ended:
            stream.finish()
            self._let_go(stream)
        self._on_progress(stream.source_id)
        return item

    def _hear(self, blocks: list[tuple[Stream, Block]]) -> None:
        if not blocks:
            return
        started_s = time.monotonic()
        heard = together(self._network, [stream.hear(block) for stream, block in blocks])
        busy_s = (time.monotonic() - started_s) / len(blocks)
        for (stream, block), events in zip(blocks, heard, strict=True):
            stream.tell(events, block.samples.size, busy_s)

    def _try(self, stream: Stream, action: Callable[[], Result]) -> Result | None:
        """Do what may fail; a source that does is over."""
        try:
            return action()
        except SerstreamError as error:
            stream.error = error
            self._let_go(stream)
            return None

    def _let_go(self, stream: Stream) -> None:
        stream.close()
        self._streams.remove(stream)
        self._polled.discard(stream)
        self._ended.add(stream.source_id)
        self._on_end()
