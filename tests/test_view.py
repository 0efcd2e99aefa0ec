"""The live view: what a person, a pipe and a picture show of the events."""

import contextlib
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from datetime import UTC

import msgspec
import pytest
from rich.console import Console

from serstream.cli import parser
from serstream.errors import EventError
from serstream.events import LABELS, Emotion, Event, Gap, Health, Posterior, Speech, decode_json
from serstream.history import Lost
from serstream.view import ViewState, export_svg, feed, print_json, print_lines, render, rows, run_view
from serstream.viewstate import TROUBLE


def common(at_s: float, source: str = "mic", session: str = "one") -> dict:
    time_at = f"2026-11-22T14:32:{at_s:09.6f}Z"
    return {
        "source": source, "session": session, "sample": round(at_s * 16_000), "stream_s": at_s, "seq": 1,
        "time": time_at,
    }  # fmt: skip


def posterior(at_s: float, state: str = "happy", level_dbfs: float = -20.0, **where: str) -> Posterior:
    if state not in LABELS:
        return Posterior(
            **common(at_s, **where),
            posterior=None,
            other=None,
            voice=None,
            speech=0.0,
            level_dbfs=-70.0,
            state=state,
        )
    chances = {label: 0.8 if label == state else 0.05 for label in LABELS}
    return Posterior(
        **common(at_s, **where), posterior=chances, other=0.1, voice={"female": 0.9, "male": 0.1}, speech=1.0,
        level_dbfs=level_dbfs, state=state,
    )  # fmt: skip


def health(at_s: float, status: str = "running", **counters: int) -> Health:
    return Health(
        **common(at_s), status=status, degraded=bool(counters), counters={"captured": 90_000, **counters},
        rtf=0.012, latency_p50_s=0.21, latency_p99_s=0.34, topics={},
    )  # fmt: skip


SCENE: list[Event | Lost] = [
    health(1.0),
    Speech(**common(1.2), phase="start", start_s=1.0),
    posterior(2.0),
    Emotion(**common(2.0), phase="onset", id=1, label="happy", probability=0.7, start_s=1.0),
    Emotion(**common(3.0), phase="update", id=1, label="happy", probability=0.75, start_s=1.0),
    posterior(3.0),
    Emotion(**common(4.5), phase="offset", id=1, label="happy", probability=0.7, start_s=1.0, end_s=4.5),
    Speech(**common(4.6), phase="end", start_s=1.0, end_s=4.5, label="happy", probability=0.72, posterior=None),
    posterior(4.6, "no_speech"),
    Gap(**common(5.0), phase="start", cause="muted", lost_samples=0, estimated=False),
    Gap(**(common(6.0) | {"seq": 2}), phase="end", cause="muted", lost_samples=16_000, estimated=True),
    health(6.0, "muted"),
    Lost("serstream.v1.mic.emotion", "one", 3, 6),
]


def state_of(*items: Event | Lost, **options: object) -> ViewState:
    """Play items at their own stream time, as they would arrive."""
    state = ViewState(tz=UTC, **options)
    now_s = 0.0
    for item in items:
        now_s = getattr(item, "stream_s", now_s)
        state.advance(now_s)
        state.update(item, now_s)
    state.advance(now_s + 0.9)
    return state


def text_of(state: ViewState, width: int = 80, height: int = 24) -> str:
    return "\n".join(row.plain for row in rows(state, width, height))


@pytest.mark.parametrize("scene", [[], SCENE[:6], SCENE], ids=["empty", "happy", "whole"])
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (110, 24), (250, 70), (60, 20), (30, 8), (8, 2)])
def test_the_picture_fills_the_terminal_exactly(scene, size):
    width, height = size
    picture = rows(state_of(*scene), width, height)
    assert len(picture) == height
    assert {row.cell_len for row in picture} == {width}


def test_the_same_events_at_the_same_times_give_the_same_picture():
    assert rows(state_of(*SCENE), 100, 30) == rows(state_of(*SCENE), 100, 30)


def test_a_picture_at_rest_does_not_change():
    state = state_of(posterior(2.0))
    state.advance(4.5)
    before = rows(state, 80, 24)
    state.advance(4.6)
    assert rows(state, 80, 24) == before


