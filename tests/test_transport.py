"""Both ends of the wire, over real sockets."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

import serstream
from serstream import publisher
from serstream.errors import ConfigError, EventError, SourceError, TransportError
from serstream.events import Emotion, Gap, Health, Posterior, Speech, encode, encode_json
from serstream.gate import Gate
from serstream.history import PAGE_EVENTS, Answer, Follower, History, Request
from serstream.keys import SECRET, create
from serstream.publisher import MAX_SUBSCRIPTION_BYTES, Publisher
from serstream.transport import Lost, Subscriber, request

ANY = "tcp://127.0.0.1:0"
PATIENCE_S = 10.0
EMOTION, POSTERIOR, HEALTH = (f"serstream.v1.mic.{t}" for t in ("emotion", "posterior", "health"))


def _event(kind, session, **changes):
    base = {"source": "mic", "session": session, "sample": 160, "stream_s": 0.01} | changes
    match kind:
        case "emotion":
            return Emotion(**base, phase="update", id=1, label="happy", probability=0.7, start_s=0.5)
        case "speech":
            return Speech(**base, phase="start", start_s=0.5)
        case "gap":
            return Gap(**base, phase="end", cause="stalled", lost_samples=7, estimated=True)
        case "posterior":
            silent = {"posterior": None, "other": None, "voice": None}
            return Posterior(**base, **silent, speech=0.0, level_dbfs=-60.0, state="no_speech")
    counted = {"counters": {}, "rtf": 0.1, "latency_p50_s": 0.1, "latency_p99_s": 0.2}
    return Health(**({"topics": {}} | base), **counted, status="running", degraded=False)


class Daemon:
    """A publisher, and between it and its subscribers a relay that a test can let events fall through."""

    def __init__(self, context=None, events=ANY, control=ANY, **options):
        self.session = str(uuid4())
        self.publisher = Publisher(events, control, session=self.session, context=context, **options)
        self.control = self.publisher.control_endpoint
        self.events = self.publisher.events_endpoint

    def publish(self, kind, **changes):
        event = _event(kind, self.session, **changes)
        return self.publisher.publish(event, time="2026-01-01T00:00:00Z", latency_s=0.1)

    def close(self):
        self.publisher.close()


class Relay:
    """An XPUB socket by hand: knows when a subscription has arrived, and sends only what it is given."""

    def __init__(self, context, endpoint=ANY):
        self.socket, self.endpoint = _bound(context, zmq.XPUB, endpoint)

    def await_subscriptions(self, count):
        for _ in range(count):
            assert self.socket.poll(PATIENCE_S * 1e3)
            assert self.socket.recv()[:1] == b"\x01"

    def send(self, *events):
        for event in events:
            self.socket.send(encode(event))

    def close(self):
        self.socket.close()


def _bound(context, kind, endpoint=ANY):
    socket = context.socket(kind)
    socket.linger = 0
    socket.bind(endpoint)
    return socket, socket.last_endpoint.decode()


@pytest.fixture
def opened():
    with ExitStack() as stack:
        yield lambda thing: stack.enter_context(closing(thing))


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def client(context, opened):
    """Return a function that connects a socket of some kind to an endpoint."""

    def _client(kind, endpoint):
        socket = opened(context.socket(kind))
        socket.linger = 0
        socket.connect(endpoint)
        return socket

    return _client


@pytest.fixture
def daemon(opened):
    return opened(Daemon())


@pytest.fixture
def relay(context, opened):
    return opened(Relay(context))


@pytest.fixture
def join(relay, opened):
    """Return a function that connects a subscriber through the relay.

    The daemon first publishes an event of each type, which the subscriber gets from the snapshot: both know
    each other then, and what the test publishes begins at 2.
    """

    def _join(daemon, types=("emotion",), snapshot=True, **options):
        for kind in types:
            daemon.publish(kind)
        subscriber = opened(Subscriber(relay.endpoint, daemon.control, "mic", types, **options))
        relay.await_subscriptions(len(types))
        if snapshot:
            assert _seqs(_take(subscriber, len(types))) == [(1, True)] * len(types)
        return subscriber

    return _join


def _take(subscriber, count):
    items = [subscriber.receive(PATIENCE_S) for _ in range(count)]
    assert None not in items
    return items


def _seqs(events):
    return [(event.seq, event.replayed) for event in events]


def _meet(daemon, subscriber):
    """Publish health until a live one arrives: from then on the subscriber misses nothing."""
    for _ in range(1000):
        newest = daemon.publish("health")
        while (event := subscriber.receive(0.02)) is not None:
            if isinstance(event, Health) and not event.replayed:
                while event.seq < newest.seq:  # what a busy machine delivers late
                    (event,) = _take(subscriber, 1)
                return
    pytest.fail("the subscriber never heard the daemon")


def test_importing_serstream_loads_zeromq_and_msgspec_alone():
    heavy = ["numpy", "numba", "sounddevice", "yaml", "soundfile"]
    loaded = f"[m for m in {heavy} if m in sys.modules], 'zmq' in sys.modules"
    code = f"import sys, serstream; serstream.Subscriber; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_every_public_name_exists():
    assert all(hasattr(serstream, name) for name in serstream.__all__)


# --- publishing -----------------------------------------------------------------------------------------


def test_threads_that_publish_together_number_each_topic_without_holes(daemon):
    def publish():
        for _ in range(200):
            daemon.publish("emotion")
            daemon.publish("gap")

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert daemon.publish("health").topics == {EMOTION: 800, "serstream.v1.mic.gap": 800}
    assert daemon.publish("health", source="other").topics == {}
    kept = request(daemon.control, "replay", topic=EMOTION) + request(
        daemon.control, "replay", topic=EMOTION, from_seq=501
    )
    assert [event["seq"] for event in kept] == list(range(1, 801))


@pytest.mark.parametrize("transport", ["tcp", "ipc", "inproc", "localhost", "ipv6"])
def test_events_arrive_as_they_were_stamped_over_every_transport(transport, tmp_path, context, opened):
    if transport == "ipc":
        ends = {"events": f"ipc://{tmp_path}/events", "control": f"ipc://{tmp_path}/control"}
    elif transport == "inproc":
        ends = {"events": "inproc://events", "control": "inproc://control"}
    else:
        host = {"tcp": "127.0.0.1", "localhost": "localhost", "ipv6": "[::1]"}[transport]
        ends = {"events": f"tcp://{host}:*", "control": f"tcp://{host}:0"}
    shared = {"context": context} if transport == "inproc" else {}
    daemon = opened(Daemon(**ends, **shared))
    subscriber = opened(Subscriber(daemon.events, daemon.control, **shared))
    _meet(daemon, subscriber)
    sent = [daemon.publish(kind) for kind in ("posterior", "emotion", "speech", "gap", "health")]
    heard = _take(subscriber, len(sent))
    assert heard == sent
    assert [event.latency_s for event in heard] == [0.1] * 5
    assert request(daemon.control, "replay", topic=EMOTION, **shared)[0]["seq"] == 1


def test_a_subscriber_in_another_process_hears_the_same_bytes(daemon):
    code = (
        "import sys, serstream\n"
        "from serstream.events import encode_json\n"
        "with serstream.Subscriber(*sys.argv[1:3]) as subscriber:\n"
        "    for event in subscriber:\n"
        "        print(encode_json(event).decode(), flush=True)\n"
        "        if event.type == 'gap': break\n"
    )
    command = [sys.executable, "-c", code, daemon.events, daemon.control]
    heard = threading.Event()

    def read(process, lines):
        for line in process.stdout:
            lines.append(json.loads(line))
            if not lines[-1]["replayed"]:
                heard.set()

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        reader = threading.Thread(target=read, args=(process, lines))
        reader.start()
        for _ in range(1000):
            daemon.publish("health")
            if heard.wait(0.02):
                break
        sent = [daemon.publish("emotion"), daemon.publish("gap")]
        reader.join(PATIENCE_S)
        assert process.wait(PATIENCE_S) == 0
    assert lines[-2:] == [json.loads(encode_json(event)) for event in sent]


def _zmq_threads():
    """Return the policy of each thread of ZeroMQ that moves messages."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if (task / "comm").read_text().startswith("ZMQbg/IO"):
                found[task.name] = os.sched_getscheduler(int(task.name))
    return found


