"""A small corpus of RAVDESS's names, cut out of the embedded demo, and what training makes of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
from training_process import train

from serstream.resources import packaged
from serstream.training.speech import FRAME_LENGTH, spoken

ACTORS = (1, 2, 3, 5, 6, 10, 11, 17)
"""Of fold 1: 2 and 5; of fold 2, whose first three actors validate: 3 and 6."""
EMOTIONS = (2, 3, 4, 5, 6)


@pytest.fixture(scope="session")
def tensorflow() -> None:
    """What needs TensorFlow is skipped without it: it comes with the extra ``[train]``."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed; pip install 'serstream[train]'")


@pytest.fixture(scope="session")
def ravdess(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain RAVDESS folder: an actor's clips are stretches of the demo with speech, at a pitch of the actor's own."""
    folder, rng = tmp_path_factory.mktemp("ravdess"), np.random.default_rng(0)
    demo = soundfile.read(packaged("demo.flac"), dtype="float32")[0]
    speech = np.flatnonzero(spoken(demo)) * FRAME_LENGTH
    for actor in ACTORS:
        (folder / f"Actor_{actor:02d}").mkdir()
        for emotion in EMOTIONS:
            start = int(rng.choice(speech[speech < demo.size - 40_000]))
            name = f"Actor_{actor:02d}/03-01-{emotion:02d}-01-01-01-{actor:02d}.wav"
            soundfile.write(folder / name, demo[start : start + 32_000], 15_000 + 250 * actor)
    return folder


@pytest.fixture(scope="session")
def cache(ravdess: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features of these clips, prepared."""
    folder = tmp_path_factory.mktemp("features")
    train("prepare", "--data", ravdess, "--cache", folder, "--variants", "2", "--jobs", "2")
    return folder
