"""No sound, feature or embedding leaves the process or touches the disk: every system call that could is looked at."""

import codecs
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import soundfile
from serstream_process import KEEPS_ON, LIMIT_S, Daemon, await_true, hear

from serstream.daemon import find_model
from serstream.features import mfcc
from serstream.network import Network
from serstream.pipeline import Pipeline
from serstream.resources import packaged

CALLS = (
    "%file,socket,connect,bind,sendto,sendmsg,sendmmsg,write,writev,pwrite64,pwritev,pwritev2,sendfile,splice,tee,"
    "vmsplice,copy_file_range,process_vm_writev,mmap,memfd_create,io_uring_setup"
)
UNSEEN = ("sendfile", "splice", "tee", "vmsplice", "copy_file_range", "process_vm_writev", "io_uring_setup")
"""Calls that move bytes without showing them."""
STRACE = ("strace", "-ff", "--seccomp-bpf", "-qq", "-y", "-x", "-s", "4000000", "-e", f"trace={CALLS}")
SERVERS = r"/dev/shm/(jack_db-\d+/.*|jack-shm-registry|pulse-shm-\d+)|/memfd:pulseaudio.*"
"""Memory that the sound libraries share with their servers."""
SHARED = re.compile(rf"/memfd:serstream-ring.*|{SERVERS}")
WRITABLE = re.compile(
    r"/dev/(null|tty)|.*/__pycache__|.*/__pycache__/tmp[a-z0-9_]{8}|.*\.nb[ic](\.tmp\.[0-9a-f]+)?|.*\.pyc\.\d+"
    rf"|.*/cookie|{SERVERS}"
)
"""What may be opened for writing: nothing, a terminal, compiled code (after a trial whether its folder takes any), and
what belongs to a sound server. The bytes that are written are looked at all the same."""
NEEDLE_BYTES = 32
_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"(\.\.\.)?')


@pytest.fixture(autouse=True)
def strace():
    if shutil.which("strace") is None:
        reason = "no strace; install it: sudo apt install strace"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


class Calls:
    """What strace saw of a process and its children."""

    def __init__(self, folder):
        self.lines = list(chain.from_iterable(path.read_bytes().splitlines() for path in folder.glob("trace.*")))
        assert self.lines, "strace saw nothing"

    def named(self, *names):
        return [line for line in self.lines if line.partition(b"(")[0].decode() in names]

    def sent(self):
        """Return all bytes that were written or sent."""
        lines = self.named("write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg", "sendmmsg")
        found = []
        for line in lines:
            for text, cut in _STRING.findall(line):
                assert not cut, "strace has not shown all of a call"
                found.append(codecs.escape_decode(text)[0])
        return b"\0".join(found)

    def written_paths(self):
        opened = self.named("open", "openat", "creat")
        writable = [
            line for line in opened if re.search(rb"O_WRONLY|O_RDWR|O_CREAT|^creat", line) and b" = -1" not in line
        ]
        return {_STRING.search(line)[1].decode() for line in writable}

    def shared_files(self):
        """Return the files whose memory is shared with others and can be written."""
        mapped = [line for line in self.named("mmap") if b"PROT_WRITE" in line and b"MAP_SHARED" in line]
        return {path.decode() for line in mapped for path in re.findall(rb"\d+<([^>]*)>", line)}


def needles(*arrays):
    """Return aligned stretches of the bytes of arrays; of 63 bytes in a row that get out one at least is whole.

    What has little variety in it, as silence has, would be found anywhere.
    """
    found = set()
    for array in arrays:
        content = array.tobytes()
        stretches = (content[i : i + NEEDLE_BYTES] for i in range(0, len(content) - NEEDLE_BYTES + 1, NEEDLE_BYTES))
        found |= {s for s in stretches if len(set(s)) > 12}
    return found


def forms(samples):
    """Return samples as floats and whole numbers of the usual widths."""
    return [
        *(samples.astype(t) for t in (np.float32, np.float64)),
        *((samples * 32_768).astype(t) for t in ("<i2", "<i4")),
    ]


def found_in(payload, wanted):
    return [i for i in range(len(payload) - NEEDLE_BYTES + 1) if payload[i : i + NEEDLE_BYTES] in wanted]


