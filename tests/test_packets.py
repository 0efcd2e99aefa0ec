"""Sound on the wire: what a packet says, and what is refused as none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serstream.config import NetworkSource, parse
from serstream.errors import PacketError
from serstream.packets import MAX_HEADER_BYTES, MAX_PACKET_S, MAX_PART_BYTES, SCHEMA, Header, decode, encode
from serstream.pcm import DTYPES, from_float, to_float

DOCUMENT = (Path(__file__).parent.parent / "docs" / "network.md").read_text(encoding="utf-8")
RUN = "7d3a2b1c-0000-4000-8000-000000000001"
FIELDS: dict[str, Any] = {
    "schema": SCHEMA,
    "stream": "kitchen",
    "run": RUN,
    "first_sample": 0,
    "sample_rate": 16_000,
    "format": "s16le",
}


def parts(payload: bytes = b"\0\0", **changes: Any) -> list[bytes]:
    header = {key: value for key, value in (FIELDS | changes).items() if value is not None}
    return [json.dumps(header).encode(), payload]


def test_a_packet_comes_out_as_it_went_in():
    header = Header(**FIELDS | {"run": decode(parts()).header.run, "format": "f32le", "first_sample": 2**40})
    samples = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    packet = decode(encode(header, samples))
    assert packet.header == header
    assert (packet.n_samples, packet.duration_s) == (100, 100 / 16_000)
    np.testing.assert_array_equal(packet.samples(), samples)


def test_sixteen_bits_are_rounded_and_what_is_too_loud_is_cut():
    samples = np.array([0.0, 0.5, -1.0, 1.0, 3.0, -3.0, 0.6 / 2**15], np.float32)
    heard = to_float(from_float(samples, "s16le"), "s16le")
    np.testing.assert_array_equal(heard * 2**15, [0, 2**14, -(2**15), 2**15 - 1, 2**15 - 1, -(2**15), 1])


@pytest.mark.parametrize("format_", ["s16le", "s32le", "f32le"])
def test_full_scale_is_one_in_every_format(format_):
    dtype = DTYPES[format_]
    least = np.iinfo(dtype).min if dtype.kind == "i" else -1.0
    assert to_float(np.array([least], dtype).tobytes(), format_) == [-1.0]


def test_readers_ignore_fields_that_they_do_not_know():
    assert decode(parts(colour="blue")).header.stream == "kitchen"


REFUSED = {
    "one part": ([b"{}"], "1 parts.*send two"),
    "three parts": ([*parts(), b""], "3 parts.*send two"),
    "long header": (parts(stream="x" * 2000), f"allowed are {MAX_HEADER_BYTES}"),
    "no JSON": ([b"\xff\x00\x80", b"\0\0"], "no header of serstream-audio/1"),
    "deep JSON": ([b"[" * MAX_HEADER_BYTES, b"\0\0"], "no header of serstream-audio/1"),
    "no object": ([b"[]", b"\0\0"], "no header"),
    "no schema": (parts(schema=None), "`schema`"),
    "other schema": (parts(schema="serstream-audio/2"), "serstream-audio/2"),
    "no stream": (parts(stream=None), "`stream`"),
    "no run": (parts(run=None), "`run`"),
    "run that is no UUID": (parts(run="first"), "UUID"),
    "index before the first": (parts(first_sample=-1), ">= 0"),
    "index that is no number": (parts(first_sample="0"), "first_sample"),
    "index beyond all": (parts(first_sample=2**53 + 1), "<="),
    "low rate": (parts(sample_rate=3999), ">= 4000"),
    "high rate": (parts(sample_rate=384_001), "<= 384000"),
    "other format": (parts(format="mp3"), "mp3"),
    "no samples": (parts(b""), "0 bytes are no samples"),
    "half a sample": (parts(b"\0\0\0"), "3 bytes are no samples in s16le"),
    "more than a second": (parts(bytes(2 * 16_001)), "1.000 s of sound; allowed is 1 s"),
    "sound behind the end": (parts(end=True), "2 bytes of sound stand behind"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_packet_is_refused_in_a_sentence(name):
    message, sentence = REFUSED[name]
    with pytest.raises(PacketError, match=sentence) as caught:
        decode(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.lists(st.binary(max_size=100), max_size=4))
def test_no_message_makes_anything_but_a_packet_or_a_refusal(message):
    try:
        decode(message)
    except PacketError:
        return
    raise AssertionError("noise is no packet")


def test_the_largest_packet_that_is_allowed_fits_into_a_part():
    assert MAX_PACKET_S * 384_000 * DTYPES["f32le"].itemsize <= MAX_PART_BYTES


def test_the_document_names_every_field_and_limit():
    rows = re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE)
    assert rows[: len(Header.__struct_fields__)] == list(Header.__struct_fields__)
    assert f"{MAX_HEADER_BYTES} bytes" in DOCUMENT
    assert SCHEMA in DOCUMENT


def test_the_configuration_in_the_document_is_one():
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert parse(text, "network.md").sources == {"kitchen": NetworkSource()}
