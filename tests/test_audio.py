"""Both ends of the wire of sound, over real sockets."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from serstream_process import LIMIT_S, await_true

from serstream.audio import PACKETS_AT_ONCE, QUEUED_PACKETS, Inlet, Outlet
from serstream.errors import ConfigError, TransportError
from serstream.inbox import Arrival, Inbox
from serstream.packets import MAX_PART_BYTES

ANY = "tcp://127.0.0.1:0"
DOCUMENT = Path(__file__).parent.parent / "docs" / "network.md"
NOISE = np.random.default_rng(0).uniform(-1, 1, 16_000).astype(np.float32)


@pytest.fixture
def opened() -> Iterator[Any]:
    with ExitStack() as stack:
        yield lambda thing: stack.enter_context(closing(thing))


@pytest.fixture
def inboxes() -> dict[str, Inbox]:
    return {"a": Inbox(), "b": Inbox()}


@pytest.fixture
def inlet(opened, inboxes) -> Inlet:
    """An inlet for two streams."""
    return opened(Inlet(ANY, inboxes))


@pytest.fixture
def outlet(inlet, opened):
    """Return a function that connects an outlet for a stream, closed at the end with what is left thrown away."""

    def connect(stream: str) -> Outlet:
        made = Outlet(inlet.endpoint, stream)
        opened(_Closing(made))
        return made

    return connect


class _Closing:
    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def close(self) -> None:
        self._outlet.close(0.0)


@pytest.fixture
def push(inlet) -> Iterator[zmq.Socket[bytes]]:
    """A sender of anything."""
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.connect(inlet.endpoint)
    yield socket
    context.destroy(linger=0)


def arrived(inbox: Inbox, n_packets: int) -> list[Arrival]:
    found: list[Arrival] = []
    while len(found) < n_packets:
        more = inbox.get(LIMIT_S)
        assert more
        found += more
    assert len(found) == n_packets
    return found


def test_each_stream_comes_out_at_its_own_inbox_as_it_was_sent(inlet, inboxes, outlet):
    senders = {stream: outlet(stream) for stream in ("a", "b")}
    for n in range(10):
        for k, sender in enumerate(senders.values()):
            assert sender.send(800 * n, NOISE[800 * n + k : 800 * (n + 1) + k], LIMIT_S)
    for sender in senders.values():
        assert sender.end(8000, LIMIT_S)
    for k, stream in enumerate(senders):
        packets = [arrival.packet for arrival in arrived(inboxes[stream], 11)]
        np.testing.assert_array_equal(np.concatenate([p.samples() for p in packets]), NOISE[k : 8000 + k])
        assert [p.header.first_sample for p in packets] == [800 * n for n in range(11)]
        assert [p.header.end for p in packets] == [False] * 10 + [True]
    assert inlet.status() == {"endpoint": inlet.endpoint, "packets": 22, "refused": 0, "too_fast": 0}


JUNK: list[list[bytes]] = [
    [b""],
    [b"serstream.v1.mic.emotion {}"],
    [b"{}", b"\0" * 100],
    [b"\0" * 10_000, b""],
    [b"[" * 1000, b"\0\0"],
    [b"a", b"b", b"c"],
    [b"{}", b"\0" * 1_999_999],
]


def test_junk_is_refused_and_counted_and_said_once_while_the_streams_go_on(inlet, inboxes, outlet, push, caplog):
    sender = outlet("a")
    with caplog.at_level(logging.WARNING, "serstream"):
        for n in range(20):
            assert sender.send(800 * n, NOISE[:800], LIMIT_S)
            for message in JUNK:
                push.send_multipart(message)
        await_true(lambda: inlet.refused == 20 * len(JUNK))
        assert [a.packet.header.first_sample for a in arrived(inboxes["a"], 20)] == [800 * n for n in range(20)]
        assert inboxes["a"].refused == 0
        again = Outlet(inlet.endpoint, "b")
        for _ in range(5):
            again.send(0, NOISE[:800], LIMIT_S)
        again.close(1.0)
        await_true(lambda: inboxes["b"].refused == 4)
    first, second = caplog.messages
    assert first.startswith("sound refused (packets so far: 1): a message of 1 parts is no packet")
    assert "stream b sends sample 0 late or again; the next is 800" in second, "junk hides no stream's fault"
    assert inlet.alive


FLOOD = """
import sys, zmq
socket = zmq.Context().socket(zmq.PUSH)
socket.connect(sys.argv[1])
while True:
    socket.send_multipart([b"{}", b""])
