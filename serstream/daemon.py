"""The daemon: owns the publisher, what hears the sources, signals, health, the watchdog and the order of the end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from serstream import __version__
from serstream.admission import IN_DAEMON, parts, workers_for
from serstream.audio import Inlet
from serstream.config import Config, NetworkSource, load
from serstream.endpoints import allow_connections
from serstream.errors import ConfigError, SerstreamError
from serstream.events import AnyEvent, Health
from serstream.gate import Gate
from serstream.hearing import HEALTH_S, Hearing, Orders, Standing, Wishes
from serstream.history import Request
from serstream.journal import Journal
from serstream.manifest import Model, load_model
from serstream.pipeline import thresholds
from serstream.profiles import find as find_profile
from serstream.publisher import Publisher
from serstream.resources import packaged
from serstream.signals import Bell
from serstream.sources import Remote
from serstream.systemd import Notifier, Progress
from serstream.worker_process import DEADLINE_S, WorkerProcess

STOP_LIMIT_S = 0.7
LIVE_KEYS = ("decision", "log_level")
"""What ``reload`` applies without a restart."""

_log = logging.getLogger(__name__)
_package_log = logging.getLogger("serstream")


def find_model(name: str) -> Model:
    """Load a shipped model by name, or a model folder by path.

    Raises
    ------
    ConfigError
        If there is no such model.
    ModelError
        If it cannot be used.
    """
    try:
        folder = packaged(f"models/{name}")
    except FileNotFoundError as error:
        folder = Path(os.path.expanduser(name))
        if not os.path.isdir(folder):
            raise ConfigError(
                f"model {name!r} is neither a shipped model nor a folder that this user can see; use serstream "
                "or open, or name a folder with manifest.json and model.tflite"
            ) from error
    return load_model(folder)


class Daemon:
    """One run of serstream.

    Making it binds the endpoints, compiles the kernels and loads the model; :meth:`run` returns when it was asked to
    stop or every source has ended.

    Parameters
    ----------
    config : Config
    path : Path
        Where the configuration came from: ``reload`` reads it again.
    base : Config, optional
        What was read there, where the command line changed ``config``.
    record : Path, optional
        Folder into which the timing of the sources is written.

    Attributes
    ----------
    hearings : list of Hearing and WorkerProcess
        What hears the sources: this process, others, or both.
    """

    def __init__(self, config: Config, path: Path, base: Config | None = None, record: Path | None = None) -> None:
        self.config, self.path = config, path
        self._base = config if base is None else base
        self._record = None if record is None else str(record)
        self.session = str(uuid.uuid4())
        self.model = find_model(config.model)
        thresholds(self.model.manifest, config.decision)
        self._progress = Progress()
        self._notifier = Notifier()
        self._wake = Bell()
        self._stopping = False
        self._reload_asked = False
        self._started_s = time.monotonic()
        self._lock = threading.Lock()
        self._wishes = Wishes(decision=config.decision, log_level=_package_log.getEffectiveLevel())
        self._late: list[str] = []
        self._turn = 0
        orders = self._orders()
        self.hearings = self._hearings(orders, workers_for(orders, config.workers))
        t = config.transport
        allow_connections()
        with contextlib.ExitStack() as opened:
            self.gate = None if t.curve is None else Gate(t.curve.key, t.curve.clients)
            if self.gate is not None:
                opened.callback(self.gate.close)
            self.journal = None if config.journal is None else Journal(config.journal, self.session)
            if self.journal is not None:
                opened.callback(self.journal.close)
            self.publisher = Publisher(
                t.events,
                t.control,
                session=self.session,
                handler=self._answer,
                insecure=t.insecure,
                ipc_mode=t.ipc_mode,
                gate=self.gate,
                replay_s=t.replay_s,
                replay_mb=t.replay_mb,
                recorder=self.journal,
            )
            opened.callback(self.publisher.close)
            self.inlet = self._open_inlet()
            opened.pop_all()

    def _orders(self) -> Orders:
        c, manifest = self.config, self.model.manifest
        named = {source_id: source.profile for source_id, source in c.sources.items() if source.profile is not None}
        return Orders(
            session=self.session,
            started_s=time.time(),
            sources=c.sources,
            speech=c.speech,
            wishes=self._wishes,
            manifest=manifest,
            network=self.model.content,
            runtime=c.runtime,
            record=self._record,
            profiles={source_id: find_profile(name, manifest.front_end).mean for source_id, name in named.items()},
        )

    def _hearings(self, orders: Orders, n_workers: int) -> list[Hearing | WorkerProcess]:
        ours = {s: c for s, c in orders.sources.items() if n_workers == 0 or isinstance(c, IN_DAEMON)}
        others = {s: c for s, c in orders.sources.items() if s not in ours}
        report: dict[str, Any] = {"on_progress": self._beat, "on_end": self._wake.ring}
        found: list[Hearing | WorkerProcess] = []
        if ours:
            found.append(Hearing(msgspec.structs.replace(orders, sources=ours), self, **report))
        for number, part in enumerate(parts(others, n_workers), 1):
            their = msgspec.structs.replace(orders, sources={source_id: others[source_id] for source_id in part})
            found.append(WorkerProcess(number, their, self, **report))
        return found

    def publish(self, event: AnyEvent, *, time: str, latency_s: float) -> AnyEvent:
        """Publish what was heard; called from any thread."""
        if self.journal is not None and isinstance(event, Health):
            event = self.journal.mark(event)
        return self.publisher.publish(event, time=time, latency_s=latency_s)

    def _beat(self, loop: str) -> None:
        self._progress.beat(loop, time.monotonic())

    def _open_inlet(self) -> Inlet | None:
        t = self.config.transport
        if t.audio is None:
            return None
        inboxes = {
            stream.config.stream_of(source_id): stream.source.inbox
            for hearing in self.hearings
            if isinstance(hearing, Hearing)
            for source_id, stream in hearing.streams.items()
            if isinstance(stream.config, NetworkSource) and isinstance(stream.source, Remote)
        }
        return Inlet(t.audio, inboxes, insecure=t.insecure, ipc_mode=t.ipc_mode, gate=self.gate)

    def run(self) -> None:
        """Serve until asked to stop or until every source has ended; called from the main thread.

        Raises
        ------
        SerstreamError
            If a source failed: the whole daemon stops, since a part that is dead must not pass for silence.
        """
        with self._signals():
            try:
                self._start()
                while not self._done():
                    self._tend()
            finally:
                self.close()
        for error in self._errors():
            if isinstance(error, SerstreamError):
                raise error
            raise SerstreamError(f"the analysis failed ({error!r}); the log says more") from error

    def _start(self) -> None:
        for hearing in self.hearings:
            for loop in hearing.loops:
                self._progress.register(loop, DEADLINE_S, time.monotonic())
            hearing.start()
        while not (self._done() or all(hearing.ready for hearing in self.hearings)):
            self._wake.wait()
        _log.info(
            "serstream %s ready, session %s, events on %s", __version__, self.session, self.publisher.events_endpoint
        )
        self._notifier.ready(f"listening to {', '.join(self.config.sources)}")

    def stop(self) -> None:
        """Ask :meth:`run` to return; called from any thread or signal handler."""
        self._stopping = True
        self._wake.ring()

    def close(self) -> None:
        """End in order: sources, analysis, events, endpoints; within a second. Calling it again does nothing."""
        self._notifier.stopping()
        if self.inlet is not None:
            self.inlet.close()
        for hearing in self.hearings:
            hearing.stop()
        until_s = time.monotonic() + STOP_LIMIT_S
        for hearing in self.hearings:
            if not hearing.close(max(0.0, until_s - time.monotonic())):
                _log.error("the analysis did not stop in time; its last events are lost")
        self.publisher.close()
        if self.journal is not None:
            self.journal.close()
        if self.gate is not None and not self.publisher.alive:  # or it would wait for the endpoints for ever
            self.gate.close()

    def _errors(self) -> list[Exception]:
        return [hearing.error for hearing in self.hearings if hearing.error is not None]

    def _done(self) -> bool:
        return self._stopping or bool(self._errors()) or all(hearing.ended for hearing in self.hearings)

    def _tend(self) -> None:
        """One turn of the main loop: wait, then reload if woken for it, or health and the watchdog."""
        turns = max(hearing.turns for hearing in self.hearings)
        if self._wake.wait(HEALTH_S / turns):
            if self._reload_asked:
                self._reload_asked = False
                self._reload_and_log()
            return
        for hearing in self.hearings:
            for loop in hearing.tend():
                self._progress.remove(loop)
        self._turn = (self._turn + 1) % turns
        if not self._turn:
            self._feed_watchdog()

    def _standings(self) -> dict[str, Standing]:
        found: dict[str, Standing] = {}
        for hearing in self.hearings:
            found |= hearing.standings()
        return {source_id: found[source_id] for source_id in self.config.sources}

    def _feed_watchdog(self) -> None:
        now_s = time.monotonic()
        late = self._progress.late(now_s) + ([] if self.publisher.alive else ["control"])
        late += [] if self.inlet is None or self.inlet.alive else ["audio"]
        late += [] if self.journal is None or self.journal.alive else ["journal"]
        late += [] if self.gate is None or self.gate.alive else ["gate"]
        if late != self._late:
            self._late = late
            if late:
                _log.error("no progress for %.0f s: %s; the watchdog is not fed", DEADLINE_S, ", ".join(late))
            else:
                _log.warning("all goes on; the watchdog is fed again")
        if late:
            return
        self._notifier.watchdog()
        if self._notifier.enabled:
            self._notifier.status(", ".join(f"{name} {standing.words}" for name, standing in self._standings().items()))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Obey SIGTERM, SIGINT and SIGHUP, a request to reload unless the terminal has gone, while serving.

        What was ignored when we started, as nohup does, stays ignored.
        """
        had_terminal = _has_terminal()

        def on_stop(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        def on_hangup(_number: int, _frame: FrameType | None) -> None:
            if had_terminal and not _has_terminal():  # a closed window must close the microphone
                self.stop()
                return
            self._reload_asked = True
            self._wake.ring()

        handlers = {signal.SIGTERM: on_stop, signal.SIGINT: on_stop, signal.SIGHUP: on_hangup}
        before = {
            number: signal.signal(number, handler)
            for number, handler in handlers.items()
            if signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _answer(self, request: Request) -> Any:
        """Answer a control request; on the control thread."""
        match request.request:
            case "status":
                return self.status()
            case "mute":
                return self._for_each(request.source, "mute")
            case "unmute":
                return self._for_each(request.source, "unmute")
            case "reload":
                return self.reload()
        raise ConfigError(
            f"request {request.request[:60]!r} is unknown; allowed are snapshot, replay, status, mute, unmute, reload"
        )

    def _for_each(self, source_id: str | None, action: str) -> dict[str, str]:
        known = self.config.sources
        if source_id is not None and source_id not in known:
            raise ConfigError(f"source {source_id[:60]!r} is unknown; this daemon has {', '.join(known)}")
        chosen = [source_id] if source_id is not None else list(known)
        with self._lock:
            muted = self._wishes.muted
            self._wish(muted=muted.union(chosen) if action == "mute" else muted.difference(chosen))
        for name in chosen:
            _log.info("%s: %s asked for", name, action)
        return dict.fromkeys(chosen, action)

    def _wish(self, **changes: Any) -> None:
        self._wishes = msgspec.structs.replace(self._wishes, **changes)
        for hearing in self.hearings:
            hearing.wish(self._wishes)

    def status(self) -> dict[str, Any]:
        """Return how the daemon is, for people and programs."""
        return {
            "version": __version__,
            "session": self.session,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "config": str(self.path),
            "model": {
                "name": self.model.manifest.name,
                "sha256": self.model.manifest.sha256,
                "runtime": self.config.runtime,
            },
            "events": self.publisher.events_endpoint,
            "control": self.publisher.control_endpoint,
            "audio": None if self.inlet is None else self.inlet.status(),
            "journal": None if self.journal is None else self.journal.status(),
            "workers": [hearing.pid for hearing in self.hearings if isinstance(hearing, WorkerProcess)],
            "sources": {
                source_id: {"kind": str(self.config.sources[source_id].__struct_config__.tag)} | standing._asdict()
                for source_id, standing in self._standings().items()
            },
        }

    def reload(self) -> dict[str, list[str]]:
        """Read the configuration again; apply what can be applied live and name what needs a restart.

        Raises
        ------
        ConfigError
            If the new configuration is wrong: the old one goes on.
        """
        with self._lock:
            new = load(self.path)[0]
            changed = [key for key in Config.__struct_fields__ if getattr(new, key) != getattr(self._base, key)]
            live = {key: getattr(new, key) for key in changed if key in LIVE_KEYS}
            thresholds(self.model.manifest, new.decision)
            self._base = msgspec.structs.replace(self._base, **live)
            if "log_level" in live:
                _package_log.setLevel(new.log_level.upper())
            self._wish(decision=self._base.decision, log_level=_package_log.getEffectiveLevel())
        return {"applied": list(live), "needs_restart": [key for key in changed if key not in LIVE_KEYS]}

    def _reload_and_log(self) -> None:
        try:
            outcome = self.reload()
        except SerstreamError as error:
            _log.error("reload refused, the old configuration goes on: %s", error)
        else:
            _log.info(
                "reloaded: applied %s, a restart is needed for %s",
                outcome["applied"],
                outcome["needs_restart"],
            )


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
