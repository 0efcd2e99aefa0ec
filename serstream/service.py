"""serstream as a systemd service: its unit rendered, installed and removed, in steps that can be repeated.

A desktop session's service runs the installation as it is. A system's service runs as a user of its own, from
a copy in ``/opt/serstream``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serstream.errors import ServiceError
from serstream.installation import copy_installation, refuse_foreign
from serstream.resources import packaged

UNIT = "serstream.service"
PREFIX = Path("/opt/serstream")
CONFIG = Path("/etc/serstream/config.yaml")

_SYSTEM_ONLY = re.compile(r"^# --- Only the system manager.*?(?=^\[Install\])", re.DOTALL | re.MULTILINE)


def render(*, executable: Path, user: bool) -> str:
    """Return the text of the unit that starts ``executable``.

    Parameters
    ----------
    executable : Path
        Absolute path of the ``serstream`` command.
    user : bool
        True for the service manager of a desktop session: what only the system's can apply is left out.

    Raises
    ------
    ServiceError
        If the path is relative or holds a control character.
    """
    if not executable.is_absolute() or not str(executable).isprintable():
        raise ServiceError(f"the command {str(executable)!r} cannot stand in a unit; give an absolute, printable path")
    text = packaged(UNIT).read_text(encoding="utf-8")
    text = text.replace(f"ExecStart={PREFIX}/bin/serstream", f"ExecStart={_quoted(executable)}")
    if not user:
        return text
    return _SYSTEM_ONLY.sub("", text).replace("WantedBy=multi-user.target", "WantedBy=default.target")


def desktop_session() -> bool:
    """Return whether this is a graphical session with a service manager; there ``--user`` is the default."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    graphical = os.environ.get("XDG_SESSION_TYPE") in {"x11", "wayland"}
    return graphical and bool(runtime) and Path(runtime, "systemd").is_dir()


def install(*, user: bool, root: Path = Path("/")) -> list[str]:
    """Install the service, start it now and at every boot (or login); again, to bring it up to date.

    Parameters
    ----------
    user : bool
        True for the running user's own service manager, False for the system's.
    root : Path
        Top of another system's file tree (an image): files are written there and nothing is started.

    Returns
    -------
    list of str
        What was done, a sentence a step.

    Raises
    ------
    ServiceError
        If a step fails; the sentence names it. The steps before it stay, the ones after it were not tried,
        and an earlier ``/opt/serstream`` stays whole until its successor has been checked.
    """
    _require(user=user, root=root)
    unit = unit_path(user=user, root=root)
    text = render(executable=_own_command() if user else PREFIX / "bin" / "serstream", user=user)
    done = [] if user else [_copy(_below(root, PREFIX)), _write_config(_below(root, CONFIG))]
    with _step(f"writing {unit}"):
        _write(unit, text)
    done.append(f"wrote {unit}")
    if not user or root == Path("/"):
        done += _enable(user=user, root=root)
    return done


def uninstall(*, user: bool, root: Path = Path("/")) -> list[str]:
    """Stop and remove the service; the configuration stays, and what the daemon cached.

    Parameters, result and errors are those of :func:`install`; what is not there is no error.
    """
    _require(user=user, root=root)
    unit = unit_path(user=user, root=root)
    done = []
    if unit.exists():
        now = ["--now"] if root == Path("/") else []
        if not user or now:
            done.append(_systemctl("disable", *now, UNIT, user=user, root=root))
        with _step(f"removing {unit}"):
            unit.unlink()
        done.append(f"removed {unit}")
    if root == Path("/"):
        done.append(_systemctl("daemon-reload", user=user, root=root))
    prefix = _below(root, PREFIX)
    if not user and prefix.exists():
        refuse_foreign(prefix)
        with _step(f"removing {prefix}"):
            shutil.rmtree(prefix)
        done.append(f"removed {prefix}")
    return done


def _enable(*, user: bool, root: Path) -> list[str]:
    """Enable and start; ``restart`` so that a running service takes up what was installed."""
    if root != Path("/"):
        return [_systemctl("enable", UNIT, user=user, root=root)]
    steps = (["daemon-reload"], ["enable", UNIT], ["restart", UNIT])
    return [_systemctl(*step, user=user, root=root) for step in steps]


def _require(*, user: bool, root: Path) -> None:
    """Refuse before anything is changed."""
    if not user and root == Path("/") and os.geteuid() != 0:
        raise ServiceError(
            f"the system's service needs the rights of root, and this is user {os.geteuid()}; "
            f"put sudo {_find_command() or 'serstream'} before the same arguments, or choose --user"
        )
    if shutil.which("systemctl") is None:
        raise ServiceError("systemctl is missing: this machine has no systemd; start serstream run from its own init")
    if root == Path("/") and not Path("/run/systemd/system").is_dir():
        raise ServiceError("systemd does not run this machine (a container?); start serstream run by other means")


def unit_path(*, user: bool, root: Path = Path("/")) -> Path:
    """Return where the unit is, or would be; parameters as those of :func:`install`."""
    if not user:
        return _below(root, Path("/etc/systemd/system") / UNIT)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return _below(root, home.absolute() / "systemd" / "user" / UNIT)


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _own_command() -> Path:
    """Return the ``serstream`` command of the running installation."""
    found = _find_command()
    if found is None:
        raise ServiceError(f"no serstream command is beside {sys.executable}; install serstream with pip first")
    return found


def _find_command() -> Path | None:
    beside = Path(sys.executable).with_name("serstream")
    found = str(beside) if beside.exists() else shutil.which("serstream")
    return Path(found).absolute() if found else None


def _quoted(path: Path) -> str:
    """Write a path as systemd reads a command: percent signs doubled, quoted where that is needed."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return text if re.fullmatch(r"[\w/.,:@%+=-]+", text, re.ASCII) else f'"{text}"'


def _systemctl(*arguments: str, user: bool, root: Path) -> str:
    command = ["systemctl", *(["--user"] if user else []), *([f"--root={root}"] if root != Path("/") else [])]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    said = " ".join([*command, *arguments])
    if result.returncode != 0:
        reason = " ".join(result.stderr.split()) or f"exit status {result.returncode}"
        journal = f"journalctl {'--user ' if user else ''}-u {UNIT}"
        raise ServiceError(f"{said} failed: {reason}; see {journal}, then run the command again")
    return said


@contextmanager
def _step(name: str) -> Iterator[None]:
    """Say which step failed where the system only says why."""
    try:
        yield
    except (OSError, shutil.Error) as error:
        if isinstance(error, ServiceError):
            raise
        raise ServiceError(f"{name} failed: {error}; put that right and run the command again") from error


def _write(path: Path, text: str) -> None:
    """Replace a file in one move, readable by all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(0o644)
    new.replace(path)


def _write_config(path: Path) -> str:
    if path.exists():
        return f"kept {path}"
    with _step(f"writing {path}"):
        _write(path, packaged("config.yaml").read_text(encoding="utf-8"))
    return f"wrote {path}"


def _copy(prefix: Path) -> str:
    with _step(f"making {prefix}"):
        return copy_installation(prefix, command_prefix=PREFIX)
