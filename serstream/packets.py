"""Sound on the wire: a packet is a ZeroMQ message of two parts, a header in JSON and the samples that it speaks of.

``docs/network.md`` is for those who write a sender of their own.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from serstream.config import DeviceRate
from serstream.errors import PacketError, reason
from serstream.events import UNREADABLE
from serstream.pcm import DTYPES, from_float, to_float

SCHEMA: Literal["serstream-audio/1"] = "serstream-audio/1"
MAX_HEADER_BYTES = 1024
MAX_PACKET_S = 1.0
MAX_PART_BYTES = 2_000_000
"""A part above this is larger than any packet may be: whoever sends one is disconnected before it is received."""

WireFormat = Literal["s16le", "f32le"]


class Header(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a packet says of its samples; readers ignore fields that they do not know.

    Attributes
    ----------
    schema : str
        ``serstream-audio/1``.
    stream : str
        Which source of the daemon the samples are for.
    run : UUID
        New at each start of the sender.
    first_sample : int
        Index, at ``sample_rate``, of the first of these samples since the start of the run.
    sample_rate : int
        In Hz, the same for a whole run.
    format : {'s16le', 'f32le'}
        Of the samples, which are mono.
    end : bool
        Whether the run is over: ``first_sample`` is then how many samples it had, and none follow.
    """

    schema: Literal["serstream-audio/1"]
    stream: str
    run: UUID
    first_sample: Annotated[int, Meta(ge=0, le=2**53)]
    sample_rate: DeviceRate
    format: WireFormat
    end: bool = False


class Packet(NamedTuple):
    """A header and its samples as bytes, ``n_samples`` at the rate of the sender, which sound for ``duration_s``."""

    header: Header
    payload: bytes
    n_samples: int
    duration_s: float

    @classmethod
    def of(cls, header: Header, payload: bytes) -> Packet:
        """Return a packet of whole samples."""
        n_samples = len(payload) // DTYPES[header.format].itemsize
        return cls(header, payload, n_samples, n_samples / header.sample_rate)

    def samples(self) -> NDArray[np.float32]:
        """Return the samples at the rate of the sender, full scale 1.0, perhaps not finite."""
        return to_float(self.payload, self.header.format)


def encode(header: Header, samples: NDArray[np.float32]) -> list[bytes]:
    """Return the two parts of a packet; the samples are finite, full scale 1.0, and none where the header says end."""
    return [_encoder.encode(header), from_float(samples, header.format)]


def decode(parts: list[bytes]) -> Packet:
    """Read a message that a sender has sent.

    Raises
    ------
    PacketError
        If it is no packet of this schema, or larger than one may be.
    """
    if len(parts) != 2:
        raise PacketError(f"a message of {len(parts)} parts is no packet of sound; send two, a header and its samples")
    head, payload = parts
    if len(head) > MAX_HEADER_BYTES:
        raise PacketError(f"a header has {len(head)} bytes; allowed are {MAX_HEADER_BYTES}")
    try:
        packet = Packet.of(_decoder.decode(head), payload)
    except UNREADABLE as error:
        raise PacketError(f"{head[:60]!r} is no header of {SCHEMA}: {reason(error)}") from error
    _check_size(packet)
    return packet


def _check_size(packet: Packet) -> None:
    header, n_bytes = packet.header, len(packet.payload)
    if header.end:
        if n_bytes:
            raise PacketError(f"{n_bytes} bytes of sound stand behind a header that says end; send them before")
        return
    if not n_bytes or n_bytes % DTYPES[header.format].itemsize:
        raise PacketError(f"{n_bytes} bytes are no samples in {header.format}; send whole ones, at least one")
    if packet.duration_s > MAX_PACKET_S:
        raise PacketError(f"a packet has {packet.duration_s:.3f} s of sound; allowed is {MAX_PACKET_S:g} s")


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Header)
