"""A microphone that goes wrong as a seed says, for tests of what stands behind it.

All but the device is what hears real ones: the callback, its ring, resampling, the clock, and the supervision that
kills and starts again. Time is the schedule's own, so an hour of faults takes seconds, and the same seed gives the same
blocks, holes and counters. ``python -m serstream.faults FILE`` writes what happens there as the timing that a source of
``kind: replay`` plays, for programs in any language that subscribe.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE, MicrophoneSource
from serstream.events import Fault, Status
from serstream.microphone import Microphone
from serstream.pulled import Resume
from serstream.ring import Block, Hole, SampleRing
from serstream.timing import Header, TimingLog
from serstream.transfer import DeviceRing, Transfer

Kind = Literal[
    "sound", "silence", "stuck", "non_finite", "blocks", "late", "overflow", "jump", "stalled", "lost", "overrun"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
LONGEST_S = 8.0
_START_S = 1_000.0
_BLOCK_S = 0.05
_RING_S = 10.0
_GOOD, _OVERFLOW = SimpleNamespace(input_overflow=False), SimpleNamespace(input_overflow=True)


class Step(NamedTuple):
    """Something that the device does for ``seconds``, above 0 to ``LONGEST_S``.

    It sounds as it should (``sound``), or is ``silence``; is ``stuck`` in the same block; puts ``non_finite`` samples
    into its sound; delivers ``blocks`` of other sizes; delivers all of it ``late`` and at once; loses it and says so
    (``overflow``) or does not (``jump``); hangs (``stalled``); is ``lost`` and comes back; or sounds while nobody reads
    until the ring is full (``overrun``).
    """

    kind: Kind
    seconds: float


def schedule(seed: int, n_steps: int) -> list[Step]:
    """Return steps of every kind, in an order and of lengths that the seed tells, each followed by sound."""
    rng = np.random.default_rng(seed)
    kinds: list[Kind] = [KINDS[k] for k in rng.integers(len(KINDS), size=n_steps)]
    faults = [Step(kind, round(float(rng.uniform(0.1, LONGEST_S)), 3)) for kind in kinds]
    return [step for fault in faults for step in (fault, Step("sound", 4.0))]


class FaultyCapture:
    """Stands in for a :class:`serstream.capture_process.CaptureProcess`: one life of a device."""

    pid = 0

    def __init__(self, rate: int, channels: int, now_s: float, config: MicrophoneSource) -> None:
        self.ended = False
        self.ring = SampleRing.create(int(_RING_S * SAMPLE_RATE), SAMPLE_RATE, keep=SAMPLE_RATE // 4)
        self._device = DeviceRing(int(_RING_S * rate), channels)
        self._transfer = Transfer(self._device, self.ring, rate, 0.0, config.silence_s)
        self._heard_s = self.now_s = now_s

    def call_back(self, block: NDArray[np.float32], now_s: float, *, overflow: bool = False) -> None:
        """Deliver a block, shape (n_samples, channels), at a time."""
        self._device(block, len(block), None, _OVERFLOW if overflow else _GOOD)
        self._device.stamp_ns = round(now_s * 1e9)
        self._heard_s = self.now_s = now_s
        self._transfer.run()

    def silent_s(self) -> float:
        """Return the seconds since the last block."""
        return self.now_s - self._heard_s

    def wait(self, timeout_s: float) -> None:
        """Return at once: what comes next is the schedule's to say."""

    def kill(self) -> None:
        """End."""
        self.ended = True

    def reap(self) -> None:
        """Do nothing: what was killed has ended."""

    def last_words(self) -> str:
        """Return why it ended."""
        return "the microphone is gone, as its schedule says"

    def close(self) -> None:
        """Release the memory."""
        self.ring.close()
        os.close(self._device.wake_fd)


