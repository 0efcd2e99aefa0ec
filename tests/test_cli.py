"""The commands as processes: what they print, how they end, and what they say of bad input."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import soundfile
from serstream_process import COMMAND, KEEPS_ON, LIMIT_S, PROMPT_S, Daemon, Serstream, await_true, hear

from serstream import __version__
from serstream.cli import main
from serstream.emotionml import NAMESPACE
from serstream.events import LABELS, VOICES, Health, Posterior
from serstream.resources import packaged
from serstream.sources import devices

DEMO = packaged("demo.flac")
STEP_FIELDS = {"stream_s", "posterior", "other", "voice", "speech", "level_dbfs", "state"}
ANALYSIS_FIELDS = {"file", "duration_s", "label", "probability", "posterior", "voice", "utterances"}
COMMANDS = {
    "run": ["--config", "--source", "ID|mic|demo|-|FILE", "--record DIR", "--stdin-format", "--rate", "--channels"],
    "listen": ["--connect", "--control", "--source", "--key NAME|FILE", "--server-key", "--json"],
    "send": [
        "ID|mic|demo|-|FILE",
        "--to",
        "--stream",
        "--format {f32le,s16le}",
        "--rate",
        "--config",
        "--key",
        "--json",
    ],
    "analyze": ["FILE", "--format {table,json,csv,emotionml}", "--steps", "--config", "--profile NAME|PATH"],
    "enroll": ["NAME", "--source", "ID|mic|FILE", "--seconds", "--config", "--json"],
    "history": [
        *("--since", "--until", "--source", "--type", "--session", "--limit", "--config", "--journal"),
        "--format {table,json,csv,emotionml}",
    ],
    "devices": ["--json", "--config"],
    "doctor": ["--no-capture", "--json", "--config", "--key NAME|FILE", "--server-key"],
    "status": ["--control", "--json", "--key NAME|FILE", "--server-key"],
    "mute": ["--control", "--json", "--source", "--key NAME|FILE", "--server-key"],
    "unmute": ["--control", "--json", "--source", "--key NAME|FILE", "--server-key"],
    "reload": ["--control", "--json", "--key NAME|FILE", "--server-key"],
    "keygen": ["NAME", "--dir FOLDER", "--json"],
    "service": ["{install,uninstall}", "--user", "--system"],
    "bench": ["--json", "--only NAME", "--quick"],
}


def serstream(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "timeout": 60, "stdin": subprocess.DEVNULL} | options
    return subprocess.run([*COMMAND, *map(str, arguments)], check=False, **options)


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in this process, which has imported everything already."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(a) for a in arguments]
        try:
            status = main(words)
        except SystemExit as ended:  # argparse
            status = int(ended.code or 0)
        return subprocess.CompletedProcess(words, status, *capsys.readouterr())

    return run


def refused(done: subprocess.CompletedProcess[str], status: int, *parts: str) -> str:
    """Check that a command said why in one sentence and did nothing else; return the sentence."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    assert lines[0].startswith("serstream: ")
    assert [part for part in parts if part not in lines[0]] == []
    assert done.returncode == status
    return lines[0]


