"""A thread that hears any number of streams, and lets them ask the network together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from serstream.batch import together
from serstream.errors import SerstreamError
from serstream.network import Network
from serstream.ring import Block, Hole
from serstream.stream import Stream

READ_TIMEOUT_S = 0.2
POLL_S = 0.005
"""Where nobody can wait for one source alone, all are looked at so often."""

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
            alone = len(self._streams) == 1
            if not self._turn(READ_TIMEOUT_S if alone else 0.0) and not alone:
                self._stop.wait(POLL_S)

    def _drain(self) -> None:
        """Analyse what was captured before the end, then close what is open."""
        deadline_s = time.monotonic() + READ_TIMEOUT_S
        while time.monotonic() < deadline_s and self._turn(0.0):
            pass
        for stream in list(self._streams):
            stream.finish()

    def _turn(self, timeout_s: float) -> bool:
        """Read every source once, hear together what came, and say that the loop goes round; False if nothing came.

        A read that brought nothing in time is no fault of the loop: whether a device is deaf is the source's to notice.
        """
        came = [(stream, item) for stream in list(self._streams) if (item := self._read(stream, timeout_s))]
        self._hear([(stream, item) for stream, item in came if isinstance(item, Block)])
        return bool(came)

    def _read(self, stream: Stream, timeout_s: float) -> Block | Hole | None:
        item = self._try(stream, lambda: stream.read(timeout_s))
        if item is None and stream in self._streams and stream.source.ended:
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
        self._ended.add(stream.source_id)
        self._on_end()
