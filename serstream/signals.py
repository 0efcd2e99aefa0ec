"""Signals, noted or waited for instead of obeyed in the middle of something."""

from __future__ import annotations

import contextlib
import queue
import signal
from collections.abc import Iterator


class Bell:
    """Wakes the thread that waits for it; rung from any thread, and from the handler of a signal.

    A ``threading.Event`` may not be set in a handler: the thread that the handler interrupts may hold its lock.
    """

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put is reentrant

    def ring(self) -> None:
        """Wake who waits, or who waits next; never blocks."""
        self._rings.put(None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it rings, and return whether it has since the last call; None is for ever."""
        with contextlib.suppress(queue.Empty):
            self._rings.get(timeout=timeout_s)
            for _ in range(self._rings.qsize()):
                self._rings.get_nowait()
            return True
        return False


@contextlib.contextmanager
def noted() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in the list that this gives, unless they are ignored; called from the main thread.

    In the middle of a read or a write, their handlers could leave a lock closed, or be lost.
    """
    asked: list[int] = []
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {n: signal.signal(n, lambda number, _frame: asked.append(number)) for n in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
