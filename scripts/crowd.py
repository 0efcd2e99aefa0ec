"""Let hundreds subscribe to a daemon that hears a hundred streams. ``sh scripts/crowd`` runs this.

The daemon is a process of its own, its sources are the embedded demo at the pace of speech, and each subscriber is a
connection of its own that asks for everything. Each must get every event, and the daemon must not be late for them: the
latency of its posteriors stands in the table with one subscriber, and with all.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
from ears import Crowd
from rich.console import Console
from rich.table import Table
from serstream_process import Daemon
from writable import check_writable

from serstream.bench.processes import cpu_s
from serstream.machine import machine

SCHEMA = "serstream-crowd/1"
LIMIT_S = 120.0
LATE_S = 1.0
"""A daemon whose posteriors are later than that, one in a hundred of them, is held up."""


class Row(NamedTuple):
    """A daemon with so many subscribers, over so many seconds."""

    subscribers: int
    seconds: float
    events: int
    delivered: int
    daemon_cpu: float
    latency_p50_s: float
    latency_p99_s: float


def listen(crowd: Crowd, daemon: Daemon, n: int, seconds: float) -> Row:
    """Let as many join as are missing of ``n``, and hear for so long; nobody may miss anything."""
    crowd.join(n - len(crowd.ears))
    hear_until(crowd, lambda: crowd.n_listening == n, "all have heard something")
    begin_s, cpu_before_s = time.monotonic(), cpu_s(daemon.process.pid)
    events, heard = crowd.numbered.n_events, len(crowd.latencies_s)
    end_s = begin_s + seconds
    while time.monotonic() < end_s:
        crowd.listen(0.1)
    took_s = time.monotonic() - begin_s
    share = (cpu_s(daemon.process.pid) - cpu_before_s) / took_s
    events, latencies_s = crowd.numbered.n_events - events, sorted(crowd.latencies_s[heard:])
    everything_was_heard(crowd, daemon)
    p99_s = latencies_s[int(0.99 * len(latencies_s))]
    p50_s = statistics.median(latencies_s)
    return Row(n, round(took_s, 1), events, events * n, round(share, 3), round(p50_s, 4), round(p99_s, 4))


def everything_was_heard(crowd: Crowd, daemon: Daemon) -> None:
    """Hold that all have all that was published until now."""
    said = {f"serstream.v1.{e['source']}.{e['type']}".encode(): e["seq"] for e in daemon.ask("snapshot")}
    newest = crowd.numbered.newest
    hear_until(crowd, lambda: all(newest.get(t, 0) >= seq for t, seq in said.items()), "the first has heard everything")
    assert crowd.numbered.lost == 0, f"{crowd.numbered.lost} events are missing"
    n_bytes = crowd.n_bytes
    hear_until(crowd, lambda: crowd.n_behind(n_bytes) == 0, "all have heard everything")


def hear_until(crowd: Crowd, done: Callable[[], bool], what: str) -> None:
    """Listen until something is so."""
    end_s = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < end_s, f"not within {LIMIT_S:g} s: {what}"
        crowd.listen(0.1)
        assert crowd.failure is None, crowd.failure


def gather(subscribers: int, streams: int, seconds: float) -> list[Row]:
    """Hear with one subscriber, then with all."""
    config = {"sources": {f"s{number}": {"kind": "demo"} for number in range(streams)}}
    with tempfile.TemporaryDirectory(prefix="crowd-") as folder, Daemon(Path(folder), config) as daemon:
        daemon.ready()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # behind the daemon, which must see to its own
        with closing(Crowd(daemon.events)) as crowd:
            rows = [listen(crowd, daemon, n, seconds) for n in (1, subscribers)]
            statuses = {standing["status"] for standing in daemon.ask("status")["sources"].values()}
            assert statuses == {"running"}, f"sources are {', '.join(statuses)}"
    return rows


def table(rows: list[Row]) -> Table:
    """Return what people read."""
    shown = Table(box=None, pad_edge=False)
    for head in ("subscribers", "seconds", "events", "delivered", "daemon's cores", "latency s: p50", "p99"):
        shown.add_column(head, justify="right")
    for row in rows:
        counts = (f"{row.subscribers:,}", f"{row.seconds:g}", f"{row.events:,}", f"{row.delivered:,}")
        shown.add_row(*counts, f"{row.daemon_cpu:.2f}", f"{row.latency_p50_s:.3f}", f"{row.latency_p99_s:.3f}")
    return shown


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="sh scripts/crowd", description=(__doc__ or "").split(" ``sh")[0])
    parser.add_argument("--subscribers", type=int, default=200, metavar="N", help="2 to 10000 (%(default)s)")
    parser.add_argument("--streams", type=int, default=100, metavar="N", help="1 to 1000 (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="N", help="of each row, 1 to 3600 (%(default)g)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found, too")
    args = parser.parse_args()
    if not (2 <= args.subscribers <= 10_000 and 1 <= args.streams <= 1000 and 1.0 <= args.seconds <= 3600):
        parser.error("subscribers are 2 to 10000, streams 1 to 1000, seconds 1 to 3600")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if args.subscribers + 100 > most:
        parser.error(f"{args.subscribers} subscribers need more descriptors than the {most} allowed here; ulimit -Hn")
    check_writable(parser, args.json)
    return args


def main() -> int:
    """Gather a crowd, show, write; return 1 if one misses an event or the daemon is held up."""
    args, here, rows, failure = arguments(), machine(), list[Row](), None
    try:
        rows = gather(args.subscribers, args.streams, args.seconds)
        if rows[-1].latency_p99_s > LATE_S:
            failure = f"the daemon was late by more than {LATE_S:g} s for one posterior in a hundred"
    except AssertionError as error:
        failure = str(error)
    wide = Console(width=None if sys.stdout.isatty() else 160)
    wide.print(f"{here}, {args.streams} streams", markup=False)
    wide.print(table(rows))
    wide.print(failure or "every subscriber got every event", markup=False)
    if args.json:
        found = {"schema": SCHEMA, "machine": msgspec.to_builtins(here), "streams": args.streams}
        found |= {"rows": [row._asdict() for row in rows], "failure": failure}
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(failure is not None)


if __name__ == "__main__":
    sys.exit(main())
