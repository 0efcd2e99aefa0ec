"""The seed's 216 numbers, the matrix behind them, and eGeMAPS functionals: computed once, kept in a file."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serstream.config import SAMPLE_RATE
from serstream.recordings import read_file
from serstream.training.corpora import Clip

SEED_RATE = 44_100
SEED_S = (0.5, 3.0)
"""The stretch of a clip that the seed hears, in seconds."""
N_FRAMES = 216
N_MFCC = 13
N_FUNCTIONALS = 88

Vectors = NDArray[np.float32]


def seed_matrix(samples: Vectors) -> Vectors:
    """Return the seed's MFCC, of shape (216, 13): librosa's with its defaults at 44.1 kHz.

    Parameters
    ----------
    samples : ndarray of shape (n_samples,), float32
        A whole clip at 16 kHz. Frames after its end are 0.
    """
    import librosa

    first, last = (int(s * SAMPLE_RATE) for s in SEED_S)
    matrix = np.zeros((N_FRAMES, N_MFCC), np.float32)
    stretch = samples[first:last]
    if stretch.size:
        y = librosa.resample(stretch, orig_sr=SAMPLE_RATE, target_sr=SEED_RATE)
        frames = librosa.feature.mfcc(y=y, sr=SEED_RATE, n_mfcc=N_MFCC).T
        matrix[: len(frames)] = frames
    return matrix


def seed_feature(matrix: Vectors) -> Vectors:
    """Return the mean over the 13 coefficients of each frame: (..., 216, 13) to (..., 216)."""
    return np.asarray(matrix.mean(axis=-1), np.float32)


@lru_cache(maxsize=1)
def _smile() -> Any:
    import opensmile

    return opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
    )


def egemaps(samples: Vectors) -> Vectors:
    """Return the 88 eGeMAPS functionals of a whole clip at 16 kHz."""
    return np.asarray(_smile().process_signal(samples, SAMPLE_RATE).to_numpy()[0], np.float32)


def _start_worker() -> None:
    # nothing here may fail: a pool replaces a worker that does not start, for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(path: Path) -> tuple[Vectors, Vectors]:
    samples = np.concatenate([np.empty(0, np.float32), *read_file(path)])
    return seed_matrix(samples), egemaps(samples)


def digest(clips: list[Clip]) -> str:
    """Return what tells these clips from others: a hash of their names and labels, the folder left out."""
    rows = [f"{c.path.name},{c.corpus},{c.speaker},{c.sex},{c.emotion}" for c in clips]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def compute(clips: list[Clip], file: Path, *, jobs: int) -> None:
    """Write ``matrix`` (n, 216, 13) and ``egemaps`` (n, 88) of the clips, unless the file holds them already."""
    if file.is_file() and str(np.load(file)["digest"]) == digest(clips):
        return
    rows = []
    with multiprocessing.get_context("spawn").Pool(jobs, _start_worker) as pool:
        for done, row in enumerate(pool.imap(_work, [c.path for c in clips], chunksize=8), 1):
            rows.append(row)
            if done % 100 == 0 or done == len(clips):
                print(f"features of {done} of {len(clips)} clips", file=sys.stderr, flush=True)
    matrices, functionals = (np.stack(column) for column in zip(*rows, strict=True))
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, matrix=matrices, egemaps=functionals, digest=digest(clips))
    os.replace(partial, file)
