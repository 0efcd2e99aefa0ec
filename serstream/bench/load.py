"""Many streams of speech at the pace of speech, sent by a process of its own: ``python -m serstream.bench.load``.

Each is sent as ``serstream send`` sends a microphone: a connection of its own, packets of 50 ms, in its own time.
"""

from __future__ import annotations

import heapq
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import msgspec
import zmq

from serstream.audio import Outlet
from serstream.bench.cores import only_on
from serstream.bench.speech import in_blocks
from serstream.children import END_LIMIT_S, command, end, environment
from serstream.config import SAMPLE_RATE
from serstream.endpoints import allow_connections
from serstream.errors import SerstreamError

PACKET_S = 0.05
PACKET_SAMPLES = round(PACKET_S * SAMPLE_RATE)
SIGNAL_S = 30.0
CONNECT_LIMIT_S = 30.0


class Load(msgspec.Struct, frozen=True):
    """What is sent: ``n_streams`` that begin one after another within ``ramp_s``, all for ``duration_s`` in total."""

    endpoint: str
    n_streams: int
    ramp_s: float
    duration_s: float

    def begin_s(self, stream: int) -> float:
        """Return how long after the first stream another begins."""
        return self.ramp_s * stream / self.n_streams

    def due_s(self, stream: int, n_samples: int) -> float:
        """Return how long after the beginning the packet is due with which so many samples of a stream are sent."""
        return self.begin_s(stream) + -(-n_samples // PACKET_SAMPLES) * PACKET_S

    def packets(self, stream: int) -> int:
        """Return how many packets of a stream are sent in all."""
        return int((self.duration_s - self.begin_s(stream)) / PACKET_S)


class Sent(msgspec.Struct, frozen=True):
    """What became of it: packets that nobody took, and by how much the latest of all was late."""

    refused: int
    late_s: float


class Sender(NamedTuple):
    """The process, and ``time.monotonic()`` at which the first stream begins."""

    process: subprocess.Popen[bytes]
    start_s: float

    def result(self) -> Sent:
        """Wait for the end, and return what became of the load."""
        out, _ = self.process.communicate()
        return msgspec.json.decode(out, type=Sent)


def name(stream: int) -> str:
    """Return what a stream is called."""
    return f"s{stream}"


def number(stream: str) -> int:
    """Return which stream is called so."""
    return int(stream[1:])


@contextmanager
def sender(load: Load, cores: set[int]) -> Iterator[Sender]:
    """Send until the end of the block at most.

    Raises
    ------
    SerstreamError
        If the daemon does not take all connections.
    """
    words = command("bench.load", msgspec.json.encode(load).decode())
    with only_on(cores):
        process = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if not (line := process.stdout.readline()):
            raise SerstreamError(f"{load.n_streams} streams could not be sent to {load.endpoint}; ulimit -n may be low")
        yield Sender(process, float(line))
    finally:
        process.terminate()
        end(process)
        process.stdout.close()


def main(load: Load) -> None:
    """Send, and print when that begins and what became of it."""
    allow_connections()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.max_sockets = 3 * load.n_streams + 1  # two of each watch its connection
    outlets = [Outlet(load.endpoint, name(i), context=context) for i in range(load.n_streams)]
    if all(outlet.ready(CONNECT_LIMIT_S) for outlet in outlets):
        start_s = time.monotonic()
        print(start_s, flush=True)
        print(msgspec.json.encode(_send(load, outlets, start_s)).decode(), flush=True)
    for outlet in outlets:
        outlet.close(END_LIMIT_S)


def _send(load: Load, outlets: list[Outlet], start_s: float) -> Sent:
    """Send each packet when its last sample would have been spoken."""
    blocks = in_blocks(SIGNAL_S, PACKET_S)
    refused, late_s = 0, 0.0
    due = [(load.due_s(i, PACKET_SAMPLES), i, 0) for i in range(load.n_streams)]
    heapq.heapify(due)
    while due:
        due_s, i, k = due[0]
        wait_s = start_s + due_s - time.monotonic()
        if wait_s > 0.0:
            time.sleep(wait_s)
        late_s = max(late_s, -wait_s)
        block = blocks[(k + i * len(blocks) // len(outlets)) % len(blocks)]
        refused += not outlets[i].send(k * PACKET_SAMPLES, block, 0.0)
        if k + 1 < load.packets(i):
            heapq.heapreplace(due, (load.due_s(i, (k + 2) * PACKET_SAMPLES), i, k + 1))
        else:
            heapq.heappop(due)
    return Sent(refused, late_s)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(msgspec.json.decode(sys.argv[1], type=Load))
