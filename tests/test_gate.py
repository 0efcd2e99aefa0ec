"""Who is let in: real sockets with real keys, between threads and processes."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, closing

import numpy as np
import pytest
import zmq
from serstream_process import LIMIT_S, Daemon, Serstream, await_true, hear

from serstream import publisher, request
from serstream.audio import Inlet, Outlet
from serstream.endpoints import Wire
from serstream.errors import ConfigError, TransportError
from serstream.events import Gap
from serstream.gate import Gate, cut
from serstream.handshakes import TRIES, probe
from serstream.inbox import Inbox
from serstream.keys import client_keys, create
from serstream.publisher import Publisher
from serstream.transport import Subscriber

SILENCE = np.zeros(160, np.float32)


@pytest.fixture
def opened():
    with ExitStack() as stack:
        yield lambda thing: stack.enter_context(closing(thing))


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """The user's folder with the daemon's pair, clients of one right each, a stranger, and a way to change the list."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "serstream" / "keys"
    pairs = {name: create(name, folder) for name in ("serstream", "listen", "control", "send", "stranger")}

    def allow(*rights):
        (folder / "clients").write_text("".join(f"{pairs[right].client_line(right)}\n" for right in rights))

    allow("listen", "control", "send")
    return allow


@pytest.fixture
def gate(keys, opened):
    return opened(Gate("serstream", "clients"))


@pytest.fixture(params=["tcp", "ipc"])
def daemon(request, gate, opened, tmp_path):
    ends = ["tcp://127.0.0.1:0"] * 2 if request.param == "tcp" else [f"ipc://{tmp_path}/{n}" for n in "ec"]
    return opened(Publisher(*ends, session="s", handler=lambda asked: asked.request, gate=gate))


@pytest.fixture
def inlet(gate, opened):
    return opened(Inlet("tcp://127.0.0.1:0", {"a": Inbox()}, gate=gate))


@pytest.fixture
def outlet(inlet):
    with ExitStack() as stack:

        def connect(key):
            made = Outlet(inlet.endpoint, "a", key=key)
            stack.callback(made.close, 0.0)
            return made

        yield connect


def publish(daemon):
    gap = Gap(
        **{"source": "mic", "session": "s", "sample": 1, "stream_s": 0.1},
        **{"phase": "end", "cause": "stalled", "lost_samples": 1, "estimated": True},
    )
    return daemon.publish(gap, time="2026-01-01T00:00:00Z", latency_s=0.1)


def ask(daemon, name, key, **options):
    return request(daemon.control_endpoint, name, LIMIT_S, key=key, **options)


def subscribe(daemon, key, **options):
    return Subscriber(daemon.events_endpoint, daemon.control_endpoint, key=key, **options)


# --- rights ---------------------------------------------------------------------------------------------


def test_each_request_needs_its_right(daemon):
    publish(daemon)
    assert ask(daemon, "status", "listen") == "status"
    assert [e["seq"] for e in ask(daemon, "snapshot", "listen")] == [1]
    assert [e["seq"] for e in ask(daemon, "replay", "listen", source="mic")] == [1]
    for name in ("mute", "unmute", "reload"):
        assert ask(daemon, name, "control") == name
        with pytest.raises(TransportError, match=f"client listen has the right to listen alone; '{name}' needs"):
            ask(daemon, name, "listen")
    for name in ("status", "snapshot", "replay"):
        with pytest.raises(TransportError, match=f"client control has the right to control alone; '{name}' needs"):
            ask(daemon, name, "control")


def test_events_are_for_those_who_may_listen(daemon, opened):
    publish(daemon)
    assert opened(subscribe(daemon, "listen")).receive(LIMIT_S).seq == 1
    for key in ("control", "send", "stranger"):
        with pytest.raises(TransportError, match=f"does not let the key {key} listen; .* the line: {key} .* listen$"):
            opened(subscribe(daemon, key)).receive(LIMIT_S)


@pytest.mark.parametrize("key", ["send", "stranger"])
def test_a_request_without_any_right_is_told_so(daemon, key):
    for name, right in (("mute", "control"), ("status", "listen")):
        with pytest.raises(TransportError, match=f"does not let the key {key} {right}; .* the line: {key} .* {right}$"):
            ask(daemon, name, key)