@pytest.mark.parametrize("has_gate", [False, True])
def test_zeromqs_threads_interrupt_nobody_who_computes(has_gate, tmp_path, opened):
    create("serstream", tmp_path)
    (tmp_path / "clients").touch()
    before, end_s = _zmq_threads(), monotonic() + PATIENCE_S
    gate = opened(Gate(str(tmp_path / f"serstream{SECRET}"), str(tmp_path / "clients"))) if has_gate else None
    opened(Daemon(gate=gate))

    def policies():
        return {policy for name, policy in _zmq_threads().items() if name not in before}

    while policies() != {os.SCHED_BATCH} and monotonic() < end_s:
        pass
    assert policies() == {os.SCHED_BATCH}


def test_closing_the_publisher_sends_what_is_still_queued(daemon, context, opened, monkeypatch):
    monkeypatch.setattr(publisher, "CLOSE_LIMIT_S", 100.0)  # however slowly this machine reads
    reader = opened(context.socket(zmq.SUB))
    reader.rcvhwm, reader.rcvbuf = 1, 4096
    reader.subscribe(b"")
    reader.connect(daemon.events)
    while not reader.poll(20):
        daemon.publish("health")
    large = _event("gap", daemon.session)
    for _ in range(900):  # more than the kernel takes off our hands
        daemon.publisher.publish(large, time="x" * 3000, latency_s=0.1)
    closing_thread = threading.Thread(target=daemon.close)
    closing_thread.start()
    heard = 0
    while heard < 900 and reader.poll(PATIENCE_S * 1e3):
        heard += b".gap " in reader.recv()
    closing_thread.join()
    assert heard == 900


def test_publishing_after_close_is_a_sentence(daemon):
    daemon.close()
    with pytest.raises(TransportError, match="after the publisher was closed"):
        daemon.publish("emotion")


def test_a_subscriber_that_does_not_read_stops_nobody_and_every_event_is_heard_or_lost(context, opened):
    daemon = opened(Daemon(context, "inproc://events", "inproc://control"))
    subscriber = opened(Subscriber(daemon.events, daemon.control, context=context))
    _meet(daemon, subscriber)
    for _ in range(25_000):
        daemon.publish("posterior")
    heard = len(list(iter(lambda: subscriber.receive(0.1), None)))
    assert 0 < heard < 25_000
    last = daemon.publish("posterior")
    lost, live = _take(subscriber, 2)
    assert live == last
    assert heard + lost.n_events == 25_000 == subscriber.lost_events + heard


