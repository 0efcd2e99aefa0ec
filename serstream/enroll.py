"""``serstream enroll``: half a minute of an ordinary voice becomes a profile, and a person sees how far it is."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime
from types import TracebackType

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from serstream.config import Config, FileSource, MicrophoneSource, NetworkSource, SourceConfig
from serstream.enrolment import Enrolment
from serstream.errors import ConfigError, SourceError
from serstream.network import Network
from serstream.profiles import Profile
from serstream.signals import noted
from serstream.sources import Block, Microphone, Source, make

LEAST_S, MOST_S = 10.0, 300.0
"""Seconds of speech that may be asked for; a recording must hold the least."""
READ_TIMEOUT_S = 0.2
SILENCE_S = 15.0
"""A microphone that has brought no speech for so long is remarked upon, once."""
LINE_S = 5.0


def check_seconds(seconds: float) -> None:
    """Raise :class:`ConfigError` unless so much speech may be asked for."""
    if not LEAST_S <= seconds <= MOST_S:
        raise ConfigError(f"--seconds is {seconds:g}; allowed are {LEAST_S:g} to {MOST_S:g} seconds of speech")


def choose_source(config: Config, name: str | None) -> SourceConfig:
    """Return what to listen to.

    Parameters
    ----------
    config : Config
    name : str or None
        A source of the configuration, ``mic`` or the path of a recording, which is read as fast as it can be; None for
        the first microphone of the configuration, or else the system's default one.

    Raises
    ------
    ConfigError
        If it is none of them.
    """
    default = MicrophoneSource()
    if name is None:
        return next((s for s in config.sources.values() if isinstance(s, MicrophoneSource)), default)
    source: SourceConfig
    if name in config.sources:
        source = config.sources[name]
    elif name == "mic":
        source = default
    elif os.path.exists(name):
        source = FileSource(name)
    else:
        raise ConfigError(
            f"source {name!r} is no file that this user can see, and no source of the configuration "
            f"({', '.join(config.sources)}); name one of those, mic or a recording"
        )
    if isinstance(source, NetworkSource):
        raise ConfigError(
            f"source {name!r} is heard by the daemon alone, over the network; enroll where its microphone is, or from "
            "a recording"
        )
    if isinstance(source, FileSource):
        return msgspec.structs.replace(source, realtime=False, loop=False)
    return source


def check_source(source: SourceConfig) -> None:
    """Raise :class:`SourceError` for what can never be heard, before anybody speaks."""
    if isinstance(source, MicrophoneSource):
        Microphone(source).check()
    elif isinstance(source, FileSource):
        probe = make(source)
        probe.open()
        probe.close()


def enroll(source: SourceConfig, network: Network, *, name: str, threshold: float, wanted_s: float) -> Profile:
    """Listen until there is enough speech, or the source ends, and return the profile.

    Parameters
    ----------
    source : SourceConfig
    network : Network
    name : str
        Of the profile.
    threshold, wanted_s : float
        As in :class:`Enrolment`.

    Raises
    ------
    SourceError
        If the source fails, or ends with less than ``LEAST_S`` seconds of speech.
    """
    enrolment = Enrolment(network, threshold=threshold, wanted_s=wanted_s)
    told = None if isinstance(source, FileSource) else Told(enrolment, Console(stderr=True))
    listen(make(source), enrolment, told)
    if enrolment.speech_s < LEAST_S:
        raise SourceError(
            f"{source.path if isinstance(source, FileSource) else 'the source'} ended after {enrolment.speech_s:.1f} s "
            f"of speech; a profile needs {LEAST_S:g} s: record more"
        )
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Profile(name, created, enrolment.speech_s, network.manifest.front_end, enrolment.mean())


def listen(source: Source, enrolment: Enrolment, told: Told | None = None) -> None:
    """Read a source until there is enough speech or it ends, and close it; called from the main thread.

    Raises
    ------
    KeyboardInterrupt
        At SIGINT and SIGTERM, between two reads.
    """
    with noted() as asked, told or contextlib.nullcontext():
        try:
            source.open()
            while not (enrolment.complete or source.ended or asked):
                item = source.read(READ_TIMEOUT_S)
                if isinstance(item, Block):
                    enrolment.push(item.first_sample, item.samples)
                if told is not None:
                    told.update(time.monotonic())
        finally:
            source.close()
    if asked:
        raise KeyboardInterrupt


class Told:
    """Tell a person what to do and how far it is: with a bar on a terminal, else with a line every ``LINE_S``.

    The terminal is given back at the end of the ``with`` block. Called from one thread only.
    """

    def __init__(self, enrolment: Enrolment, console: Console) -> None:
        self._enrolment, self._console = enrolment, console
        amount = TextColumn("{task.completed:.0f} of {task.total:.0f} s of speech heard")
        self._bar = Progress(BarColumn(), amount, console=console, transient=True)
        self._task = self._bar.add_task("", total=enrolment.wanted_s)
        self._heard_s = 0.0
        self._spoke_s: float | None = None
        self._line_s = 0.0
        self._remarked = False

    def __enter__(self) -> Told:
        self._say(
            "Read anything aloud in your ordinary voice, from where you will speak later, until "
            f"{self._enrolment.wanted_s:g} s of speech were heard. No sound is kept; Ctrl-C ends without a profile."
        )
        if self._console.is_interactive:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_interactive:
            self._bar.stop()

    def update(self, now_s: float) -> None:
        """Show how much was heard by a time of the monotonic clock."""
        if self._spoke_s is None:
            self._spoke_s = self._line_s = now_s
        if self._enrolment.speech_s > self._heard_s:
            self._heard_s, self._spoke_s = self._enrolment.speech_s, now_s
        elif now_s - self._spoke_s >= SILENCE_S and not self._remarked:
            self._remarked = True
            self._say(
                f"No speech was heard for {SILENCE_S:g} s, and I go on listening: speak louder or closer, or see "
                "with `serstream devices` which microphone this is."
            )
        self._bar.update(self._task, completed=self._heard_s)
        if not self._console.is_interactive and now_s - self._line_s >= LINE_S:
            self._line_s = now_s
            self._say(f"{self._heard_s:.0f} of {self._enrolment.wanted_s:g} s of speech heard")

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=not self._console.is_interactive)