def test_sound_is_for_those_who_may_send(inlet, outlet):
    assert outlet("send").send(0, SILENCE, LIMIT_S)
    await_true(lambda: inlet.packets == 1)
    with pytest.raises(TransportError, match="does not let the key listen send; its list of clients needs the line"):
        outlet("listen").ready(LIMIT_S)
    assert (inlet.packets, inlet.refused) == (1, 0)


def test_the_daemon_itself_may_listen_and_no_more(daemon, gate, opened):
    publish(daemon)
    assert opened(subscribe(daemon, gate.guest)).receive(LIMIT_S).seq == 1
    with pytest.raises(TransportError, match="needs the right to control"):
        ask(daemon, "mute", gate.guest)


def test_a_refusal_is_said_again_to_who_asks_again(daemon, opened):
    subscriber = opened(subscribe(daemon, "stranger"))
    for _ in range(2):
        with pytest.raises(TransportError, match="does not let the key stranger"):
            subscriber.receive(LIMIT_S)


# --- keys that do not fit -------------------------------------------------------------------------------


def test_a_client_without_a_key_is_told_that_it_needs_one(daemon, opened):
    with pytest.raises(TransportError, match="name yours with --key, or make one: serstream keygen"):
        opened(Subscriber(daemon.events_endpoint, daemon.control_endpoint)).receive(LIMIT_S)
    with pytest.raises(TransportError, match="name yours with --key"):
        request(daemon.control_endpoint, "status", LIMIT_S)


def test_a_client_with_the_key_of_another_daemon_is_told_so(daemon, opened):
    with pytest.raises(TransportError, match="does not have the key stranger; get the public key of that daemon"):
        opened(subscribe(daemon, "listen", server_key="stranger")).receive(LIMIT_S)
    with pytest.raises(TransportError, match="does not have the key stranger"):
        ask(daemon, "status", "listen", server_key="stranger")


