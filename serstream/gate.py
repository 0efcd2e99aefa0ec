"""Lets clients in by their CURVE keys: the daemon's side of ZAP (https://rfc.zeromq.org/spec/27)."""

from __future__ import annotations

import logging
import os
import socket as sockets
import threading
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Any

import zmq
from zmq.utils import z85

from serstream.clients import RIGHTS, Clients
from serstream.endpoints import new_context
from serstream.errors import TransportError
from serstream.keys import ClientKeys, Pair, read_pair

ENTRY = {"events": {"listen"}, "control": {"listen", "control"}, "audio": {"send"}}
"""Which rights, one of them, let a client connect to an endpoint."""
LISTENS = frozenset({"snapshot", "replay", "status"})
"""Requests that the right to listen covers; all others need that to control."""
REFRESH_S = 1.0
HANDSHAKE_S = 5.0
"""Who has not shown a key by then is cut off."""
LOG_S = 1.0
"""A refused client is logged at most so often."""
_CLOSE_LIMIT_S = 0.5

_log = logging.getLogger(__name__)


class Gate:
    """The keys of a daemon's endpoints, and the thread that answers ZeroMQ's question who may come in.

    The list of clients is looked at every second and at every handshake. When a client loses a right, its requests are
    refused from then on, and every connection of the endpoint that the right opens is cut: who is still allowed is back
    in a moment.

    Parameters
    ----------
    key : str
        Name or path of the daemon's secret key.
    clients : str
        Name or path of the list of clients.

    Attributes
    ----------
    context : zmq.Context
        For the sockets of all endpoints: ZeroMQ asks within one context.
    guest : ClientKeys
        Keys that may listen and are written nowhere, for this process itself.
    refused : int
        Handshakes.

    Raises
    ------
    ConfigError
        If the key or the list cannot be used.
    """

    def __init__(self, key: str, clients: str) -> None:
        self._pair, self._clients = read_pair(key), Clients(clients)
        guest = Pair("guest", *zmq.curve_keypair())
        self.guest = ClientKeys(guest, self._pair.public, self._pair.name)
        self._own = {guest.public.decode(): frozenset({"listen"})}
        self.refused = 0
        self._quiet_until_s = 0.0
        self._endpoints: dict[str, str] = {}
        self.context = new_context()
        self._zap = self.context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind("inproc://zeromq.zap.01")
        self._stop, self._stopped = sockets.socketpair()
        self._thread = threading.Thread(target=self._serve, name="serstream-gate", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether handshakes are being answered."""
        return self._thread.is_alive()

    def options(self, endpoint: str) -> dict[int, int | bytes]:
        """Return what the socket of an endpoint (a key of :data:`ENTRY`) must be told before it is bound."""
        return {
            zmq.CURVE_SERVER: 1,
            zmq.CURVE_SECRETKEY: self._pair.secret,
            zmq.ZAP_DOMAIN: endpoint.encode(),
            zmq.ZAP_ENFORCE_DOMAIN: 1,  # without this thread nobody comes in
            zmq.HANDSHAKE_IVL: int(HANDSHAKE_S * 1e3),
        }

    def guard(self, endpoint: str, bound: str) -> None:
        """Say where an endpoint was bound, so that its connections can be cut."""
        self._endpoints[endpoint] = bound

    def check_request(self, user: str, request: str) -> None:
        """Raise :class:`TransportError` unless a client may ask this; called from any thread."""
        right = "listen" if request in LISTENS else "control"
        if right not in (rights := self._rights(user)):
            name = self._clients.name(user) or "unknown"
            has = f"has the right to {', '.join(sorted(rights))} alone" if rights else "has lost its rights"
            raise TransportError(
                f"client {name} {has}; {request[:60]!r} needs the right to {right} in the list of clients"
            )

    def close(self) -> None:
        """End, after the endpoints were closed; calling it again does nothing."""
        self._stop.close()
        self._thread.join(_CLOSE_LIMIT_S)
        if not self._thread.is_alive():
            self._stopped.close()
            self._zap.close()
            self.context.term()

    def _rights(self, user: str) -> frozenset[str]:
        return self._own.get(user) or self._clients.rights(user)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._stopped.fileno(), zmq.POLLIN)
        while self._stopped.fileno() not in (ready := dict(poller.poll(int(REFRESH_S * 1e3)))):
            for right in self._clients.refresh():
                self._cut(right)
            if self._zap in ready:
                self._zap.send_multipart(self._answer(self._zap.recv_multipart()))

    def _answer(self, asked: list[bytes]) -> list[bytes]:
        version, number, domain, address, _identity, mechanism, *credentials = asked
        key = z85.encode(credentials[0]).decode() if mechanism == b"CURVE" else ""
        if self._rights(key) & ENTRY[domain.decode()]:
            return [version, number, b"200", b"OK", key.encode(), b""]
        self.refused += 1
        self._tell(key, address.decode(), domain.decode())
        return [version, number, b"400", b"not in the list of clients", b"", b""]

    def _tell(self, key: str, address: str, endpoint: str) -> None:
        if (now_s := monotonic()) < self._quiet_until_s:
            return
        self._quiet_until_s = now_s + LOG_S
        _log.warning(
            "refused %s (key %s) at %s, transport.%s: %s gives it none of the rights %s (refused so far: %d)",
            *(self._clients.name(key) or "a stranger", key, address, endpoint),
            *(self._clients.path, ", ".join(r for r in RIGHTS if r in ENTRY[endpoint]), self.refused),
        )

    def _cut(self, right: str) -> None:
        """Cut the connections of the endpoint that a right alone opens; requests are checked one by one."""
        for endpoint, bound in self._endpoints.items():
            if ENTRY[endpoint] == {right}:
                _log.warning(
                    "a client lost the right to %s: all connections to transport.%s are made anew", right, endpoint
                )
                cut(bound)


def cut(endpoint: str) -> None:
    """End all connections that were made to an endpoint of this process; the endpoint stays."""
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError), ExitStack() as opened:
            copy = os.dup(int(number))
            opened.callback(os.close, copy)  # which a failing socket() leaves open
            connection = sockets.socket(fileno=copy)
            opened.callback(connection.detach)
            connection.getpeername()  # or it is the one that listens
            if _is_at(endpoint, connection.getsockname()):
                connection.shutdown(sockets.SHUT_RDWR)


def _is_at(endpoint: str, address: Any) -> bool:
    scheme, _, place = endpoint.partition("://")
    if scheme == "ipc":
        return bool(address == (b"\0" + place[1:].encode() if place.startswith("@") else place))
    return isinstance(address, tuple) and address[1] == int(place.rpartition(":")[2])