class Watched(Network):
    """Keeps all that the network is given, remembers and answers."""

    def __init__(self, model):
        self.seen = []
        super().__init__(model)

    def trunk(self, frames, state):
        outputs, gate, after = super().trunk(frames, state)
        self.seen += [frames, outputs, gate, after]
        return outputs, gate, after

    def head(self, pooled):
        self.seen.append(pooled)
        return super().head(pooled)


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    """Eight seconds of speech, each sample a whole number of 16 bits, loud."""
    samples, rate = soundfile.read(packaged("demo.flac"), dtype="float32", frames=8 * 16_000)
    assert rate == 16_000
    path = tmp_path_factory.mktemp("privacy") / "loud.wav"
    soundfile.write(path, samples / np.abs(samples).max() * 0.9, rate, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def secrets(loud):
    """Stretches of the sound, and of all that is computed of it until it is a probability."""
    samples, _ = soundfile.read(loud, dtype="float32")
    network = Watched(find_model("serstream"))
    network.seen.clear()
    pipeline = Pipeline(network, source="a", session="s")
    pipeline.push(0, samples)
    pipeline.finish()
    sound = needles(*forms(samples))
    features = needles(mfcc(samples, network.manifest.front_end), *(x for x in network.seen if x.dtype != np.int8))
    embeddings = needles(*(x for x in network.seen if x.dtype == np.int8))
    assert min(len(sound), len(features), len(embeddings)) > 1000
    return sound | features | embeddings


def test_a_leak_would_be_found(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 2_000).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    code = (
        "import numpy as np, socket; x = np.load('noise.npy')[101:300]; a, b = socket.socketpair();"
        "open('leak', 'wb').write(b'head' + (x * 32768).astype('<i2').tobytes()); a.sendall(x.tobytes())"
    )
    subprocess.run([*STRACE, "-o", "trace", sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=LIMIT_S * 2)
    calls = Calls(tmp_path)
    as_floats, as_numbers = needles(noise), needles((noise * 32_768).astype("<i2"))
    assert found_in(calls.sent(), as_floats)
    assert found_in(calls.sent(), as_numbers)
    assert not found_in(calls.sent(), needles(np.random.default_rng(1).uniform(-0.9, 0.9, 2_000)))
    assert calls.written_paths() == {"leak"}


def end(daemon):
    """End the daemon that strace watches, which itself obeys no signal."""
    os.kill(daemon.ask("status")["pid"], signal.SIGTERM)
    assert daemon.end() == 0, daemon.err.lines


def watched(tmp_path, config):
    trace = tmp_path / "trace"
    trace.mkdir()
    return Daemon(tmp_path, config, prefix=(*STRACE, "-o", str(trace / "trace")))


def check(tmp_path, wanted):
    calls = Calls(tmp_path / "trace")
    payload = calls.sent()
    assert b'"type":"posterior"' in payload, "events were sent, and strace has shown them"
    assert found_in(payload, wanted) == []
    assert calls.named(*UNSEEN) == []
    assert [path for path in calls.written_paths() if not WRITABLE.fullmatch(path)] == []
    assert [path for path in calls.shared_files() if not SHARED.fullmatch(path)] == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2])
def test_of_a_recording_nothing_gets_out_but_events(workers, loud, secrets, tmp_path):
    talk = {"kind": "file", "path": str(loud), "realtime": False}
    config = {"sources": {"a": talk, "b": talk, "on": KEEPS_ON}, "workers": workers}
    with watched(tmp_path, config) as daemon:
        daemon.ready()
        for source in "ab":
            await_true(
                lambda source=source: any(e["type"] == "speech" and e["phase"] == "end" for e in daemon.replay(source))
            )
        end(daemon)
    check(tmp_path, secrets)


@pytest.mark.timeout(600)
def test_of_a_microphone_nothing_gets_out_but_events(virtual_mic, tmp_path):
    noise = (np.random.default_rng(0).uniform(-0.5, 0.5, 5 * 48_000) * 32_768).astype("<i2")
    soundfile.write(tmp_path / "noise.wav", noise, 48_000, subtype="PCM_16")
    with watched(tmp_path, {}) as daemon, daemon.subscribe(types="posterior") as subscriber:
        hear(subscriber, lambda event: True)
        with virtual_mic.play(tmp_path / "noise.wav"):
            hear(subscriber, lambda event: event.level_dbfs > -20)
        end(daemon)
    check(tmp_path, needles(*forms(noise / np.float32(32_768))))
