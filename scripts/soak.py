"""Hear hours of sound with faults in it, as fast as possible. ``sh scripts/soak`` runs this.

All is what a daemon has: a microphone with its supervision, whose device alone is made up (serstream.faults), the
thread that hears, the shipped model, and a publisher with a subscriber, in one process. Memory must stay flat after the
first sixth, every sample be heard or told of in a gap, and every event reach the subscriber.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import soundfile
import zmq
from ledger import Ledger
from memory import FLAT_MB, settled_mb
from numbered import Numbered
from rich.console import Console
from rich.table import Table
from writable import check_writable

from serstream.config import SAMPLE_RATE, DecisionConfig, MicrophoneSource, SpeechConfig
from serstream.daemon import find_model
from serstream.events import AnyEvent
from serstream.faults import FaultyMicrophone, Step, schedule
from serstream.hearing import HEALTH_S, Hearing, Orders, Wishes
from serstream.machine import machine
from serstream.publisher import Publisher
from serstream.resources import packaged

SCHEMA = "serstream-soak/1"
MARKS, WARM_UP = 12, 2
"""Memory is read so often, and compared from that time on."""
FAULTS_AT_ONCE = 5
REPLAY_MB = 0.1
"""What a publisher remembers, which is full at the first mark."""
QUEUED = 100
"""Most events on their way to the subscriber: what hears faster than life must wait for who listens."""
LIMIT_S = 60.0
SOURCE, SESSION = "mic", "soak"


class Mark(NamedTuple):
    """The process after so many hours of sound."""

    hours: float
    memory_mb: float
    events: int
    cpu_s: float


class Told:
    """The publisher, and the ledger of what it was told. Called from any thread."""

    session = SESSION

    def __init__(self, publisher: Publisher) -> None:
        self._publisher, self._lock = publisher, threading.Lock()
        self.ledger, self.n_events = Ledger(), 0

    def publish(self, event: AnyEvent, *, time: str, latency_s: float) -> AnyEvent:
        """Publish as :meth:`Publisher.publish` does, and hold the event against those before."""
        with self._lock:
            published = self._publisher.publish(event, time=time, latency_s=latency_s)
            self.n_events += 1
            self.ledger.take(published)
        return published


class Soak:
    """One process that hears. Its parts are those of a daemon, without what makes one of them a process."""

    def __init__(self, folder: str, hours: float, seed: int) -> None:
        self.hours, self._seed = hours, seed
        self.marks: list[Mark] = []
        self._context = zmq.Context()
        self._publisher = Publisher(
            f"ipc://{folder}/events", f"ipc://{folder}/control", session=SESSION, replay_mb=REPLAY_MB
        )
        self.told, self.heard = Told(self._publisher), Numbered()
        self._progress = threading.Condition()
        self._hearing = Hearing(orders(), self.told, on_progress=lambda _: None, on_end=lambda: None)
        config = MicrophoneSource()
        self._source = FaultyMicrophone(self._steps(), config, seed, sound())
        self._begin_s = self._source.now_s
        self._hearing.streams[SOURCE].source = self._source
        self._subscriber = self._context.socket(zmq.SUB)
        self._subscriber.rcvhwm = 0
        self._subscriber.subscribe(b"")
        self._subscriber.connect(self._publisher.events_endpoint)

    def run(self) -> None:
        """Hear to the end; what is not as it must be raises :class:`AssertionError`."""
        while not self.heard.n_events:  # a subscription takes a moment
            self._hearing.streams[SOURCE].publish_health()
            self._listen(0.1)
        self._before = self.told.n_events - self.heard.n_events
        self._hearing.start()
        while not self._hearing.ended:
            self._listen(HEALTH_S)
            self._hearing.tend()
        if self._hearing.error is not None:
            raise self._hearing.error
        self._hearing.close(LIMIT_S)
        while self.missing and self._listen(LIMIT_S):
            pass
        assert (self.missing, self.heard.lost) == (0, 0), f"of {self.told.n_events} events {self.missing} are missing"
        self.told.ledger.settle()

    @property
    def missing(self) -> int:
        """Events that were published and have not reached the subscriber."""
        return self.told.n_events - self._before - self.heard.n_events

    @property
    def growth_mb(self) -> float:
        """By how much memory varied after the warm-up."""
        later = [mark.memory_mb for mark in self.marks[WARM_UP - 1 :]]
        return round(max(later) - min(later), 3)

    def _listen(self, seconds: float) -> bool:
        """Receive for so long, or until nothing is missing of what came; whether something came."""
        came, end_s = 0, time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0 and self._subscriber.poll(min(100, left_s * 1e3)):
            self.heard.take(self._subscriber.recv())
            came += 1
        return bool(came)

    def _steps(self) -> Iterator[Step]:
        """Yield faults; where memory is read, behind enough sound that every page of the rings was written."""
        for number in count():
            for step in schedule(self._seed * 1_000_000 + number, FAULTS_AT_ONCE):
                self._await_subscriber(QUEUED)
                yield step
            hours = (self._source.now_s - self._begin_s) / 3600
            if hours >= self.hours * (len(self.marks) + 1) / MARKS:
                yield from [Step("sound", 4.0)] * 4
                self._mark(hours)
            if len(self.marks) == MARKS:
                return

    def _await_subscriber(self, behind: int) -> None:
        """Wait until the subscriber is so many events behind at most; on the thread that hears."""
        end_s = time.monotonic() + LIMIT_S
        while self.missing > behind:
            assert time.monotonic() < end_s, f"{self.missing} events did not reach the subscriber"
            time.sleep(0.001)

    def _mark(self, hours: float) -> None:
        """Read the memory; on the thread that hears, while nothing is on its way."""
        self._await_subscriber(0)
        mark = Mark(round(hours, 3), settled_mb(), self.heard.n_events, round(time.process_time(), 1))
        self.marks.append(mark)
        print(f"{len(self.marks)}/{MARKS} {mark}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Release the sockets."""
        self._hearing.stop()
        self._publisher.close()
        self._context.destroy(linger=0)


