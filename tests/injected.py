"""Real faults, injected into a running daemon: each returns when it is over and what is captured is heard again."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rig import Measured, Rig, time_of
from serstream_process import Serstream, await_true

from serstream import Health, Posterior

LOSSES = ("device_lost", "stalled")
"""Which of them is announced depends on what the sound library notices first."""
MICROPHONE = {"sources": {"mic": {"kind": "microphone", "silence_s": None}}}
TWO_WORKERS = {"workers": 2, "sources": {name: {"kind": "synthetic", "signal": "noise"} for name in ("a", "b")}}
ONE_SIGNAL = {"sources": {"noise": {"kind": "synthetic", "signal": "noise"}}}
KEPT = ONE_SIGNAL | {"journal": {"posterior": True, "batch_s": 0.1}}


def lost_and_found(
    rig: Rig, break_it: Callable[[], Any], mend_it: Callable[[], Any] = lambda: None, causes: tuple[str, ...] = LOSSES
) -> Measured:
    """Break something; mend it once the loss is announced."""
    broken_s = time.monotonic()
    break_it()
    noticed_s = rig.gap("start", causes, broken_s)
    announced = rig.events[-1].cause
    mend_it()
    back_s = rig.gap("end", (announced,))
    rig.running()
    return Measured(announced, noticed_s, back_s)


def passed_over(rig: Rig) -> Measured:
    """Hold that whatever it was, the daemon hears on."""
    rig.running()
    return Measured()


def device_removed_and_returned(rig: Rig) -> Measured:
    return lost_and_found(rig, rig.mic.unplug, rig.mic.plug)


def device_returned_at_another_rate(rig: Rig) -> Measured:
    found = lost_and_found(rig, rig.mic.unplug, lambda: rig.mic.plug(16_000))
    lost_and_found(rig, rig.mic.unplug, rig.mic.plug)
    return found


def device_gone_for_long(rig: Rig) -> Measured:
    def return_late() -> None:
        restarts = next(e for e in reversed(rig.events) if isinstance(e, Health)).counters["restarts"]
        rig.until(lambda e: isinstance(e, Health) and e.counters["restarts"] >= restarts + 4)
        rig.mic.plug()

    return lost_and_found(rig, rig.mic.unplug, return_late)


def sound_server_killed_and_started(rig: Rig) -> Measured:
    return lost_and_found(rig, rig.mic.crash, rig.mic.restart)


def sound_server_stopped_and_continued(rig: Rig) -> Measured:
    return lost_and_found(rig, rig.mic.freeze, rig.mic.thaw)


def sound_server_stopped_for_a_moment(rig: Rig) -> Measured:
    rig.mic.freeze()
    time.sleep(0.5)  # the fault itself
    rig.mic.thaw()
    return passed_over(rig)


def _signal_capture(rig: Rig, number: int) -> Measured:
    await_true(rig.daemon.children)
    (pid,) = rig.daemon.children()
    return lost_and_found(rig, lambda: os.kill(pid, number))


def capture_killed(rig: Rig) -> Measured:
    return _signal_capture(rig, signal.SIGKILL)


def capture_terminated(rig: Rig) -> Measured:
    return _signal_capture(rig, signal.SIGTERM)


def capture_stopped(rig: Rig) -> Measured:
    return _signal_capture(rig, signal.SIGSTOP)


def _stop_daemon(rig: Rig, seconds: float) -> None:
    rig.daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)  # the fault itself
    rig.daemon.process.send_signal(signal.SIGCONT)


def daemon_stopped_for_a_moment(rig: Rig) -> Measured:
    _stop_daemon(rig, 1.0)
    return passed_over(rig)


def daemon_stopped_until_the_ring_is_full(rig: Rig) -> Measured:
    _stop_daemon(rig, 11.0)
    back_s = rig.gap("end", ("ring_overrun", *LOSSES))
    announced = rig.events[-1].cause
    rig.running()
    return Measured(announced, None, back_s)


def daemon_killed_and_started(rig: Rig) -> Measured:
    killed_s = time.monotonic()
    assert rig.daemon.end(signal.SIGKILL) == -signal.SIGKILL
    rig.restart()
    back_s = time.monotonic() - killed_s
    rig.running()
    return Measured(None, None, back_s)


def worker_killed(rig: Rig) -> Measured:
    pid = rig.rng.choice(sorted(rig.daemon.children()))
    return lost_and_found(rig, lambda: os.kill(pid, signal.SIGKILL), causes=("worker_restart",))


def clock_stepped(rig: Rig) -> Measured:
    step_s = 3600.0
    for ahead_s in (step_s, -step_s, 0.0):
        before = rig.now()
        rig.set_clock(ahead_s)
        rig.until(lambda e, t=before: isinstance(e, Posterior) and abs(time_of(e) - t).total_seconds() > step_s / 2)
        assert rig.events[-1].latency_s < step_s / 2
        rig.running()
    return Measured()


def _limit_files(rig: Rig, most_bytes: int) -> None:
    resource.prlimit(rig.daemon.process.pid, resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))


def _journal(rig: Rig) -> dict[str, Any]:
    return rig.daemon.ask("status")["journal"]


def disk_full_for_the_timing(rig: Rig) -> Measured:
    _limit_files(rig, 0)
    rig.daemon.err.until(lambda line: "is not written any more" in line)
    rig.running()
    rig.end()
    rig.restart()
    return Measured()


def disk_full_for_the_journal(rig: Rig) -> Measured:
    _limit_files(rig, 1)
    await_true(lambda: _journal(rig)["degraded"])
    rig.until(lambda e: isinstance(e, Health) and e.degraded)
    _limit_files(rig, resource.RLIM_INFINITY)
    written = _journal(rig)["written"]
    await_true(lambda: not _journal(rig)["degraded"] and _journal(rig)["written"] > written)
    assert _journal(rig)["dropped"] == 0
    return passed_over(rig)


def journal_damaged(rig: Rig) -> Measured:
    path = Path(_journal(rig)["path"])
    await_true(lambda: _journal(rig)["written"])
    assert rig.daemon.end(signal.SIGKILL) == -signal.SIGKILL
    for file in (path, path.with_name(f"{path.name}-wal")):  # the log alone would mend it
        file.write_bytes(rig.rng.randbytes(file.stat().st_size))
    rig.restart()
    rig.daemon.err.until(lambda line: "set aside" in line)
    await_true(lambda: _journal(rig)["written"])
    return passed_over(rig)


def port_taken(rig: Rig) -> Measured:
    with Serstream("run", "--config", rig.daemon.path, "--source", "demo") as second:
        assert second.end() in (1, 2)
        assert len(second.err.lines) == 1
    return passed_over(rig)


def subscriber_stalled(rig: Rig) -> Measured:
    wires = ("--connect", rig.daemon.events, "--control", rig.daemon.control)
    with Serstream("listen", "--json", *wires) as listener:
        listener.out.until(bool)
        listener.process.send_signal(signal.SIGSTOP)
        rig.running()
        listener.process.send_signal(signal.SIGCONT)
        newest = next(e for e in reversed(rig.events) if isinstance(e, Posterior))
        listener.out.until(lambda line: f'"{newest.time}"' in line and '"posterior"' in line)
    return passed_over(rig)


def subscribers_coming_and_going(rig: Rig) -> Measured:
    for _ in range(50):
        rig.daemon.subscribe().close()
    return passed_over(rig)


def muted_and_unmuted(rig: Rig) -> Measured:
    return lost_and_found(rig, lambda: rig.daemon.ask("mute"), lambda: rig.daemon.ask("unmute"), ("muted",))


def wrong_settings_reloaded(rig: Rig) -> Measured:
    good = rig.daemon.path.read_text()
    before = len(rig.daemon.err.lines)
    rig.daemon.path.write_text("sources: {mic: {kind: telepathy}}")
    rig.daemon.process.send_signal(signal.SIGHUP)
    await_true(lambda: [line for line in rig.daemon.err.lines[before:] if "reload refused" in line])
    rig.daemon.path.write_text(good)
    return passed_over(rig)


def nonsense_asked(rig: Rig) -> Measured:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(rig.daemon.control.removeprefix("ipc://"))
        client.sendall(rig.rng.randbytes(4096))
    return passed_over(rig)


class Fault(NamedTuple):
    """What happens, to a daemon of which configuration, and the most seconds until sound is back."""

    inject: Callable[[Rig], Measured]
    config: Mapping[str, Any] = MICROPHONE
    back_s: float = 3.0


NOTICED_S = 2.0
FAULTS = {
    fault.inject.__name__: fault
    for fault in (
        Fault(device_removed_and_returned),
        Fault(device_returned_at_another_rate),
        Fault(device_gone_for_long),
        Fault(sound_server_killed_and_started),
        Fault(sound_server_stopped_and_continued),
        Fault(sound_server_stopped_for_a_moment),
        Fault(capture_killed),
        Fault(capture_terminated),
        Fault(capture_stopped),
        Fault(daemon_stopped_for_a_moment),
        Fault(daemon_stopped_until_the_ring_is_full),
        Fault(daemon_killed_and_started, back_s=6.0),
        Fault(worker_killed, TWO_WORKERS, back_s=6.0),
        Fault(clock_stepped),
        Fault(disk_full_for_the_timing, ONE_SIGNAL),
        Fault(disk_full_for_the_journal, KEPT),
        Fault(journal_damaged, KEPT),
        Fault(port_taken),
        Fault(subscriber_stalled),
        Fault(subscribers_coming_and_going),
        Fault(muted_and_unmuted),
        Fault(wrong_settings_reloaded),
        Fault(nonsense_asked),
    )
}
