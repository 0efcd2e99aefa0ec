"""How much each client may ask."""

from __future__ import annotations

from collections.abc import Hashable

_LEAST_SWEPT = 1024


class Allowance:
    """A bucket of tokens for each client, in one number: when it will be full again.

    Parameters
    ----------
    per_s : float
        Requests a second in the long run.
    burst : int
        Requests at once of a client that has been quiet.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._interval_s, self._burst_s = 1.0 / per_s, (burst + 0.5) / per_s  # half a token is for rounding
        self._full_s: dict[Hashable, float] = {}
        self._sweep_at = _LEAST_SWEPT

    def __len__(self) -> int:
        """Return how many clients are remembered."""
        return len(self._full_s)

    def take(self, client: Hashable, now_s: float) -> bool:
        """Take a token of a client at a monotonic time in seconds; False if none is left."""
        full_s = max(self._full_s.get(client, now_s), now_s) + self._interval_s
        if full_s > now_s + self._burst_s:
            return False
        self._full_s[client] = full_s
        self._sweep(now_s)
        return True

    def _sweep(self, now_s: float) -> None:
        """Forget clients whose bucket is full, now and then: amortised constant time."""
        if len(self._full_s) >= self._sweep_at:
            self._full_s = {client: full_s for client, full_s in self._full_s.items() if full_s > now_s}
            self._sweep_at = max(_LEAST_SWEPT, 2 * len(self._full_s))