@pytest.fixture(autouse=True)
def _no_configuration_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, int]:
    """Five seconds of the demo with one utterance in them."""
    samples, rate = soundfile.read(DEMO, dtype="float32")
    return samples[rate : 6 * rate], rate


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, speech) -> tuple[subprocess.CompletedProcess[str], dict[str, dict]]:
    """One `analyze` over good and bad files together, and its objects by the name of the file."""
    folder = tmp_path_factory.mktemp("files")
    samples, rate = speech
    twelve_fold = np.repeat(samples, 12)  # 192 kHz; steps instead of slopes do not matter here
    soundfile.write(folder / "first.wav", samples, rate)
    soundfile.write(folder / "phone.wav", samples[::2], 8_000)
    soundfile.write(folder / "studio.wav", np.repeat(twelve_fold[:, None], 8, axis=1), 192_000)
    (folder / "empty.wav").touch()
    whole = (folder / "first.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    whole = DEMO.read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_text("this is no sound\n" * 100)
    (folder / "folder.wav").mkdir()
    for name, value in (("nan", np.nan), ("infinity", -np.inf)):
        broken = samples.copy()
        broken[3 * rate] = value
        soundfile.write(folder / f"{name}.wav", broken, rate, subtype="FLOAT")
    soundfile.write(folder / "last.flac", samples, rate)
    names = ["first.wav", *BAD_FILES, "phone.wav", "studio.wav", "last.flac"]
    done = serstream("analyze", "--format", "json", *(folder / name for name in names))
    found = {Path(f["file"]).name: f for f in map(json.loads, done.stdout.splitlines())}
    assert list(found) == names, "one object a file, in order"
    return done, found


BAD_FILES = {
    "missing.wav": "does not exist",
    "empty.wav": "is empty",
    "cut.wav": "is cut off",
    "cut.flac": "cut off",
    "text.wav": "is not audio",
    "folder.wav": "is a folder",
    "nan.wav": "no finite number at 3.000 s",
    "infinity.wav": "no finite number at 3.000 s",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_an_object_with_the_reason_and_nothing_half_done(name, analysed):
    found = analysed[1][name]
    assert set(found) == {"file", "error"}
    assert BAD_FILES[name] in found["error"]
    assert found["file"] in found["error"]
    assert "\n" not in found["error"]


def test_one_bad_file_makes_the_exit_status_1_and_the_others_are_still_done(analysed):
    done, found = analysed
    assert done.returncode == 1
    assert done.stderr == ""
    assert [n for n in found if n not in BAD_FILES] == ["first.wav", "phone.wav", "studio.wav", "last.flac"]


@pytest.mark.parametrize("name", ["first.wav", "phone.wav", "studio.wav", "last.flac"])
def test_any_rate_and_any_number_of_channels_is_analysed(name, analysed):
    found = analysed[1][name]
    assert set(found) == ANALYSIS_FIELDS
    assert found["duration_s"] == pytest.approx(5.0, abs=0.001)
    assert sum(found["posterior"].values()) == pytest.approx(1.0, abs=0.001)
    assert (list(found["posterior"]), list(found["voice"])) == (list(LABELS), list(VOICES))
    assert found["label"] == max(found["posterior"], key=found["posterior"].get)
    assert found["probability"] == found["posterior"][found["label"]]
    (utterance,) = found["utterances"]
    assert set(utterance) == {"start_s", "end_s", "label", "probability", "posterior"}
    assert 0.0 < utterance["start_s"] < utterance["end_s"] < 5.0


def test_the_same_sound_in_wav_and_flac_is_analysed_alike(analysed):
    first, last = (analysed[1][name] | {"file": ""} for name in ("first.wav", "last.flac"))
    assert first == last


@pytest.mark.parametrize("format_", ["json", "csv", "table"])
def test_a_name_that_is_no_text_is_shown_as_far_as_it_can_be(format_, tmp_path, speech):
    name = os.fsencode(tmp_path) + b"/\xff.wav"
    soundfile.write(tmp_path / "plain.wav", *speech)
    (tmp_path / "plain.wav").rename(Path(os.fsdecode(name)))
    words = [*COMMAND, "analyze", "--format", format_, name, name + b".missing"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "\N{REPLACEMENT CHARACTER}.wav" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_table_leaves_what_went_wrong_to_standard_error_one_line_a_file(tmp_path):
    done = serstream("analyze", DEMO, tmp_path / "a.wav", tmp_path)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["serstream", "serstream"]
    assert done.stdout.startswith(str(DEMO))
    assert "Traceback" not in done.stderr


def test_steps_are_about_a_quarter_of_a_second_apart_and_in_the_object_with_steps_alone():
    found = json.loads(serstream("analyze", "--json", "--steps", DEMO).stdout)
    assert set(found) == ANALYSIS_FIELDS | {"steps"}
    assert {frozenset(step) for step in found["steps"]} == {frozenset(STEP_FIELDS)}
    times = [step["stream_s"] for step in found["steps"]]
    assert set(np.round(np.diff(times[:-1]), 6)) == {0.256}
    assert len(found["utterances"]) >= 4


def test_csv_has_one_header_and_a_row_for_recording_utterances_and_steps(tmp_path):
    text = serstream("analyze", "--format", "csv", "--steps", DEMO, tmp_path / "missing.wav", DEMO).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert text.count("probability") == 1
    parts = [row["part"] for row in rows]
    assert (parts.count("recording"), parts.count("")) == (2, 1)
    assert {"utterance", "step"} < set(parts)
    assert "does not exist" in rows[parts.index("")]["error"]
    for row in rows:
        if row["part"] == "utterance":
            assert sum(float(row[label]) for label in LABELS) == pytest.approx(1.0, abs=0.001)


def test_emotionml_has_the_recording_and_its_utterances_with_their_place_in_it(tmp_path, speech):
    path = tmp_path / "my own & best.wav"
    soundfile.write(path, *speech)
    done = serstream("analyze", "--format", "emotionml", path, tmp_path / "missing.wav")
    assert done.returncode == 1
    assert "missing.wav does not exist" in done.stderr
    root = ET.fromstring(done.stdout)
    recording, *utterances = root.findall(f"{{{NAMESPACE}}}emotion")
    assert recording.get("time-ref-uri") == f"{tmp_path}/my%20own%20%26%20best.wav"
    assert (recording.get("offset-to-start"), recording.get("duration")) == ("0", "5000")
    assert len(utterances) == 1
    assert [c.get("name") for c in recording.iter(f"{{{NAMESPACE}}}category")] == list(LABELS)


def test_a_reader_that_goes_away_ends_analyze_quietly():
    command = " ".join([*COMMAND, "analyze --format csv --steps", *[str(DEMO)] * 3])
    script = f"{command} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    header, status = done.stdout.splitlines()
    assert header.startswith("file,part,")
    assert (status, done.stderr) == ("0", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command, typed):
    done = typed(command, "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert [part for part in COMMANDS[command] if part not in text] == []


def test_version_is_that_of_the_package():
    assert serstream("--version").stdout == f"serstream {__version__}\n"


def test_help_names_every_command():
    text = serstream("--help").stdout
    assert set(re.findall(r"^    ([a-z]+) ", text, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["sing"], ["analyze"], ["run", "--rate", "fast"]])
def test_wrong_usage_ends_with_2_and_no_traceback(arguments, typed):
    done = typed(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("mute", "mic"), ("run", "--loud")])
def test_an_argument_too_many_is_named_with_where_to_look(arguments, typed):
    refused(typed(*arguments), 2, f"{arguments[0]} takes no {arguments[1]!r}", f"serstream {arguments[0]} --help")


@pytest.mark.parametrize("command", ["run", "analyze"])
def test_a_wrong_configuration_is_said_in_a_sentence_and_ends_with_2(command, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("decision: {smoothing_s: 31}")
    done = serstream(command, "--config", path, *([DEMO] if command == "analyze" else []))
    refused(done, 2, str(path), "decision.smoothing_s is 31", "from 0 to 30")


def test_a_name_that_no_file_can_have_is_no_source():
    refused(serstream("run", "--source", "x" * 300), 2, "no file", "demo")


def test_a_source_in_a_folder_of_somebody_else_is_said(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir(mode=0)
    command = [*COMMAND, "run", "--source", str(folder / "x.wav")]
    if os.geteuid() == 0:  # who may look everywhere, until this is taken away
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    refused(done, 2, "no file that this user can see")


def test_a_source_that_does_not_exist_is_said_with_those_that_do():
    done = serstream("run", "--source", "nowhere.wav")
    refused(done, 2, "'nowhere.wav'", "mic", "demo", "-")


@pytest.mark.parametrize(("option", "value"), [("--rate", 100), ("--channels", 0)])
def test_an_impossible_format_of_standard_input_is_said_with_what_is_allowed(option, value):
    done = serstream("run", "--source", "-", option, value)
    refused(done, 2, str(value), "4000 to 384000 Hz", "1 to 64 channels")


def spoil_model(folder: Path, fault: str) -> None:
    """Make a model folder that looks like the shipped one but for one fault."""
    shutil.copytree(packaged("models/serstream"), folder)
    network, manifest = folder / "model.tflite", folder / "manifest.json"
    if fault == "corrupt":
        network.write_bytes(network.read_bytes()[:-1000])
    elif fault == "manifest of another":
        manifest.write_text(re.sub(r'("sha256": *")[0-9a-f]{64}', r"\g<1>" + 64 * "0", manifest.read_text()))
    elif fault == "garbage":
        network.write_bytes(b"noise" * 1000)
        digest = hashlib.sha256(network.read_bytes()).hexdigest()
        manifest.write_text(re.sub(r'("sha256": *")[0-9a-f]{64}', r"\g<1>" + digest, manifest.read_text()))
    elif fault == "no manifest":
        manifest.write_text("{}")
    elif fault == "missing network":
        network.unlink()
    elif fault == "missing":
        shutil.rmtree(folder)


MODEL_FAULTS = {
    "corrupt": "damaged",
    "manifest of another": "its manifest names 000000000000...",
    "no manifest": "not a manifest",
    "missing network": "no readable model.tflite",
    "missing": "neither a shipped model nor a folder",
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_a_model_that_does_not_fit_is_said_in_a_sentence(fault, tmp_path, typed):
    spoil_model(tmp_path / "model", fault)
    (tmp_path / "my.yaml").write_text(json.dumps({"model": f"{tmp_path}/model"}))
    status = 2 if fault == "missing" else 1  # which is a wrong configuration
    done = typed("analyze", "--config", tmp_path / "my.yaml", DEMO)
    refused(done, status, f"{tmp_path}/model", MODEL_FAULTS[fault])


@pytest.mark.parametrize("name", ["sing", "~nobody-of-this-name/model", "x" * 300])
def test_an_unknown_model_is_a_wrong_configuration(name, tmp_path, typed):
    (tmp_path / "my.yaml").write_text(json.dumps({"model": name}))
    done = typed("analyze", "--config", tmp_path / "my.yaml", DEMO)
    refused(done, 2, repr(name), "neither a shipped model nor a folder", "serstream or open")


def test_a_threshold_that_contradicts_the_model_is_a_wrong_configuration(tmp_path, typed):
    (tmp_path / "my.yaml").write_text("decision: {exit_threshold: 0.9}")
    done = typed("analyze", "--config", tmp_path / "my.yaml", DEMO)
    refused(done, 2, "decision.exit_threshold is 0.9", "enter_threshold")


@pytest.mark.parametrize("words", ["listen --connect", "listen --control", "status --control", "mute --control"])
def test_an_endpoint_that_is_none_is_wrong_usage(words, typed):
    refused(typed(*words.split(), "banana"), 2, "'banana'", "tcp://HOST:PORT")


def test_an_endpoint_that_may_not_be_bound_is_a_wrong_configuration_before_anything_is_opened(tmp_path):
    (tmp_path / "my.yaml").write_text("transport: {events: 'tcp://0.0.0.0:5755'}")
    done = serstream("run", "--config", tmp_path / "my.yaml", "--source", tmp_path / "missing.wav")
    refused(done, 2, "transport.events is 'tcp://0.0.0.0:5755'", "transport.insecure")


@pytest.mark.parametrize("command", ["run --source", "analyze"])
def test_a_model_that_the_runtime_refuses_is_said_in_a_sentence(command, tmp_path):
    spoil_model(tmp_path / "model", "garbage")
    (tmp_path / "my.yaml").write_text(json.dumps({"model": f"{tmp_path}/model"}))
    done = serstream(*command.split(), DEMO, "--config", tmp_path / "my.yaml")
    refused(done, 1, "runtime litert cannot run the model")


def test_a_recording_of_a_source_that_cannot_be_read_ends_run_with_1(tmp_path):
    (tmp_path / "talk.wav").write_text("this is no sound")
    refused(serstream("run", "--source", tmp_path / "talk.wav"), 1, "talk.wav", "not audio")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that hears silence."""
    with Daemon(tmp_path_factory.mktemp("quiet"), {"sources": {"quiet": KEEPS_ON}}) as daemon:
        yield daemon.ready()


def test_an_endpoint_in_use_is_said_with_its_key(quiet):
    refused(serstream("run", "--config", quiet.path), 1, quiet.control, "in use", "transport.control")
    assert quiet.ask("status")["pid"] == quiet.process.pid


# --- asked to stop before there is anything to stop


def in_its_configuration(command: str, folder: Path, *arguments: object, **options: object) -> tuple[Serstream, Path]:
    """Start a command, and return when it waits for its configuration to be written into a pipe."""
    path = folder / "config.pipe"
    os.mkfifo(path)
    return Serstream(command, "--config", path, *arguments, **options), path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["reading its configuration", "loading"])
def test_a_signal_before_the_daemon_serves_ends_run_quietly_with_0(number, when, tmp_path, endpoints):
    run, path = in_its_configuration("run", tmp_path, "--source", "demo")
    with run:
        with path.open("w") as pipe:
            if when == "loading":
                pipe.write(endpoints.read_text())
                pipe.close()
                maps = Path(f"/proc/{run.process.pid}/maps")
                await_true(lambda: "numpy" in maps.read_text())
            assert run.end(number) == 0
        assert (run.out.lines, run.err.lines) == ([], [])


def test_ctrl_c_on_the_way_ends_analyze_with_130(tmp_path):
    analyze, path = in_its_configuration("analyze", tmp_path, DEMO)
    with analyze, path.open("w"):
        assert analyze.end(signal.SIGINT) == 130
        assert (analyze.out.lines, analyze.err.lines) == ([], [])


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(tmp_path):
    with Daemon(tmp_path, {"sources": {"quiet": KEEPS_ON}}, prefix=("nohup",)) as daemon:
        daemon.ready()
        daemon.process.send_signal(signal.SIGHUP)
        (ignored,) = re.findall(r"SigIgn:\s+(\w+)", Path(f"/proc/{daemon.process.pid}/status").read_text())
        assert int(ignored, 16) & 1 << (signal.SIGHUP - 1)
        assert daemon.end(signal.SIGTERM) == 0
    assert not [line for line in daemon.err.lines if "reload" in line]


def test_a_tcp_port_in_use_is_said_with_its_key(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        transport = {"events": endpoint, "control": f"ipc://{tmp_path}/control"}
        (tmp_path / "my.yaml").write_text(json.dumps({"transport": transport}))
        done = serstream("run", "--config", tmp_path / "my.yaml", "--source", "demo")
    refused(done, 1, endpoint, "in use", "transport.events")


def test_without_a_daemon_the_requests_say_how_to_start_one(tmp_path):
    asked = [Serstream(c, "--control", f"ipc://{tmp_path}/nobody") for c in ("status", "mute", "unmute", "reload")]
    for command in asked:
        with command:
            assert command.end() == 1
            (line,) = command.err.lines
            assert "no serstream daemon answers" in line
            assert "serstream run" in line
            assert command.out.lines == []


STDIN = {
    "closed": ("<&-", "standard input ended before its first sample"),
    "empty": ("</dev/null", "standard input ended before its first sample"),
}


@pytest.mark.parametrize("kind", STDIN)
def test_standard_input_without_sound_is_said_and_ends_with_1(kind, tmp_path):
    redirection, sentence = STDIN[kind]
    endpoints = {"events": f"ipc://{tmp_path}/events", "control": f"ipc://{tmp_path}/control"}
    (tmp_path / "my.yaml").write_text(json.dumps({"transport": endpoints, "log_level": "error"}))
    command = " ".join(["exec", *COMMAND, "run --source - --config", str(tmp_path / "my.yaml"), redirection])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    refused(done, 1, sentence)


# --- devices, and the lack of them


def test_devices_are_listed_with_the_one_that_would_be_used_marked(virtual_mic):
    done = serstream("devices")
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split()[:4] == ["name", "identity", "channels", "rate"]
    assert {line.split()[0] for line in lines} >= {"pulse", "default"}
    rows = json.loads(serstream("devices", "--json").stdout)
    assert [row["name"] for row in rows if row["used_by"] == ["mic"]] == ["default"]
    assert all(row["max_input_channels"] >= 1 for row in rows)


def test_an_unknown_device_is_said_with_those_that_there_are(virtual_mic, tmp_path):
    microphone = {"mic": {"kind": "microphone", "device": "Yeti"}}
    (tmp_path / "my.yaml").write_text(json.dumps({"sources": microphone}))
    done = serstream("run", "--config", tmp_path / "my.yaml", "--source", "mic")
    refused(done, 1, "'Yeti'", "'pulse'", "'default'")


def test_an_unknown_device_is_waited_for_where_nobody_looks_and_said_once(virtual_mic, tmp_path):
    microphone = {"mic": {"kind": "microphone", "device": "Yeti"}}
    with Daemon(tmp_path, {"sources": microphone}) as daemon, daemon.subscribe() as subscriber:
        hear(subscriber, lambda e: isinstance(e, Health) and e.status == "lost")
        hear(subscriber, lambda e: isinstance(e, Health) and e.counters["restarts"] >= 2)
        assert daemon.ask("status")["sources"]["mic"]["status"] == "lost"
        assert daemon.end(signal.SIGTERM) == 0
    assert len([line for line in daemon.err.lines if "Yeti" in line]) == 1
    assert len(daemon.err.lines) <= 3, daemon.err.lines


@pytest.fixture
def without_sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose sound library finds no device."""
    monkeypatch.delenv("ALSA_CONFIG_PATH", raising=False)
    monkeypatch.setenv("PULSE_SERVER", f"unix:{tmp_path}/no-server")
    if devices():
        pytest.skip("this machine has a sound card")


@pytest.mark.usefixtures("without_sound")
def test_a_machine_without_a_microphone_is_told_what_to_do():
    done = serstream("devices")
    assert (done.returncode, "no microphone found" in done.stdout) == (0, True)
    assert "--source demo" in done.stdout


@pytest.mark.usefixtures("without_sound")
def test_without_a_microphone_a_service_says_so_once_and_waits(tmp_path):
    with Daemon(tmp_path, {}) as daemon, daemon.subscribe() as subscriber:
        hear(subscriber, lambda e: isinstance(e, Health) and e.status == "lost")
        assert not [e for e in daemon.replay("mic") if e["type"] not in {"health", "gap"}], "nothing is invented"
        assert daemon.end(signal.SIGTERM) == 0
    assert len([line for line in daemon.err.lines if "no microphone was found" in line]) == 1
    assert len(daemon.err.lines) <= 3, daemon.err.lines


def test_an_alsa_configuration_that_is_missing_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "none.conf"))
    refused(serstream("devices"), 1, "none.conf", "does not exist")
    refused(serstream("run", "--source", "mic"), 1, "none.conf", "does not exist")


def portaudio() -> str:
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    return next(line.split()[-1] for line in listed.splitlines() if "libportaudio.so.2" in line)


@pytest.fixture
def no_portaudio(tmp_path: Path) -> tuple[str, ...]:
    """Words before a command that make it run where an empty file lies over the sound library."""
    (tmp_path / "empty").touch()
    script = f'mount --bind {tmp_path}/empty {portaudio()} && exec "$@"'
    words = ("unshare", "--mount", "sh", "-c", script, "sh")
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("hiding a file from one process needs the right to mount (root)")
    return words


def test_without_portaudio_microphones_say_how_to_install_it_and_recordings_work(no_portaudio, tmp_path):
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*no_portaudio, *COMMAND, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    refused(run("run", "--source", "mic"), 1, "sudo apt install libportaudio2")
    refused(run("devices"), 1, "sudo apt install libportaudio2")
    with Daemon(tmp_path, {}, "--source", "demo", prefix=no_portaudio) as daemon, daemon.subscribe() as heard:
        hear(heard, lambda event: isinstance(event, Posterior))
        assert daemon.end(signal.SIGTERM) == 0


# --- on a terminal


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: object, stderr: IO[str] | None = None, **env: str) -> None:
        self.fd, inside = os.openpty()
        os.set_blocking(self.fd, False)
        self.seen = b""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *COMMAND, *map(str, arguments)],
            stdin=inside,
            stdout=inside,
            stderr=stderr or inside,
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "PYTHONUTF8": "1"} | env,
        )
        os.close(inside)

    def until(self, wanted: str) -> str:
        """Read until the terminal has shown something."""
        end_s = time.monotonic() + LIMIT_S
        while wanted.encode() not in self.seen and self._read(end_s - time.monotonic()):
            pass
        assert wanted.encode() in self.seen, self.seen[-2000:]
        return self.seen.decode(errors="replace")

    def _read(self, limit_s: float) -> bool:
        if not select.select([self.fd], [], [], max(0.0, limit_s))[0]:
            return False
        try:
            self.seen += os.read(self.fd, 65_536)
        except OSError:  # the last process on it has gone
            return False
        return True

    def end(self) -> int:
        """Read to the end and return the exit status."""
        end_s = time.monotonic() + LIMIT_S
        while self._read(end_s - time.monotonic()):
            pass
        return self.process.wait(LIMIT_S)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.fd >= 0:
            os.close(self.fd)

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self.fd)
        self.fd = -1


