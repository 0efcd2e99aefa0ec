"""A running daemon that suffers faults, and what it owes: every sample heard, or lost in a gap that was told of."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from faulty import NAMES
from serstream_process import LIMIT_S, Daemon, hear, hear_out, nothing_lost

from serstream import Gap, Health, Posterior
from serstream.bench.virtual_mic import VirtualMic

_CLOCK = """import pathlib, time
_time, _offset = time.time, pathlib.Path(__file__).with_name("offset")
time.time = lambda: _time() + float(_offset.read_text())
"""


class Measured(NamedTuple):
    """As what a fault was announced, None where nothing is lost, and seconds, None where they were not measured.

    ``noticed_s`` is from the fault to the announcement, ``back_s`` from its end to that of the gap.
    """

    announced: str | None = None
    noticed_s: float | None = None
    back_s: float | None = None


class Rig:
    """A daemon whose wall clock can be set, its microphone, and a subscriber that misses nothing."""

    def __init__(self, folder: Path, config: Mapping[str, Any], mic: VirtualMic, seed: int = 0) -> None:
        self.folder, self.config, self.mic = folder, config, mic
        self.rng = random.Random(seed)
        self._clock = folder / "clock"
        self._clock.mkdir()
        (self._clock / "sitecustomize.py").write_text(_CLOCK)
        self.set_clock(0.0)
        self.events: list[Any] = []
        self._start()
        self.subscriber = self.daemon.subscribe()
        try:
            self.running()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.subscriber.close()
        self.daemon.__exit__()

    def _start(self) -> None:
        path = os.pathsep.join([str(self._clock), *filter(None, [os.environ.get("PYTHONPATH")])])
        record = ("--record", self.folder / "timing")
        env = {**self.mic.env, "PYTHONPATH": path, "STATE_DIRECTORY": str(self.folder)}
        self.daemon = Daemon(self.folder, self.config, *record, env=env).ready()

    def set_clock(self, ahead_s: float) -> None:
        """Set the daemon's wall clock to so many seconds ahead of ours."""
        self._ahead = timedelta(seconds=ahead_s)
        (self._clock / "new").write_text(str(ahead_s))
        (self._clock / "new").rename(self._clock / "offset")

    def now(self) -> datetime:
        """Return the daemon's wall time."""
        return datetime.now(UTC) + self._ahead

    def inject(self, fault: Callable[[Rig], Measured]) -> Measured:
        """Let a fault happen at a moment that the seed tells."""
        time.sleep(self.rng.uniform(0.0, 0.3))  # the moment
        return fault(self)

    def until(self, wanted: Callable[[Any], Any], since_s: float | None = None) -> float:
        """Hear until an event is wanted, which is the last of ``events`` then; return how long that took."""
        begun_s = time.monotonic() if since_s is None else since_s
        self.events += hear(self.subscriber, wanted, 2 * LIMIT_S)
        return time.monotonic() - begun_s

    def gap(self, phase: str, causes: tuple[str, ...], since_s: float | None = None) -> float:
        return self.until(lambda e: isinstance(e, Gap) and e.phase == phase and e.cause in causes, since_s)

    def running(self) -> None:
        """Wait until what was captured from now on is heard, and every source says so."""
        for source in self.config["sources"]:
            now = self.now()
            self.until(lambda e, s=source, t=now: isinstance(e, Posterior) and e.source == s and time_of(e) > t)
            self.until(lambda e, s=source, t=now: isinstance(e, Health) and e.source == s and is_running(e, t))

    def restart(self) -> None:
        """Start the daemon again after its end; what the subscriber hears of the one before is forgotten."""
        session = self.events[-1].session
        self._start()
        self.until(lambda e: e.session != session and isinstance(e, Posterior))
        self.events = [e for e in self.events if e.session != session]

    def end(self) -> None:
        """End the daemon as its users do; hold that everything is accounted for."""
        self.events += hear_out(self.daemon, self.subscriber, signal.SIGTERM)
        account(self.events)


def time_of(event: Any) -> datetime:
    return datetime.fromisoformat(event.time)


def is_running(health: Health, since: datetime) -> bool:
    return health.status == "running" and time_of(health) > since


def account(events: list[Any]) -> None:
    """Hold that one session told of everything: every gap ended, and the gaps are what the counters say."""
    last = {e.source: e for e in events if isinstance(e, Health)}
    assert len({e.session for e in events}) == 1
    assert last
    for source, health in last.items():
        gaps = [e for e in events if isinstance(e, Gap) and e.source == source]
        assert [g.phase for g in gaps] == ["start", "end"] * (len(gaps) // 2)
        assert [g.cause for g in gaps[::2]] == [g.cause for g in gaps[1::2]]
        told = dict.fromkeys(("input_overflows", "ring_overruns", "device_lost", "stalled", "muted"), 0)
        for gap in gaps[1::2]:
            name = NAMES.get(gap.cause, gap.cause)
            told[name] = told.get(name, 0) + gap.lost_samples
        assert {name: health.counters[name] for name in told} == told
        assert nothing_lost(health)
