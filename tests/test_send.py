"""`serstream send` and the network sources of a daemon that hear it, as processes over real sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import zmq
from serstream_process import LIMIT_S, Daemon, Serstream, await_true, hear, hear_out, nothing_lost

from serstream import Gap, Health, Posterior
from serstream.audio import QUEUED_PACKETS, Inlet, Outlet
from serstream.config import SyntheticSource
from serstream.errors import SourceError
from serstream.inbox import Inbox
from serstream.packets import Packet, decode
from serstream.resources import packaged
from serstream.sending import AHEAD_S, Sending
from serstream.sources import Synthetic

RATE = 16_000
ANY_LABEL = {"enter_threshold": 0.0, "exit_threshold": 0.0}
STAMPS = {"source", "session", "seq", "time", "latency_s", "replayed"}


@pytest.fixture(autouse=True)
def _no_configuration_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of the demo, in the middle of an utterance at the end, as 16-bit WAV."""
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    samples, rate = soundfile.read(packaged("demo.flac"), dtype="int16")
    soundfile.write(path, samples[rate : 4 * rate], rate)
    return path


def audio(folder: Path) -> str:
    return f"ipc://{folder}/audio"


def listening(folder: Path, sources: dict[str, Any], *, prefix: tuple[str, ...] = (), **options: Any) -> Daemon:
    """Start a daemon that takes sound."""
    config = {"sources": sources, "transport": {"audio": audio(folder)}, **options}
    return Daemon(folder, config, prefix=prefix)


def send(folder: Path, source: object, *arguments: object, **options: Any) -> Serstream:
    return Serstream("send", source, "--to", audio(folder), *arguments, **options)


def said(events: list[dict[str, Any]], *types: str) -> list[dict[str, Any]]:
    """Return what the pipeline said, without what depends on when and where it was said."""
    return [{k: v for k, v in e.items() if k not in STAMPS} for e in events if e["type"] in types]


# --- heard elsewhere


def test_two_senders_are_heard_as_the_same_recordings_are_as_files(clip, tmp_path):
    sources = {
        "clip": {"kind": "file", "path": str(clip), "realtime": False},
        "demo": {"kind": "file", "path": str(packaged("demo.flac")), "realtime": False},
        "far": {"kind": "network", "stream": "clip"},
        "away": {"kind": "network"},
    }
    fast = tmp_path / "sender.yaml"
    fast.write_text(json.dumps({"sources": {"clip": sources["clip"]}}))
    with listening(tmp_path, sources, decision=ANY_LABEL) as daemon:
        daemon.ready()
        with (
            send(tmp_path, "clip", "--config", fast, "--json") as one,
            send(tmp_path, "demo", "--stream", "away") as two,
        ):
            assert one.end() == 0
            (line,) = one.out.lines
            assert json.loads(line) == {"stream": "clip", "to": audio(tmp_path), "sent_s": 3.0, "dropped_s": 0.0}
            await_true(lambda: len(said(daemon.replay("away"), "posterior")) > 12)
            assert two.end(signal.SIGINT) == 0
        await_true(lambda: [e for e in daemon.replay("far") if e["type"] == "gap"])
        far, near = daemon.replay("far"), daemon.replay("clip")
        types = ("posterior", "emotion", "speech")
        assert said(far, *types) == said(near, *types)
        assert {e["type"] for e in near} == set(types)
        away, demo = (said(daemon.replay(source), *types) for source in ("away", "demo"))
        steps = [e["sample"] for e in away if e["type"] == "posterior"]
        assert len(steps) > 12
        before = [[e for e in events if e["sample"] < steps[-1]] for events in (away, demo)]  # the last was cut off
        assert before[0] == before[1]
        status = daemon.ask("status")
        assert status["sources"]["far"]["status"] == "lost"
        assert status["audio"]["endpoint"] == audio(tmp_path)
        assert (status["audio"]["packets"] > 20, status["audio"]["refused"]) == (True, 0)


@pytest.mark.parametrize("format_", ["f32le", "s16le"])
def test_a_pipe_is_sent_whatever_its_rate(format_, tmp_path):
    samples = soundfile.read(packaged("demo.flac"), dtype="int16")[0][::2][: 2 * 8000]
    inbox = Inbox()
    with closing(Inlet(audio(tmp_path), {"stdin": inbox})):
        with send(tmp_path, "-", "--rate", 8000, "--format", format_, stdin=subprocess.PIPE) as sender:
            sender.process.stdin.buffer.write(samples.astype("<i2").tobytes())
            sender.process.stdin.close()
            assert sender.end() == 0
            assert sender.out.lines == [f"sent 2.0 s to {audio(tmp_path)} as stream stdin, dropped 0.0 s"]
        packets = take(inbox)
    assert sum(p.n_samples for p in packets) == 2 * RATE
    assert {p.header.format for p in packets} == {format_}
    assert packets[-1].header.end


