"""Whatever arrives from outside, both ends of the wire go on: requests, events, answers, sound, and bytes of any kind.

``sh scripts/fuzz`` is the long form: these tests again and again, and what they call by how far an input leads.
"""

import json
import os
import socket
import threading
from contextlib import ExitStack, closing, suppress
from functools import lru_cache
from uuid import uuid4

import fuzzed
import msgspec
import numpy as np
import pytest
import yaml
import zmq
from fuzzed import ANSWER, EVENTS, HEADER, REQUEST, check_sentence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serstream_process import LIMIT_S, run_script

from serstream import request
from serstream.errors import EventError, TransportError
from serstream.events import Gap, encode
from serstream.gate import Gate
from serstream.history import Lost
from serstream.keys import create
from serstream.packets import encode as encode_packet
from serstream.resources import packaged
from serstream.transport import Subscriber

MUTATED = 300
fuzz = settings(
    deadline=None,
    max_examples=int(os.environ.get("SERSTREAM_FUZZ_EXAMPLES", "100")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # a daemon is meant to outlive every example
)

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**53, 2**63, 2**64, -1])
    | st.floats()
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NESTED = st.builds(lambda piece, n: piece * n, st.sampled_from([b"[", b'{"a":', b'{"id":[']), st.integers(1, 9_000))


def spoilt(fields):
    """Return a strategy of objects like this one in JSON, with fields changed, left out or added, or torn."""
    changed = st.dictionaries(st.sampled_from(sorted(fields)) | st.text(max_size=5), ANYTHING, max_size=3)
    dropped = st.sets(st.sampled_from(sorted(fields)), max_size=1)

    def build(changes, without):
        return json.dumps({k: v for k, v in {**fields, **changes}.items() if k not in without}).encode()

    whole = st.builds(build, changed, dropped)
    places, noise = st.integers(0, 200), st.binary(max_size=4)
    torn = st.builds(lambda text, at, noise: text[:at] + noise + text[at:], whole, places, noise)
    return whole | torn | NESTED | st.binary(max_size=100)


def spoilt_event(event):
    """Return a strategy of messages like that of this event."""
    topic, _, body = encode(event).partition(b" ")
    topics = st.just(topic) | st.binary(max_size=40).map(lambda tail: b"serstream.v1." + tail)
    return st.builds(lambda topic, body: topic + b" " + body, topics, spoilt(json.loads(body)))


ANY_EVENT = st.one_of(*map(spoilt_event, EVENTS)) | st.binary(max_size=100)
ANY_BODIES = st.lists(
    st.one_of(*(spoilt(json.loads(encode(event).partition(b" ")[2])) for event in EVENTS)), max_size=3
)


@pytest.fixture(scope="module")
def opened(context):
    with ExitStack() as stack:
        yield lambda thing: stack.enter_context(closing(thing))


@pytest.fixture(scope="module")
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture(scope="module")
def daemon():
    with fuzzed.daemon("tcp://127.0.0.1:0", "tcp://127.0.0.1:0") as made:
        yield made


# --- requests -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(daemon, context, opened):
    client = opened(context.socket(zmq.DEALER))
    client.linger = 0
    client.connect(daemon.control_endpoint)
    return client


@fuzz
@given(parts=st.lists(spoilt(REQUEST), min_size=1, max_size=4))
def test_every_request_is_answered_and_none_of_them_fails_in_the_daemon(client, parts):
    fuzzed.ask(client, parts)


@pytest.fixture(scope="module")
def guarded(opened, tmp_path_factory):
    """A daemon with keys, in which a laptop may listen."""
    folder = tmp_path_factory.mktemp("guarded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        keys = folder / "serstream" / "keys"
        create("serstream", keys)
        (keys / "clients").write_text(create("laptop", keys).client_line("listen") + "\n")
        gate = opened(Gate("serstream", "clients"))
        with fuzzed.daemon("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", gate=gate) as made:
            yield made


@fuzz
@given(noise=st.lists(st.binary(max_size=200), max_size=3), greeted=st.booleans())
@pytest.mark.parametrize("keys", [False, True])
def test_bytes_of_any_kind_at_a_port_stop_nobody(daemon, guarded, keys, noise, greeted):
    publisher, key = (guarded, "laptop") if keys else (daemon, None)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01" + (b"CURVE" if keys else b"NULL").ljust(20, b"\0") + bytes(32)
    for endpoint in (publisher.events_endpoint, publisher.control_endpoint):
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port)), LIMIT_S) as stranger, suppress(OSError):
            for part in ([greeting] if greeted else []) + noise:
                stranger.sendall(part)
    assert request(publisher.control_endpoint, "status", LIMIT_S, key=key) == "status"


# --- events and answers ---------------------------------------------------------------------------------


@fuzz
@given(message=ANY_EVENT)
def test_a_message_is_an_event_or_refused_in_a_sentence(message):
    fuzzed.hear_event(message)


