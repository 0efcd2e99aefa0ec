"""``serstream doctor``: what is really wrong is found, and said with what helps; nothing hangs, nothing breaks."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
from conftest import ROOT
from rich.console import Console
from serstream_process import COMMAND, KEEPS_ON, Daemon, await_true

from serstream import __version__, checks, doctor
from serstream.checks import CHECKS, About, Check
from serstream.config import Config, MicrophoneSource, TransportConfig
from serstream.findings import NO_KEYS, Case, Finding, Keys
from serstream.hostchecks import clock, ports, running_daemon, unit_finding
from serstream.installchecks import PACKAGES, PYTHONS, fits
from serstream.keys import create
from serstream.loudness import fault
from serstream.resources import packaged
from serstream.soundchecks import judged, rated, record, sound_cards

LIMIT_S = 170.0
NOWHERE = "/proc/no/such/folder"
"""Where nobody can write, root included."""
RUNNING = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NRestarts": "0"}


def check(name: str, path: Path | None = None) -> list[Finding]:
    """Run one check as the command does, in a process of its own; all that it finds bears its name."""
    found = doctor.ask(name, About(None if path is None else str(path)))
    assert {finding.name for finding in found} == {name}
    return found


def only(found: list[Finding], status: str, *parts: str) -> Finding:
    """Return the one finding, which must have a status and speak of these."""
    assert len(found) == 1, found
    assert found[0].status == status, found
    assert [part for part in parts if part not in f"{found[0].sentence}; {found[0].remedy}"] == [], found
    return found[0]


def configured(tmp_path: Path, **config: object) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(json.dumps(config))
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND, "doctor", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL, check=False)


# --- the command


def test_a_muted_microphone_is_the_one_failure_of_a_whole_run_in_json(virtual_mic, tmp_path):
    transport = {"events": f"ipc://{tmp_path}/events", "control": f"ipc://{tmp_path}/control"}
    done = run("--json", "--config", configured(tmp_path, transport=transport))
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert (found["schema"], found["version"]) == ("serstream-doctor/1", __version__)
    assert found["machine"]["cores"] == os.cpu_count()
    findings = msgspec.convert(found["findings"], list[Finding])
    assert list(dict.fromkeys(finding.name for finding in findings)) == list(CHECKS)
    failed = only([f for f in findings if f.status == "failure"], "failure", "mic: 2.0 s are digital silence", "mute")
    assert (failed.name, done.returncode) == ("capture", 1)
    by_name = {finding.name: finding for finding in findings}
    assert "PortAudio" in by_name["sound library"].sentence
    assert "'default'" in by_name["microphone"].sentence
    assert "48000" in by_name["sample rates"].sentence
    assert os.listdir(tmp_path) == ["my.yaml"], "nothing is written"


def test_a_wrong_configuration_is_a_finding_and_status_2_and_the_other_checks_go_on(monkeypatch, tmp_path):
    monkeypatch.delenv("ALSA_CONFIG_PATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    done = run("--config", configured(tmp_path, workers=0))
    assert (done.returncode, done.stderr) == (2, "")
    head, *lines, end = done.stdout.splitlines()
    assert head.startswith(f"serstream {__version__} on ")
    assert re.fullmatch(r"2 failures(, \d warnings?)?", end)
    failed = [line for line in lines if line.startswith("failure")]
    assert failed[0].endswith("workers is 0; remedy: allowed is a whole number from 1 to 64 or null")
    assert "PortAudio is missing" in failed[1]
    assert "remedy: install it: sudo apt install libportaudio2" in failed[1]
    assert [line.split()[0] for line in lines if line[9:].startswith(("capture", "microphone"))] == ["skipped"] * 2
    assert any(re.match(r"ok +model +serstream: sha256", line) for line in lines)


def test_without_microphones_in_the_configuration_sound_is_no_matter_and_without_capture_none_is_opened(
    monkeypatch, tmp_path
):
    sound = {name: check for name, check in CHECKS.items() if check.listens is not None}
    monkeypatch.setattr(doctor, "CHECKS", sound)
    path = configured(tmp_path, sources={"demo": {"kind": "demo"}})
    heard = doctor.examine(About(str(path)), listen=True)
    assert {f.status for _, found in heard for f in found} == {"skipped"}
    monkeypatch.setattr(doctor, "CHECKS", {name: c for name, c in sound.items() if c.listens})
    found = [
        finding for _, found in doctor.examine(About(str(configured(tmp_path))), listen=False) for finding in found
    ]
    assert [(f.name, f.status) for f in found] == [("sample rates", "skipped"), ("capture", "skipped")]
    assert "stay closed" in found[1].sentence


def test_a_check_that_hangs_is_ended_and_one_that_dies_or_raises_is_a_finding(monkeypatch, tmp_path):
    monkeypatch.setitem(doctor.CHECKS, "clock", CHECKS["clock"]._replace(limit_s=0.001))
    only(check("clock"), "failure", "has not ended within 0.001 s")
    (tmp_path / "msgspec.py").write_text("import os; os.abort()\n")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        only(check("python"), "failure", "the check itself broke", "signal 6")

    def broken(case: Case) -> list[Finding]:
        raise ZeroDivisionError("three\nlines\n")

    monkeypatch.setitem(checks.CHECKS, "disk", Check(broken))
    only(checks.run("disk", About()), "failure", "the check itself broke (ZeroDivisionError: three)")


def test_a_finding_fits_a_narrow_terminal_and_keeps_all_its_words():
    finding = Finding("configuration", "warning", "so many words " * 20, "a command [of] words")
    out = io.StringIO()
    Console(file=out, width=60).print(doctor.row(finding))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    words = " ".join(out.getvalue().split())
    assert words.count("so many words") == 20
    assert words.endswith("a command [of] words")
    assert lines[0].startswith("! warning")


# --- the installation


def test_the_packages_and_pythons_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [f"{name}{versions}" for name, (_, versions) in PACKAGES.items()] == project["dependencies"]
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    assert project["requires-python"] == f">={first},<{last}"


@pytest.mark.parametrize(
    ("version", "fit"), [("1.25.2", False), ("1.26", True), ("2.5.9rc1", True), ("2.6.0", False), ("10.0", False)]
)
def test_a_version_fits_by_its_numbers(version, fit):
    assert fits(version, ">=1.26,<2.6") is fit


def test_a_package_that_cannot_be_imported_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path):
    (tmp_path / "soxr.py").write_text("raise ImportError('wrong ELF class')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = only(check("packages"), "failure", "soxr ", "wrong ELF class", "pip install --force-reinstall 'soxr>=1'")
    assert finding.remedy.startswith(sys.executable)


def test_a_changed_byte_of_the_model_is_found(tmp_path):
    folder = shutil.copytree(packaged("models/serstream"), tmp_path / "model")
    content = bytearray((folder / "model.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.tflite").write_bytes(content)
    findings = check("model", configured(tmp_path, model=str(folder)))
    only([f for f in findings if f.status != "ok"], "failure", "has sha256", "install or export the model again")


def unshared(script: str) -> list[str]:
    """Return the words before a command that run a script first, where mounts are the command's own."""
    words = ["unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting for one process needs root")
    return words


