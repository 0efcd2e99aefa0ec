"""The memory of this process, as it is compared with itself."""

from __future__ import annotations

import ctypes
import gc
import os

from serstream.bench.processes import memory_mb

FLAT_MB = 2.0
"""What does not grow varies by no more."""

_libc = ctypes.CDLL(None)
_M_MMAP_THRESHOLD = -3
_libc.mallopt(_M_MMAP_THRESHOLD, 131_072)  # its default, but fixed: else glibc keeps ever larger blocks that are free


def settled_mb() -> float:
    """Return megabytes that belong to this process alone, after what nobody uses was collected and given back."""
    gc.collect()
    _libc.malloc_trim(0)
    return round(memory_mb(os.getpid(), "Private_Dirty"), 3)