def take(inbox: Inbox) -> list[Packet]:
    """Read an inbox to the end of its run."""
    packets: list[Packet] = []
    while not (packets and packets[-1].header.end):
        arrivals = inbox.get(LIMIT_S)
        assert arrivals
        packets += [arrival.packet for arrival in arrivals]
    return packets


def test_a_microphone_is_sent_as_it_is_heard(virtual_mic, clip, tmp_path):
    inbox = Inbox()
    with closing(Inlet(audio(tmp_path), {"mic": inbox})), send(tmp_path, "mic") as sender:
        assert inbox.get(LIMIT_S)
        with virtual_mic.play(clip):
            while np.abs(inbox.get(LIMIT_S)[-1].packet.samples()).max() < 0.05:
                pass
        assert sender.end(signal.SIGTERM) == 0
        assert take(inbox)[-1].header.end
    assert "dropped 0.0 s" in sender.out.lines[0]


# --- what goes wrong on the way


def test_a_sender_that_is_killed_leaves_a_gap_and_another_start_of_it_ends_that(tmp_path):
    sources = {"kitchen": {"kind": "network", "stall_s": 0.5}, "hall": {"kind": "network"}}
    with listening(tmp_path, sources, decision=ANY_LABEL) as daemon, daemon.subscribe() as subscriber:
        daemon.ready()
        with send(tmp_path, "demo", "--stream", "hall"):
            with send(tmp_path, "demo", "--stream", "kitchen") as sender:
                hear(subscriber, lambda e: isinstance(e, Posterior) and e.source == "kitchen" and not e.replayed)
                sender.process.kill()
                start = hear(subscriber, lambda e: isinstance(e, Gap))[-1]
            hear(subscriber, lambda e: isinstance(e, Health) and e.source == "kitchen" and e.status == "lost")
            with send(tmp_path, "demo", "--stream", "kitchen"):
                end = hear(subscriber, lambda e: isinstance(e, Gap))[-1]
                resumed = hear(subscriber, lambda e: isinstance(e, Posterior) and e.source == "kitchen")[-1]
            assert (start.source, start.phase, start.cause, start.lost_samples) == ("kitchen", "start", "network", 0)
            assert (end.source, end.phase, end.cause, end.estimated) == ("kitchen", "end", "network", True)
            assert end.lost_samples == end.sample - start.sample > RATE
            assert resumed.sample == end.sample + 4096 + 256, "the first step after a hole"
            events = hear_out(daemon, subscriber, signal.SIGTERM)
    last = {e.source: e for e in events if isinstance(e, Health)}
    assert last["kitchen"].counters["runs"] == 2
    assert last["kitchen"].counters["network"] >= end.lost_samples
    assert last["hall"].counters["network"] == 0
    assert all(nothing_lost(health) for health in last.values())


def test_whatever_is_pushed_at_the_daemon_is_refused_and_counted_and_the_others_are_heard(tmp_path):
    sources = {"kitchen": {"kind": "network"}, "loud": {"kind": "network"}}
    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.connect(audio(tmp_path))
    header = {"schema": "serstream-audio/1", "stream": "loud", "sample_rate": RATE, "format": "f32le"}
    with listening(tmp_path, sources) as daemon, daemon.subscribe(source="kitchen") as subscriber:
        daemon.ready()
        with send(tmp_path, "demo", "--stream", "kitchen"):
            for n in range(200):
                push.send_multipart([os.urandom(50), os.urandom(n)])
                push.send_multipart([json.dumps(header | {"run": "x"}).encode(), bytes(4)])
            run = "7d3a2b1c-0000-4000-8000-000000000001"
            for n, value in enumerate([3e38, -3e38, 1e20, np.inf, np.nan] * 3):  # sound, if no music
                first = {"run": run, "first_sample": 8000 * n}
                push.send_multipart([json.dumps(header | first).encode(), np.full(8000, value, "<f4").tobytes()])
            await_true(lambda: daemon.ask("status")["audio"]["refused"] == 400)
            await_true(lambda: daemon.ask("status")["sources"]["loud"]["counters"]["consumed"] == 15 * 8000)
            events = hear(subscriber, lambda e: isinstance(e, Posterior) and e.sample > 2 * RATE)
            assert not [e for e in events if isinstance(e, Gap)]
            push.send_multipart(
                [json.dumps(header | {"stream": "bath", "run": run, "first_sample": 0}).encode(), bytes(4)]
            )
            await_true(lambda: daemon.ask("status")["audio"]["refused"] == 401)
            shown = Serstream("status", "--control", daemon.control)
            with shown:
                shown.out.until(lambda line: "refused 401" in line)
        assert daemon.end(signal.SIGTERM) == 0
    context.destroy(linger=0)
    assert len([line for line in daemon.err.lines if "sound refused" in line]) <= 3
    assert "Traceback" not in "\n".join(daemon.err.lines)


