"""Features of all clips, several renderings of each, computed once by the runtime's own kernel."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serstream.errors import SourceError
from serstream.features import FrontEnd, mfcc
from serstream.recordings import read_file
from serstream.speech import FRAME_LENGTH, SpeechDetector
from serstream.training.augment import WARPS, augment, noise_floor
from serstream.training.corpora import Clip, noise_clips, read_corpora

Features = NDArray[np.float16]


@dataclass(frozen=True)
class Prepared:
    """Features on disk.

    ``features`` is (n_variants, n_frames, n_mfcc) float16 over all clips one after another; clip ``i`` has the frames
    ``first[i]`` to ``first[i + 1]``; ``speech`` (n_frames,) says which are speech in the clean recording.
    """

    clips: list[Clip]
    front_end: FrontEnd
    features: Features
    speech: NDArray[np.bool_]
    first: NDArray[np.int64]


def read_clip(path: Path) -> NDArray[np.float32]:
    """Return a whole recording as the runtime reads it; raises :class:`SourceError` if it cannot be read."""
    return np.concatenate([np.empty(0, np.float32), *read_file(path)])


def speech_frames(samples: NDArray[np.float32], n_frames: int) -> NDArray[np.bool_]:
    """Return which of the first ``n_frames`` MFCC frames begin in speech."""
    return np.asarray(SpeechDetector().push(samples)[:n_frames] >= 0.5)


def render(
    samples: NDArray[np.float32],
    speech: NDArray[np.bool_],
    front_end: FrontEnd,
    n_variants: int,
    noises: list[NDArray[np.float32]],
    rng: np.random.Generator,
) -> Features:
    """Return (n_variants, n_frames, n_mfcc): the clip as it is with a faint noise floor, then random renderings."""
    mask = np.zeros(samples.size, bool)
    spread = np.repeat(speech, FRAME_LENGTH)[: samples.size]
    mask[: spread.size] = spread
    variants = [mfcc(samples + noise_floor(samples.size, rng), front_end)]
    for _ in range(n_variants - 1):
        warp = WARPS[rng.integers(len(WARPS))]
        variants.append(mfcc(augment(samples, mask, noises, rng), front_end, warp=warp))
    return np.stack(variants).astype(np.float16)


_worker: dict[str, Any] = {}


def _start_worker(front_end: FrontEnd, n_variants: int, seed: int, noise_paths: list[Path]) -> None:
    # nothing here may fail: a pool replaces a worker that does not start, for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker.update(front_end=front_end, n_variants=n_variants, seed=seed, noise_paths=noise_paths)


def _noises() -> list[NDArray[np.float32]]:
    """Return the noise recordings, read at the first call."""
    if "noises" not in _worker:
        _worker["noises"] = [read_clip(path) for path in _worker["noise_paths"]]
    return _worker["noises"]  # type: ignore[no-any-return]


def _work(job: tuple[int, Path]) -> tuple[Features, NDArray[np.bool_]]:
    index, path = job
    samples = read_clip(path)
    speech = speech_frames(samples, _worker["front_end"].n_frames(samples.size))
    rng = np.random.default_rng((_worker["seed"], index))
    return render(samples, speech, _worker["front_end"], _worker["n_variants"], _noises(), rng), speech


def prepare(
    data: Path,
    cache: Path,
    *,
    front_end: FrontEnd,
    n_variants: int,
    seed: int,
    jobs: int,
    corpora: tuple[str, ...],
) -> None:
    """Compute the features of every labelled clip of ``corpora`` below ``data`` into the folder ``cache``."""
    everything = read_corpora(data)
    clips = [c for c in everything if c.emotion and c.corpus in corpora]
    if not clips:
        raise SourceError(f"{data} holds no labelled clips of {', '.join(corpora)}; name the folder with --data")
    noises = [c.path for c in noise_clips(everything)]
    cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    features, speech = [], []
    with multiprocessing.get_context("spawn").Pool(jobs, _start_worker, (front_end, n_variants, seed, noises)) as pool:
        for done, (f, s) in enumerate(pool.imap(_work, list(enumerate(c.path for c in clips)), chunksize=16), 1):
            features.append(f)
            speech.append(s)
            if done % 250 == 0 or done == len(clips):
                print(
                    f"\r{done} of {len(clips)} clips, {time.monotonic() - started:.0f} s",
                    end="",
                    file=sys.stderr,
                )
    print(file=sys.stderr)
    np.save(cache / "features.npy", np.concatenate(features, axis=1))
    np.save(cache / "speech.npy", np.concatenate(speech))
    np.save(cache / "first.npy", np.cumsum([0, *(s.size for s in speech)]))
    rows = [asdict(c) | {"path": str(c.path)} for c in clips]
    index = {
        "front_end": msgspec.to_builtins(front_end),
        "n_variants": n_variants,
        "seed": seed,
        "clips": rows,
    }
    (cache / "index.json").write_text(json.dumps(index))


def load_prepared(cache: Path) -> Prepared:
    """Read what :func:`prepare` wrote; features are mapped, not read."""
    try:
        index = json.loads((cache / "index.json").read_text())
    except FileNotFoundError as error:
        raise SourceError(
            f"{cache} holds no prepared features; run `python -m serstream.training prepare` first"
        ) from error
    return Prepared(
        clips=[Clip(**(row | {"path": Path(row["path"])})) for row in index["clips"]],
        front_end=msgspec.convert(index["front_end"], FrontEnd),
        features=np.load(cache / "features.npy", mmap_mode="r"),
        speech=np.load(cache / "speech.npy"),
        first=np.load(cache / "first.npy"),
    )
