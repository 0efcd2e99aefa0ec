"""Training as a process, as its users start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def train(*arguments: str | Path, status: int = 0, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run ``python -m serstream.training`` to its end, which must be with this status."""
    command = [sys.executable, "-m", "serstream.training", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == status, done.stderr
    return done
