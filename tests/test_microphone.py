import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from serstream_process import PROMPT_S

from serstream.capture import Device, choose
from serstream.capture_process import CaptureProcess, devices
from serstream.config import MicrophoneSource
from serstream.errors import SourceError
from serstream.microphone import Microphone
from serstream.pulled import Resume
from serstream.ring import FAULTS, Block, Hole, SampleRing, Slot
from serstream.transfer import DeviceRing, Transfer

RATE = 16_000
ROOT = Path(__file__).parent.parent
GOOD, OVERFLOW = SimpleNamespace(input_overflow=False), SimpleNamespace(input_overflow=True)


class Listener:
    """Reads a microphone, keeps what came, and checks that no index is left out or given twice."""

    def __init__(self, microphone):
        self.microphone = microphone
        self.items = []
        self.first = 0

    def read(self, timeout_s=0.5):
        item = self.microphone.read(timeout_s)
        if isinstance(item, Hole) and item.phase == "end" and item.cause != "non_finite":
            self.first += item.lost_samples
        if item is not None:
            assert item.first_sample == self.first
            self.items.append(item)
        if isinstance(item, Block):
            self.first += item.samples.size
        return item

    def until(self, wanted, limit_s=12.0):
        """Read until an item is wanted; fail after the limit."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            item = self.read()
            if item is not None and wanted(item):
                return item
        pytest.fail(f"not within {limit_s} s; {self.microphone.status}, {self.microphone.counters}")

    def block(self):
        return self.until(lambda item: isinstance(item, Block))

    def hole(self, phase, cause):
        return self.until(lambda item: item[:2] == (phase, cause))


@contextmanager
def listening(config=None, **options):
    microphone = Microphone(config or MicrophoneSource(), **options)
    microphone.open()
    try:
        yield Listener(microphone)
    finally:
        microphone.close()
    counters = microphone.counters
    assert counters["captured"] == counters["consumed"] + counters["ring_overruns"] + counters["unread"]


def recorded_rates():
    """Return the rates, in Hz, at which programs record from the sound server."""
    command = ["pactl", "list", "short", "source-outputs"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    streams = [line.split("\t") for line in listed.splitlines()]
    return [int(spec.split()[-1].removesuffix("Hz")) for _, _, client, _, spec in streams if client != "-"]


def await_end(pid, limit_s):
    """Return whether a process of any parent ends within the limit."""
    fd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    ended = bool(poll.poll(limit_s * 1000))
    os.close(fd)
    return ended


# --- real capture ---


@pytest.mark.parametrize(
    ("config", "device_rate"),
    [
        (MicrophoneSource(), 44_100),
        (MicrophoneSource(device="^PULSE$", sample_rate=48_000, channels=1, block_s=0.02), 48_000),
        (MicrophoneSource(device="pulse", sample_rate=16_000), 16_000),
    ],
)
def test_what_is_played_arrives_at_its_pitch_and_level(virtual_mic, tmp_path, config, device_rate):
    tone = 0.1 * np.sqrt(2) * np.sin(2 * np.pi * 1000 * np.arange(48_000) / 48_000)
    soundfile.write(tmp_path / "tone.wav", tone, 48_000)
    with listening(config) as listener:
        listener.block()
        assert listener.microphone.status == "running"
        assert recorded_rates() == [device_rate]
        player = virtual_mic.play(tmp_path / "tone.wav")
        loud = []
        while len(loud) < 18_000 and len(listener.items) < 500:
            block = listener.block()
            assert 0 < time.monotonic() - block.captured_s < PROMPT_S
            if loud or np.abs(block.samples).max() > 0.05:
                loud.extend(block.samples)
    assert player.wait(10) == 0
    middle = np.array(loud[4000:12_000])
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(middle.size)))
    assert np.argmax(spectrum) * RATE / middle.size == pytest.approx(1000, abs=2)
    assert 20 * np.log10(np.sqrt(np.mean(middle**2))) == pytest.approx(-20, abs=0.2)


def test_unplugging_and_plugging_in_again_is_a_hole_in_the_same_session(virtual_mic):
    with listening() as listener:
        last = listener.block()
        virtual_mic.unplug()
        start = listener.hole("start", "device_lost")
        assert listener.microphone.status == "lost"
        virtual_mic.plug()
        end = listener.hole("end", "device_lost")
        block = listener.block()
        assert listener.microphone.status == "running"
        assert start.lost_samples == 0
        assert end.estimated
        assert end.first_sample == start.first_sample + end.lost_samples
        assert listener.microphone.counters["device_lost"] == end.lost_samples > 0
        heard_s = (block.first_sample + block.samples.size - last.first_sample - last.samples.size) / RATE
        assert heard_s == pytest.approx(block.captured_s - last.captured_s, abs=0.2)


def test_a_sound_server_that_hangs_is_noticed_and_survived(virtual_mic):
    with listening(MicrophoneSource(stall_s=1.0)) as listener:
        listener.block()
        virtual_mic.freeze()
        begin = time.monotonic()
        start = listener.hole("start", "stalled")
        assert time.monotonic() - begin < PROMPT_S
        assert listener.microphone.status == "stalled"
        virtual_mic.thaw()
        end = listener.hole("end", "stalled")
        assert listener.microphone.counters["stalled"] == end.lost_samples >= RATE
        assert end.first_sample == start.first_sample + end.lost_samples
        listener.block()
        assert listener.microphone.status == "running"


def test_closing_takes_no_time_even_when_the_sound_server_hangs(virtual_mic):
    with listening() as listener:
        listener.block()
        virtual_mic.freeze()
        begin = time.monotonic()
        listener.microphone.close()
        assert time.monotonic() - begin < PROMPT_S
        assert listener.microphone.ended
        assert listener.microphone.read(1.0) is None


def test_a_hanging_capture_process_ends_on_sigterm(virtual_mic):
    with listening() as listener:
        listener.block()
        virtual_mic.freeze()
        pid = listener.microphone.capture_pid
        os.kill(pid, signal.SIGTERM)
        assert await_end(pid, 1.0)
        listener.hole("start", "device_lost")


def test_muting_closes_the_device_and_unmuting_opens_it_again(virtual_mic):
    with listening() as listener:
        listener.block()
        pid = listener.microphone.capture_pid
        listener.microphone.mute()
        assert await_end(pid, 1.0)
        start = listener.hole("start", "muted")
        assert listener.microphone.status == "muted"
        assert listener.microphone.capture_pid is None
        assert listener.read(0.1) is None
        listener.microphone.unmute()
        end = listener.hole("end", "muted")
        assert end.first_sample == start.first_sample + end.lost_samples
        assert listener.microphone.counters["muted"] == end.lost_samples > 0
        listener.block()
        assert listener.microphone.status == "running"


def test_a_reader_that_stalls_loses_what_is_counted_and_nothing_else(virtual_mic):
    with listening(spawn=partial(CaptureProcess, ring_s=0.6)) as listener:
        listener.block()
        before = listener.microphone.counters["captured"]
        deadline = time.monotonic() + 10
        while listener.microphone.counters["captured"] < before + 1.2 * RATE:
            assert time.monotonic() < deadline
            time.sleep(0.02)  # between two looks at the counter
        start = listener.hole("start", "ring_overrun")
        end = listener.hole("end", "ring_overrun")
        assert end.lost_samples == start.lost_samples == listener.microphone.counters["ring_overruns"] > 0
        assert not end.estimated
        listener.block()


def test_the_capture_process_dies_with_its_parent(virtual_mic):
    program = (
        "import sys\n"
        "from serstream.sources import Microphone\n"
        "from serstream.config import MicrophoneSource\n"
        "m = Microphone(MicrophoneSource()); m.open()\n"
        "while m.read(1.0) is None: pass\n"
        "print(m.capture_pid, flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **pipes) as parent:
        fd = os.pidfd_open(int(parent.stdout.readline()))
        virtual_mic.freeze()  # so that no callback tells the process that nobody reads any more
        parent.kill()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(3000)
        os.close(fd)


# --- what is not there ---


def test_an_unknown_device_is_a_sentence_that_lists_what_there_is(virtual_mic):
    assert {device.name for device in devices()} == {"pulse", "default"}
    with pytest.raises(SourceError, match=r"no microphone matches 'nonesuch'; there are 'pulse', 'default'"):
        Microphone(MicrophoneSource(device="nonesuch")).check()
    assert Microphone(MicrophoneSource(device="PuLs")).check().name == "pulse"
    assert Microphone(MicrophoneSource()).check().name == "default"


def test_a_device_that_is_not_there_at_the_start_is_waited_for(virtual_mic):
    virtual_mic.unplug()
    with listening() as listener:
        assert listener.microphone.status == "starting"
        assert listener.hole("start", "device_lost").first_sample == 0
        assert listener.microphone.status == "lost"
        virtual_mic.plug()
        assert listener.hole("end", "device_lost").lost_samples > 0
        listener.block()


def test_more_channels_than_the_device_has_is_logged_in_a_sentence(virtual_mic, caplog):
    with listening(MicrophoneSource(channels=64)) as listener:
        listener.hole("start", "device_lost")
    assert "has 32 channels, but channels is 64" in caplog.text


def test_without_portaudio_the_sentence_says_how_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("ALSA_CONFIG_PATH", raising=False)
    with pytest.raises(SourceError, match="sudo apt install libportaudio2"):
        Microphone(MicrophoneSource()).check()


def test_a_missing_alsa_configuration_is_a_sentence_instead_of_an_abort(monkeypatch):
    monkeypatch.setenv("ALSA_CONFIG_PATH", "/nonexistent/asound.conf")
    with pytest.raises(SourceError, match=r"ALSA_CONFIG_PATH names /nonexistent/asound\.conf"):
        devices()


def test_an_empty_alsa_configuration_is_a_sentence_that_names_the_signal_and_what_to_check(
    virtual_mic, tmp_path, monkeypatch, caplog
):
    (tmp_path / "asound.conf").touch()
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "asound.conf"))
    sentence = r"ended by signal 6 \(Aborted\); if that goes on, check the sound configuration: ALSA_CONFIG_PATH"
    with pytest.raises(SourceError, match=sentence):
        devices()
    with listening() as listener:
        listener.hole("start", "device_lost")
    assert re.search(sentence, caplog.text)


def test_a_sound_server_that_never_answers_is_a_sentence(virtual_mic):
    virtual_mic.freeze()
    begin = time.monotonic()
    with pytest.raises(SourceError, match="has not answered within 5 s"):
        devices()
    assert time.monotonic() - begin < 7.0


def test_the_capture_process_loads_neither_numba_nor_the_model():
    program = "import sys, json, serstream.capture; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"numba", "ai_edge_litert", "yaml", "soundfile", "sounddevice"}


def usb_microphone(card, *identities):
    return Device(card, f"USB Audio: - (hw:{card},0)", "ALSA", 1, 48_000, False, identities)


def test_the_first_match_or_the_default_device_is_chosen():
    usb, card = usb_microphone(1), Device(3, "HDA", "ALSA", 2, 44_100, True)
    assert choose([usb, card], "") is card
    assert choose([usb, card], "audio") is usb
    assert usb.stable_name == "USB Audio: -"
    with pytest.raises(SourceError, match="the system has no default microphone; there are 'USB Audio: -'"):
        choose([usb], "")
    with pytest.raises(SourceError, match="no microphone was found"):
        choose([], "usb")


def test_a_device_is_found_by_its_identity_whatever_its_number():
    left, right = "pci-0000:00:14.0-usb-0:1:1.0", "pci-0000:00:14.0-usb-0:2:1.0"
    for numbers in ((1, 2), (2, 1), (7, 3)):
        here, there = usb_microphone(numbers[0], left), usb_microphone(numbers[1], "usb-Maker_Mic_A7-00", right)
        for found in ([here, there], [there, here]):
            assert choose(found, left) is here
            assert choose(found, right) is choose(found, "maker_.*_a7") is there
            assert choose(found, "usb audio") is found[0], "a name goes before an identity"


# --- from the callback to the ring ---


@pytest.fixture
def make_transfer():
    opened = []

    def make(device_rate=RATE, channels=1, device_samples=4 * RATE, latency_s=0.0, silence_s=None):
        ring, device = SampleRing.create(10 * RATE, RATE), DeviceRing(device_samples, channels)
        opened.append((ring, device))
        return device, Transfer(device, ring, device_rate, latency_s, silence_s), ring

    yield make
    for ring, device in opened:
        ring.close()
        os.close(device.wake_fd)


def test_the_callback_copies_around_the_end_of_its_ring(make_transfer):
    device, transfer, ring = make_transfer(channels=2, device_samples=100)
    y = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(np.float32)
    for block in np.split(y, range(70, 1000, 70)):
        device(block, len(block), None, GOOD)
        transfer.run()
    _, samples = ring.read(2000)
    np.testing.assert_array_equal(samples, y.mean(axis=1))
    assert ring.header[Slot.CALLBACKS] == 15


def test_an_overflow_that_the_device_reports_is_placed_where_it_happened(make_transfer):
    device, transfer, ring = make_transfer()
    block = np.zeros((1600, 1), np.float32)
    device(block, 1600, None, GOOD)
    transfer.run()
    device(block, 1600, None, GOOD)
    device(block, 1600, None, OVERFLOW)
    transfer.run()
    assert ring.header[Slot.OVERFLOW_AT] == 3200
    assert ring.header[Slot.OVERFLOW_EVENTS] == 1
    assert ring.header[Slot.OVERFLOW_SAMPLES] >= 1
    assert ring.header[Slot.WRITE] == 4800


def test_what_the_callback_overwrote_is_counted_as_an_overflow(make_transfer):
    device, transfer, ring = make_transfer(device_rate=8000, device_samples=1000)
    for _ in range(3):
        device(np.zeros((600, 1), np.float32), 600, None, GOOD)
    transfer.run()
    assert ring.header[Slot.OVERFLOW_SAMPLES] == 3600
    assert ring.header[Slot.OVERFLOW_EVENTS] == 1


def test_samples_that_are_not_finite_become_zero_and_are_counted(make_transfer):
    device, transfer, ring = make_transfer(channels=2)
    y = np.ones((100, 2), np.float32)
    y[10, 0], y[20, 1], y[30] = np.nan, np.inf, -np.inf
    device(y, 100, None, GOOD)
    transfer.run()
    _, samples = ring.read(1000)
    assert np.flatnonzero(samples == 0).tolist() == [10, 20, 30]
    assert ring.header[Slot.NON_FINITE] == 3


def test_what_a_device_loses_without_a_word_is_counted_when_it_stays_away(make_transfer):
    device, transfer, ring = make_transfer()
    block, n_samples = np.zeros((1600, 1), np.float32), 1600

    def call_back(at_s):
        device(block, n_samples, None, GOOD)
        device.stamp_ns = round((100.0 + at_s) * 1e9)
        transfer.run()

    for k in range(20):
        call_back(0.1 * k)
    for k in range(20, 60):
        call_back(0.1 * k + 1.0)
    header = ring.header
    assert header[Slot.OVERFLOW_SAMPLES] == pytest.approx(RATE, abs=0.002 * RATE)
    assert header[Slot.OVERFLOW_EVENTS] == 1
    assert 3.0 * RATE <= header[Slot.OVERFLOW_AT] - 20 * n_samples <= 3.2 * RATE
    assert ring.captured_s(header[Slot.WRITE]) == pytest.approx(100.0 + 0.1 * 59 + 1.0, abs=0.002)


# --- the daemon's side, with a capture process that does as it is told ---


class ScriptedCapture:
    """Stands in for a capture process: a ring in which a test writes as that process would."""

    pid = 0
    ended = False

    def __init__(self, config):
        self.ring = SampleRing.create(1000, RATE, keep=100)
        self.ring.header[Slot.ORIGIN_NS] = time.monotonic_ns()

    def write(self, n_samples):
        self.ring.write(np.ones(n_samples, np.float32))

    def overflow(self, n_samples):
        header = self.ring.header
        header[Slot.OVERFLOW_AT] = header[Slot.WRITE]
        header[Slot.OVERFLOW_SAMPLES] += n_samples
        header[Slot.OVERFLOW_EVENTS] += 1

    def non_finite(self, n_samples):
        self.write(n_samples)
        self.ring.header[Slot.NON_FINITE] += n_samples

    def silent_s(self):
        return 0.0

    def wait(self, timeout_s):
        pass

    def kill(self):
        self.ended = True

    def die(self, _n_samples):
        self.ended = True

    def last_words(self):
        return "the microphone is gone; plug it in again"

    def reap(self):
        pass

    def close(self):
        self.ring.close()


class Captures(list):
    """Stands in for what starts a capture process, and remembers each."""

    def __call__(self, config):
        self.append(ScriptedCapture(config))
        return self[-1]


ACTIONS = st.tuples(st.sampled_from(["write", "overflow", "non_finite", "die", "read"]), st.integers(1, 700))
LOSSES = {"ring_overrun": "ring_overruns", "input_overflow": "input_overflows", "device_lost": "device_lost"}


@settings(max_examples=60, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=40))
@example(actions=[("die", 1), ("read", 1), ("read", 1), ("overflow", 5), ("read", 1), ("write", 5)])
def test_whatever_happens_every_sample_is_consumed_or_counted_and_every_hole_ends(actions):
    spawned = Captures()
    with listening(spawn=spawned, backoff_s=(0.0, 0.0)) as listener:
        for name, n_samples in [*actions, *[("read", 0)] * 10]:
            if name == "read":
                listener.read(0.0)
            elif not spawned[-1].ended:
                getattr(spawned[-1], name)(n_samples)
        while spawned[-1].ended:
            listener.read(0.0)
        spawned[-1].write(1)  # ends the last hole
        while listener.read(0.0) is not None:
            pass
        lost = dict.fromkeys((*LOSSES, "non_finite"), 0)
        holes = [item for item in listener.items if isinstance(item, Hole)]
        for start, end in zip(holes[::2], holes[1::2], strict=True):
            known = 0 if end.cause == "device_lost" else end.lost_samples
            assert (start.phase, end.phase, start.cause, start.lost_samples) == ("start", "end", end.cause, known)
            lost[end.cause] += end.lost_samples
        counters = listener.microphone.counters
    assert {cause: lost[cause] for cause in LOSSES} == {cause: counters[name] for cause, name in LOSSES.items()}
    assert listener.first == counters["consumed"] + sum(counters[name] for name in LOSSES.values())
    assert lost["non_finite"] <= counters["non_finite"]
    assert sum(item.samples.size for item in listener.items if isinstance(item, Block)) == counters["consumed"]


def test_an_overflow_is_a_hole_between_the_blocks_around_it():
    spawned = Captures()
    with listening(spawn=spawned) as listener:
        spawned[0].write(100)
        spawned[0].overflow(50)
        spawned[0].write(100)
        while listener.read(0.0) is not None:
            pass
    before, start, end, after = listener.items
    assert (before.first_sample, before.samples.size) == (0, 100)
    assert start == Hole("start", "input_overflow", 100, 50, True)
    assert end == Hole("end", "input_overflow", 150, 50, True)
    assert (after.first_sample, after.samples.size) == (150, 100)


def test_an_overflow_at_the_first_callback_after_a_restart_follows_the_end_of_the_hole():
    spawned = Captures()
    with listening(spawn=spawned, backoff_s=(0.0, 0.0)) as listener:
        spawned[0].die(0)
        listener.hole("start", "device_lost")
        while len(spawned) < 2:
            listener.read(0.0)
        spawned[1].overflow(50)
        spawned[1].write(100)
        while listener.read(0.0) is not None:
            pass
    assert [item[:2] for item in listener.items[:-1]] == [
        ("start", "device_lost"),
        ("end", "device_lost"),
        ("start", "input_overflow"),
        ("end", "input_overflow"),
    ]
    assert isinstance(listener.items[-1], Block)


def test_a_microphone_closed_while_it_is_gone_has_counted_what_was_lost():
    spawned = Captures()
    with listening(spawn=spawned) as listener:
        spawned[0].die(0)
        listener.hole("start", "device_lost")
        begin = time.monotonic()
        assert listener.read(0.1) is None
        waited_s = time.monotonic() - begin
        assert listener.microphone.counters["device_lost"] == 0
    assert listener.microphone.counters["device_lost"] >= int(waited_s * RATE)
    before = listener.microphone.counters
    listener.microphone.close()
    assert listener.microphone.counters == before


# --- in the place of another, whose worker has died


def gone_on(spawned, **options):
    """Return a microphone that goes on at sample 5,000, two seconds after that was captured."""
    microphone = Microphone(MicrophoneSource(), spawn=spawned, **options)
    counters = {"captured": 5_000, "consumed": 4_000, "ring_overruns": 1_000, "worker_restart": 7}
    microphone.go_on(Resume(5_000, time.monotonic() - 2.0, counters, emotions=0, slept_s=0.0))
    return microphone


def read_all(microphone):
    items = []
    while (item := microphone.read(0.0)) is not None:
        items.append(item)
    return items


def test_a_microphone_in_the_place_of_another_moves_the_index_on_by_what_was_missed():
    spawned = Captures()
    microphone = gone_on(spawned)
    microphone.open()
    assert microphone.status == "starting"
    spawned[0].write(100)
    end, block = read_all(microphone)
    assert end == Hole("end", "worker_restart", 5_000 + end.lost_samples, end.lost_samples, True)
    assert 2.0 * RATE <= end.lost_samples < 2.0 * RATE + 60.0 * RATE
    assert (block.first_sample, block.samples.size) == (end.first_sample, 100)
    microphone.close()
    counters = microphone.counters
    assert counters["worker_restart"] == 7 + end.lost_samples
    assert (counters["captured"], counters["consumed"], counters["ring_overruns"]) == (5_100, 4_100, 1_000)


def test_what_is_lost_for_another_reason_after_that_is_a_hole_of_its_own():
    spawned = Captures()
    microphone = gone_on(spawned, backoff_s=(0.0, 0.0))
    microphone.open()
    spawned[0].die(0)
    end, start = (microphone.read(0.0) for _ in range(2))
    assert (end.phase, end.cause, start.phase, start.cause) == ("end", "worker_restart", "start", "device_lost")
    assert microphone.status == "lost"
    assert start.first_sample == end.first_sample == 5_000 + end.lost_samples
    microphone.close()


@pytest.mark.parametrize("new", [True, False])
def test_a_microphone_that_is_muted_before_it_is_opened_opens_no_device(new):
    spawned = Captures()
    microphone = gone_on(spawned)
    if new:
        microphone = Microphone(MicrophoneSource(), spawn=microphone._spawn)
    microphone.mute()
    microphone.open()
    holes = [(hole.phase, hole.cause) for hole in read_all(microphone)]
    assert holes == [("end", "worker_restart")] * (not new) + [("start", "muted")]
    assert (microphone.status, spawned) == ("muted", [])
    microphone.unmute()
    assert microphone.read(0.0) is None
    spawned[0].write(10)
    assert microphone.read(0.0)[:2] == ("end", "muted")
    microphone.close()


# --- a device that delivers what no room sounds like


def test_a_muted_device_is_a_fault_until_it_sounds_again(virtual_mic, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 4 * 48_000)
    soundfile.write(tmp_path / "noise.wav", noise, 48_000)
    with listening(MicrophoneSource(silence_s=1.0)) as listener:
        listener.block()
        assert listener.microphone.fault is None
        listener.until(lambda _: listener.microphone.fault == "silence")
        assert listener.microphone.status == "running"
        player = virtual_mic.play(tmp_path / "noise.wav")
        listener.until(lambda _: listener.microphone.fault is None)
        player.kill()
        player.wait()


def test_the_capture_process_tells_of_a_device_that_is_stuck(make_transfer):
    device, transfer, ring = make_transfer(48_000, 2, silence_s=2.0)
    block = np.random.default_rng(0).uniform(-1, 1, (4_800, 2)).astype(np.float32)
    found = []
    for _ in range(30):
        device(block, len(block), None, GOOD)
        transfer.run()
        found.append(ring.header[Slot.FAULT])
    assert found[:20] == [0] * 20
    assert FAULTS[found[-1] - 1] == "stuck"
    device(np.roll(block, 1), len(block), None, GOOD)
    device(np.random.default_rng(1).uniform(-1, 1, (24_000, 2)).astype(np.float32), 24_000, None, GOOD)
    transfer.run()
    assert ring.header[Slot.FAULT] == 0


def test_a_device_that_is_gone_has_no_fault_of_its_signal():
    spawned = Captures()
    with listening(spawn=spawned) as listener:
        spawned[0].write(100)
        spawned[0].ring.header[Slot.FAULT] = 1 + FAULTS.index("silence")
        listener.block()
        assert listener.microphone.fault == "silence"
        spawned[0].die(0)
        listener.hole("start", "device_lost")
        assert listener.microphone.fault is None


def test_a_sound_card_that_comes_is_tried_at_once():
    spawned, hardware = Captures(), [1]
    with listening(spawn=spawned, backoff_s=(600.0, 600.0), hardware_ns=lambda: hardware[0]) as listener:
        spawned[0].die(0)
        listener.hole("start", "device_lost")
        assert listener.read(0.0) is None
        assert len(spawned) == 1
        hardware[0] = 2
        listener.read(0.0)
        assert len(spawned) == 2
        spawned[1].die(0)
        listener.read(0.0)
        assert listener.read(0.0) is None
        assert len(spawned) == 2


def test_the_drift_of_a_device_outlives_its_capture_process():
    spawned = Captures()
    with listening(spawn=spawned, backoff_s=(0.0, 0.0)) as listener:
        assert listener.microphone.drift_ppm is None
        spawned[0].ring.header[Slot.RATE_UHZ] = 16_000_400_000
        assert listener.microphone.drift_ppm == pytest.approx(25.0)
        spawned[0].die(0)
        listener.hole("start", "device_lost")
        assert listener.microphone.drift_ppm == pytest.approx(25.0)
