"""Profiles as files: private, whole or not at all, found by name or path, refused in a sentence."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serstream import profiles
from serstream.errors import ConfigError, ProfileError
from serstream.features import FrontEnd
from serstream.profiles import Profile, check_writable, find, folders, own_path, write

ROOT = Path(__file__).parent.parent
FRONT_END = FrontEnd()


def profile(**fields: Any) -> Profile:
    made: dict[str, Any] = {
        "name": "anna",
        "created": "2026-11-22T12:00:00Z",
        "speech_s": 30.0,
        "front_end": FRONT_END,
        "mean": [i / 3 - 20.0 for i in range(40)],
    }
    return Profile(**made | fields)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data folder of this test's own, and a machine's folder that is not the machine's."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(profiles, "MACHINES", tmp_path / "etc")
    return tmp_path / "data" / "serstream" / "profiles"


@pytest.mark.parametrize("value", ["anna", "PATH", "anna.json"])
def test_what_was_written_is_found_by_its_name_and_by_its_path(
    value: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own_path("anna")
    write(path, profile())
    assert path == home / "anna.json"
    monkeypatch.chdir(home)
    assert find(str(path) if value == "PATH" else value, FRONT_END) == profile()


def test_a_path_may_begin_at_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine" / "anna.json", profile())
    assert find("~/mine/anna.json", FRONT_END) == profile()


def test_only_its_owner_may_look_at_a_profile_or_at_the_folder_that_is_made_for_it(home: Path) -> None:
    before = os.umask(0)
    try:
        write(own_path("anna"), profile())
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "anna.json").stat().st_mode) == 0o600


def test_a_profile_is_replaced_whole_and_nothing_else_is_left(home: Path) -> None:
    for seconds in (30.0, 12.0):
        write(own_path("anna"), profile(speech_s=seconds))
    assert find("anna", FRONT_END).speech_s == 12.0
    assert [p.name for p in home.iterdir()] == ["anna.json"]


def test_a_profile_that_cannot_be_written_leaves_the_earlier_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(own_path("anna"), profile())

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProfileError, match=r"anna\.json cannot be written: No space left on device; make room"):
        write(own_path("anna"), profile(speech_s=12.0))
    assert find("anna", FRONT_END) == profile()
    assert [p.name for p in home.iterdir()] == ["anna.json"]


def test_the_users_profile_comes_before_the_machines(tmp_path: Path) -> None:
    write(tmp_path / "etc" / "anna.json", profile(speech_s=12.0))
    assert find("anna", FRONT_END).speech_s == 12.0
    write(own_path("anna"), profile())
    assert find("anna", FRONT_END).speech_s == 30.0


def test_without_xdg_data_home_profiles_are_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folders() == [tmp_path / ".local" / "share" / "serstream" / "profiles", tmp_path / "etc"]


def test_a_user_without_a_home_reads_the_machines_profiles_and_is_told_what_to_set() -> None:
    rights = "+dac_override,+dac_read_search"  # to read this Python and this checkout, wherever they are
    nobody = ("setpriv", "--reuid=54321", "--clear-groups", f"--inh-caps={rights}", f"--ambient-caps={rights}")
    command = [*nobody, "env", "-u", "HOME", "-u", "XDG_DATA_HOME", sys.executable, "-P", "-c"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    probe = [*command, "import serstream.errors"]
    if shutil.which("setpriv") is None or subprocess.run(probe, env=env, capture_output=True, check=False).returncode:
        pytest.skip("running as another user needs root")
    code = "from serstream.profiles import *; print(*folders()); own_path('anna')"
    done = subprocess.run([*command, code], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "/etc/serstream/profiles\n"
    assert "no home folder for profiles; set XDG_DATA_HOME" in done.stderr


@pytest.mark.parametrize("name", ["", "Anna", "a b", "a" * 33, "änna", "a.b"])
def test_a_name_has_1_to_32_plain_characters(name: str) -> None:
    for ask in (own_path, lambda n: find(n, FRONT_END)):
        with pytest.raises(ConfigError, match=r"is no name of a profile; allowed are 1 to 32 of the characters"):
            ask(name)


def test_an_unknown_profile_is_said_with_where_it_was_looked_for_and_how_to_make_it(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find("anna", FRONT_END)
    assert str(caught.value) == (
        f"profile 'anna' is neither in {home} nor {tmp_path / 'etc'}; make it: serstream enroll anna"
    )


@pytest.mark.parametrize("value", ["./anna.json", "anna.json", "~nobody-of-this-name/anna", "x/" + "y" * 300])
def test_a_path_that_leads_nowhere_is_said(value: str) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; .*serstream enroll NAME"):
        find(value, FRONT_END)


def test_a_profile_that_cannot_be_read_is_said_with_its_path(home: Path) -> None:
    (home / "anna.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"anna\.json cannot be read: Is a directory; make it readable"):
        find("anna", FRONT_END)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.0] * 39},
        {"mean": [1e300] * 40},
        {"mean": ["high"] * 40},
        {"schema": "serstream-profile/2"},
        {"speech_s": 0.0},
        {"front_end": {"n_fft": 100}},
        {"front_end": None},
    ],
    ids=str,
)
def test_a_damaged_profile_is_refused_in_a_line(change: dict[str, Any], home: Path) -> None:
    home.mkdir(parents=True)
    fields = msgspec.to_builtins(profile()) | change
    (home / "anna.json").write_bytes(msgspec.json.encode(fields))
    with pytest.raises(ConfigError, match=r"^[^\n]*anna\.json is not a profile of serstream-profile/1: [^\n]*$"):
        find("anna", FRONT_END)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"x":' + b"[" * 100_000, b'{"mean": [1e999]}'])
def test_what_is_no_profile_is_refused_in_a_line(text: bytes, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "anna.json").write_bytes(text)
    with pytest.raises(
        ConfigError, match=r"^[^\n]*is not a profile of serstream-profile/1: [^\n]*; enroll again[^\n]*$"
    ):
        find("anna", FRONT_END)


def test_a_field_of_a_later_version_is_ignored(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "anna.json").write_bytes(msgspec.json.encode(msgspec.to_builtins(profile()) | {"room": "kitchen"}))
    assert find("anna", FRONT_END) == profile()


def test_a_profile_of_another_front_end_is_refused_with_what_differs() -> None:
    other = FrontEnd(n_mfcc=13, fmin_hz=50.0)
    write(own_path("anna"), profile(front_end=other, mean=[0.0] * 13))
    sentence = "was made with n_mfcc 13, fmin_hz 50.0, but the model has n_mfcc 40, fmin_hz 20.0; enroll again"
    with pytest.raises(ConfigError, match=sentence):
        find("anna", FRONT_END)
    assert find("anna", other).mean == [0.0] * 13


def test_that_a_profile_cannot_be_written_is_known_before_anybody_speaks(home: Path, tmp_path: Path) -> None:
    check_writable(own_path("anna"))
    assert not (tmp_path / "data").exists(), "and nothing was made yet"
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(ProfileError, match="is closed to this user; set XDG_DATA_HOME"):
        check_writable(own_path("anna"))
    with pytest.raises(ProfileError, match="cannot be written"):
        write(own_path("anna"), profile())