def test_every_state_is_said_in_words_when_the_terminal_is_small():
    for label in LABELS:
        assert f" {label.upper()} " in text_of(state_of(posterior(2.0, label)), 60, 16)
    assert "HARD TO TELL" in text_of(state_of(posterior(2.0, "uncertain")), 60, 16)
    assert "LISTENING" in text_of(state_of(posterior(2.0, "no_speech")), 60, 16)


def test_every_word_of_the_headline_can_be_drawn_in_large_letters():
    for label in (*LABELS, "uncertain", "no_speech"):
        assert "█" in text_of(state_of(posterior(2.0, label))).splitlines()[2]
    for status in ("starting", "stalled", "lost", "muted", "failed"):
        assert "█" in text_of(state_of(health(2.0, status))).splitlines()[2]


def test_an_emotion_lasts_from_its_onset():
    assert "for 2 s" in text_of(state_of(*SCENE[:6]))
    assert "for 1 min 06 s" in text_of(
        state_of(Emotion(**common(59.0), phase="update", id=4, label="sad", probability=0.6, start_s=-7.0))
    )


def test_the_time_moves_on_between_events_but_not_without_them():
    state = ViewState(tz=UTC)
    state.update(posterior(2.0), 2.0)
    state.update(posterior(5.5), 5.5)
    assert "for 3 s" in text_of(state)
    state.advance(6.2)
    assert "for 4 s" in text_of(state)
    state.advance(8.5)
    assert "for 4 s" in text_of(state)


def test_when_events_stop_the_picture_says_so_and_the_bars_sink():
    state = state_of(posterior(2.0), waiting_for="a daemon at tcp://127.0.0.1:5755")
    for tenth in range(100):
        state.advance(2.0 + tenth / 10)
    text = text_of(state)
    assert "mic  silent" in text
    assert "no news for 9 s from a daemon at tcp://127.0.0.1:5755" in text
    assert "▄▄" not in "\n".join(text.splitlines()[7:13])


def test_before_the_first_event_the_picture_says_what_is_waited_for_and_what_to_do():
    text = text_of(ViewState(waiting_for="a daemon at tcp://127.0.0.1:5755", hint="start one: serstream run"))
    assert "for a daemon at tcp://127.0.0.1:5755" in text
    assert "start one: serstream run" in text
    assert "Ctrl-C stops" in text


def test_bars_stand_for_the_probability_and_other_is_among_them():
    lines = {line.split()[1]: line for line in text_of(state_of(posterior(2.0))).splitlines()[7:12]}
    assert lines["happy"].count("▄") == pytest.approx(0.8 * 61, abs=1)
    assert lines["calm"].count("▄") == pytest.approx(0.05 * 61, abs=1)
    assert lines["happy"].rstrip().endswith("80%")
    assert "other" in text_of(state_of(posterior(2.0))).splitlines()[12]


def test_the_peak_stays_when_the_level_falls_and_follows_later():
    state = state_of(posterior(2.0, level_dbfs=-6.0))
    state.update(posterior(3.0, level_dbfs=-40.0), 3.0)
    at = [line.index("┃") for line in text_of(state).splitlines() if "┃" in line]
    state.advance(3.3)
    assert [line.index("┃") for line in text_of(state).splitlines() if "┃" in line] == at
    state.advance(6.0)
    assert [line.index("┃") for line in text_of(state).splitlines() if "┃" in line] < at


def test_recent_events_show_when_how_long_and_how_sure():
    text = text_of(state_of(*SCENE[:9]), 120, 40)
    assert "14:32:01  ▲ happy" in text
    assert "3.5 s  70%" in text
    assert "3.5 s  happy 72%" in text


def test_one_emotion_is_one_line_however_many_updates_come():
    updates = [
        Emotion(**common(float(s)), phase="update", id=1, label="sad", probability=0.7, start_s=1.0)
        for s in range(2, 40)
    ]
    assert text_of(state_of(*updates), 120, 40).count("▼ sad   ") == 2  # the bar's name and the one recent line


def test_losses_are_shown_with_their_share_and_number():
    text = text_of(state_of(health(1.0, input_overflows=9_000, ring_overruns=1_000), SCENE[-1]), 100, 24)
    assert "lost 10.00%, 4 events" in text
    assert "4 emotion events lost on the way" in text
    assert "no losses" in text_of(state_of(health(1.0)))


