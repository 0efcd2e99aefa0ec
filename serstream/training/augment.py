"""What a speaker may sound like elsewhere: another vocal tract, room, microphone, distance and noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE
from serstream.training.speech import rms

Samples = NDArray[np.float32]
WARPS = tuple(float(w) for w in np.round(np.linspace(0.92, 1.08, 9), 3))
FLOOR_DBFS = (-75.0, -50.0)
N_KNOTS = 7
"""Points at which the gain of a random microphone is drawn, evenly spaced over the square root of frequency."""


class Scene(NamedTuple):
    """A voice in a place: what all clips of one speaker share in one rendering, so that each tells of the channel.

    ``speed`` is the factor of playback, pitch and formants together; ``warp`` that of the mel axis alone;
    ``equaliser_db`` the microphone's gain at ``N_KNOTS`` points; ``room`` its response, empty for none; ``noise`` an
    index of the noise recordings, None for none, ``snr_db`` below the level of the speech.
    """

    speed: float
    warp: float
    equaliser_db: NDArray[np.float64]
    room: Samples
    gain_db: float
    noise: int | None
    snr_db: float
    floor_dbfs: float


def draw_scene(n_noises: int, rng: np.random.Generator) -> Scene:
    """Return a random scene; with ``n_noises`` noise recordings to choose from."""
    return Scene(
        speed=float(np.round(rng.uniform(0.9, 1.1), 2)),
        warp=WARPS[rng.integers(len(WARPS))],
        equaliser_db=rng.normal(0.0, 4.0, N_KNOTS),
        room=room(rng) if rng.random() < 0.3 else np.empty(0, np.float32),
        gain_db=float(rng.uniform(-12.0, 12.0)),
        noise=int(rng.integers(n_noises)) if n_noises and rng.random() < 0.6 else None,
        snr_db=float(rng.uniform(5.0, 30.0)),
        floor_dbfs=float(rng.uniform(*FLOOR_DBFS)),
    )


def _fast_length(n_samples: int) -> int:
    return 1 << max(4, (n_samples - 1).bit_length())


def floor_below(speech_rms: float, dbfs: float) -> float:
    """Return the level of a noise floor, in dBFS: 25 dB below the speech where ``dbfs`` would hide a quiet voice."""
    return max(FLOOR_DBFS[0], min(dbfs, 20.0 * float(np.log10(speech_rms)) - 25.0))


def noise_floor(n_samples: int, rng: np.random.Generator, dbfs: float) -> Samples:
    """Return faint noise with a random spectral tilt, so that digital silence does not betray a corpus."""
    length = _fast_length(n_samples)
    spectrum = np.fft.rfft(rng.standard_normal(length, np.float32))
    spectrum *= (np.arange(spectrum.size, dtype=np.float32) + 8.0) ** np.float32(-rng.uniform(0.0, 0.8))
    noise = np.fft.irfft(spectrum, length)[:n_samples].astype(np.float32)
    return noise * np.float32(10 ** (dbfs / 20) / rms(noise))


def room(rng: np.random.Generator) -> Samples:
    """Return a synthetic room response: a direct path and an exponentially decaying tail (RT60 0.15 to 0.7 s)."""
    rt60_s = rng.uniform(0.15, 0.7)
    n = int(rt60_s * SAMPLE_RATE)
    tail = rng.standard_normal(n) * 10 ** (-3.0 * np.arange(n) / n)
    tail *= 10 ** (-rng.uniform(0.0, 15.0) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail.astype(np.float32)


def transmit(samples: Samples, scene: Scene) -> Samples:
    """Pass a clip through the room and the microphone of a scene; the level stays."""
    length = _fast_length(samples.size + scene.room.size)
    spectrum = np.fft.rfft(samples, length)
    if scene.room.size:
        spectrum *= np.fft.rfft(scene.room, length)
    at = np.linspace(0.0, 1.0, spectrum.size) ** 0.5
    spectrum *= 10 ** (np.interp(at, np.linspace(0.0, 1.0, N_KNOTS), scene.equaliser_db).astype(np.float32) / 20)
    out = np.fft.irfft(spectrum, length)[: samples.size].astype(np.float32)
    return out * np.float32(rms(samples) / rms(out))


def mix_noise(samples: Samples, speech_rms: float, noise: Samples, snr_db: float, rng: np.random.Generator) -> Samples:
    """Add a random stretch of noise, so many decibels below the level of the speech."""
    stretch = np.resize(np.roll(noise, -int(rng.integers(noise.size))), samples.size)
    return samples + stretch * np.float32(speech_rms / rms(stretch) * 10 ** (-snr_db / 20))


def change_speed(samples: Samples, speed: float) -> Samples:
    """Play a clip faster or slower: pitch, formants and tempo change by the same factor."""
    if speed == 1.0:
        return samples
    return np.asarray(soxr.resample(samples, SAMPLE_RATE, SAMPLE_RATE / speed, quality="MQ"), np.float32)


def augment(samples: Samples, scene: Scene, noises: list[Samples], level: float, rng: np.random.Generator) -> Samples:
    """Return a clip as it sounds in a scene.

    Parameters
    ----------
    samples : ndarray of shape (n_samples,), float32
    scene : Scene
        Its ``warp`` is left to the features.
    noises : list of ndarray
        Recordings that ``scene.noise`` is an index of.
    level : float
        Root mean square of the speech in ``samples``: the signal-to-noise ratio counts speech alone.
    rng : numpy.random.Generator

    Returns
    -------
    rendered : ndarray of shape (about n_samples / scene.speed,), float32
    """
    out = transmit(change_speed(samples, scene.speed), scene)
    if scene.noise is not None:
        out = mix_noise(out, level, noises[scene.noise], scene.snr_db, rng)
    gain = 10 ** (scene.gain_db / 20)
    return out * np.float32(gain) + noise_floor(out.size, rng, floor_below(level * gain, scene.floor_dbfs))
