"""What the README says is true: its code runs, its commands exist, its files are there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from serstream.cli import parser
from serstream.events import EVENT_TYPES, Event

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_link_leads_somewhere() -> None:
    for document in (
        ROOT / "README.md",
        *ROOT.glob("docs/*.md"),
        ROOT / "CONTRIBUTING.md",
        ROOT / "models/README.md",
    ):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_two_commands_are_scripts_of_the_project() -> None:
    commands = re.findall(r"^    sh (\S+)$", README, re.MULTILINE)
    assert commands == ["scripts/run", "scripts/test"]
    assert all((ROOT / command).is_file() for command in commands)


def test_every_command_that_it_names_exists() -> None:
    lines = re.findall(r"^    serstream (.+?)  ", README, re.MULTILINE)
    names = {words.split()[0] for line in lines for words in line.split(" | ")}
    actions = next(a for a in parser()._subparsers._group_actions)  # type: ignore[union-attr]
    assert names == set(actions.choices or ())


def test_every_field_of_every_event_is_named() -> None:
    table = README[README.index("| event |") : README.index("## Commands")]
    for kind in EVENT_TYPES:
        assert f"| `{kind.__struct_config__.tag}` |" in table
        for field in set(kind.__struct_fields__) | {"type"}:
            assert f"`{field}`" in table, f"{kind.__name__}.{field}"
    assert set(Event.__struct_fields__)


@pytest.mark.parametrize("source", ["README.md", "examples/print_emotions.py"])
def test_its_python_hears_a_running_daemon(source: str, tmp_path: Path) -> None:
    """Run the code to the letter, on the default endpoints, beside a daemon that plays the demo."""
    text = (ROOT / source).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL) if source.endswith(".md") else [text]
    assert len(blocks) == 1
    script = tmp_path / "subscribe.py"
    script.write_text(blocks[0])
    sure = "sources: {demo: {kind: demo}}\ndecision: {enter_threshold: 0.21, exit_threshold: 0.05}\n"
    (tmp_path / "config.yaml").write_text(sure)
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    run = shlex.split(f"{sys.executable} -m serstream run --config {tmp_path / 'config.yaml'}")
    with (
        subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=env) as subscriber,
        subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon,
    ):
        try:
            assert subscriber.stdout is not None
            line = subscriber.stdout.readline()
            assert re.search(r"\bdemo\b.*\b(calm|happy|sad|angry|fearful)\b", line), line
        finally:
            subscriber.kill()
            daemon.terminate()
