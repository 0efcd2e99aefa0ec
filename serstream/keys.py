"""Key pairs of CURVE in files: made, found, read, or refused with a sentence.

``NAME.key_secret`` holds a pair and ``NAME.key`` its public half, both in the format of ZeroMQ's certificates.
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

from serstream.errors import ConfigError, KeyFileError
from serstream.events import SOURCE_ID
from serstream.resources import user_folder

SECRET, PUBLIC = ".key_secret", ".key"
SERVER = "serstream"
"""Name of a daemon's pair, where no other is said."""
MACHINES = Path("/etc/serstream/keys")
_LINE = re.compile(rb'^\s*(public|secret)-key\s*=\s*"([^"\n]*)"\s*$', re.MULTILINE)


class Pair(NamedTuple):
    """A key pair in Z85, 40 characters each, and the name of its file."""

    name: str
    public: bytes
    secret: bytes

    def client_line(self, *rights: str) -> str:
        """Return the line that gives this key rights in a daemon's list of clients."""
        return f"{self.name} {self.public.decode()} {' '.join(rights)}"


class ClientKeys(NamedTuple):
    """What a client needs: a pair of its own, and the public key of the daemon with the name that it was found by."""

    own: Pair
    server: bytes
    server_name: str

    def options(self) -> dict[int, int | bytes]:
        """Return what a socket must be told before it connects."""
        return {
            zmq.CURVE_SERVERKEY: self.server,
            zmq.CURVE_PUBLICKEY: self.own.public,
            zmq.CURVE_SECRETKEY: self.own.secret,
        }


def folders() -> list[Path]:
    """Return where a key is looked for by its name: what systemd lends a service, the user's folder, the machine's."""
    lent, own = os.environ.get("CREDENTIALS_DIRECTORY"), user_folder("XDG_CONFIG_HOME", ".config")
    return [*([Path(lent)] if lent else []), *([own / "serstream" / "keys"] if own else []), MACHINES]


def own_folder() -> Path:
    """Return where the running user's keys are made.

    Raises
    ------
    ConfigError
        If this user has no folder.
    """
    if (own := user_folder("XDG_CONFIG_HOME", ".config")) is None:
        raise ConfigError(f"this user has no home folder for keys; name a folder with --dir, for example {MACHINES}")
    return own / "serstream" / "keys"


def find(name: str) -> Path:
    """Return the first file of this name in the :func:`folders`.

    Raises
    ------
    ConfigError
        If there is none.
    """
    places = [folder / name for folder in folders()]
    if found := next((path for path in places if os.path.exists(path)), None):
        return found
    raise ConfigError(
        f"there is no file {name} in {' nor '.join(str(path.parent) for path in places)}; put it into one of them"
    )


def create(name: str, folder: Path) -> Pair:
    """Make a key pair, and two files of it: the secret one for its owner's eyes alone.

    Raises
    ------
    ConfigError
        If this is no name, or there is such a key already: another would lock out all who know it.
    KeyFileError
        If the files cannot be written; none is left behind.
    """
    if not SOURCE_ID.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a key; allowed are 1 to 32 of the characters a-z, 0-9, _ and -")
    pair = Pair(name, *zmq.curve_keypair())
    public = f'curve\n    public-key = "{pair.public.decode()}"\n'
    secret = f'{public}    secret-key = "{pair.secret.decode()}"\n'
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, mode, text in ((SECRET, 0o600, secret), (PUBLIC, 0o644, public)):
            path = folder / f"{name}{suffix}"
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as file:
                made.append(path)
                file.write(text)
    except OSError as error:
        for path in made:
            with suppress(OSError):
                path.unlink()
        if isinstance(error, FileExistsError) and os.path.isdir(folder):
            raise ConfigError(f"{error.filename} exists; name another key, or move that one away") from error
        raise KeyFileError(
            f"keys cannot be written into {folder}: {error.strerror}; make room or rights there, or name --dir"
        ) from error
    return pair


def read_pair(value: str | Path) -> Pair:
    """Read a key pair by its name or the path of its secret file.

    Raises
    ------
    ConfigError
        If it is not there, others may read it, or it is damaged.
    """
    path = _locate(value, SECRET)
    _check_closed(path)
    found = _read(path)
    if "secret" not in found:
        raise ConfigError(f"{path} holds no secret key; name the file of the pair that ends in {SECRET}")
    with suppress(zmq.ZMQError):
        if zmq.curve_public(found["secret"]) == found["public"]:
            return Pair(path.name.removesuffix(SECRET), found["public"], found["secret"])
    raise ConfigError(f"{path} is damaged: its two keys are no pair; make another: serstream keygen NAME")


def read_public(value: str | Path) -> bytes:
    """Read a public key by its name or the path of its file.

    Raises
    ------
    ConfigError
        If it is not there or damaged.
    """
    return _read(_locate(value, PUBLIC))["public"]


def client_keys(key: str | Path | ClientKeys | None, server_key: str | Path | None) -> ClientKeys | None:
    """Return the keys that a client names, None for none.

    ``server_key`` defaults to :data:`SERVER`.

    Raises
    ------
    ConfigError
        If one of them cannot be had.
    """
    if isinstance(key, ClientKeys):
        return key
    if key is None and server_key is None:
        return None
    if key is None:
        raise ConfigError(f"server key {server_key} needs a key of your own beside it; make one: serstream keygen NAME")
    server = SERVER if server_key is None else server_key
    return ClientKeys(read_pair(key), read_public(server), str(server))


def is_key(text: bytes) -> bool:
    """Return whether a text is a key: 40 characters of Z85."""
    try:
        return len(z85.decode(text)) == 32
    except (KeyError, ValueError, struct.error):
        return False


def _locate(value: str | Path, suffix: str) -> Path:
    text = str(value)
    if isinstance(value, Path) or "/" in text or text.endswith((SECRET, PUBLIC)):
        return Path(os.path.expanduser(text))
    if not SOURCE_ID.fullmatch(text):
        raise ConfigError(
            f"key {text!r} is neither a name (1 to 32 of a-z, 0-9, _ and -) nor the path of a {suffix} file"
        )
    return find(text + suffix)


def _check_closed(path: Path) -> None:
    if (lent := os.environ.get("CREDENTIALS_DIRECTORY")) and path.parent == Path(lent):
        return  # which systemd closes by an access list: the mode shows it as a right of the group
    try:
        mode = path.stat().st_mode & 0o777
    except OSError:  # which reading it will say
        return
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others (mode {mode:04o}); close it: chmod 600 {path}")


def _read(path: Path) -> dict[str, bytes]:
    try:
        found = {kind.decode(): key for kind, key in _LINE.findall(path.read_bytes())}
    except OSError as error:
        raise ConfigError(f"key {path} cannot be read: {error.strerror}; name a key file of this user") from error
    if "public" not in found or not all(map(is_key, found.values())):
        raise ConfigError(f"{path} holds no key; name a file that serstream keygen made")
    return found
