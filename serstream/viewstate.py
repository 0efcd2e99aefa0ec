"""What a view knows: events and losses in, everything that a picture shows out; pure, time is an argument."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo

from serstream.events import (
    LABELS,
    SAMPLE_RATE,
    TOPIC_PREFIX,
    AnyEvent,
    Emotion,
    Event,
    Gap,
    Health,
    Posterior,
    Speech,
)
from serstream.history import Lost

Item = AnyEvent | Lost
Receive = Callable[[float], Item | None]
"""Waits at most so many seconds, returns what came or None, raises EOFError when nothing more will come."""

TROUBLE = {
    "starting": ("starting", "the source is being opened"),
    "stalled": ("stalled", "the source is open, but no sound comes out of it"),
    "lost": ("no sound", "the source is gone; it is taken up again as soon as it is back"),
    "muted": ("muted", "nothing is heard; serstream unmute opens the ears again"),
    "failed": ("failed", "the source cannot be used; the daemon's log says why"),
}
_QUIET_DBFS = -60.0
_EASE_S = 0.12
_PEAK_HOLD_S = 1.5
_PEAK_FALL_PER_S = 0.4
STALE_S = 3.5


def feed(items: Iterable[Item]) -> Receive:
    """Return a ``receive`` that hands out these items, without waiting, and then raises EOFError."""
    iterator = iter(items)

    def receive(_timeout_s: float) -> Item | None:
        for item in iterator:
            return item
        raise EOFError

    return receive


@dataclass
class Entry:
    """One line of the recent events; ``duration_s`` grows while the emotion lasts."""

    key: tuple[str, object]
    clock: str
    look: str
    words: str
    duration_s: float | None = None
    detail: str = ""


@dataclass
class SourceView:
    """What is known of one source; ``target`` and (eased) ``shown`` hold fractions (0 to 1) of the bars."""

    source: str
    session: str = ""
    state: str = ""
    since_s: float = 0.0
    stream_s: float = 0.0
    heard_s: float = 0.0
    last: Posterior | None = None
    health: Health | None = None
    speaking: bool = False
    lost_events: int = 0
    peak: float = 0.0
    peak_s: float = 0.0
    target: dict[str, float] = field(default_factory=dict)
    shown: dict[str, float] = field(default_factory=dict)
    recent: deque[Entry] = field(default_factory=lambda: deque(maxlen=100))
    states: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=1000))

    @property
    def status(self) -> str:
        """The status of the last health event; ``running`` until one came."""
        return self.health.status if self.health else "running"


class ViewState:
    """Everything that the picture shows, built from events alone.

    Not thread-safe: one thread calls it. Times are seconds of any clock that never goes back.

    Parameters
    ----------
    source : str or None
        Id of the source that is shown in full; None takes the first that is heard of.
    waiting_for : str
        What is waited for while no event has come, for example ``a daemon at tcp://127.0.0.1:5755``.
    hint : str
        What a person may do about it.
    tz : tzinfo or None
        Zone of the clock times; None is the local one.
    """

    def __init__(
        self,
        *,
        source: str | None = None,
        waiting_for: str = "the first sound",
        hint: str = "",
        tz: tzinfo | None = None,
    ) -> None:
        self.source = source
        self.waiting_for = waiting_for
        self.hint = hint
        self.tz = tz
        self.now_s = 0.0
        self.refused = 0
        self.sources: dict[str, SourceView] = {}

    @property
    def main(self) -> SourceView | None:
        """The source that is shown in full, if it was heard of."""
        return self.sources.get(self.source) if self.source else next(iter(self.sources.values()), None)

    def update(self, item: Item, now_s: float) -> None:
        """Take one event or loss that arrived at ``now_s``."""
        self.now_s = max(self.now_s, now_s)
        if isinstance(item, Lost):
            self._lose(item)
            return
        view = self._of(item.source, item.session)
        view.heard_s = self.now_s
        match item:
            case Posterior():
                self._hear(view, item)
            case Emotion():
                self._feel(view, item)
            case Speech():
                self._speak(view, item)
            case Gap():
                self._miss(view, item)
            case Health():
                view.health = item
                if item.status in TROUBLE:
                    _rest(view)
        view.stream_s = max(view.stream_s, item.stream_s)

    def advance(self, now_s: float) -> None:
        """Let the bars and the peak move on to ``now_s``."""
        passed_s = max(0.0, now_s - self.now_s)
        self.now_s += passed_s
        for view in self.sources.values():
            if self.now_s - view.heard_s > STALE_S:
                _rest(view)
            _ease(view, passed_s, self.now_s)

    def _of(self, source: str, session: str) -> SourceView:
        view = self.sources.setdefault(source, SourceView(source, session, heard_s=self.now_s))
        if view.session != session:
            entries = view.recent
            view = self.sources[source] = SourceView(source, session, heard_s=self.now_s, recent=entries)
            entries.appendleft(Entry((session, "session"), "", "", "the daemon was started again"))
        return view

    def _hear(self, view: SourceView, event: Posterior) -> None:
        if event.stream_s < view.stream_s:
            return
        if event.state != view.state:
            view.state, view.since_s = event.state, event.stream_s
        view.last = event
        view.states.append((event.stream_s, event.state))
        posterior = event.posterior or {}
        view.target = {label: posterior.get(label, 0.0) for label in LABELS}
        view.target["other"] = event.other or 0.0
        view.target["female"] = event.voice.get("female", 0.5) if event.voice else 0.5
        view.target["level"] = min(1.0, max(0.0, 1.0 - event.level_dbfs / _QUIET_DBFS))
        if view.target["level"] >= view.peak:
            view.peak, view.peak_s = view.target["level"], self.now_s

    def _feel(self, view: SourceView, event: Emotion) -> None:
        lasted_s = (event.end_s if event.end_s is not None else event.stream_s) - event.start_s
        entry = self._entry(view, event, event.id, event.start_s)
        entry.look, entry.words, entry.duration_s = event.label, event.label, lasted_s
        entry.detail = f"{event.probability:.0%}" + (" now" if event.phase != "offset" else "")
        if event.phase != "offset" and event.stream_s >= view.stream_s:
            view.state, view.since_s = event.label, event.start_s

    def _speak(self, view: SourceView, event: Speech) -> None:
        if event.stream_s >= view.stream_s:
            view.speaking = event.phase == "start"
        if event.end_s is not None:
            entry = self._entry(view, event, ("utterance", event.start_s), event.start_s)
            entry.words, entry.duration_s, entry.detail = (
                "utterance",
                event.end_s - event.start_s,
                told(event),
            )

    def _miss(self, view: SourceView, event: Gap) -> None:
        entry = self._entry(view, event, ("gap", event.cause), event.stream_s)
        entry.look, entry.words, entry.detail = "gap", "gap", event.cause.replace("_", " ")
        if event.phase == "end":
            # the next gap of this cause is another one
            entry.duration_s, entry.key = lost_s(event), (event.session, None)

    def _lose(self, item: Lost) -> None:
        source, words = loss(item)
        view = self._of(source, item.session)
        view.lost_events += item.n_events
        view.recent.appendleft(Entry((item.session, None), "", "gap", words))

    def _entry(self, view: SourceView, event: Event, key: object, start_s: float) -> Entry:
        """Return the line of this event, new or as it stands, for something that began at ``start_s``."""
        for entry in view.recent:
            if entry.key == (event.session, key):
                return entry
        entry = Entry((event.session, key), clock_time(event, start_s, self.tz), "", "")
        view.recent.appendleft(entry)
        return entry


def _ease(view: SourceView, passed_s: float, now_s: float) -> None:
    """Move what is shown towards its target; arrive, so that a picture at rest is not drawn again."""
    share = 1.0 - math.exp(-passed_s / _EASE_S)
    for name, target in view.target.items():
        shown = view.shown.get(name, 0.0)
        shown += (target - shown) * share
        view.shown[name] = target if abs(target - shown) < 0.002 else shown
    if now_s - view.peak_s > _PEAK_HOLD_S:
        view.peak = max(view.target.get("level", 0.0), view.peak - passed_s * _PEAK_FALL_PER_S)


def _rest(view: SourceView) -> None:
    """Let the bars sink: nothing is heard of this source."""
    view.last, view.state, view.speaking = None, "", False
    for entry in view.recent:
        entry.detail = entry.detail.removesuffix(" now")
    view.target = dict.fromkeys(view.target, 0.0)


def lost_s(event: Gap) -> float:
    """Return the length of a gap in seconds."""
    return event.lost_samples / SAMPLE_RATE


def clock_time(event: Event, at_s: float, tz: tzinfo | None) -> str:
    """Return ``HH:MM:SS`` of the moment ``at_s`` of the stream, or its minutes when ``event`` has no time."""
    if not event.time:
        return f"{int(at_s // 60):5d}:{int(at_s % 60):02d}"
    moment = datetime.fromisoformat(event.time) - timedelta(seconds=event.stream_s - at_s)
    return moment.astimezone(tz).strftime("%H:%M:%S")


def loss(item: Lost) -> tuple[str, str]:
    """Return the source of lost events, and the words for them."""
    source, _, kind = item.topic.removeprefix(TOPIC_PREFIX).partition(".")
    return source, f"{item.n_events} {kind} events lost on the way"


def standing(event: Health) -> str:
    """Return the status of a source, and its fault if it has one."""
    return event.status if event.fault is None else f"{event.status} ({event.fault})"


def told(event: Speech) -> str:
    return f"{event.label} {event.probability or 0.0:.0%}" if event.label else "too short"
