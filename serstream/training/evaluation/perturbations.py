"""What may happen to speech between the mouth and the model, after audEERING's ser-tests: gain, noise, band, room.

Every function returns as many samples as it is given; with one seed always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from serstream.config import SAMPLE_RATE

Samples = NDArray[np.float32]
RT60_S = 0.5
FAINT = 1e-6


class Spoken(NamedTuple):
    """A clip (n_samples,), the root mean square of its speech, and the generator of its own."""

    samples: Samples
    level: float
    rng: np.random.Generator


def gain(samples: Samples, db: float) -> Samples:
    """Make a signal louder or softer; full scale is no limit."""
    return samples * np.float32(10 ** (db / 20))


def add_noise(spoken: Spoken, noise: Samples, snr_db: float) -> Samples:
    """Add noise (as long as the clip) so many decibels below the speech."""
    level = float(np.sqrt(np.mean(np.square(noise, dtype=np.float64))))
    return spoken.samples + noise * np.float32(spoken.level / max(level, FAINT) * 10 ** (-snr_db / 20))


def white(n_samples: int, rng: np.random.Generator) -> Samples:
    """Return noise of equal power at all frequencies."""
    return rng.standard_normal(n_samples, np.float32)


def stretch(noises: Sequence[Samples], n_samples: int, rng: np.random.Generator) -> Samples:
    """Return a random stretch of a random recording, without its digital silence, repeated where it is short."""
    noise = noises[int(rng.integers(len(noises)))]
    heard = noise[np.abs(noise) > FAINT]
    noise = heard if heard.size else noise
    return np.resize(np.roll(noise, -int(rng.integers(noise.size))), n_samples)


def band(samples: Samples, low_hz: float | None, high_hz: float) -> Samples:
    """Keep a band of frequencies, or all below one: Butterworth of order 8, causal."""
    if low_hz is None:
        sections = signal.butter(8, high_hz, "lowpass", fs=SAMPLE_RATE, output="sos")
    else:
        sections = signal.butter(8, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(signal.sosfilt(sections, samples), np.float32)


def reverberate(samples: Samples, rng: np.random.Generator) -> Samples:
    """Put a speaker into a room: noise that decays by 60 dB in ``RT60_S`` and carries as much energy as the voice."""
    n = int(RT60_S * SAMPLE_RATE)
    tail = rng.standard_normal(n) * 10 ** (-3.0 * np.arange(n) / n)
    tail[: SAMPLE_RATE // 200] = 0.0
    response = tail / np.sqrt(np.sum(tail**2))
    response[0] = 1.0
    return np.asarray(signal.fftconvolve(samples, response)[: samples.size], np.float32)


def conditions(noises: Sequence[Samples]) -> dict[str, Callable[[Spoken], Samples]]:
    """Return every condition by its name; those with recorded noise only where ``noises`` holds any."""

    def noisy(snr_db: float, *, recorded: bool) -> Callable[[Spoken], Samples]:
        def apply(s: Spoken) -> Samples:
            n = s.samples.size
            return add_noise(s, stretch(noises, n, s.rng) if recorded else white(n, s.rng), snr_db)

        return apply

    levels = (20, 10, 5)
    return {
        "clean": lambda s: s.samples,
        "gain +12 dB": lambda s: gain(s.samples, 12.0),
        "gain -12 dB": lambda s: gain(s.samples, -12.0),
        **{f"white noise {db} dB": noisy(db, recorded=False) for db in levels},
        **({f"recorded noise {db} dB": noisy(db, recorded=True) for db in levels} if noises else {}),
        "low-pass 4 kHz": lambda s: band(s.samples, None, 4000.0),
        "telephone 300-3400 Hz": lambda s: band(s.samples, 300.0, 3400.0),
        f"room, RT60 {RT60_S} s": lambda s: reverberate(s.samples, s.rng),
    }
