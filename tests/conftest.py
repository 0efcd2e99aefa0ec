"""What tests of several modules share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from serstream.bench.virtual_mic import PACKAGES, VirtualMic

ROOT = Path(__file__).parent.parent

settings.register_profile("serstream", deadline=None)  # how fast this machine is decides no test
settings.load_profile("serstream")

# A shell starts what it puts into the background with SIGINT ignored, and serstream leaves ignored signals alone:
# the processes under test must not inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, signal.SIG_DFL)


@pytest.fixture
def virtual_mic(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualMic]:
    """A sound server of this test's own; the environment of the test, and of its children, leads to it."""
    if missing := VirtualMic.missing():
        reason = f"no {', '.join(missing)}; install them: sudo apt install {PACKAGES}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    microphone = VirtualMic()
    for name, value in microphone.env.items():
        monkeypatch.setenv(name, value)
    yield microphone
    microphone.stop()


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of recordings, ``$SERSTREAM_DATA`` or ``../shared/data``."""
    folder = Path(os.environ.get("SERSTREAM_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "manifest.csv").is_file():
        reason = f"no recordings in {folder}; set SERSTREAM_DATA to a folder with their manifest.csv"
        if os.environ.get("SERSTREAM_REQUIRE_CORPUS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