def test_a_client_with_a_key_for_a_daemon_without_is_told_so(keys, opened):
    plain = opened(Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", session="s"))
    with pytest.raises(TransportError, match="takes no keys; leave --key out"):
        opened(subscribe(plain, "listen")).receive(LIMIT_S)
    with pytest.raises(TransportError, match="takes no keys"):
        ask(plain, "status", "listen")


def test_a_tunnel_whose_daemon_is_not_there_yet_is_waited_for(keys, opened):
    """It takes every connection and ends it: nobody may be told then that a key is wrong."""
    gate = opened(Gate("serstream", "clients"))
    with socket.create_server(("127.0.0.1", 0)) as tunnel:
        endpoint = f"tcp://127.0.0.1:{tunnel.getsockname()[1]}"
        subscriber = opened(Subscriber(endpoint, endpoint, key="listen"))

        def turn_away():
            for _ in range(4 * TRIES):
                tunnel.accept()[0].close()

        thread = threading.Thread(target=turn_away)
        thread.start()
        while thread.is_alive():
            assert subscriber.receive(0.05) is None
    daemon = opened(Publisher(endpoint, "tcp://127.0.0.1:0", session="s", gate=gate))
    received = None
    while received is None:
        publish(daemon)
        received = subscriber.receive(0.1)
    assert isinstance(received, Gap)


def test_a_probe_says_how_a_daemon_lets_clients_in(daemon, opened):
    plain = opened(Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", session="s"))
    assert probe(daemon.events_endpoint) == "CURVE"
    assert probe(plain.events_endpoint) == "NULL"
    assert probe("tcp://127.0.0.1:1") is None


def test_without_a_gate_that_answers_nobody_comes_in(gate, opened):
    """ZeroMQ lets everybody in who has the daemon's key where nobody answers it, unless told not to."""
    elsewhere = opened(Wire(None))
    pub = elsewhere.socket(zmq.PUB, gate.options("events"))
    endpoint = elsewhere.bind(pub, "tcp://127.0.0.1:0", "transport.events")
    with pytest.raises(TransportError):
        opened(Subscriber(endpoint, endpoint, key="listen")).receive(LIMIT_S)


# --- a list that changes --------------------------------------------------------------------------------


def test_a_client_that_is_added_is_let_in_without_a_restart(daemon, keys, opened):
    publish(daemon)
    keys()
    with pytest.raises(TransportError, match="does not let the key listen"):
        opened(subscribe(daemon, "listen")).receive(LIMIT_S)
    keys("listen")
    assert opened(subscribe(daemon, "listen")).receive(LIMIT_S).seq == 1


def test_a_client_that_is_removed_is_cut_off_and_others_lose_nothing(daemon, gate, keys, opened):
    publish(daemon)
    stays, goes = opened(subscribe(daemon, gate.guest)), opened(subscribe(daemon, "listen"))
    assert [stays.receive(LIMIT_S).seq, goes.receive(LIMIT_S).seq] == [1, 1]
    keys("control")
    with pytest.raises(TransportError, match="does not let the key listen"):
        goes.receive(LIMIT_S)
    publish(daemon)
    assert stays.receive(LIMIT_S).seq == 2


def test_a_right_to_control_that_was_taken_away_is_gone_on_an_open_connection(daemon, keys, opened):
    wire = opened(Wire(None))
    dealer = wire.socket(zmq.DEALER, client_keys("control", None).options())
    wire.connect(dealer, daemon.control_endpoint)

    def mute():
        dealer.send(b'{"request": "mute"}')
        assert dealer.poll(LIMIT_S * 1e3)
        return dealer.recv()

    assert b'"ok":true' in mute()
    keys("listen")
    await_true(lambda: b"client unknown has lost its rights" in mute())


def test_a_sender_that_is_removed_is_cut_off(inlet, outlet, keys):
    sender = outlet("send")
    assert sender.send(0, SILENCE, LIMIT_S)
    keys("listen")

    def refused():
        try:
            sender.ready(0.0)
        except TransportError as error:
            return "does not let the key send send" in str(error)

    await_true(refused)


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "ipc", "abstract"])
def test_a_cut_ends_the_connections_of_one_endpoint_alone_and_leaves_nothing_open(kind, opened, tmp_path):
    """Twice at the same kind of place: the first endpoint is cut, the second not."""

    def listen(name):
        if kind.startswith("tcp"):
            host, family = ("127.0.0.1", socket.AF_INET) if kind == "tcp" else ("::1", socket.AF_INET6)
            server = opened(socket.create_server((host, 0), family=family))
            return server, f"tcp://{host if kind == 'tcp' else f'[{host}]'}:{server.getsockname()[1]}"
        path = str(tmp_path / name)
        server = opened(socket.socket(socket.AF_UNIX))
        server.bind(path if kind == "ipc" else f"\0{path}")
        server.listen()
        return server, f"ipc://{path}" if kind == "ipc" else f"ipc://@{path}"

    def dial(server):
        client = opened(socket.socket(server.family))
        client.settimeout(LIMIT_S)
        client.connect(server.getsockname())
        opened(server.accept()[0])
        return client

    (server, endpoint), (other, _) = listen("a"), listen("b")
    client, stays = dial(server), dial(other)
    before = os.listdir("/proc/self/fd")
    cut(endpoint)
    assert os.listdir("/proc/self/fd") == before
    assert client.recv(1) == b""
    stays.setblocking(False)
    with pytest.raises(BlockingIOError):
        stays.recv(1)
    dial(server)


# --- a client that asks too much ------------------------------------------------------------------------

FLOOD = """
import sys, zmq
socket = zmq.Context().socket(zmq.DEALER)
socket.connect(sys.argv[1])
while True:
    socket.send(b'{"id": 7, "request": "snapshot"}')
    while socket.poll(0):
        answer = socket.recv()
        if b"too many requests" in answer:
            print(answer.decode(), flush=True)
"""


def test_a_flood_is_refused_and_delays_neither_events_nor_others(opened):
    daemon = opened(Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", session="s"))
    publish(daemon)
    subscriber = opened(Subscriber(daemon.events_endpoint, daemon.control_endpoint))
    assert subscriber.receive(LIMIT_S).seq == 1
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, daemon.control_endpoint], stdout=subprocess.PIPE, text=True)
    try:
        said = flood.stdout.readline()
        assert '"id":7,"ok":false' in said
        assert "too many requests: a client may ask 100 times a second" in said
        for seq in range(2, 202):
            publish(daemon)
            assert subscriber.receive(LIMIT_S).seq == seq
        for _ in range(20):
            assert [e["seq"] for e in request(daemon.control_endpoint, "snapshot", LIMIT_S)] == [201]
        assert flood.poll() is None
    finally:
        flood.kill()
        flood.communicate()


