"""The journal: what it keeps, for how long, and what a full disk, a damaged file or another version do to it."""

from __future__ import annotations

import logging
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from journals import TIME, Kept, held, seqs
from serstream_process import Daemon, Serstream, await_true

from serstream import Emotion, Lost, Subscriber
from serstream.config import JournalConfig
from serstream.errors import ConfigError
from serstream.events import Health
from serstream.history import PAGE_EVENTS, Request
from serstream.journal import QUEUED_EVENTS, Journal
from serstream.journal_file import LOG_BYTES, Entry, JournalFile, own_path, set_aside
from serstream.journal_reader import JournalReader, Wanted
from serstream.transport import request

PATIENCE_S = 10.0
NEWER = "PRAGMA user_version = 2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own" / "events.db"


def entries(first: int, n: int, time_ms: int = 0, session: str = "one") -> list[Entry]:
    return [Entry(time_ms, session, "serstream.v1.mic.emotion", seq, "x" * 400) for seq in range(first, first + n)]


def stored(file: JournalFile) -> list[int]:
    return next(iter(seqs(file.path).values()), [])


def health(kept: Kept) -> Health:
    counted = {"counters": {"captured": 5}, "rtf": 0.1, "latency_p50_s": 0.1, "latency_p99_s": 0.2, "topics": {}}
    where = {"source": "mic", "session": kept.session, "sample": 0, "stream_s": 0.0}
    return kept.journal.mark(Health(**where, **counted, status="running", degraded=False))


# --- what is kept ---------------------------------------------------------------------------------------


def test_events_are_kept_as_they_were_published_when_the_daemon_has_ended(path):
    with Kept(path, batch_s=60.0) as kept:
        published = [kept.emotion(), kept.emotion("porch"), kept.emotion()]
        kept.posterior()
    assert held(path) == published


def test_posteriors_are_kept_where_that_is_asked_for(path):
    with Kept(path, posterior=True) as kept:
        published = kept.posterior()
    assert held(path) == [published]


def test_the_file_and_its_folder_are_its_owners_alone(path):
    path.parent.mkdir(mode=0o755)
    path.touch(0o644)
    with Kept(path) as kept:
        kept.emotion()
        await_true(lambda: kept.journal.status()["written"] == 1)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.glob("events.db*") if file.is_file()}
    assert modes == dict.fromkeys(("events.db", "events.db-wal", "events.db-shm"), 0o600)
    other = path.parent / "new" / "events.db"
    JournalFile(other, keep_days=1, max_mb=4).close()
    assert other.parent.stat().st_mode & 0o777 == 0o700


def test_without_a_path_it_is_in_the_state_folder_of_the_service_else_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert own_path() == tmp_path / "serstream" / "journal" / "events.db"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/serstream:/var/lib/other")
    assert own_path() == Path("/var/lib/serstream/journal/events.db")


def test_every_commit_is_synchronised_with_the_disk(path):
    """Or a loss of power would take what was committed with it."""
    file = JournalFile(path, keep_days=1, max_mb=4)
    file.write(entries(1, 1))
    calls = path.parent / "calls"
    tracer = shutil.which("strace")
    if tracer is None:
        pytest.skip("strace is not installed")
    options = ["-f", "-e", "trace=fdatasync,fsync", "-y", "-o", str(calls), "-p", str(os.getpid())]
    with subprocess.Popen([tracer, *options], stderr=subprocess.PIPE, text=True) as process:
        if "attached" not in (said := process.stderr.readline()):
            pytest.skip(f"strace may not watch this process: {said}")
        for seq in range(2, 5):
            file.write(entries(seq, 1))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    file.close()
    assert calls.read_text().count("events.db-wal>") >= 3


# --- how much ------------------------------------------------------------------------------------------


def test_what_is_too_old_is_removed_and_the_file_shrinks(path):
    file = JournalFile(path, keep_days=1.0, max_mb=100)
    for n in range(20):
        file.write(entries(1 + 500 * n, 500, time_ms=0 if n < 18 else 86_400_001))
    file.retain(86_400.0)  # 1 January 1970 is a day ago, not more
    assert len(stored(file)) == 10_000
    whole = path.stat().st_size
    file.retain(86_400.001)
    file.close()
    assert stored(file) == list(range(9001, 10_001))
    assert path.stat().st_size < whole / 5


