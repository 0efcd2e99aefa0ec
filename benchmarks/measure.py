"""Measure what the README quotes: ``python benchmarks/measure.py [--json]`` in an environment with serstream.

Medians over repetitions, on this machine. The daemon is measured with a live microphone: a private PulseAudio whose
microphone hears the embedded demo (Debian packages pulseaudio, pulseaudio-utils and libasound2-plugins). Figures of
the daemon are sums over its whole process tree; memory is proportional (PSS), so shared pages count once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from figures import interleaved, machine, show, spread

from serstream.batch import alone
from serstream.classifier import Classifier
from serstream.daemon import find_model
from serstream.features import FrontEnd, mfcc
from serstream.network import Network
from serstream.pipeline import Pipeline
from serstream.recordings import read_file
from serstream.resources import packaged
from serstream.transport import Subscriber, request

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from virtual_mic import VirtualMic

LIVE_S = 20.0


def mfcc_us_per_frame() -> float:
    """CPU microseconds for one MFCC frame, in steps of 16 frames as the daemon computes them."""
    front_end = FrontEnd()
    rng = np.random.default_rng(0)
    step = rng.standard_normal(front_end.hop_length * 15 + front_end.win_length).astype(np.float32) * np.float32(0.05)
    started = time.process_time()
    for _ in range(1000):
        mfcc(step, front_end)
    return (time.process_time() - started) / 16_000 * 1e6


def network_ms_per_step() -> float:
    """Milliseconds for trunk, pooling and head of one step."""
    classifier = Classifier(Network(find_model("serstream")))
    frames = np.random.default_rng(0).standard_normal((16, 40)).astype(np.float32)
    speech = np.ones(16, bool)
    started = time.perf_counter()
    for _ in range(400):
        alone(classifier.network, classifier.step(frames, speech))
    return (time.perf_counter() - started) / 400 * 1e3


def pipeline_ms_per_step() -> float:
    """Milliseconds for the whole middle, samples to events, of one step of speech."""
    samples = np.concatenate(list(read_file(packaged("demo.flac"))))
    pipeline = Pipeline(Network(find_model("serstream")), source="bench", session="")
    started = time.perf_counter()
    pipeline.push(0, samples)
    return (time.perf_counter() - started) / (samples.size / (16 * 256)) * 1e3


@contextmanager
def daemon(env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], str, str]]:
    """Run a daemon that listens to the default microphone; yield it and its endpoints."""
    with tempfile.TemporaryDirectory() as folder:
        events, control = f"ipc://{folder}/events", f"ipc://{folder}/control"
        config = Path(folder) / "config.yaml"
        config.write_text(
            f"sources: {{mic: {{kind: microphone}}}}\ntransport: {{events: '{events}', control: '{control}'}}\n"
        )
        command = [sys.executable, "-m", "serstream", "run", "--config", str(config)]
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process, events, control
        finally:
            process.terminate()
            process.wait(5)


def ready_s(env: dict[str, str]) -> float:
    """Seconds from the start of the process until it answers, the kernels' cache being warm."""
    started = time.perf_counter()
    with daemon(env) as (_, _, control):
        while True:
            try:
                request(control, "status", timeout_s=0.1)
            except OSError:
                continue
            return time.perf_counter() - started


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    direct = [int(c) for task in children.parent.parent.iterdir() for c in (task / "children").read_text().split()]
    return [pid, *(p for c in direct for p in tree(c))]


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process tree has used."""
    ticks = 0
    for p in tree(pid):
        fields = Path(f"/proc/{p}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Return the proportional memory of a process tree in megabytes (10^6 bytes)."""
    rows = (line for p in tree(pid) for line in Path(f"/proc/{p}/smaps_rollup").read_text().splitlines())
    return sum(int(row.split()[1]) for row in rows if row.startswith("Pss:")) * 1024 / 1e6


def live(microphone: VirtualMic) -> dict[str, dict[str, float]]:
    """Measure a daemon with one live microphone that hears speech for ``LIVE_S`` seconds."""
    env = {**os.environ, **microphone.env}
    latencies, memory = [], []
    with (
        daemon(env) as (process, events, control),
        Subscriber(events, control, types=["posterior"]) as subscriber,
    ):
        while subscriber.receive(10.0) is None:
            pass
        player = microphone.play(packaged("demo.flac"))
        before, started = cpu_s(process.pid), time.monotonic()
        while time.monotonic() - started < LIVE_S:
            event = subscriber.receive(1.0)
            if event is not None and hasattr(event, "latency_s"):
                latencies.append(event.latency_s)
            memory.append(memory_mb(process.pid))
        share = (cpu_s(process.pid) - before) / (time.monotonic() - started) * 100
        player.terminate()
        player.wait()
    return {
        "daemon_cpu_percent": spread([share]),
        "daemon_pss_mb": spread(memory),
        "capture_to_event_s": spread(latencies),
    }


UNITS = {
    "mfcc_us_per_frame": "us",
    "network_ms_per_step": "ms",
    "pipeline_ms_per_step": "ms",
    "ready_s": "s",
    "daemon_cpu_percent": "% of one core",
    "daemon_pss_mb": "MB",
    "capture_to_event_s": "s",
}


NAMES = {
    "mfcc_us_per_frame": "one MFCC frame",
    "network_ms_per_step": "network, one step of 0.256 s",
    "pipeline_ms_per_step": "samples to events, one step",
    "ready_s": "start to ready, warm cache",
    "daemon_cpu_percent": "daemon with one live microphone, CPU",
    "daemon_pss_mb": "the same, memory (PSS of the process tree)",
    "capture_to_event_s": "capture to event, with what the device reports as its own latency",
}


def write(document: Path, figures: dict[str, Any]) -> None:
    """Put the figures between ``<!-- costs -->`` and ``<!-- /costs -->``."""
    table = f"| median on {machine()} | | spread |\n|---|---|---|\n"
    for name, f in figures.items():
        table += f"| {NAMES[name]} | {f['median']:.3g} {f['unit']} | {f['min']:.3g} to {f['max']:.3g} |\n"
    before, _, rest = document.read_text(encoding="utf-8").partition("<!-- costs -->\n")
    after = rest.partition("<!-- /costs -->")[2]
    document.write_text(f"{before}<!-- costs -->\n{table}<!-- /costs -->{after}", encoding="utf-8")


def main() -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put a table between the marks of a document")
    args = parser.parse_args()
    works = (mfcc_us_per_frame, network_ms_per_step, pipeline_ms_per_step)
    figures: dict[str, Any] = interleaved({f.__name__: f for f in works})
    microphone = VirtualMic()
    try:
        env = {**os.environ, **microphone.env}
        figures |= interleaved({"ready_s": lambda: ready_s(env)})
        figures |= live(microphone)
    finally:
        microphone.stop()
    figures = {name: f | {"unit": UNITS[name]} for name, f in figures.items()}
    if args.write is not None:
        write(args.write, figures)
    show(figures, as_json=args.json)


if __name__ == "__main__":
    main()
