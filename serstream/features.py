"""MFCC of a whole signal and of a stream, by the same kernel.

Frame ``f`` covers samples ``[f * hop_length, f * hop_length + win_length)``: no centring, no padding, no look-ahead,
and nothing that depends on the rest of the signal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE
from serstream.kernels import COEFFICIENTS, mfcc_frames

Size = Annotated[int, Meta(ge=1, le=65_536)]


class FrontEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every parameter of the front end; lengths in samples, frequencies in Hz.

    ``n_fft`` is a power of two and at least ``win_length``; ``log_floor`` is added to the energy of each band, in
    units of squared full-scale amplitude summed over the window.
    """

    sample_rate: Size = SAMPLE_RATE
    n_fft: Size = 512
    win_length: Size = 512
    hop_length: Size = 256
    n_mels: Size = 40
    n_mfcc: Size = 40
    fmin_hz: Annotated[float, Meta(ge=0.0)] = 20.0
    fmax_hz: Annotated[float, Meta(gt=0.0)] = 8_000.0
    log_floor: Annotated[float, Meta(gt=0.0)] = 3e-5

    def __post_init__(self) -> None:
        if self.n_fft & (self.n_fft - 1) or self.n_fft < max(4, self.win_length):
            raise ValueError(f"n_fft is {self.n_fft}; it must be a power of two, at least win_length {self.win_length}")
        if not self.fmin_hz < self.fmax_hz <= self.sample_rate / 2:
            raise ValueError(
                f"bands from {self.fmin_hz} to {self.fmax_hz} Hz; they must rise and end by {self.sample_rate / 2} Hz"
            )
        if self.fmax_hz - self.fmin_hz <= self.sample_rate / self.n_fft:
            raise ValueError(
                f"bands from {self.fmin_hz} to {self.fmax_hz} Hz may hold no bin of the FFT; "
                f"they must span more than sample_rate / n_fft, {self.sample_rate / self.n_fft} Hz"
            )
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc is {self.n_mfcc}; it must be at most n_mels {self.n_mels}")
        if self.hop_length > self.win_length:
            raise ValueError(f"hop_length is {self.hop_length}; it must be at most win_length {self.win_length}")

    def n_frames(self, n_samples: int) -> int:
        """Return how many whole frames lie in so many samples."""
        return max(0, (n_samples - self.win_length) // self.hop_length + 1)


class Tables(NamedTuple):
    """What the kernel reads besides samples, in the order of its arguments."""

    hop_length: int
    window: NDArray[np.float32]
    twiddles: NDArray[np.float32]
    order: NDArray[np.int64]
    bands: NDArray[np.int64]
    weights: NDArray[np.float32]
    floor: float
    dct: NDArray[np.float32]


def mel_bank(front_end: FrontEnd, warp: float = 1.0) -> NDArray[np.float64]:
    """Return triangular mel bands over the FFT bins.

    Parameters
    ----------
    front_end : FrontEnd
    warp : float
        Factor on the frequency of every band edge; training varies it as vocal tracts vary in length.

    Returns
    -------
    bank : ndarray of shape (n_mels, n_fft // 2 + 1)
        Peaks of 1. Mel of O'Shaughnessy: 2595 log10(1 + f / 700).
    """
    low, high = (2595.0 * np.log10(1.0 + f / 700.0) for f in (front_end.fmin_hz, front_end.fmax_hz))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, front_end.n_mels + 2) / 2595.0) - 1.0) * warp
    bins = np.arange(front_end.n_fft // 2 + 1) * (front_end.sample_rate / front_end.n_fft)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.asarray(np.maximum(0.0, np.minimum(rise, fall)))


def dct_matrix(n_mfcc: int, n_mels: int) -> NDArray[np.float64]:
    """Return the orthonormal DCT-II, of shape (n_mfcc, n_mels)."""
    k, band = np.arange(n_mfcc)[:, None], np.arange(n_mels)[None, :]
    dct: NDArray[np.float64] = np.cos(np.pi / n_mels * (band + 0.5) * k) * np.sqrt(2.0 / n_mels)
    dct[0] /= np.sqrt(2.0)
    return dct


def _digit_order(n: int) -> NDArray[np.int64]:
    """Return where the kernel's FFT of ``n`` rows puts each bin."""
    if n == 1:
        return np.zeros(1, np.int64)
    radix = 4 if n >= 4 else 2
    return (_digit_order(n // radix)[:, None] + n // radix * np.arange(radix)).ravel()


def _twiddles(n_fft: int) -> NDArray[np.float64]:
    """Return cosines and sines in the order of use: each stage's of the FFT of half the length, then the split's.

    Of a stage those of one, two and three turns by each row.
    """
    turns, n = [], n_fft // 2
    while n > 4:
        turns.append(np.outer(np.arange(n // 4), [1, 2, 3]).ravel() / n)
        n //= 4
    turns.append(np.arange(1, n_fft // 4 + 1) / n_fft)
    angles = 2.0 * np.pi * np.concatenate(turns)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).ravel()


def _dct_halves(front_end: FrontEnd) -> NDArray[np.float64]:
    """Return the DCT over the first half of the bands, in the order in which the kernel reads it.

    ``COEFFICIENTS`` cosines of even order, then as many of odd order, band after band.
    """
    n_half = (front_end.n_mels + 1) // 2
    n_groups = -(-front_end.n_mfcc // (2 * COEFFICIENTS))
    dct = np.zeros((n_groups * 2 * COEFFICIENTS, n_half))
    dct[: front_end.n_mfcc] = dct_matrix(front_end.n_mfcc, front_end.n_mels)[:, :n_half]
    return dct.reshape(n_groups, COEFFICIENTS, 2, n_half).transpose(0, 2, 3, 1)


@lru_cache(maxsize=32)
def tables(front_end: FrontEnd, warp: float = 1.0) -> Tables:
    """Return the kernel's tables; ``warp`` as in :func:`mel_bank`."""
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(front_end.win_length) / front_end.win_length)
    bank = mel_bank(front_end, warp)
    inside = [np.flatnonzero(band) for band in bank]
    bands = np.array([(i[0], i[-1] + 1) if i.size else (0, 0) for i in inside], np.int64)
    # the kernel's power is four times the square of the magnitude
    weights = np.concatenate([band[first:end] for band, (first, end) in zip(bank, bands, strict=True)]) / 4.0
    f32 = np.float32
    return Tables(
        hop_length=front_end.hop_length,
        window=window.astype(f32),
        twiddles=_twiddles(front_end.n_fft).astype(f32),
        order=_digit_order(front_end.n_fft // 2),
        bands=bands,
        weights=weights.astype(f32),
        floor=front_end.log_floor,
        dct=_dct_halves(front_end).astype(f32).ravel(),
    )


def mfcc(samples: NDArray[np.float32], front_end: FrontEnd, *, warp: float = 1.0) -> NDArray[np.float32]:
    """Compute the MFCC of a whole signal.

    Parameters
    ----------
    samples : ndarray of shape (n_samples,), float32
        Amplitude in [-1, 1] at ``front_end.sample_rate``.
    front_end : FrontEnd
    warp : float
        As in :func:`mel_bank`; 1 outside training.

    Returns
    -------
    mfcc : ndarray of shape (n_frames, n_mfcc), float32
        Orthonormal DCT-II of the natural logarithm of the energies in mel bands.

    Raises
    ------
    ValueError
        If ``samples`` is not one-dimensional float32.
    """
    _check(samples)
    return _mfcc(samples, front_end, tables(front_end, warp))


def _check(samples: NDArray[np.float32]) -> None:
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise ValueError(
            f"samples are {samples.dtype} of shape {samples.shape}; expected float32 of shape (n_samples,)"
        )


def _mfcc(samples: NDArray[np.float32], front_end: FrontEnd, of_it: Tables) -> NDArray[np.float32]:
    out = np.empty((front_end.n_frames(samples.size), front_end.n_mfcc), np.float32)
    if out.size:
        if not (samples.flags.c_contiguous and samples.flags.writeable):
            # the kernel is compiled for arrays that it might write to
            samples = samples.copy()
        mfcc_frames(samples, *of_it, out)
    return out


class StreamingMfcc:
    """Turn a stream of samples into MFCC frames.

    For any way of cutting a signal ``y`` into blocks, the concatenated outputs equal ``mfcc(y, front_end)`` to the
    bit. Called from one thread only.
    """

    def __init__(self, front_end: FrontEnd, *, warp: float = 1.0) -> None:
        self.front_end, self._tables = front_end, tables(front_end, warp)
        self.reset()

    def reset(self) -> None:
        """Forget the samples that are not yet part of a whole hop: the next sample starts frame 0."""
        self._tail = np.empty(0, np.float32)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take a block, of any length, and return the frames that it completes, of shape (n_frames, n_mfcc)."""
        _check(samples)
        y = np.concatenate((self._tail, samples)) if self._tail.size else samples
        frames = _mfcc(y, self.front_end, self._tables)
        self._tail = y[len(frames) * self.front_end.hop_length :].copy()
        return frames
