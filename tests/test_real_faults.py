"""Real faults, one after another, into one running daemon: each is announced and survived, and all is accounted for.

``sh scripts/faults`` does each of them twenty times, and holds how long it took.
"""

import os

import pytest
from injected import FAULTS, MICROPHONE
from rig import Rig
from serstream_process import LIMIT_S

from serstream.bench.virtual_mic import PACKAGES, VirtualMic

pytestmark = pytest.mark.timeout(6 * LIMIT_S)
SHARED = [name for name, fault in FAULTS.items() if fault.config is MICROPHONE]


@pytest.fixture(scope="module")
def server():
    """One sound server for all tests here."""
    if missing := VirtualMic.missing():
        reason = f"no {', '.join(missing)}; install them: sudo apt install {PACKAGES}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    microphone = VirtualMic()
    yield microphone
    microphone.stop()


@pytest.fixture(scope="module")
def rig(tmp_path_factory, server):
    """Run one daemon through all faults; at its end every sample must be accounted for."""
    with Rig(tmp_path_factory.mktemp("rig"), MICROPHONE, server) as made:
        yield made
        made.end()


@pytest.mark.parametrize("name", SHARED)
def test_a_fault_of_a_microphone_is_announced_and_survived(rig, name):
    rig.inject(FAULTS[name].inject)


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in SHARED])
def test_a_fault_of_what_is_around_it_is_announced_and_survived(tmp_path, server, name):
    with Rig(tmp_path, FAULTS[name].config, server) as rig:
        rig.inject(FAULTS[name].inject)
        rig.end()
