"""A daemon whose sources are heard by worker processes: it answers and ends as one that hears them itself."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
import soundfile
from serstream_process import (
    KEEPS_ON,
    LIMIT_S,
    PROMPT_S,
    Daemon,
    await_true,
    children,
    hear,
    hear_out,
    is_emotion,
    nothing_lost,
)

from serstream import Emotion, Gap, Health, Posterior, Speech
from serstream.resources import packaged

ANY_LABEL = {"enter_threshold": 0.0, "exit_threshold": 0.0}
CONFIG = {"workers": 2, "sources": {"talk": {"kind": "demo"}, "hum": {"kind": "synthetic"}}, "decision": ANY_LABEL}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("workers"), CONFIG) as running:
        yield running.ready()
        assert running.end(signal.SIGTERM) == 0
        assert "Traceback" not in "\n".join(running.err.lines)


def workers(daemon: Daemon) -> list[int]:
    """Return the process ids of the workers once all are there."""
    found: list[int | None] = [None]

    def are_there() -> bool:
        found[:] = daemon.ask("status")["workers"]
        return None not in found

    await_true(are_there)
    return [pid for pid in found if pid is not None]


def ends(fd: int, limit_s: float = LIMIT_S) -> bool:
    """Return whether the process of this descriptor ends within the limit, and close it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    ended = bool(poll.poll(limit_s * 1000))
    os.close(fd)
    return ended


def test_status_names_the_workers_and_tells_of_every_source_in_the_order_of_the_configuration(daemon):
    assert set(workers(daemon)) == daemon.children()
    await_true(lambda: {s["status"] for s in daemon.ask("status")["sources"].values()} == {"running"})
    sources = daemon.ask("status")["sources"]
    assert {name: s["kind"] for name, s in sources.items()} == {"talk": "demo", "hum": "synthetic"}
    assert list(sources) == ["talk", "hum"]


def test_one_source_is_muted_and_listens_again_while_that_of_another_worker_goes_on(daemon):
    with daemon.subscribe(types=["gap", "health"]) as subscriber:
        hear(subscriber, lambda e: isinstance(e, Health) and e.source == "hum" and not e.replayed)
        assert daemon.ask("mute", source="talk") == {"talk": "mute"}
        assert daemon.ask("status")["sources"]["talk"]["status"] == "muted"
        (start,) = [e for e in hear(subscriber, lambda e: isinstance(e, Gap)) if isinstance(e, Gap)]
        assert (start.source, start.phase, start.cause) == ("talk", "start", "muted")
        hear(subscriber, lambda e: isinstance(e, Health) and e.source == "hum" and e.status == "running")
        assert daemon.ask("unmute") == {"talk": "unmute", "hum": "unmute"}
        (end,) = [e for e in hear(subscriber, lambda e: isinstance(e, Gap)) if isinstance(e, Gap)]
        assert (end.source, end.phase, end.cause) == ("talk", "end", "muted")


def test_reload_applies_thresholds_to_what_is_open_in_a_worker(daemon):
    with daemon.subscribe(source="talk", types=["emotion"]) as subscriber:
        hear(subscriber, lambda e: e.phase != "offset" and not e.replayed)
        daemon.configure(CONFIG | {"decision": {"enter_threshold": 1.0, "exit_threshold": 1.0}})
        assert daemon.ask("reload") == {"applied": ["decision"], "needs_restart": []}
        hear(subscriber, is_emotion("offset"))
        daemon.configure(CONFIG | {"workers": 3})
        assert daemon.ask("reload") == {"applied": ["decision"], "needs_restart": ["workers"]}
        hear(subscriber, is_emotion("onset"))
    daemon.configure(CONFIG)


def test_a_worker_that_is_killed_is_a_gap_in_the_same_session_and_numbers_go_on(daemon):
    session = daemon.ask("status")["session"]
    with daemon.subscribe() as subscriber:
        events = hear(subscriber, lambda e: isinstance(e, Emotion) and e.phase != "offset" and not e.replayed)
        talk, hum = workers(daemon)
        os.kill(talk, signal.SIGKILL)
        events += hear(subscriber, lambda e: isinstance(e, Gap) and e.phase == "end" and not e.replayed)
        events += hear(subscriber, is_emotion("onset"))
        assert workers(daemon)[1] == hum
    gaps = [e for e in events if isinstance(e, Gap) and not e.replayed]
    assert [(e.source, e.phase, e.cause) for e in gaps] == [
        ("talk", "start", "worker_restart"),
        ("talk", "end", "worker_restart"),
    ]
    assert {e.session for e in events} == {session}
    for topic in {e.topic for e in events}:
        seqs = [e.seq for e in events if e.topic == topic]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    hums = [e.sample for e in events if e.source == "hum" and isinstance(e, Posterior)]
    assert hums == list(range(hums[0], hums[0] + 4096 * len(hums), 4096))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_within_a_second_with_the_last_events_out(number, tmp_path):
    with Daemon(tmp_path, CONFIG) as daemon, daemon.subscribe() as subscriber:
        opened = hear(subscriber, is_emotion("onset"))[-1]
        processes = [os.pidfd_open(pid) for pid in workers(daemon)]
        asked_s = time.monotonic()
        daemon.process.send_signal(number)
        daemon.process.wait(LIMIT_S)
        assert time.monotonic() - asked_s < PROMPT_S
        last = hear_out(daemon, subscriber)
    assert all(ends(process, 0.0) for process in processes)
    offset = next(e for e in last if isinstance(e, Emotion) and e.phase == "offset")
    assert (offset.id, offset.label) == (opened.id, opened.label)
    ended = [(e.phase, e.source) for e in last if isinstance(e, Speech)]
    assert ("end", "talk") in ended
    assert len(ended) == len(set(ended)), "of one source, speech ends once"
    assert not [e for e in last if isinstance(e, Gap)]
    for name in CONFIG["sources"]:
        (health,) = [e for e in last if isinstance(e, Health) and e.source == name][-1:]
        assert nothing_lost(health)
        assert health.counters["consumed"] == health.sample


