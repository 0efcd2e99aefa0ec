"""The built wheel runs from any folder, with its dependencies alone."""

import importlib.util
import json
import os
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parent.parent
CARRIED = {
    "serstream/cli.py",
    "serstream/py.typed",
    "serstream/data/config.yaml",
    "serstream/data/demo.flac",
    "serstream/data/serstream.service",
    "serstream/data/models/serstream/manifest.json",
    "serstream/data/models/serstream/model.tflite",
    "serstream/data/models/LICENSE",
    "serstream/data/models/open/manifest.json",
    "serstream/data/models/open/model.tflite",
    "serstream/data/models/open/LICENSE",
}


def outside(home: Path) -> dict[str, str]:
    """Return an environment in which nothing points to this checkout or to this user's files."""
    env = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV", "XDG_CONFIG_HOME"}}
    return env | {"HOME": str(home), "NUMBA_CACHE_DIR": str(home / "numba")}


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None, timeout: float = 60.0) -> str:
    """Run a command in a folder, outside of the checkout unless an environment is given; return what it printed."""
    words, env = [str(part) for part in command], env or outside(cwd)
    result = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # a backend that is here needs no network
    isolation = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", folder, ROOT]
    run(*command, cwd=folder, env=dict(os.environ), timeout=150.0)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the wheel, which sees the dependencies that are installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin"


def test_the_wheel_carries_what_the_daemon_needs_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert CARRIED - names == set()
    outside = {name for name in names if not name.startswith("serstream/") and ".dist-info/" not in name}
    assert outside == set()
    assert not [n for n in names if n.endswith((".pyc", ".keras", ".npy", ".npz")) or "/tests/" in n or "/runs/" in n]
    assert {n.rsplit("/", 1)[-1] for n in names if ".dist-info/licenses/" in n} >= {"LICENSE"}


def test_the_shipped_configuration_model_and_unit_are_those_of_the_checkout(wheel: Path) -> None:
    carried = {
        "serstream/data/config.yaml": "config.yaml",
        "serstream/data/serstream.service": "systemd/serstream.service",
        "serstream/data/models/serstream/model.tflite": "models/serstream/model.tflite",
        "serstream/data/models/serstream/manifest.json": "models/serstream/manifest.json",
    }
    with zipfile.ZipFile(wheel) as archive:
        for packed, original in carried.items():
            assert archive.read(packed) == (ROOT / original).read_bytes(), original


def test_the_wheel_names_every_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    assert "License-Expression: Apache-2.0 AND CC-BY-NC-SA-4.0 AND ODbL-1.0" in text
    assert "License-File: LICENSE" in text
    assert "License-File: models/LICENSE" in text
    assert "License-File: models/open/LICENSE" in text


def test_the_installed_package_is_that_of_the_wheel(bin_folder: Path, tmp_path: Path) -> None:
    where = run(bin_folder / "python", "-c", "import serstream; print(serstream.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(bin_folder.parent)


def demo(bin_folder: Path) -> Path:
    (path,) = bin_folder.parent.rglob("demo.flac")
    return path


def test_the_installed_command_analyses_a_recording_from_any_folder(bin_folder: Path, tmp_path: Path) -> None:
    printed = run(bin_folder / "serstream", "analyze", "--format", "json", demo(bin_folder), cwd=tmp_path)
    analysis = json.loads(printed)
    assert analysis["label"] in analysis["posterior"]
    assert len(analysis["utterances"]) >= 3


def test_the_installed_daemon_plays_a_recording_to_its_end_from_any_folder(bin_folder: Path, tmp_path: Path) -> None:
    samples, rate = soundfile.read(demo(bin_folder), frames=16_000)
    soundfile.write(tmp_path / "second.wav", samples, rate)
    (tmp_path / "config.yaml").write_text(
        f"transport: {{events: 'ipc://{tmp_path}/events', control: 'ipc://{tmp_path}/control'}}"
    )
    run(bin_folder / "serstream", "run", "--config", "config.yaml", "--source", "second.wav", cwd=tmp_path)
