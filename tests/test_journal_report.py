"""What `serstream history` finds and prints, moments as they are typed, and EmotionML."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from journals import Kept, held

from serstream.cli import main
from serstream.emotionml import NAMESPACE
from serstream.errors import ConfigError
from serstream.events import LABELS, Speech
from serstream.journal_report import COLUMNS
from serstream.moments import moment_ms

NOW = datetime(2026, 3, 5, 12, 0, tzinfo=UTC)
ML = f"{{{NAMESPACE}}}"


def at(second: float) -> str:
    return f"2026-03-05T10:00:{second:06.3f}Z"


def ms(second: float) -> int:
    return round((datetime(2026, 3, 5, 10, tzinfo=UTC).timestamp() + second) * 1e3)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two sessions: an emotion from 0.5 to 1 s of the stream and one without an end, an utterance, a posterior."""
    path = tmp_path_factory.mktemp("kept") / "own" / "events.db"
    with Kept(path) as first:
        first.emotion("porch", at(1), id=7)
    with Kept(path, posterior=True) as second:
        second.emotion(time=at(2), phase="onset", label="angry")
        second.emotion(time=at(4), phase="offset", label="angry", end_s=0.9)
        posterior = dict.fromkeys(LABELS, 0.1) | {"sad": 0.6}
        ended = {"phase": "end", "start_s": 0.25, "end_s": 0.75, "label": "sad", "probability": 0.6}
        where = {"source": "mic", "session": second.session, "sample": 16_000, "stream_s": 1.0}
        second.publisher.publish(Speech(**where, **ended, posterior=posterior), time=at(3), latency_s=0.1)
        second.posterior()
    return path, second.session


@pytest.fixture
def history(kept, capsys):
    """Return a function that runs the command in this process, and gives its lines."""

    def run(*arguments: object) -> list[str]:
        assert main(["history", "--journal", str(kept[0]), *map(str, arguments)]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def types(lines: list[str]) -> list[tuple[str, str]]:
    return [(event["source"], event["type"]) for event in map(json.loads, lines)]


POSTERIOR, PORCH, ONSET, SPEECH, OFFSET = (
    ("mic", "posterior"), ("porch", "emotion"), ("mic", "emotion"), ("mic", "speech"), ("mic", "emotion"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ((), [POSTERIOR, PORCH, ONSET, SPEECH, OFFSET]),
        (("--since", at(2)), [ONSET, SPEECH, OFFSET]),
        (("--until", at(2)), [POSTERIOR, PORCH]),
        (("--since", at(2), "--until", at(3.001), "--type", "speech", "gap"), [SPEECH]),
        (("--source", "porch"), [PORCH]),
        (("--source", "por"), []),
        (("--type", "emotion"), [PORCH, ONSET, OFFSET]),
        (("--limit", 2), [SPEECH, OFFSET]),
        (("--limit", 5), [POSTERIOR, PORCH, ONSET, SPEECH, OFFSET]),
        (("--limit", 1, "--type", "posterior", "speech"), [SPEECH]),
        (("--session", "nobody"), []),
    ],
)
def test_history_prints_what_was_asked_for_by_its_time(asked, found, history):
    assert types(history("--json", *asked)) == found


def test_history_of_one_session_alone(history, kept):
    assert types(history("--json", "--session", kept[1])) == [POSTERIOR, ONSET, SPEECH, OFFSET]


def test_a_table_has_a_line_for_every_event_with_its_date(history):
    lines = history()
    assert len(lines) == 5
    days = {datetime.fromisoformat(line[:19]).astimezone() for line in lines[1:]}
    assert days == {datetime.fromisoformat(at(second)) for second in (1, 2, 3, 4)}
    assert [line[19:] for line in lines[2:]] == [
        "  mic  angry begins (70%)",
        "  mic  speech ends after 0.5 s, sad 60%",
        "  mic  angry ends after 0.4 s",
    ]


def test_csv_has_the_same_columns_for_every_type(history):
    rows = list(csv.DictReader(io.StringIO("\n".join(history("--format", "csv")))))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["type"] for row in rows] == [t for _, t in (POSTERIOR, PORCH, ONSET, SPEECH, OFFSET)]
    assert (rows[3]["sad"], rows[3]["label"], rows[3]["end_s"]) == ("0.6", "sad", "0.75")
    assert rows[0]["state"] == "no_speech"
    assert rows[4]["sad"] == ""


