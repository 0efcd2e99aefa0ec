"""What becomes of a client's connections: made, or refused with a sentence."""

from __future__ import annotations

import struct
from contextlib import suppress

import zmq

from serstream.endpoints import Wire, dial
from serstream.errors import TransportError
from serstream.keys import ClientKeys

TRIES = 5
"""After so many handshakes that ended without a reason, what answers is asked how it lets clients in."""
PROBE_S = 0.5
_VERSION = b"\xff" + bytes(8) + b"\x7f\x03\x01"
"""What ZMTP 3.1 begins with (https://rfc.zeromq.org/spec/23); then the peer says its mechanism first."""
_GREETING_BYTES = 64


class Handshakes:
    """Follows the connections of one client's socket. Made before the socket connects.

    Parameters
    ----------
    wire : Wire
    socket : zmq.Socket
    endpoint : str
        Where it will connect to.
    keys : ClientKeys, optional
    right : str
        The right that the keys need there.

    Attributes
    ----------
    monitor : zmq.Socket
        Readable when :meth:`take` has something to say.
    """

    def __init__(
        self, wire: Wire, socket: zmq.Socket[bytes], endpoint: str, keys: ClientKeys | None, right: str
    ) -> None:
        self.monitor = wire.monitor(socket)
        self._endpoint, self._keys, self._right = endpoint, keys, right
        self._made = False
        self._failures = 0
        self._mechanism: str | None = None
        self._refusal: str | None = None

    def take(self) -> bool:
        """Return whether a connection was made since the last call; never waits.

        Raises
        ------
        TransportError
            If the daemon refused, now or earlier: ZeroMQ then tries no more.
        """
        made = False
        while self._refusal is None and self.monitor.poll(0):
            (event,) = struct.unpack_from("=H", self.monitor.recv_multipart()[0])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                made = self._made = True
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._refusal = self._not_allowed()
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._refusal = self._not_understood()
            else:
                self._failures += 1
                if self._failures % TRIES == 0:
                    self._look()
        if self._refusal is not None:
            raise TransportError(self._refusal)
        return made

    def give_up(self) -> None:
        """Raise :class:`TransportError` if it can be said why no handshake has succeeded."""
        refusal = self._refusal
        if refusal is None and self._failures and not self._made:
            refusal = self._not_met(probe(self._endpoint))
        if refusal is not None:
            raise TransportError(refusal)

    def _look(self) -> None:
        """Find out why handshakes fail; twice, since what answers may have come between the last of them and now."""
        mechanism = probe(self._endpoint)
        if mechanism == self._mechanism:
            self._refusal = self._not_met(mechanism)
        self._mechanism = mechanism

    def _not_met(self, mechanism: str | None) -> str | None:
        """Say why handshakes fail; None for a tunnel whose daemon is not there (yet), for one."""
        if mechanism is None or (mechanism == "NULL" and self._keys is None):
            return None
        if mechanism != "CURVE" or self._keys is None:
            return self._not_understood()
        return (
            f"what answers at {self._endpoint} does not have the key {self._keys.server_name}; "
            "get the public key of that daemon and name it with --server-key"
        )

    def _not_allowed(self) -> str:
        if self._keys is None:
            return f"the daemon at {self._endpoint} refused the connection"
        return (
            f"the daemon at {self._endpoint} does not let the key {self._keys.own.name} {self._right}; its list of "
            f"clients needs the line: {self._keys.own.client_line(self._right)}"
        )

    def _not_understood(self) -> str:
        if self._keys is None:
            return (
                f"the daemon at {self._endpoint} lets in whom it knows by key, if it is serstream; "
                "name yours with --key, or make one: serstream keygen NAME"
            )
        return f"what answers at {self._endpoint} takes no keys; leave --key out, or name a daemon with transport.curve"


def probe(endpoint: str) -> str | None:
    """Return the security mechanism of what answers at an endpoint, NULL or CURVE; None if nothing says one in time."""
    with suppress(OSError, ValueError), dial(endpoint, PROBE_S) as peer:
        peer.sendall(_VERSION)
        greeting = b""
        while len(greeting) < _GREETING_BYTES and (more := peer.recv(_GREETING_BYTES)):
            greeting += more
        return greeting[12:32].rstrip(b"\0").decode("ascii") or None
    return None
