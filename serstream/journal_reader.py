"""What a journal holds, asked while a daemon writes it: a page for a replay, or events by time."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from serstream.errors import ConfigError
from serstream.events import TOPIC_PREFIX
from serstream.history import PAGE_EVENTS, Request
from serstream.journal_file import check_version, journal_error


class Wanted(NamedTuple):
    """Which events are asked for: None, or no types, for all; times in milliseconds since 1970, ``until_ms`` excluded.

    With a ``limit`` the newest so many.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    source: str | None = None
    types: Collection[str] = ()
    session: str | None = None
    limit: int | None = None


class JournalReader:
    """A journal opened for reading: a context manager, used by one thread.

    No query is left open between two pages, so that a slow reader never keeps the write-ahead log from being cleared.

    Raises
    ------
    ConfigError
        If there is no journal at this path, or a newer serstream has written it.
    DamagedJournalError
        If the file is damaged.
    JournalError
        If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not os.path.isfile(path):
            raise ConfigError(
                f"there is no journal at {path} that this user can see; name it with --journal, or let the daemon keep "
                "one: `journal: {}` in its configuration"
            )
        with self._said():
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            with self._said():
                check_version(self._db, path)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def page(self, request: Request, session: str) -> tuple[list[bytes], bool]:
        """Return up to 500 events that a ``replay`` request asks for, as :meth:`History.page` does."""
        last = request.to_seq or 2**63 - 1
        found: list[bytes] = []
        if request.topic is not None and request.names(request.topic):
            found += self._replayed("topic = ? AND seq >= ?", session, last, request.topic, request.from_seq)
        if request.source is not None:
            low = f"{TOPIC_PREFIX}{request.source}."
            first = request.from_seq if request.topic is None else 1
            begin, end = max(low, request.topic or ""), f"{low[:-1]}/"
            found += self._replayed("topic > ? AND topic < ? AND seq >= ?", session, last, begin, end, first)
        return found[:PAGE_EVENTS], len(found) > PAGE_EVENTS

    def _replayed(self, which: str, session: str, last: int, *values: Any) -> list[bytes]:
        query = f"SELECT body FROM events WHERE session = ? AND seq <= ? AND {which} ORDER BY topic, seq LIMIT ?"
        rows = self._all(query, session, last, *values, PAGE_EVENTS + 1)
        return [body.encode() for (body,) in rows]

    def events(self, wanted: Wanted) -> Iterator[bytes]:
        """Yield the JSON of the events that are wanted, by their time."""
        which, values = _conditions(wanted)
        at = (-(2**63), 0)
        if wanted.limit is not None:
            query = f"SELECT time_ms, id FROM events WHERE {which} ORDER BY time_ms DESC, id DESC LIMIT 1 OFFSET ?"
            first = self._all(query, *values, wanted.limit)
            at = first[0] if first else at
        which += " AND (time_ms, id) > (?, ?)"
        query = f"SELECT time_ms, id, body FROM events WHERE {which} ORDER BY time_ms, id LIMIT ?"
        while rows := self._all(query, *values, *at, PAGE_EVENTS):
            yield from (body.encode() for _, _, body in rows)
            at = rows[-1][:2]

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._said():
            return self._db.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise journal_error(self._path, error) from error


def _conditions(wanted: Wanted) -> tuple[str, list[Any]]:
    """Return what stands behind WHERE, and its values."""
    found: list[tuple[str, list[Any]]] = [("1", [])]
    if wanted.since_ms is not None:
        found.append(("time_ms >= ?", [wanted.since_ms]))
    if wanted.until_ms is not None:
        found.append(("time_ms < ?", [wanted.until_ms]))
    if wanted.session is not None:
        found.append(("session = ?", [wanted.session]))
    if wanted.source is not None:
        topic = f"{TOPIC_PREFIX}{wanted.source}"
        found.append(("topic > ? AND topic < ?", [f"{topic}.", f"{topic}/"]))
    if wanted.types:
        found.append((f"({' OR '.join(['topic GLOB ?'] * len(wanted.types))})", [f"*.{t}" for t in wanted.types]))
    return " AND ".join(text for text, _ in found), [value for _, values in found for value in values]
