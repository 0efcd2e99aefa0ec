"""Events to keep, and what a journal has of them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from uuid import uuid4

from serstream_process import LIMIT_S

from serstream.config import JournalConfig
from serstream.events import AnyEvent, Emotion, Posterior, decode_json
from serstream.journal import Journal
from serstream.journal_reader import JournalReader, Wanted
from serstream.publisher import Publisher

TIME = "2026-01-01T00:00:00.000Z"


class Kept:
    """A publisher whose events go into a journal: a context manager."""

    def __init__(self, path: Path, *, replay_s: float = 600.0, **config: object) -> None:
        self.session = str(uuid4())
        settings = {"path": str(path), "batch_s": 0.1, "keep_days": 36_500.0} | config
        self.journal = Journal(JournalConfig(**settings), self.session)
        self.publisher = Publisher(
            f"ipc://{path}.events",
            f"ipc://{path}.control",
            session=self.session,
            recorder=self.journal,
            replay_s=replay_s,
        )

    def emotion(self, source: str = "mic", time: str = TIME, **changes: object) -> AnyEvent:
        fields = {"phase": "update", "id": 1, "label": "happy", "probability": 0.7, "start_s": 0.5} | changes
        fields |= {"source": source, "session": self.session, "sample": 16_000, "stream_s": 1.0}
        return self.publisher.publish(Emotion(**fields), time=time, latency_s=0.1)

    def posterior(self) -> AnyEvent:
        silent = {"posterior": None, "other": None, "voice": None, "speech": 0.0, "level_dbfs": -60.0}
        where = {"source": "mic", "session": self.session, "sample": 0, "stream_s": 0.0}
        return self.publisher.publish(Posterior(**where, **silent, state="no_speech"), time=TIME, latency_s=0.1)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.publisher.close()
        self.journal.close(LIMIT_S)


def held(path: Path, **wanted: object) -> list[AnyEvent]:
    """Return the events of a journal."""
    with JournalReader(path) as reader:
        return [decode_json(body) for body in reader.events(Wanted(**wanted))]


def seqs(path: Path) -> dict[str, list[int]]:
    """Return the sequence numbers of each session, after every page and index was found whole."""
    db = sqlite3.connect(path)
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found: dict[str, list[int]] = {}
        for session, seq in db.execute("SELECT session, seq FROM events ORDER BY id"):
            found.setdefault(session, []).append(seq)
        return found
    finally:
        db.close()
