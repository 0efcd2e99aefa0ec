"""Key pairs and the list of clients, as files."""

import stat

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.auth import load_certificate

from serstream.allowance import Allowance
from serstream.clients import RIGHTS, Clients, parse
from serstream.errors import ConfigError, KeyFileError
from serstream.keys import client_keys, create, read_pair, read_public

KEYS = [zmq.curve_keypair()[0].decode() for _ in range(3)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's own folder of keys."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return tmp_path / "serstream" / "keys"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# --- key files ------------------------------------------------------------------------------------------


def test_a_pair_is_two_files_that_zeromq_reads_the_secret_one_for_its_owner_alone(folder):
    pair = create("laptop", folder)
    assert mode(folder / "laptop.key_secret") == 0o600
    assert load_certificate(folder / "laptop.key_secret") == (pair.public, pair.secret)
    assert load_certificate(folder / "laptop.key") == (pair.public, None)
    assert zmq.curve_public(pair.secret) == pair.public


@pytest.mark.parametrize("value", ["laptop", "{}/laptop.key_secret"])
def test_a_pair_is_found_by_its_name_and_by_its_path(folder, value):
    pair = create("laptop", folder)
    assert read_pair(value.format(folder)) == pair


def test_a_key_that_systemd_lends_comes_first_whatever_its_mode_looks_like(folder, tmp_path, monkeypatch):
    create("serstream", folder)
    lent = create("serstream", tmp_path / "lent")
    (tmp_path / "lent" / "serstream.key_secret").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "lent"))
    assert read_pair("serstream") == lent


@pytest.mark.parametrize("suffix", [".key_secret", ".key"])
def test_a_key_is_never_overwritten_and_nothing_is_left_behind(folder, suffix):
    folder.mkdir(parents=True)
    (folder / f"laptop{suffix}").write_text("precious")
    with pytest.raises(ConfigError, match=rf"laptop{suffix} exists; name another key"):
        create("laptop", folder)
    assert [(p.name, p.read_text()) for p in folder.iterdir()] == [(f"laptop{suffix}", "precious")]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "keys"):
        with pytest.raises(KeyFileError, match=r"keys cannot be written into .*; make room or rights there"):
            create("laptop", folder)


@pytest.mark.parametrize("others", [0o640, 0o604, 0o660, 0o622])
def test_a_secret_that_others_can_reach_is_refused_with_the_remedy(folder, others):
    create("laptop", folder)
    path = folder / "laptop.key_secret"
    path.chmod(others)
    with pytest.raises(ConfigError, match=rf"can be read by others \(mode {others:04o}\); close it: chmod 600 {path}"):
        read_pair("laptop")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ('public-key = "short"', "holds no key"),
        ('public-key = "{0}"\nsecret-key = "{1}"', "its two keys are no pair"),
        ('public-key = "{0}"', "holds no secret key"),
        ('public-key = "{0}"\nsecret-key = "' + "#" * 40 + '"', "holds no key"),
    ],
)
def test_a_damaged_secret_is_said(folder, text, said):
    create("laptop", folder)
    (folder / "laptop.key_secret").write_text(text.format(*KEYS))
    with pytest.raises(ConfigError, match=said):
        read_pair("laptop")


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_no_bytes_in_a_key_file_lead_to_anything_but_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("keys") / "a.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="holds no key"):
        read_public(path)


def test_a_key_that_is_not_there_is_said_with_where_it_was_looked_for(folder):
    with pytest.raises(ConfigError, match=rf"there is no file laptop\.key_secret in {folder} nor /etc/serstream/keys"):
        read_pair("laptop")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_pair("./laptop.key_secret")
    with pytest.raises(ConfigError, match="neither a name"):
        read_pair("my laptop")


