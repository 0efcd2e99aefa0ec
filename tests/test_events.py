"""Events: every class survives the wire, bad messages are refused in a sentence, and the schema describes them."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import soundfile

from serstream.errors import EventError
from serstream.events import (
    EVENT_TYPES,
    LABELS,
    Emotion,
    Event,
    Gap,
    Label,
    State,
    decode,
    decode_json,
    encode,
    encode_json,
    json_schema,
)
from serstream.manifest import load_model
from serstream.network import Network
from serstream.pipeline import Pipeline
from serstream.resources import packaged

ROOT = Path(__file__).parent.parent
SCHEMA_COMMAND = "import json; from serstream.events import json_schema; print(json.dumps(json_schema(), indent=2))"
COMMON = {"source": "mic", "session": "6f1c", "sample": 4352, "stream_s": 0.272}


def descendants(kind: type[Event]) -> Iterator[type[Event]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


SIMPLE: dict[type, list[Any]] = {
    msgspec.inspect.IntType: [0, 2**53],
    msgspec.inspect.FloatType: [0.0, 0.1234],
    msgspec.inspect.BoolType: [False, True],
    msgspec.inspect.StrType: ["a", '\N{PILE OF POO} " \\ \n'],
    msgspec.inspect.NoneType: [None],
}
"""Values of each kind of field; a new kind fails here, so that its values are added."""


def values_of(node: Any) -> list[Any]:
    """Return values of a type: all of a choice."""
    if isinstance(node, msgspec.inspect.LiteralType):
        return list(node.values)
    if isinstance(node, msgspec.inspect.UnionType):
        return [v for t in node.types for v in values_of(t)]
    if isinstance(node, msgspec.inspect.DictType):
        few, more = values_of(node.value_type)
        return [{}, {"a": few, "é": more}]
    return SIMPLE[type(node)]


def examples(kind: type[Event]) -> list[Event]:
    """Return events in which every field takes each of its values at least once."""
    fields = {f.name: values_of(f.type) for f in msgspec.inspect.type_info(kind).fields}
    fields["source"] = ["mic", "a-1_b"]
    n = max(map(len, fields.values()))
    columns = {name: list(itertools.islice(itertools.cycle(values), n)) for name, values in fields.items()}
    return [kind(**{name: column[i] for name, column in columns.items()}) for i in range(n)]


EVERY_EXAMPLE = [event for kind in descendants(Event) for event in examples(kind)]


def test_every_event_class_is_registered() -> None:
    assert set(descendants(Event)) == set(EVENT_TYPES)


@pytest.mark.parametrize("event", EVERY_EXAMPLE, ids=lambda event: event.type)
def test_every_event_survives_the_wire(event: Event) -> None:
    message = encode(event)
    assert message.startswith(f"serstream.v1.{event.source}.{event.type} {{".encode())
    for again in (decode(message), decode_json(encode_json(event))):
        assert type(again) is type(event)
        assert again == event


def test_a_message_is_its_topic_a_space_and_an_object_with_every_field() -> None:
    event = Gap(**COMMON, phase="start", cause="muted", lost_samples=0, estimated=False)
    topic, body = encode(event).split(b" ", 1)
    assert topic == b"serstream.v1.mic.gap"
    assert json.loads(body) == COMMON | {
        "type": "gap",
        "seq": 0,
        "time": "",
        "latency_s": 0.0,
        "replayed": False,
        "schema": "serstream/1",
        "phase": "start",
        "cause": "muted",
        "lost_samples": 0,
        "estimated": False,
    }


def test_every_field_is_described() -> None:
    for kind in EVENT_TYPES:
        own = set(kind.__struct_fields__) - set(Event.__struct_fields__)
        for name in own:
            described = [line for line in (kind.__doc__ or "").splitlines() if " : " in line]
            assert any(name in line.split(" : ")[0] for line in described), f"{kind.__name__}.{name}"


def test_unknown_fields_are_ignored() -> None:
    event = EVERY_EXAMPLE[0]
    body = json.dumps(json.loads(encode_json(event)) | {"of_a_later_version": [1, {"x": None}]}).encode()
    assert decode(event.topic.encode() + b" " + body) == event


GOOD = json.loads(encode_json(Emotion(**COMMON, phase="onset", id=1, label="calm", probability=0.5, start_s=0.0)))
TOPIC = b"serstream.v1.mic.emotion "


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "expected a topic, one space and a JSON object"),
        (b"serstream.v1.mic.emotion", "expected a topic, one space and a JSON object"),
        (TOPIC, "is not an event of serstream/1"),
        (TOPIC + b"{", "is not an event of serstream/1"),
        (TOPIC + b"[]", "Expected `object`, got `array`"),
        (TOPIC + b"\xff\xfe\x00", "is not an event of serstream/1"),
        (TOPIC + b'{"type": "emotion"}', "missing required field `source`"),
        (TOPIC + b'{"x": ' + b"[" * 100_000, "is not an event of serstream/1"),
        (TOPIC + json.dumps(GOOD | {"type": "mood"}).encode(), "mood"),
        (TOPIC + json.dumps(GOOD | {"schema": "serstream/2"}).encode(), "serstream/2"),
        (TOPIC + json.dumps(GOOD | {"label": "bored"}).encode(), "bored"),
        (TOPIC + json.dumps(GOOD | {"sample": 1.5}).encode(), "Expected `int`, got `float`"),
        (TOPIC + json.dumps(GOOD | {"probability": float("nan")}).encode(), "is not an event of serstream/1"),
        (TOPIC + json.dumps(GOOD | {"source": "line"}).encode(), "both must name one source and type"),
        (b"serstream.v1.mic.speech " + json.dumps(GOOD).encode(), "both must name one source and type"),
        (b"\xff\xfe " + json.dumps(GOOD).encode(), "both must name one source and type"),
    ],
)
def test_a_bad_message_is_refused_in_a_sentence(message: bytes, says: str) -> None:
    with pytest.raises(EventError, match=says) as caught:
        decode(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def problems(schema: dict[str, Any], node: dict[str, Any], value: Any, where: str = "$") -> list[str]:
    """Validate by the part of JSON Schema that is used here; an unknown keyword is a failure of this test."""
    known = {"$ref", "anyOf", "type", "enum", "properties", "required", "additionalProperties"}
    comments = {"$schema", "$defs", "title", "description", "default", "discriminator"}
    assert set(node) <= known | comments, set(node) - known - comments
    if "$ref" in node:
        return problems(schema, schema["$defs"][node["$ref"].removeprefix("#/$defs/")], value, where)
    if "anyOf" in node:
        tried = [problems(schema, option, value, where) for option in node["anyOf"]]
        return [] if [] in tried else [p for found in tried for p in found]
    if "enum" in node:
        return [] if value in node["enum"] else [f"{where} is {value!r}"]
    types = {
        "object": dict,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    if not isinstance(value, types[node["type"]]) or (isinstance(value, bool) and node["type"] != "boolean"):
        return [f"{where} is {value!r}, no {node['type']}"]
    if node["type"] != "object":
        return []
    found = [f"{where}.{name} is missing" for name in node.get("required", []) if name not in value]
    for name, item in value.items():
        if (below := node.get("properties", {}).get(name, node.get("additionalProperties"))) is not None:
            found += problems(schema, below, item, f"{where}.{name}")
    return found


def real_events() -> list[Event]:
    pipeline = Pipeline(Network(load_model(packaged("models/serstream"))), source="demo", session="6f1c")
    samples = soundfile.read(packaged("demo.flac"), dtype="float32", frames=160_000)[0]
    return [*pipeline.push(0, samples), *pipeline.finish()]


def test_the_schema_describes_real_events_and_every_example() -> None:
    schema, real = json_schema(), real_events()
    assert {event.type for event in real} >= {"posterior", "speech"}
    for event in [*real, *EVERY_EXAMPLE]:
        assert problems(schema, schema, json.loads(encode_json(event))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"type": "mood"},
        {"label": "bored"},
        {"label": None},
        {"sample": "1"},
        {"seq": True},
        {"schema": "serstream/2"},
    ],
)
def test_the_schema_refuses_what_decoding_refuses(change: dict[str, Any]) -> None:
    schema, body = json_schema(), GOOD | change
    assert problems(schema, schema, body) != []
    with pytest.raises(EventError):
        decode_json(json.dumps(body).encode())


def test_the_schema_in_the_documentation_is_that_of_the_code() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", SCHEMA_COMMAND],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    path = ROOT / "docs" / "events.schema.json"
    assert path.read_text() == printed, f"run: python -c '{SCHEMA_COMMAND}' > docs/events.schema.json"


def test_the_labels_are_those_of_the_types() -> None:
    assert get_args(Label) == LABELS
    assert get_args(State) == (*LABELS, "uncertain", "no_speech")