# --- following ------------------------------------------------------------------------------------------


def test_a_late_joiner_starts_with_the_last_event_of_each_topic_and_no_older_one(daemon, opened):
    for kind in ["emotion"] * 30 + ["posterior"] * 5 + ["health"]:
        daemon.publish(kind)
    daemon.publish("emotion", source="other")
    subscriber = opened(Subscriber(daemon.events, daemon.control, "mic"))
    first = _take(subscriber, 3)
    assert {(event.topic, event.seq) for event in first} == {(EMOTION, 30), (POSTERIOR, 5), (HEALTH, 1)}
    assert all(event.replayed for event in first)
    _meet(daemon, subscriber)
    daemon.publish("emotion")
    assert _seqs(_take(subscriber, 1)) == [(31, False)]


def test_what_is_heard_before_the_first_receive_is_not_cut_off_by_the_snapshot(context, opened):
    daemon = opened(Daemon())
    daemon.publish("emotion")
    relay = opened(Relay(context, "inproc://relay"))
    subscriber = opened(Subscriber(relay.endpoint, daemon.control, context=context))
    relay.await_subscriptions(1)
    relay.send(*[daemon.publish("emotion") for _ in range(3)])
    assert _seqs(_take(subscriber, 3)) == [(2, False), (3, False), (4, False)]


def test_posteriors_between_snapshot_and_first_live_event_are_no_loss(daemon, relay, join):
    subscriber = join(daemon, ("posterior",))
    relay.send(*[daemon.publish("posterior") for _ in range(3)][2:])
    assert _seqs(_take(subscriber, 1)) == [(4, False)]
    assert subscriber.lost_events == 0


@pytest.mark.parametrize("kind", ["emotion", "speech", "gap"])
def test_a_hole_is_filled_in_order_and_marked_replayed(kind, daemon, relay, join):
    subscriber = join(daemon, (kind,))
    sent = [daemon.publish(kind) for _ in range(7)]
    relay.send(sent[0], sent[1], sent[5], sent[6])
    heard = _take(subscriber, 7)
    assert _seqs(heard) == [(n, n in (4, 5, 6)) for n in range(2, 9)]
    assert subscriber.lost_events == 0


def test_a_topic_that_begins_after_the_snapshot_has_a_hole_from_1(daemon, relay, opened):
    daemon.publish("health")
    subscriber = opened(Subscriber(relay.endpoint, daemon.control, "mic", ("health", "emotion")))
    relay.await_subscriptions(2)
    assert _seqs(_take(subscriber, 1)) == [(1, True)]
    sent = [daemon.publish("emotion") for _ in range(3)]
    relay.send(sent[2])
    assert _seqs(_take(subscriber, 3)) == [(1, True), (2, True), (3, False)]


def test_a_hole_of_many_pages_is_filled_in_order(daemon, relay, join):
    subscriber = join(daemon)
    sent = [daemon.publish("emotion") for _ in range(1301)]
    relay.send(sent[0], sent[-1])
    assert [event.seq for event in _take(subscriber, 1301)] == list(range(2, 1303))


def test_a_reader_slower_than_the_control_limit_still_gets_every_page(daemon, relay, join):
    subscriber = join(daemon, control_timeout_s=0.5)
    sent = [daemon.publish("emotion") for _ in range(1301)]
    relay.send(sent[0], sent[-1])
    heard = []
    while len(heard) < 1301:
        heard += _take(subscriber, 1)
        if len(heard) in (400, 900):
            threading.Event().wait(0.6)  # the reader is busy for longer than control_timeout_s
    assert [event.seq for event in heard] == list(range(2, 1303))


def test_what_the_daemon_has_forgotten_is_lost(relay, join, opened):
    daemon = opened(Daemon(replay_mb=0.001))
    subscriber = join(daemon)
    sent = [daemon.publish("emotion") for _ in range(50)]
    relay.send(sent[0], sent[-1])
    first, lost, *rest = _take(subscriber, 3)
    assert (first.seq, lost.topic, lost.session, lost.from_seq) == (2, EMOTION, daemon.session, 3)
    rest += _take(subscriber, 51 - lost.to_seq - len(rest))
    assert [event.seq for event in rest] == list(range(lost.to_seq + 1, 52))
    assert subscriber.lost_events == lost.n_events > 40


@pytest.mark.parametrize("kind", ["posterior", "health"])
def test_holes_of_posterior_and_health_are_lost_without_asking(kind, daemon, relay, join):
    subscriber = join(daemon, (kind,))
    sent = [daemon.publish(kind) for _ in range(5)]
    relay.send(sent[0], sent[4])
    first, lost, last = _take(subscriber, 3)
    assert (first.seq, last.seq) == (2, 6)
    assert lost == Lost(f"serstream.v1.mic.{kind}", daemon.session, 3, 5)


