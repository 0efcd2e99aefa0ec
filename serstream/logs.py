"""Where the log goes."""

from __future__ import annotations

import logging
import sys


def log_to_stderr(level: int | str) -> None:
    """Write the package's log to standard error, from this level on."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("serstream").setLevel(level)
