"""Typed configuration with units; reads and validates ``config.yaml``.

Every field has a default, a unit in its name and a range in its type. A configuration is validated once, whole,
before anything is opened; what is wrong is said with the key, the value and what is allowed.
"""

from __future__ import annotations

import os
import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta, field

from serstream.addresses import AUDIO_ENDPOINT, CONTROL_ENDPOINT, EVENTS_ENDPOINT, check_bind
from serstream.errors import ConfigError, reason
from serstream.events import LABELS, SOURCE_ID
from serstream.events import SAMPLE_RATE as SAMPLE_RATE  # noqa: PLC0414 - had from here by all but subscribers
from serstream.resources import packaged, user_folder

Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
MOST_RATE_HZ = 384_000
DeviceRate = Annotated[int, Meta(ge=4_000, le=MOST_RATE_HZ)]
Channels = Annotated[int, Meta(ge=1, le=64)]
Silence = Annotated[float, Meta(ge=1.0, le=86_400.0)]
Weight = Annotated[float, Meta(gt=0.0, le=100.0)]


class AnySource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every source may say: ``profile`` is the name, or the path, of the profile of a voice to start from."""

    profile: str | None = None


class MicrophoneSource(AnySource, frozen=True, tag_field="kind", tag="microphone"):
    """A device of the sound library.

    ``device`` is an identity, or a regular expression searched in the names and identities of devices without regard to
    case (the first match is used), empty for the system's default; ``sample_rate`` in Hz and ``channels`` are None for
    what the device prefers; ``block_s`` is the length of one callback; after ``stall_s`` without a block the capture
    process is replaced. After ``silence_s`` of samples that are all zero, or of the same again and again, the source
    has a fault, noticed half a second later at most; None is never.
    """

    device: str = ""
    sample_rate: DeviceRate | None = None
    channels: Channels | None = None
    block_s: Annotated[float, Meta(ge=0.01, le=1.0)] = 0.05
    stall_s: Annotated[float, Meta(ge=0.5, le=60.0)] = 1.5
    silence_s: Silence | None = 10.0


class FileSource(AnySource, frozen=True, tag_field="kind", tag="file"):
    """A recording; ``realtime`` plays it at its own speed, else it is read as fast as it can be."""

    path: str
    realtime: bool = True
    loop: bool = False


class StdinSource(AnySource, frozen=True, tag_field="kind", tag="stdin"):
    """PCM on standard input; a RIFF header, where there is one, replaces format, rate and channels.

    ``silence_s`` is as for a microphone.
    """

    format: Literal["s16le", "s32le", "f32le"] = "s16le"
    sample_rate: DeviceRate = SAMPLE_RATE
    channels: Channels = 1
    silence_s: Silence | None = 10.0


class NetworkSource(AnySource, frozen=True, tag_field="kind", tag="network"):
    """Sound that is sent to ``transport.audio``, as ``serstream send`` does.

    ``stream`` is the name that its packets carry, None for the id of the source; after ``stall_s`` without a packet the
    source is lost until another comes. ``silence_s`` is as for a microphone.
    """

    stream: str | None = None
    stall_s: Annotated[float, Meta(ge=0.5, le=60.0)] = 2.0
    silence_s: Silence | None = 10.0

    def stream_of(self, source_id: str) -> str:
        """Return the name that the packets for this source carry."""
        return source_id if self.stream is None else self.stream


class SyntheticSource(AnySource, frozen=True, tag_field="kind", tag="synthetic"):
    """A test signal, the same for a ``seed``: for ``duration_s`` seconds, or for ever when None."""

    signal: Literal["silence", "tone", "noise"] = "tone"
    level_dbfs: Annotated[float, Meta(ge=-120.0, le=0.0)] = -20.0
    frequency_hz: Annotated[float, Meta(gt=0.0, lt=SAMPLE_RATE / 2)] = 440.0
    duration_s: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None
    seed: Annotated[int, Meta(ge=0)] = 0
    realtime: bool = True


class DemoSource(AnySource, frozen=True, tag_field="kind", tag="demo"):
    """The embedded recording of synthetic speech, again and again."""


class ReplaySource(AnySource, frozen=True, tag_field="kind", tag="replay"):
    """The timing of another run, which ``serstream run --record`` wrote, with noise for sound; ``realtime`` as then."""

    path: str
    realtime: bool = True


SourceConfig = MicrophoneSource | FileSource | StdinSource | NetworkSource | SyntheticSource | ReplaySource | DemoSource


class SpeechConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What counts as speech, and what makes an utterance of it."""

    threshold: Probability = 0.5
    min_speech_s: Annotated[float, Meta(ge=0.05, le=5.0)] = 0.3
    max_pause_s: Annotated[float, Meta(ge=0.1, le=5.0)] = 0.6


class DecisionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From posteriors to a state.

    ``enter_threshold``, ``exit_threshold`` and ``priors`` are None for those of the model's manifest. ``priors``
    multiplies the posterior by a weight per label before a state is decided, for a place where some moods are rare; the
    posterior that is published stays the network's.
    """

    smoothing_s: Annotated[float, Meta(ge=0.0, le=30.0)] = 0.5
    enter_threshold: Probability | None = None
    exit_threshold: Probability | None = None
    min_dwell_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 1.0
    update_s: Annotated[float, Meta(ge=0.25, le=60.0)] = 1.0
    priors: dict[str, Weight] | None = None


class CurveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Encryption, and who may come in.

    ``key`` is the name, or the path, of the daemon's secret key; ``clients`` that of the list of the keys it lets in.
    """

    key: str = "serstream"
    clients: str = "clients"


class TransportConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where events, requests and sound travel, and how many events are kept for replay.

    ``audio`` is where the sound of network sources comes in; None leaves it closed. ``ipc_mode`` says who may connect
    to ``ipc://`` paths. ``curve`` is None for endpoints without encryption.
    """

    events: str = EVENTS_ENDPOINT
    control: str = CONTROL_ENDPOINT
    audio: str | None = None
    insecure: bool = False
    ipc_mode: Literal["owner", "group"] = "owner"
    curve: CurveConfig | None = None
    replay_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 600.0
    replay_mb: Annotated[float, Meta(gt=0.0, le=4096.0)] = 64.0


class JournalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events on disk, in an SQLite file: of type emotion, speech and gap, and those that are named here.

    ``path`` is None for a file in the state folder of the service, or of the user; ``keep_days`` and ``max_mb`` (10^6
    bytes) are how old and how large it may become; what came in ``batch_s`` is written together.
    """

    path: str | None = None
    keep_days: Annotated[float, Meta(gt=0.0, le=36_500.0)] = 30.0
    max_mb: Annotated[float, Meta(ge=4.0, le=1e6)] = 256.0
    batch_s: Annotated[float, Meta(ge=0.1, le=60.0)] = 2.0
    posterior: bool = False
    health: bool = False


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration.

    ``workers`` is how many processes hear the sources: 1 is the daemon's own, None as many as they need.
    ``model`` is the name of a shipped model or the path of a model folder; ``runtime`` is what runs it, LiteRT or
    its predecessor tflite-runtime. ``journal`` is None for no event on disk.
    """

    sources: dict[str, SourceConfig] = field(default_factory=lambda: {"mic": MicrophoneSource()})
    workers: Annotated[int, Meta(ge=1, le=64)] | None = None
    model: str = "serstream"
    runtime: Literal["litert", "tflite"] = "litert"
    speech: SpeechConfig = SpeechConfig()
    decision: DecisionConfig = DecisionConfig()
    transport: TransportConfig = TransportConfig()
    journal: JournalConfig | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def candidates() -> list[Path]:
    """Return where a configuration is looked for when none is named, in this order."""
    folder = user_folder("XDG_CONFIG_HOME", ".config")
    return [*([folder / "serstream" / "config.yaml"] if folder else []), Path("/etc/serstream/config.yaml")]


def load(path: Path | None = None) -> tuple[Config, Path]:
    """Read the named configuration, or the first of :func:`candidates` that exists, or the packaged default.

    Returns
    -------
    config : Config
    path : Path
        The file that it was read from.

    Raises
    ------
    ConfigError
        If the file cannot be read or does not hold a valid configuration.
    """
    if path is None:
        path = next((p for p in candidates() if os.path.isfile(p)), None) or packaged("config.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"configuration {path} cannot be read: {error.strerror}; name a readable YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return parse(text, str(path)), path


class _Loader(yaml.SafeLoader):
    """Refuses halves of a character, which YAML can write with escapes and nothing can write elsewhere."""

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        value.encode()
        return value


def parse(text: str, name: str) -> Config:
    """Validate the text of a configuration; ``name`` stands in the message of a :class:`ConfigError`."""
    try:
        data = yaml.load(text, _Loader)
    except Exception as error:  # PyYAML lets out what a value such as 2024-13-45 raises in it
        problem = reason(_problem(error))
        raise ConfigError(f"{name} is not YAML: {problem}; check indentation and quotes there") from error
    try:
        config = msgspec.convert(data if data is not None else {}, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {reason(_explain(data, error), 800)}") from error
    _check(config, name)
    return config


def _check(config: Config, name: str) -> None:
    """Refuse what the types cannot express."""
    if not config.sources:
        raise ConfigError(f"{name}: sources is empty; name at least one source, for example mic: {{kind: microphone}}")
    for source_id, source in config.sources.items():
        check_source_id(source_id, f"{name}: sources")
        if isinstance(source, MicrophoneSource):
            _check_pattern(source.device, f"{name}: sources.{source_id}.device")
    if len(pipes := [s for s, source in config.sources.items() if isinstance(source, StdinSource)]) > 1:
        raise ConfigError(f"{name}: sources {', '.join(pipes)} share one standard input; keep one of them")
    for key in ("events", "control", "audio"):
        if (endpoint := getattr(config.transport, key)) is not None:
            check_bind(
                endpoint,
                f"{name}: transport.{key} is",
                insecure=config.transport.insecure or config.transport.curve is not None,
            )
    _check_streams(config, name)
    _check_decision(config, name)


def _check_streams(config: Config, name: str) -> None:
    found: dict[str, str] = {}
    for source_id, source in config.sources.items():
        if not isinstance(source, NetworkSource):
            continue
        stream = source.stream_of(source_id)
        if config.transport.audio is None:
            raise ConfigError(
                f"{name}: sources.{source_id} hears the network, but transport.audio is null; "
                f"give it an endpoint, for example {AUDIO_ENDPOINT}"
            )
        where = f"{name}: sources.{source_id}.stream"
        if not SOURCE_ID.fullmatch(stream):
            raise ConfigError(f"{where} is {stream[:60]!r}; a name is 1 to 32 of the characters a-z, 0-9, _ and -")
        if stream in found:
            raise ConfigError(
                f"{where} is {stream!r}, which sources.{found[stream]} hears already; give each a stream of its own"
            )
        found[stream] = source_id


def _check_decision(config: Config, name: str) -> None:
    if unknown := sorted(set(config.decision.priors or {}) - set(LABELS)):
        raise ConfigError(f"{name}: decision.priors names {', '.join(unknown)[:60]}; allowed are {', '.join(LABELS)}")
    enter, leave = config.decision.enter_threshold, config.decision.exit_threshold
    if enter is not None and leave is not None and leave > enter:
        raise ConfigError(
            f"{name}: decision.exit_threshold is {leave}, above decision.enter_threshold {enter}; "
            "it must be at most that, or a label would end as it begins"
        )


def check_source_id(source_id: str, where: str) -> None:
    """Raise :class:`ConfigError` unless ``source_id`` can stand in a topic."""
    if not SOURCE_ID.fullmatch(source_id):
        raise ConfigError(
            f"{where} names a source {source_id[:60]!r}; an id is 1 to 32 of the characters a-z, 0-9, _ and -"
        )


def _check_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{where} is {pattern[:60]!r}, which is no regular expression ({reason(error)}); "
            "escape special characters with \\"
        ) from error


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or (str(error) or repr(error)).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80
_brief.maxlevel = 2
_ENTRIES: dict[str, Any] = {"sources": SourceConfig, "decision.priors": Weight}


def _explain(data: Any, error: msgspec.ValidationError) -> str:
    """Turn msgspec's message into a sentence with the key, the value and all that is allowed there."""
    message, _, path = str(error).partition(" - at `")
    keys = re.findall(r"[^.\[\]`$]+|\.\.\.", path.replace("key` in `", ""))
    message, keys = _name_entry(data, message, keys)
    key = ".".join(keys) or "the configuration"
    if unknown := re.match(r"(?s)Object contains unknown field `(.*)`", message):
        owner = ".".join([*keys, unknown[1]])
        return f"{owner[:100]} is unknown; allowed here: {', '.join(_fields_at(data, keys))}"
    if missing := re.match(r"Object missing required field `(.*)`", message):
        keys = [*keys, missing[1]]
        return f"{'.'.join(keys)} is missing; required is {_allowed_at(data, keys) or 'a value'}"
    return f"{key} is {reason(_brief.repr(_value_at(data, keys)))}; allowed is {_allowed_at(data, keys) or message}"


