"""One stream of the network as a source: what becomes of packets that come, stay away, come late or come twice."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serstream.clock import slept_s
from serstream.config import NetworkSource
from serstream.errors import PacketError
from serstream.inbox import AHEAD_S, LEAST_SAMPLES, PAST_RUNS, PATIENCE_S, QUEUE_S, now_s
from serstream.packets import SCHEMA, Header, Packet
from serstream.pcm import from_float
from serstream.remote import Remote
from serstream.resampler import Resampler
from serstream.ring import Block, Hole

RATE = 16_000
STALL_S = 2.0
NOISE = np.random.default_rng(0).uniform(-1, 1, 96_000).astype(np.float32)


class Sender:
    """One run of a sender, whose clock is what the test says."""

    def __init__(self, source: Remote, rate: int = RATE, at_s: float | None = None, format_: str = "f32le") -> None:
        self.source, self.rate, self.format = source, rate, format_
        self.run: UUID = uuid4()
        self.next = self.sent = 0
        self.at_s = now_s() if at_s is None else at_s

    def packet(self, first: int, samples: np.ndarray, *, end: bool = False) -> Packet:
        fields = {"stream": "a", "run": self.run, "sample_rate": self.rate, "format": self.format}
        header = Header(schema=SCHEMA, first_sample=first, end=end, **fields)
        return Packet.of(header, from_float(samples, self.format))

    def send(self, n: int, *, late_s: float = 0.0) -> None:
        """Send the next samples, of which the last was captured just now."""
        samples = NOISE[np.arange(self.next, self.next + n) % NOISE.size]
        self.at_s += n / self.rate
        self.source.inbox.put(self.packet(self.next, samples), self.at_s + late_s)
        self.next += n
        self.sent += 1

    def skip(self, n: int) -> None:
        """Lose the next samples."""
        self.next += n
        self.at_s += n / self.rate

    def end(self) -> None:
        self.source.inbox.put(self.packet(self.next, NOISE[:0], end=True), self.at_s)


@pytest.fixture
def source() -> Remote:
    made = Remote(NetworkSource(stall_s=STALL_S))
    made.open()
    return made


def read_all(source: Remote) -> list[Block | Hole]:
    """Read what is there, without waiting."""
    items = []
    while (item := source.read(0.0)) is not None:
        items.append(item)
    return items


def holes(items: list[Block | Hole]) -> list[tuple[Any, ...]]:
    return [(h.phase, h.cause, h.lost_samples, h.estimated) for h in items if isinstance(h, Hole)]


def heard(items: list[Block | Hole]) -> np.ndarray:
    return np.concatenate([NOISE[:0], *(item.samples for item in items if isinstance(item, Block))])


def assert_continuous(items: list[Block | Hole]) -> None:
    """Every item begins where the last one ended, plus what was lost; every start has its end before the next."""
    first, opened = 0, None
    for item in items:
        if isinstance(item, Block):
            assert opened is None
            assert item.first_sample == first
            first += item.samples.size
            continue
        assert (item.phase == "start") == (opened is None)
        assert opened in (None, item.cause)
        opened = item.cause if item.phase == "start" else None
        first += item.lost_samples if item.phase == "end" and item.cause != "non_finite" else 0
        assert item.first_sample == first


def assert_balanced(source: Remote) -> None:
    source.close()
    c = source.counters
    assert c["captured"] == c["consumed"] + c["ring_overruns"] + c["unread"]


def lost(items: list[Block | Hole], cause: str) -> int:
    return sum(item.lost_samples for item in items if isinstance(item, Hole) and item[:2] == ("end", cause))


# --- what comes in order


@pytest.mark.parametrize("format_", ["f32le", "s16le"])
def test_packets_become_the_samples_that_were_sent(source, format_):
    sender = Sender(source, format_=format_)
    for n in (800, 1, 160, 16_000):
        sender.send(n)
    items = read_all(source)
    expected = (
        NOISE[:16_961] if format_ == "f32le" else np.clip(np.rint(NOISE[:16_961] * 2**15), None, 2**15 - 1) / 2**15
    )
    np.testing.assert_array_equal(heard(items), expected.astype(np.float32))
    assert_continuous(items)
    assert source.status == "running"
    assert source.counters["runs"] == 1
    assert_balanced(source)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_another_rate_is_resampled_as_any_other_source(source, rate):
    sender = Sender(source, rate)
    for n in (400, 1, 4000, 3000):
        sender.send(n)
    sender.end()
    whole = Resampler(rate, RATE).push(NOISE[:7401, np.newaxis], last=True)
    np.testing.assert_array_equal(heard(read_all(source)), whole)


def test_reading_without_time_returns_at_once_and_with_time_waits_for_the_next_packet(source):
    assert source.read(0.0) is None
    begin_s = time.monotonic()
    assert source.read(0.05) is None
    assert time.monotonic() - begin_s >= 0.05


def test_a_block_was_captured_when_its_packet_came_however_late_the_others_were(source):
    sender = Sender(source, at_s=now_s() - 1.0)
    times = []
    for late_s in (0.0, 0.3, 0.0, 0.1):
        sender.send(800, late_s=late_s)
        times += [item.captured_s for item in read_all(source)]
    begin_s = now_s() - 1.0 - slept_s()
    np.testing.assert_allclose(np.array(times) - begin_s, [0.05, 0.1, 0.15, 0.2], atol=0.02)


def test_the_clock_of_a_sender_that_is_slow_is_followed(source):
    sender = Sender(source, at_s=now_s() - 200.0)
    for n in range(2000):
        sender.send(1600, late_s=n * 10e-6)  # 100 parts in a million
        block = source.read(0.0)
    assert block.captured_s + slept_s() == pytest.approx(sender.at_s + 0.02, abs=0.01)


def test_what_is_not_finite_is_replaced_and_told_of(source):
    sender = Sender(source)
    bad = NOISE[:800].copy()
    bad[7:9] = np.nan, np.inf
    source.inbox.put(sender.packet(0, bad), sender.at_s)
    items = read_all(source)
    assert holes(items) == [("start", "non_finite", 2, False), ("end", "non_finite", 2, False)]
    bad[7:9] = 0
    np.testing.assert_array_equal(heard(items), bad)


def test_whoever_asked_is_called_at_every_packet_that_is_taken_and_at_no_other(source):
    calls: list[None] = []
    assert source.call(lambda: calls.append(None))
    sender = Sender(source)
    sender.send(800)
    sender.send(800)
    with pytest.raises(PacketError):
        source.inbox.put(sender.packet(0, NOISE[:800]), now_s())
    assert len(calls) == 2
    sender.end()
    assert len(calls) == 3


def waiting_for(source, n_samples):
    """Return a sender, of whom the source waits for so many samples together, and what is called for."""
    sender, calls = Sender(source, at_s=now_s()), []
    sender.send(800)
    assert source.read(0.0).samples.size == 800
    assert source.call(lambda: calls.append(None))
    source.want(n_samples)
    return sender, calls


def test_what_is_wanted_together_is_called_for_and_read_together(source):
    sender, calls = waiting_for(source, 2_000)
    sender.send(800)
    sender.send(800)
    assert source.read(0.0) is None
    assert calls == []
    sender.send(800)
    assert len(calls) == 1
    assert source.read(0.0).samples.size == 2_400
    assert source.read(0.0) is None


def test_wanting_less_than_waits_calls_at_once(source):
    sender, calls = waiting_for(source, 2_000)
    sender.send(800)
    source.want(800)
    assert len(calls) == 1
    assert source.read(0.0).samples.size == 800


def test_no_sound_waits_for_long_for_what_may_not_come(source):
    sender, calls = waiting_for(source, 2_000)
    sender.at_s -= PATIENCE_S + 0.1
    sender.send(800)
    assert len(calls) == 1
    assert source.read(0.0).samples.size == 800


def test_the_end_of_a_run_and_a_mute_wait_for_nothing(source):
    sender, calls = waiting_for(source, 2_000)
    sender.send(800)
    sender.end()
    assert len(calls) == 1
    block, hole = read_all(source)
    assert (block.samples.size, hole.cause) == (800, "network")
    calls.clear()
    source.mute()
    assert len(calls) == 1


# --- what is missing


@pytest.mark.parametrize("rate", [16_000, 8_000, 48_000, 44_100])
def test_a_jump_of_the_index_is_a_hole_that_is_counted(source, rate):
    sender = Sender(source, rate)
    sender.send(rate)
    sender.skip(rate // 2)
    sender.send(rate)
    sender.skip(3 * rate)
    sender.send(rate)
    items = read_all(source)
    assert_continuous(items)
    assert [h[:2] for h in holes(items)] == 2 * [("start", "network"), ("end", "network")]
    assert not any(h[3] for h in holes(items))
    first, second = (h[2] for h in holes(items) if h[0] == "end")
    assert (first, second) == (pytest.approx(8000, abs=2), pytest.approx(48_000, abs=2))
    begin = [item.first_sample for item in items if isinstance(item, Block)]
    assert {24_000, 88_000} <= set(begin), "no rounding adds up"
    assert source.counters["network"] == first + second
    assert_balanced(source)


@pytest.mark.parametrize("skipped", [0, 400])
def test_silence_loses_the_stream_until_it_goes_on_and_only_what_is_missing_was_lost(source, skipped):
    sender = Sender(source, at_s=now_s() - 10.0)
    sender.send(800)
    items = read_all(source)
    assert source.status == "lost"
    assert holes(items) == [("start", "network", 0, False)]
    assert source.read(0.0) is None
    sender.at_s = now_s()
    sender.skip(skipped)
    sender.send(800)
    items += read_all(source)
    assert holes(items)[1:] == [("end", "network", skipped, False)]
    assert source.status == "running"
    assert source.counters["network"] == skipped
    assert_continuous(items)
    assert_balanced(source)


def test_a_source_that_nobody_has_sent_to_loses_nothing_and_is_lost_after_a_while(source):
    assert source.status == "starting"
    assert source.read(0.0) is None
    source.inbox.last_s -= STALL_S + 1
    assert source.read(0.0) is None
    assert source.status == "lost"
    sender = Sender(source)
    sender.skip(5000)
    sender.send(800)
    (block,) = read_all(source)
    assert block.first_sample == 0
    assert source.status == "running"


def test_another_run_continues_the_session_over_what_the_clock_says_was_lost(source):
    first = Sender(source, at_s=now_s() - 5.0)
    first.send(8000)
    second = Sender(source, rate=48_000, at_s=first.at_s + 0.75)
    second.next = 77  # what was sent before we heard it
    second.send(4800)
    second.send(4800)
    items = read_all(source)
    assert holes(items)[:2] == [("start", "network", 12_000, True), ("end", "network", 12_000, True)]
    assert_continuous(items)
    assert source.counters["network"] == 12_000
    assert source.counters["runs"] == 2


def test_another_run_ends_the_hole_that_the_silence_of_the_last_began(source):
    first = Sender(source, at_s=now_s() - 5.0)
    first.send(8000)
    items = read_all(source)
    second = Sender(source, at_s=first.at_s + 4.0)
    second.send(800)
    items += read_all(source)
    assert holes(items) == [("start", "network", 0, False), ("end", "network", 64_000, True)]
    assert_continuous(items)


def test_a_run_that_takes_over_at_once_begins_behind_a_hole_without_length(source):
    first = Sender(source)
    first.send(8000)
    Sender(source, at_s=first.at_s - 1.0).send(800)
    items = read_all(source)
    assert holes(items) == [("start", "network", 0, True), ("end", "network", 0, True)]
    assert_continuous(items)


def test_between_the_end_of_a_run_and_the_next_nothing_is_lost_and_the_index_stands(source):
    first = Sender(source, at_s=now_s() - 100.0)
    first.send(8000)
    first.skip(1000)
    first.end()
    items = read_all(source)
    ended = [("start", "network", 1000, False), ("end", "network", 1000, False), ("start", "network", 0, False)]
    assert holes(items) == ended, "the end tells how much there was"
    assert source.status == "lost"
    Sender(source).send(800)
    items += read_all(source)
    assert holes(items)[3:] == [("end", "network", 0, False)]
    assert items[-1].first_sample == 9000
    assert source.status == "running"
    assert source.counters["network"] == 1000
    assert_continuous(items)
    assert_balanced(source)


def test_a_reader_that_stays_away_loses_what_comes_last_and_that_is_counted(source):
    sender = Sender(source)
    for _ in range(round(QUEUE_S / 0.05) + 30):
        sender.send(800)
    items = [source.read(0.0)]
    sender.skip(160)
    sender.send(800)
    items += read_all(source)
    assert heard(items).size == QUEUE_S * RATE + 800
    told = holes(items)
    assert [h[:3] for h in told if h[0] == "end"] == [("end", "ring_overrun", 24_000), ("end", "network", 160)]
    assert source.counters["ring_overruns"] == 24_000
    assert_continuous(items)
    assert_balanced(source)


def test_what_was_not_read_is_accounted_for_at_the_end(source):
    sender = Sender(source)
    sender.send(800)
    assert isinstance(source.read(0.0), Block)
    for _ in range(round(QUEUE_S / 0.05) + 10):
        sender.send(800)
    assert_balanced(source)
    assert source.counters["unread"] == QUEUE_S * RATE
    assert source.counters["ring_overruns"] == 8000
    assert source.ended
    assert source.read(0.0) is None
    source.close()


def test_tiny_packets_do_not_fill_the_memory(source):
    sender = Sender(source, at_s=now_s())
    for _ in range(5000):
        sender.send(1)
    assert heard(read_all(source)).size == QUEUE_S * RATE / LEAST_SAMPLES


# --- what is refused


def refuse(source: Remote, packet: Packet, sentence: str, at_s: float | None = None) -> None:
    before = source.counters["packets_refused"]
    with pytest.raises(PacketError, match=sentence) as caught:
        source.inbox.put(packet, now_s() if at_s is None else at_s)
    assert "\n" not in str(caught.value)
    assert source.counters["packets_refused"] == before + 1


def test_what_comes_late_or_again_is_refused_and_the_stream_goes_on(source):
    sender = Sender(source)
    sender.send(800)
    for first in (0, 400, 799):
        refuse(source, sender.packet(first, NOISE[:800]), f"sends sample {first} late or again; the next is 800")
    sender.send(800)
    np.testing.assert_array_equal(heard(read_all(source)), NOISE[:1600])


def test_a_run_has_one_rate(source):
    sender = Sender(source)
    sender.send(800)
    sender.rate = 48_000
    refuse(source, sender.packet(800, NOISE[:800]), "changes from 16000 to 48000 Hz")


def test_a_run_that_ended_or_was_replaced_does_not_come_back(source):
    first, second = Sender(source), Sender(source)
    first.send(800)
    second.send(800)
    refuse(source, first.packet(800, NOISE[:800]), "goes on with run .*, which has ended, or a newer one came")
    second.end()
    refuse(source, second.packet(800, NOISE[:800]), "goes on with run")
    refuse(source, Sender(source).packet(0, NOISE[:0], end=True), "of which nothing was heard")


def test_of_past_runs_some_are_remembered(source):
    runs = [Sender(source) for _ in range(PAST_RUNS + 1)]
    for run in runs:
        run.send(1)
    refuse(source, runs[0].packet(1, NOISE[:1]), "goes on with run")


def test_an_index_that_is_far_ahead_of_the_clock_is_refused(source):
    sender = Sender(source)
    sender.send(800)
    far = round((AHEAD_S + 10.0) * RATE)
    refuse(
        source, sender.packet(far, NOISE[:800]), "70 s of its run after 5 s; send sound no faster", sender.at_s + 5.0
    )
    refuse(source, sender.packet(2**53, NOISE[:800]), "no faster than it lasts", sender.at_s + 5.0)
    source.inbox.put(sender.packet(far, NOISE[:800]), sender.at_s + 15.0)
    assert source.counters["packets_refused"] == 2


# --- muted


def test_muting_begins_a_hole_at_once_and_what_comes_meanwhile_is_thrown_away_and_counted(source):
    sender = Sender(source)
    sender.send(800)
    items = read_all(source)
    source.mute()
    items += read_all(source)
    assert holes(items) == [("start", "muted", 0, False)]
    sender.send(800)
    sender.skip(100)
    sender.send(800)
    assert read_all(source) == []
    assert source.status == "muted"
    source.unmute()
    assert source.status == "starting"
    sender.send(800)
    items += read_all(source)
    assert holes(items)[1:] == [("end", "muted", 1700, False)]
    assert source.counters["muted"] == 1700
    assert heard(items).size == 1600
    assert_continuous(items)
    assert_balanced(source)


def test_a_run_that_began_while_muted_is_measured_by_the_clock(source):
    first = Sender(source, at_s=now_s() - 5.0)
    first.send(800)
    items = [source.read(0.0)]
    source.mute()
    items += read_all(source)
    second = Sender(source, at_s=first.at_s + 1.0)
    second.send(800)
    assert read_all(source) == []
    source.unmute()
    second.send(800)
    items.append(source.read(0.0))
    assert holes(items)[1:] == [("end", "muted", 16_800, True)]


def test_muted_before_its_first_packet_a_source_counts_from_that(source):
    source.mute()
    items = read_all(source)
    sender = Sender(source)
    sender.send(800)
    assert read_all(source) == []
    source.unmute()
    sender.send(800)
    items += read_all(source)
    assert holes(items) == [("start", "muted", 0, False), ("end", "muted", 800, False)]
    assert_continuous(items)


def test_a_stream_that_comes_back_while_muted_ends_its_hole_and_is_muted_from_there(source):
    first = Sender(source, at_s=now_s() - 50.0)
    first.send(800)
    first.end()
    items = read_all(source)
    source.mute()
    assert read_all(source) == []
    second = Sender(source)
    second.send(800)
    source.read(0.0)
    source.unmute()
    second.send(800)
    items_after = read_all(source)
    assert holes(items) == [("start", "network", 0, False)]
    assert source.counters["muted"] == 800
    assert source.counters["network"] == 0
    assert items_after[-1].first_sample == 1600


# --- whatever happens

STEPS = st.sampled_from(
    [
        "send",
        "send",
        "send",
        "skip",
        "again",
        "restart",
        "end",
        "mute",
        "unmute",
        "silence",
        "read",
        "read all",
        "burst",
    ]
)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEPS, max_size=60), rate=st.sampled_from([16_000, 8_000, 44_100]))
def test_whatever_happens_the_index_goes_on_holes_never_nest_and_every_sample_is_accounted_for(steps, rate):
    source = Remote(NetworkSource(stall_s=STALL_S))
    source.open()
    sender = Sender(source, rate)
    ended = False
    items: list[Block | Hole] = []
    for step in steps:
        match step:
            case "send" | "burst" if not ended:
                for _ in range(1 if step == "send" else 25):
                    sender.send(rate // 2)
            case "skip":
                sender.skip(rate // 3)
            case "again" if sender.sent and not ended:
                with pytest.raises(PacketError):
                    source.inbox.put(sender.packet(0, NOISE[:1]), sender.at_s)
            case "restart":
                sender, ended = Sender(source, rate, sender.at_s + 0.5), False
            case "end" if sender.sent and not ended:
                ended = True
                sender.end()
            case "mute":
                source.mute()
            case "unmute":
                source.unmute()
            case "silence":
                source.inbox.last_s = now_s() - 2 * STALL_S
            case "read":
                items += [item] if (item := source.read(0.0)) else []
            case "read all":
                items += read_all(source)
    items += read_all(source)
    assert_continuous(items)
    assert all(a.first_sample <= b.first_sample for a, b in pairwise(items))
    assert lost(items, "ring_overrun") <= source.counters["ring_overruns"]
    assert lost(items, "network") == source.counters["network"]
    assert lost(items, "muted") == source.counters["muted"]
    assert_balanced(source)


def test_a_reader_that_waits_is_woken_by_a_packet(source):
    sender = Sender(source)
    sending = threading.Timer(0.05, lambda: sender.send(800))
    sending.start()
    assert isinstance(source.read(30.0), Block)
    sending.join()


# --- what no room sounds like


def test_a_sender_of_nothing_but_zeros_has_a_fault_until_it_is_another_run():
    source = Remote(NetworkSource(silence_s=1.0))
    source.open()
    muted = Sender(source)
    for _ in range(8):
        source.inbox.put(muted.packet(muted.next, np.zeros(3_200, np.float32)), muted.at_s)
        muted.next += 3_300  # packets are lost on the way, the silence goes on
    read_all(source)
    assert source.fault == "silence"
    Sender(source).send(3_200)
    read_all(source)
    assert source.fault is None