def test_more_senders_connect_than_a_process_is_given_descriptors_to_begin_with(tmp_path):
    prefix = ("sh", "-c", 'ulimit -S -n 128; exec "$@"', "sh")
    context = zmq.Context()
    with listening(tmp_path, {"s0": {"kind": "network"}}, prefix=prefix) as daemon:
        daemon.ready()
        outlets = [Outlet(audio(tmp_path), f"s{i}", context=context) for i in range(150)]
        try:
            assert all(outlet.ready(LIMIT_S) for outlet in outlets)
        finally:
            for outlet in outlets:
                outlet.close(0.0)
            context.term()


def test_where_nobody_listens_that_is_said_once_and_tried_until_somebody_does(tmp_path):
    with send(tmp_path, packaged("demo.flac")) as sender:
        sender.err.until(lambda line: "nobody takes sound" in line)
        inbox = Inbox()
        with closing(Inlet(audio(tmp_path), {"demo": inbox})):
            sender.err.until(lambda line: "takes sound again" in line)
            assert inbox.get(LIMIT_S)[0].packet.header.first_sample == 0, "a recording waits"
            assert sender.end(signal.SIGINT) == 0
    assert len([line for line in sender.err.lines if "nobody takes sound" in line]) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_sender_that_nobody_hears_with_0(number, tmp_path):
    with send(tmp_path, "demo", "--json") as sender:
        maps = Path(f"/proc/{sender.process.pid}/maps")
        await_true(lambda: "numpy" in maps.read_text())
        assert sender.end(number) == 0
    assert "Traceback" not in "\n".join(sender.err.lines)


# --- the loop itself, beside sources and ends that a test holds


class End:
    """A PULL socket that is read when the test says so.

    By TCP: of an ipc:// connection that its sender closes, ZeroMQ forgets what a full socket has not read.
    """

    def __init__(self) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.PULL)
        self.socket.set(zmq.RCVHWM, 1)
        self.socket.bind("tcp://127.0.0.1:0")
        self.outlet = Outlet(self.socket.last_endpoint.decode(), "a")

    def take(self) -> Packet:
        assert self.socket.poll(LIMIT_S * 1e3)
        return decode(self.socket.recv_multipart())

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def end() -> Iterator[End]:
    with closing(End()) as made:
        yield made


class Spoken(Synthetic):
    """A test signal that calls something with the number of each read before it."""

    def __init__(self, duration_s: float, then: Callable[[int], None] = lambda n: None) -> None:
        super().__init__(SyntheticSource("noise", duration_s=duration_s, realtime=False))
        self._then = then
        self.reads = 0
        self.was_opened = False

    def open(self) -> None:
        self.was_opened = True

    def read(self, timeout_s: float) -> Any:
        self.reads += 1
        self._then(self.reads)
        return super().read(timeout_s)


def taking(end: End, when: threading.Event) -> tuple[threading.Thread, list[Packet]]:
    """Take, once that is set, all packets of a run in another thread."""
    packets: list[Packet] = []

    def run() -> None:
        when.wait(LIMIT_S)
        while not (packets and packets[-1].header.end):
            packets.append(end.take())

    thread = threading.Thread(target=run)
    thread.start()
    return thread, packets