def _name_entry(data: Any, message: str, keys: list[str]) -> tuple[str, list[str]]:
    """Put the name of the faulty entry of a mapping where msgspec says ``...``."""
    if "..." not in keys:
        return message, keys
    owner = keys[: keys.index("...")]
    for name, value in _value_at(data, owner).items():
        try:
            msgspec.convert(value, _ENTRIES[".".join(owner)])
        except msgspec.ValidationError as error:
            message, _, rest = str(error).partition(" - at `$")
            return message, [*owner, name, *re.findall(r"[^.`]+", rest)]
    return message, owner


def _value_at(data: Any, keys: list[str]) -> Any:
    for k in keys:
        data = data.get(k) if isinstance(data, dict) else None
    return data


def _type_at(data: Any, keys: list[str]) -> Any:
    """Return msgspec's description of the type at a path, following the source's ``kind`` through the union."""
    node: Any = msgspec.inspect.type_info(Config)
    for depth, k in enumerate(keys):
        node = _unless_null(node)
        if isinstance(node, msgspec.inspect.StructType):
            node = next((f.type for f in node.fields if f.encode_name == k), None)
        elif isinstance(node, msgspec.inspect.DictType):
            node = node.value_type
            if isinstance(node, msgspec.inspect.UnionType) and keys[0] == "sources":
                kind = _value_at(data, [*keys[: depth + 1], "kind"])
                node = next((t for t in node.types if getattr(t, "tag", None) == kind), node)
        else:
            return None
    return node


