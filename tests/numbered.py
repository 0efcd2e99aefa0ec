"""Events as a subscriber counts them that wants to miss none: by the numbers that they carry."""

from __future__ import annotations

import msgspec


class _Number(msgspec.Struct):
    seq: int


_decoder = msgspec.json.Decoder(_Number)


class Numbered:
    """Takes messages, and counts them and what is missing between them. A topic begins with the first that comes."""

    def __init__(self) -> None:
        self.newest: dict[bytes, int] = {}
        self.n_events = self.lost = 0

    def take(self, message: bytes) -> None:
        topic, _, body = message.partition(b" ")
        seq = _decoder.decode(body).seq
        self.lost += seq - self.newest.get(topic, seq - 1) - 1
        self.newest[topic] = seq
        self.n_events += 1
