"""How many sources this machine carries, by how many worker processes, and which of them each hears."""

from __future__ import annotations

import math
import os
import time as clock
from collections.abc import Mapping

import msgspec

from serstream.batch import MOST_TOGETHER
from serstream.config import SAMPLE_RATE, NetworkSource, SourceConfig, SpeechConfig, StdinSource, SyntheticSource
from serstream.errors import ConfigError
from serstream.events import AnyEvent, encode
from serstream.hearing import Hearing, Orders
from serstream.stream import LIVE

LOAD = 0.8
"""So much of a core may be planned for: the rest is for the daemon, and for what is not as it was measured."""
MEASURED_FROM = 16
"""So many sources any machine carries; for more it is measured what one costs."""
MEASURED_STEPS = 8
IN_DAEMON = (StdinSource, NetworkSource)
"""What no other process hears: a pipe can be read on by nobody else, and the network's packets come in here."""
_MEASURE_LIMIT_S = 60.0


def workers_for(orders: Orders, wanted: int | None) -> int:
    """Return how many worker processes are to hear the sources: :func:`plan`, with what one costs here."""
    share = measure(orders) if len(orders.sources) > MEASURED_FROM else 0.0
    return plan(orders.sources, share, cores=len(os.sched_getaffinity(0)), wanted=wanted)


def plan(sources: Mapping[str, SourceConfig], share: float, *, cores: int, wanted: int | None) -> int:
    """Return how many worker processes are to hear the sources; 0 where the daemon's own carries them.

    Parameters
    ----------
    sources : mapping of str to SourceConfig
        What waits for its reader breaks no deadline: it is never refused, and asks for workers only if it is real time.
    share : float
        What one source takes of a core, 0 for nothing.
    cores : int
    wanted : int or None
        Processes that the configuration asks for, 1 for the daemon's own; None for as many as are needed.

    Raises
    ------
    ConfigError
        If there are more live sources than the workers carry at ``LOAD`` of a core each, or more of those that no
        worker hears than the daemon's own process does.
    """
    each = int(LOAD / share) if share else len(sources)
    at_once = min(wanted or cores, cores)
    here = sum(isinstance(source, IN_DAEMON) for source in sources.values())
    if here > each:
        raise ConfigError(
            f"{here} sources hear the network or standard input, but the one process that can carries {each} here, at "
            f"{LOAD:.0%} of a core, where a source takes {share:.2%}; another daemon, with endpoints of its own, may "
            "hear the rest"
        )
    live = sum(isinstance(source, LIVE) for source in sources.values())
    if live > each * at_once:
        remedy = f"workers: {cores} carries {each * cores}, and" if at_once < cores else "remove some, or"
        raise ConfigError(
            f"{live} live sources are configured, but this machine carries {each * at_once} with "
            f"{at_once} of its {cores} cores, each at {LOAD:.0%}, where a source takes {share:.2%}; {remedy} "
            "another machine may hear the rest"
        )
    if wanted is not None:
        return min(wanted, len(sources)) if wanted > 1 else 0
    real_time = sum(getattr(source, "realtime", True) for source in sources.values())
    needed = math.ceil(real_time / max(each, 1))
    return min(needed, cores) if min(needed, cores) > 1 else 0


def parts(sources: Mapping[str, SourceConfig], n_workers: int) -> list[list[str]]:
    """Return the ids that each of the workers is to hear, as many as another, and as many live ones."""
    live_first = sorted(sources, key=lambda source_id: not isinstance(sources[source_id], LIVE))
    return [part for i in range(n_workers) if (part := live_first[i::n_workers])]


def measure(orders: Orders) -> float:
    """Return what share of a core one of the sources will take, all of them speaking: a few steps of noise tell."""
    manifest, n_streams = orders.manifest, min(len(orders.sources), MOST_TOGETHER)
    duration_s = MEASURED_STEPS * manifest.step_frames * manifest.front_end.hop_length / SAMPLE_RATE
    noise = SyntheticSource("noise", duration_s=duration_s, realtime=False)
    sources = {f"n{i}": noise for i in range(n_streams)}
    rehearsal = msgspec.structs.replace(
        orders, sources=sources, speech=SpeechConfig(threshold=0.0), profiles={}, record=None
    )
    hearing = Hearing(rehearsal, _Nobody(), on_progress=lambda _: None, on_end=lambda: None)
    begun_s = clock.process_time()
    hearing.start()
    hearing.close(_MEASURE_LIMIT_S)
    if hearing.error is not None:
        raise hearing.error
    return (clock.process_time() - begun_s) / (n_streams * duration_s)


class _Nobody:
    """An outlet to nobody; but to encode an event takes its time."""

    session = ""

    def publish(self, event: AnyEvent, *, time: str, latency_s: float) -> AnyEvent:
        encode(event)
        return event