"""


def test_a_flood_waits_and_a_stream_loses_nothing_by_it(inlet, inboxes, outlet):
    sender = outlet("a")
    with subprocess.Popen([sys.executable, "-c", FLOOD, inlet.endpoint]) as flood:
        try:
            await_true(lambda: inlet.too_fast)
            for n in range(100):
                assert sender.send(800 * n, NOISE[:800], LIMIT_S)
            assert [a.packet.header.first_sample for a in arrived(inboxes["a"], 100)] == [800 * n for n in range(100)]
            assert flood.poll() is None
        finally:
            flood.kill()
    assert inlet.refused > PACKETS_AT_ONCE
    assert inlet.status()["too_fast"] <= inlet.refused - PACKETS_AT_ONCE, "the stream has an allowance of its own"


def test_a_stream_that_no_source_hears_is_said_with_those_that_there_are(inlet, outlet, caplog):
    assert outlet("bath").send(0, NOISE[:800], LIMIT_S)
    await_true(lambda: inlet.refused == 1)
    assert "stream 'bath' has no source here; the streams are a, b" in caplog.text


def test_a_part_that_is_too_large_for_any_packet_closes_its_connection_alone(inlet, inboxes, outlet, push):
    sender = outlet("a")
    assert sender.send(0, NOISE[:800], LIMIT_S)
    watch = push.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    push.send_multipart([b"{}", bytes(MAX_PART_BYTES + 1)])
    assert watch.poll(LIMIT_S * 1e3)
    watch.close()
    assert sender.send(800, NOISE[:800], LIMIT_S)
    arrived(inboxes["a"], 2)
    push.send_multipart([b"{}", b""])  # it may try again
    await_true(lambda: inlet.refused == 1)


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:5757", "tcp://*:5757", "tcp://192.168.1.2:5757"])
def test_other_machines_are_let_in_by_insecure_alone(endpoint):
    with pytest.raises(ConfigError, match=r"transport\.audio is '.*set transport\.insecure to true"):
        Inlet(endpoint, {})
    if endpoint == "tcp://0.0.0.0:5757":
        Inlet("tcp://0.0.0.0:0", {}, insecure=True).close()


def test_an_endpoint_in_use_is_said_with_its_key_and_a_closed_one_is_free(inlet):
    with pytest.raises(TransportError, match=r"is in use; .* or change transport\.audio"):
        Inlet(inlet.endpoint, {})
    inlet.close()
    inlet.close()
    assert not inlet.alive
    Inlet(inlet.endpoint, {}).close()


def test_where_nobody_listens_nothing_is_taken_until_somebody_does(opened, inboxes):
    first = Inlet(ANY, {"a": Inbox()})
    first.close()
    outlet = Outlet(first.endpoint, "a")
    opened(_Closing(outlet))
    assert not outlet.ready(0.05)
    assert not outlet.send(0, NOISE[:800], 0.0)
    opened(Inlet(first.endpoint, inboxes))
    assert outlet.send(800, NOISE[:800], LIMIT_S)
    assert arrived(inboxes["a"], 1)[0].packet.header.first_sample == 800, "what was not taken is not sent later"


def test_what_nobody_reads_is_refused_after_a_bounded_number_of_packets(opened):
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.set(zmq.RCVHWM, 1)
    pull.bind(ANY)
    outlet = Outlet(pull.last_endpoint.decode(), "a")
    assert outlet.ready(LIMIT_S)
    taken = 0
    while outlet.send(16_000 * taken, NOISE, 0.5):  # a second of sound each
        taken += 1
    assert QUEUED_PACKETS <= taken < 2 * QUEUED_PACKETS
    outlet.close(0.0)
    context.destroy(linger=0)


def test_where_sound_cannot_be_sent_to_is_said_before_any_is():
    with pytest.raises(TransportError, match="cannot be connected to"):
        Outlet(f"ipc:///tmp/{'x' * 200}", "a")


def test_closing_sends_first_what_is_queued(inlet, inboxes):
    outlet = Outlet(inlet.endpoint, "a")
    for n in range(QUEUED_PACKETS):
        assert outlet.send(800 * n, NOISE[:800], LIMIT_S)
    outlet.close(LIMIT_S)
    assert len(arrived(inboxes["a"], QUEUED_PACKETS)) == QUEUED_PACKETS


def test_each_run_has_a_name_of_its_own(inboxes, outlet):
    sender = outlet("a")
    sender.send(0, NOISE[:800], LIMIT_S)
    sender.begin()
    sender.send(0, NOISE[:800], LIMIT_S)
    assert len({arrival.packet.header.run for arrival in arrived(inboxes["a"], 2)}) == 2


def test_the_sender_in_the_documentation_is_heard(opened, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    inbox = Inbox()
    inlet = opened(Inlet(f"ipc://{tmp_path}/audio", {"kitchen": inbox}))
    code = code.replace("tcp://127.0.0.1:5757", inlet.endpoint).replace("time.sleep(0.05)", "")
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
    packets = [arrival.packet for arrival in arrived(inbox, 41)]
    assert sum(packet.n_samples for packet in packets) == 32_000
    assert packets[-1].header.end
    assert inlet.refused == 0
