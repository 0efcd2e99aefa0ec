"""Copy the running installation of serstream into a folder that any user can read.

A service user cannot read a home, where serstream is usually installed. The copy is made offline, from the
distributions that are running now, as a virtual environment of the same Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import serstream
from serstream.errors import ServiceError
from serstream.resources import packaged

_CHECK = "import serstream.daemon"
_SCRIPT = "import sys\nfrom serstream.cli import main\nsys.exit(main())\n"
_SHIPPED = ("config.yaml", "serstream.service")


def copy_installation(prefix: Path, *, command_prefix: Path) -> str:
    """Make ``prefix`` a virtual environment with the running version of serstream and what it needs.

    An earlier installation there is replaced when the new one is complete and its Python imports the daemon.

    Parameters
    ----------
    prefix : Path
        Where to write.
    command_prefix : Path
        Where the folder will be found when ``bin/serstream`` is called; other than ``prefix`` in an image.

    Returns
    -------
    str
        What was copied, one sentence.

    Raises
    ------
    ServiceError
        If no Python can be shared, a package cannot be copied, or ``prefix`` holds something else.
    OSError
        If the file system refuses.
    """
    refuse_foreign(prefix)
    python, found = _interpreter(), _distributions("serstream")
    new, old = (prefix.with_name(prefix.name + suffix) for suffix in (".new", ".old"))
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    _run([str(python), "-m", "venv", "--without-pip", str(new)])
    _fill(new, found, command_prefix / "bin" / "python")
    _run([str(new / "bin" / "python"), "-I", "-c", _CHECK])
    _open_to_all(new)
    if prefix.exists():
        prefix.rename(old)
    new.rename(prefix)
    shutil.rmtree(old, ignore_errors=True)
    return f"copied serstream {serstream.__version__} and {len(found) - 1} packages to {prefix}, run by {python}"


def refuse_foreign(prefix: Path) -> None:
    """Raise :class:`ServiceError` if ``prefix`` holds anything but an installation of serstream."""
    if prefix.exists() and not ((prefix / "pyvenv.cfg").exists() and (prefix / "bin" / "serstream").exists()):
        raise ServiceError(f"{prefix} exists and is no installation of serstream; move it away and try again")


def _fill(environment: Path, found: list[metadata.Distribution], python: Path) -> None:
    site = next(environment.glob("lib/python3*/site-packages"))
    for distribution in found:
        _copy_distribution(distribution, site)
    _copy_package(site / "serstream")
    command = environment / "bin" / "serstream"
    command.write_text(f"#!{python}\n{_SCRIPT}", encoding="utf-8")
    command.chmod(0o755)


def _run(command: list[str]) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environ["NUMBA_DISABLE_JIT"] = "1"  # or the check would leave kernels behind that nobody uses
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if result.returncode != 0:
        last = (result.stderr or result.stdout).strip().splitlines()[-1:] or [f"exit status {result.returncode}"]
        raise ServiceError(f"{' '.join(command[:4])} failed: {last[0]}; put that right and run the command again")


def _interpreter() -> Path:
    """Return a Python of the running version that every user can read: the running one, or the system's."""
    own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    system = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    for python in (own, system):
        if python.exists() and _readable_by_all(python):
            return python
    raise ServiceError(
        f"a service user cannot read this Python, {own}, and there is no {system}; "
        "install serstream with a Python outside of the home folders, for example the system's"
    )


def _readable_by_all(path: Path) -> bool:
    """Return whether any user may run ``path``, also where the unit's ProtectHome= hides the homes."""
    if any(path.is_relative_to(home) for home in ("/home", "/root", "/run/user")):
        return False
    return bool(path.stat().st_mode & 0o005 == 0o005) and all(p.stat().st_mode & 0o001 for p in path.parents)


def _distributions(name: str) -> list[metadata.Distribution]:
    """Return an installed distribution and all that it requires without its extras."""
    found: dict[str, metadata.Distribution] = {}
    pending = [name]
    while pending:
        key = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        try:
            distribution = metadata.distribution(key)
        except metadata.PackageNotFoundError:
            continue  # a requirement for another Python or processor
        if key not in found:
            found[key] = distribution
            needed = (r for r in distribution.requires or [] if not re.search(r"\bextra\s*==", r))
            pending += [re.split(r"[^\w.-]", r, maxsplit=1)[0] for r in needed]
    if name not in found:
        raise ServiceError(f"{name} runs from a folder and is not installed; install it with pip and try again")
    return list(found.values())


def _copy_distribution(distribution: metadata.Distribution, site: Path) -> None:
    """Copy the files inside the site folder; scripts and links to a checkout stay behind."""
    if distribution.files is None:
        raise ServiceError(
            f"{distribution.name} was not installed by pip and cannot be copied; "
            "install serstream in a virtual environment of its own"
        )
    for file in distribution.files:
        source = Path(str(distribution.locate_file(file)))
        if ".." not in file.parts and file.suffix != ".pth" and source.is_file():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, site / file)


def _copy_package(package: Path) -> None:
    """Copy serstream itself, from wherever it runs, with the files that a wheel carries."""
    compiled = shutil.ignore_patterns("*.nbi", "*.nbc")  # the service keeps kernels of its own
    shutil.copytree(Path(serstream.__file__).parent, package, dirs_exist_ok=True, ignore=compiled)
    for name in _SHIPPED:
        shutil.copy2(packaged(name), package / "data" / name)
    shutil.copytree(packaged("models"), package / "data" / "models", dirs_exist_ok=True)


def _open_to_all(tree: Path) -> None:
    """Let every user read what a strict umask may have closed."""
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