@pytest.fixture
def endpoints(tmp_path: Path) -> Path:
    """A configuration with endpoints of its own."""
    path = tmp_path / "endpoints.yaml"
    transport = {"events": f"ipc://{tmp_path}/events", "control": f"ipc://{tmp_path}/control"}
    path.write_text(json.dumps({"transport": transport}))
    return path


@pytest.mark.usefixtures("without_sound")
def test_without_a_microphone_a_terminal_says_so_and_shows_the_demo_until_ctrl_c(endpoints):
    with Terminal("run", "--config", endpoints) as terminal:
        shown = terminal.until("\x1b[?1049h")
        assert "no microphone was found; playing the embedded demo instead" in shown
        for label in LABELS:
            terminal.until(label)
        os.write(terminal.fd, b"\x03")
        asked_s = time.monotonic()
        assert terminal.end() == 0
        assert time.monotonic() - asked_s < PROMPT_S
        after = terminal.seen.decode(errors="replace").rpartition("\x1b[?1049l")
        assert after[1], "the screen is given back"
        assert "\x1b[?25h" in terminal.seen.decode(errors="replace")[-200:]
        assert "Traceback" not in after[2]


def test_standard_output_alone_decides_whether_there_is_a_view(endpoints, tmp_path):
    log = (tmp_path / "err.log").open("w")
    with log, Terminal("run", "--config", endpoints, "--source", "demo", stderr=log) as terminal:
        terminal.until("\x1b[?1049h")
        terminal.until("calm")
        os.write(terminal.fd, b"\x03")
        assert terminal.end() == 0
    assert "ready, session" in (tmp_path / "err.log").read_text()


