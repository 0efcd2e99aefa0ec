"""The daemon as a process: how it ends, what it answers, and that nothing is lost on the way."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from serstream_process import (
    COMMAND,
    KEEPS_ON,
    LIMIT_S,
    PROMPT_S,
    Daemon,
    await_true,
    hear,
    hear_out,
    is_emotion,
    nothing_lost,
)

from serstream import Emotion, Gap, Health, Speech, Subscriber, TransportError
from serstream import daemon as daemons
from serstream.config import Config, SyntheticSource, TransportConfig
from serstream.publisher import Publisher
from serstream.resources import packaged
from serstream.sources import Block, Hole, Synthetic

ANY_LABEL = {"enter_threshold": 0.0, "exit_threshold": 0.0}
"""Every posterior within speech is an emotion, however unsure the model is."""
STAMPS = {"source", "session", "seq", "time", "latency_s", "replayed"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of the demo, one utterance and a pause, as 16-bit WAV."""
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    samples, rate = soundfile.read(packaged("demo.flac"), dtype="int16")
    soundfile.write(path, samples[rate : 6 * rate], rate)
    return path


def unstamped(events: list[dict]) -> list[dict]:
    """Return what the pipeline said, without what depends on when and where it was said."""
    return [{k: v for k, v in e.items() if k not in STAMPS} for e in events if e["type"] != "health"]


# --- sources that end


@pytest.mark.parametrize("form", ["PCM", "WAV"])
def test_a_pipe_gives_the_same_events_as_the_file_itself(form, clip, tmp_path):
    samples = soundfile.read(clip, dtype="int16")[0]
    data = clip.read_bytes() if form == "WAV" else samples.astype("<i2").tobytes()
    sources = {
        "file": {"kind": "file", "path": str(clip), "realtime": False},
        "pipe": {"kind": "stdin"},
        "quiet": KEEPS_ON,
    }
    with Daemon(tmp_path, {"sources": sources, "decision": ANY_LABEL}, stdin=subprocess.PIPE) as daemon:
        pipe = daemon.ready().process.stdin.buffer
        for part in np.array_split(np.frombuffer(data, np.uint8), 7):
            pipe.write(part.tobytes())
            pipe.flush()
        pipe.close()
        for source in ("file", "pipe"):
            await_true(
                lambda s=source: [
                    e for e in daemon.replay(s) if e["sample"] == len(samples) and e["type"] == "posterior"
                ]
            )
        from_file, from_pipe = (unstamped(daemon.replay(source)) for source in ("file", "pipe"))
    assert from_file == from_pipe
    assert {e["type"] for e in from_file} == {"posterior", "emotion", "speech"}


