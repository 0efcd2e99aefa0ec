"""What a clip may sound like elsewhere: another room, microphone, distance, noise and vocal tract."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE

Samples = NDArray[np.float32]
WARPS = tuple(float(w) for w in np.round(np.linspace(0.92, 1.08, 9), 3))


def rms(samples: Samples) -> float:
    """Return the root mean square, at least 1e-6."""
    return max(1e-6, float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))) if samples.size else 1e-6


def noise_floor(n_samples: int, rng: np.random.Generator, low_dbfs: float = -75.0, high_dbfs: float = -50.0) -> Samples:
    """Return faint noise with a random spectral tilt, so that digital silence does not betray a corpus."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    spectrum *= (np.arange(spectrum.size) + 8.0) ** -rng.uniform(0.0, 0.8)
    noise = np.fft.irfft(spectrum, n_samples).astype(np.float32)
    return noise * np.float32(10 ** (rng.uniform(low_dbfs, high_dbfs) / 20) / rms(noise))


def room(rng: np.random.Generator) -> Samples:
    """Return a synthetic room response: a direct path and an exponentially decaying tail (RT60 0.15 to 0.7 s)."""
    rt60_s = rng.uniform(0.15, 0.7)
    n = int(rt60_s * SAMPLE_RATE)
    tail = rng.standard_normal(n) * 10 ** (-3.0 * np.arange(n) / n)
    tail *= 10 ** (-rng.uniform(0.0, 15.0) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail.astype(np.float32)


def equaliser(n_bins: int, rng: np.random.Generator, spread_db: float = 5.0) -> NDArray[np.float64]:
    """Return smooth random gains over frequency, as microphones differ."""
    at = np.linspace(0.0, 1.0, n_bins) ** 0.5
    return np.asarray(10 ** (np.interp(at, np.linspace(0.0, 1.0, 7), rng.normal(0.0, spread_db, 7)) / 20))


def transmit(samples: Samples, rng: np.random.Generator) -> Samples:
    """Pass a clip through a random microphone and, three times in ten, a random room."""
    response = room(rng) if rng.random() < 0.3 else np.ones(1, np.float32)
    n = 1 << (samples.size + response.size - 1).bit_length()
    spectrum = np.fft.rfft(samples, n) * np.fft.rfft(response, n)
    spectrum *= equaliser(spectrum.size, rng)
    out = np.fft.irfft(spectrum, n)[: samples.size].astype(np.float32)
    return out * np.float32(rms(samples) / rms(out))


def mix_noise(samples: Samples, speech_rms: float, noise: Samples, rng: np.random.Generator) -> Samples:
    """Add a random stretch of noise at 5 to 30 dB below the level of the speech."""
    start = int(rng.integers(noise.size))
    stretch = np.resize(np.roll(noise, -start), samples.size)
    gain = speech_rms / rms(stretch) * 10 ** (-rng.uniform(5.0, 30.0) / 20)
    return samples + stretch * np.float32(gain)


def augment(samples: Samples, speech: NDArray[np.bool_], noises: list[Samples], rng: np.random.Generator) -> Samples:
    """Return one random rendering of a clip.

    Parameters
    ----------
    samples : ndarray of shape (n_samples,), float32
    speech : ndarray of shape (n_samples,), bool
        Which samples are speech: the signal-to-noise ratio counts these alone.
    noises : list of ndarray
        Recordings to draw noise from; may be empty.
    rng : numpy.random.Generator
    """
    out = transmit(samples, rng)
    level = rms(out[speech]) if speech.any() else rms(out)
    if noises and rng.random() < 0.6:
        out = mix_noise(out, level, noises[rng.integers(len(noises))], rng)
    out = out * np.float32(10 ** (rng.uniform(-12.0, 12.0) / 20))
    return out + noise_floor(out.size, rng)
