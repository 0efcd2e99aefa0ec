"""The time that a machine sleeps through, which its monotonic clock leaves out."""

import time

LEAST_SLEEP_S = 1.0
"""Less is no sleep: the two clocks are not read at once."""


def slept_s() -> float:
    """Return for how many seconds this machine has been suspended since it started."""
    running_s = -time.clock_gettime(time.CLOCK_MONOTONIC)
    return running_s + time.clock_gettime(time.CLOCK_BOOTTIME)
