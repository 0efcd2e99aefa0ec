"""Both ends of the wire of sound: the daemon's :class:`Inlet` and a sender's :class:`Outlet`."""

from __future__ import annotations

import logging
import socket as sockets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zmq
from numpy.typing import NDArray

from serstream.allowance import Allowance
from serstream.config import SAMPLE_RATE
from serstream.endpoints import Wire, milliseconds
from serstream.errors import PacketError
from serstream.gate import Gate
from serstream.handshakes import Handshakes
from serstream.inbox import Inbox, now_s
from serstream.keys import client_keys
from serstream.packets import MAX_PART_BYTES, SCHEMA, Header, Packet, WireFormat, decode, encode

QUEUED_PACKETS = 100
"""Packets that wait in a sender for the network."""
SOCKET_BYTES = 131_072
"""Sound that waits in the kernel, on either side: more would only be heard too late."""
PACKETS_PER_S, PACKETS_AT_ONCE = 200.0, 2000
"""What a sender, a key if there are any, may send of a stream in the long run, and when it was quiet before."""
REST_S = 0.001
"""After a packet too many the inlet rests: whoever sends too many waits for room, and all others have their turn."""
LOG_S = 10.0
"""What is refused of one stream is logged at most so often."""
_CLOSE_LIMIT_S = 0.5
_NOBLOCK = int(zmq.NOBLOCK)  # or every call would make it one
GATHER_S = 0.01
"""What comes within this time is taken together: to be woken for a packet costs more than to take it."""
TURN_S = 0.1
"""So often, while packets keep coming, it is looked whether that is to end."""

_log = logging.getLogger(__name__)