def test_a_health_event_reveals_that_the_end_of_another_topic_is_missing(daemon, relay, join):
    subscriber = join(daemon, ("emotion", "health"))
    sent = [daemon.publish("emotion") for _ in range(3)]
    relay.send(sent[0], daemon.publish("health"))
    heard = _take(subscriber, 4)
    assert [(event.type, event.seq) for event in heard] == [
        *(("emotion", n) for n in (2, 3, 4)),
        ("health", 2),
    ]


def test_doubles_are_dropped(daemon, relay, join):
    subscriber = join(daemon)
    first, second = daemon.publish("emotion"), daemon.publish("emotion")
    relay.send(first, first, second, first, second, daemon.publish("emotion"))
    assert [event.seq for event in _take(subscriber, 3)] == [2, 3, 4]


def test_a_silent_control_endpoint_delays_the_events_once_and_then_holes_are_lost(context, daemon, relay, join, opened):
    silent, daemon.control = _bound(context, zmq.ROUTER)
    opened(silent)
    subscriber = join(daemon, snapshot=False, control_timeout_s=0.3)
    sent = [daemon.publish("emotion") for _ in range(9)]
    relay.send(sent[1], sent[4], sent[8])
    heard = _take(subscriber, 5)
    lost = [(item.from_seq, item.to_seq) if isinstance(item, Lost) else item.seq for item in heard]
    assert lost == [3, (4, 5), 6, (7, 9), 10]
    assert json.loads(silent.recv_multipart()[-1])["request"] == "snapshot"
    assert not silent.poll(0), "a silent control endpoint was asked again at once"


def test_without_a_control_endpoint_events_flow(daemon, relay, join):
    subscriber = join(daemon, snapshot=False, control_timeout_s=0.1)
    daemon.close()
    session = str(uuid4())
    relay.send(_event("emotion", session, seq=5), _event("emotion", session, seq=6))
    assert [event.seq for event in _take(subscriber, 2)] == [5, 6]


def test_a_restarted_daemon_is_followed_from_the_first_event_of_its_new_session(daemon, opened):
    subscriber = opened(Subscriber(daemon.events, daemon.control))
    _meet(daemon, subscriber)
    daemon.publish("emotion")
    assert _seqs(_take(subscriber, 1)) == [(1, False)]
    daemon.close()
    again = opened(Daemon(events=daemon.events, control=daemon.control))
    for _ in range(4):
        again.publish("emotion")
    heard = [item for item in _take(subscriber, 4) if item.topic == EMOTION]
    assert [(event.session, event.seq) for event in heard] == [(again.session, n) for n in (1, 2, 3, 4)]


def test_a_subscriber_waits_for_a_daemon_that_starts_later_and_takes_its_snapshot(daemon, opened):
    daemon.close()
    subscriber = opened(Subscriber(daemon.events, daemon.control))
    assert subscriber.receive(0.05) is None
    late = opened(Daemon(events=daemon.events, control=daemon.control))
    late.publish("speech")
    late.publish("speech")
    assert _seqs(_take(subscriber, 1)) == [(2, True)]


def test_a_new_session_without_its_beginning_is_asked_for(relay, join, opened, daemon):
    subscriber = join(daemon)
    relay.send(daemon.publish("emotion"))
    _take(subscriber, 1)
    daemon.close()
    again = opened(Daemon(control=daemon.control))
    sent = [again.publish("emotion") for _ in range(3)]
    relay.send(sent[2])
    heard = _take(subscriber, 3)
    assert [(event.session, event.seq) for event in heard] == [(again.session, n) for n in (1, 2, 3)]


def test_a_foreign_message_raises_and_the_next_event_still_arrives(daemon, relay, join):
    subscriber = join(daemon)
    relay.socket.send(EMOTION.encode() + b" {broken")
    relay.send(daemon.publish("emotion"))
    with pytest.raises(EventError, match="is not an event"):
        subscriber.receive(PATIENCE_S)
    assert _seqs(_take(subscriber, 1)) == [(2, False)]


def test_types_of_a_newer_daemon_are_passed_over(daemon, relay, opened):
    daemon.publish("emotion")
    subscriber = opened(Subscriber(relay.endpoint, daemon.control))
    relay.await_subscriptions(1)
    assert _seqs(_take(subscriber, 1)) == [(1, True)]
    relay.socket.send(b'serstream.v1.mic.laughter {"type": "laughter"}')
    relay.send(daemon.publish("emotion"))
    assert _seqs(_take(subscriber, 1)) == [(2, False)]


def test_topics_that_are_no_text_are_passed_over(daemon, relay, opened):
    daemon.publish("emotion")
    subscriber = opened(Subscriber(relay.endpoint, daemon.control))
    relay.await_subscriptions(1)
    assert _seqs(_take(subscriber, 1)) == [(1, True)]
    relay.socket.send(b"serstream.v1.mic.\xff {}")
    relay.send(daemon.publish("emotion"))
    assert _seqs(_take(subscriber, 1)) == [(2, False)]


def test_an_event_may_be_written_with_spaces(daemon, relay, join):
    subscriber = join(daemon)
    event = daemon.publish("emotion")
    topic, _, body = encode(event).partition(b" ")
    relay.socket.send(topic + b" " + json.dumps(json.loads(body), indent=1).encode())
    assert _take(subscriber, 1) == [event]


