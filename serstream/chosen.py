"""Which sources ``run`` and ``send`` are to hear: those of the configuration, or what ``--source`` names."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import msgspec

from serstream.config import (
    MOST_RATE_HZ,
    Config,
    DemoSource,
    FileSource,
    MicrophoneSource,
    ReplaySource,
    SourceConfig,
    StdinSource,
)
from serstream.errors import ConfigError, NoMicrophoneError


def choose(config: Config, args: argparse.Namespace) -> Config:
    """Apply ``--source``: that one alone."""
    name = args.source
    if name is None:
        return config
    if name in config.sources:
        return msgspec.structs.replace(config, sources={name: config.sources[name]})
    sources: dict[str, SourceConfig]
    if name == "mic":
        sources = {"mic": MicrophoneSource()}
    elif name == "demo":
        sources = {"demo": DemoSource()}
    elif name == "-":
        sources = {"stdin": _stdin(args)}
    elif os.path.exists(name):
        sources = {_source_id(Path(name)): FileSource(name)}
    else:
        raise ConfigError(
            f"source {name!r} is no file that this user can see, and no source of the configuration "
            f"({', '.join(config.sources)}); name one of those, mic, demo, - or a recording"
        )
    return msgspec.structs.replace(config, sources=sources)


def _stdin(args: argparse.Namespace) -> StdinSource:
    fields = {"format": args.stdin_format, "sample_rate": args.rate, "channels": args.channels}
    try:
        return msgspec.convert(fields, StdinSource)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"--rate {args.rate} --channels {args.channels} cannot be used; "
            f"allowed are 4000 to {MOST_RATE_HZ} Hz and 1 to 64 channels"
        ) from error


def _source_id(path: Path) -> str:
    """Make an id of a file's name that can stand in a topic."""
    return re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-")[:32] or "file"


def sources_ready(config: Config, *, terminal: bool, chosen: str | None) -> Config:
    """Say at once what can never be heard; with no microphone at all on a terminal, play the demo instead.

    Where nobody looks, a service, a microphone that is not there is waited for.
    """
    from serstream.sources import Microphone, make

    for source in config.sources.values():
        if isinstance(source, FileSource | ReplaySource):
            probe = make(source)
            probe.open()
            probe.close()
        if isinstance(source, MicrophoneSource) and (terminal or chosen is not None):
            try:
                Microphone(source).check()
            except NoMicrophoneError:
                if terminal and chosen is not None:
                    raise
                if terminal and all(isinstance(s, MicrophoneSource) for s in config.sources.values()):
                    print("serstream: no microphone was found; playing the embedded demo instead", flush=True)
                    return msgspec.structs.replace(config, sources={"demo": DemoSource()})
    return config