def alone(prefix: list[str], name: str, **env: str) -> list[Finding]:
    """Run a check behind other words."""
    words = [*prefix, sys.executable, "-m", "serstream.checks", name]
    done = subprocess.run(words, capture_output=True, env=os.environ | env, cwd=ROOT, timeout=LIMIT_S, check=True)
    return msgspec.json.decode(done.stdout, type=list[Finding])


def test_a_cache_folder_that_cannot_be_written_is_found_and_where_kernels_are_kept_instead():
    found = alone([], "kernels", NUMBA_CACHE_DIR=NOWHERE)
    only(found, "warning", NOWHERE, "cannot be written", str(ROOT / "serstream"), "export NUMBA_CACHE_DIR=")


def test_without_any_folder_for_kernels_the_cost_is_said(tmp_path):
    package = ROOT / "serstream"
    prefix = unshared(f"mount --bind '{package}' '{package}'; mount -o remount,bind,ro '{package}'")
    found = alone(prefix, "kernels", NUMBA_CACHE_DIR=NOWHERE, HOME=NOWHERE, XDG_CACHE_HOME=NOWHERE)
    only(found, "warning", "every start compiles them", "export NUMBA_CACHE_DIR=")


# --- sound


@pytest.mark.parametrize(
    ("signal_", "expected"),
    [
        (np.zeros(1000), "silent"),
        (np.full(1000, 0.25), "stuck"),
        (np.full(1000, -1.0), "stuck"),
        (np.clip(2 * np.sin(np.arange(1000)), -1, 1), "clipped"),
        (0.9 * np.sin(np.arange(1000)), None),
        (0.001 * np.sin(np.arange(1000)), None),
        (0.02 + 0.001 * np.sin(np.arange(1000)), None),
        (2.0**-15 * np.sign(np.sin(np.arange(1000))), "low"),
    ],
)
def test_each_fault_of_a_signal_is_told_from_the_others_and_from_none(signal_, expected):
    assert fault(signal_.astype(np.float32)) == expected