@pytest.mark.usefixtures("without_sound")
def test_without_a_microphone_the_other_sources_are_still_heard(endpoints, tmp_path):
    config = json.loads(endpoints.read_text())
    sources = {"mic": {"kind": "microphone"}, "talk": {"kind": "demo"}}
    endpoints.write_text(json.dumps(config | {"sources": sources}))
    with Terminal("run", "--config", endpoints) as terminal:
        terminal.until("\x1b[?1049h")
        asked = ("status", "--json", "--control", config["transport"]["control"])
        assert list(json.loads(serstream(*asked).stdout)["sources"]) == ["mic", "talk"]
        os.write(terminal.fd, b"\x03")
        assert terminal.end() == 0
    assert b"instead" not in terminal.seen


def test_a_window_that_is_closed_ends_the_daemon_and_with_it_the_capture(endpoints):
    with Terminal("run", "--config", endpoints, "--source", "demo") as terminal:
        terminal.until("\x1b[?1049h")
        terminal.until("calm")
        terminal.hang_up()
        terminal.process.wait(LIMIT_S)


def test_on_a_terminal_an_unknown_device_is_said_with_those_that_there_are(virtual_mic, tmp_path):
    (tmp_path / "my.yaml").write_text(json.dumps({"sources": {"mic": {"kind": "microphone", "device": "Yeti"}}}))
    with Terminal("run", "--config", tmp_path / "my.yaml") as terminal:
        assert terminal.end() == 1
        (line,) = terminal.seen.decode().splitlines()
        assert line.startswith("serstream: no microphone matches 'Yeti'; there are ")


