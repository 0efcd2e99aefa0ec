"""The checks of ``serstream doctor`` in their order, and ``python -m serstream.checks NAME``: one of them, alone.

Each runs in a process of its own: what hangs there is killed, what crashes there is a finding.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from serstream import hostchecks, installchecks, soundchecks
from serstream.errors import SerstreamError
from serstream.findings import Case, Finding, failure, said


class Check(NamedTuple):
    """One check.

    Attributes
    ----------
    run : callable
        Looks at a :class:`Case` and returns what it found; may raise.
    limit_s : float
        After so many seconds it is given up.
    needs : str or None
        A check before it that must not have failed.
    listens : bool or None
        None for what needs no microphone in the configuration; whether it opens one.
    """

    run: Callable[[Case], list[Finding]]
    limit_s: float = 60.0
    needs: str | None = None
    listens: bool | None = None


CHECKS = {
    "python": Check(installchecks.python),
    "packages": Check(installchecks.packages, limit_s=180.0),
    "configuration": Check(installchecks.configuration),
    # the first start of all compiles, which takes a small machine a minute
    "kernels": Check(installchecks.kernels, limit_s=180.0, needs="packages"),
    "model": Check(installchecks.model, limit_s=180.0, needs="packages"),
    "speed": Check(installchecks.speed, limit_s=180.0, needs="model"),
    "sound library": Check(soundchecks.sound_library, needs="packages", listens=False),
    "sound server": Check(soundchecks.sound_server, listens=False),
    "sound cards": Check(soundchecks.sound_cards, listens=False),
    "microphone": Check(soundchecks.microphone, needs="sound library", listens=False),
    "sample rates": Check(soundchecks.sample_rates, needs="microphone", listens=True),
    "capture": Check(soundchecks.capture, needs="microphone", listens=True),
    "daemon": Check(hostchecks.running_daemon),
    "ports": Check(hostchecks.ports),
    "clock": Check(hostchecks.clock),
    "disk": Check(hostchecks.disk),
    "service": Check(hostchecks.service),
}


def run(name: str, path: Path | None) -> list[Finding]:
    """Run a check on the configuration that is named, or would be found; what breaks in it is a finding."""
    try:
        return CHECKS[name].run(Case.of(path))
    except SerstreamError as error:
        return [said(name, error)]
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return [
            failure(
                name, f"the check itself broke ({what})", f"{sys.executable} -m serstream.checks '{name}' says where"
            )
        ]


def main(arguments: list[str]) -> NoReturn:
    """Print the findings of one check as JSON; ends by ``os._exit``, since libraries may hang at the end."""
    name, *paths = arguments
    signal.alarm(int(CHECKS[name].limit_s) + 1)  # when nobody is left to end it
    answer = os.dup(1)
    os.dup2(2, 1)  # libraries print as they like
    found = run(name, Path(paths[0]) if paths else None)
    os.write(answer, msgspec.json.encode(found) + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
