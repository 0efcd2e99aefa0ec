import contextlib
import os
import resource
import socket
import subprocess
import sys
import uuid

import pytest

from serstream.systemd import Notifier, Progress


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def environ(manager, **more):
    name = manager.getsockname()
    address = "@" + name[1:].decode() if isinstance(name, bytes) else name
    return {"NOTIFY_SOCKET": address, **more}


def received(manager):
    return manager.recv(4096).decode()


def test_ready_is_one_datagram_with_its_status(manager):
    Notifier(environ(manager)).ready("listening to mic")
    assert received(manager) == "READY=1\nSTATUS=listening to mic"


def test_a_status_is_always_one_line(manager):
    Notifier(environ(manager)).status("lost mic:\nREADY=1")
    assert received(manager) == "STATUS=lost mic: READY=1"


def test_stopping_is_said(manager):
    Notifier(environ(manager)).stopping()
    assert received(manager) == "STOPPING=1"


def test_an_abstract_socket_is_reached_by_its_at_sign():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0serstream-{uuid.uuid4()}")
        listener.settimeout(5)
        Notifier(environ(listener)).ready()
        assert received(listener) == "READY=1"


def test_the_watchdog_is_fed_within_the_interval_of_the_environment(manager):
    notifier = Notifier(environ(manager, WATCHDOG_USEC="10000000", WATCHDOG_PID=str(os.getpid())))
    notifier.watchdog()
    assert notifier.watchdog_s == 10.0
    assert received(manager) == "WATCHDOG=1"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid() + 1)},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
    ids=["absent", "of another process", "zero", "no number"],
)
def test_a_watchdog_that_is_not_ours_is_not_fed(manager, more):
    notifier = Notifier(environ(manager, **more))
    notifier.watchdog()
    notifier.stopping()
    assert notifier.watchdog_s is None
    assert received(manager) == "STOPPING=1"


@pytest.mark.parametrize("address", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_manager_every_method_does_nothing(address):
    notifier = Notifier({**address, "WATCHDOG_USEC": "10000000"})
    for send in (notifier.ready, notifier.stopping, notifier.watchdog):
        send()
    assert not notifier.enabled
    assert notifier.watchdog_s is None
    assert notifier.send_failures == 0


def test_a_manager_that_went_away_is_counted_and_ends_nothing(manager):
    notifier = Notifier(environ(manager))
    manager.close()
    notifier.status("still here")
    assert notifier.send_failures == 1


def test_a_manager_that_does_not_read_is_waited_for_without_work(manager):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as crowd, contextlib.suppress(BlockingIOError):
        crowd.setblocking(False)
        while True:
            crowd.sendto(b"WATCHDOG=1", manager.getsockname())
    notifier = Notifier(environ(manager))
    slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    notifier.status("still here")
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw > slept, "it gives the core away"
    assert notifier.send_failures == 1


def test_the_environment_of_the_process_is_the_default(manager):
    code = "from serstream.systemd import Notifier; Notifier().ready()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environ(manager)}, check=True, timeout=60)
    assert received(manager) == "READY=1"


def test_a_loop_is_late_after_its_deadline_and_on_time_again_after_a_beat():
    progress = Progress()
    progress.register("capture mic", 2.0, now_s=100.0)
    progress.register("analysis", 5.0, now_s=100.0)
    assert progress.late(102.0) == []
    assert progress.late(102.1) == ["capture mic"]
    assert progress.late(106.0) == ["analysis", "capture mic"]
    progress.beat("capture mic", 106.0)
    assert progress.late(106.0) == ["analysis"]


def test_a_removed_loop_is_never_late_and_its_last_beat_does_not_bring_it_back():
    progress = Progress()
    progress.register("capture mic", 2.0, now_s=0.0)
    progress.remove("capture mic")
    progress.beat("capture mic", 0.0)
    assert progress.late(1e9) == []


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("nan")])
def test_a_deadline_that_no_loop_can_meet_is_refused(deadline_s):
    with pytest.raises(ValueError, match=r"the deadline of analysis is .* it must be above 0"):
        Progress().register("analysis", deadline_s, now_s=0.0)