class FaultyMicrophone:
    """A source whose device does the steps of a schedule, one after another, and then no more.

    Reading never waits: the time of the schedule passes instead. For one thread.

    Parameters
    ----------
    steps : iterable of Step
        One is taken when what was before it has been read.
    config : MicrophoneSource, optional
        Its rate (48,000 Hz if it says none), channels (one), ``stall_s`` and ``silence_s``.
    seed : int
        Of the faults, and of the noise that it hears.
    sound : ndarray of float32, shape (n_samples,), optional
        What it hears in place of noise, again and again, at its rate.

    Attributes
    ----------
    now_s : float
        The time of the schedule, on the clock by which blocks say when they were captured.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        config: MicrophoneSource | None = None,
        seed: int = 0,
        sound: NDArray[np.float32] | None = None,
    ) -> None:
        self._config = config or MicrophoneSource()
        self._rate, self._channels = self._config.sample_rate or 48_000, self._config.channels or 1
        self._n = round(_BLOCK_S * self._rate)
        self._rng = np.random.default_rng(seed)
        self._sound_at, self._sounds = 0, sound
        self._todo, self._came = iter(steps), deque[Block | Hole]()
        self._capture: FaultyCapture | None = None
        self._over = False
        self.now_s = _START_S
        self._microphone = Microphone(
            self._config,
            self._spawn,  # type: ignore[arg-type]  # it shows what a capture process shows
            backoff_s=(0.0, 0.0),
            hardware_ns=lambda: 0,
            now_s=lambda: self.now_s,
        )

    def _spawn(self, config: MicrophoneSource) -> FaultyCapture:
        self._capture = FaultyCapture(self._rate, self._channels, self.now_s, config)
        return self._capture

    @property
    def ended(self) -> bool:
        """Whether the schedule is over and all of it was read."""
        return self._microphone.ended or self._over

    @property
    def status(self) -> Status:
        """How the source is."""
        return self._microphone.status

    @property
    def fault(self) -> Fault | None:
        """What is wrong with what the device delivers."""
        return self._microphone.fault

    @property
    def drift_ppm(self) -> float | None:
        """As that of any microphone."""
        return self._microphone.drift_ppm

    @property
    def counters(self) -> dict[str, int]:
        """As those of any microphone."""
        return self._microphone.counters

    def go_on(self, resume: Resume) -> None:
        """Take the place of another."""
        self._microphone.go_on(resume)

    def call(self, came: Callable[[], object]) -> bool:
        """Return False: what comes is to be looked for."""
        return self._microphone.call(came)

    def want(self, n_samples: int) -> None:
        """Do nothing, as any microphone."""
        self._microphone.want(n_samples)

    def open(self) -> None:
        """Start capturing."""
        self._microphone.open()

    def mute(self) -> None:
        """Close the device; the schedule goes on unheard."""
        self._microphone.mute()

    def unmute(self) -> None:
        """Open the device again."""
        self._microphone.unmute()

    def close(self) -> None:
        """End; what was not read is counted as ``unread``."""
        self._microphone.close()

    def read(self, timeout_s: float) -> Block | Hole | None:
        """Return the next block or hole, or None when the schedule is over; ``timeout_s`` has no meaning here."""
        self._settle()
        while not self._came and not self._microphone.ended and (step := next(self._todo, None)):
            self._do(step)
            self._settle()
        self._over = not self._came
        return self._came.popleft() if self._came else None

    def _settle(self) -> None:
        """Let the supervision see what there is, until a device is open again."""
        while not self._came and not self._microphone.ended:
            if (item := self._microphone.read(0.0)) is not None:
                self._came.append(item)
            elif self._capture is None or not self._capture.ended or self.status == "muted":
                return

    def _do(self, step: Step) -> None:
        seconds, short_s = step.seconds, min(step.seconds, 0.9 * self._config.stall_s)
        match step.kind:
            case "overrun":
                self._sound(_RING_S + seconds)
            case "late":
                self._pass(short_s)
                for _ in range(math.ceil(short_s / _BLOCK_S)):
                    self._deliver(self._hear(self._n), 0.0)
            case "overflow":
                self._pass(short_s)
                self._deliver(self._hear(self._n), _BLOCK_S, overflow=True)
            case "jump":
                self._pass(short_s)
            case "stalled":
                self._pass(max(seconds, self._config.stall_s + 0.1))
            case "lost":
                self._pass(seconds)
                if self._capture is not None:
                    self._capture.kill()
            case "blocks":
                end_s = self.now_s + seconds
                while self.now_s < end_s:
                    n_samples = int(self._rng.integers(1, self._rate // 2))
                    self._deliver(self._hear(n_samples), n_samples / self._rate)
            case _:
                self._sound(seconds, step.kind)

    def _sound(self, seconds: float, kind: Kind = "sound") -> None:
        for i in range(math.ceil(seconds / _BLOCK_S)):
            if i == 0 or kind in {"sound", "non_finite"}:  # what is stuck is the same again
                block = self._hear(self._n) * np.float32(kind != "silence")
            if kind == "non_finite":
                block[self._rng.integers(self._n, size=3)] = self._rng.choice([np.nan, np.inf, -np.inf])
            self._deliver(block, _BLOCK_S)

    def _hear(self, n_samples: int) -> NDArray[np.float32]:
        if self._sounds is None:
            return np.float32(0.01) * self._rng.standard_normal((n_samples, self._channels), np.float32)
        at, self._sound_at = self._sound_at, (self._sound_at + n_samples) % len(self._sounds)
        heard = self._sounds.take(np.arange(at, at + n_samples), mode="wrap")
        return heard[:, None].repeat(self._channels, axis=1)

    def _pass(self, seconds: float) -> None:
        """Let time pass in which the device delivers nothing."""
        self.now_s += seconds
        if self._capture is not None:
            self._capture.now_s = self.now_s

    def _deliver(self, block: NDArray[np.float32], seconds: float, *, overflow: bool = False) -> None:
        self._pass(seconds)
        if self._capture is not None and not self._capture.ended:
            self._capture.call_back(block, self.now_s, overflow=overflow)


def write(path: Path, steps: Iterable[Step], seed: int = 0) -> dict[str, int]:
    """Write the timing of a schedule, for a source of ``kind: replay``; return the counters at its end."""
    source = FaultyMicrophone(steps, seed=seed)
    header = Header(source="mic", session=f"seed-{seed}", started_s=0.0)
    log = TimingLog(path, header, zero_s=source.now_s, now_s=lambda: source.now_s)
    source.open()
    while (item := source.read(0.0)) is not None:
        log.take([item], source, source.counters)
    source.close()
    log.close(source, source.counters)
    return source.counters


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m serstream.faults``; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serstream.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE", help="timing to write, for a source of kind: replay")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other faults (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="so many faults, 1 to 100000 (%(default)s)")
    args = parser.parse_args(arguments)
    if not 1 <= args.steps <= 100_000 or args.seed < 0:
        parser.error(f"--steps {args.steps} --seed {args.seed}; steps are 1 to 100000, a seed is 0 or more")
    try:
        args.file.open("xb").close()
    except OSError as error:
        parser.error(f"{args.file} cannot be written: {error.strerror}; name a new file")
    counted = write(args.file, schedule(args.seed, args.steps), args.seed)
    print(f"{args.file}: {', '.join(f'{name} {value}' for name, value in counted.items() if value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
