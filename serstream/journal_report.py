"""What ``history`` prints of the journal: ``table``, ``json`` (an object a line), ``csv`` or ``emotionml``."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import datetime, tzinfo
from typing import TextIO

import msgspec

from serstream.emotionml import EmotionML
from serstream.events import LABELS, AnyEvent, Emotion, Posterior, Speech, decode_json
from serstream.view import words

COLUMNS = (
    *("time", "source", "session", "seq", "type", "stream_s", "phase", "label", "probability", "start_s", "end_s"),
    *LABELS,
    *("state", "speech", "level_dbfs", "cause", "lost_samples", "estimated", "status", "degraded"),
)


def print_json(bodies: Iterable[bytes], out: TextIO) -> None:
    """Print every event as it was published."""
    for body in bodies:
        print(body.decode(), file=out)


def print_csv(bodies: Iterable[bytes], out: TextIO) -> None:
    """Print a header and a row for every event; what its type does not have stays empty."""
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for event in map(decode_json, bodies):
        fields = msgspec.to_builtins(event)
        writer.writerow(fields | (fields.get("posterior") or {}))


def print_table(bodies: Iterable[bytes], out: TextIO, tz: tzinfo | None = None) -> None:
    """Print a line for every event, its time in a zone, or in that of this machine."""
    statuses: dict[str, str] = {}
    for event in map(decode_json, bodies):
        said = f"state {event.state}" if isinstance(event, Posterior) else words(event, statuses)
        if said:
            at = datetime.fromisoformat(event.time).astimezone(tz)
            print(f"{at:%Y-%m-%d %H:%M:%S}  {event.source}  {said}", file=out)


def print_emotionml(bodies: Iterable[bytes], out: TextIO) -> None:
    """Print a document of the emotions and of the utterances with a label, each when it ends.

    An emotion without an offset in the journal stands at the end of the document, without an end.
    """
    document = EmotionML(out)
    open_emotions: dict[tuple[str, str, int], Emotion] = {}
    for event in map(decode_json, bodies):
        if isinstance(event, Emotion):
            key = (event.session, event.source, event.id)
            open_emotions[key] = event
            if event.phase == "offset":
                _add(document, open_emotions.pop(key), {event.label: event.probability})
        elif isinstance(event, Speech) and event.posterior is not None:
            _add(document, event, event.posterior)
    for emotion in open_emotions.values():
        _add(document, emotion, {emotion.label: emotion.probability})
    document.close()


def _add(document: EmotionML, event: Emotion | Speech, posterior: dict[str, float]) -> None:
    times = {"start": _at_ms(event, event.start_s)}
    if event.end_s is not None:
        times["end"] = _at_ms(event, event.end_s)
    document.add(posterior, times, {"type": event.type, "source": event.source, "session": event.session})


def _at_ms(event: AnyEvent, stream_s: float) -> int:
    """Return when a moment of the stream was captured, in milliseconds since 1970."""
    return max(0, round((datetime.fromisoformat(event.time).timestamp() - event.stream_s + stream_s) * 1e3))


PRINTERS = {"table": print_table, "json": print_json, "csv": print_csv, "emotionml": print_emotionml}
"""How events are printed, by the name of the format."""
