"""Every event that leaves the daemon: its type, its encoding and its decoding, in one place.

An event is one JSON object behind its topic, ``serstream.v1.<source>.<type>``, and one space.
Readers ignore fields that they do not know.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from serstream.errors import EventError, reason

SCHEMA: Literal["serstream/1"] = "serstream/1"
TOPIC_PREFIX = "serstream.v1."
SAMPLE_RATE = 16_000
"""Rate in hertz of the sample index, of every ring and of the model."""
Label = Literal["calm", "happy", "sad", "angry", "fearful"]
LABELS: tuple[Label, ...] = ("calm", "happy", "sad", "angry", "fearful")
VOICES = ("female", "male")
SOURCE_ID = re.compile(r"[a-z0-9_-]{1,32}")

State = Literal["calm", "happy", "sad", "angry", "fearful", "uncertain", "no_speech"]
Cause = Literal[
    "input_overflow",
    "ring_overrun",
    "stalled",
    "device_lost",
    "muted",
    "suspended",
    "non_finite",
    "network",
    "worker_restart",
]
Fault = Literal["silence", "stuck"]
Status = Literal["starting", "running", "stalled", "lost", "muted", "failed"]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every event carries; the pipeline fills the first four, the publisher the rest.

    Attributes
    ----------
    source : str
        Source id, ``[a-z0-9_-]{1,32}``.
    session : str
        UUID, new at each start of the daemon.
    sample : int
        Absolute index at 16 kHz, from the start of the session, of the first sample after what the event speaks of.
    stream_s : float
        The same in seconds.
    seq : int
        Count of the events of this topic in this session, from 1 without holes; 0 before publication.
    time : str
        RFC 3339 UTC capture time of ``sample``; empty before publication.
    latency_s : float
        Age of the newest sample used, in seconds, when published.
    replayed : bool
        Whether the event came from the daemon's memory instead of the live stream.
    """

    source: str
    session: str
    sample: int
    stream_s: float
    seq: int = 0
    time: str = ""
    latency_s: float = 0.0
    replayed: bool = False
    schema: Literal["serstream/1"] = SCHEMA

    @property
    def type(self) -> str:
        """The event type as it stands in the topic."""
        return str(self.__struct_config__.tag)

    @property
    def topic(self) -> str:
        """The full topic, ``serstream.v1.<source>.<type>``."""
        return f"{TOPIC_PREFIX}{self.source}.{self.type}"


class Posterior(Event, frozen=True, kw_only=True, tag="posterior"):
    """The calibrated posterior of the segment, at every step (about 0.25 s).

    Attributes
    ----------
    posterior : dict of str to float, or None
        Probability (0 to 1) of each of the five labels; they sum to 1. None while too little speech was heard.
    other : float or None
        Mass (0 to 1) that the model gives to emotions outside the five labels.
    voice : dict of str to float, or None
        Probability (0 to 1) that the voice is perceived as female or male.
    speech : float
        Share (0 to 1) of speech in the samples of this step.
    level_dbfs : float
        Root-mean-square level of this step in dB re full scale, -120 at the least.
    state : str
        One of the five labels, ``uncertain`` or ``no_speech``.
    """

    posterior: dict[str, float] | None
    other: float | None
    voice: dict[str, float] | None
    speech: float
    level_dbfs: float
    state: State


class Emotion(Event, frozen=True, kw_only=True, tag="emotion"):
    """One of the five labels begins, goes on (every second) or ends.

    Attributes
    ----------
    phase : {'onset', 'update', 'offset'}
    id : int
        Count of emotions of this source in this session, the same from onset to offset.
    label : str
        One of the five labels.
    probability : float
        Smoothed probability (0 to 1) of the label.
    start_s : float
        Stream time of the onset in seconds.
    end_s : float or None
        Stream time of the offset in seconds, at the offset alone.
    """

    phase: Literal["onset", "update", "offset"]
    id: int
    label: Label
    probability: float
    start_s: float
    end_s: float | None = None


