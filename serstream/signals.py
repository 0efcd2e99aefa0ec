"""The signals that ask for the end, noted instead of obeyed in the middle of something."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


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
