"""Make ``docs/listen.svg``: what ``serstream listen`` shows of a daemon that plays the embedded demo.

``python scripts/make_picture.py [SECONDS]`` runs a daemon for so many seconds (22) and draws the last moment.
"""

import subprocess
import sys
import tempfile
import time
from datetime import UTC
from pathlib import Path

from serstream.transport import Subscriber
from serstream.view import ViewState, export_svg

PICTURE = Path(__file__).parent.parent / "docs" / "listen.svg"


def main() -> None:
    """Run the daemon, follow it, draw."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 22.0
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        events, control = f"ipc://{folder}/events", f"ipc://{folder}/control"
        config.write_text(
            f"sources: {{demo: {{kind: demo}}}}\ntransport: {{events: '{events}', control: '{control}'}}\n"
        )
        with (
            subprocess.Popen([sys.executable, "-m", "serstream", "run", "--config", str(config)]) as daemon,
            Subscriber(events, control) as subscriber,
        ):
            export_svg(follow(subscriber, seconds), PICTURE)
            daemon.terminate()


def follow(subscriber: Subscriber, seconds: float) -> ViewState:
    """Return what the view knows after so many seconds of events."""
    state = ViewState(source="demo", tz=UTC)
    first = subscriber.receive(30.0)
    end_s = time.monotonic() + seconds
    while first is not None and time.monotonic() < end_s:
        item = subscriber.receive(0.05)
        state.advance(time.monotonic())
        if item is not None:
            state.update(item, time.monotonic())
    state.advance(time.monotonic())
    return state


if __name__ == "__main__":
    main()
