import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from systemd_box import install_wheel, installed_in, tool

from serstream import service
from serstream.errors import ServiceError
from serstream.resources import packaged

EVERYWHERE = Path("/opt/serstream/bin/serstream")
NEEDS_THE_SYSTEM_MANAGER = {
    *("User", "Group", "DynamicUser", "SupplementaryGroups", "CapabilityBoundingSet", "AmbientCapabilities"),
    *("DevicePolicy", "DeviceAllow", "IPAddressDeny", "IPAddressAllow", "ProtectSystem", "ProtectHome"),
    *("ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules"),
    *("ProtectKernelTunables", "ProtectProc", "PrivateTmp", "PrivateUsers", "PrivateDevices"),
}


def settings(unit):
    return re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE)


def verify(unit, folder, *options):
    (folder / "serstream.service").write_text(unit)
    command = [tool("systemd-analyze"), *options, "verify", "--man=no", str(folder / "serstream.service")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return result.stdout + result.stderr, result.returncode


def test_the_file_in_the_repository_is_the_unit_of_opt_serstream():
    text = packaged("serstream.service").read_text()
    assert service.render(executable=EVERYWHERE, user=False) == text


def test_the_daemon_is_watched_and_started_again_for_ever():
    unit = dict(settings(service.render(executable=EVERYWHERE, user=False)))
    expected = {
        **{"Type": "notify", "NotifyAccess": "main", "WatchdogSec": "10", "Restart": "on-failure"},
        **{"RestartSec": "1", "StartLimitIntervalSec": "0", "SupplementaryGroups": "audio"},
    }
    assert {name: unit[name] for name in expected} == expected


def test_the_unit_avoids_what_slows_or_kills_the_classifier():
    unit = dict(settings(service.render(executable=EVERYWHERE, user=False)))
    assert not unit.keys() & {"ProcSubset", "MemoryDenyWriteExecute", "PrivateDevices", "PrivateNetwork"}
    assert unit["SystemCallErrorNumber"] == "EPERM"
    assert unit["Environment"] == "NUMBA_CACHE_DIR=%C/" + unit["CacheDirectory"]


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("/srv/a/bin/serstream", "/srv/a/bin/serstream"),
        ("/srv/a robot/bin/serstream", '"/srv/a robot/bin/serstream"'),
        ("/srv/50%/bin/serstream", "/srv/50%%/bin/serstream"),
        ('/srv/a "robot"/serstream', '"/srv/a \\"robot\\"/serstream"'),
    ],
)
def test_any_path_is_written_as_systemd_reads_it(path, written):
    unit = service.render(executable=Path(path), user=False)
    assert dict(settings(unit))["ExecStart"] == f"{written} run"


@pytest.mark.parametrize("path", ["bin/serstream", "/srv/a\nUser=root/serstream"])
def test_a_path_that_would_break_the_unit_is_refused(path):
    with pytest.raises(ServiceError, match="cannot stand in a unit; give an absolute, printable path"):
        service.render(executable=Path(path), user=False)


def test_a_user_unit_keeps_all_but_what_needs_the_system_manager():
    system = settings(service.render(executable=EVERYWHERE, user=False))
    user = settings(service.render(executable=EVERYWHERE, user=True))
    kept = [item for item in system if item[0] not in NEEDS_THE_SYSTEM_MANAGER | {"WantedBy"}]
    assert user == [*kept, ("WantedBy", "default.target")]