def orders() -> Orders:
    """Return what a daemon would order that hears a microphone with the shipped model."""
    model = find_model("serstream")
    return Orders(
        session=SESSION,
        started_s=time.time(),
        sources={SOURCE: MicrophoneSource()},
        speech=SpeechConfig(),
        wishes=Wishes(decision=DecisionConfig(), log_level=logging.ERROR),
        manifest=model.manifest,
        network=model.content,
        runtime="litert",
    )


def sound() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the demo at the rate of a device, with a little noise: what is digital silence there is none here."""
    import soxr

    speech, rate = soundfile.read(packaged("demo.flac"), dtype="float32")
    assert rate == SAMPLE_RATE
    speech = soxr.resample(speech, rate, 48_000).astype(np.float32)
    return speech + np.float32(1e-4) * np.random.default_rng(0).standard_normal(len(speech), np.float32)


def table(marks: list[Mark]) -> Table:
    """Return what people read."""
    shown = Table(box=None, pad_edge=False)
    for head in ("hours of sound", "memory MB", "events", "CPU s"):
        shown.add_column(head, justify="right")
    for mark in marks:
        shown.add_row(f"{mark.hours:.2f}", f"{mark.memory_mb:.2f}", f"{mark.events:,}", f"{mark.cpu_s:,.0f}")
    return shown


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="sh scripts/soak", description=(__doc__ or "").split(" ``sh")[0])
    parser.add_argument("--hours", type=float, default=24.0, metavar="N", help="of sound, 0.1 to 10000 (%(default)g)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the faults, from 0 (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found, too")
    args = parser.parse_args()
    if not 0.1 <= args.hours <= 10_000 or args.seed < 0:
        parser.error(f"--hours {args.hours:g} --seed {args.seed}; hours are 0.1 to 10000, a seed is 0 or more")
    check_writable(parser, args.json)
    return args


def main() -> int:
    """Soak, show, write; return 1 if memory grew, or something was lost."""
    args, here, failure = arguments(), machine(), None
    logging.getLogger("serstream").setLevel(logging.CRITICAL)  # that devices go wrong is no news here
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(folder, args.hours, args.seed)
        try:
            soak.run()
            if soak.growth_mb > FLAT_MB:
                failure = f"memory varied by {soak.growth_mb} MB after the warm-up; allowed are {FLAT_MB:g} MB"
        except Exception as error:  # whatever it was, what was found until then is shown
            failure = f"{type(error).__name__}: {error}"
        finally:
            soak.close()
    ledger, health = soak.told.ledger, soak.told.ledger.health
    counters = {} if health is None else {name: n for name, n in health.counters.items() if n}
    wide = Console(width=None if sys.stdout.isatty() else 160)
    wide.print(f"{here}, seed {args.seed}", markup=False)
    wide.print(table(soak.marks))
    wide.print(f"counters: {', '.join(f'{name} {n}' for name, n in counters.items())}", markup=False)
    wide.print(f"events: {', '.join(f'{kind} {n}' for kind, n in ledger.events.items())}", markup=False)
    wide.print(
        failure or f"memory varied by {soak.growth_mb} MB; every sample and event is accounted for", markup=False
    )
    if args.json:
        found = {"schema": SCHEMA, "machine": msgspec.to_builtins(here), "seed": args.seed, "hours": args.hours}
        found |= {"marks": [mark._asdict() for mark in soak.marks], "counters": counters, "events": ledger.events}
        args.json.write_text(json.dumps(found | {"failure": failure}, indent=1) + "\n")
    return int(failure is not None)


if __name__ == "__main__":
    sys.exit(main())
