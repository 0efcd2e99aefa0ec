"""What reads bytes from outside, as functions that answer or refuse in a sentence; whatever else comes is a finding.

``tests/fuzz/TARGET/`` holds what is worth to be tried each time, beside the seeds: what reached a place of its own
in a long run, and what was found there.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import soundfile
import zmq

from serstream import publisher
from serstream.config import load
from serstream.errors import ConfigError, EventError, ModelError, PacketError, SourceError
from serstream.events import Emotion, Gap, Posterior, decode, encode
from serstream.history import Answer, Follower, Lost
from serstream.inbox import Inbox
from serstream.manifest import load_model
from serstream.network import Network
from serstream.packets import SCHEMA, Header
from serstream.packets import decode as decode_packet
from serstream.packets import encode as encode_packet
from serstream.pipeline import Pipeline
from serstream.publisher import Publisher
from serstream.recordings import BLOCK_S, read_file
from serstream.recordings import decode as decode_file
from serstream.resources import packaged

FOUND = Path(__file__).parent / "fuzz"
MODEL = packaged("models/serstream")
LIMIT_MS = 30_000
SPLIT = b"\n\0"
"""Stands in an input between the parts of a message."""

COMMON = {"source": "mic", "session": "s", "sample": 1, "stream_s": 0.1}
EVENTS = [
    Gap(**COMMON, phase="end", cause="stalled", lost_samples=1, estimated=True),
    Emotion(**COMMON, phase="offset", id=1, label="happy", probability=0.7, start_s=0.5, end_s=1.0),
    Posterior(**COMMON, posterior=None, other=None, voice=None, speech=0.0, level_dbfs=-60.0, state="no_speech"),
]
REQUEST = {
    **{"schema": "serstream/1", "id": 1, "request": "replay", "source": "mic", "session": "s"},
    **{"topic": EVENTS[0].topic, "from_seq": 1, "to_seq": 2},
}
HEADER = Header(
    **{"schema": SCHEMA, "stream": "a", "run": UUID(int=1), "first_sample": 0, "sample_rate": 16_000},
    format="s16le",
)
ANSWER = {"id": 1, "ok": True, "more": False, "result": []}

Reader = Callable[[bytes], None]


def check_sentence(error: object) -> None:
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 1000


@contextmanager
def configuration(folder: Path) -> Iterator[Reader]:
    path = folder / "config.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            load(path)
        except ConfigError as error:
            check_sentence(error)

    yield read


@contextmanager
def manifest(folder: Path) -> Iterator[Reader]:
    """A manifest beside the shipped network; what is accepted must be able to hear."""
    (folder / "model.tflite").symlink_to(MODEL / "model.tflite")
    noise = np.random.default_rng(0).standard_normal(8192, np.float32)

    def read(data: bytes) -> None:
        (folder / "manifest.json").write_bytes(data)
        try:
            network = Network(load_model(folder))
        except ModelError as error:
            check_sentence(error)
        else:
            Pipeline(network, source="mic", session="s").push(0, noise)

    yield read


@contextmanager
def unlimited() -> Iterator[None]:
    """Let publishers that are made here refuse nobody for asking too much."""
    asked, publisher.REQUESTS_PER_S = publisher.REQUESTS_PER_S, 1e9
    try:
        yield
    finally:
        publisher.REQUESTS_PER_S = asked


@contextmanager
def daemon(events: str, control: str, **options: Any) -> Iterator[Publisher]:
    """Publish three events, and answer all that is asked."""
    with unlimited():
        made = Publisher(events, control, session="s", handler=lambda asked: asked.request, **options)
    with closing(made):
        for event in EVENTS:
            made.publish(event, time="2026-01-01T00:00:00Z", latency_s=0.1)
        yield made


def ask(client: zmq.Socket, parts: list[bytes]) -> None:
    """Send a request; it must be answered, and fail in no way that has no sentence."""
    client.send_multipart(parts)
    assert client.poll(LIMIT_MS), "no answer"
    *envelope, body = client.recv_multipart()
    assert envelope == parts[:-1]
    answer = json.loads(body)
    if not answer["ok"]:
        check_sentence(answer["error"])
        assert "failed in the daemon" not in answer["error"]


@contextmanager
def requests(folder: Path) -> Iterator[Reader]:
    with (
        zmq.Context() as context,
        daemon("inproc://e", "inproc://c", context=context),
        context.socket(zmq.DEALER) as client,
    ):
        client.linger = 0
        client.connect("inproc://c")
        yield lambda data: ask(client, data.split(SPLIT))


def hear_event(message: bytes) -> None:
    try:
        event = decode(message)
    except EventError as error:
        check_sentence(error)
    else:
        assert decode(encode(event)) == event


def follow(heard: list[bytes], answers: list[tuple[bool, bool, bytes]]) -> None:
    """Tell a follower of events and answers; it says nothing but events and losses."""
    follower = Follower(None, ("gap", "emotion", "posterior"), 1.0)
    follower.join(0.0)
    follower.tick(0.0)
    for message in heard:
        with suppress(EventError):
            follower.hear(decode(message), 0.0)
    for ok, more, result in answers:
        if follower.asking is None:
            break
        follower.answer(Answer(id=follower.asking.id, ok=ok, more=more, result=result), 0.0)
    follower.tick(10.0)
    assert {type(item) for item in follower.ready} <= {Gap, Emotion, Posterior, Lost}


def receive(packets: list[list[bytes]]) -> None:
    """Put packets into an inbox, which takes or refuses each."""
    inbox = Inbox()
    for at, parts in enumerate(packets):
        try:
            inbox.put(decode_packet(parts), 100.0 + at)
        except PacketError as error:
            check_sentence(error)
    for arrival in inbox.get(0.0):
        assert arrival.packet.samples().size <= arrival.packet.header.sample_rate


@contextmanager
def wire(folder: Path) -> Iterator[Reader]:
    """Messages of all kinds; the first byte says which."""

    def read(data: bytes) -> None:
        kind, parts = data[:1], data[1:].split(SPLIT)
        if kind == b"e":
            hear_event(data[1:])
        elif kind == b"f":
            follow(parts[:-1], [(True, False, parts[-1]), (True, True, parts[-1]), (False, False, b"")])
        else:
            receive([parts[i : i + 2] for i in range(0, len(parts), 2)])

    yield read


@contextmanager
def audio(folder: Path) -> Iterator[Reader]:
    path = folder / "sound"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for blocks in (read_file(path), (b for b, _ in decode_file(path, BLOCK_S, strict=False, first_sample=1000))):
            try:
                for block in islice(blocks, 1000):
                    assert block.dtype == np.float32
                    assert np.isfinite(block).all()
            except SourceError as error:
                check_sentence(error)

    yield read


TARGETS: dict[str, Callable[[Path], AbstractContextManager[Reader]]] = {
    target.__name__: target for target in (configuration, manifest, requests, wire, audio)
}


def inputs(name: str) -> list[bytes]:
    """Return what is tried each time: good inputs, and what is kept of those that were not."""
    return [*_SEEDS[name](), *(path.read_bytes() for path in sorted((FOUND / name).glob("*")))]


def _configurations() -> list[bytes]:
    kinds = "sources: {a: {kind: network}, b: {kind: file, path: x.wav}, c: {kind: stdin}, d: {kind: demo}}\n"
    more = "journal: {keep_days: 3}\ndecision: {enter_threshold: 0.5, priors: {sad: 2.0}}\nspeech: {threshold: 0.1}\n"
    return [packaged("config.yaml").read_bytes(), kinds.encode(), more.encode(), b"x: &a [*a, 2026-01-01, !!binary =]"]


def _requests() -> list[bytes]:
    names = ("snapshot", "replay", "status", "mute")
    return [json.dumps({**REQUEST, "request": name}).encode() for name in names] + [b"1" + SPLIT + b'{"request":"x"}']


def _messages() -> list[bytes]:
    events = [encode(event) for event in EVENTS]
    page = b"[" + b",".join(event.partition(b" ")[2] for event in events) + b"]"
    packets = SPLIT.join([*encode_packet(HEADER, np.zeros(9, np.float32))] * 2)
    return [b"e" + event for event in events] + [b"f" + SPLIT.join([*events, page]), b"p" + packets]


def _recordings() -> list[bytes]:
    sound = np.sin(np.arange(1600) / 5.0) / 2
    made = []
    for kind, subtype in (("WAV", "PCM_16"), ("WAVEX", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None)):
        file = io.BytesIO()
        soundfile.write(file, sound, 8000, format=kind, subtype=subtype)
        made.append(file.getvalue())
    return made


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "configuration": _configurations,
    "manifest": lambda: [(MODEL / "manifest.json").read_bytes()],
    "requests": _requests,
    "wire": _messages,
    "audio": _recordings,
}


def mutated(seeds: list[bytes], n: int, seed: int) -> Iterator[bytes]:
    """Yield so many inputs that differ from these in a few places, the same ones for the same seed."""
    rng = random.Random(seed)
    for _ in range(n):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            end = min(len(data), at + rng.choice((0, 1, 2, 4, 8, 64)))
            other = rng.choice(seeds)
            begin = rng.randrange(len(other) + 1)
            data[at:end] = rng.choice(
                (b"", rng.randbytes(end - at), bytes(end - at), data[at:end] * 2, other[begin : begin + 32], b"9" * 9)
            )
        yield bytes(data)