def test_a_microphone_that_was_unplugged_counts_as_a_loss_and_one_that_is_gone_promises_none():
    assert "lost 10.00%" in text_of(state_of(health(1.0, device_lost=10_000)))
    assert "lost 10.00%" in text_of(state_of(health(1.0, stalled=10_000)))
    assert "no losses" in text_of(state_of(health(1.0, muted=10_000)))
    assert "no losses" not in text_of(state_of(health(1.0, "lost")))


def test_the_length_of_a_gap_is_known_at_the_first_sample():
    gap = Gap(**common(0.0), phase="start", cause="non_finite", lost_samples=8_000, estimated=False)
    out = io.StringIO()
    print_lines(feed([gap]), out, tz=UTC)
    assert "8000 samples lost (0.50 s)" in out.getvalue()


def test_every_command_that_the_view_names_exists():
    named = {word for _, sentence in TROUBLE.values() for word in re.findall(r"serstream (\w+)", sentence)}
    assert named
    for word in named:
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([word, "--help"])
        assert ended.value.code == 0


def test_a_gap_tells_its_cause_and_its_length_in_seconds():
    text = text_of(state_of(*SCENE[9:11]))
    assert text.count("gap") == 1
    assert re.search(r"14:32:05  ! gap +1\.0 s  muted", text)


def test_gaps_of_two_causes_that_overlap_stay_apart():
    gaps = [
        Gap(**common(at_s), phase=phase, cause=cause, lost_samples=lost, estimated=False)
        for at_s, phase, cause, lost in [
            (5.0, "start", "muted", 0),
            (6.0, "start", "ring_overrun", 0),
            (7.0, "end", "ring_overrun", 8_000),
            (9.0, "end", "muted", 64_000),
            (9.5, "start", "muted", 0),
        ]
    ]
    lines = [line.split() for line in text_of(state_of(*gaps), 150, 40).splitlines() if "! gap" in line]
    assert [line[line.index("gap") + 1 :] for line in lines] == [
        ["muted"], ["0.5", "s", "ring", "overrun"], ["4.0", "s", "muted"]
    ]  # fmt: skip


def test_a_muted_source_shows_that_in_place_of_an_emotion():
    text = text_of(state_of(posterior(2.0), health(2.2, "muted")))
    assert "serstream unmute" in text
    assert "for 0 s" not in text


def test_each_further_source_gets_a_row_and_the_chosen_one_the_picture():
    events = [posterior(2.0), posterior(2.0, "angry", source="kitchen"), posterior(2.0, "sad", source="hall")]
    text = text_of(state_of(*events))
    assert "kitchen          ■ angry" in text
    assert "hall             ▼ sad" in text
    assert "mic              ▲ happy" in text_of(state_of(*events, source="hall"))


def test_a_new_session_starts_afresh_and_keeps_the_recent_events():
    state = state_of(*SCENE[:7], posterior(0.3, "calm", session="two"))
    text = text_of(state)
    assert "the daemon was started again" in text
    assert "3.5 s" in text
    assert state.main.state == "calm"


def test_replayed_events_of_the_past_do_not_change_the_present():
    old = Emotion(**common(1.0), replayed=True, phase="onset", id=1, label="sad", probability=0.6, start_s=0.5)
    state = state_of(posterior(9.0), old)
    assert state.main.state == "happy"
    assert "▼ sad" in text_of(state).split("recent")[1]


def test_without_colour_glyphs_still_tell_the_emotions_apart():
    newest = set()
    for label in LABELS:
        console = Console(file=io.StringIO(), force_terminal=True, no_color=True, width=80, height=24)
        console.print(render(state_of(posterior(2.0, label)), 80, 24))
        assert "38;2;" not in console.file.getvalue()
        newest.add(re.search(r"(\S)\S*  now", re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue()))[0][-6])
    assert len(newest) == len(LABELS)


def test_lines_tell_emotion_speech_gap_loss_and_changes_of_status_without_posteriors():
    out = io.StringIO()
    print_lines(feed([*SCENE, health(7.0, "muted")]), out, tz=UTC)
    assert out.getvalue().splitlines() == [
        "14:32:01  mic  status running",
        "14:32:01  mic  speech starts",
        "14:32:02  mic  happy begins (70%)",
        "14:32:03  mic  happy for 2.0 s (75%)",
        "14:32:04  mic  happy ends after 3.5 s",
        "14:32:04  mic  speech ends after 3.5 s, happy 72%",
        "14:32:05  mic  gap starts, muted: 0 samples lost (0.00 s)",
        "14:32:06  mic  gap ends, muted: about 16000 samples lost (1.00 s)",
        "14:32:06  mic  status running -> muted",
        "--:--:--  mic  4 emotion events lost on the way (seq 3 to 6)",
    ]


