"""A microphone that goes wrong: whatever its schedule, nothing is lost that is not counted and announced."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faulty import ANNOUNCED, all_accounted_for, heard, survive
from hypothesis import example, given, settings
from hypothesis import strategies as st
from injected import FAULTS
from serstream_process import KEEPS_ON, Daemon, hear, run_script

from serstream import Health
from serstream.capture_clock import LATE_S
from serstream.config import MicrophoneSource, ReplaySource
from serstream.errors import SourceError
from serstream.faults import KINDS, LONGEST_S, FaultyMicrophone, Step, schedule, write
from serstream.pulled import Resume
from serstream.replay import Replay
from serstream.ring import Hole
from serstream.timing import Came, Missed, read_timing

ROOT = Path(__file__).parent.parent


STEPS = st.lists(st.builds(Step, st.sampled_from(KINDS), st.floats(0.05, LONGEST_S)), max_size=5)


@settings(max_examples=25, deadline=None)
@example(steps=[Step("overflow", 1.0), Step("stalled", 1.0)], rate=8_000, seed=0)
@example(steps=[Step("stalled", 1.0), Step("sound", 0.06), Step("overflow", 1.0)], rate=8_000, seed=0)
@given(steps=STEPS, rate=st.sampled_from([8_000, 16_000, 44_100]), seed=st.integers(0, 9))
def test_whatever_a_device_does_every_sample_is_heard_or_counted_in_a_hole_that_ends(steps, rate, seed):
    unsaid = sum(step.kind == "jump" for step in steps)  # each of them takes three seconds of sound to be sure of
    steps = [Step("sound", 1.0), *steps, *[Step("sound", 4.0)] * (1 + unsaid)]
    source = FaultyMicrophone(steps, MicrophoneSource(sample_rate=rate), seed)
    begin_s, items = source.now_s, heard(source)
    index_s = all_accounted_for(items, source.counters)
    assert index_s == pytest.approx(source.now_s - begin_s, abs=LATE_S + 0.1), "the index knows what time it is"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_is_announced_for_what_it_is_and_sound_is_heard_again(kind):
    assert survive(kind, seed=0) == ANNOUNCED.get(kind)


def test_a_seed_is_a_schedule_and_a_schedule_what_is_heard():
    assert schedule(3, 30) == schedule(3, 30) != schedule(4, 30)
    assert {step.kind for seed in range(9) for step in schedule(seed, 30)} == set(KINDS)
    one, other = (heard(FaultyMicrophone(schedule(3, 4), seed=1)) for _ in range(2))
    assert [item[:1] + item[2:] for item in one if isinstance(item, Hole)]
    for a, b in zip(one, other, strict=True):
        assert a == b if isinstance(a, Hole) else np.array_equal(a.samples, b.samples) and a[::2] == b[::2]


def test_a_microphone_hears_the_sound_that_it_is_given_in_every_channel_again_and_again():
    sound = np.arange(1, 1001, dtype=np.float32) / 1000
    steps = [Step("sound", 1.0), Step("jump", 0.5), Step("sound", 1.0)]
    for channels in (1, 2):
        items = heard(FaultyMicrophone(steps, MicrophoneSource(sample_rate=16_000, channels=channels), sound=sound))
        samples = np.concatenate([item.samples for item in items])
        np.testing.assert_array_equal(samples, np.tile(sound, 32))


# --- what was recorded, once more


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The timing of a schedule in which everything happens, and the counters at its end."""
    path = tmp_path_factory.mktemp("timing") / "mic.jsonl"
    return path, write(path, [step for kind in KINDS for step in (Step(kind, 2.0), Step("sound", 4.0))])


def test_a_replay_has_the_blocks_holes_and_counters_of_the_run_that_was_recorded(recorded):
    path, counters = recorded
    steps = [step for kind in KINDS for step in (Step(kind, 2.0), Step("sound", 4.0))]
    before, source = heard(FaultyMicrophone(steps)), Replay(ReplaySource(str(path), realtime=False))
    after = heard(source)
    assert source.counters == {**source.counters, **counters}
    for was, came in zip(before, after, strict=True):
        assert was == came if isinstance(was, Hole) else (was.first_sample, len(was[1])) == (came[0], len(came[1]))