def test_emotionml_has_the_emotions_and_utterances_with_their_start_and_end(history):
    root = ET.fromstring("\n".join(history("--format", "emotionml")))
    assert (root.tag, root.attrib) == (f"{ML}emotionml", {"version": "1.0", "category-set": "#labels"})
    vocabulary, *emotions = root
    assert (vocabulary.tag, vocabulary.attrib) == (f"{ML}vocabulary", {"type": "category", "id": "labels"})
    assert [item.get("name") for item in vocabulary] == list(LABELS)
    assert {e.tag for e in emotions} == {f"{ML}emotion"}
    times = [tuple(int(e.get(k, -1)) for k in ("start", "end")) for e in emotions]
    assert times == [(ms(2.25), ms(2.75)), (ms(3.5), ms(3.9)), (ms(0.5), -1)]
    found = [{c.get("name"): float(c.get("confidence")) for c in e.iter(f"{ML}category")} for e in emotions]
    assert found == [dict.fromkeys(LABELS, 0.1) | {"sad": 0.6}, {"angry": 0.7}, {"happy": 0.7}]
    details = [e.find(f"{ML}info/{{urn:serstream:1}}event") for e in emotions]
    assert [(d.get("type"), d.get("source")) for d in details] == [SPEECH[::-1], OFFSET[::-1], PORCH[::-1]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--since", "last tuesday"], "--since 'last tuesday' is no moment; allowed are 30m"),
        (["--until", "999999999999d"], "--until '999999999999d' is no moment"),
        (["--limit", "0"], "--limit 0 asks for no event"),
        (["--source", "Mic"], "--source names a source 'Mic'"),
        (["--journal", "/nowhere/events.db"], "there is no journal at /nowhere/events.db"),
    ],
)
def test_what_cannot_be_asked_for_is_wrong_usage(arguments, sentence, kept, capsys):
    assert main(["history", "--journal", str(kept[0]), *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"serstream: {sentence}")
    assert said.err.count("\n") == 1


def test_a_journal_that_is_damaged_is_said_and_a_failure(tmp_path, capsys):
    path = tmp_path / "events.db"
    path.write_bytes(b"no database at all" * 100)
    assert main(["history", "--journal", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"serstream: journal {path} is damaged (")


def test_the_journal_of_the_configuration_is_read(kept, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"journal": {"path": str(kept[0])}}))
    assert main(["history", "--config", str(config), "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_more_events_than_a_page_are_all_found_in_order(tmp_path):
    path = tmp_path / "own" / "events.db"
    with Kept(path) as kept:
        for second in range(1_203):
            kept.emotion(time=at(second // 100))
    assert [e.seq for e in held(path)] == list(range(1, 1_204))
    assert [e.seq for e in held(path, limit=1_001)] == list(range(203, 1_204))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("30m", NOW - timedelta(minutes=30)),
        ("1.5h", NOW - timedelta(hours=1.5)),
        ("3d", NOW - timedelta(days=3)),
        ("1w", NOW - timedelta(days=7)),
        ("today", datetime(2026, 3, 5).astimezone()),
        (" yesterday ", datetime(2026, 3, 4).astimezone()),
        ("2026-01-31", datetime(2026, 1, 31).astimezone()),
        ("2026-01-31T18:00:00.25Z", datetime(2026, 1, 31, 18, 0, 0, 250_000, UTC)),
        ("2026-01-31T18:00:00+02:00", datetime(2026, 1, 31, 16, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_time_or_so_long_ago(text, moment):
    assert moment_ms(text, "--since", NOW) == round(moment.timestamp() * 1e3)


@pytest.mark.parametrize("text", ["", "2", "2y", "-2h", "2 h", "h", "noon", "2026-13-01", "1e9d", "9999999999d", "٣d"])
def test_what_is_no_moment_is_said_with_what_is_allowed(text):
    with pytest.raises(ConfigError, match=r"^--until .* is no moment; allowed are 30m, 2h"):
        moment_ms(text, "--until", NOW)