@pytest.mark.parametrize(
    ("samples", "status", "words"),
    [
        (0.05 * np.random.default_rng(0).standard_normal(48_000), "ok", "dBFS, peak"),
        (np.full(48_000, 0.25), "failure", "stuck at 0.25"),
        (np.sign(np.sin(np.arange(48_000) / 20)), "warning", "clipped"),
        (1e-4 * np.sin(np.arange(48_000) / 20), "warning", "very quiet"),
    ],
)
def test_what_is_played_to_the_microphone_is_judged(virtual_mic, tmp_path, samples, status, words):
    soundfile.write(tmp_path / "sound.wav", np.tile(samples, 120), 48_000, subtype="PCM_24")
    source = MicrophoneSource(sample_rate=48_000)
    with virtual_mic.play(tmp_path / "sound.wav") as player:
        try:
            await_true(lambda: record(source).any())
            found = judged("mic", record(source))
        finally:
            player.kill()
    only([found], status, words)


def test_a_device_that_is_not_there_is_a_failure_that_names_those_that_are(virtual_mic, tmp_path):
    path = configured(tmp_path, sources={"mic": {"kind": "microphone", "device": "Yeti"}})
    only(check("microphone", path), "failure", "mic: no microphone matches 'Yeti'", "'pulse'", "name one of them")


def test_a_rate_that_the_device_does_not_take_is_a_warning_with_those_that_it_takes():
    only([rated("mic", None, [44_100, 48_000])], "ok", "mic: 44100, 48000 Hz")
    only([rated("mic", 48_000, [44_100, 48_000])], "ok", "mic: 44100, 48000 Hz")
    only([rated("mic", 16_000, [44_100, 48_000])], "warning", "16000", "44100, 48000 Hz", "set sample_rate to null")
    only([rated("mic", None, [])], "failure", "no common rate")


def test_a_sound_server_that_hangs_is_a_failure_and_not_the_end(virtual_mic):
    virtual_mic.freeze()
    only(check("sound library"), "failure", "has not answered within 5 s", "systemctl --user restart")


def test_the_sound_server_that_answers_is_named_and_whom_it_serves(virtual_mic):
    only(check("sound server"), "ok", virtual_mic.env["PULSE_SERVER"].removeprefix("unix:"), "a service of the system")


