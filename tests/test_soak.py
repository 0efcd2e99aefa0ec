"""A long time of sound with faults in it: what is owed, and the short form of ``sh scripts/soak``."""

import json

import msgspec
import pytest
from ledger import Ledger
from numbered import Numbered
from serstream_process import run_script

from serstream.events import Gap, Health, Posterior, encode

WHERE = {"source": "mic", "session": "s"}
START = Gap(**WHERE, sample=100, stream_s=0.0, phase="start", cause="stalled", lost_samples=0, estimated=True)
END = msgspec.structs.replace(START, sample=150, phase="end", lost_samples=50)
SOUND = Posterior(
    **WHERE, sample=120, stream_s=0.0, posterior=None, other=None, voice=None, speech=0.0, level_dbfs=0.0, state="sad"
)
COUNTED = {"captured": 107, "consumed": 100, "ring_overruns": 0, "unread": 7, "stalled": 50}
HEALTH = Health(
    **WHERE, sample=150, stream_s=0.0, status="running", degraded=False, counters=COUNTED,
    rtf=0.0, latency_p50_s=0.0, latency_p99_s=0.0, topics={},
)  # fmt: skip


def settled(*events):
    ledger = Ledger()
    for event in events:
        ledger.take(event)
    ledger.settle()
    return ledger


def test_a_ledger_settles_where_everything_was_heard_or_told_of():
    assert settled(START, END, HEALTH).told == {"stalled": 50}


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        ([START, HEALTH], "never ended"),
        ([START, START], "begins within"),
        ([END], "ends what did not begin"),
        ([START, msgspec.structs.replace(END, cause="muted")], "ends"),
        ([START, msgspec.structs.replace(END, lost_samples=49)], "not the samples that it says"),
        ([END, START], "ends what did not begin"),
        ([START, END, SOUND], "lies before"),
        ([HEALTH], "and counted are"),
        ([START, END, msgspec.structs.replace(HEALTH, sample=151)], "every index"),
        ([START, END, msgspec.structs.replace(HEALTH, counters=COUNTED | {"captured": 108})], "1 are missing"),
    ],
)
def test_a_ledger_does_not_settle_where_a_sample_is_missing(events, sentence):
    with pytest.raises(AssertionError, match=sentence):
        settled(*events)


def test_what_is_missing_between_two_numbers_is_counted():
    numbered = Numbered()
    for seq in (4, 5, 8):
        numbered.take(encode(msgspec.structs.replace(END, seq=seq)))
    assert (numbered.n_events, numbered.lost) == (3, 2)


def test_a_quarter_of_an_hour_with_faults_is_accounted_for_to_the_sample_and_memory_stays_flat(tmp_path):
    done = run_script("soak", "--hours", 0.25, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["schema"], found["failure"]) == ("serstream-soak/1", None)
    assert len(found["marks"]) == 12
    counters = found["counters"]
    assert all(counters[name] for name in ("ring_overruns", "input_overflows", "stalled", "device_lost", "non_finite"))
    assert all(found["events"][name] for name in ("posterior", "emotion", "speech", "gap", "health"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--hours", "0"], "hours are 0.1 to 10000"), (["--json", "/nowhere/x.json"], "cannot be written")],
)
def test_what_the_command_is_asked_wrongly_is_refused_before_anything_happens(arguments, sentence):
    done = run_script("soak", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