def test_types_and_source_choose_what_is_heard(daemon, opened):
    subscriber = opened(Subscriber(daemon.events, daemon.control, types=["health", "gap"]))
    _meet(daemon, subscriber)
    for kind in ("emotion", "gap", "posterior"):
        daemon.publish(kind, source="other")
    daemon.publish("health")
    assert [(e.source, e.type) for e in _take(subscriber, 2)] == [("other", "gap"), ("mic", "health")]


def test_latest_keeps_only_the_newest_event(daemon, relay, join):
    subscriber = join(daemon, ("posterior",), snapshot=False, latest=True)
    sent = [daemon.publish("posterior") for _ in range(50)]
    relay.send(*sent)
    while (event := _take(subscriber, 1)[0]).seq < 51:
        pass
    assert event == sent[-1]
    assert subscriber.lost_events == 0


TYPES_TOLD = "choose from posterior, emotion, speech, gap, health"
ID_TOLD = "an id is 1 to 32 of the characters a-z, 0-9, _ and -"
LATEST_TOLD = "latest keeps the newest event of one topic; name one source and one type with it"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source": "Mic"}, f"source is 'Mic'; {ID_TOLD}"),
        ({"source": "a b"}, f"source is 'a b'; {ID_TOLD}"),
        ({"types": ["mood", "gap"]}, f"event types are mood, gap; {TYPES_TOLD}"),
        ({"types": "mood"}, f"event types are mood; {TYPES_TOLD}"),
        ({"types": []}, f"event types are none; {TYPES_TOLD}"),
        ({"latest": True}, LATEST_TOLD),
        ({"latest": True, "types": "gap"}, LATEST_TOLD),
        ({"latest": True, "source": "mic"}, LATEST_TOLD),
    ],
)
def test_impossible_sources_and_types_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(ConfigError) as caught:
        Subscriber(**options)
    assert str(caught.value) == sentence


def test_closing_ends_iteration_and_a_closed_subscriber_says_so(daemon):
    with Subscriber(daemon.events, daemon.control) as subscriber:
        sent = daemon.publish("emotion")
        heard = []
        for event in subscriber:
            heard.append((event.topic, event.seq))
            subscriber.close()
        assert heard == [(sent.topic, sent.seq)]
    with pytest.raises(TransportError, match="closed"):
        subscriber.receive(0)


def test_closing_ends_async_iteration(daemon):
    async def follow():
        heard = []
        async with Subscriber(daemon.events, daemon.control) as subscriber:
            daemon.publish("emotion")
            async for event in subscriber:
                heard.append(event.seq)
                subscriber.close()
        return heard

    assert asyncio.run(follow()) == [1]


def test_async_iteration_hears_what_iteration_hears(daemon, relay, join):
    subscriber = join(daemon)
    sent = [daemon.publish("emotion") for _ in range(6)]

    async def follow():
        assert await subscriber.receive_async(0.05) is None
        relay.send(sent[0], sent[4], sent[5])
        heard = []
        async for event in subscriber:
            heard.append(event)
            if event.seq == 7:
                return heard

    assert [event.seq for event in asyncio.run(follow())] == [2, 3, 4, 5, 6, 7]


def test_other_tasks_run_while_a_task_waits_and_cancelling_loses_nothing(daemon, relay, join):
    async def follow():
        async with join(daemon) as subscriber:
            waiting = asyncio.create_task(subscriber.receive_async())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            later = asyncio.create_task(subscriber.receive_async(PATIENCE_S))
            await asyncio.sleep(0)
            relay.send(daemon.publish("emotion"))
            return await later

    assert asyncio.run(follow()).seq == 2


@settings(deadline=None, max_examples=60)
@given(
    heard=st.lists(st.integers(1, 40), max_size=60),
    forgotten=st.integers(0, 40),
    answered=st.booleans(),
)
def test_whatever_is_dropped_or_doubled_every_event_is_yielded_or_lost_once_and_in_order(heard, forgotten, answered):
    session, now = str(uuid4()), itertools.count()
    follower, memory = Follower("mic", ("emotion",), 1.0), History(1e9, 1e3)

    def answer():
        while (asked := follower.asking) is not None:
            if not answered:
                follower.tick(next(now) + 1e6)
                continue
            page, more = memory.page(asked) if asked.request == "replay" else ([], False)
            body = b"[" + b",".join(page) + b"]"
            follower.answer(Answer(id=asked.id, ok=True, more=more, result=body), next(now))

    follower.join(0.0)
    follower.tick(0.0)
    answer()
    for seq in range(forgotten + 1, 41):
        event = _event("emotion", session, seq=seq)
        memory.add(event, encode_json(event), 0.0)
    for seq in heard:
        follower.hear(_event("emotion", session, seq=seq), next(now))
        answer()
    spans = [(i.from_seq, i.to_seq) if isinstance(i, Lost) else (i.seq, i.seq) for i in follower.ready]
    assert all(first == last + 1 for (_, last), (first, _) in itertools.pairwise(spans))
    if heard:
        assert spans[0][0] == (1 if answered else heard[0])
        assert spans[-1][1] == max(heard)
    if answered:
        lost = {n for i in follower.ready if isinstance(i, Lost) for n in range(i.from_seq, i.to_seq + 1)}
        assert lost <= set(range(1, forgotten + 1))