def test_the_oldest_are_removed_so_that_it_never_takes_more_than_it_may(path):
    file = JournalFile(path, keep_days=1.0, max_mb=4.0)
    sizes = []
    for n in range(30):
        file.write(entries(1 + 500 * n, 500))
        file.retain(0.0)
        sizes.append(file.size_bytes)
    assert max(sizes) <= 4_000_000
    assert max(sizes) > 4_000_000 - LOG_BYTES
    kept = stored(file)
    file.close()
    assert kept == list(range(kept[0], 15_001))
    assert len(kept) > 1_000


def test_a_reader_that_pauses_between_two_events_does_not_make_the_write_ahead_log_grow(path):
    file = JournalFile(path, keep_days=1.0, max_mb=100)
    body = '{"type":"emotion"}' + " " * 400
    many = [e._replace(body=body) for e in entries(1, 20_000)]
    file.write(many[:500])
    with JournalReader(path) as reader:
        events = reader.events(Wanted())
        next(events)
        for n in range(500, 20_000, 500):
            file.write(many[n : n + 500])
        assert path.with_name("events.db-wal").stat().st_size <= LOG_BYTES
        assert len(list(events)) == 20_000 - 1
    file.close()


# --- replay --------------------------------------------------------------------------------------------


def test_a_replay_longer_than_memory_comes_from_the_journal_in_order_and_page_by_page(path):
    n = 2 * PAGE_EVENTS + 7
    with Kept(path, replay_s=0.0) as kept:
        published = [kept.emotion(source) for _ in range(n) for source in ("mic", "porch")]
        control = kept.publisher.control_endpoint
        await_true(lambda: kept.journal.status()["written"] == 2 * n)
        published += [kept.emotion("mic")]  # which may still wait
        found, first, more = [], 1, True
        while more:
            asked = Request(request="replay", topic=published[0].topic, from_seq=first)
            page, more = kept.publisher._replay(asked)
            assert len(page) <= PAGE_EVENTS
            found += page
            first = page[-1].seq + 1
        whole = request(control, "replay", PATIENCE_S, source="porch", topic=published[1].topic, from_seq=n - 3)
        short = request(control, "replay", PATIENCE_S, source="mic", from_seq=5, to_seq=9)
    assert [e.seq for e in found] == list(range(1, n + 2))
    assert all(e.replayed and e.source == "mic" for e in found)
    assert [e["seq"] for e in whole] == list(range(n - 3, n + 1))
    assert [e["seq"] for e in short] == list(range(5, 10))


def test_what_still_waits_for_the_disk_is_replayed_too(path):
    with Kept(path, replay_s=0.0, batch_s=60.0) as kept:
        for _ in range(5):
            kept.emotion()
        found = request(kept.publisher.control_endpoint, "replay", PATIENCE_S, source="mic", from_seq=2)
    assert [e["seq"] for e in found] == [2, 3, 4, 5]


def test_a_replay_goes_on_without_a_journal_that_cannot_be_read_and_says_so(path, caplog):
    with Kept(path, replay_s=0.0, batch_s=60.0) as kept:
        kept.emotion()
        path.unlink()
        found = request(kept.publisher.control_endpoint, "replay", PATIENCE_S, source="mic")
    assert [e["seq"] for e in found] == [1], "what waits for the disk is still there"
    assert "a replay goes without the journal: there is no journal at" in caplog.text


def test_a_subscriber_that_was_away_for_longer_than_memory_loses_nothing(path):
    n = PAGE_EVENTS + 20
    with Kept(path, replay_s=0.0) as kept:
        first = kept.emotion()
        ends = kept.publisher.events_endpoint, kept.publisher.control_endpoint
        with Subscriber(*ends, types=["emotion"], control_timeout_s=PATIENCE_S) as subscriber:
            assert subscriber.receive(PATIENCE_S).seq == first.seq
            subscriber._sub.disconnect(ends[0])
            for _ in range(n):
                kept.emotion()
            subscriber._sub.connect(ends[0])
            heard: list[Emotion | Lost | None] = [subscriber.receive(PATIENCE_S) for _ in range(n)]
    assert [getattr(e, "seq", e) for e in heard] == list(range(2, n + 2))


