"""Both ends of the way between the daemon and a worker process: what is said on it, and the socket that carries it.

A message is four bytes of its length, most significant first, and MessagePack. The daemon's end closed for writing asks
the worker to end; nothing else does, but its death.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time as clock
from typing import Any, Generic, TypeVar

import msgspec

from serstream.events import AnyEvent
from serstream.hearing import Orders, Wishes

_LENGTH_BYTES = 4
_READ_BYTES = 65_536


class Told(msgspec.Struct, frozen=True, tag_field="type", tag="told"):
    """An event, and ``time.monotonic()`` at which the newest sample that it uses was captured."""

    event: AnyEvent
    captured_s: float


class Alive(msgspec.Struct, frozen=True, tag_field="type", tag="alive"):
    """The thread that hears has gone round."""


class Over(msgspec.Struct, frozen=True, tag_field="type", tag="over"):
    """A source has ended, and every event of it was told."""

    source: str


class Failed(msgspec.Struct, frozen=True, tag_field="type", tag="failed"):
    """A source, or the whole process, can never be of use, for this reason."""

    sentence: str


FromDaemon = Orders | Wishes
FromWorker = Told | Alive | Over | Failed
Message = TypeVar("Message")


class Link(Generic[Message]):
    """One end of the way.

    Parameters
    ----------
    end : socket.socket
    receives : type
        What the other end sends.
    """

    def __init__(self, end: socket.socket, receives: Any) -> None:
        self._socket = end
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(receives)
        self._received = bytearray()
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def send(self, message: FromDaemon | FromWorker) -> None:
        """Send, and wait while the other end is behind; called from any thread.

        To an end that has gone nothing is sent: :meth:`receive` tells of that.
        """
        body = self._encoder.encode(message)
        with self._lock, contextlib.suppress(ConnectionError):
            self._socket.sendall(len(body).to_bytes(_LENGTH_BYTES, "big") + body)

    def receive(self, timeout_s: float | None) -> Message | None:
        """Return the next message, or None if none is there in time (None: for ever); called from one thread.

        Raises
        ------
        EOFError
            If the other end has gone, and every whole message of it was returned.
        """
        while (body := self._whole()) is None:
            if not self._poll.poll(None if timeout_s is None else timeout_s * 1e3):
                return None
            try:
                data = self._socket.recv(_READ_BYTES)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._received += data
        return self._decoder.decode(body)

    def _whole(self) -> bytes | None:
        end = _LENGTH_BYTES + int.from_bytes(self._received[:_LENGTH_BYTES], "big")
        if len(self._received) < max(end, _LENGTH_BYTES + 1):
            return None
        body = bytes(self._received[_LENGTH_BYTES:end])
        del self._received[:end]
        return body

    def finish(self) -> None:
        """Say that no more will be sent; called from any thread."""
        with contextlib.suppress(OSError):  # the other end has gone
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


class Relay:
    """The outlet of the streams of a worker process: what they publish goes to the daemon, which numbers it.

    An event waits for the daemon and is never dropped; without a daemon there is nobody to tell.
    """

    def __init__(self, link: Link[FromDaemon], session: str) -> None:
        self.session = session
        self._link = link

    def publish(self, event: AnyEvent, *, time: str, latency_s: float) -> AnyEvent:
        """Send an event to the daemon; called from any thread."""
        event = msgspec.structs.replace(event, time=time)
        self._link.send(Told(event, clock.monotonic() - latency_s))
        return event