class Speech(Event, frozen=True, kw_only=True, tag="speech"):
    """An utterance starts or ends.

    Attributes
    ----------
    phase : {'start', 'end'}
    start_s : float
        Stream time of the first speech in seconds.
    end_s : float or None
        Stream time of the last speech in seconds, at the end alone.
    label : str or None
        Most probable of the five labels over the utterance, at the end alone; None when too little speech was heard.
    probability : float or None
        Probability (0 to 1) of that label.
    posterior : dict of str to float, or None
        Speech-weighted mean posterior over the utterance.
    """

    phase: Literal["start", "end"]
    start_s: float
    end_s: float | None = None
    label: Label | None = None
    probability: float | None = None
    posterior: dict[str, float] | None = None


class Gap(Event, frozen=True, kw_only=True, tag="gap"):
    """Samples were lost.

    Attributes
    ----------
    phase : {'start', 'end'}
    cause : str
        Why: ``input_overflow`` (the device lost samples), ``ring_overrun`` (the analysis did), ``stalled``,
        ``device_lost``, ``muted``, ``suspended``, ``non_finite``, ``network`` or ``worker_restart``.
    lost_samples : int
        Samples lost at 16 kHz: 0 at a start whose extent is not known yet.
    estimated : bool
        Whether the count was derived from the clock instead of counted.
    """

    phase: Literal["start", "end"]
    cause: Cause
    lost_samples: int
    estimated: bool


class Health(Event, frozen=True, kw_only=True, tag="health"):
    """How a source is, every second.

    Attributes
    ----------
    status : str
        ``starting``, ``running``, ``stalled``, ``lost``, ``muted`` or ``failed``.
    degraded : bool
        Whether samples are being lost, or were within the last minute, or the source has a fault.
    counters : dict of str to int
        Samples at 16 kHz since the start of the session: ``captured``, ``consumed``, ``input_overflows``,
        ``ring_overruns``, ``non_finite``, ``device_lost``, ``stalled``, ``muted``, ``suspended`` and whatever else the
        source counts.
    rtf : float
        Real-time factor: seconds of computing per second of audio over the last second.
    latency_p50_s, latency_p99_s : float
        Percentiles over the last minute of the age of the newest sample when its posterior was published.
    topics : dict of str to int
        Newest ``seq`` of each topic of this source.
    fault : str or None
        What is wrong with a source that delivers: ``silence`` (every sample has been zero for a while, as behind a
        switch that mutes) or ``stuck`` (the signal repeats itself to the bit).
    drift_ppm : float or None
        How much faster the device's clock is than the system's, in millionths; None for the first minute and a half.
    """

    status: Status
    degraded: bool
    counters: dict[str, int]
    rtf: float
    latency_p50_s: float
    latency_p99_s: float
    topics: dict[str, int]
    fault: Fault | None = None
    drift_ppm: float | None = None


AnyEvent = Posterior | Emotion | Speech | Gap | Health
EVENT_TYPES: tuple[type[AnyEvent], ...] = (Posterior, Emotion, Speech, Gap, Health)

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not the JSON that was expected."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyEvent)


def encode(event: Event) -> bytes:
    """Return the message of an event: its topic, one space, a JSON object in UTF-8."""
    return event.topic.encode() + b" " + encode_json(event)


def encode_json(event: Event) -> bytes:
    """Return the JSON object alone."""
    return _encoder.encode(event)


def decode(message: bytes) -> AnyEvent:
    """Read a message that :func:`encode` wrote.

    Raises
    ------
    EventError
        If the message is not an event of this schema.
    """
    topic, separator, body = message.partition(b" ")
    if not separator:
        raise EventError(f"{message[:60]!r} is not an event: expected a topic, one space and a JSON object")
    event = decode_json(body)
    if event.topic.encode() != topic:
        raise EventError(
            f"topic {topic[:60]!r} carries an event of {event.topic[:60]!r}; both must name one source and type"
        )
    return event


def decode_json(body: bytes) -> AnyEvent:
    """Read the JSON object alone; raises :class:`EventError` like :func:`decode`."""
    try:
        event: AnyEvent = _decoder.decode(body)
    except UNREADABLE as error:
        raise EventError(f"{body[:60]!r} is not an event of {SCHEMA}: {reason(error)}") from error
    return event


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of all events."""
    from inspect import cleandoc

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | msgspec.json.schema(AnyEvent)
    for definition in schema["$defs"].values():
        # the same on every Python: the indentation of a docstring is kept before 3.13
        definition["description"] = cleandoc(definition["description"])
    return schema