# --- what goes wrong -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_on_a_full_disk_it_goes_on_in_memory_says_so_once_and_recovers_when_there_is_room(small_disk, caplog):
    caplog.set_level(logging.WARNING)
    path = small_disk / "own" / "events.db"
    ballast = small_disk / "ballast"
    with Kept(path) as kept:
        kept.emotion()
        await_true(lambda: kept.journal.status()["written"] == 1)
        assert not health(kept).degraded
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(bytes(500_000))
        for _ in range(QUEUED_EVENTS + 5):
            kept.emotion()
        await_true(lambda: kept.journal.degraded)
        for _ in range(QUEUED_EVENTS):
            kept.emotion()
        said = health(kept)
        assert said.degraded
        assert said.counters["captured"] == 5
        dropped = said.counters["journal_dropped"]
        assert dropped >= 5
        assert "full" in kept.journal.status()["trouble"]
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
        await_true(lambda: not kept.journal.degraded)
        kept.emotion()
        await_true(lambda: kept.journal.status()["waiting"] == 0)
        assert not health(kept).degraded
    (found,) = seqs(path).values()
    assert len(found) == 2 * QUEUED_EVENTS + 7 - dropped
    assert found[-1] == 2 * QUEUED_EVENTS + 7
    told = [r for r in caplog.records if r.name == "serstream.journal"]
    assert [r.levelname for r in told] == ["ERROR", "WARNING", "ERROR"], "full, room again, the sum at the end"


def test_a_folder_that_is_gone_is_made_again(path, caplog):
    with Kept(path) as kept:
        kept.emotion()
        await_true(lambda: kept.journal.status()["written"] == 1)
        for file in path.parent.iterdir():
            if file.name.startswith("events.db") and not file.is_socket():
                file.unlink()
        kept.emotion()
        await_true(lambda: kept.journal.status()["written"] == 2)
    assert [e.seq for e in held(path)] == [2]
    assert "removed or replaced" in caplog.text


@pytest.mark.parametrize("kind", ["text", "cut", "garbled"])
def test_a_damaged_file_is_set_aside_with_a_sentence_and_a_new_one_begun(kind, path, caplog):
    caplog.set_level(logging.WARNING)
    file = JournalFile(path, keep_days=10_000, max_mb=100)
    file.write(entries(1, 500))
    file.close()
    whole = path.read_bytes()
    spoilt = {"text": b"dear diary\n" * 1000, "cut": whole[: len(whole) // 2], "garbled": bytearray(whole)}[kind]
    if kind == "garbled":
        spoilt[8192:16384] = random.Random(1).randbytes(8192)
    path.write_bytes(spoilt)
    path.with_name("events.db-wal").write_bytes(b"an older log")
    with Kept(path) as kept:
        await_true(lambda: "set aside" in caplog.text)
        published = kept.emotion()
    assert held(path) == [published]
    assert path.with_name("events.db.damaged").read_bytes() == spoilt
    (sentence,) = (r.getMessage() for r in caplog.records if "set aside" in r.getMessage())
    assert "damaged" in sentence
    assert "\n" not in sentence


def test_what_was_set_aside_does_not_stay_for_longer_than_events_may(path):
    path.parent.mkdir()
    path.write_bytes(b"spoilt")
    os.utime(path, (0, 0))
    aside = set_aside(path)
    with Kept(path, keep_days=1.0) as kept:
        await_true(lambda: not aside.exists())
        assert not kept.journal.degraded


def test_a_log_that_was_cut_anywhere_by_a_loss_of_power_leaves_a_whole_file_with_the_first_events(path, tmp_path):
    file = JournalFile(path, keep_days=1, max_mb=100)
    for seq in range(1, 100, 3):
        file.write(entries(seq, 3))
    log = path.with_name("events.db-wal").read_bytes()
    rng = random.Random(5)
    for turn in range(20):
        left = tmp_path / f"left{turn}" / "events.db"
        left.parent.mkdir()
        shutil.copy(path, left)
        end = rng.randrange(len(log))
        left.with_name("events.db-wal").write_bytes(log[:end] + rng.randbytes(rng.randrange(5000)))
        found = next(iter(seqs(left).values()), []) if end > 20_000 else []
        assert found == list(range(1, len(found) + 1))
        assert len(found) % 3 == 0
    file.close()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda p: sqlite3.connect(p).execute("CREATE TABLE a (b)").connection.close(),
            "is a database, but no journal",
        ),
        (lambda p: p.mkdir(), "Is a directory; make room or rights there"),
        (lambda p: p.parent.chmod(0o500), "Permission denied; make room or rights there"),
    ],
    ids=["another database", "a folder", "a folder of somebody else"],
)
def test_where_there_can_be_no_journal_it_is_refused_in_a_sentence(make, sentence, path):
    path.parent.mkdir()
    make(path)
    if os.geteuid() == 0 and "Permission" in sentence:
        pytest.skip("root may write everywhere")
    with pytest.raises(ConfigError, match=sentence):
        Journal(JournalConfig(path=str(path)), "one")


