"""The daemon: owns the publisher, the streams, their worker, signals, health, the watchdog and the order of the end."""

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
from serstream.audio import Inlet
from serstream.config import Config, NetworkSource, load
from serstream.errors import ConfigError, SerstreamError
from serstream.manifest import Model, load_model
from serstream.network import Network
from serstream.pipeline import Pipeline, thresholds
from serstream.profiles import find as find_profile
from serstream.resources import packaged
from serstream.sources import Remote
from serstream.stream import Stream
from serstream.systemd import Notifier, Progress
from serstream.transport import Publisher, Request
from serstream.worker import Worker

HEALTH_S = 1.0
LOOP_DEADLINE_S = 5.0
"""A worker that has not done what it owes for so long keeps the watchdog from being fed."""
STOP_LIMIT_S = 0.7
LIVE_KEYS = ("decision", "log_level")
"""What ``reload`` applies without a restart."""

_log = logging.getLogger(__name__)


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
    """

    def __init__(self, config: Config, path: Path, base: Config | None = None) -> None:
        self.config, self.path = config, path
        self._base = config if base is None else base
        self.session = str(uuid.uuid4())
        self.model = find_model(config.model)
        self._progress = Progress()
        self._notifier = Notifier()
        self._wake = threading.Event()
        self._stopping = False
        self._reload_asked = False
        self._started_s = time.monotonic()
        self._lock = threading.Lock()
        network = Network(self.model, config.runtime)
        pipelines = {source_id: self._pipeline(source_id, network) for source_id in config.sources}
        t = config.transport
        self.publisher = Publisher(
            t.events,
            t.control,
            session=self.session,
            handler=self._answer,
            insecure=t.insecure,
            replay_s=t.replay_s,
            replay_mb=t.replay_mb,
        )
        self.streams = {
            source_id: Stream(source_id, config.sources[source_id], pipeline, self.publisher)
            for source_id, pipeline in pipelines.items()
        }
        try:
            self.inlet = self._open_inlet()
        except BaseException:
            self.publisher.close()
            raise
        self._serving = list(self.streams.values())
        self._worker = Worker(self._serving, network, on_progress=self._beat, on_end=self._wake.set)
        self._late: list[str] = []

    def _pipeline(self, source_id: str, network: Network) -> Pipeline:
        c, manifest = self.config, self.model.manifest
        profile = c.sources[source_id].profile
        return Pipeline(
            network,
            source=source_id,
            session=self.session,
            speech=c.speech,
            decision=c.decision,
            mean=manifest.cepstral_mean(None if profile is None else find_profile(profile, manifest.front_end).mean),
        )

    def _beat(self, source_id: str) -> None:
        self._progress.beat(source_id, time.monotonic())

    def _open_inlet(self) -> Inlet | None:
        t = self.config.transport
        if t.audio is None:
            return None
        inboxes = {
            stream.config.stream_of(source_id): stream.source.inbox
            for source_id, stream in self.streams.items()
            if isinstance(stream.config, NetworkSource) and isinstance(stream.source, Remote)
        }
        return Inlet(t.audio, inboxes, insecure=t.insecure)

    def run(self) -> None:
        """Serve until asked to stop or until every source has ended; called from the main thread.

        Raises
        ------
        SerstreamError
            If a source failed: the whole daemon stops, since a part that is dead must not pass for silence.
        """
        with self._signals():
            try:
                for source_id in self.streams:
                    self._progress.register(source_id, LOOP_DEADLINE_S, time.monotonic())
                self._worker.start()
                _log.info(
                    "serstream %s ready, session %s, events on %s",
                    __version__,
                    self.session,
                    self.publisher.events_endpoint,
                )
                self._notifier.ready(f"listening to {', '.join(self.streams)}")
                while not self._done():
                    self._tend()
            finally:
                self.close()
        for stream in self.streams.values():
            if isinstance(stream.error, SerstreamError):
                raise stream.error
            if stream.error is not None:
                raise SerstreamError(
                    f"source {stream.source_id} failed ({stream.error!r}); the log says more"
                ) from stream.error

    def stop(self) -> None:
        """Ask :meth:`run` to return; called from any thread or signal handler."""
        self._stopping = True
        self._wake.set()

    def close(self) -> None:
        """End in order: sources, analysis, events, endpoints; within a second. Calling it again does nothing."""
        self._notifier.stopping()
        if self.inlet is not None:
            self.inlet.close()
        self._worker.stop()
        if not self._worker.join(STOP_LIMIT_S):
            _log.error("the analysis did not stop in time; its last events are lost")
        for stream in self._serving:
            with contextlib.suppress(SerstreamError):
                stream.publish_health()
        self.publisher.close()

    def _done(self) -> bool:
        return self._stopping or any(s.error for s in self._serving) or self._worker.join(0.0)

    def _tend(self) -> None:
        """One turn of the main loop: wait, then reload if woken for it, or health and the watchdog."""
        if self._wake.wait(HEALTH_S):
            self._wake.clear()
            if self._reload_asked:
                self._reload_asked = False
                self._reload_and_log()
            return
        for stream in list(self._serving):
            ended = self._worker.has_ended(stream.source_id)
            stream.publish_health()
            if ended and not stream.error:  # that was its last
                self._serving.remove(stream)
                self._progress.remove(stream.source_id)
        self._feed_watchdog()

    def _feed_watchdog(self) -> None:
        now_s = time.monotonic()
        late = self._progress.late(now_s) + ([] if self.publisher.alive else ["control"])
        late += [] if self.inlet is None or self.inlet.alive else ["audio"]
        if late != self._late:
            self._late = late
            if late:
                _log.error("no progress for %.0f s: %s; the watchdog is not fed", LOOP_DEADLINE_S, ", ".join(late))
            else:
                _log.warning("all goes on; the watchdog is fed again")
        if late:
            return
        self._notifier.watchdog()
        states = ", ".join(f"{s.source_id} {s.source.status}" for s in self._serving)
        self._notifier.status(states)

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
            self._wake.set()

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
            f"request {request.request!r} is unknown; allowed are snapshot, replay, status, mute, unmute, reload"
        )

    def _for_each(self, source_id: str | None, action: str) -> dict[str, str]:
        if source_id is not None and source_id not in self.streams:
            raise ConfigError(f"source {source_id!r} is unknown; this daemon has {', '.join(self.streams)}")
        chosen = [source_id] if source_id is not None else list(self.streams)
        for name in chosen:
            getattr(self.streams[name].source, action)()
            _log.info("%s: %s asked for", name, action)
        return dict.fromkeys(chosen, action)

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
            "sources": {
                s.source_id: {
                    "kind": str(s.config.__struct_config__.tag),
                    "status": "failed" if s.error else s.source.status,
                    "counters": s.counters,
                }
                for s in self.streams.values()
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
        if "decision" in live:
            for stream in self.streams.values():
                stream.apply(new.decision)
        if "log_level" in live:
            logging.getLogger("serstream").setLevel(new.log_level.upper())
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
