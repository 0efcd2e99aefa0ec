"""Numba loops of the front end: taper, real FFT, mel bands, logarithm, DCT. Arrays in, arrays out.

``LANES`` frames are computed side by side with the frame index innermost, so that one instruction serves many
frames. A lane never reads another lane, and unused lanes are computed all the same: the result of a frame does not
depend on its neighbours, nor on where a block begins.
"""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, int64, njit, void

LANES = 16
"""Frames that are computed together: one 512-bit vector of float32."""


def _compile(signature: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at once and keep the machine code on disk, or in memory alone where no cache can be written."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(signature, nogil=True, cache=True)(function)  # type: ignore[no-any-return]
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError):
            return njit(signature, nogil=True)(function)  # type: ignore[no-any-return]

    return decorate


def _load_tapered(samples, first, n, hop, window, order, re, im):
    """Put the even samples of tapered frames into ``re`` and the odd ones into ``im``, in FFT order."""
    for j in range(order.size):
        row = order[j]
        for part in range(2):
            out = im if part else re
            k = 2 * row + part
            if k < window.size:
                w = window[k]
                for lane in range(n):
                    out[j, lane] = w * samples[(first + lane) * hop + k]
                for lane in range(n, LANES):
                    out[j, lane] = np.float32(0.0)
            else:
                for lane in range(LANES):
                    out[j, lane] = np.float32(0.0)


def _fft(re, im, cos, sin):
    """Radix-2 decimation in time, in place; ``cos`` and ``sin`` hold half a turn in steps of 1/size."""
    size = re.shape[0]
    half = 1
    while half < size:
        stride = size // (2 * half)
        for j in range(half):
            c = cos[j * stride]
            s = sin[j * stride]
            for top in range(j, size, 2 * half):
                bottom = top + half
                for lane in range(LANES):
                    tr = c * re[bottom, lane] + s * im[bottom, lane]
                    ti = c * im[bottom, lane] - s * re[bottom, lane]
                    re[bottom, lane] = re[top, lane] - tr
                    im[bottom, lane] = im[top, lane] - ti
                    re[top, lane] += tr
                    im[top, lane] += ti
        half *= 2


def _power_spectrum(re, im, cos, sin, power):
    """Split the FFT of even and odd samples into that of the real frame; its squared magnitude."""
    size = re.shape[0]
    half = np.float32(0.5)
    for k in range(size + 1):
        a = k % size
        b = (size - k) % size
        c = cos[k]
        s = sin[k]
        for lane in range(LANES):
            even_r = half * (re[a, lane] + re[b, lane])
            even_i = half * (im[a, lane] - im[b, lane])
            odd_r = half * (im[a, lane] + im[b, lane])
            odd_i = half * (re[b, lane] - re[a, lane])
            r = even_r + c * odd_r + s * odd_i
            i = even_i + c * odd_i - s * odd_r
            power[k, lane] = r * r + i * i


def _log_mel(power, band_first, band_size, weights, floor, logmel):
    """Logarithm of the energy in each band; only the bins inside a band are read."""
    at = 0
    for band in range(band_first.size):
        for lane in range(LANES):
            logmel[band, lane] = floor
        for k in range(band_first[band], band_first[band] + band_size[band]):
            w = weights[at]
            at += 1
            for lane in range(LANES):
                logmel[band, lane] += w * power[k, lane]
        for lane in range(LANES):
            logmel[band, lane] = np.log(logmel[band, lane])


def _dct(logmel, dct, cepstra):
    for k in range(dct.shape[0]):
        for lane in range(LANES):
            cepstra[k, lane] = np.float32(0.0)
        for band in range(dct.shape[1]):
            d = dct[k, band]
            for lane in range(LANES):
                cepstra[k, lane] += d * logmel[band, lane]


_v, _m, _i = float32[::1], float32[:, ::1], int64[::1]
_load_tapered = _compile(void(_v, int64, int64, int64, _v, _i, _m, _m))(_load_tapered)
_fft = _compile(void(_m, _m, _v, _v))(_fft)
_power_spectrum = _compile(void(_m, _m, _v, _v, _m))(_power_spectrum)
_log_mel = _compile(void(_m, _i, _i, _v, float32, _m))(_log_mel)
_dct = _compile(void(_m, _m, _m))(_dct)


def _mfcc_frames(
    samples,
    hop,
    window,
    order,
    fft_cos,
    fft_sin,
    split_cos,
    split_sin,
    band_first,
    band_size,
    weights,
    floor,
    dct,
    out,
):
    n_half = order.size
    re = np.empty((n_half, LANES), np.float32)
    im = np.empty((n_half, LANES), np.float32)
    power = np.empty((n_half + 1, LANES), np.float32)
    logmel = np.empty((band_first.size, LANES), np.float32)
    cepstra = np.empty((dct.shape[0], LANES), np.float32)
    for first in range(0, out.shape[0], LANES):
        n = min(LANES, out.shape[0] - first)
        _load_tapered(samples, first, n, hop, window, order, re, im)
        _fft(re, im, fft_cos, fft_sin)
        _power_spectrum(re, im, split_cos, split_sin, power)
        _log_mel(power, band_first, band_size, weights, floor, logmel)
        _dct(logmel, dct, cepstra)
        for lane in range(n):
            for k in range(dct.shape[0]):
                out[first + lane, k] = cepstra[k, lane]


mfcc_frames = _compile(void(_v, int64, _v, _i, _v, _v, _v, _v, _i, _i, _v, float32, _m, _m))(_mfcc_frames)
"""Fill ``out`` (n_frames, n_mfcc) with the cepstra of frames that start at 0, hop, 2 hop ... of ``samples``."""
