"""Features of all clips, several renderings of each, computed once by the runtime's own kernel."""

from __future__ import annotations

import json
import multiprocessing
import signal
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serstream.errors import ConfigError, SourceError
from serstream.features import FrontEnd, mfcc
from serstream.recordings import read_file
from serstream.training.augment import FLOOR_DBFS, Scene, augment, change_speed, draw_scene, floor_below, noise_floor
from serstream.training.corpora import Clip, noise_clips, read_corpora
from serstream.training.progress import Progress
from serstream.training.speech import FRAME_LENGTH, speech_level, spoken

Features = NDArray[np.float16]
Rendering = tuple[Features, NDArray[np.bool_]]


@dataclass(frozen=True)
class Prepared:
    """Features on disk.

    ``features`` is (n_frames, n_mfcc) float16 over all clips one after another, and of each clip over all its
    renderings; rendering ``v`` of clip ``i`` has the frames ``first[i, v]`` to ``first[i, v + 1]``; ``speech``
    (n_frames,) says which of them are speech, found in the clip before anything was added to it; in noise, what is
    easily taken for speech.
    """

    clips: list[Clip]
    front_end: FrontEnd
    features: Features
    speech: NDArray[np.bool_]
    first: NDArray[np.int64]

    @property
    def n_variants(self) -> int:
        """Renderings of each clip; the first is the clip as it is."""
        return int(self.first.shape[1]) - 1

    def span(self, clip: int, variant: int) -> slice:
        """Return which frames hold a rendering of a clip."""
        return slice(int(self.first[clip, variant]), int(self.first[clip, variant + 1]))


def read_clip(path: Path) -> NDArray[np.float32]:
    """Return a whole recording as the runtime reads it; raises :class:`SourceError` if it cannot be read."""
    return np.concatenate([np.empty(0, np.float32), *read_file(path)])


def render(
    samples: NDArray[np.float32],
    scenes: list[Scene],
    front_end: FrontEnd,
    noises: list[NDArray[np.float32]],
    rng: np.random.Generator,
) -> list[Rendering]:
    """Return the clip as it is with a faint noise floor, then as it sounds in each scene."""
    level = speech_level(samples)
    floor = noise_floor(samples.size, rng, floor_below(level, rng.uniform(*FLOOR_DBFS)))
    renderings = [_rendering(samples + floor, samples, front_end, 1.0)]
    for scene in scenes:
        heard = augment(samples, scene, noises, level, rng)
        renderings.append(_rendering(heard, change_speed(samples, scene.speed), front_end, scene.warp))
    return renderings


def _rendering(heard: NDArray[np.float32], clean: NDArray[np.float32], front_end: FrontEnd, warp: float) -> Rendering:
    """Return the features of what is heard, and which of their frames are speech in the clip alone."""
    frames = mfcc(heard, front_end, warp=warp)
    return frames.astype(np.float16), spoken(clean)[: len(frames)]


def scenes_of(clip: Clip, n: int, n_noises: int, seed: int) -> list[Scene]:
    """Return the scenes of a speaker: the same for all clips of one."""
    person = zlib.crc32((clip.speaker or clip.path.name).encode())
    return [draw_scene(n_noises, np.random.default_rng((seed, person, variant))) for variant in range(n)]


_worker: dict[str, Any] = {}


def _start_worker(front_end: FrontEnd, n_scenes: int, seed: int, noise_paths: list[Path]) -> None:
    # nothing here may fail: a pool replaces a worker that does not start, for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker.update(front_end=front_end, n_scenes=n_scenes, seed=seed, noise_paths=noise_paths)


def _noises() -> list[NDArray[np.float32]]:
    """Return the noise recordings, read at the first call."""
    if "noises" not in _worker:
        _worker["noises"] = [read_clip(path) for path in _worker["noise_paths"]]
    return _worker["noises"]  # type: ignore[no-any-return]


def _work(job: tuple[int, Clip]) -> list[Rendering]:
    index, clip = job
    noises = _noises()
    scenes = scenes_of(clip, _worker["n_scenes"], len(noises) if clip.emotion else 0, _worker["seed"])
    rng = np.random.default_rng((_worker["seed"], index))
    return render(read_clip(clip.path), scenes, _worker["front_end"], noises, rng)


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
    noises = noise_clips(everything)
    clips = [c for c in everything if c.emotion and c.corpus in corpora]
    if front_end.hop_length != FRAME_LENGTH:
        raise ConfigError(f"hop_length is {front_end.hop_length}; it must be {FRAME_LENGTH}, in which speech is found")
    if not clips:
        raise SourceError(f"{data} holds no labelled clips of {', '.join(corpora)}; name the folder with --data")
    clips += [c for c in noises if c.corpus in corpora]
    cache.mkdir(parents=True, exist_ok=True)
    features, speech, sizes = [], [], []
    arguments = (front_end, n_variants - 1, seed, [c.path for c in noises if c.corpus in corpora])
    with (
        multiprocessing.get_context("spawn").Pool(jobs, _start_worker, arguments) as pool,
        Progress("preparing clips", len(clips)) as progress,
    ):
        for renderings in pool.imap(_work, list(enumerate(clips)), chunksize=16):
            features += [f for f, _ in renderings]
            speech += [s for _, s in renderings]
            sizes.append([len(f) for f, _ in renderings])
            progress.advance()
    np.save(cache / "features.npy", np.concatenate(features))
    np.save(cache / "speech.npy", np.concatenate(speech))
    np.save(cache / "first.npy", _starts(np.array(sizes)))
    rows = [asdict(c) | {"path": str(c.path)} for c in clips]
    index = {"front_end": msgspec.to_builtins(front_end), "n_variants": n_variants, "seed": seed, "clips": rows}
    (cache / "index.json").write_text(json.dumps(index))


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each rendering starts, and in the last column where the clip ends, of sizes (clips, variants)."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    n_variants = sizes.shape[1]
    return np.stack([starts[v : v + len(sizes) * n_variants : n_variants] for v in range(n_variants + 1)], axis=1)


def _clip(row: dict[str, Any]) -> Clip:
    return Clip(**(row | {"path": Path(row["path"]), "votes": tuple(row.get("votes", ()))}))


def load_prepared(cache: Path) -> Prepared:
    """Read what :func:`prepare` wrote; features are mapped, not read."""
    try:
        index = json.loads((cache / "index.json").read_text())
    except FileNotFoundError as error:
        raise SourceError(
            f"{cache} holds no prepared features; run `python -m serstream.training prepare` first"
        ) from error
    return Prepared(
        clips=[_clip(row) for row in index["clips"]],
        front_end=msgspec.convert(index["front_end"], FrontEnd),
        features=np.load(cache / "features.npy", mmap_mode="r"),
        speech=np.load(cache / "speech.npy"),
        first=np.load(cache / "first.npy"),
    )
