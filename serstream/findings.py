"""What the checks of ``serstream doctor`` return, and what they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from serstream.config import Config, MicrophoneSource, load
from serstream.errors import ConfigError


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found.

    ``name`` is that of the check, which may find several things; ``sentence`` says what it is, and ``remedy`` what
    helps: a command where there is one.
    """

    name: str
    status: Literal["ok", "warning", "failure", "skipped"]
    sentence: str
    remedy: str | None = None


def ok(name: str, sentence: str) -> Finding:
    return Finding(name, "ok", sentence)


def warning(name: str, sentence: str, remedy: str | None = None) -> Finding:
    return Finding(name, "warning", sentence, remedy)


def failure(name: str, sentence: str, remedy: str | None = None) -> Finding:
    return Finding(name, "failure", sentence, remedy)


def skipped(name: str, sentence: str) -> Finding:
    return Finding(name, "skipped", sentence)


def said(name: str, error: Exception, about: str = "") -> Finding:
    """Return the failure that an error speaks of; what stands behind its last semicolon is the remedy."""
    sentence, semicolon, remedy = str(error).rpartition("; ")
    return failure(name, about + (sentence or remedy), remedy if semicolon else None)


class Case(NamedTuple):
    """What is looked at.

    Attributes
    ----------
    config : Config
        The configuration, or the defaults where it cannot be used.
    path : Path or None
        The file that it is of; None where it cannot be used.
    error : ConfigError or None
        Why it cannot be used.
    """

    config: Config
    path: Path | None = None
    error: ConfigError | None = None

    @classmethod
    def of(cls, path: Path | None) -> Case:
        """Read the configuration that is named, or the one that would be found."""
        try:
            return cls(*load(path))
        except ConfigError as error:
            return cls(Config(), None, error)

    @property
    def microphones(self) -> dict[str, MicrophoneSource]:
        """The sources that are microphones, by their ids."""
        return {name: source for name, source in self.config.sources.items() if isinstance(source, MicrophoneSource)}
