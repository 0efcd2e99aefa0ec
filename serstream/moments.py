"""Moments as a person types them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from serstream.errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DAYS = {"today": 0, "yesterday": 1}


def moment_ms(text: str, option: str, now: datetime) -> int:
    """Return a moment in milliseconds since 1970 UTC.

    Parameters
    ----------
    text : str
        ``30m``, ``2h``, ``3d`` before now (s, m, h, d, w), ``today``, ``yesterday`` (their beginning), or RFC 3339; a
        date alone is its beginning. What names no zone is in that of this machine.
    option : str
        What the moment is given to, for the message.
    now : datetime
        With its zone.

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    try:
        return round(_moment(text.strip(), now).timestamp() * 1e3)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{option} {text!r} is no moment; allowed are 30m, 2h, 3d or 1w (before now), today, yesterday, "
            "or a time such as 2026-01-31T18:00:00Z"
        ) from error


def _moment(text: str, now: datetime) -> datetime:
    if ago := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", text):
        return now - timedelta(seconds=float(ago[1]) * _SECONDS[ago[2]])
    if text in _DAYS:
        day = now.date() - timedelta(days=_DAYS[text])
        text = day.isoformat()
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.astimezone()
