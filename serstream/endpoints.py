"""Sockets of one end of the wire: binding, connecting, waiting, closing."""

from __future__ import annotations

import os
import resource
import socket as sockets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import ceil, inf
from typing import Any

import zmq

from serstream.addresses import check_bind, check_connect
from serstream.errors import TransportError

HEARTBEAT_S = 5.0
QUEUED_EVENTS = 10_000
"""Events that wait for a slow subscriber before it loses some."""
_EVERYWHERE = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "::1"}
_CONNECTED_OR_REFUSED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


def allow_connections() -> None:
    """Allow this process as many descriptors as it may have, for each connection takes one; most begin with 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a sandbox may refuse it
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def new_context() -> zmq.Context[Any]:
    """Return a context whose threads do not interrupt, at every message, whoever computes."""
    context: zmq.Context[Any] = zmq.Context()
    context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_BATCH)
    return context


class Wire:
    """The sockets of one end and their context, which are closed together."""

    def __init__(self, context: zmq.Context[Any] | None) -> None:
        self._shared = context is not None
        self._context = new_context() if context is None else context
        self._sockets: list[zmq.Socket[bytes]] = []

    def socket(self, kind: int, options: Mapping[int, int | bytes]) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = self._context.socket(kind)
        self._sockets.append(made)
        made.linger = 0
        heartbeat: dict[int, int | bytes] = {
            zmq.HEARTBEAT_IVL: int(HEARTBEAT_S * 1e3),
            zmq.HEARTBEAT_TIMEOUT: int(3 * HEARTBEAT_S * 1e3),
        }
        for option, value in (heartbeat | dict(options)).items():
            made.set(option, value)
        return made

    def monitor(self, watched: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """Return a socket that receives a message for each connection of ``watched`` that is made or refused."""
        monitor: zmq.Socket[bytes] = watched.get_monitor_socket(_CONNECTED_OR_REFUSED)
        self._sockets.append(monitor)
        return monitor

    def bind(
        self, socket: zmq.Socket[bytes], endpoint: str, key: str, *, insecure: bool = False, ipc_mode: str = "owner"
    ) -> str:
        """Bind and return the endpoint as bound; ``key`` names it in the configuration."""
        check_bind(endpoint, f"{key} is", insecure=insecure, inproc=self._shared)
        path = _ipc_path(endpoint)
        in_use = f"endpoint {endpoint} is in use; stop what uses it (another serstream?) or change {key}"
        if path is not None:
            _check_path(path, key)
            if _is_served(path):
                raise TransportError(in_use)
        umask = os.umask(0o177)  # the file of an ipc endpoint is born closed
        try:
            self._open(socket.bind, socket, endpoint.replace("tcp://localhost:", "tcp://127.0.0.1:"))
            if path is not None and ipc_mode == "group":
                os.chmod(path, 0o660)
        except zmq.ZMQError as error:
            reason = f"endpoint {endpoint} cannot be bound ({error.strerror}); change {key}"
            raise TransportError(in_use if error.errno == zmq.EADDRINUSE else reason) from error
        finally:
            os.umask(umask)
        bound = socket.get(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        return bound.decode().rstrip("\0")

    def connect(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        check_connect(endpoint, inproc=self._shared)
        try:
            self._open(socket.connect, socket, endpoint)
        except zmq.ZMQError as error:
            raise TransportError(
                f"endpoint {endpoint} cannot be connected to ({error.strerror}); correct it"
            ) from error

    def _open(self, how: Callable[[str], Any], socket: zmq.Socket[bytes], endpoint: str) -> None:
        socket.set(zmq.IPV6, int("[" in endpoint))
        how(endpoint)

    def close(self) -> None:
        for socket in self._sockets:
            socket.close()
        if not self._shared:
            self._context.term()


def take(socket: zmq.Socket[bytes]) -> bytes | None:
    """Return the last frame of the next message, or None when there is none."""
    try:
        return socket.recv_multipart(zmq.NOBLOCK)[-1]
    except zmq.Again:
        return None


def dial(endpoint: str, limit_s: float) -> sockets.socket:
    """Return a plain connection to what listens at ``tcp://HOST:PORT`` or ``ipc://PATH``, if need be at every address.

    Raises
    ------
    OSError
        If nobody accepts it within ``limit_s`` seconds.
    ValueError
        If the port is no number.
    """
    scheme, _, place = endpoint.partition("://")
    if scheme == "tcp":
        host, _, port = place.rpartition(":")
        return sockets.create_connection((_EVERYWHERE.get(host, host.strip("[]")), int(port)), limit_s)
    peer = sockets.socket(sockets.AF_UNIX)
    peer.settimeout(limit_s)
    try:
        peer.connect("\0" + place[1:] if place.startswith("@") else place)
    except BaseException:
        peer.close()
        raise
    return peer


def _ipc_path(endpoint: str) -> str | None:
    """Return the path of an endpoint that is a file of a name that is known."""
    scheme, _, path = endpoint.partition("://")
    return None if scheme != "ipc" or path[0] in "@*" else path


def _check_path(path: str, key: str) -> None:
    """Refuse what ZeroMQ would delete."""
    try:
        found = os.lstat(path)
    except OSError:  # nothing, or what binding will say
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise TransportError(f"{key} is ipc://{path}, which is there and no socket; name a path that is free")


def _is_served(path: str) -> bool:
    """Whether a process listens at a path, which ZeroMQ would take away from it without a word."""
    with sockets.socket(sockets.AF_UNIX) as probe, suppress(OSError):
        probe.connect(path)
        return True
    return False


def milliseconds(seconds: float) -> int:
    """Return what ``zmq_poll`` takes; -1 for ever."""
    return -1 if seconds == inf else max(0, min(ceil(seconds * 1e3), 2**31 - 1))


async def poll_async(awaited: list[tuple[zmq.Socket[bytes], int]], timeout_s: float) -> None:
    """Wait in the running event loop until a socket is ready (or might be), or the time is over."""
    import asyncio

    if zmq.zmq_poll(awaited, 0):  # also arms the sockets' file descriptors
        return
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    descriptors = [socket.fileno() for socket, _ in awaited]
    for descriptor in descriptors:
        loop.add_reader(descriptor, woken.set)
    try:
        async with asyncio.timeout(None if timeout_s == inf else timeout_s):
            await woken.wait()
    except TimeoutError:
        pass
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