def _unless_null(node: Any) -> Any:
    """Return what a type allows besides null, where that is one thing."""
    others = [t for t in getattr(node, "types", ()) if not isinstance(t, msgspec.inspect.NoneType)]
    return others[0] if len(others) == 1 else node


def _fields_at(data: Any, keys: list[str]) -> list[str]:
    node = _unless_null(_type_at(data, keys))
    if not isinstance(node, msgspec.inspect.StructType):
        return []
    return [f.encode_name for f in node.fields] + (["kind"] if node.tag else [])


def _allowed_at(data: Any, keys: list[str]) -> str:
    node = _type_at(data, keys)
    if node is None and keys[-1:] == ["kind"]:
        node = _type_at(data, keys[:-1])
    return _describe(node) if node is not None else ""


_PLAIN: dict[Any, str] = {
    msgspec.inspect.StrType: "text",
    msgspec.inspect.BoolType: "true or false",
    msgspec.inspect.NoneType: "null",
    msgspec.inspect.StructType: "a mapping",
    msgspec.inspect.DictType: "a mapping",
}


def _describe(node: Any) -> str:
    """Say in words what a type allows."""
    inspect = msgspec.inspect
    if isinstance(node, inspect.UnionType):
        if all(isinstance(t, inspect.StructType) for t in node.types):
            return "a mapping whose kind is one of " + ", ".join(str(getattr(t, "tag", "")) for t in node.types)
        return " or ".join(_describe(t) for t in node.types)
    if isinstance(node, inspect.LiteralType):
        return "one of " + ", ".join(map(str, node.values))
    if isinstance(node, inspect.IntType | inspect.FloatType):
        return ("a whole number" if isinstance(node, inspect.IntType) else "a number") + _range(node)
    return _PLAIN.get(type(node), "")


def _range(node: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    low = f"from {node.ge:g}" if node.ge is not None else f"above {node.gt:g}" if node.gt is not None else ""
    high = f"to {node.le:g}" if node.le is not None else f"below {node.lt:g}" if node.lt is not None else ""
    return "".join(f" {part}" for part in (low, high) if part)
