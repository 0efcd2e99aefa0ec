"""Numba loops: taper, real FFT, mel bands, logarithm, DCT; the moving mean; pooling. Arrays in, arrays out.

``LANES`` frames of MFCC are computed side by side, a lane each (see :mod:`serstream.lanes`), and lanes that no frame
needs repeat the last one: the result of a frame does not depend on its neighbours, nor on where a block begins.
Numba's cache watches this file alone: after a change of ``lanes`` save this one too.
"""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int8, int64, njit, types, void

from serstream.lanes import LANES, load, load_spread, load_transposed, log, spread, store

COEFFICIENTS = 4
"""Cepstra whose sums are kept in registers together."""

_ROW = 2 * LANES  # elements of one complex number: all lanes' real parts, then the imaginary ones


def _compile(signature: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at once and keep the machine code on disk, or in memory alone where no cache can be written."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        # without the error model every division would look for a zero, and none be done with others at once
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            return njit(signature, cache=True, **options)(function)  # type: ignore[no-any-return]
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError):
            return njit(signature, **options)(function)  # type: ignore[no-any-return]

    return decorate


@njit
def _load_tapered(samples, first, last, hop, window, z):
    """Put frame ``first + min(lane, last)``, tapered, into each lane; sample ``k`` is row ``k``."""
    at = first * hop
    win_length = window.size
    whole = win_length - win_length % LANES
    for k in range(0, whole, LANES):
        load_transposed(samples, at + k, hop, last, window, k, z, k * LANES)
    for k in range(whole, win_length):
        for lane in range(LANES):
            z[k * LANES + lane] = window[k] * samples[at + min(lane, last) * hop + k]
    z[win_length * LANES :] = 0.0


@njit
def _load_complex(z, at):
    return load(z, at), load(z, at + LANES)


@njit
def _store_complex(z, at, r, i):
    store(z, at, r)
    store(z, at + LANES, i)


@njit
def _butterfly(z, at, leg):
    """Return the four sums of a radix-4 butterfly, in the order of bins."""
    ar, ai = _load_complex(z, at)
    br, bi = _load_complex(z, at + leg)
    cr, ci = _load_complex(z, at + 2 * leg)
    dr, di = _load_complex(z, at + 3 * leg)
    sr, si, tr, ti = ar + cr, ai + ci, br + dr, bi + di
    ur, ui, vr, vi = ar - cr, ai - ci, br - dr, bi - di
    return sr + tr, si + ti, ur + vi, ui - vr, sr - tr, si - ti, ur - vi, ui + vr


@njit
def _fft(z, n, twiddles):
    """Transform ``n`` complex rows in place, by decimation in frequency; bins come out in the order of digits.

    Returns the twiddles that it did not need.
    """
    t = 0
    while n > 4:
        leg = n // 4 * _ROW
        for k in range(0, leg, _ROW):
            b_cos, b_sin = load_spread(twiddles, t), load_spread(twiddles, t + 1)
            c_cos, c_sin = load_spread(twiddles, t + 2), load_spread(twiddles, t + 3)
            d_cos, d_sin = load_spread(twiddles, t + 4), load_spread(twiddles, t + 5)
            t += 6
            for at in range(k, z.size, 4 * leg):
                ar, ai, br, bi, cr, ci, dr, di = _butterfly(z, at, leg)
                _store_complex(z, at, ar, ai)
                _store_complex(z, at + leg, b_cos * br + b_sin * bi, b_cos * bi - b_sin * br)
                _store_complex(z, at + 2 * leg, c_cos * cr + c_sin * ci, c_cos * ci - c_sin * cr)
                _store_complex(z, at + 3 * leg, d_cos * dr + d_sin * di, d_cos * di - d_sin * dr)
        n //= 4
    if n == 4:
        for at in range(0, z.size, 4 * _ROW):
            ar, ai, br, bi, cr, ci, dr, di = _butterfly(z, at, _ROW)
            _store_complex(z, at, ar, ai)
            _store_complex(z, at + _ROW, br, bi)
            _store_complex(z, at + 2 * _ROW, cr, ci)
            _store_complex(z, at + 3 * _ROW, dr, di)
    else:
        for at in range(0, z.size, 2 * _ROW):
            ar, ai = _load_complex(z, at)
            br, bi = _load_complex(z, at + _ROW)
            _store_complex(z, at, ar + br, ai + bi)
            _store_complex(z, at + _ROW, ar - br, ai - bi)
    return twiddles[t:]