def test_an_answer_that_comes_too_late_is_dropped():
    follower = Follower("mic", ("emotion",), 1.0)
    follower.join(0.0)
    follower.tick(0.0)
    late = Answer(id=follower.asking.id, ok=True, result=b"[%s]" % encode_json(_event("emotion", "s", seq=7)))
    follower.tick(1e6)
    assert follower.asking is None
    follower.answer(late, 1e6)
    follower.hear(_event("emotion", "s", seq=9), 1e6)
    assert [event.seq for event in follower.ready] == [9]


# --- requests -------------------------------------------------------------------------------------------


def _status(asked):
    match asked.request:
        case "status":
            return {"source": asked.source}
        case "mute":
            raise SourceError("source 'x' is unknown; sources are mic")
        case "reload":
            return object()
    return 1 // 0


@pytest.fixture
def answering(opened):
    return opened(Daemon(handler=_status))


@pytest.mark.parametrize("kind", ["REQ", "DEALER", "DEALER with delimiter"])
def test_req_and_dealer_clients_are_both_answered(kind, answering, client):
    client = client(zmq.REQ if kind == "REQ" else zmq.DEALER, answering.control)
    delimiter = [b""] if "delimiter" in kind else []
    client.send_multipart([*delimiter, b'{"schema": "serstream/1", "id": "a7", "request": "status", "source": "mic"}'])
    assert client.poll(PATIENCE_S * 1e3)
    *envelope, body = client.recv_multipart()
    assert envelope == delimiter
    assert json.loads(body) == {"id": "a7", "ok": True, "more": False, "result": {"source": "mic"}}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "is no request"),
        (b"\xff\xfe", "is no request"),
        (b"[" * 60_000, "is no request"),
        (b'{"a":' * 10_000, "is no request"),
        (b"[]", "is no request"),
        (b'{"id": 3}', "missing required field `request`"),
        (b'{"request": 3}', "is no request"),
        (b'{"request": "status", "id": []}', "is no request"),
        (b'{"request": "status", "schema": "serstream/2"}', "serstream/2"),
        (b'{"request": "replay", "topic": "x", "from_seq": 0}', "from_seq"),
        (b'{"request": "replay", "topic": "x", "from_seq": 1e400}', "is no request"),
        (b'{"request": "replay"}', "neither a topic nor a source"),
        (b'{"request": "replay", "topic": "x", "session": "old"}', "session 'old' is unknown; the current"),
        (b'{"request": "mute"}', "sources are mic"),
        (b'{"request": "reload"}', "failed in the daemon"),
        (b'{"request": "dance"}', "ZeroDivisionError"),
    ],
)
def test_a_bad_request_gets_a_sentence_and_the_next_one_an_answer(body, sentence, answering, client):
    client = client(zmq.DEALER, answering.control)
    client.send(body)
    assert client.poll(PATIENCE_S * 1e3)
    answer = json.loads(client.recv())
    assert not answer["ok"]
    assert not answer["more"]
    assert sentence in answer["error"]
    assert "result" not in answer
    assert request(answering.control, "status", source="mic") == {"source": "mic"}


def test_the_id_of_a_bad_request_comes_back(answering, client):
    client = client(zmq.REQ, answering.control)
    client.send(b'{"id": 41, "request": "replay", "from_seq": "x"}')
    assert client.poll(PATIENCE_S * 1e3)
    assert json.loads(client.recv())["id"] == 41


def test_an_oversized_request_ends_the_connection_and_not_the_daemon(answering, context, opened):
    client = opened(context.socket(zmq.DEALER))
    monitor = opened(client.get_monitor_socket(zmq.EVENT_DISCONNECTED))
    client.connect(answering.control)
    client.send(b" " * 100_000)
    assert monitor.poll(PATIENCE_S * 1e3)
    assert answering.publisher.alive
    assert request(answering.control, "status") == {"source": None}


def test_an_oversized_subscription_ends_the_connection_and_not_the_daemon(daemon, context, opened):
    greedy = opened(context.socket(zmq.SUB))
    monitor = opened(greedy.get_monitor_socket(zmq.EVENT_DISCONNECTED))
    greedy.subscribe(b"x" * (MAX_SUBSCRIPTION_BYTES + 1))
    greedy.connect(daemon.events)
    assert monitor.poll(PATIENCE_S * 1e3)
    daemon.publish("emotion")
    assert opened(Subscriber(daemon.events, daemon.control)).receive(PATIENCE_S).seq == 1


def test_a_refused_request_raises_the_daemons_sentence(answering, daemon):
    with pytest.raises(TransportError, match=r"refused 'mute'.*sources are mic"):
        request(answering.control, "mute", source="x")
    with pytest.raises(TransportError, match="'status' is unknown; this daemon knows snapshot and replay"):
        request(daemon.control, "status")


def test_without_a_daemon_a_request_says_how_to_start_one(daemon):
    daemon.close()
    begun_s = monotonic()
    with pytest.raises(TransportError) as refusal:
        request(daemon.control, "status", timeout_s=0.2)
    assert monotonic() - begun_s >= 0.2, "it is waited for as long as was asked"
    assert str(refusal.value) == (
        f"no serstream daemon answers at {daemon.control}; start one with `serstream run`, "
        "or name its control endpoint with --control"
    )