def test_no_process_is_left_behind_when_the_daemon_is_killed(tmp_path):
    with Daemon(tmp_path, CONFIG) as daemon:
        processes = [os.pidfd_open(pid) for pid in workers(daemon.ready())]
        daemon.process.kill()
        assert all(ends(process) for process in processes)


def test_recordings_end_the_daemon_at_their_end_after_every_event_is_out(tmp_path):
    samples, rate = soundfile.read(packaged("demo.flac"), dtype="int16")
    for i in range(2):
        soundfile.write(tmp_path / f"{i}.wav", samples[rate : (4 + i) * rate], rate)
    files = {f"f{i}": {"kind": "file", "path": str(tmp_path / f"{i}.wav")} for i in range(2)}
    with Daemon(tmp_path, CONFIG | {"sources": files}) as daemon, daemon.subscribe() as subscriber:
        events = hear(subscriber, is_emotion("onset")) + hear_out(daemon, subscriber)
    for i in range(2):
        mine = [e for e in events if e.source == f"f{i}"]
        assert isinstance(mine[-1], Health)
        assert mine[-1].sample == mine[-1].counters["consumed"] == (3 + i) * rate
        assert nothing_lost(mine[-1])
        assert [e for e in mine if isinstance(e, Emotion)][-1].phase == "offset"


def test_a_source_that_fails_in_a_worker_stops_the_whole_daemon_with_1_and_a_sentence(tmp_path):
    whole = packaged("demo.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    cut = {"kind": "file", "path": str(tmp_path / "cut.flac"), "realtime": False}
    with Daemon(tmp_path, {"workers": 2, "sources": {"cut": cut, "quiet": KEEPS_ON}, "log_level": "error"}) as daemon:
        assert daemon.end() == 1
        (line,) = daemon.err.lines
    assert line.startswith(f"serstream: {tmp_path}/cut.flac is damaged or cut off after ")


def test_standard_input_is_heard_by_the_daemon_itself(tmp_path):
    sources = {"pipe": {"kind": "stdin"}, "hum": {"kind": "synthetic"}}
    with Daemon(tmp_path, CONFIG | {"sources": sources}, stdin=subprocess.PIPE) as daemon:
        (worker,) = workers(daemon.ready())
        daemon.process.stdin.buffer.write(bytes(2 * 16_000))
        daemon.process.stdin.buffer.flush()
        await_true(lambda: [e for e in daemon.replay("pipe") if e["type"] == "posterior"])
        os.kill(worker, signal.SIGKILL)
        await_true(lambda: [e for e in daemon.replay("hum") if e["type"] == "gap" and e["phase"] == "end"])
        assert not [e for e in daemon.replay("pipe") if e["type"] == "gap"]
        assert daemon.end(signal.SIGTERM) == 0


def test_systemd_is_told_ready_when_the_workers_are_and_is_not_starved_by_one_that_dies(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(LIMIT_S)
        with Daemon(tmp_path, CONFIG) as daemon:
            assert manager.recv(4096).decode() == "READY=1\nSTATUS=listening to talk, hum"
            os.kill(daemon.ask("status")["workers"][0], signal.SIGKILL)
            fed, states = 0, set()
            while fed < 8:  # once a second, and the deadline is five
                told = manager.recv(4096).decode()
                fed += told == "WATCHDOG=1"
                states |= {told} if told.startswith("STATUS=") else set()
            assert daemon.end(signal.SIGTERM) == 0
    assert "STATUS=talk running, hum running" in states
    assert not [line for line in daemon.err.lines if "no progress" in line]


def test_a_microphone_of_a_worker_that_dies_is_captured_again_and_the_index_has_moved_on(virtual_mic, tmp_path):
    config = {"workers": 2, "sources": {"mic": {"kind": "microphone"}}}
    with Daemon(tmp_path, config) as daemon, daemon.subscribe() as subscriber:
        hear(subscriber, lambda e: isinstance(e, Posterior))
        (worker,) = workers(daemon)
        (capture,) = children(worker)
        processes = [os.pidfd_open(pid) for pid in (worker, capture)]
        os.kill(worker, signal.SIGKILL)
        gaps = hear(subscriber, lambda e: isinstance(e, Gap) and e.phase == "end")
        hear(subscriber, lambda e: isinstance(e, Posterior))
        assert all(ends(process) for process in processes)
        last = hear_out(daemon, subscriber, signal.SIGTERM)[-1]
    start, end = (e for e in gaps if isinstance(e, Gap))
    assert (start.cause, end.cause, end.estimated) == ("worker_restart", "worker_restart", True)
    assert end.sample == start.sample + end.lost_samples
    assert end.lost_samples > 1_000
    assert isinstance(last, Health)
    assert last.counters["worker_restart"] == end.lost_samples
    assert last.counters["consumed"] + last.counters["worker_restart"] == last.sample
    assert nothing_lost(last)


def test_more_live_sources_than_the_machine_carries_are_refused_with_2_and_a_sentence(tmp_path):
    microphones = {f"m{i}": {"kind": "microphone"} for i in range(5_000)}
    core = str(min(os.sched_getaffinity(0)))
    with Daemon(tmp_path, {"sources": microphones}, prefix=("taskset", "--cpu-list", core)) as daemon:
        assert daemon.end() == 2
        (line,) = daemon.err.lines
    assert " with 1 of its 1 cores, " in line
    assert line.startswith("serstream: 5000 live sources are configured, but this machine carries ")