@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_systemd_finds_nothing_to_complain_about(tmp_path, user, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    unit = service.render(executable=Path(sys.executable), user=user)
    assert verify(unit, tmp_path, *(["--user"] if user else [])) == ("", 0)


def test_the_exposure_is_at_most_two(tmp_path):
    unit = service.render(executable=Path(sys.executable), user=False)
    (tmp_path / "serstream.service").write_text(unit)
    command = [tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", "--no-pager"]
    result = subprocess.run(
        [*command, str(tmp_path / "serstream.service")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout[-200:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return install_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def image(tmp_path_factory, wheel):
    tool("systemctl")
    root = tmp_path_factory.mktemp("image")
    installed_in(root, wheel, umask=0o077)
    return root


@pytest.mark.timeout(600)
def test_an_installation_runs_by_itself_with_all_that_a_wheel_carries(image):
    code = (
        "import serstream, sys; from serstream.resources import packaged; from serstream.config import load;"
        "[packaged(n) for n in ('config.yaml', 'serstream.service', 'models')];"
        "print(serstream.__file__)"
    )
    python = image / "opt/serstream/bin/python"
    result = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert Path(result.stdout.strip()).is_relative_to(image)
    assert (image / "opt/serstream/bin/serstream").read_text().startswith("#!/opt/serstream/bin/python\n")
    assert list((image / "opt").rglob("*.nbi")) == []


@pytest.mark.timeout(600)
def test_every_user_can_read_an_installation_whatever_the_umask(image):
    paths = [path for path in (image / "opt/serstream").rglob("*") if not path.is_symlink()]
    closed = [p for p in paths if p.stat().st_mode & (0o005 if p.is_dir() else 0o004) == 0]
    assert paths
    assert closed == []
    assert stat.S_IMODE((image / "opt/serstream/bin/serstream").stat().st_mode) & 0o005 == 0o005


@pytest.mark.timeout(600)
def test_an_image_gets_unit_configuration_and_start_at_boot(image):
    unit = image / "etc/systemd/system/serstream.service"
    assert unit.read_text() == packaged("serstream.service").read_text()
    assert (image / "etc/serstream/config.yaml").read_text() == packaged("config.yaml").read_text()
    link = image / "etc/systemd/system/multi-user.target.wants/serstream.service"
    assert link.readlink() == Path("/etc/systemd/system/serstream.service")


@pytest.mark.timeout(600)
def test_installing_again_keeps_the_configuration_and_uninstalling_leaves_nothing_else(tmp_path, image, wheel):
    root = tmp_path / "image"
    shutil.copytree(image, root, symlinks=True)
    config = root / "etc/serstream/config.yaml"
    config.write_text("log_level: debug\n")
    (root / "opt/serstream/lib/left-over").touch()
    assert f"kept {config}" in installed_in(root, wheel)
    assert not (root / "opt/serstream/lib/left-over").exists()
    assert [p.name for p in (root / "opt").iterdir()] == ["serstream"]
    service.uninstall(user=False, root=root)
    assert service.uninstall(user=False, root=root) == []
    assert [p for p in root.rglob("*") if not p.is_dir()] == [config]
    assert config.read_text() == "log_level: debug\n"


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path):
    (tmp_path / "opt/serstream").mkdir(parents=True)
    (tmp_path / "opt/serstream/data").touch()
    for action in (service.install, service.uninstall):
        with pytest.raises(ServiceError, match="is no installation of serstream; move it away"):
            action(user=False, root=tmp_path)
    assert [p.name for p in (tmp_path / "opt/serstream").iterdir()] == ["data"]


def test_a_user_service_is_written_below_the_configuration_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/maria/.config")
    command(tmp_path, "serstream", "exit 0")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    service.install(user=True, root=tmp_path)
    unit = tmp_path / "home/maria/.config/systemd/user/serstream.service"
    assert unit.read_text() == service.render(executable=tmp_path / "bin/serstream", user=True)
    assert not (tmp_path / "opt").exists()
    service.uninstall(user=True, root=tmp_path)
    assert not unit.exists()


def test_a_step_that_fails_is_named_with_its_reason_and_what_follows_is_not_tried(tmp_path, monkeypatch):
    command(tmp_path, "systemctl", "echo 'the bus is on strike' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    unit = tmp_path / "etc/systemd/system/serstream.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    with pytest.raises(ServiceError, match=r"disable serstream.service failed: the bus is on strike; see journalctl"):
        service.uninstall(user=False, root=tmp_path)
    assert unit.exists()


def test_without_systemctl_a_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceError, match="systemctl is missing: this machine has no systemd; start serstream run"):
        service.install(user=False, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_system_service_needs_root_and_says_how():
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ServiceError, match=r"needs the rights of root.*; put sudo .*serstream before"):
            service.install(user=False)
    finally:
        os.seteuid(was)


@pytest.mark.parametrize(
    ("session", "folder", "expected"),
    [
        ("wayland", "systemd", True),
        ("x11", "systemd", True),
        ("tty", "systemd", False),
        ("x11", "other", False),
    ],
)
def test_a_desktop_session_is_graphical_and_has_a_manager_of_its_own(tmp_path, monkeypatch, session, folder, expected):
    (tmp_path / folder).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_SESSION_TYPE", session)
    assert service.desktop_session() is expected


def command(folder, name, script):
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / name).chmod(0o755)