def test_a_daemon_replays_what_was_recorded_and_records_the_same_again(recorded, tmp_path):
    path, counters = recorded
    sources = {"mic": {"kind": "replay", "path": str(path), "realtime": False}, "other": KEEPS_ON}
    with (
        Daemon(tmp_path, {"sources": sources}, "--record", tmp_path / "new") as daemon,
        daemon.subscribe() as subscriber,
    ):
        daemon.ready()
        hear(subscriber, lambda e: isinstance(e, Health) and e.counters.get("consumed") == counters["consumed"])
        gaps = [(e["phase"], e["cause"], e["lost_samples"]) for e in daemon.replay("mic") if e["type"] == "gap"]
        last = daemon.ask("status")["sources"]["mic"]["counters"]
        assert daemon.end(signal.SIGTERM) == 0
    assert {name: last[name] for name in counters} == counters
    (again,) = (tmp_path / "new").glob("mic.*.jsonl")
    for timing in (path, again):
        assert [(m.phase, m.cause, m.lost_samples) for m in read_timing(timing) if isinstance(m, Missed)] == gaps
    sizes = [[line.n_samples for line in read_timing(t) if isinstance(line, Came)] for t in (path, again)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("folder", ["/proc/nowhere", "file"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_opened(folder, tmp_path):
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "serstream", "run", "--source", "demo", "--record", str(tmp_path / folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "name another" in done.stderr


def test_no_sound_is_in_a_timing(recorded):
    path, counters = recorded
    assert path.stat().st_size < counters["captured"] / 100
    assert {type(line).__name__ for line in read_timing(path)} == {"Came", "Missed", "Stood"}


def test_a_replay_goes_on_where_another_was(recorded):
    path, _ = recorded
    source = Replay(ReplaySource(str(path), realtime=False))
    items = heard(source)
    middle = items[len(items) // 2]
    rest = Replay(ReplaySource(str(path), realtime=False))
    rest.go_on(Resume(middle.first_sample, 0.0, {}, emotions=0, slept_s=0.0))
    goes_on = heard(rest)
    assert (goes_on[0].cause, goes_on[1].first_sample) == ("worker_restart", middle.first_sample)
    assert goes_on[-1].first_sample == items[-1].first_sample


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "is no serstream-timing/1"),
        (b"RIFF\xff\n", "is no serstream-timing/1"),
        (b'{"schema":"serstream-timing/2","source":"a","session":"b","started_s":0}\n', "is no serstream-timing/1"),
        (b'{"source":"a","session":"b","started_s":0}\n["block",0,"many",null]\n', "line 2 of .* record it again"),
    ],
)
def test_what_is_no_timing_is_said_in_a_sentence(tmp_path, text, sentence):
    (tmp_path / "x.jsonl").write_bytes(text)
    source = Replay(ReplaySource(str(tmp_path / "x.jsonl")))
    with pytest.raises(SourceError, match=sentence):
        source.open()
    source.close()


def test_a_timing_that_is_not_there_is_said_and_one_that_was_cut_off_is_played_to_there(tmp_path, recorded):
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        Replay(ReplaySource(str(tmp_path / "x.jsonl"))).open()
    (tmp_path / "x.jsonl").write_bytes(recorded[0].read_bytes()[:-5])
    lines = list(read_timing(recorded[0]))
    assert list(read_timing(tmp_path / "x.jsonl")) == lines[:-1]


def test_the_command_writes_a_timing_and_never_over_a_file(tmp_path):
    command = [sys.executable, "-m", "serstream.faults", str(tmp_path / "x.jsonl"), "--steps", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "captured " in done.stdout
    assert list(read_timing(tmp_path / "x.jsonl"))
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (again.returncode, "name a new file" in again.stderr) == (2, True)


# --- the command that injects all faults


def test_the_command_injects_says_as_what_each_was_announced_and_writes_it(tmp_path):
    done = run_script(
        "faults", "--times", 2, "--only", "device_stuck", "device_blocks", "--json", tmp_path / "found.json"
    )
    assert done.returncode == 0, done.stderr
    assert "device_stuck" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["schema"] == "serstream-faults/1"
    assert [(f["name"], f["survived"], f["announced"], f["failure"]) for f in found["faults"]] == [
        ("device_stuck", 2, {"stuck": 2}, None),
        ("device_blocks", 2, {}, None),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--times", "0"], "times are 1 to 1000"),
        (["--only", "earthquake"], "earthquake is no fault; name some of device_removed_and_returned, "),
        (
            ["--only", "device_lost", "--json", "/nowhere/x.json"],
            "cannot be written: No such file or directory; name another file",
        ),
    ],
)
def test_what_the_command_is_asked_wrongly_is_refused_before_anything_happens(arguments, sentence):
    done = run_script("faults", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_every_fault_is_in_the_document():
    text = (ROOT / "docs/faults.md").read_text()
    names = [*FAULTS, *(f"device_{kind}" for kind in KINDS if kind != "sound")]
    assert len(names) >= 25
    assert [name for name in names if f"`{name}`" not in text] == []
