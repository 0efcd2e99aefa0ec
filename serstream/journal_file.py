"""The journal on disk: one SQLite file, made, checked, written, and kept within its age and size."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from serstream.errors import ConfigError, DamagedJournalError, JournalError

APPLICATION_ID = 0x5345_5253
"""What a file carries that is a journal and no other database: SERS."""
SCHEMA_VERSION = 1
MACHINES = Path("/var/lib/serstream/journal/events.db")

SLICE_EVENTS = 500
"""Most events in one transaction, so that the write-ahead log stays short."""
LOG_BYTES = 2_000_000
"""Room left for the write-ahead log, which is moved into the file whenever it holds ``LOG_PAGES``."""
LOG_PAGES = 256
FREE_PAGES = 64
"""So many empty pages may wait for new events; more are given back to the file system."""

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PASSES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What may be otherwise a moment later; all else that the system refuses is a mistake in the configuration."""

_TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    session TEXT NOT NULL,
    topic TEXT NOT NULL,
    seq INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (session, topic, seq)
);
CREATE INDEX events_by_time ON events (time_ms);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class Entry(NamedTuple):
    """An event as it is kept: capture time in milliseconds since 1970 UTC, and its JSON object."""

    time_ms: int
    session: str
    topic: str
    seq: int
    body: str


def own_path() -> Path:
    """Return where a journal is, or will be, that names no path: in the state folder of a service, or the user's."""
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.partition(":")[0], "journal", "events.db")
    home = os.path.expanduser("~")  # stays so for a user without one
    data = os.environ.get("XDG_DATA_HOME") or ("" if home == "~" else f"{home}/.local/share")
    return Path(data, "serstream", "journal", "events.db") if data else MACHINES


def find_path(named: str | None) -> Path:
    """Return where the journal is that a configuration names, or names no path for: the user's, or the machine's."""
    if named is not None:
        return Path(os.path.expanduser(named))
    own = own_path()
    return MACHINES if not os.path.exists(own) and os.path.exists(MACHINES) else own


class JournalFile:
    """An open journal. Used by one thread at a time.

    Every commit is on the disk before it is told of (``synchronous=FULL``): in WAL mode NORMAL, too, would keep the
    file whole through a loss of power, but not what was committed since the last checkpoint.

    Parameters
    ----------
    path : Path
        Made if it is missing: the file for its owner alone (0600), its folder too (0700).
    keep_days : float
        Events older than so many days are removed.
    max_mb : float
        Most megabytes (10^6 bytes) on disk, with the write-ahead log; the oldest events are removed.

    Raises
    ------
    ConfigError
        If there can be no journal at this path, or a newer serstream has written it.
    DamagedJournalError
        If the file is damaged.
    JournalError
        If it cannot be opened now, for want of room for instance.
    """

    def __init__(self, path: Path, *, keep_days: float, max_mb: float) -> None:
        self.path = path
        self._keep_ms = keep_days * 86_400e3
        self._limit = int(max_mb * 1e6) - LOG_BYTES
        self._inode = _make_private(path)
        with _said(path):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with _said(path):
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        empty = self._pragma("schema_version") == 0
        if empty:
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or never
        else:
            check_version(self._db, self.path)
        for setting in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = ON",
            f"wal_autocheckpoint = {LOG_PAGES}",
            f"journal_size_limit = {LOG_BYTES // 2}",
        ):
            self._db.execute(f"PRAGMA {setting}").fetchall()
        if empty:
            self._db.executescript(_TABLES)

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @property
    def size_bytes(self) -> int:
        """What the file and its write-ahead log take on disk."""
        total = 0
        for part in (self.path, _beside(self.path, "-wal")):
            with contextlib.suppress(OSError):
                total += part.stat().st_size
        return total

    def check(self) -> None:
        """Read the whole file; raise :class:`DamagedJournalError` if it does not hold together."""
        with _said(self.path):
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise DamagedJournalError(f"journal {self.path} is damaged ({found.splitlines()[-1]})")

    def write(self, entries: Sequence[Entry]) -> None:
        """Write events, all or none; when this returns they are on the disk."""
        self._check_there()
        with _said(self.path), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            # IGNORE: of a commit that failed it is not known whether it is on the disk after all
            self._db.executemany("INSERT OR IGNORE INTO events VALUES (NULL, ?, ?, ?, ?, ?)", entries)

    def retain(self, now_s: float) -> None:
        """Remove what is too old at a time in seconds since 1970, then the oldest until the file is small enough."""
        with _said(self.path):
            old = "SELECT id FROM events WHERE time_ms < ? LIMIT ?"
            while self._remove(f"id IN ({old})", now_s * 1e3 - self._keep_ms, SLICE_EVENTS) == SLICE_EVENTS:
                pass
            while self._is_too_large() and self._remove("id < (SELECT min(id) FROM events) + ?", SLICE_EVENTS // 5):
                pass
            if self._pragma("freelist_count") > FREE_PAGES:
                self._vacuum()

    def _remove(self, which: str, *values: float) -> int:
        return self._db.execute(f"DELETE FROM events WHERE {which}", values).rowcount

    def _is_too_large(self) -> bool:
        if self._bytes() > self._limit:
            self._vacuum()
        return self._bytes() > self._limit

    def _bytes(self) -> int:
        return self._pragma("page_count") * self._pragma("page_size")

    def _vacuum(self) -> None:
        while self._pragma("freelist_count"):
            self._db.execute(f"PRAGMA incremental_vacuum({FREE_PAGES})").fetchall()

    def _check_there(self) -> None:
        """Refuse to write into a file that was removed or replaced: nobody would find it there."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                return
        raise JournalError(f"journal {self.path} was removed or replaced")

    def close(self) -> None:
        """Close the file, the write-ahead log moved into it."""
        self._db.close()


def check_version(db: sqlite3.Connection, path: Path) -> None:
    """Raise :class:`ConfigError` if an open database is no journal, or one that this version does not know."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise ConfigError(f"{path} is a database, but no journal; name another path for the journal")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"journal {path} was written by a newer serstream (schema {version}, this one knows {SCHEMA_VERSION}); "
            "install that one, or name another path for the journal"
        )


def set_aside(path: Path) -> Path:
    """Move a damaged journal and its write-ahead log away, over one set aside before; return where it is."""
    aside = _beside(path, ".damaged")
    for suffix in ("-wal", ""):
        _beside(aside, suffix).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(_beside(path, suffix), _beside(aside, suffix))
    _beside(path, "-shm").unlink(missing_ok=True)
    return aside


def drop_aside(path: Path, older_than_s: float) -> None:
    """Remove what :func:`set_aside` has left, if it was last written before a time in seconds since 1970."""
    aside = _beside(path, ".damaged")
    with contextlib.suppress(OSError):
        if aside.stat().st_mtime < older_than_s:
            _beside(aside, "-wal").unlink(missing_ok=True)
            aside.unlink()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _make_private(path: Path) -> int:
    """Make the file, unless it is there, for its owner's eyes alone; return its inode."""
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:  # a NUL in the path
        kind = JournalError if getattr(error, "errno", None) in _PASSES else ConfigError
        raise kind(
            f"journal {path} cannot be written: {getattr(error, 'strerror', error)}; make room or rights there, "
            "or name another path for the journal"
        ) from error


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into a sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise journal_error(path, error) from error


def journal_error(path: Path, error: sqlite3.Error) -> JournalError:
    """Return what SQLite says of a journal as an error of ours."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
        return DamagedJournalError(f"journal {path} is damaged ({error})")
    return JournalError(f"journal {path} cannot be used now ({error})")
