"""`serstream enroll` and what a profile does: to a recording, to a daemon, from a microphone."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from rich.console import Console
from serstream_process import COMMAND, KEEPS_ON, Daemon, Serstream, await_true

from serstream.analysis import analyze
from serstream.config import Config, FileSource, MicrophoneSource, StdinSource, parse
from serstream.enroll import Told, choose_source
from serstream.enrolment import Enrolment
from serstream.errors import ConfigError
from serstream.events import Posterior
from serstream.manifest import load_model
from serstream.network import Network
from serstream.pipeline import Pipeline
from serstream.profiles import Profile, find
from serstream.recordings import read_file
from serstream.resources import packaged

RATE = 16_000
DEMO = packaged("demo.flac")
MODEL = load_model(packaged("models/serstream"))
SAMPLES = soundfile.read(DEMO, dtype="float32")[0]


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where profiles of this test's own are."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "serstream" / "profiles"


def serstream(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)


def refused(done: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert [part for part in ("serstream: ", *parts) if part not in line] == []


def write_profile(home: Path, **fields: Any) -> Profile:
    """Put the profile of somebody with a low and dull voice where it is looked for."""
    mean = [-45.0, 15.0, *MODEL.manifest.mean[2:]]
    made = {"name": "low", "created": "", "speech_s": 30.0, "front_end": MODEL.manifest.front_end, "mean": mean}
    home.mkdir(parents=True)
    (home / "low.json").write_bytes(msgspec.json.encode(made | fields))
    return find("low", MODEL.manifest.front_end)


# --- the command


def test_a_recording_becomes_a_profile_of_the_mean_of_its_speech_and_nothing_else_is_written(home, tmp_path):
    done = serstream("enroll", "anna", "--source", DEMO)
    assert (done.returncode, done.stderr) == (0, "")
    expected = Enrolment(Network(MODEL), threshold=0.5, wanted_s=30.0)
    expected.push(0, SAMPLES)
    assert 20.0 < expected.speech_s < 30.0
    assert f"wrote {home / 'anna.json'}: one mean of {expected.speech_s:.1f} s of speech" in done.stdout
    assert "    profile: anna\n" in done.stdout
    profile = find("anna", MODEL.manifest.front_end)
    assert (profile.name, profile.speech_s, profile.mean) == ("anna", expected.speech_s, expected.mean())
    assert profile.created.endswith("Z")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [home / "anna.json"]
    assert (home / "anna.json").stat().st_size < 4096, "no sound"


def test_json_is_one_object_that_says_where_and_what(home):
    said = [json.loads(serstream("enroll", "--source", DEMO, "--seconds", 10, "--json").stdout) for _ in range(2)]
    profile = find("default", MODEL.manifest.front_end)
    where = {"name": "default", "path": str(home / "default.json"), "speech_s": 10.0}
    assert said[1] == where | {"created": profile.created, "replaced": True}
    assert said[0] | {"created": ""} == where | {"created": "", "replaced": False}


def test_an_earlier_profile_is_replaced_and_that_is_said(home):
    earlier = write_profile(home)
    done = serstream("enroll", "low", "--source", DEMO)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"replaced {home / 'low.json'}: ")
    assert find("low", MODEL.manifest.front_end).mean != earlier.mean


def test_the_threshold_of_the_configuration_says_what_is_speech(tmp_path):
    (tmp_path / "my.yaml").write_text("speech: {threshold: 0.0}")
    done = serstream("enroll", "--source", DEMO, "--config", tmp_path / "my.yaml", "--json")
    assert json.loads(done.stdout)["speech_s"] == 30.0, "where all is speech, there is enough"


def test_less_than_ten_seconds_of_speech_make_no_profile(home, tmp_path):
    soundfile.write(tmp_path / "short.wav", SAMPLES[: 8 * RATE], RATE)
    refused(serstream("enroll", "--source", tmp_path / "short.wav"), 1, "short.wav ended after", "needs 10 s")
    assert not home.exists()


@pytest.mark.parametrize("seconds", ["9.9", "301", "nan", "-1"])
def test_seconds_outside_their_range_are_refused(seconds):
    refused(serstream("enroll", f"--seconds={seconds}", "--source", DEMO), 2, "--seconds is", "10 to 300")


def test_a_name_that_no_profile_can_have_is_refused():
    refused(serstream("enroll", "../anna", "--source", DEMO), 2, "'../anna'", "a-z, 0-9, _ and -")


def test_what_cannot_be_heard_is_said_at_once(tmp_path):
    (tmp_path / "text.wav").write_text("this is no sound")
    refused(serstream("enroll", "--source", "nowhere.wav"), 2, "'nowhere.wav'", "mic or a recording")
    refused(serstream("enroll", "--source", tmp_path / "text.wav"), 1, "text.wav", "not audio")


def test_a_place_that_cannot_be_written_is_said_before_anybody_speaks(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with Serstream("enroll") as command:
        assert command.end() == 1
        (line,) = command.err.lines
    assert "cannot be written" in line
    assert "XDG_DATA_HOME" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_there_is_enough_ends_it_with_130_and_nothing_is_written(number, home, tmp_path):
    (tmp_path / "my.yaml").write_text(json.dumps({"sources": {"quiet": KEEPS_ON}}))
    with Serstream("enroll", "--config", tmp_path / "my.yaml", "--source", "quiet") as command:
        command.err.until(lambda line: "Ctrl-C ends without a profile" in line)
        assert command.end(number) == 130
        assert len(command.err.lines) == 1
        assert command.out.lines == []
    assert not home.exists()


# --- what it listens to

CONFIG = parse(
    "sources: {talk: {kind: file, path: x.wav, loop: true}, pipe: {kind: stdin}, "
    "desk: {kind: microphone, device: Yeti}, other: {kind: microphone}}",
    "x",
)


def test_the_first_microphone_of_the_configuration_is_listened_to_unless_another_source_is_named():
    assert choose_source(CONFIG, None) == MicrophoneSource(device="Yeti")
    assert choose_source(CONFIG, "other") == MicrophoneSource()
    assert choose_source(CONFIG, "mic") == MicrophoneSource()
    assert choose_source(CONFIG, "pipe") == StdinSource()
    assert choose_source(parse("sources: {a: {kind: demo}}", "x"), None) == MicrophoneSource()


def test_a_recording_is_read_once_and_as_fast_as_it_can_be():
    assert choose_source(CONFIG, "talk") == FileSource("x.wav", realtime=False)
    assert choose_source(CONFIG, str(DEMO)) == FileSource(str(DEMO), realtime=False)


def test_what_is_no_source_is_said_with_those_that_there_are():
    with pytest.raises(
        ConfigError, match=r"'nowhere' is no file .*\(talk, pipe, desk, other\); name one of those, mic"
    ):
        choose_source(CONFIG, "nowhere")


def test_a_stream_of_the_network_is_heard_by_the_daemon_alone():
    config = parse("sources: {far: {kind: network}}\ntransport: {audio: 'ipc:///run/audio'}", "x")
    with pytest.raises(ConfigError, match=r"'far' is heard by the daemon alone.*enroll where its microphone is"):
        choose_source(config, "far")


# --- what it says


def told_of(times_and_speech: list[tuple[float, bool]]) -> list[str]:
    """Return the lines of an enrolment that hears speech, or silence, up to these times."""
    out = io.StringIO()
    enrolment = Enrolment(Network(MODEL), threshold=0.5, wanted_s=30.0)
    at = 0
    with Told(enrolment, Console(file=out, force_terminal=False)) as told:
        for now_s, is_speech in times_and_speech:
            block = SAMPLES[at : at + RATE] if is_speech else np.zeros(RATE, np.float32)
            enrolment.push(at, block)
            at += RATE
            told.update(now_s)
    return out.getvalue().splitlines()


def test_how_far_it_is_is_said_every_five_seconds():
    lines = told_of([(float(t), True) for t in range(100, 113)])
    assert "Read anything aloud in your ordinary voice" in lines[0]
    assert [line.split(" of ")[1] for line in lines[1:]] == ["30 s", "30 s"]
    heard = [int(line.split()[0]) for line in lines[1:]]
    assert 0 < heard[0] < heard[1] <= 11


def test_a_long_silence_is_remarked_upon_once():
    lines = told_of([(float(t), False) for t in range(100)])
    remarks = [i for i, line in enumerate(lines) if "No speech was heard for 15 s" in line]
    assert len(remarks) == 1
    assert "serstream devices" in lines[remarks[0]]
    assert lines[remarks[0] + 1] == "0 of 30 s of speech heard"


def test_pauses_of_a_reader_are_not_remarked_upon():
    lines = told_of([(5.0 * t, t % 2 == 1) for t in range(20)])
    assert not [line for line in lines if "No speech" in line]


# --- what a profile does


def test_analyze_starts_every_file_from_the_profile(home):
    profile = write_profile(home)
    with_it = serstream("analyze", "--json", "--steps", "--profile", "low", DEMO, DEMO)
    without = serstream("analyze", "--json", "--steps", DEMO)
    first, second = map(json.loads, with_it.stdout.splitlines())
    assert first == second
    assert first["posterior"] != json.loads(without.stdout)["posterior"]
    mean = MODEL.manifest.cepstral_mean(profile.mean)
    expected = analyze(read_file(DEMO), MODEL, Config(), mean).analysis
    assert first == {"file": str(DEMO)} | msgspec.to_builtins(expected)


def test_a_profile_that_does_not_fit_ends_analyze_and_run_with_2_and_a_sentence(home, tmp_path):
    config = tmp_path / "my.yaml"
    source = {"kind": "file", "path": str(DEMO), "profile": "low"}
    transport = {"events": f"ipc://{tmp_path}/events", "control": f"ipc://{tmp_path}/control"}
    config.write_text(json.dumps({"sources": {"talk": source}, "transport": transport}))
    parts = ("profile 'low' is neither in", str(home), "/etc/serstream/profiles", "serstream enroll low")
    refused(serstream("analyze", "--profile", "low", DEMO), 2, *parts)
    refused(serstream("run", "--config", config), 2, *parts)
    write_profile(home)
    fields = json.loads((home / "low.json").read_text())
    fields["front_end"]["fmin_hz"] = 50.0
    (home / "low.json").write_text(json.dumps(fields))
    refused(serstream("run", "--config", config), 2, "fmin_hz 50.0", "fmin_hz 20.0", "serstream enroll NAME")


def posteriors(profile: Profile | None) -> list[dict[str, float] | None]:
    mean = None if profile is None else MODEL.manifest.cepstral_mean(profile.mean)
    pipeline = Pipeline(Network(MODEL), source="talk", session="", mean=mean)
    events = pipeline.push(0, SAMPLES[: 10 * RATE]) + pipeline.finish()
    return [e.posterior for e in events if isinstance(e, Posterior)]


def test_a_daemon_starts_each_source_from_its_own_profile(home, tmp_path):
    profile = write_profile(home)
    soundfile.write(tmp_path / "talk.flac", SAMPLES[: 10 * RATE], RATE)
    talk = {"kind": "file", "path": str(tmp_path / "talk.flac"), "realtime": False}
    sources = {"with": talk | {"profile": "low"}, "without": talk, "path": talk | {"profile": str(home / "low.json")}}
    with Daemon(tmp_path, {"sources": sources | {"quiet": KEEPS_ON}}) as daemon:
        daemon.ready()

        def heard(name: str) -> list[dict[str, Any]]:
            return [e for e in daemon.replay(name) if e["type"] == "posterior"]

        for name in sources:
            await_true(lambda name=name: [e["sample"] for e in heard(name)][-1:] == [10 * RATE])
        found = {name: [e["posterior"] for e in heard(name)] for name in sources}
        assert daemon.end(signal.SIGTERM) == 0
    assert posteriors(profile) != posteriors(None)
    assert found["with"] == found["path"] == posteriors(profile)
    assert found["without"] == posteriors(None)


# --- from a microphone


def test_a_voice_at_the_microphone_becomes_a_profile_like_that_of_its_recording(virtual_mic, home):
    with Serstream("enroll", "anna", "--seconds", 10, "--json") as command:
        command.err.until(lambda line: "until 10 s of speech were heard" in line)
        with virtual_mic.play(DEMO) as player:
            assert command.end(limit_s=60.0) == 0, command.err.lines
            player.kill()
        assert [line for line in command.err.lines if line.endswith("of 10 s of speech heard")]
    (line,) = command.out.lines
    assert json.loads(line)["speech_s"] == 10.0
    assert os.listdir(home) == ["anna.json"]
    recorded = Enrolment(Network(MODEL), threshold=0.5, wanted_s=10.0)
    recorded.push(0, SAMPLES)
    difference = np.array(find("anna", MODEL.manifest.front_end).mean) - recorded.mean()
    assert np.abs(difference / MODEL.manifest.std).max() < 0.5
