"""Where this process may run. Loads nothing: it comes before NumPy, which counts the cores when it is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_on(cores: set[int] | None) -> Iterator[None]:
    """Keep this thread, and all that it starts meanwhile, on these cores; None for where it may run anyway."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if cores is None else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, and those that it starts meanwhile, on one core.

    A library that is imported here counts one core, and starts no threads to share its work.
    """
    with only_on({max(os.sched_getaffinity(0))}):
        yield
