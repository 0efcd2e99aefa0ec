"""Figures of serstream as a process: a recording, the way from sound to a subscriber, a microphone, the start."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from serstream.bench.measuring import Extent, Figure, figure
from serstream.bench.processes import COMMAND, Running, cpu_s, daemon, memory_mb
from serstream.bench.speech import in_blocks, write_speech
from serstream.bench.virtual_mic import PACKAGES, VirtualMic
from serstream.children import environment
from serstream.config import MicrophoneSource
from serstream.errors import NoMicrophoneError, SerstreamError
from serstream.events import Posterior
from serstream.microphone import Microphone
from serstream.resources import packaged
from serstream.transport import Subscriber

BLOCK_S, SIGNAL_S = 0.05, 30.0
SETTLING = 10
"""Events that do not count, while a daemon that has just begun settles."""
EVENT_LIMIT_S = 30.0
MICROPHONE = {"mic": {"kind": "microphone", "block_s": BLOCK_S}}


def analyze(extent: Extent) -> list[Figure]:
    """Measure a recording through the command ``analyze``, from its start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        write_speech(path, extent.recording_s)
        runs = [_analyze(path) for _ in range(extent.turns + 1)][1:]
    about = f"{extent.recording_s:g} s of speech through serstream analyze"
    return [
        figure("analyze_s", about, "s", [elapsed_s for elapsed_s, _ in runs]),
        figure("analyze_cpu_s", f"{about}, CPU", "s", [used_s for _, used_s in runs]),
    ]


def _analyze(path: Path) -> tuple[float, float]:
    """Return the seconds that the command took, and those of CPU."""
    used_s, started_s = _childrens_cpu_s(), time.monotonic()
    command = [*COMMAND, "analyze", "--json", "--config", str(packaged("config.yaml")), str(path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SerstreamError(f"`serstream analyze`, which was to be measured, failed: {done.stderr.strip()[-300:]}")
    return time.monotonic() - started_s, _childrens_cpu_s() - used_s


def _childrens_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def latency(extent: Extent) -> list[Figure]:
    """Measure the time from the last sample of a step to the event that a subscriber has decoded.

    The daemon hears a pipe at 16 kHz, which wakes it as the ring of a microphone does; it is written a block at a time,
    as it would be spoken.
    """
    with (
        daemon({"pipe": {"kind": "stdin"}}) as running,
        Subscriber(running.events, running.control, types=["posterior"]) as subscriber,
    ):
        late_ms = _speak(running, subscriber, extent.turns * extent.live_s)
    if len(late_ms) < SETTLING + extent.turns:
        raise SerstreamError(f"only {len(late_ms)} events came; the machine is too busy to measure latency on")
    turns = np.array_split(late_ms[SETTLING:], extent.turns)
    about = "last sample of a step to its event received"
    return [
        figure(f"latency_p{share}_ms", f"{about}, {share} of 100", "ms", [np.percentile(t, share) for t in turns])
        for share in (50, 99)
    ]


def _speak(running: Running, subscriber: Subscriber, seconds: float) -> list[float]:
    """Write speech to a daemon in real time; return the milliseconds after which each step's event was there."""
    pipe, blocks = running.process.stdin, in_blocks(SIGNAL_S, BLOCK_S)
    assert pipe is not None
    written_s: list[float] = []
    late_ms: list[float] = []
    started_s = time.monotonic()
    for i in range(round(seconds / BLOCK_S)):
        block = blocks[i % len(blocks)]
        written_s.append(time.monotonic())
        try:
            os.write(pipe.fileno(), np.rint(block * 32_767).astype("<i2").tobytes())
        except BrokenPipeError as error:
            raise SerstreamError("the daemon that was measured has ended; `serstream run` says why") from error
        while (left_s := started_s + (i + 1) * BLOCK_S - time.monotonic()) > 0:
            event = subscriber.receive(left_s)
            if isinstance(event, Posterior) and not event.replayed:
                late_ms.append((time.monotonic() - written_s[(event.sample - 1) // block.size]) * 1e3)
    return late_ms


def microphone(extent: Extent) -> list[Figure]:
    """Measure a daemon with one live microphone."""
    cpu_percent, pss_mb, late_s = [], [], []
    with (
        _microphone(extent) as (env, what),
        daemon(MICROPHONE, env) as running,
        Subscriber(running.events, running.control, types=["posterior"]) as subscriber,
    ):
        for _ in range(SETTLING):
            _next_latency_s(subscriber)
        for _ in range(extent.turns):
            used_s, started_s, heard_s = cpu_s(running.process.pid), time.monotonic(), []
            while time.monotonic() - started_s < extent.live_s:
                heard_s.append(_next_latency_s(subscriber))
            cpu_percent.append((cpu_s(running.process.pid) - used_s) / (time.monotonic() - started_s) * 100)
            pss_mb.append(memory_mb(running.process.pid))
            late_s.append(float(np.median(heard_s)))
    return [
        figure("microphone_cpu_percent", f"a daemon with {what}, CPU", "% of one core", cpu_percent),
        figure("microphone_pss_mb", "the same, memory (PSS)", "MB", pss_mb),
        figure(
            "microphone_latency_s", "the same, capture to event, with the latency that the device reports", "s", late_s
        ),
    ]


def _next_latency_s(subscriber: Subscriber) -> float:
    end_s = time.monotonic() + EVENT_LIMIT_S
    while (left_s := end_s - time.monotonic()) > 0:
        event = subscriber.receive(left_s)
        if isinstance(event, Posterior):
            return event.latency_s
    raise SerstreamError(f"no event came from the microphone within {EVENT_LIMIT_S:g} s; `serstream run` says more")


@contextmanager
def _microphone(extent: Extent) -> Iterator[tuple[Mapping[str, str], str]]:
    """Have a microphone: where it can be had one that hears speech, else the system's default.

    Yields what leads there in the environment, and what it is.

    Raises
    ------
    NoMicrophoneError
        If the machine can have neither.
    """
    if missing := VirtualMic.missing():
        try:
            Microphone(MicrophoneSource()).check()
        except NoMicrophoneError as error:
            raise NoMicrophoneError(
                f"no microphone was found, and no {', '.join(missing)} to make a virtual one; plug one in, "
                f"or: sudo apt install {PACKAGES}"
            ) from error
        yield {}, "the default microphone"
        return
    virtual = VirtualMic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "speech.wav"
            write_speech(path, 2 * (EVENT_LIMIT_S + extent.turns * extent.live_s))
            player = virtual.play(path)
            try:
                yield virtual.env, "a virtual microphone that hears speech"
            finally:
                player.kill()
                player.wait()
    finally:
        virtual.stop()


def ready(extent: Extent) -> list[Figure]:
    """Measure the time from the start of a daemon to its word that it serves, the kernels' cache being warm."""

    def start() -> float:
        with daemon(MICROPHONE) as running:
            return running.ready_s

    seconds = [start() for _ in range(extent.turns + 1)][1:]
    return [figure("ready_s", "start to ready, warm cache", "s", seconds)]
