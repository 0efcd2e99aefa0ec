"""A real systemd in namespaces of its own, with its own /etc, /opt, /run, /tmp, /var and loopback.

What happens in the box stays there: the folders are overlays whose changes live in memory. It needs root,
util-linux, systemd 252 or newer, and a machine that no systemd runs (the two would share control groups).
"""

import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
SYSTEMD = Path("/lib/systemd/systemd")
BOOT_S = 30.0

_SPACES = ("--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child", "--mount-proc")
_TARGETS = ("default", "sysinit", "basic", "multi-user", "network", "sound", "shutdown")
_TO_LOG = "[Service]\nStandardOutput=append:/run/units/service.log\nStandardError=inherit\n"
_LOOPBACK_UP = (
    "import fcntl, socket, struct; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
    "fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'lo', 0x41))"
)


def missing(reason):
    """Skip the test; where everything must be there, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)


def tool(name):
    """Return the path of a command."""
    return shutil.which(name) or missing(f"needs {name}")


def require_box():
    """Skip (in CI: fail) where no box can be booted."""
    if os.geteuid() != 0:
        missing("a box needs root")
    for name in ("unshare", "nsenter", "mount", "systemctl"):
        tool(name)
    if not SYSTEMD.exists():
        missing(f"a box needs {SYSTEMD}")
    version = subprocess.run([SYSTEMD, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.split()[1]) < 252:
        missing(f"a box needs systemd 252, here is {version.split()[1]}")
    if not any(Path("/sys/fs/cgroup").glob("*/cgroup.procs")) and not Path("/sys/fs/cgroup/cgroup.procs").exists():
        missing("a box needs control groups in /sys/fs/cgroup")
    probe = subprocess.run(["unshare", *_SPACES, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        missing(f"a box needs namespaces: {probe.stderr.strip()}")
    if Path("/run/systemd/system").exists():
        missing("a box cannot share the machine with a systemd that runs it")


def install_wheel(folder):
    """Build the project's wheel and unpack it into ``folder``; its needs come from the running Python."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, str(REPOSITORY)], check=True, timeout=300)
    return folder


