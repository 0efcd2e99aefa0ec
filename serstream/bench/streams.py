"""How many real-time streams a daemon on one core carries, and what each of them costs.

The sound comes over the network, as a server's does, and is speech, for silence costs less.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serstream.bench.computing import MODEL, step_samples
from serstream.bench.cores import only_on
from serstream.bench.load import PACKET_S, PACKET_SAMPLES, Load, Sent, name, number, sender
from serstream.bench.measuring import Extent, Figure, NotHereError, figure
from serstream.bench.processes import Running, cpu_s, daemon
from serstream.config import SAMPLE_RATE
from serstream.daemon import find_model
from serstream.errors import SerstreamError
from serstream.events import AnyEvent, Gap, Health, Posterior
from serstream.transport import Lost, Subscriber, request

LIMIT_P99_S = 0.1
STALL_S = 2.0
SETTLE_STEPS = 10
"""Between the beginning of the last stream and what counts: by then the segments are filled."""
CATCH_UP_S = 0.02
LADDER = 4
"""The cost is measured with 1, 4, 16 and so on streams."""
RESOLUTION = 0.05
"""The greatest number of streams is known to this part of it."""


class Outcome(NamedTuple):
    """What became of so many streams.

    Attributes
    ----------
    n_streams : int
    cpu_s : list of float
        CPU seconds for a second of one stream, in each turn.
    late_s : list of float
        How long after a step's last packet was due its event was received.
    steal : float
        Share of the core's time that the machine's host kept from it.
    missed : str
        Which deadline was missed, or why they were not heard at all; empty for none.
    """

    n_streams: int
    cpu_s: list[float]
    late_s: list[float]
    steal: float
    missed: str


class Cores(NamedTuple):
    """The one core of the daemon and all that it starts, and those of the load."""

    daemon: int
    load: set[int]


def streams(extent: Extent) -> list[Figure]:
    """Measure how many streams one core carries with all deadlines met, and what they cost as they become more."""
    cores = _cores()
    outcomes: dict[int, Outcome] = {}

    def carries(n_streams: int, seconds: float = extent.live_s / 2) -> bool:
        with only_on(cores.load):
            outcomes[n_streams] = carry(n_streams, seconds, extent, cores)
        return not outcomes[n_streams].missed

    n = greatest(carries, extent.streams)
    while n and not carries(n, extent.load_s):
        n -= max(1, round(RESOLUTION * n))
    if not n:
        raise NotHereError(f"not one stream met its deadlines: {outcomes[1].missed}")
    return _figures(n, outcomes, extent)


def greatest(carries: Callable[[int], bool], most: int) -> int:
    """Return the greatest number up to ``most`` that is carried, to ``RESOLUTION``; 0 if 1 is not.

    All powers of ``LADDER`` up to it are tried; the first that fails is tried again, for a machine may stumble.
    """
    low, high = 0, 1
    while high <= most and (carries(high) or carries(high)):
        low, high = high, LADDER * high
    high = min(high, most + 1)
    while low and high - low > max(1, RESOLUTION * low):
        middle = (low + high) // 2
        if carries(middle):
            low = middle
        else:
            high = middle
    return low


def _cores() -> Cores:
    daemon_core, *others = sorted(os.sched_getaffinity(0), reverse=True)
    if not others:
        raise NotHereError("there is one core here, and the load would take from the daemon's; it needs another")
    return Cores(daemon_core, set(others))


def carry(n_streams: int, seconds: float, extent: Extent, cores: Cores) -> Outcome:
    """Run a daemon with so many streams, and so many seconds of it that count."""
    sources = {name(i): {"kind": "network", "stall_s": STALL_S * extent.patience} for i in range(n_streams)}
    try:
        with (
            daemon(sources, audio="tcp://127.0.0.1:*", cores={cores.daemon}) as running,
            Subscriber(running.events, running.control) as subscriber,
        ):
            return _measure(running, subscriber, n_streams, seconds, extent, cores)
    except SerstreamError as error:
        return Outcome(n_streams, [], [], 0.0, str(error))


def _measure(
    running: Running, subscriber: Subscriber, n_streams: int, seconds: float, extent: Extent, cores: Cores
) -> Outcome:
    n_step = step_samples(find_model(MODEL).manifest)
    step_s, settled_s = n_step / SAMPLE_RATE, extent.ramp_s + SETTLE_STEPS * n_step / SAMPLE_RATE
    load = Load(request(running.control, "status")["audio"]["endpoint"], n_streams, extent.ramp_s, settled_s + seconds)
    with sender(load, cores.load) as sending:
        listening = _Listening(subscriber, load, sending.start_s, limit_rtf=extent.patience)
        listening.until(settled_s)
        listening.begin()
        pid, costs, stolen_s = running.process.pid, [], _stolen_s(cores.daemon)
        for turn in range(extent.turns):
            used_s, begun_s = cpu_s(pid), time.monotonic()
            listening.until(settled_s + seconds * (turn + 1) / extent.turns)
            costs.append((cpu_s(pid) - used_s) / (time.monotonic() - begun_s) / n_streams)
        steal = (_stolen_s(cores.daemon) - stolen_s) / seconds
        listening.catch_up(n_step, load.duration_s + step_s * extent.patience)
        sent = sending.result()
    limits = LIMIT_P99_S * extent.patience, step_s * extent.patience
    missed = listening.missed or _missed(listening, sent, *limits, n_step) or "".join(running.said()[:1])
    return Outcome(n_streams, costs, listening.late_s, steal, missed)


def _missed(listening: _Listening, sent: Sent, limit_p99_s: float, limit_s: float, n_step: int) -> str:
    """Return which deadline was missed, empty for none."""
    if sent.refused:
        return f"{sent.refused} packets were not taken"
    late = f"the sender itself by up to {sent.late_s * 1e3:.0f} ms"
    if behind := [i for i, n in enumerate(listening.behind()) if n >= n_step]:
        return f"{len(behind)} streams were behind by more than a step at the end, {late}"
    p99_s, most_s = np.percentile(listening.late_s, [99, 100])
    if p99_s > limit_p99_s or most_s > limit_s:
        return f"99 of 100 steps were late by up to {p99_s * 1e3:.0f} ms, all by up to {most_s * 1e3:.0f} ms, {late}"
    return ""


class _Listening:
    """Takes the events of all streams. Times are seconds since the first stream began."""

    def __init__(self, subscriber: Subscriber, load: Load, start_s: float, *, limit_rtf: float) -> None:
        self._subscriber, self._load, self._start_s = subscriber, load, start_s
        self._limit_rtf = limit_rtf
        self._newest = [0] * load.n_streams
        self._counts = False
        self.late_s: list[float] = []
        self.missed = ""

    def begin(self) -> None:
        """Let what comes from here on count."""
        self._counts = True

    def until(self, end_s: float) -> None:
        """Take what comes up to a time."""
        while (left_s := self._start_s + end_s - time.monotonic()) > 0:
            self._take(self._subscriber.receive(left_s))

    def catch_up(self, n_step: int, end_s: float) -> None:
        """Take what comes until no stream is behind by a step, up to a time at most."""
        while max(self.behind()) >= n_step and time.monotonic() < self._start_s + end_s:
            self._take(self._subscriber.receive(CATCH_UP_S))

    def _take(self, event: AnyEvent | Lost | None) -> None:
        if isinstance(event, Posterior):
            self._step(event)
        elif event is not None and self._counts and not self.missed:
            self.missed = _loss(event, self._limit_rtf)

    def _step(self, event: Posterior) -> None:
        stream = number(event.source)
        self._newest[stream] = event.sample
        if self._counts:
            due_s = self._start_s + self._load.due_s(stream, event.sample)
            self.late_s.append(time.monotonic() - due_s)

    def behind(self) -> list[int]:
        """Return of each stream how many samples of it were sent that no step speaks of."""
        return [self._load.packets(i) * PACKET_SAMPLES - newest for i, newest in enumerate(self._newest)]


def _loss(event: AnyEvent | Lost, limit_rtf: float) -> str:
    """Return what was lost by an event, empty for nothing."""
    match event:
        case Lost():
            return f"{event.n_events} events of {event.topic} did not arrive"
        case Gap():
            return f"{event.source} lost {event.lost_samples} samples ({event.cause})"
        case Health() if event.status != "running" or event.rtf >= limit_rtf:
            return f"{event.source} was {event.status}, with a real-time factor of {event.rtf:g}"
    return ""


def _stolen_s(core: int) -> float:
    """Return for how many seconds so far the host of a virtual machine ran something else on a core."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            return int(line.split()[8]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _figures(n: int, outcomes: dict[int, Outcome], extent: Extent) -> list[Figure]:
    best = outcomes[n]
    too_many = min((o.n_streams for o in outcomes.values() if o.n_streams > n and o.missed), default=0)
    why = f"; with {too_many}: {outcomes[too_many].missed}" if too_many else ""
    about = (
        f"streams in real time that a daemon hears on one core, packets of {PACKET_S:g} s over the network, "
        f"all deadlines met for {extent.load_s:g} s{why}"
    )
    late_ms = np.array_split(np.array(best.late_s) * 1e3, extent.turns)
    costs = [o for _, o in sorted(outcomes.items()) if o is best or (o.n_streams < n and _is_rung(o.n_streams))]
    return [
        figure("real_time_streams", about, "streams", [n]),
        *(
            figure(
                f"real_time_streams_p{share}_ms",
                f"the same, last packet of a step due to its event received, {share} of 100",
                "ms",
                [np.percentile(turn, share) for turn in late_ms],
            )
            for share in (50, 99)
        ),
        figure("real_time_streams_steal_percent", "the same, steal time of the core", "%", [best.steal * 100]),
        *(
            figure(
                f"stream_ms_per_audio_s_{o.n_streams}",
                f"a second of a real-time stream, {o.n_streams} in the daemon, CPU",
                "ms",
                [s * 1e3 for s in o.cpu_s],
            )
            for o in costs
        ),
    ]


def _is_rung(n: int) -> bool:
    while n > 1 and n % LADDER == 0:
        n //= LADDER
    return n == 1