def test_a_recording_ends_the_daemon_at_its_end_after_every_event_is_out(clip, tmp_path):
    short = tmp_path / "short.wav"
    samples, rate = soundfile.read(clip, dtype="int16")
    soundfile.write(short, samples[: 5 * rate // 2], rate)  # ends in the middle of the utterance
    with Daemon(tmp_path, {"decision": ANY_LABEL}, "--source", short) as daemon, daemon.subscribe() as subscriber:
        events = hear(subscriber, is_emotion("onset")) + hear_out(daemon, subscriber)
    last = events[-1]
    assert isinstance(last, Health)
    assert last.sample == last.counters["consumed"] == 5 * rate // 2
    assert nothing_lost(last)
    for topic, newest in last.topics.items():
        seqs = [e.seq for e in events if e.topic == topic]
        assert seqs == list(range(seqs[0], seqs[-1] + 1))
        assert seqs[-1] == newest + (topic == last.topic)
    assert [e.phase for e in events if isinstance(e, Speech)] == ["start", "end"]
    assert [e for e in events if isinstance(e, Emotion)][-1].phase == "offset"


def test_a_synthetic_source_ends_after_its_duration_with_0(tmp_path):
    tone = {"kind": "synthetic", "duration_s": 2.0, "realtime": False, "level_dbfs": -20}
    with Daemon(tmp_path, {"sources": {"tone": tone, "quiet": KEEPS_ON}}) as daemon:
        daemon.ready()
        await_true(lambda: [e for e in daemon.replay("tone") if e["sample"] == 32_000])
        levels = [e["level_dbfs"] for e in daemon.replay("tone") if e["type"] == "posterior"]
        assert set(levels) <= {-20.1, -20.0, -19.9}
        assert daemon.process.poll() is None, "the other source goes on"
    with Daemon(tmp_path, {"sources": {"tone": tone}}) as daemon:
        assert daemon.end() == 0


def test_a_source_that_fails_on_the_way_stops_the_whole_daemon_with_1_and_a_sentence(tmp_path):
    whole = packaged("demo.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    cut = {"kind": "file", "path": str(tmp_path / "cut.flac"), "realtime": False}
    with Daemon(tmp_path, {"sources": {"cut": cut, "quiet": KEEPS_ON}, "log_level": "error"}) as daemon:
        assert daemon.end() == 1
        (line,) = daemon.err.lines
    assert line.startswith(f"serstream: {tmp_path}/cut.flac is damaged or cut off after ")


# --- asked to stop


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.mark.parametrize(("number", "scheme"), [(signal.SIGTERM, "tcp"), (signal.SIGINT, "ipc")])
def test_a_signal_stops_within_a_second_in_order_and_frees_the_endpoints(number, scheme, tmp_path):
    tcp = {"events": f"tcp://127.0.0.1:{free_port()}", "control": f"tcp://127.0.0.1:{free_port()}"}
    config = {"decision": ANY_LABEL, "transport": tcp if scheme == "tcp" else {}}
    with Daemon(tmp_path, config, "--source", "demo") as daemon, daemon.subscribe() as subscriber:
        opened = hear(subscriber, is_emotion("onset"))[-1]
        asked_s = time.monotonic()
        daemon.process.send_signal(number)
        daemon.process.wait(LIMIT_S)
        assert time.monotonic() - asked_s < PROMPT_S
        last = hear_out(daemon, subscriber)
    offset = next(e for e in last if isinstance(e, Emotion) and e.phase == "offset")
    assert (offset.id, offset.label) == (opened.id, opened.label)
    assert opened.stream_s == opened.start_s < offset.end_s == offset.stream_s
    assert [e.phase for e in last if isinstance(e, Speech)] == ["end"]
    assert isinstance(last[-1], Health)
    assert nothing_lost(last[-1])
    Publisher(daemon.events, daemon.control, session="next").close()


def test_a_signal_before_the_first_sample_of_a_pipe_stops_it_too(tmp_path):
    with Daemon(tmp_path, {}, "--source", "-", stdin=subprocess.PIPE) as daemon:
        daemon.ready()
        asked_s = time.monotonic()
        assert daemon.end(signal.SIGTERM) == 0
        assert time.monotonic() - asked_s < PROMPT_S


def test_the_source_of_the_command_line_is_no_change_that_needs_a_restart(tmp_path):
    with Daemon(tmp_path, {"sources": {"quiet": KEEPS_ON}}, "--source", "demo") as daemon:
        assert daemon.ready().ask("reload") == {"applied": [], "needs_restart": []}
        assert list(daemon.ask("status")["sources"]) == ["demo"]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager of the daemons of a test."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(LIMIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        yield listener


def test_systemd_is_told_ready_progress_and_the_end(manager, tmp_path):
    with Daemon(tmp_path, {"sources": {"quiet": KEEPS_ON}}) as daemon:
        told = ""
        while "READY=1" not in told:
            told = manager.recv(4096).decode()
        assert list(daemon.ask("status")["sources"]) == ["quiet"], "endpoints serve when ready"
        while "WATCHDOG=1" not in told:
            told = manager.recv(4096).decode()
        daemon.process.terminate()
        while "STOPPING=1" not in told:
            told = manager.recv(4096).decode()
        assert daemon.end() == 0


def test_a_source_that_has_ended_owes_nothing_any_more(manager, tmp_path):
    short = {"kind": "synthetic", "duration_s": 0.5}
    with Daemon(tmp_path, {"sources": {"short": short, "quiet": KEEPS_ON}}) as daemon, daemon.subscribe() as heard:
        last = hear(heard, lambda e: isinstance(e, Health) and e.source == "short" and e.sample == 8_000)[-1]
        fed = 0
        while fed < 8:  # once a second, and the deadline is five
            fed += manager.recv(4096) == b"WATCHDOG=1"
        newest = next(e for e in daemon.ask("snapshot") if e["type"] == "health" and e["source"] == "short")
        assert newest["seq"] <= last.seq + 1, "its last was its last"
        assert daemon.end(signal.SIGTERM) == 0
    assert not [line for line in daemon.err.lines if "no progress" in line]


class Hanging(Synthetic):
    """A source whose reading never returns, until it is released."""

    def __init__(self) -> None:
        super().__init__(SyntheticSource())
        self.released = threading.Event()

    def read(self, timeout_s: float) -> Block | Hole | None:
        self.released.wait(LIMIT_S)
        return None


def test_an_analysis_that_hangs_starves_the_watchdog_and_is_logged_once(manager, tmp_path, caplog):
    transport = TransportConfig(events=f"ipc://{tmp_path}/events", control=f"ipc://{tmp_path}/control")
    sources = {"talk": SyntheticSource(), "quiet": SyntheticSource("silence")}
    daemon = daemons.Daemon(Config(sources=sources, transport=transport), tmp_path)
    daemon.hearings[0].streams["talk"].source = source = Hanging()
    told: list[str] = []

    def watch() -> None:
        heard = Subscriber(daemon.publisher.events_endpoint, daemon.publisher.control_endpoint, "quiet", ["health"])
        with heard:
            for _ in range(8):  # one a second, and the deadline is five
                hear(heard, lambda e: not e.replayed)
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(manager.recv(4096).decode())
        source.released.set()
        daemon.stop()

    watching = threading.Thread(target=watch)
    watching.start()
    daemon.run()
    watching.join(LIMIT_S)
    assert 3 <= told.count("WATCHDOG=1") <= 6
    late = [message for message in caplog.messages if "no progress" in message]
    assert late == ["no progress for 5 s: quiet, talk; the watchdog is not fed"]


# --- requests to a running daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon"), CONFIG) as running:
        yield running.ready()
        assert running.end(signal.SIGTERM) == 0
        assert "Traceback" not in "\n".join(running.err.lines)


CONFIG = {"sources": {"talk": {"kind": "demo"}, "quiet": KEEPS_ON}, "decision": ANY_LABEL}


def command(daemon: Daemon, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, name, "--control", daemon.control, *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_status_says_what_runs_where_with_what(daemon):
    found = json.loads(command(daemon, "status", "--json").stdout)
    assert found["pid"] == daemon.process.pid
    assert found["config"] == str(daemon.path)
    assert (found["events"], found["control"]) == (daemon.events, daemon.control)
    assert len(found["model"]["sha256"]) == 64
    assert {name: s["kind"] for name, s in found["sources"].items()} == {"talk": "demo", "quiet": "synthetic"}
    assert found["sources"]["talk"]["counters"]["captured"] > 0
    text = command(daemon, "status").stdout
    assert [
        part for part in (found["session"], str(daemon.path), "demo, running", "captured") if part not in text
    ] == []


def test_one_source_is_muted_and_listens_again_while_the_other_goes_on(daemon):
    with daemon.subscribe(types=["gap", "health"]) as subscriber:
        hear(subscriber, lambda e: isinstance(e, Health) and e.source == "quiet")
        assert command(daemon, "mute", "--source", "talk").stdout == "muted: talk\n"
        (start,) = [e for e in hear(subscriber, lambda e: isinstance(e, Gap)) if isinstance(e, Gap)]
        assert (start.source, start.phase, start.cause) == ("talk", "start", "muted")
        hear(subscriber, lambda e: isinstance(e, Health) and e.source == "talk" and e.status == "muted")
        sources = daemon.ask("status")["sources"]
        assert (sources["talk"]["status"], sources["quiet"]["status"]) == ("muted", "running")
        assert json.loads(command(daemon, "unmute", "--json").stdout) == {"talk": "unmute", "quiet": "unmute"}
        (end,) = [e for e in hear(subscriber, lambda e: isinstance(e, Gap)) if isinstance(e, Gap)]
        assert (end.source, end.phase, end.cause) == ("talk", "end", "muted")
        after = hear(subscriber, lambda e: isinstance(e, Health) and e.source == "talk" and e.status == "running")
        assert not after[-1].degraded, "a wish is no loss"


@pytest.mark.parametrize("name", ["mute", "unmute"])
def test_an_unknown_source_is_refused_with_those_that_there_are(name, daemon):
    done = command(daemon, name, "--source", "kitchen")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "'kitchen' is unknown; this daemon has talk, quiet" in line


def test_an_unknown_request_is_refused_with_those_that_there_are(daemon):
    with pytest.raises(TransportError, match="'sing' is unknown; allowed are snapshot, replay, status, mute"):
        daemon.ask("sing")


def test_a_snapshot_holds_the_last_event_of_each_topic(daemon):
    await_true(lambda: [e for e in daemon.replay("talk") if e["type"] == "emotion"])
    topics = [(e["source"], e["type"]) for e in daemon.ask("snapshot")]
    assert len(topics) == len(set(topics))
    assert set(topics) >= {("talk", t) for t in ("posterior", "emotion", "speech", "health")} | {("quiet", "posterior")}


def test_replay_gives_a_topic_of_this_session_from_its_first_event(daemon):
    session = daemon.ask("status")["session"]
    events = daemon.ask("replay", topic="serstream.v1.talk.posterior", session=session, from_seq=1, to_seq=4)
    assert [e["seq"] for e in events] == [1, 2, 3, 4]
    assert [e["sample"] for e in events] == sorted(e["sample"] for e in events)
    assert {e["session"] for e in events} == {session}
    with pytest.raises(TransportError, match=f"session 'old' is unknown; the current session is {session}"):
        daemon.ask("replay", source="talk", session="old")


def test_reload_applies_thresholds_to_what_is_open(daemon):
    with daemon.subscribe(source="talk", types=["emotion"]) as subscriber:
        hear(subscriber, lambda e: e.phase != "offset" and not e.replayed)
        daemon.configure(CONFIG | {"decision": {"enter_threshold": 1.0, "exit_threshold": 1.0}})
        assert command(daemon, "reload").stdout == "applied: decision\n"
        hear(subscriber, is_emotion("offset"))
        daemon.configure(CONFIG)
        daemon.process.send_signal(signal.SIGHUP)
        hear(subscriber, is_emotion("onset"))
    assert "reloaded: applied ['decision']" in daemon.err.until(lambda line: "reloaded" in line)


def test_reload_names_what_needs_a_restart_and_leaves_it_as_it_is(daemon):
    daemon.configure(CONFIG | {"sources": {"other": KEEPS_ON}, "log_level": "debug"})
    outcome = json.loads(command(daemon, "reload", "--json").stdout)
    assert outcome == {"applied": ["log_level"], "needs_restart": ["sources"]}
    assert "changed, but needs a restart: sources" in command(daemon, "reload").stdout
    assert list(daemon.ask("status")["sources"]) == ["talk", "quiet"]
    daemon.configure(CONFIG)
    assert daemon.ask("reload") == {"applied": ["log_level"], "needs_restart": []}


def test_a_wrong_configuration_is_refused_with_the_reason_and_the_old_one_goes_on(daemon):
    daemon.configure(CONFIG | {"decision": {"smoothing_s": 31}})
    done = command(daemon, "reload")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert "decision.smoothing_s is 31; allowed is a number from 0 to 30" in line
    daemon.process.send_signal(signal.SIGHUP)
    daemon.err.until(lambda line: "the old configuration goes on" in line and "decision.smoothing_s is 31" in line)
    daemon.path.unlink()
    with pytest.raises(TransportError, match="cannot be read"):
        daemon.ask("reload")
    daemon.configure(CONFIG)
    assert daemon.ask("reload") == {"applied": [], "needs_restart": []}
    assert daemon.process.poll() is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model: 2024-13-45", "month must be"),
        ("transport: {events: banana}", "transport.events is 'banana'"),
        ("decision: {exit_threshold: 0.9}", "decision.exit_threshold is 0.9"),
    ],
)
def test_what_no_configuration_can_be_is_refused_as_well(text, reason, daemon):
    daemon.path.write_text(text)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.err.until(lambda line: "the old configuration goes on" in line and reason in line)
    assert command(daemon, "reload").returncode == 1
    daemon.configure(CONFIG)
    assert daemon.ask("reload") == {"applied": [], "needs_restart": []}


def test_every_topic_of_a_session_counts_from_1_without_holes(daemon):
    events = daemon.replay("talk")
    for topic in {e["type"] for e in events}:
        seqs = [e["seq"] for e in events if e["type"] == topic]
        assert seqs == list(range(1, len(seqs) + 1))