def test_a_live_source_drops_what_nobody_takes_and_its_index_says_how_much(end):
    n_blocks, at_last = 3 * QUEUED_PACKETS, threading.Event()
    thread, packets = taking(end, at_last)
    source = Spoken(n_blocks * 0.05, lambda n: at_last.set() if n == n_blocks else None)
    sending = Sending(source, end.outlet, live=True)
    sending.run()
    thread.join(LIMIT_S)
    assert 0 < sending.dropped_s < n_blocks * 0.05
    assert sum(p.duration_s for p in packets) == pytest.approx(sending.sent_s)
    assert sending.sent_s + sending.dropped_s == pytest.approx(n_blocks * 0.05)
    assert packets[-1].header.first_sample == n_blocks * 800
    heard = sum(p.n_samples for p in packets)
    jumps = [b.header.first_sample - a.header.first_sample - a.n_samples for a, b in pairwise(packets)]
    assert sum(jumps) == n_blocks * 800 - heard == round(sending.dropped_s * RATE)


def test_a_source_that_waits_loses_nothing_and_is_not_far_ahead_of_its_own_sound(end):
    begun, long_s = threading.Event(), AHEAD_S + 0.5
    thread, packets = taking(end, begun)
    sending = Sending(Spoken(long_s, lambda n: begun.set() if n == 10 else None), end.outlet, live=False)
    begin_s = time.monotonic()
    sending.run()
    assert time.monotonic() - begin_s >= long_s - AHEAD_S - 0.05
    thread.join(LIMIT_S)
    assert (sending.sent_s, sending.dropped_s) == (long_s, 0.0)
    expected = Spoken(long_s)
    for packet in packets[:-1]:
        np.testing.assert_array_equal(packet.samples(), expected.read(0.0).samples)


def test_a_machine_that_slept_begins_another_run_for_what_is_live(end):
    slept = [100.0]

    def sleep(n: int) -> None:
        slept[0] += 60.0 if n == 3 else 0.0

    thread, packets = taking(end, at := threading.Event())
    at.set()
    Sending(Spoken(0.25, sleep), end.outlet, live=True, slept_s=lambda: slept[0]).run()
    thread.join(LIMIT_S)
    runs = [p.header.run for p in packets]
    assert len(set(runs)) == 2
    assert runs.index(runs[-1]) == 2


def test_a_source_that_fails_ends_its_run_and_says_why(end):
    def fail(n: int) -> None:
        if n == 4:
            raise SourceError("the pipe burst")

    thread, packets = taking(end, at := threading.Event())
    at.set()
    with pytest.raises(SourceError, match="the pipe burst"):
        Sending(Spoken(1.0, fail), end.outlet, live=True).run()
    thread.join(LIMIT_S)
    assert packets[-1].header.end
    assert packets[-1].header.first_sample == 3 * 800


def test_no_source_is_opened_before_there_is_anybody_to_hear_it(tmp_path):
    source = Spoken(1.0)
    asking = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    asking.start()
    Sending(source, Outlet(audio(tmp_path), "a"), live=True).run()
    asking.join()
    assert not source.was_opened


# --- what is said of bad input


@pytest.mark.parametrize(
    ("words", "status", "parts"),
    [
        (["nowhere.wav"], 2, ["'nowhere.wav' is no file"]),
        (["demo", "--to", "banana"], 2, ["'banana'", "tcp://HOST:PORT"]),
        (["demo", "--to", "tcp://localhost:0"], 2, ["'tcp://localhost:0'"]),
        (["demo", "--stream", "Küche"], 2, ["--stream", "'Küche'", "a-z, 0-9"]),
        (["-", "--rate", "100"], 2, ["--rate 100", "4000 to 384000 Hz"]),
        (["far", "--config", "far.yaml"], 2, ["'far' hears the network itself"]),
        (["talk.wav"], 1, ["talk.wav", "not audio"]),
    ],
)
def test_what_cannot_be_sent_is_said_in_a_sentence(words, status, parts, tmp_path):
    (tmp_path / "talk.wav").write_text("this is no sound")
    (tmp_path / "far.yaml").write_text(
        json.dumps({"sources": {"far": {"kind": "network"}}, "transport": {"audio": audio(tmp_path)}})
    )
    command = Serstream("send", *(tmp_path / w if (tmp_path / w).exists() else w for w in words))
    with command:
        assert command.end() == status
        (line,) = command.err.lines
    assert line.startswith("serstream: ")
    assert [part for part in parts if part not in line] == []
    assert command.out.lines == []


def test_an_endpoint_for_sound_that_is_in_use_is_said_with_its_key(tmp_path):
    with closing(Inlet(audio(tmp_path), {})), listening(tmp_path, {"far": {"kind": "network"}}) as daemon:
        assert daemon.end() == 1
        (line,) = daemon.err.lines
    assert "is in use; stop what uses it (another serstream?) or change transport.audio" in line