def test_json_holds_every_event_and_every_loss_one_object_a_line():
    out = io.StringIO()
    print_json(feed(SCENE), out)
    lines = out.getvalue().splitlines()
    assert [decode_json(line.encode()) for line in lines[:-1]] == SCENE[:-1]
    assert json.loads(lines[-1]) == {"type": "lost", **msgspec.structs.asdict(SCENE[-1])}


def test_each_line_is_flushed_before_the_next_event_is_awaited():
    pipe_out, pipe_in = os.pipe()
    items = iter(SCENE[:1])

    def receive(timeout_s: float) -> Event | Lost | None:
        if item := next(items, None):
            return item
        assert select.select([pipe_out], [], [], 0)[0]
        raise EOFError

    with open(pipe_in, "w") as out:
        print_json(receive, out)
    os.close(pipe_out)


PROGRAM = """
import itertools, sys
from rich.console import Console
from serstream.events import Posterior
from serstream.view import ViewState, feed, print_json, run_view
event = Posterior(source="mic", session="s", sample=0, stream_s=0.0, posterior=None, other=None, voice=None,
                  speech=0.0, level_dbfs=-70.0, state="no_speech")
if sys.argv[1] == "json":
    print_json(feed(itertools.repeat(event)), sys.stdout)
else:
    import threading
    state = ViewState(waiting_for="a daemon")
    first = iter([event])
    nothing = threading.Event()
    run_view(lambda s: next(first, None) or (nothing.wait(s) and None), Console(), state=state)
"""


def test_a_reader_that_goes_away_ends_the_lines_quietly():
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"{")
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def read_until(terminal: int, wanted: bytes, timeout_s: float = 30.0) -> bytes:
    seen, end_s = b"", time.monotonic() + timeout_s
    while wanted not in seen:
        assert select.select([terminal], [], [], max(0.0, end_s - time.monotonic()))[0], seen[-500:]
        seen += os.read(terminal, 65536)
    return seen


def read_to_end(terminal: int) -> bytes:
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the program has closed its side
        while some := os.read(terminal, 65536):
            seen += some
    return seen


def test_ctrl_c_gives_the_terminal_back_and_ends_with_0():
    program, terminal = pty.fork()
    if program == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "PYTHONUTF8": "1"}
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM, "view"])
    seen = read_until(terminal, b"Ctrl-C stops")
    assert b"\x1b[?1049h" in seen
    os.write(terminal, b"\x03")
    given_back = read_to_end(terminal)
    assert b"\x1b[?1049l" in given_back
    assert b"\x1b[?25h" in given_back
    assert os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]) == 0
    os.close(terminal)


def test_where_nothing_can_be_drawn_the_view_prints_lines():
    out = io.StringIO()
    run_view(feed(SCENE), Console(file=out), state=ViewState(tz=UTC))
    assert "14:32:02  mic  happy begins (70%)" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_message_that_is_no_event_is_told_and_the_next_one_is_read(capsys):
    replies = iter([EventError("b'x' is not an event"), SCENE[0], EOFError()])

    def receive(timeout_s: float) -> Event | Lost | None:
        if isinstance(reply := next(replies), Exception):
            raise reply
        return reply

    out = io.StringIO()
    print_lines(receive, out, tz=UTC)
    assert out.getvalue() == "14:32:01  mic  status running\n"
    assert capsys.readouterr().err == "serstream: b'x' is not an event\n"


def test_the_svg_is_well_formed_and_tells_what_the_terminal_tells(tmp_path):
    path = tmp_path / "listen.svg"
    export_svg(state_of(*SCENE[:6]), path)
    svg = ET.parse(path).getroot()
    words = {element.text for element in svg.iter() if element.tag.endswith("text")}
    assert {"happy", "80%", "14:32:01", "dBFS", "speech", "Ctrl-C"} <= words
    assert not any(block in path.read_text(encoding="utf-8") for block in "█▀▄▖")