def test_a_terminal_as_standard_input_is_said_and_ends_with_1(endpoints):
    with Terminal("run", "--config", endpoints, "--source", "-") as terminal:
        assert terminal.end() == 1
        assert "standard input is a terminal; pipe PCM into it" in terminal.seen.decode(errors="replace")
        assert "Traceback" not in terminal.seen.decode(errors="replace")


def test_on_a_terminal_enroll_says_what_to_do_and_ctrl_c_gives_it_back_and_writes_nothing(endpoints, tmp_path):
    config = json.loads(endpoints.read_text())
    endpoints.write_text(json.dumps(config | {"sources": {"quiet": KEEPS_ON}}))
    words = ("enroll", "anna", "--config", endpoints, "--source", "quiet")
    with Terminal(*words, XDG_DATA_HOME=str(tmp_path / "data")) as terminal:
        terminal.until("Read anything aloud in your ordinary voice")
        terminal.until("\x1b[?25l")
        terminal.until("of 30 s of speech heard")
        os.write(terminal.fd, b"\x03")
        assert terminal.end() == 130
    shown = terminal.seen.decode(errors="replace")
    assert "\x1b[?25h" in shown.rpartition("of 30 s of speech heard")[2], "the cursor is given back"
    assert "Traceback" not in shown
    assert not (tmp_path / "data").exists()


