"""serstream as a process, as its users meet it. Threads read what it prints, and every wait has a limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from serstream import Emotion, Health, Lost, Subscriber, request

LIMIT_S = float(os.environ.get("SERSTREAM_LIMIT_S", "30"))
"""No wait is longer; a machine that is busy with other things may need more."""
PROMPT_S = 5.0
"""What is over in a second on an idle machine is so within this on any; only what hangs is not."""
COMMAND = [sys.executable, "-m", "serstream"]
KEEPS_ON = {"kind": "synthetic", "signal": "silence"}
"""A source that never ends, beside one whose events are to be asked for afterwards."""


class Output:
    """The lines of a stream so far."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def until(self, wanted: Callable[[str], Any], limit_s: float = LIMIT_S) -> str:
        """Wait for the first line, from the beginning, that is wanted."""

        def found() -> str | None:
            return next((line for line in self.lines if wanted(line)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self._ended, limit_s)
            line = found()
        assert line is not None, f"not among {self.lines[-20:]}"
        return line

    def all(self) -> list[str]:
        """Wait for the end of the stream and return its lines."""
        self._thread.join(LIMIT_S)
        return self.lines


class Serstream:
    """A running command; the end of the ``with`` block kills it if it is still there."""

    def __init__(
        self,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        stdin: Any = subprocess.DEVNULL,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, *COMMAND, *map(str, arguments)],
            env={**os.environ, **(env or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = Output(self.process.stdout), Output(self.process.stderr)

    def end(self, number: int | None = None, limit_s: float = LIMIT_S) -> int:
        """Send a signal, if one is given, and return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(limit_s)
        self.out.all()
        self.err.all()
        return status

    def __enter__(self) -> Serstream:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.end()
        if self.process.stdin:
            self.process.stdin.close()


class Daemon(Serstream):
    """``serstream run`` with endpoints and a configuration of its own in ``folder``."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *arguments: object, **options: Any) -> None:
        endpoints = {"events": f"ipc://{folder}/events", "control": f"ipc://{folder}/control"}
        self._transport = endpoints | config.get("transport", {})
        self.events, self.control = self._transport["events"], self._transport["control"]
        self.path = folder / "config.yaml"
        self.configure(config)
        super().__init__("run", "--config", self.path, *arguments, **options)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration (JSON is YAML)."""
        self.path.write_text(json.dumps({**config, "transport": self._transport}))

    def ready(self) -> Daemon:
        """Wait until the endpoints are bound and the kernels compiled."""
        self.err.until(lambda line: " ready, " in line)
        return self

    def ask(self, name: str, **fields: Any) -> Any:
        return request(self.control, name, LIMIT_S, **fields)

    def replay(self, source: str) -> list[dict[str, Any]]:
        """Return every event of a source since the start."""
        events = self.ask("replay", source=source)
        assert len(events) < 500, "one page"
        return events

    def subscribe(self, **options: Any) -> Subscriber:
        return Subscriber(self.events, self.control, **options)

    def children(self) -> set[int]:
        """Return the process ids of the daemon's own processes: one for each open microphone, or each worker."""
        return children(self.process.pid)


def children(pid: int) -> set[int]:
    """Return the process ids of the children of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for children in tasks for child in children.read_text().split()}


def hear(subscriber: Subscriber, wanted: Callable[[Any], Any], limit_s: float = LIMIT_S) -> list[Any]:
    """Receive until an event is wanted; return all up to and with it."""
    heard: list[Any] = []
    end_s = time.monotonic() + limit_s
    while (left_s := end_s - time.monotonic()) > 0:
        event = subscriber.receive(left_s)
        if event is None:
            break
        assert not isinstance(event, Lost)
        heard.append(event)
        if wanted(event):
            return heard
    raise AssertionError(f"not heard within {limit_s} s; the last were {heard[-3:]}")


def await_true(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> None:
    """Wait for something that no event tells of."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "not within the limit"
        time.sleep(0.02)  # between two looks


def hear_out(daemon: Daemon, subscriber: Subscriber, number: int | None = None) -> list[Any]:
    """End the daemon (None: wait until it ends), and return its last events; the exit status must be 0."""
    assert daemon.end(number) == 0, daemon.err.lines
    heard: list[Any] = []
    while (event := subscriber.receive(0.3)) is not None:
        assert not isinstance(event, Lost)
        heard.append(event)
    return heard


def is_emotion(phase: str) -> Callable[[Any], bool]:
    return lambda event: isinstance(event, Emotion) and event.phase == phase


def nothing_lost(health: Health) -> bool:
    """Whether every captured sample was consumed or counted as lost."""
    c = health.counters
    return c["captured"] == c["consumed"] + c["ring_overruns"] + c["unread"]


def run_script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``sh scripts/NAME`` with this Python."""
    command = ["sh", str(Path(__file__).parent.parent / "scripts" / name), *map(str, arguments)]
    env = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)
