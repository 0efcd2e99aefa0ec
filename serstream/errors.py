"""The exception tree: every error is one sentence with the value, what is allowed, and the remedy."""


class SerstreamError(Exception):
    """Something that can be said to a person in one sentence; ``exit_status`` is what a command ends with."""

    exit_status = 1


class ConfigError(SerstreamError, ValueError):
    """The configuration, or what was typed on the command line, cannot be used."""

    exit_status = 2


class ModelError(SerstreamError, ValueError):
    """The model folder does not hold a model that this runtime can run."""


class ProfileError(SerstreamError, OSError):
    """The profile of a voice cannot be written."""


class KeyFileError(SerstreamError, OSError):
    """A key pair cannot be written."""


class SourceError(SerstreamError, OSError):
    """Audio cannot be read: a file, a device, a pipe or the sound library itself."""


class NoMicrophoneError(SourceError):
    """The machine has no device that can record."""


class EventError(SerstreamError, ValueError):
    """A message is not an event of this schema."""


class PacketError(SerstreamError, ValueError):
    """A message is no sound of this schema, or not what comes next in its stream."""


class TransportError(SerstreamError, OSError):
    """An endpoint cannot be bound or reached, or a request was refused."""


class JournalError(SerstreamError, OSError):
    """The journal cannot be opened, written or read."""


class DamagedJournalError(JournalError):
    """The file of the journal is damaged, or is none at all."""


class ServiceError(SerstreamError, OSError):
    """The systemd service cannot be installed or removed."""


def reason(error: Exception | str, longest: int = 200) -> str:
    """Return what an error of a library says, as a sentence of ours may have it: on one line, not long, printable.

    It may quote what was wrong, and that may be of any length and kind.
    """
    text = _cut(str(error), longest)
    return _cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2 - 3]}...{text[-(longest // 2) :]}"