def test_a_client_needs_a_pair_and_finds_the_daemons_key_by_its_usual_name(folder):
    own, daemon = create("laptop", folder), create("serstream", folder)
    other = create("robot", folder)
    assert client_keys(None, None) is None
    assert client_keys("laptop", None)[:2] == (own, daemon.public)
    assert client_keys("laptop", "robot")[:2] == (own, other.public)
    with pytest.raises(ConfigError, match="needs a key of your own"):
        client_keys(None, "robot")


# --- the list of clients --------------------------------------------------------------------------------


def test_a_list_names_keys_and_their_rights():
    text = f"# friends\n\nlaptop {KEYS[0]} listen\n  boss\t{KEYS[1]} listen control send\n"
    found = parse(text, "clients")
    assert {key: (c.name, c.rights) for key, c in found.items()} == {
        KEYS[0]: ("laptop", {"listen"}),
        KEYS[1]: ("boss", set(RIGHTS)),
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("laptop", "'laptop' is no client; write NAME KEY and of listen, control, send what it may"),
        (f"laptop {KEYS[0]}", "is no client"),
        (f"Laptop {KEYS[0]} listen", "'Laptop' is no name"),
        ("laptop abc listen", r"'abc' is no public key; copy the 40 characters from laptop\.key"),
        (f"laptop {KEYS[0]} listen,control", "listen,control is no right; there are listen, control, send"),
        (f"a {KEYS[0]} listen\nb {KEYS[0]} send", "line 3: b has the key of a; remove one of them"),
    ],
)
def test_a_line_that_is_wrong_is_said_with_its_number(line, said):
    with pytest.raises(ConfigError, match=rf"^clients, line \d: .*{said}|^clients, {said}"):
        parse(f"# first\n{line}\n", "clients")


def test_a_list_that_others_may_change_is_refused(tmp_path):
    path = tmp_path / "clients"
    path.write_text("")
    path.chmod(0o664)
    with pytest.raises(ConfigError, match=r"can be changed by others \(mode 0664\); close it: chmod go-w"):
        Clients(str(path))


def test_a_changed_list_counts_at_once_and_says_which_rights_were_lost(tmp_path):
    path = tmp_path / "clients"
    path.write_text(f"laptop {KEYS[0]} listen send\nboss {KEYS[1]} control\n")
    clients = Clients(str(path))
    assert clients.refresh() == set()
    path.write_text(f"laptop {KEYS[0]} send listen\nnew {KEYS[2]} listen control send\n")
    assert clients.refresh() == {"control"}
    assert (clients.rights(KEYS[1]), clients.rights(KEYS[2])) == (set(), set(RIGHTS))


@pytest.mark.parametrize("spoil", ["nonsense", "closed", "gone"])
def test_a_new_list_that_is_wrong_leaves_the_old_one_and_says_so_once(tmp_path, caplog, spoil):
    path = tmp_path / "clients"
    path.write_text(f"laptop {KEYS[0]} listen\n")
    clients = Clients(str(path))
    if spoil == "nonsense":
        path.write_text("laptop\n")
    elif spoil == "closed":
        path.chmod(0o666)
    else:
        path.unlink()
    assert [clients.refresh(), clients.refresh()] == [set(), set()]
    assert clients.rights(KEYS[0]) == {"listen"}
    assert [r.message.split(":")[0] for r in caplog.records] == ["the list of clients goes on as it was"]


# --- how much each may ask ------------------------------------------------------------------------------


def test_a_client_has_its_burst_and_then_its_rate_whatever_others_do():
    allowance = Allowance(10.0, 5)
    assert [allowance.take("a", 100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert allowance.take("b", 100.0)
    assert [allowance.take("a", 100.11) for _ in range(2)] == [True, False]
    assert [allowance.take("a", 200.0) for _ in range(6)] == [True] * 5 + [False]


def test_clients_that_are_gone_are_forgotten():
    allowance = Allowance(10.0, 5)
    for n in range(100_000):
        allowance.take(n, n * 0.01)
    assert len(allowance) < 3000