def test_without_a_session_the_remedy_leads_to_it(monkeypatch, tmp_path):
    monkeypatch.delenv("PULSE_SERVER", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if list(Path("/dev/snd").glob("pcm*")):
        pytest.skip("this machine has a sound card")
    only(check("sound server"), "warning", "XDG_RUNTIME_DIR is not set")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    only(check("sound server"), "warning", f"in XDG_RUNTIME_DIR, {tmp_path}", "systemctl --user start")


def test_a_sound_card_that_this_user_may_not_open_is_a_failure_with_the_group_that_may(monkeypatch, tmp_path):
    monkeypatch.setenv("PULSE_SERVER", f"unix:{tmp_path}/none")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if os.geteuid():
        pytest.skip("to be another user needs root")
    with tempfile.TemporaryDirectory() as cards:
        (Path(cards) / "pcmC1D0c").touch(mode=0o660)
        os.chmod(cards, 0o755)
        only(sound_cards(Case(Config()), Path(cards)), "ok", "1 can record")
        program = (
            "import os, pathlib, msgspec\n"
            "from serstream.findings import Case\n"
            "from serstream.soundchecks import sound_cards\n"
            f"os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            f"found = sound_cards(Case(None), pathlib.Path({cards!r}))\n"
            "print(msgspec.json.encode(found).decode())"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=True)
    found = msgspec.json.decode(done.stdout, type=list[Finding])
    only(found, "failure", "may not open", "pcmC1D0c", "belongs to group root", "sudo usermod -aG root")


# --- the machine


@contextmanager
def taken() -> Iterator[str]:
    """Give an endpoint at which something listens that is no daemon."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def free() -> str:
    with taken() as endpoint:
        return endpoint


def with_endpoints(events: str, control: str) -> Case:
    return Case(Config(transport=TransportConfig(events, control)))


def test_a_port_that_something_else_holds_is_a_failure_that_names_it(tmp_path):
    with taken() as events:
        first, second = ports(with_endpoints(events, f"ipc://{tmp_path}/control"))
    only([first], "failure", f"transport.events {events} is held by", f"(process {os.getpid()})", f"kill {os.getpid()}")
    only([second], "ok", "is free")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/control")
        server.listen()
        found = ports(with_endpoints(free(), f"ipc://{tmp_path}/control"))
    only(found[:1], "ok", "is free")
    only(found[1:], "failure", "transport.control", f"(process {os.getpid()})", "does not answer")


def test_an_endpoint_that_could_not_be_bound_is_a_failure():
    found = ports(with_endpoints("tcp://192.0.2.1:5755", f"ipc://{NOWHERE}/control"))
    only(found[:1], "failure", "transport.events is 'tcp://192.0.2.1:5755'", "open to other machines")
    only(found[1:], "failure", NOWHERE, "cannot be bound")


def test_a_daemon_that_runs_is_fine_and_one_that_hangs_is_named(tmp_path):
    transport = {"events": free(), "control": free()}
    case = with_endpoints(**transport)
    only(running_daemon(case), "skipped", "none answers")
    with Daemon(tmp_path, {"sources": {"quiet": KEEPS_ON}, "transport": transport}) as daemon:
        daemon.ready()
        pid = daemon.process.pid
        assert [f.status for f in ports(case)] == ["ok", "ok"]
        assert all(f"the running daemon, process {pid}" in f.sentence for f in ports(case))
        only(running_daemon(case), "ok", f"process {pid}", "quiet is running")
        daemon.process.send_signal(signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)  # until its last thread has stopped
        events, control = ports(case)
        only([control], "failure", f"(process {pid})", "does not answer")
        assert events.status == "failure"


def test_a_daemon_that_lets_nobody_in_without_a_key_is_found_with_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "serstream" / "keys"
    create("serstream", folder)
    (folder / "clients").write_text(f"{create('me', folder).client_line('listen')}\n")
    transport = {"events": free(), "control": free(), "curve": {"key": "serstream", "clients": "clients"}}
    with Daemon(tmp_path, {"sources": {"quiet": KEEPS_ON}, "transport": transport}) as daemon:
        daemon.ready()
        without, with_key = (Case.of(daemon.path, keys) for keys in (NO_KEYS, Keys("me")))
        only(running_daemon(without), "skipped", "answers to keys alone", "--key NAME")
        assert {(f.status, f"(process {daemon.process.pid})" in f.sentence) for f in ports(without)} == {
            ("skipped", True)
        }
        only(running_daemon(with_key), "ok", f"process {daemon.process.pid}", "quiet is running")
        assert [f.status for f in ports(with_key)] == ["ok", "ok"]
        done = run("--json", "--no-capture", "--config", daemon.path, "--key", "me")
        found = {f["name"]: f["status"] for f in json.loads(done.stdout)["findings"]}
        assert (found["daemon"], found["ports"]) == ("ok", "ok")
        create("stranger", folder)
        done = run("--json", "--no-capture", "--config", daemon.path, "--key", "stranger")
        (refused,) = [f for f in json.loads(done.stdout)["findings"] if f["name"] == "daemon"]
        assert refused["status"] == "failure"
        assert "does not let the key stranger" in refused["sentence"]


def test_a_microphone_that_the_running_daemon_has_muted_stays_closed_and_one_that_it_has_lost_is_said(
    virtual_mic, tmp_path
):
    sources = {"mic": {"kind": "microphone"}, "yeti": {"kind": "microphone", "device": "Yeti"}}
    with Daemon(tmp_path, {"sources": sources}) as daemon:
        daemon.ready()
        daemon.ask("mute", source="mic")
        await_true(lambda: [s["status"] for s in daemon.ask("status")["sources"].values()] == ["muted", "lost"])
        muted, lost = check("capture", daemon.path)
        only([muted], "skipped", "mic: is muted in the running daemon", "serstream unmute")
        only([lost], "failure", "yeti: no microphone matches 'Yeti'")
        only(check("daemon", daemon.path), "warning", "yeti is lost")


def test_the_clock_is_read_and_its_state_said():
    before = datetime.now(UTC).replace(microsecond=0)
    (found,) = clock(Case(Config()))
    said = re.search(r"\d{4}-\d\d-\d\dT[\d:]+\+00:00", found.sentence)
    assert said is not None
    assert before <= datetime.fromisoformat(said[0]) <= datetime.now(UTC)
    assert found.status == "ok" or "synchronised" in found.sentence


def test_a_full_disk_is_found_with_where_it_is(tmp_path):
    prefix = unshared(f"mount -t tmpfs -o size=64k none '{tmp_path}'")
    full = [f for f in alone(prefix, "disk", TMPDIR=str(tmp_path)) if str(tmp_path) in f.sentence]
    only(full, "failure", "0 MB free", "du -xh")


@pytest.mark.parametrize(
    ("shown", "status", "words"),
    [
        ({"StatusText": "mic running", "WatchdogUSec": "10s"}, "ok", ["watchdog 10s", "mic running"]),
        ({"StatusText": "mic lost"}, "warning", ["says: mic lost", "journalctl --user -u serstream"]),
        ({"NRestarts": "3"}, "warning", ["started again 3 times", "ERROR it is gone"]),
        ({"ActiveState": "inactive", "SubState": "dead"}, "warning", ["systemctl --user start serstream"]),
        ({"LoadState": "not-found"}, "warning", ["systemctl --user daemon-reload"]),
        (
            {"ActiveState": "failed", "SubState": "failed", "Result": "watchdog", "ExecMainStatus": "6"},
            "failure",
            ["watchdog", "6", "ERROR it is gone"],
        ),
        (
            {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code", "ExecMainStatus": "1"},
            "failure",
            ["auto-restart", "exit-code"],
        ),
    ],
)
def test_each_state_of_the_service_is_said_with_its_last_error(shown, status, words):
    only([unit_finding(RUNNING | shown, "ERROR it is gone", user=True)], status, *words)


def test_systemd_is_asked_how_the_service_is_and_what_it_said_last(monkeypatch, tmp_path):
    tools, unit = tmp_path / "bin", tmp_path / "systemd" / "user" / "serstream.service"
    tools.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tools))
    assert check("service")[-1].status == "skipped"
    unit.parent.mkdir(parents=True)
    unit.touch()
    only(check("service")[-1:], "skipped", f"{unit} is there, but no systemctl to ask")

    def tool(name: str, script: str) -> None:
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)

    tool("systemctl", "echo 'Failed to connect to bus' >&2; exit 1")
    only(check("service")[-1:], "warning", "systemd does not answer: Failed to connect to bus")
    tool("systemctl", "exit 3")
    only(check("service")[-1:], "warning", "systemd does not answer: status 3")
    tool("systemctl", 'printf "LoadState=loaded\\nActiveState=failed\\nResult=exit-code\\n"')
    tool("journalctl", "echo 'serstream: the disk is full'; echo 'systemd: ended'")
    only(check("service")[-1:], "failure", "exit-code", "its last error: serstream: the disk is full")
