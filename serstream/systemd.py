"""What systemd is told: readiness, status, stopping, and that every loop met its deadline.

The protocol is lines in a datagram to the socket in ``NOTIFY_SOCKET``: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

_SEND_TIMEOUT_S = 1.0


class Notifier:
    """Send notifications to the service manager; without one, every method does nothing.

    It only sends: whether the watchdog deserves its message is the question for :class:`Progress`.
    Called from the daemon's main thread only.

    Parameters
    ----------
    environ : Mapping[str, str], optional
        Where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are read, once; else ``os.environ``.

    Attributes
    ----------
    enabled : bool
        True if a service manager listens.
    watchdog_s : float or None
        Seconds within which :meth:`watchdog` must be called (call it at half of them); None without one.
    send_failures : int
        Notifications that the manager did not take.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.enabled = self._address is not None
        self.watchdog_s = _watchdog_s(environ) if self.enabled else None
        self.send_failures = 0

    def ready(self, status: str = "") -> None:
        """Say that the daemon serves: endpoints are bound and kernels compiled."""
        self._send("READY=1" + (f"\nSTATUS={_one_line(status)}" if status else ""))

    def status(self, text: str) -> None:
        """Show one line in ``systemctl status``; line breaks become spaces."""
        self._send(f"STATUS={_one_line(text)}")

    def stopping(self) -> None:
        """Say that the daemon has begun to end."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Say that all is well; does nothing where no watchdog is armed for this process."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.settimeout(_SEND_TIMEOUT_S)
                notify.connect(self._address)  # or waiting for a manager that does not read would spin
                notify.send(message.encode())
        except OSError:  # a manager that restarts must not end the daemon
            self.send_failures += 1


class Progress:
    """Which loops owe a sign of life.

    A loop that is registered must beat within its deadline. Times are seconds of one monotonic clock.
    Any thread may beat for its own loop; the others are called from the daemon's main thread.
    """

    def __init__(self) -> None:
        self._deadline_s: dict[str, float] = {}
        self._last_s: dict[str, float] = {}

    def register(self, name: str, deadline_s: float, now_s: float) -> None:
        """Expect a beat of ``name`` at most ``deadline_s`` (above 0) after ``now_s``, and after each beat.

        Raises
        ------
        ValueError
            If ``deadline_s`` is not above 0: such a loop would always be late.
        """
        if not deadline_s > 0:
            raise ValueError(f"the deadline of {name} is {deadline_s} s; it must be above 0")
        self._deadline_s[name] = deadline_s
        self._last_s[name] = now_s

    def remove(self, name: str) -> None:
        """Expect nothing more of ``name``; unknown names are ignored."""
        self._deadline_s.pop(name, None)
        self._last_s.pop(name, None)

    def beat(self, name: str, now_s: float) -> None:
        """Note that ``name`` went round; a beat of one that was removed meanwhile is ignored."""
        if name in self._deadline_s:
            self._last_s[name] = now_s

    def late(self, now_s: float) -> list[str]:
        """Return the names whose last beat is older than their deadline, sorted."""
        due = list(self._deadline_s.items())
        return sorted(name for name, deadline_s in due if now_s - self._last_s.get(name, now_s) > deadline_s)


def _address(value: str) -> str | None:
    """Turn ``NOTIFY_SOCKET`` into what the socket module takes; an abstract name has a NUL for its ``@``."""
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Read the watchdog's interval in seconds; None if it is meant for another process or is no number."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if usec.isdecimal() and int(usec) > 0 else None


def _one_line(text: str) -> str:
    return " ".join(text.split())
