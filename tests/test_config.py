"""The configuration: its documented defaults, its places, and what it says about mistakes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from serstream import config as configuration
from serstream.config import Config, CurveConfig, DecisionConfig, candidates, load, parse
from serstream.errors import ConfigError, reason

ROOT = Path(__file__).parent.parent
STRUCTS = [
    found
    for found in vars(configuration).values()
    if isinstance(found, type) and issubclass(found, msgspec.Struct) and found is not msgspec.Struct
]

AUDIO = "transport: {audio: 'ipc:///run/audio'}"
WRONG = [
    # text, key, value, what is allowed there
    ("sources: {}", "sources", "", "at least one source"),
    ("sources: []", "sources", "[]", "a mapping"),
    ("sources: {Mic: {kind: microphone}}", "sources", "'Mic'", "1 to 32 of the characters a-z, 0-9, _ and -"),
    ("sources: {7: {kind: microphone}}", "sources", "7", ""),
    ("sources: {mic: }", "sources.mic", "None", "one of microphone, file, stdin, network, synthetic, replay, demo"),
    (
        "sources: {mic: {}}",
        "sources.mic.kind",
        "missing",
        "one of microphone, file, stdin, network, synthetic, replay, demo",
    ),
    ("sources: {mic: {kind: telepathy}}", "sources.mic.kind", "'telepathy'", "microphone, file, stdin"),
    ("sources: {mic: {kind: microphone, name: x}}", "sources.mic.name", "unknown", "device, sample_rate"),
    ("sources: {mic: {kind: microphone, device: '('}}", "sources.mic.device", "'('", "regular expression"),
    ("sources: {mic: {kind: microphone, device: 3}}", "sources.mic.device", "3", "text"),
    (
        "sources: {mic: {kind: microphone, sample_rate: 100}}",
        "sources.mic.sample_rate",
        "100",
        "from 4000 to 384000",
    ),
    (
        "sources: {mic: {kind: microphone, channels: 65}}",
        "sources.mic.channels",
        "65",
        "a whole number from 1 to 64",
    ),
    ("sources: {mic: {kind: microphone, channels: 1.5}}", "sources.mic.channels", "1.5", "a whole number"),
    ("sources: {mic: {kind: microphone, block_s: 0}}", "sources.mic.block_s", "0", "from 0.01 to 1"),
    ("sources: {mic: {kind: microphone, stall_s: 61}}", "sources.mic.stall_s", "61", "from 0.5 to 60"),
    ("sources: {a: {kind: file}}", "sources.a.path", "missing", "text"),
    ("sources: {a: {kind: file, path: x, loop: 1}}", "sources.a.loop", "1", "true or false"),
    ("sources: {a: {kind: stdin, format: u8}}", "sources.a.format", "'u8'", "one of f32le, s16le, s32le"),
    ("sources: {a: {kind: synthetic, frequency_hz: 8000}}", "sources.a.frequency_hz", "8000", "below 8000"),
    ("sources: {a: {kind: synthetic, seed: -1}}", "sources.a.seed", "-1", "from 0"),
    ("sources: {a: {kind: demo, profile: 3}}", "sources.a.profile", "3", "text or null"),
    ("sources: {a: {kind: synthetic, duration_s: 0}}", "sources.a.duration_s", "0", "above 0"),
    ("modle: x", "modle", "unknown", "sources, workers, model, runtime"),
    ("workers: 0", "workers", "0", "a whole number from 1 to 64 or null"),
    ("workers: 65", "workers", "65", "a whole number from 1 to 64 or null"),
    ("model: [a]", "model", "['a']", "text"),
    ("runtime: onnx", "runtime", "'onnx'", "one of litert, tflite"),
    ("speech: {threshold: 1.1}", "speech.threshold", "1.1", "a number from 0 to 1"),
    ("speech: {threshold: high}", "speech.threshold", "'high'", "a number from 0 to 1"),
    ("speech: 3", "speech", "3", "a mapping"),
    ("speech: {min_speech_s: 0}", "speech.min_speech_s", "0", "from 0.05 to 5"),
    ("decision: {smoothing_s: -1}", "decision.smoothing_s", "-1", "from 0 to 30"),
    (
        "decision: {enter_threshold: yes}",
        "decision.enter_threshold",
        "True",
        "a number from 0 to 1 or null",
    ),
    ("decision: {exit_threshold: 2}", "decision.exit_threshold", "2", "from 0 to 1"),
    (
        "decision: {enter_threshold: 0.4, exit_threshold: 0.5}",
        "decision.exit_threshold",
        "0.5",
        "at most that",
    ),
    ("decision: {update_s: 0.1}", "decision.update_s", "0.1", "from 0.25 to 60"),
    ("decision: {priors: {bored: 1}}", "decision.priors", "bored", "calm, happy, sad, angry, fearful"),
    ("decision: {priors: {calm: 0}}", "decision.priors.calm", "0", "above 0 to 100"),
    ("decision: {priors: {calm: many}}", "decision.priors.calm", "'many'", "above 0 to 100"),
    ("transport: {insecure: maybe}", "transport.insecure", "'maybe'", "true or false"),
    ("transport: {replay_s: .inf}", "transport.replay_s", "inf", "from 0 to 86400"),
    ("transport: {replay_mb: 0}", "transport.replay_mb", "0", "above 0 to 4096"),
    ("transport: {events: 5755}", "transport.events", "5755", "text"),
    ("transport: {events: banana}", "transport.events", "'banana'", "tcp://HOST:PORT"),
    ("transport: {control: 'inproc://a'}", "transport.control", "'inproc://a'", "ipc://PATH"),
    ("transport: {control: 'tcp://0.0.0.0:5756'}", "transport.control", "'tcp://0.0.0.0:5756'", "transport.insecure"),
    ("transport: {audio: 5757}", "transport.audio", "5757", "text or null"),
    ("transport: {audio: banana}", "transport.audio", "'banana'", "tcp://HOST:PORT"),
    ("transport: {audio: 'tcp://0.0.0.0:5757'}", "transport.audio", "'tcp://0.0.0.0:5757'", "transport.insecure"),
    ("sources: {a: {kind: network}}", "sources.a", "transport.audio is null", "for example tcp://127.0.0.1:5757"),
    ("sources: {a: {kind: network, stall_s: 0.4}}", "sources.a.stall_s", "0.4", "from 0.5 to 60"),
    ("sources: {a: {kind: network, stream: 3}}", "sources.a.stream", "3", "text or null"),
    (f"sources: {{a: {{kind: network, stream: ''}}}}\n{AUDIO}", "sources.a.stream", "''", "1 to 32 of the characters"),
    (f"sources: {{a: {{kind: network, stream: K.1}}}}\n{AUDIO}", "sources.a.stream", "'K.1'", "a-z, 0-9, _ and -"),
    (
        f"sources: {{a: {{kind: network}}, b: {{kind: network, stream: a}}}}\n{AUDIO}",
        "sources.b.stream",
        "'a'",
        "sources.a hears already",
    ),
    ("sources: {a: {kind: stdin}, b: {kind: stdin}}", "sources", "a, b", "one standard input"),
    ("sources: {a: {kind: synthetic, duration_s: .inf}}", "sources.a.duration_s", "inf", "above 0 to 1e+09"),
    ("model: 2024-13-45", "is not YAML", "month must be", "check indentation and quotes"),
    ("model: !!int ''", "is not YAML", "", "check indentation and quotes"),
    ("journal: 3", "journal", "3", "a mapping or null"),
    ("journal: {keep_days: 0}", "journal.keep_days", "0", "above 0 to 36500"),
    ("journal: {max_mb: 3}", "journal.max_mb", "3", "a number from 4 to 1e+06"),
    ("journal: {batch_s: 61}", "journal.batch_s", "61", "from 0.1 to 60"),
    ("journal: {path: 3}", "journal.path", "3", "text or null"),
    ("journal: {posterior: 1}", "journal.posterior", "1", "true or false"),
    ("journal: {days: 3}", "journal.days", "unknown", "path, keep_days, max_mb, batch_s, posterior, health"),
    ("log_level: loud", "log_level", "'loud'", "one of debug, error, info, warning"),
    ("decision: {smoothing_s: .nan}", "decision.smoothing_s", "nan", "from 0 to 30"),
    ("speech: {threshold: [}", "line 1, column", "", "check indentation and quotes"),
    ("- a\n- b", "the configuration", "['a', 'b']", "a mapping"),
    ("just words", "the configuration", "'just words'", "a mapping"),
]


def test_the_documented_configuration_is_the_default():
    assert load(ROOT / "config.yaml")[0] == Config()


def test_every_documented_value_is_the_default_and_none_is_left_out():
    documented = yaml.safe_load((ROOT / "config.yaml").read_text())
    defaults = msgspec.to_builtins(Config())
    assert documented == defaults


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_the_documented_configuration_mentions_every_field_and_kind(struct):
    text = (ROOT / "config.yaml").read_text()
    names = [*struct.__struct_fields__, struct.__struct_config__.tag]
    assert [name for name in names if name and name not in text] == []


@pytest.mark.parametrize("kind", ["microphone", "file", "stdin", "network", "synthetic", "replay", "demo"])
def test_every_kind_of_source_may_name_a_profile(kind):
    path = "path: x, " if kind in {"file", "replay"} else ""
    config = parse(f"sources: {{a: {{kind: {kind}, {path}profile: anna}}}}\n{AUDIO}", "x")
    assert config.sources["a"].profile == "anna"


def test_an_empty_configuration_is_the_default():
    assert parse("", "empty") == parse("# nothing\n", "comment") == Config()


@pytest.mark.parametrize(("text", "key", "value", "allowed"), WRONG, ids=[row[0] for row in WRONG])
def test_a_mistake_is_said_in_one_line_with_its_key_its_value_and_what_is_allowed(text, key, value, allowed):
    with pytest.raises(ConfigError) as caught:
        parse(text, "my.yaml")
    sentence = str(caught.value)
    assert sentence.startswith("my.yaml")
    assert "\n" not in sentence
    assert [part for part in (key, value, allowed) if part not in sentence] == []


def test_a_configuration_nested_without_end_is_said_in_a_line():
    with pytest.raises(ConfigError, match=r"^my\.yaml is not YAML: .*recursion.*; check [^\n]*$"):
        parse("model: " + "[" * 5_000, "my.yaml")


@pytest.mark.parametrize("key", ["events", "control", "audio"])
def test_keys_allow_every_address(key):
    assert parse(f"transport: {{curve: {{}}, {key}: 'tcp://0.0.0.0:5755'}}", "x").transport.curve == CurveConfig()


@pytest.mark.parametrize("key", ["events", "control", "audio"])
def test_insecure_allows_every_address(key):
    assert parse(f"transport: {{insecure: true, {key}: 'tcp://0.0.0.0:5755'}}", "x").transport.insecure


def test_the_stream_of_a_network_source_is_its_id_unless_it_names_one():
    sources = parse(f"sources: {{a: {{kind: network}}, b: {{kind: network, stream: c}}}}\n{AUDIO}", "x").sources
    assert [source.stream_of(source_id) for source_id, source in sources.items()] == ["a", "c"]


def test_every_number_says_its_range_when_it_is_outside():
    for struct in STRUCTS:
        for found in msgspec.inspect.type_info(struct).fields:
            types = getattr(found.type, "types", [found.type])
            for node in types:
                if isinstance(node, msgspec.inspect.IntType | msgspec.inspect.FloatType):
                    assert (node.ge, node.gt) != (None, None), f"{struct.__name__}.{found.name} has no range"
                if isinstance(node, msgspec.inspect.FloatType):
                    assert (node.le, node.lt) != (None, None), f"{struct.__name__}.{found.name} may be infinite"


def test_thresholds_may_be_given_one_at_a_time():
    assert parse("decision: {exit_threshold: 0.9}", "x").decision == DecisionConfig(exit_threshold=0.9)


def test_the_users_configuration_comes_before_the_machines(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    user = tmp_path / "serstream" / "config.yaml"
    assert candidates() == [user, Path("/etc/serstream/config.yaml")]
    user.parent.mkdir()
    user.write_text("log_level: debug")
    assert load() == (Config(log_level="debug"), user)


def test_without_xdg_config_home_the_users_folder_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert candidates()[0] == tmp_path / ".config" / "serstream" / "config.yaml"


def test_a_folder_of_configurations_that_cannot_be_looked_into_is_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ("x" * 300)))
    assert load()[1] != candidates()[0]


def test_a_user_without_a_home_has_the_configuration_of_the_machine_alone():
    rights = "+dac_override,+dac_read_search"  # to read this Python and this checkout, wherever they are
    nobody = ("setpriv", "--reuid=54321", "--clear-groups", f"--inh-caps={rights}", f"--ambient-caps={rights}")
    nobody = (*nobody, "env", "-u", "HOME", "-u", "XDG_CONFIG_HOME")
    code = "from serstream.config import candidates; print(*candidates())"
    command = [*nobody, sys.executable, "-P", "-c"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    probe = [*command, "import serstream.errors"]
    if shutil.which("setpriv") is None or subprocess.run(probe, env=env, capture_output=True, check=False).returncode:
        pytest.skip("running as another user needs root")
    done = subprocess.run([*command, code], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.stdout) == ("", "/etc/serstream/config.yaml\n")


def test_the_named_configuration_is_the_only_one_that_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "serstream").mkdir()
    (tmp_path / "serstream" / "config.yaml").write_text("nonsense: true")
    named = tmp_path / "named.yaml"
    named.write_text("model: other")
    assert load(named) == (Config(model="other"), named)


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_a_configuration_that_cannot_be_read_is_said_with_its_path(kind, tmp_path):
    path = tmp_path / "my.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"model: \xff\xfe")
    with pytest.raises(ConfigError, match=str(path)):
        load(path)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("as it is", "as it is"),
        ("two\nlines\x1b[2J", r"two\nlines\x1b[2J"),
        ("a" * 5000 + "b" * 5000, "a" * 97 + "..." + "b" * 100),
    ],
)
def test_what_a_library_says_is_quoted_short_and_on_one_line(said, expected):
    assert reason(said) == expected


def test_what_escapes_make_longer_is_still_short():
    assert len(reason("\U0010ffff" * 10_000)) <= 200
