"""Real faults, injected into one running daemon: each is announced and survived, and in the end all is accounted for.

``sh scripts/faults`` does each of them twenty times, and holds how long it took; SERSTREAM_REPEAT is how often.
"""

import os
import signal
import socket
import time
from datetime import UTC, datetime

import pytest
from serstream_process import LIMIT_S, Daemon, Serstream, await_true, hear, hear_out, nothing_lost

from serstream import Gap, Health, Posterior
from serstream.bench.virtual_mic import PACKAGES, VirtualMic

REPEAT = int(os.environ.get("SERSTREAM_REPEAT", "1"))
NOTICED_S, RESUMED_S = 2.0, 3.0
BARS = "SERSTREAM_REPEAT" in os.environ
"""Only a machine that does nothing else is held to these times."""
pytestmark = pytest.mark.timeout(6 * LIMIT_S * REPEAT)


class Rig:
    """A daemon, its microphone and a subscriber that misses nothing."""

    def __init__(self, virtual_mic, daemon, subscriber):
        self.mic, self.daemon, self.subscriber = virtual_mic, daemon, subscriber
        self.events, self.times = [], {}
        self.running()

    def until(self, wanted):
        """Hear until an event is wanted; return it and how long that took."""
        begun_s = time.monotonic()
        self.events += hear(self.subscriber, wanted, 2 * LIMIT_S)
        return self.events[-1], time.monotonic() - begun_s

    def running(self):
        """Wait until what was captured from now on is heard, and the source says so."""
        now = datetime.now(UTC)
        for kind in (Posterior, Health):
            self.until(lambda e, kind=kind: isinstance(e, kind) and datetime.fromisoformat(e.time) > now)
        assert self.events[-1].status == "running"

    def gap(self, phase, *causes):
        return self.until(lambda e: isinstance(e, Gap) and e.phase == phase and e.cause in causes)

    def capture(self):
        """Return the process id of the capture process."""
        await_true(self.daemon.children)
        (pid,) = self.daemon.children()
        return pid


@pytest.fixture(scope="module")
def virtual_mic():
    """One sound server for all tests here; their environment leads to it."""
    if missing := VirtualMic.missing():
        reason = f"no {', '.join(missing)}; install them: sudo apt install {PACKAGES}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    microphone = VirtualMic()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in microphone.env.items():
            patch.setenv(name, value)
        yield microphone
    microphone.stop()


@pytest.fixture(scope="module")
def rig(tmp_path_factory, virtual_mic):
    """Run one daemon through all faults; at its end every sample must be accounted for."""
    config = {"sources": {"mic": {"kind": "microphone", "silence_s": None}}}
    folder = tmp_path_factory.mktemp("rig")
    with Daemon(folder, config) as daemon, daemon.ready().subscribe() as subscriber:
        made = Rig(virtual_mic, daemon, subscriber)
        yield made
        made.events += hear_out(daemon, subscriber, signal.SIGTERM)
    account(made.events)
    for cause, times in made.times.items():
        noticed_s, resumed_s = (max(column) for column in zip(*times, strict=True))
        print(f"{cause}: {len(times)} times, noticed in {noticed_s:.2f} s, back in {resumed_s:.2f} s at most")