@njit
def _power_spectrum(z, order, twiddles, power):
    """Split the FFT of even and odd samples into that of the real frame; four times its squared magnitude."""
    size = order.size
    r, i = _load_complex(z, 0)
    total, alternating = r + i, r - i
    store(power, 0, np.float32(4.0) * total * total)
    store(power, size * LANES, np.float32(4.0) * alternating * alternating)
    for k in range(1, size // 2 + 1):
        ar, ai = _load_complex(z, order[k] * _ROW)
        br, bi = _load_complex(z, order[size - k] * _ROW)
        even_r, even_i, odd_r, odd_i = ar + br, ai - bi, ai + bi, br - ar
        cos, sin = load_spread(twiddles, 2 * k - 2), load_spread(twiddles, 2 * k - 1)
        turned_r, turned_i = cos * odd_r + sin * odd_i, cos * odd_i - sin * odd_r
        r, i = even_r + turned_r, even_i + turned_i
        store(power, k * LANES, r * r + i * i)
        r, i = even_r - turned_r, even_i - turned_i
        store(power, (size - k) * LANES, r * r + i * i)


@njit
def _log_mel(power, bands, weights, floor, logmel):
    """Logarithm of the energy in each band; only the bins inside a band are read."""
    w = 0
    for band in range(len(bands)):
        energy = spread(np.float32(floor))
        for at in range(bands[band, 0] * LANES, bands[band, 1] * LANES, LANES):
            energy += load_spread(weights, w) * load(power, at)
            w += 1
        store(logmel, band * LANES, log(energy))


@njit
def _dct(logmel, n_mels, dct, cepstra):
    """Sum over half the bands: cosines of even order are even about the middle of the bands, the others odd."""
    for band in range(n_mels // 2):
        a, b = band * LANES, (n_mels - 1 - band) * LANES
        x, y = load(logmel, a), load(logmel, b)
        store(logmel, a, x + y)
        store(logmel, b, x - y)
    d = 0
    for k in range(0, cepstra.size, 2 * LANES * COEFFICIENTS):
        for odd in range(2):
            at, step = ((n_mels - 1) * LANES, -LANES) if odd else (0, LANES)
            c0 = c1 = c2 = c3 = spread(np.float32(0.0))
            for _ in range((n_mels + 1) // 2):
                x = load(logmel, at)
                c0 += load_spread(dct, d) * x
                c1 += load_spread(dct, d + 1) * x
                c2 += load_spread(dct, d + 2) * x
                c3 += load_spread(dct, d + 3) * x
                d += COEFFICIENTS
                at += step
            to = k + odd * LANES
            store(cepstra, to, c0)
            store(cepstra, to + 2 * LANES, c1)
            store(cepstra, to + 4 * LANES, c2)
            store(cepstra, to + 6 * LANES, c3)


_v, _m, _i = float32[::1], float32[:, ::1], int64[::1]


@njit
def _rows(n):
    """Return room for ``n`` rows of lanes, not filled, that begins where a vector is loaded at once."""
    room = np.empty((n + 1) * LANES, np.float32)
    start = -(room.ctypes.data // 4) % LANES
    return room[start : start + n * LANES]


def _add_up(frames, chosen, limit, units, total):
    count = 0
    for f in range(len(frames)):
        if chosen[f]:
            count += 1
            for k in range(total.size):
                total[k] += np.int64(np.rint(min(max(np.float64(frames[f, k]), -limit), limit) * units))
    return count


_d = float64[::1]
add_up = _compile(int64(_m, boolean[::1], float64, float64, _i))(_add_up)
"""Add the chosen frames to ``total``, in whole ``units``, and return how many they are."""


def _weigh(spoken, n_evidence, weights):
    among = 0
    for i in range(spoken.size):
        among += spoken[i]
        if i >= n_evidence:
            among -= spoken[i - n_evidence]
            weights[i - n_evidence] = among if spoken[i] else 0


_b = boolean[::1]
weigh = _compile(void(_b, int64, _i))(_weigh)
"""Fill ``weights`` (n,): how many of ``n_evidence`` up to each of the last n are spoken, 0 for one that is not."""


def _move_sums(kept, kept_weights, at, outputs, weights, total, squares):
    for i in range(len(outputs)):
        new, old = weights[i], kept_weights[at]
        for k in range(total.size):
            x, y = np.int64(outputs[i, k]), np.int64(kept[at, k])
            total[k] += new * x - old * y
            squares[k] += new * x * x - old * y * y
        kept[at], kept_weights[at] = outputs[i], new
        at = (at + 1) % len(kept)
    return at, np.count_nonzero(kept_weights), kept_weights.sum()


_q = int8[:, ::1]
move_sums = _compile(types.UniTuple(int64, 3)(_q, _i, int64, _q, _i, _i, _i))(_move_sums)
"""Put weighted outputs in the places from ``at`` on, round and round, and move the sums.

Returns the next place, how many outputs weigh something, and what all weigh together.
"""


def _quantise(x, scale, zero, out):
    for i in range(x.size):
        out[i] = np.int8(min(max(np.rint(x[i] / scale) + zero, -128), 127))


_o = int8[::1]
quantise = _compile([void(_v, float32, float32, _o), void(float64[::1], float64, float64, _o)])(_quantise)
"""Fill ``out`` (n,) with ``x`` (n,) over its scale, rounded, on its zero point, saturating."""


def _pool(total, squares, n, scale, zero, epsilon, out):
    for k in range(total.size):
        out[k] = (total[k] / n - zero) * scale
        variance = (n * squares[k] - total[k] * total[k]) / (n * n) * (scale * scale)
        out[total.size + k] = np.sqrt(variance + epsilon)


pool = _compile(void(_i, _i, int64, float64, int64, float64, _d))(_pool)
"""Fill ``out`` with means, then deviations, of what weighs ``n`` together and has a scale and zero point."""


def _mfcc_frames(samples, hop, window, twiddles, order, bands, weights, floor, dct, out):
    n_frames, n_mfcc = out.shape
    n_mels = len(bands)
    z, power, logmel = _rows(2 * order.size), _rows(order.size + 1), _rows(n_mels)
    cepstra = _rows(dct.size // ((n_mels + 1) // 2))
    for first in range(0, n_frames, LANES):
        n = min(LANES, n_frames - first)
        _load_tapered(samples, first, n - 1, hop, window, z)
        split = _fft(z, order.size, twiddles)
        _power_spectrum(z, order, split, power)
        _log_mel(power, bands, weights, floor, logmel)
        _dct(logmel, n_mels, dct, cepstra)
        for lane in range(n):
            for k in range(n_mfcc):
                out[first + lane, k] = cepstra[k * LANES + lane]


mfcc_frames = _compile(void(_v, int64, _v, _v, _i, int64[:, ::1], _v, float64, _v, _m))(_mfcc_frames)
"""Fill ``out`` (n_frames, n_mfcc) with the cepstra of frames that start at 0, hop, 2 hop ... of ``samples``."""
