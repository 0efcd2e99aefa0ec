"""The installed service under a real systemd: its own user, its sandbox, its watchdog, its microphone."""

import json
import signal
import time
from pathlib import Path

import pytest
from serstream_process import PROMPT_S
from systemd_box import SystemdBox, install_wheel, installed_in, require_box, tool

from serstream.bench.virtual_mic import VirtualMic

WATCHDOG_S = 3.0
SOUND = "/run/sound"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    require_box()
    folder = tmp_path_factory.mktemp("image")
    installed_in(folder, install_wheel(tmp_path_factory.mktemp("wheel")))
    return folder


@pytest.fixture(scope="module")
def microphone():
    for name in VirtualMic.missing():
        tool(name)
    microphone = VirtualMic()
    yield microphone
    microphone.stop()


@pytest.fixture(scope="module")
def box(tmp_path_factory, image, microphone):
    sound = Path(microphone.env["PULSE_SERVER"].removeprefix("unix:")).parent
    sound.chmod(0o755)
    environ = {name: value.replace(str(sound), SOUND) for name, value in microphone.env.items()}
    for name in ("PULSE_RUNTIME_PATH", "PULSE_STATE_PATH", "PULSE_COOKIE"):
        environ[name] = f"/run/serstream/{name.lower()}"
    settings = [
        f"WatchdogSec={WATCHDOG_S}",
        *(f"Environment={name}={value}" for name, value in environ.items()),
    ]
    folder = tmp_path_factory.mktemp("box")
    with SystemdBox(folder, image, drop_in="\n".join(settings), binds={SOUND: sound}) as box:
        yield box


@pytest.fixture
def service(box):
    """Start the service; systemctl returns when READY=1 has come."""
    box.systemctl("start", "serstream.service")
    yield box
    box.systemctl("stop", "serstream.service")
    box.systemctl("reset-failed")


def main_pid(box):
    return int(box.show("MainPID")["MainPID"])


def fed_at_s(box):
    return int(box.show("WatchdogTimestampMonotonic")["WatchdogTimestampMonotonic"]) / 1e6


def replaced(box, pid):
    """Return whether another main process has become ready."""
    shown = box.show("MainPID", "ActiveState", "SubState")
    return int(shown["MainPID"]) not in (0, pid) and (shown["ActiveState"], shown["SubState"]) == (
        "active",
        "running",
    )


def test_the_service_becomes_ready_as_a_user_of_its_own(service):
    shown = service.show("ActiveState", "SubState", "MainPID")
    assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
    status = service.run("cat", f"/proc/{shown['MainPID']}/status").stdout
    (uid,) = (line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
    assert int(uid) != 0


def test_the_service_hears_the_microphone_and_says_so_at_the_control_endpoint(service):
    def heard():
        answer = service.run("/opt/serstream/bin/serstream", "status", "--json")
        return answer.returncode == 0 and '"running"' in answer.stdout and json.loads(answer.stdout)

    assert service.until(heard, 20, "the source runs")


def test_progress_feeds_the_watchdog_for_longer_than_its_interval(service):
    pid, began_s = main_pid(service), fed_at_s(service)
    assert began_s > 0
    service.until(lambda: fed_at_s(service) > began_s + 2 * WATCHDOG_S, 4 * WATCHDOG_S, "the watchdog was fed")
    assert main_pid(service) == pid


def test_a_killed_daemon_is_ready_again(service):
    pid = main_pid(service)
    service.kill(pid, signal.SIGKILL)
    service.until(lambda: replaced(service, pid), 30, "another daemon is ready")


def test_a_frozen_daemon_is_replaced_by_the_watchdog(service):
    pid = main_pid(service)
    service.kill(pid, signal.SIGSTOP)
    service.until(lambda: replaced(service, pid), WATCHDOG_S + 40, "another daemon is ready")


def test_a_reload_keeps_the_daemon(service):
    pid = main_pid(service)
    service.systemctl("reload", "serstream.service")
    began_s = fed_at_s(service)
    service.until(lambda: fed_at_s(service) > began_s, 2 * WATCHDOG_S, "the watchdog was fed after the reload")
    assert main_pid(service) == pid


def test_a_stop_takes_at_most_two_seconds_and_is_clean(service):
    began_s = time.monotonic()
    service.systemctl("stop", "serstream.service")
    assert time.monotonic() - began_s < PROMPT_S
    shown = service.show("ActiveState", "Result", "ExecMainCode", "ExecMainStatus")
    assert shown == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainCode": "1",
        "ExecMainStatus": "0",
    }


def test_a_wrong_configuration_is_said_once_and_not_tried_again(box):
    box.run(
        "sh",
        "-c",
        "cp /etc/serstream/config.yaml /run/kept.yaml; echo 'volume: 11' > /etc/serstream/config.yaml",
    )
    started = box.run("systemctl", "start", "serstream.service")
    shown = box.show("ActiveState", "ExecMainStatus", "NRestarts")
    box.run("sh", "-c", "cp /run/kept.yaml /etc/serstream/config.yaml; systemctl reset-failed")
    assert started.returncode != 0
    assert shown == {"ActiveState": "failed", "ExecMainStatus": "2", "NRestarts": "0"}
    assert "volume is unknown" in box.tail()