@fuzz
@given(
    heard=st.lists(ANY_EVENT, max_size=5),
    answers=st.lists(st.tuples(st.booleans(), st.booleans(), ANY_BODIES | st.binary(max_size=50)), max_size=9),
)
def test_a_follower_says_nothing_but_events_and_losses_whatever_it_is_told(heard, answers):
    pages = [b"[" + b",".join(bodies) + b"]" if isinstance(bodies, list) else bodies for _, _, bodies in answers]
    fuzzed.follow(heard, [(ok, more, page) for (ok, more, _), page in zip(answers, pages, strict=True)])


class Impostor:
    """In the place of a daemon: sends what it is told, and answers every request with the same nonsense."""

    def __init__(self, context):
        self.pub, self._router = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
        for made in (self.pub, self._router):
            made.linger = 0
            made.bind("tcp://127.0.0.1:0")
        self.events, self.control = (made.last_endpoint.decode() for made in (self.pub, self._router))
        self.answer = b""
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while not self._ends.is_set():
            if self._router.poll(50):
                self._router.send_multipart([self._router.recv_multipart()[0], self.answer])

    def close(self):
        self._ends.set()
        self._thread.join()
        self._router.close()
        self.pub.close()


@pytest.fixture(scope="module")
def impostor(context, opened):
    return opened(Impostor(context))


@pytest.fixture(scope="module")
def subscriber(impostor, opened):
    subscriber = opened(Subscriber(impostor.events, impostor.control, types=("gap",), control_timeout_s=0.01))
    while not impostor.pub.poll(0):
        subscriber.receive(0.01)
    return subscriber


ANSWERS = spoilt(ANSWER)


@fuzz
@given(answer=ANSWERS)
def test_a_request_is_answered_or_refused_in_a_sentence_whatever_a_daemon_says(impostor, answer):
    impostor.answer = answer
    try:
        request(impostor.control, "status", LIMIT_S)
    except TransportError as error:
        check_sentence(error)


@fuzz
@given(answer=ANSWERS, message=spoilt_event(EVENTS[0]))
def test_a_subscriber_goes_on_behind_whatever_a_daemon_says(impostor, subscriber, answer, message):
    impostor.answer = answer
    impostor.pub.send(message)
    last = msgspec.structs.replace(EVENTS[0], session=str(uuid4()), seq=1)
    impostor.pub.send(encode(last))
    item = None
    while item != last:
        with suppress(EventError):
            item = subscriber.receive(LIMIT_S)
            assert isinstance(item, Gap | Lost)


# --- sound ----------------------------------------------------------------------------------------------


@fuzz
@given(
    heads=st.lists(spoilt(json.loads(encode_packet(HEADER, np.zeros(1, np.float32))[0])), max_size=6),
    sizes=st.lists(st.integers(0, 3) | st.just(32_000), min_size=6, max_size=6),
)
def test_a_packet_is_taken_or_refused_and_what_waits_is_bounded(heads, sizes):
    fuzzed.receive([[head, bytes(size)] for head, size in zip(heads, sizes, strict=False)])


# --- files


@fuzz
@given(text=spoilt(yaml.safe_load(packaged("config.yaml").read_text())))
def test_a_configuration_is_taken_or_refused_in_a_sentence(text, reader):
    reader("configuration")(text)


@fuzz
@given(text=spoilt(json.loads((fuzzed.MODEL / "manifest.json").read_bytes())))
def test_a_manifest_is_taken_and_can_hear_or_is_refused_in_a_sentence(text, reader):
    reader("manifest")(text)


# --- everything, without Hypothesis: the short form of `sh scripts/fuzz`


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Return what reads the bytes of a target."""
    with ExitStack() as stack:
        yield lru_cache(lambda name: stack.enter_context(fuzzed.TARGETS[name](tmp_path_factory.mktemp(name))))


@pytest.mark.parametrize("name", fuzzed.TARGETS)
def test_what_was_worth_to_keep_and_what_is_near_it_is_read_or_refused_in_a_sentence(name, reader):
    kept = fuzzed.inputs(name)
    for data in [*kept, *fuzzed.mutated(kept, MUTATED, seed=0)]:
        reader(name)(data)


@pytest.mark.parametrize("name", fuzzed.TARGETS)
def test_nothing_that_a_target_begins_with_is_refused_before_it_is_read(name, reader, monkeypatch):
    """A target whose own inputs are refused at once would fuzz nothing."""
    refused = []
    monkeypatch.setattr(fuzzed, "check_sentence", refused.append)
    reader(name)(fuzzed.inputs(name)[0])
    assert refused == []


def test_the_command_refuses_what_it_cannot_do_before_anything_happens():
    for asked, sentence in (
        (["--only", "x"], "x is no target; name some of configuration, "),
        (["--minutes", "0"], "0.1"),
    ):
        done = run_script("fuzz", *asked)
        assert (done.returncode, done.stdout) == (2, "")
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