def account(events):
    """Hold that one session told of everything: every gap ended, and the gaps are what the counters say."""
    last = [e for e in events if isinstance(e, Health)][-1]
    assert {e.session for e in events} == {last.session}
    gaps = [e for e in events if isinstance(e, Gap)]
    assert [g.phase for g in gaps] == ["start", "end"] * (len(gaps) // 2)
    names = {"input_overflow": "input_overflows", "ring_overrun": "ring_overruns"}
    lost = {}
    for gap in gaps[1::2]:
        lost[names.get(gap.cause, gap.cause)] = lost.get(names.get(gap.cause, gap.cause), 0) + gap.lost_samples
    counted = {name: last.counters[name] for name in (*names.values(), "device_lost", "stalled", "muted")}
    assert counted == counted | lost
    assert sum(lost.values()) == sum(counted.values())
    assert nothing_lost(last)


def lost_and_found(rig, break_it, mend_it, *causes):
    """Hold that a loss is noticed, and sound is back, in time."""
    break_it()
    _, noticed_s = rig.gap("start", *causes)
    mend_it()
    _, resumed_s = rig.gap("end", *causes)
    rig.times.setdefault(causes[0], []).append((noticed_s, resumed_s))
    assert not BARS or (noticed_s < NOTICED_S and resumed_s < RESUMED_S)
    rig.running()


def device_removed_and_returned(rig):
    lost_and_found(rig, rig.mic.unplug, rig.mic.plug, "device_lost")


def device_returned_at_another_rate(rig):
    lost_and_found(rig, rig.mic.unplug, lambda: rig.mic.plug(16_000), "device_lost")
    lost_and_found(rig, rig.mic.unplug, rig.mic.plug, "device_lost")


def device_gone_for_long(rig):
    lost_and_found(rig, rig.mic.unplug, lambda: (rig.until(long_lost(rig)), rig.mic.plug()), "device_lost")


def long_lost(rig):
    """Wait until so many starts failed that the next are as far apart as they get."""
    restarts = next(e for e in reversed(rig.events) if isinstance(e, Health)).counters["restarts"]
    return lambda e: isinstance(e, Health) and e.counters["restarts"] >= restarts + 4


def server_killed_and_started(rig):
    lost_and_found(rig, rig.mic.crash, rig.mic.restart, "device_lost", "stalled")


def server_stopped_and_continued(rig):
    lost_and_found(rig, rig.mic.freeze, rig.mic.thaw, "stalled")


def server_stopped_for_a_moment(rig):
    rig.mic.freeze()
    time.sleep(0.5)  # the fault itself
    rig.mic.thaw()
    rig.running()


def capture_process_killed(rig):
    lost_and_found(rig, lambda: os.kill(rig.capture(), signal.SIGKILL), lambda: None, "device_lost")


def capture_process_terminated(rig):
    lost_and_found(rig, lambda: os.kill(rig.capture(), signal.SIGTERM), lambda: None, "device_lost")


def capture_process_stopped(rig):
    lost_and_found(rig, lambda: os.kill(rig.capture(), signal.SIGSTOP), lambda: None, "stalled")


def daemon_stopped_for_a_moment(rig):
    rig.daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)  # the fault itself
    rig.daemon.process.send_signal(signal.SIGCONT)
    rig.running()


def daemon_stopped_until_the_ring_is_full(rig):
    rig.daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(11.0)  # the fault itself
    rig.daemon.process.send_signal(signal.SIGCONT)
    rig.gap("end", "ring_overrun", "stalled")
    rig.running()


def muted_and_unmuted(rig):
    def ask(name):
        return lambda: rig.daemon.ask(name)

    lost_and_found(rig, ask("mute"), ask("unmute"), "muted")


def wrong_settings_reloaded(rig):
    good = rig.daemon.path.read_text()
    rig.daemon.path.write_text("sources: {mic: {kind: telepathy}}")
    rig.daemon.process.send_signal(signal.SIGHUP)
    rig.daemon.err.until(lambda line: "reload refused" in line)
    rig.running()
    rig.daemon.path.write_text(good)


def port_taken(rig):
    with Serstream("run", "--config", rig.daemon.path, "--source", "demo") as second:
        assert second.end() in (1, 2)
        assert len(second.err.lines) == 1
    rig.running()


def subscriber_stalled(rig):
    with rig.daemon.subscribe():  # never reads
        rig.running()


def subscribers_coming_and_going(rig):
    for _ in range(50):
        rig.daemon.subscribe().close()
    rig.running()


def nonsense_asked(rig):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(rig.daemon.control.removeprefix("ipc://"))
        client.sendall(os.urandom(4096))
    rig.running()


FAULTS = [
    device_removed_and_returned,
    device_returned_at_another_rate,
    device_gone_for_long,
    server_killed_and_started,
    server_stopped_and_continued,
    server_stopped_for_a_moment,
    capture_process_killed,
    capture_process_terminated,
    capture_process_stopped,
    daemon_stopped_for_a_moment,
    daemon_stopped_until_the_ring_is_full,
    muted_and_unmuted,
    wrong_settings_reloaded,
    port_taken,
    subscriber_stalled,
    subscribers_coming_and_going,
    nonsense_asked,
]


def test_a_worker_process_that_is_killed_is_announced_and_replaced(tmp_path):
    sources = {name: {"kind": "synthetic", "signal": "noise"} for name in ("a", "b")}
    with Daemon(tmp_path, {"sources": sources, "workers": 2}) as daemon, daemon.ready().subscribe() as subscriber:
        for _ in range(REPEAT):
            os.kill(min(daemon.children()), signal.SIGKILL)
            for phase in ("start", "end"):
                *_, gap = hear(subscriber, lambda e, phase=phase: isinstance(e, Gap) and e.phase == phase, 2 * LIMIT_S)
                assert gap.cause == "worker_restart"
            hear(subscriber, lambda e, name=gap.source: isinstance(e, Posterior) and e.source == name, 2 * LIMIT_S)
        assert daemon.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("inject", FAULTS, ids=lambda inject: inject.__name__)
def test_a_fault_is_announced_and_survived(rig, inject):
    for _ in range(REPEAT):
        inject(rig)
