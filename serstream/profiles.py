"""Profiles: the mean of a person's ordinary voice in a small file, never the voice itself."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from serstream.errors import ConfigError, ProfileError, reason
from serstream.events import SOURCE_ID, UNREADABLE
from serstream.features import FrontEnd
from serstream.resources import user_folder

PROFILE_SCHEMA: Literal["serstream-profile/1"] = "serstream-profile/1"
MACHINES = Path("/etc/serstream/profiles")


class Profile(msgspec.Struct, frozen=True):
    """The mean cepstrum of ``speech_s`` seconds of a person's speech.

    ``created`` is RFC 3339 in UTC; ``front_end`` is what the cepstra were computed by; ``mean`` has n_mfcc numbers.
    """

    name: str
    created: str
    speech_s: Annotated[float, Meta(gt=0.0)]
    front_end: FrontEnd
    mean: list[Annotated[float, Meta(ge=-32_768.0, le=32_768.0)]]
    schema: Literal["serstream-profile/1"] = PROFILE_SCHEMA

    def __post_init__(self) -> None:
        if len(self.mean) != self.front_end.n_mfcc or not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean must hold n_mfcc {self.front_end.n_mfcc} finite numbers")


def folders() -> list[Path]:
    """Return where a named profile is looked for, in this order: the user's folder, then the machine's."""
    data = user_folder("XDG_DATA_HOME", ".local/share")
    return [*([data / "serstream" / "profiles"] if data else []), MACHINES]


def own_path(name: str) -> Path:
    """Return where the running user's profile of this name is, or will be.

    Raises
    ------
    ConfigError
        If this is no name, or the user has no folder.
    """
    check_name(name)
    folder = folders()[0]
    if folder == MACHINES:
        raise ConfigError("this user has no home folder for profiles; set XDG_DATA_HOME to a folder that it may write")
    return folder / f"{name}.json"


def check_name(name: str) -> None:
    """Raise :class:`ConfigError` unless a profile may have this name."""
    if not SOURCE_ID.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a profile; allowed are 1 to 32 of the characters a-z, 0-9, _ and -")


def find(value: str, front_end: FrontEnd) -> Profile:
    """Read a profile.

    Parameters
    ----------
    value : str
        A name, or a path, which has a slash in it or ends in ``.json``.
    front_end : FrontEnd
        That of the model which is to use it.

    Raises
    ------
    ConfigError
        If it is not there, cannot be read, is damaged, or was made by another front end.
    """
    path = _locate(value)
    try:
        profile = msgspec.json.decode(path.read_bytes(), type=Profile)
    except OSError as error:
        raise ConfigError(
            f"profile {path} cannot be read: {error.strerror}; make it readable to the user that runs serstream"
        ) from error
    except UNREADABLE as error:
        raise ConfigError(
            f"{path} is not a profile of {PROFILE_SCHEMA}: {reason(error)}; enroll again: serstream enroll NAME"
        ) from error
    _check_front_end(profile, path, front_end)
    return profile


def _locate(value: str) -> Path:
    if "/" in value or value.endswith(".json"):
        path = Path(os.path.expanduser(value))
        if not os.path.exists(path):
            raise ConfigError(f"profile {value} does not exist; name one that does, or make it: serstream enroll NAME")
        return path
    check_name(value)
    places = [folder / f"{value}.json" for folder in folders()]
    if found := next((path for path in places if os.path.exists(path)), None):
        return found
    looked = " nor ".join(str(path.parent) for path in places)
    raise ConfigError(f"profile {value!r} is neither in {looked}; make it: serstream enroll {value}")


def _check_front_end(profile: Profile, path: Path, front_end: FrontEnd) -> None:
    """Refuse means of other cepstra than the model's."""
    names = [n for n in FrontEnd.__struct_fields__ if getattr(profile.front_end, n) != getattr(front_end, n)]
    if names:
        its, ours = (", ".join(f"{n} {getattr(f, n)}" for n in names) for f in (profile.front_end, front_end))
        raise ConfigError(
            f"profile {path} was made with {its}, but the model has {ours}; enroll again: serstream enroll NAME"
        )


def check_writable(path: Path) -> None:
    """Raise :class:`ProfileError`, before a person has spoken for half a minute, if :func:`write` would be refused."""
    there = next(parent for parent in path.parents if os.path.lexists(parent) or parent == parent.parent)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)) or path.is_dir():
        raise ProfileError(
            f"{path} cannot be written: {there} is closed to this user; set XDG_DATA_HOME to another folder"
        )


def write(path: Path, profile: Profile) -> None:
    """Write a profile, whole or not at all, for its owner's eyes alone; a folder that is made is the owner's too.

    Raises
    ------
    ProfileError
        If the file cannot be written; an earlier one is still there.
    """
    text = msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n"
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _replace(path, text)
    except OSError as error:
        raise ProfileError(
            f"{path} cannot be written: {error.strerror}; make room or rights there, or set XDG_DATA_HOME"
        ) from error


def _replace(path: Path, content: bytes) -> None:
    fd, new = tempfile.mkstemp(prefix=".", dir=path.parent)  # which only its owner may read
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