def test_what_is_no_daemon_is_named_so(context, opened):
    stranger, endpoint = _bound(context, zmq.ROUTER)
    opened(stranger)

    def answer():
        stranger.send_multipart([stranger.recv_multipart()[0], b"hello"])

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(TransportError, match="is no serstream daemon"):
        request(endpoint, "status", PATIENCE_S)
    thread.join()


def test_a_replay_page_has_at_most_500_events_and_says_whether_there_are_more(daemon, client):
    for _ in range(PAGE_EVENTS + 1):
        daemon.publish("emotion")
    client = client(zmq.REQ, daemon.control)
    pages = []
    for from_seq, to_seq in [(1, 501), (501, 501), (2, None), (502, None), (7, 6)]:
        asked = {"id": 1, "request": "replay", "topic": EMOTION, "from_seq": from_seq, "to_seq": to_seq}
        client.send_json(asked)
        assert client.poll(PATIENCE_S * 1e3)
        answer = client.recv_json()
        assert all(event["replayed"] for event in answer["result"])
        pages.append((len(answer["result"]), answer["more"]))
    assert pages == [(500, True), (1, False), (500, False), (0, False), (0, False)]


def test_all_topics_of_a_source_are_replayed_page_by_page(daemon):
    for _ in range(300):
        for kind in ("speech", "emotion", "posterior", "health"):
            daemon.publish(kind)
        daemon.publish("emotion", source="mi")
    events, cursor = [], {}
    while page := request(daemon.control, "replay", source="mic", **cursor):
        events += [(event["type"], event["seq"]) for event in page]
        cursor = {"topic": f"serstream.v1.mic.{page[-1]['type']}", "from_seq": page[-1]["seq"] + 1}
    assert events == [(kind, n) for kind in ("emotion", "posterior", "speech") for n in range(1, 301)]


class Shelf:
    """A recorder that has what a test puts there; the events that it was given, and what it was asked."""

    def __init__(self):
        self.given, self.asked = [], []
        self.bodies, self.more = [], False

    def add(self, event, body):
        self.given.append((event.seq, body))

    def page(self, request):
        self.asked.append(request)
        return [body for body in self.bodies if request.from_seq <= json.loads(body)["seq"]], self.more


def test_what_memory_has_forgotten_comes_from_the_recorder_once_and_in_order(opened):
    shelf = Shelf()
    daemon = opened(Daemon(recorder=shelf, replay_mb=0.001))
    for _ in range(9):
        daemon.publish("emotion")
    assert [seq for seq, _ in shelf.given] == list(range(1, 10))
    shelf.bodies = [body for _, body in reversed(shelf.given)]
    events = request(daemon.control, "replay", topic=EMOTION)
    assert [(event["seq"], event["replayed"]) for event in events] == [(seq, True) for seq in range(1, 10)]
    assert [(asked.request, asked.topic) for asked in shelf.asked] == [("replay", EMOTION)]
    assert [event["seq"] for event in request(daemon.control, "replay", source="mic")] == list(range(1, 10))
    assert len(shelf.asked) == 2


def test_a_topic_that_memory_has_from_the_asked_event_on_is_not_looked_for_in_the_recorder(opened):
    shelf = Shelf()
    daemon = opened(Daemon(recorder=shelf))
    for _ in range(3):
        daemon.publish("emotion")
    assert [event["seq"] for event in request(daemon.control, "replay", topic=EMOTION, from_seq=2)] == [2, 3]
    assert shelf.asked == []
    # another topic of the source may begin in the recorder alone
    assert [event["seq"] for event in request(daemon.control, "replay", source="mic")] == [1, 2, 3]
    assert len(shelf.asked) == 1


@pytest.mark.parametrize(
    ("recorded", "more_recorded", "n_events", "more"),
    [
        (3, True, 3, True),
        (3, False, 3, False),
        (PAGE_EVENTS, False, PAGE_EVENTS, False),
        (PAGE_EVENTS + 1, False, PAGE_EVENTS, True),
    ],
)
def test_a_page_from_the_recorder_says_whether_there_are_more(recorded, more_recorded, n_events, more, opened, client):
    shelf = Shelf()
    daemon = opened(Daemon(recorder=shelf))
    shelf.bodies = [encode_json(_event("emotion", daemon.session, seq=seq)) for seq in range(1, recorded + 1)]
    shelf.more = more_recorded
    client = client(zmq.REQ, daemon.control)
    client.send_json({"request": "replay", "topic": EMOTION})
    assert client.poll(PATIENCE_S * 1e3)
    answer = client.recv_json()
    assert [event["seq"] for event in answer["result"]] == list(range(1, n_events + 1))
    assert answer["more"] is more


def test_a_snapshot_of_an_unknown_source_is_empty(daemon):
    daemon.publish("emotion")
    assert len(request(daemon.control, "snapshot")) == 1
    assert request(daemon.control, "snapshot", source="other") == []


# --- memory ---------------------------------------------------------------------------------------------


def _remember(memory, kind, seq, now_s):
    event = _event(kind, "s", seq=seq)
    memory.add(event, encode_json(event), now_s)


def _kept(memory, topic):
    return [json.loads(body)["seq"] for body in memory.page(Request(request="replay", topic=topic))[0]]