# --- listen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("option", ["--json", None])
def test_a_signal_ends_listen_within_a_second_with_0(number, option, quiet):
    urls = ("--connect", quiet.events, "--control", quiet.control)
    with Serstream("listen", *urls, *([option] if option else [])) as listen:
        listen.out.until(lambda line: "running" in line)
        asked_s = time.monotonic()
        assert listen.end(number) == 0
        assert time.monotonic() - asked_s < PROMPT_S
        assert listen.err.lines == []


def test_sigterm_gives_the_terminal_of_listen_back(tmp_path):
    urls = ("--connect", f"ipc://{tmp_path}/events", "--control", f"ipc://{tmp_path}/control")
    with Terminal("listen", *urls) as terminal:
        terminal.until("\x1b[?1049h")
        terminal.until("serstream run")
        terminal.process.terminate()
        assert terminal.end() == 0
        assert "\x1b[?1049l" in terminal.seen.decode(errors="replace")[-200:]


def test_listen_waits_for_a_daemon_and_follows_it_into_its_next_session(tmp_path):
    urls = ("--connect", f"ipc://{tmp_path}/events", "--control", f"ipc://{tmp_path}/control")
    sessions = set()
    with Serstream("listen", "--json", *urls) as listen:
        for _ in range(2):
            with Daemon(tmp_path, {"sources": {"quiet": KEEPS_ON}}) as daemon:
                session = daemon.ready().ask("status")["session"]
                listen.out.until(lambda line, session=session: session in line)
                sessions.add(session)
                assert daemon.end(signal.SIGTERM) == 0
    assert len(sessions) == 2
