"""Samples as bytes: the formats of pipes and of the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES: dict[str, np.dtype[Any]] = {
    "s16le": np.dtype("<i2"),
    "s32le": np.dtype("<i4"),
    "f32le": np.dtype("<f4"),
}


_SCALES = {name: np.float32(2 ** (8 * d.itemsize - 1)) if d.kind == "i" else None for name, d in DTYPES.items()}


def to_float(data: bytes, format_: str) -> NDArray[np.float32]:
    """Return whole samples in one of ``DTYPES`` as float32 of shape (n_samples,), full scale 1.0."""
    samples: NDArray[np.float32] = np.frombuffer(data, DTYPES[format_]).astype(np.float32)
    if (scale := _SCALES[format_]) is not None:
        samples /= scale
    return samples


def from_float(samples: NDArray[np.float32], format_: str) -> bytes:
    """Return float32, full scale 1.0, as ``s16le`` (rounded, and what is louder than full scale cut) or ``f32le``."""
    if (scale := _SCALES[format_]) is not None:
        samples = np.clip(np.rint(samples * scale), -scale, scale - 1)
    return samples.astype(DTYPES[format_]).tobytes()
