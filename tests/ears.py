"""Any number of subscribers to everything, in one thread, each checked to the byte.

What a publisher sends is the same for all of them: one is read event by event, and all others must get its bytes, from
where each begins. So a crowd costs little where it is measured, and what is slow is the daemon.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import numpy as np
from numbered import Numbered

from serstream.events import Posterior, decode

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
_SUBSCRIBE_TO_ALL = b"\x00\x01\x01"
_PONG = b"\x04\x05\x04PONG"
_LARGE, _COMMAND = 2, 4
_READ_BYTES = 1 << 18


class Ear:
    """A subscriber as the wire knows it (ZMTP 3.0)."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.sendall(_GREETING)
        self.bytes = bytearray()
        self.at: int | None = None
        self._greeted = False

    def hear(self) -> bool:
        """Receive what is there; False if the other end has closed."""
        try:
            came = self.socket.recv(_READ_BYTES)
            self.bytes += came
            if not self._greeted and len(self.bytes) >= len(_GREETING):
                self._greeted = True
                del self.bytes[: len(_GREETING)]
                self.socket.sendall(_READY + _SUBSCRIBE_TO_ALL)
        except ConnectionError:
            return False
        return bool(came)

    def frame(self) -> bytes | None:
        """Return the frame that the bytes begin with, once they hold all of it, behind commands, which are done."""
        while self._greeted and len(self.bytes) >= 9:
            head, size = (9, int.from_bytes(self.bytes[1:9])) if self.bytes[0] & _LARGE else (2, self.bytes[1])
            if len(self.bytes) < head + size:
                return None
            if not self.bytes[0] & _COMMAND:
                return bytes(self.bytes[: head + size])
            if self.bytes[head : head + 5] == b"\x04PING":
                self.socket.sendall(_PONG)
            del self.bytes[: head + size]
        return None


class Crowd:
    """Subscribers of an ``ipc://`` endpoint.

    Attributes
    ----------
    numbered : Numbered
        What the first of them was told.
    latencies_s : list of float
        Of the posteriors among that.
    failure : str or None
        What another was told otherwise.
    """

    def __init__(self, endpoint: str) -> None:
        self._path = endpoint.removeprefix("ipc://")
        self._poll = select.epoll()
        self._ears: dict[int, Ear] = {}
        self.numbered, self.latencies_s = Numbered(), list[float]()
        self.failure: str | None = None
        self._said, self._where = bytearray(), dict[bytes, int]()
        self.join(1)
        (self.first,) = self._ears.values()
        self.first.at = 0

    def join(self, n: int) -> None:
        """Let so many more listen."""
        for _ in range(n):
            ear = Ear(self._path)
            self._ears[ear.socket.fileno()] = ear
            self._poll.register(ear.socket, select.EPOLLIN)

    @property
    def ears(self) -> list[Ear]:
        return [*self._ears.values()]

    @property
    def n_listening(self) -> int:
        """How many have heard something."""
        return sum(ear.at is not None for ear in self._ears.values())

    @property
    def n_bytes(self) -> int:
        """How much the first has heard."""
        return len(self._said)

    def n_behind(self, n_bytes: int) -> int:
        """Return how many have not heard so much yet."""
        return sum(ear.at is None or ear.at < n_bytes for ear in self._ears.values())

    def listen(self, timeout_s: float) -> None:
        """Hear what comes."""
        ready = [self._ears[fd] for fd, _ in self._poll.poll(timeout_s, 64)]
        for ear in ready:
            if not ear.hear():
                self.failure = "a subscriber was cut off"
                self._poll.unregister(ear.socket)
        if self.first in ready:
            for frame in self._frames():
                self._where[frame] = len(self._said)
                self._said += frame
            self.first.at = len(self._said)
            ready = [*self._ears.values()]
        for ear in ready:
            if ear is not self.first:
                self._compare(ear)

    def _frames(self) -> Iterator[bytes]:
        while frame := self.first.frame():
            del self.first.bytes[: len(frame)]
            message = frame[9 if frame[0] & _LARGE else 2 :]
            self.numbered.take(message)
            if isinstance(event := decode(message), Posterior):
                self.latencies_s.append(event.latency_s)
            yield frame

    def _compare(self, ear: Ear) -> None:
        """Hold what one has heard against what the first has, as far as that goes."""
        while True:
            if ear.at is None and (frame := ear.frame()) is not None:
                ear.at = self._where.get(frame)
            if ear.at is None:
                return
            n_bytes = min(len(ear.bytes), len(self._said) - ear.at)
            ours, said = (np.frombuffer(b, np.uint8, n_bytes, at) for b, at in ((ear.bytes, 0), (self._said, ear.at)))
            same = n_bytes if np.array_equal(ours, said) else int(np.argmax(ours != said))
            del ours, said
            ear.at += same
            del ear.bytes[:same]
            if same == n_bytes:
                return
            if not ear.bytes[0] & _COMMAND:
                self.failure = f"a subscriber was told {bytes(ear.bytes[:60])!r} out of turn"
                self._poll.unregister(ear.socket)
                return
            before = len(ear.bytes)
            ear.frame()
            if len(ear.bytes) == before:  # the rest of the command is to come
                return

    def close(self) -> None:
        for ear in self._ears.values():
            ear.socket.close()
        self._poll.close()
