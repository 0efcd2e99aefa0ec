"""Which clients a daemon lets in, and what each may do: a list in a file, read again whenever it changes.

A line is ``NAME KEY RIGHT...``, as ``serstream keygen`` prints it; a line that begins with # is a comment.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from serstream.errors import ConfigError
from serstream.events import SOURCE_ID
from serstream.keys import find, is_key

RIGHTS = ("listen", "control", "send")
"""To hear events and ask for them; to mute, unmute and reload; to send sound."""

_log = logging.getLogger(__name__)


class Client(NamedTuple):
    """One line of the list."""

    name: str
    rights: frozenset[str]


class Clients:
    """The list in force.

    Parameters
    ----------
    value : str
        Its path, or a name that is looked for beside the keys.

    Raises
    ------
    ConfigError
        If it cannot be read, or others than its owner may change it.
    """

    def __init__(self, value: str) -> None:
        self.path = Path(os.path.expanduser(value)) if "/" in value else find(value)
        self._seen = _stamp(self.path)
        self._clients = _read(self.path)

    def __len__(self) -> int:
        return len(self._clients)

    def name(self, key: str) -> str | None:
        """Return what the client with this key is called; None if there is none."""
        client = self._clients.get(key)
        return None if client is None else client.name

    def rights(self, key: str) -> frozenset[str]:
        """Return what the client with this key may do; nothing if it is unknown."""
        client = self._clients.get(key)
        return frozenset() if client is None else client.rights

    def refresh(self) -> set[str]:
        """Read the file again if it has changed; return the rights that some client has lost.

        What cannot be used is logged, and the list goes on as it was.
        """
        if (seen := _stamp(self.path)) == self._seen:
            return set()
        self._seen = seen
        before = self._clients
        try:
            self._clients = _read(self.path)
        except ConfigError as error:
            _log.error("the list of clients goes on as it was: %s", error)
            return set()
        _log.info("%s lets %d clients in", self.path, len(self._clients))
        return {right for key, client in before.items() for right in client.rights - self.rights(key)}


def parse(text: str, name: str) -> dict[str, Client]:
    """Return the clients of a list by their keys; ``name`` stands in the message of a :class:`ConfigError`."""
    found: dict[str, Client] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        client, key = _parse_line(words, f"{name}, line {number}:")
        if key in found:
            raise ConfigError(
                f"{name}, line {number}: {client.name} has the key of {found[key].name}; remove one of them"
            )
        found[key] = client
    return found


def _parse_line(words: list[str], where: str) -> tuple[Client, str]:
    if len(words) < 3:
        raise ConfigError(
            f"{where} {' '.join(words)!r} is no client; write NAME KEY and of {', '.join(RIGHTS)} what it may"
        )
    name, key, *rights = words
    if not SOURCE_ID.fullmatch(name):
        raise ConfigError(f"{where} {name!r} is no name; allowed are 1 to 32 of the characters a-z, 0-9, _ and -")
    if not is_key(key.encode()):
        raise ConfigError(f"{where} {key!r} is no public key; copy the 40 characters from {name}.key")
    if unknown := set(rights) - set(RIGHTS):
        raise ConfigError(f"{where} {', '.join(sorted(unknown))} is no right; there are {', '.join(RIGHTS)}")
    return Client(name, frozenset(rights)), key


def _read(path: Path) -> dict[str, Client]:
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"list of clients {path} cannot be read: {error.strerror}; make it: touch {path}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"list of clients {path} is not text (byte {error.start}); write a client a line") from error
    if mode & 0o022:
        raise ConfigError(f"{path} can be changed by others (mode {mode:04o}); close it: chmod go-w {path}")
    return parse(text, str(path))


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
