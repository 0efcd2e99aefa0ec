"""Every figure of ``serstream bench``: what is measured, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serstream.bench import computing, running, streams
from serstream.bench.measuring import Extent, Figure
from serstream.errors import ConfigError

Measure = Callable[[Extent], list[Figure]]

MEASURES: dict[str, Measure] = {
    m.__name__: m
    for m in (
        computing.mfcc,
        computing.network,
        computing.middle,
        computing.memory,
        running.analyze,
        running.latency,
        running.ready,
        running.microphone,
        streams.streams,
    )
}
"""In the order of the table. Another figure is another function that takes an extent."""


def choose(names: Sequence[str] | None) -> dict[str, Measure]:
    """Return the measures of these names, in the order of the table; all of them for None.

    Raises
    ------
    ConfigError
        If a name is unknown.
    """
    if unknown := [name for name in names or () if name not in MEASURES]:
        raise ConfigError(f"--only names {', '.join(unknown)}; allowed are {', '.join(MEASURES)}")
    return {name: measure for name, measure in MEASURES.items() if names is None or name in names}