def test_a_key_has_one_allowance_however_often_it_connects(gate, opened, monkeypatch):
    monkeypatch.setattr(publisher, "REQUESTS_PER_S", 1e-6)
    monkeypatch.setattr(publisher, "REQUESTS_AT_ONCE", 3)
    daemon = opened(Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", session="s", handler=str, gate=gate))
    for _ in range(3):
        assert ask(daemon, "status", "listen")
    with pytest.raises(TransportError, match="refused 'status': too many requests"):
        ask(daemon, "status", "listen")
    assert ask(daemon, "mute", "control")


def test_a_request_too_many_is_refused_under_its_own_id_where_it_has_one(opened, monkeypatch):
    monkeypatch.setattr(publisher, "REQUESTS_AT_ONCE", 0)
    daemon = opened(Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", session="s"))
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.connect(daemon.control_endpoint)
        for body, asked_id in ((b'{"id": "a7", "request": "snapshot"}', "a7"), (b"what?", None)):
            client.send(body)
            assert client.poll(LIMIT_S * 1e3)
            answer = client.recv_json()
            assert answer.pop("error").startswith("too many requests: ")
            assert answer == {"id": asked_id, "ok": False, "more": False}


# --- as users meet it -----------------------------------------------------------------------------------


def test_two_commands_and_a_line_let_a_laptop_listen(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "serstream" / "keys"
    said = []
    for name in ((), ("laptop",)):
        with Serstream("keygen", *name) as keygen:
            assert keygen.end() == 0
            said.append(keygen.out.all())
    assert [len(lines) for lines in said] == [2, 2]
    assert said[0][0].startswith(
        f"a daemon: transport.curve of its configuration has key: {folder}/serstream.key_secret"
    )
    (folder / "clients").write_text(said[1][1].partition("gets the line: ")[2] + "\n")
    config = {"sources": {"a": {"kind": "synthetic", "signal": "silence"}}, "transport": {"curve": {}}}
    with Daemon(tmp_path, config) as daemon:
        daemon.ready()
        with daemon.subscribe(key="laptop") as subscriber:
            hear(subscriber, lambda event: event.type == "health")
        ends = ("--control", daemon.control)
        with Serstream("status", *ends, "--key", "laptop") as status:
            assert status.end() == 0
        with Serstream("mute", *ends, "--key", folder / "laptop.key_secret") as mute:
            assert mute.end() == 1
            assert "client laptop has the right to listen alone; 'mute' needs the right to control" in mute.err.lines[0]
        with Serstream("listen", "--connect", daemon.events, *ends) as listen:
            assert listen.end() == 1
            assert "name yours with --key" in listen.err.lines[0]
        (folder / "laptop.key_secret").chmod(0o644)
        with Serstream("status", *ends, "--key", "laptop") as status:
            assert status.end() == 2
            assert "close it: chmod 600" in status.err.lines[0]
        with Serstream("keygen", "laptop") as keygen:
            assert keygen.end() == 2
            assert "exists; name another key" in keygen.err.lines[0]


def test_a_daemon_without_its_key_or_its_list_ends_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no file serstream\.key_secret in"):
        Gate("serstream", "clients")
    create("serstream", tmp_path / "serstream" / "keys")
    with pytest.raises(ConfigError, match="there is no file clients in"):
        Gate("serstream", "clients")
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory; make it: touch"):
        Gate("serstream", f"{tmp_path}/list")


def test_keys_open_every_address(gate, keys, opened):
    daemon = opened(Publisher("tcp://0.0.0.0:0", "tcp://*:0", session="s", gate=gate))
    opened(Inlet("tcp://0.0.0.0:0", {}, gate=gate))
    publish(daemon)
    ends = [f"tcp://127.0.0.1:{end.rpartition(':')[2]}" for end in (daemon.events_endpoint, daemon.control_endpoint)]
    assert opened(Subscriber(*ends, key="listen")).receive(LIMIT_S).seq == 1
    with pytest.raises(TransportError, match="name yours with --key"):
        request(ends[1], "status", LIMIT_S)


# --- files of ipc endpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "expected"), [("owner", 0o600), ("group", 0o660)])
def test_an_ipc_endpoint_is_closed_to_others(opened, tmp_path, mode, expected):
    opened(Publisher(f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/c", session="s", ipc_mode=mode))
    opened(Inlet(f"ipc://{tmp_path}/a", {}, ipc_mode=mode))
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "eca"] == [expected] * 3


def test_a_file_in_the_place_of_a_socket_is_kept(tmp_path):
    (tmp_path / "e").write_text("precious")
    with pytest.raises(TransportError, match=r"transport\.events is ipc://.*/e, which is there and no socket"):
        Publisher(f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/c", session="s")
    assert (tmp_path / "e").read_text() == "precious"
