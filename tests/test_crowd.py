"""Many subscribers: each gets every event, and they take what descriptors there are."""

import json
import socket
from contextlib import closing

import msgspec
import pytest
import zmq
from ears import Crowd
from serstream_process import KEEPS_ON, Daemon, await_true, run_script

from serstream.events import Posterior, encode

EVENT = Posterior(
    source="mic", session="s", sample=0, stream_s=0.0, posterior=None, other=None, voice=None, speech=0.0,
    level_dbfs=0.0, state="no_speech",
)  # fmt: skip


def test_a_crowd_gets_every_event_of_every_stream(tmp_path):
    done = run_script("crowd", "--subscribers", 20, "--streams", 5, "--seconds", 2, "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["subscribers"] for row in found["rows"]] == [1, 20], done.stdout + done.stderr
    assert found["failure"] is None or "late" in found["failure"], "a machine that is busy is late"
    assert found["rows"][1]["delivered"] == 20 * found["rows"][1]["events"] > 0


def test_a_daemon_that_begins_with_few_descriptors_takes_as_many_as_it_may_have(tmp_path):
    few = ("sh", "-c", 'ulimit -Sn 64 && exec "$@"', "sh")
    with Daemon(tmp_path, {"sources": {"a": KEEPS_ON}}, prefix=few) as daemon:
        daemon.ready()
        with closing(Crowd(daemon.events)) as crowd:
            crowd.join(99)
            await_true(lambda: crowd.listen(0.1) or crowd.failure or crowd.n_listening == 100)
            assert crowd.failure is None


@pytest.fixture
def published(tmp_path):
    """A crowd of two, and what lets one of them be told something else than the other."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as sends:
        sends.linger = 0
        sends.xpub_verboser = True
        sends.bind(f"ipc://{tmp_path}/events")
        with closing(Crowd(f"ipc://{tmp_path}/events")) as crowd:
            crowd.join(1)
            for _ in range(2):
                await_true(lambda: crowd.listen(0.0) or sends.poll(0))
                sends.recv()
            yield sends, crowd


def say(sends, *numbers):
    for seq in numbers:
        sends.send(encode(msgspec.structs.replace(EVENT, seq=seq)))


def test_a_hole_in_the_numbers_of_a_topic_is_counted(published):
    sends, crowd = published
    say(sends, 1, 2, 5)
    await_true(lambda: crowd.listen(0.1) or crowd.numbered.n_events == 3)
    assert (crowd.numbered.lost, crowd.failure) == (2, None)


def test_a_subscriber_that_is_told_something_else_is_noticed(published):
    sends, crowd = published
    say(sends, 1)
    await_true(lambda: crowd.listen(0.1) or crowd.n_behind(1) == 0)
    other = next(ear for ear in crowd.ears if ear is not crowd.first)
    other.bytes += b"\x00\x01x"
    say(sends, 2)
    await_true(lambda: crowd.listen(0.1) or crowd.failure)
    assert "out of turn" in crowd.failure


def test_a_subscriber_that_is_cut_off_is_noticed(published):
    _, crowd = published
    crowd.ears[1].socket.shutdown(socket.SHUT_RDWR)
    await_true(lambda: crowd.listen(0.1) or crowd.failure)
    assert crowd.failure == "a subscriber was cut off"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--subscribers", "1"], "subscribers are 2 to 10000"), (["--json", "/nowhere/x.json"], "cannot be written")],
)
def test_what_the_command_is_asked_wrongly_is_refused_before_anything_happens(arguments, sentence):
    done = run_script("crowd", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