def test_a_journal_of_a_newer_serstream_is_refused_and_left_alone(path, tmp_path):
    JournalFile(path, keep_days=1, max_mb=4).close()
    db = sqlite3.connect(path)
    db.execute(NEWER)
    db.close()
    before = path.read_bytes()
    config = {"sources": {"tone": {"kind": "synthetic"}}, "journal": {"path": str(path)}}
    with Daemon(tmp_path, config) as daemon:
        assert daemon.end() == 2
    assert daemon.err.lines[-1].startswith(f"serstream: journal {path} was written by a newer serstream (schema 2")
    with Serstream("history", "--journal", path) as command:
        assert command.end() == 2
    assert "newer serstream" in command.err.lines[-1]
    assert path.read_bytes() == before


# --- the daemon ----------------------------------------------------------------------------------------


def test_a_daemon_keeps_what_it_publishes_and_goes_on_through_a_disk_that_is_full(tmp_path, path):
    demo = {"kind": "demo"}
    rules = {"enter_threshold": 0.21, "exit_threshold": 0.05, "update_s": 0.25}
    config = {"sources": {"demo": demo}, "decision": rules, "journal": {"path": str(path), "batch_s": 0.1}}
    with Daemon(tmp_path, config) as daemon:
        daemon.ready()
        await_true(lambda: daemon.ask("status")["journal"]["written"] >= 3)
        with Serstream("history", "--config", daemon.path, "--json") as command:
            assert command.end() == 0
        assert len(command.out.lines) >= 3
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        await_true(lambda: daemon.ask("status")["journal"]["degraded"])
        last = {e["type"]: e for e in daemon.ask("snapshot", source="demo")}
        await_true(lambda: daemon.ask("snapshot", source="demo")[-1]["seq"] > last["posterior"]["seq"])
        with daemon.subscribe(types=["health"]) as subscriber:
            assert next(subscriber).degraded
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, unlimited)
        await_true(lambda: not daemon.ask("status")["journal"]["degraded"])
        assert daemon.ask("status")["journal"]["dropped"] == 0
        assert daemon.end(signal.SIGTERM) == 0
    emotions = held(path, types=["emotion"])
    assert [e.seq for e in emotions] == list(range(1, len(emotions) + 1))
    assert sum("wait in memory" in line for line in daemon.err.lines) == 1


def test_time_is_kept_in_milliseconds(path):
    with Kept(path) as kept:
        kept.emotion(time="2026-01-01T00:00:00.250Z")
    assert [e.time for e in held(path, since_ms=1_767_225_600_250, until_ms=1_767_225_600_251)] == [
        TIME.replace("000Z", "250Z")
    ]