def test_the_size_limit_gives_up_posteriors_first_then_the_oldest():
    size = len(encode_json(_event("emotion", "s", seq=10)))
    memory = History(600.0, 20 * size / 1e6)
    for n in range(10, 20):
        _remember(memory, "emotion", n, n)
        _remember(memory, "posterior", n, n)
    assert _kept(memory, EMOTION) == list(range(10, 20))
    assert 0 < len(posteriors := _kept(memory, POSTERIOR)) < 10
    assert posteriors == list(range(20 - len(posteriors), 20))
    for n in range(20, 40):
        _remember(memory, "emotion", n, n)
    assert _kept(memory, POSTERIOR) == []
    assert _kept(memory, EMOTION) == list(range(20, 40))
    assert {json.loads(body)["type"] for body in memory.snapshot(None)} == {"emotion", "posterior"}


def test_the_oldest_of_all_topics_is_given_up_first():
    memory = History(600.0, 3 * len(encode_json(_event("emotion", "s", seq=1, source="a"))) / 1e6)
    for seq, source in enumerate("abbab", 1):
        event = _event("emotion", "s", seq=seq, source=source)
        memory.add(event, encode_json(event), float(seq))
    assert _kept(memory, "serstream.v1.a.emotion") == [4]
    assert _kept(memory, "serstream.v1.b.emotion") == [3, 5]


def test_events_older_than_replay_s_are_given_up_in_every_topic_but_the_last_stays():
    memory = History(10.0, 64.0)
    for n in range(1, 6):
        _remember(memory, "emotion", n, n)
    _remember(memory, "health", 1, 13.0)
    assert _kept(memory, EMOTION) == [3, 4, 5]
    _remember(memory, "health", 2, 99.0)
    assert _kept(memory, EMOTION) == [] == _kept(memory, HEALTH)
    assert [(e["type"], e["seq"]) for e in map(json.loads, memory.snapshot("mic"))] == [
        ("emotion", 5),
        ("health", 2),
    ]


# --- endpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "192.168.1.7", "[::]", "eth0", "127.evil.example"])
def test_binding_beyond_loopback_is_refused(host):
    with pytest.raises(ConfigError, match=r"transport\.events is .* unencrypted; bind 127\.0\.0\.1"):
        Publisher(f"tcp://{host}:0", ANY, session="s")
    with pytest.raises(ConfigError, match=r"transport\.control is .* unencrypted; bind 127\.0\.0\.1"):
        Publisher(ANY, f"tcp://{host}:0", session="s")


def test_insecure_allows_every_address(opened):
    daemon = opened(Daemon(events="tcp://0.0.0.0:0", insecure=True))
    assert daemon.events.startswith("tcp://0.0.0.0:")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "tcp",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:x",
        "tcp://127.0.0.1:70000",
        "tcp://::1:5755",
        "tcp://a b:1",
        "udp://127.0.0.1:5755",
        "http://localhost:80",
        "127.0.0.1:5755",
        "inproc://alone",
        "ipc://",
    ],
)
def test_a_malformed_endpoint_is_refused_with_what_is_allowed(endpoint):
    for use in (
        lambda: Subscriber(endpoint),
        lambda: Subscriber(ANY.replace(":0", ":5755"), endpoint),
        lambda: Publisher(endpoint, ANY, session="s"),
        lambda: request(endpoint, "status"),
    ):
        with pytest.raises(ConfigError, match="allowed are tcp://HOST:PORT"):
            use()


def test_a_subscriber_cannot_connect_to_any_port():
    for endpoint in ("tcp://127.0.0.1:*", "tcp://127.0.0.1:0"):
        with pytest.raises(ConfigError, match="cannot be used"):
            Subscriber(endpoint)


def test_a_path_too_long_for_a_socket_cannot_be_connected_to():
    with pytest.raises(TransportError, match="cannot be connected to"):
        Subscriber(f"ipc:///tmp/{'x' * 200}")


@pytest.mark.parametrize("kind", ["tcp", "ipc", "abstract"])
def test_an_endpoint_in_use_is_named_with_the_remedy_and_goes_on_working(kind, tmp_path, opened):
    endpoint = {"tcp": ANY, "ipc": f"ipc://{tmp_path}/c", "abstract": f"ipc://@serstream-{uuid4()}"}[kind]
    daemon = opened(Daemon(control=endpoint))
    with pytest.raises(TransportError, match=r"is in use; stop .*transport\.control") as caught:
        Publisher(ANY, daemon.control, session="s")
    assert daemon.control in str(caught.value)
    with pytest.raises(TransportError, match=r"is in use; stop .*transport\.events"):
        Publisher(daemon.control, ANY, session="s")
    assert request(daemon.control, "snapshot") == []


def test_the_socket_file_of_a_dead_daemon_is_taken_over(tmp_path, opened):
    endpoint = f"ipc://{tmp_path}/control"
    code = "import os, sys, zmq\nsocket = zmq.Context().socket(zmq.ROUTER)\nsocket.bind(sys.argv[1])\nos._exit(0)\n"
    subprocess.run([sys.executable, "-c", code, endpoint], check=True)
    assert (tmp_path / "control").exists()
    daemon = opened(Daemon(control=endpoint))
    assert request(daemon.control, "snapshot") == []


def test_an_endpoint_that_cannot_be_bound_says_why(tmp_path):
    with pytest.raises(TransportError, match=r"cannot be bound \(.*\); change transport\.events"):
        Publisher(f"ipc://{tmp_path}/no/such/folder/events", ANY, session="s")
