"""The durable memory of events: taken at once, written in batches on a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from serstream.config import JournalConfig
from serstream.errors import DamagedJournalError, JournalError, SerstreamError
from serstream.events import AnyEvent, Health
from serstream.history import Request
from serstream.journal_file import SLICE_EVENTS, Entry, JournalFile, drop_aside, own_path, set_aside
from serstream.journal_reader import JournalReader

QUEUED_EVENTS = 10_000
"""Most events that wait for the disk; what does not fit is counted."""
RETAIN_S = 60.0
"""How often what is too old is looked for while nothing is written."""
CLOSE_LIMIT_S = 2.0

_log = logging.getLogger(__name__)


class Journal:
    """Keeps events on disk, for one session; what the disk does not take waits in memory.

    Making it opens the file; :meth:`close` writes what is left. A full disk, or a file that was removed, is tried again
    with every batch; a damaged file is set aside and a new one begun.

    Parameters
    ----------
    config : JournalConfig
    session : str
        UUID of this start of the daemon.

    Raises
    ------
    ConfigError
        If there can be no journal at its path.
    """

    def __init__(self, config: JournalConfig, session: str) -> None:
        self.path = own_path() if config.path is None else Path(os.path.expanduser(config.path))
        self._config, self._session = config, session
        self._types = {"emotion", "speech", "gap"} | {kind for kind in ("posterior", "health") if getattr(config, kind)}
        self._waiting: deque[tuple[AnyEvent, bytes]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._trouble: str | None = None
        self._written = self._dropped = self._told = 0
        self._unchecked = True
        self._retain_due_s = 0.0
        self._file: JournalFile | None = None
        try:
            self._open()
        except JournalError as error:
            self._degrade(error)
        self._thread = threading.Thread(target=self._run, name="serstream-journal", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether events are being written, or tried to be."""
        return self._thread.is_alive()

    @property
    def degraded(self) -> bool:
        """Whether events wait in memory because the disk does not take them."""
        return self._trouble is not None

    def add(self, event: AnyEvent, body: bytes) -> None:
        """Take an event as it was published, with its JSON; called from any thread, and never waits for the disk."""
        if event.type not in self._types:
            return
        with self._changed:
            if len(self._waiting) >= QUEUED_EVENTS:
                self._dropped += 1
                return
            self._waiting.append((event, body))
            if len(self._waiting) == SLICE_EVENTS:
                self._changed.notify()

    def page(self, request: Request) -> tuple[list[bytes], bool]:
        """Return what there is of a page of this session, as :class:`Recorder` says; called from any thread."""
        with self._changed:  # before the file: what is written meanwhile is then in both, not in neither
            waiting = [body for event, body in self._waiting if request.covers(event.topic, event.seq)]
        try:
            with JournalReader(self.path) as reader:
                written, more = reader.page(request, self._session)
        except SerstreamError as error:
            _log.warning("a replay goes without the journal: %s", error)
            return waiting, False
        return written + waiting, more

    def mark(self, health: Health) -> Health:
        """Return a health event that tells of the journal, too."""
        counters = health.counters | {"journal_dropped": self._dropped}
        return msgspec.structs.replace(health, counters=counters, degraded=health.degraded or self.degraded)

    def status(self) -> dict[str, Any]:
        """Return how the journal is; events are counted since the start."""
        file = self._file
        return {
            "path": str(self.path),
            "degraded": self.degraded,
            "trouble": self._trouble,
            "written": self._written,
            "waiting": len(self._waiting),
            "dropped": self._dropped,
            "size_bytes": 0 if file is None else file.size_bytes,
        }

    def close(self, limit_s: float = CLOSE_LIMIT_S) -> None:
        """Write what is left, for so many seconds at most."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(limit_s)
        if lost := len(self._waiting) + self._dropped:
            _log.error("journal %s: %d events of this session were not written", self.path, lost)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            with self._changed:
                self._changed.wait_for(self._is_due, self._config.batch_s)
                stopping = self._stopping
            self._turn()
        self._close_file()

    def _is_due(self) -> bool:
        return self._stopping or (not self.degraded and len(self._waiting) >= SLICE_EVENTS)

    def _turn(self) -> None:
        """Open the file if it is not, and write all that waits."""
        try:
            try:
                self._serve(self._file or self._open())
            except DamagedJournalError as error:
                self._close_file()
                self._set_aside(error)
        except SerstreamError as error:
            self._close_file()
            self._degrade(error)
        else:
            self._recover()

    def _serve(self, file: JournalFile) -> None:
        if self._unchecked and not self._stopping:
            file.check()
            self._unchecked = False
        self._write(file)

    def _open(self) -> JournalFile:
        limits = {"keep_days": self._config.keep_days, "max_mb": self._config.max_mb}
        try:
            file = JournalFile(self.path, **limits)
        except DamagedJournalError as error:
            self._set_aside(error)
            file = JournalFile(self.path, **limits)
        self._file = file
        return file

    def _write(self, file: JournalFile) -> None:
        if time.monotonic() >= self._retain_due_s:
            self._retain(file)
        while batch := self._batch():
            file.write([_entry(event, body) for event, body in batch])
            with self._changed:
                for _ in batch:
                    self._waiting.popleft()
                self._written += len(batch)
            self._retain(file)

    def _retain(self, file: JournalFile) -> None:
        now_s = time.time()
        file.retain(now_s)
        drop_aside(self.path, now_s - self._config.keep_days * 86_400)
        self._retain_due_s = time.monotonic() + RETAIN_S

    def _batch(self) -> list[tuple[AnyEvent, bytes]]:
        with self._changed:
            return list(islice(self._waiting, SLICE_EVENTS))

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _degrade(self, error: SerstreamError) -> None:
        """Go on in memory, and say so once."""
        if self._trouble is None:
            _log.error("%s; up to %d events wait in memory until it can be written again", error, QUEUED_EVENTS)
        self._trouble = str(error)

    def _recover(self) -> None:
        new = self._dropped - self._told
        if self._trouble is not None or new:
            _log.warning("journal %s is written again; %d events did not fit meanwhile", self.path, new)
        self._trouble, self._told = None, self._dropped

    def _set_aside(self, error: DamagedJournalError) -> None:
        try:
            aside = set_aside(self.path)
        except OSError as refusal:
            raise JournalError(f"{error} and cannot be set aside: {refusal.strerror}") from refusal
        self._unchecked = False
        _log.error("%s; it was set aside as %s, and a new one is begun", error, aside)


def _entry(event: AnyEvent, body: bytes) -> Entry:
    time_ms = round(datetime.fromisoformat(event.time).timestamp() * 1e3)
    return Entry(time_ms, event.session, event.topic, event.seq, body.decode())