def installed_in(root, wheel, umask=0o022):
    """Let the wheel's own ``install`` write the system's service into the image ``root``."""
    code = (
        "import sys, pathlib; from serstream import service;"
        "print(*service.install(user=False, root=pathlib.Path(sys.argv[1])), sep='\\n')"
    )
    command = ["sh", "-c", f'umask {umask:o} && exec "$@"', "sh", sys.executable, "-c", code, str(root)]
    environ = {**os.environ, "PYTHONPATH": str(wheel)}
    result = subprocess.run(command, env=environ, cwd=root, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


class SystemdBox:
    """The manager of one image's ``serstream.service``, from ``with`` to its end.

    Parameters
    ----------
    folder : Path
        An empty folder for the box's own files and its log.
    image : Path
        Where ``install`` wrote ``/opt/serstream``, ``/etc/serstream`` and the unit.
    drop_in : str
        More settings of the unit.
    binds : dict of str to Path
        Folders of the machine that the box shows at the given places below ``/run``.
    """

    def __init__(self, folder, image, *, drop_in="", binds=None):
        self._init, self._init_log = folder / "init", folder / "init.log"
        units = folder / "units"
        self.log = units / "service.log"
        (units / "serstream.service.d").mkdir(parents=True)
        (units / "serstream.service.d" / "box.conf").write_text(_TO_LOG + drop_in)
        shutil.copy(image / "etc/systemd/system/serstream.service", units)
        for name in _TARGETS:
            (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\nAllowIsolate=yes\n")
        with (units / "default.target").open("a") as default:  # or systemd forgets how the service ended
            default.write("After=serstream.service\n")
        self._init.write_text(_init_script(folder, image, {**(binds or {}), "/run/units": units}))

    def __enter__(self):
        with self._init_log.open("wb") as log:
            self._unshare = subprocess.Popen(
                ["unshare", *_SPACES, "sh", "-e", str(self._init)],
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True},
            )
        self._pid1 = None
        try:
            self._pid1 = self.until(self._child, BOOT_S, "no first process")
            self.until(lambda: self.run("systemctl", "is-system-running").stdout == "running\n", BOOT_S, "no boot")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._unshare.kill()  # and with it, by --kill-child, everything inside
        self._unshare.wait()
        if self._pid1 is not None:
            _await_end(self._pid1)
        groups = Path("/sys/fs/cgroup")
        for hierarchy in (groups, *groups.iterdir()):
            for name in ("system.slice", "init.scope"):
                _remove_groups(hierarchy / name)

    def run(self, *command, timeout=60):
        """Run a command inside, as root."""
        enter = ["nsenter", f"--target={self._pid1}", "--mount", "--pid", "--net"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=False, timeout=timeout)

    def systemctl(self, *arguments, timeout=60):
        """Run systemctl inside; a failure shows the box's log."""
        result = self.run("systemctl", *arguments, timeout=timeout)
        assert result.returncode == 0, f"{arguments}: {result.stderr}\n{self.tail()}"
        return result.stdout

    def show(self, *names):
        """Return properties of the service."""
        shown = self.systemctl("show", "serstream.service", *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in shown.splitlines())

    def kill(self, pid, signal_number):
        """Send a signal to a process of the box, by its id inside."""
        assert self.run("sh", "-c", f"kill -{int(signal_number)} {int(pid)}").returncode == 0

    def tail(self, n=40):
        """Return the end of what the box's start and the service said."""
        logs = [path.read_text(errors="replace") for path in (self._init_log, self.log) if path.exists()]
        return "\n".join("".join(logs).splitlines()[-n:])

    def _child(self):
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def until(self, condition, limit_s, what):
        """Wait for ``condition()`` and return its true value; after the limit, fail with the log."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if self._unshare.poll() is not None:
                pytest.fail(f"the box ended: {self.tail()}")
            if value := condition():
                return value
            time.sleep(0.05)
        return pytest.fail(f"{what} within {limit_s} s\n{self.tail()}")


def _init_script(folder, image, binds):
    layers = folder / "layers"
    layers.mkdir()
    lines = ["mount --make-rprivate /", f"mount -t tmpfs tmpfs {layers}"]
    for name in ("etc", "opt", "var"):
        up, work = layers / name, layers / f"{name}.work"
        lines += [
            f"mkdir {up} {work}",
            f"mount -t overlay overlay -o lowerdir=/{name},upperdir={up},workdir={work} /{name}",
        ]
    lines += ["mkdir -p /opt/serstream /etc/serstream", f"mount --bind {image}/opt/serstream /opt/serstream"]
    lines += [f"cp -r {image}/etc/serstream/. /etc/serstream", "mount -t tmpfs -o mode=755 tmpfs /run"]
    lines += ["mount --make-shared /run"]  # as on any machine: credentials are mounted by a child of systemd
    for place, source in binds.items():
        lines += [f"mkdir {place}", f"mount --bind {source} {place}"]
    lines += [f'{sys.executable} -c "{_LOOPBACK_UP}"', "mkdir -p /run/systemd/system"]
    lines += ["mount -t tmpfs tmpfs /tmp", "export container=other SYSTEMD_UNIT_PATH=/run/units"]
    lines += [f"exec {SYSTEMD} --system --unit=default.target --log-target=null --show-status=0"]
    return "\n".join(lines) + "\n"


def _await_end(pid):
    """Wait until a process that is no child of ours has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([handle], [], [], 10)
    finally:
        os.close(handle)


def _remove_groups(top):
    """Remove the control groups that the box's manager made; a group still in use is left."""
    for folder in sorted((top, *top.rglob("*")), reverse=True):
        with suppress(OSError):
            folder.rmdir()