class Inlet:
    """Takes packets at one endpoint, for any number of streams, and puts each into the inbox of its stream.

    What is wrong is refused, counted and logged, and hurts no other stream.

    Parameters
    ----------
    endpoint : str
        To bind, as those of :class:`serstream.publisher.Publisher`; :attr:`endpoint` says what was bound.
    inboxes : mapping of str to Inbox
        By the name of the stream.
    insecure, ipc_mode, gate
        As those of the publisher.
    context : zmq.Context, optional
        A shared context, for ``inproc``; its owner ends it.

    Attributes
    ----------
    packets, refused : int
        Packets that were taken, and that were not.
    too_fast : int
        Packets of both kinds that came faster than one sender may.

    Raises
    ------
    ConfigError
        If the endpoint is malformed or not allowed.
    TransportError
        If it is in use, or cannot be bound.
    """

    def __init__(
        self,
        endpoint: str,
        inboxes: Mapping[str, Inbox],
        *,
        insecure: bool = False,
        ipc_mode: str = "owner",
        gate: Gate | None = None,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        self.packets = self.refused = self.too_fast = 0
        self._allowance, self._has_keys = Allowance(PACKETS_PER_S, PACKETS_AT_ONCE), gate is not None
        self._inboxes = dict(inboxes)
        self._quiet_until_s: dict[str | None, float] = {}
        self._wire = Wire(context if gate is None else gate.context)
        limits: dict[int, int | bytes] = {zmq.RCVBUF: SOCKET_BYTES, zmq.MAXMSGSIZE: MAX_PART_BYTES}
        access: dict[str, Any] = {"insecure": insecure or gate is not None, "ipc_mode": ipc_mode}
        try:
            self._pull = self._wire.socket(zmq.PULL, limits if gate is None else {**limits, **gate.options("audio")})
            self.endpoint = self._wire.bind(self._pull, endpoint, "transport.audio", **access)
        except BaseException:
            self._wire.close()
            raise
        self._stop, self._stopped = sockets.socketpair()
        self._thread = threading.Thread(target=self._serve, name="serstream-audio", daemon=True)
        self._thread.start()
        if gate is not None:
            gate.guard("audio", self.endpoint)

    @property
    def alive(self) -> bool:
        """Whether packets are being taken."""
        return self._thread.is_alive()

    def status(self) -> dict[str, str | int]:
        """Return what a daemon answers of it."""
        counters = {"packets": self.packets, "refused": self.refused, "too_fast": self.too_fast}
        return {"endpoint": self.endpoint, **counters}

    def close(self) -> None:
        """Take no more, and close the endpoint; calling it again does nothing."""
        self._stop.close()
        self._thread.join(_CLOSE_LIMIT_S)
        if not self._thread.is_alive():
            self._stopped.close()
            self._wire.close()

    def _serve(self) -> None:
        """Take packets until the other end of ``_stopped`` is closed; the inlet's thread."""
        poller = zmq.Poller()
        poller.register(self._pull, zmq.POLLIN)
        poller.register(self._stopped.fileno(), zmq.POLLIN)
        while self._stopped.fileno() not in dict(poller.poll()):
            end_s = time.monotonic() + TURN_S
            while time.monotonic() < end_s:
                try:
                    user, parts = self._receive()
                except zmq.Again:
                    time.sleep(GATHER_S)
                    break
                self._slow_down(user, self._take(parts))

    def _receive(self) -> tuple[str | None, list[bytes]]:
        """Return whose key a packet came by, where there are keys, and the packet."""
        frame = self._pull.recv(_NOBLOCK, copy=False)
        user, parts = str(frame.get("User-Id")) if self._has_keys else None, [frame.bytes]
        while frame.more:  # cheaper than to ask the socket, as recv_multipart does
            frame = self._pull.recv(_NOBLOCK, copy=False)
            parts.append(frame.bytes)
        return user, parts

    def _take(self, parts: list[bytes]) -> str | None:
        """Take a packet or refuse it; return its stream, None for one that is not known."""
        stream = None
        try:
            packet = decode(parts)
            inbox = self._inbox(packet)
            stream = packet.header.stream
            inbox.put(packet, now_s())
        except PacketError as error:
            self.refused += 1
            self._tell(stream, error)
        else:
            self.packets += 1
        return stream

    def _slow_down(self, user: str | None, stream: str | None) -> None:
        if not self._allowance.take((user, stream), time.monotonic()):
            self.too_fast += 1
            time.sleep(REST_S)

    def _inbox(self, packet: Packet) -> Inbox:
        try:
            return self._inboxes[packet.header.stream]
        except KeyError:
            known = ", ".join(self._inboxes) or "none, for no source is of kind network"
            raise PacketError(
                f"stream {packet.header.stream[:60]!r} has no source here; the streams are {known}"
            ) from None

    def _tell(self, stream: str | None, error: PacketError) -> None:
        now = time.monotonic()
        if now >= self._quiet_until_s.get(stream, 0.0):
            self._quiet_until_s[stream] = now + LOG_S
            _log.warning("sound refused (packets so far: %d): %s", self.refused, error)


class Outlet:
    """Sends one stream to an inlet elsewhere. Used from one thread.

    Parameters
    ----------
    endpoint : str
        Where the inlet is.
    stream : str
        What it is called there.
    format_ : {'s16le', 'f32le'}
        How samples are sent.
    key, server_key : str or Path, optional
        For a daemon that has ``transport.curve``: as those of :class:`serstream.Subscriber`.
    context : zmq.Context, optional
        A shared context, for ``inproc``; its owner ends it.

    Raises
    ------
    ConfigError
        If the endpoint is malformed, or a key cannot be used.
    TransportError
        If it cannot be connected to.
    """

    def __init__(
        self,
        endpoint: str,
        stream: str,
        format_: WireFormat = "f32le",
        *,
        key: str | Path | None = None,
        server_key: str | Path | None = None,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        self.endpoint, self.stream, self._format = endpoint, stream, format_
        keys = client_keys(key, server_key)
        limits: dict[int, int | bytes] = {zmq.SNDHWM: QUEUED_PACKETS, zmq.SNDBUF: SOCKET_BYTES, zmq.IMMEDIATE: 1}
        self._wire = Wire(context)
        try:
            self._push = self._wire.socket(zmq.PUSH, limits if keys is None else {**limits, **keys.options()})
            self._handshakes = Handshakes(self._wire, self._push, endpoint, keys, "send")
            self._wire.connect(self._push, endpoint)
        except BaseException:
            self._wire.close()
            raise
        self.begin()

    def begin(self) -> None:
        """Begin another run: what comes next does not go on where the last sample was."""
        self.run = uuid4()

    def ready(self, timeout_s: float) -> bool:
        """Wait until there is somebody who takes a packet; False if there is not within the timeout.

        Raises
        ------
        TransportError
            If the daemon there refuses this sender.
        """
        end_s = time.monotonic() + timeout_s
        while not self._push.poll(0, zmq.POLLOUT):
            self._handshakes.take()
            if (left_s := end_s - time.monotonic()) <= 0.0:
                return False
            zmq.zmq_poll([(self._push, zmq.POLLOUT), (self._handshakes.monitor, zmq.POLLIN)], milliseconds(left_s))
        return True

    def send(self, first_sample: int, samples: NDArray[np.float32], timeout_s: float) -> bool:
        """Send at most a second of samples at 16 kHz; False if nobody has taken them within the timeout."""
        return self._send(first_sample, samples, timeout_s, end=False)

    def end(self, next_sample: int, timeout_s: float) -> bool:
        """Say that the run is over, with the index that follows its last sample; False as in :meth:`send`."""
        return self._send(next_sample, np.empty(0, np.float32), timeout_s, end=True)

    def _send(self, first_sample: int, samples: NDArray[np.float32], timeout_s: float, *, end: bool) -> bool:
        if not self.ready(timeout_s):
            return False
        header = Header(
            schema=SCHEMA,
            stream=self.stream,
            run=self.run,
            first_sample=first_sample,
            sample_rate=SAMPLE_RATE,
            format=self._format,
            end=end,
        )
        try:
            self._push.send_multipart(encode(header, samples), zmq.NOBLOCK)
        except zmq.Again:  # whoever was there has gone
            return False
        return True

    def close(self, linger_s: float) -> None:
        """Send what is queued, for so long at most, and close the connection."""
        self._push.close(linger=milliseconds(linger_s))
        self._wire.close()
