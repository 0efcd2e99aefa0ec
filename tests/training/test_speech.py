"""Where the speech is in a clean recording: the teacher says the same at any level."""

import numpy as np
import pytest
import soundfile

from serstream.resources import packaged
from serstream.training.speech import FRAME_LENGTH, rms, speech_level, speech_of, spoken

DEMO = soundfile.read(packaged("demo.flac"), dtype="float32", frames=160_000)[0]


def test_a_frame_is_256_samples_and_what_is_left_over_is_none() -> None:
    said = spoken(DEMO[:10_100])
    assert said.dtype == np.bool_
    assert said.shape == (10_100 // FRAME_LENGTH,)
    assert np.array_equal(said, spoken(DEMO[: 10_100 // FRAME_LENGTH * FRAME_LENGTH]))


def test_the_demo_is_speech_and_its_pauses_are_not() -> None:
    said = spoken(DEMO)
    assert 0.3 < said.mean() < 0.95
    assert not said[:15].any(), "it begins with a pause"


@pytest.mark.parametrize("gain_db", [-30, -18, -6, 6, 18, 30])
def test_the_level_of_a_recording_changes_no_decision(gain_db: int) -> None:
    """Beyond full scale too: a recording of floats may go there."""
    assert np.array_equal(spoken(DEMO * np.float32(10 ** (gain_db / 20))), spoken(DEMO))


def test_silence_is_no_speech() -> None:
    assert not spoken(np.zeros(48_000, np.float32)).any()


@pytest.mark.parametrize("n_samples", [0, 1, 255])
def test_less_than_a_frame_is_no_speech(n_samples: int) -> None:
    samples = DEMO[60_000 : 60_000 + n_samples]
    assert spoken(samples).shape == (0,)
    assert not speech_of(samples).any()
    assert speech_of(samples).shape == samples.shape


def test_each_sample_is_what_its_frame_is_and_behind_the_last_frame_none() -> None:
    samples = DEMO[: 40_000 + 100]
    said = speech_of(samples)
    frames = samples.size // FRAME_LENGTH
    assert said.shape == samples.shape
    assert np.array_equal(said[: frames * FRAME_LENGTH].reshape(frames, FRAME_LENGTH).all(axis=1), spoken(samples))
    assert np.count_nonzero(said) == np.count_nonzero(spoken(samples)) * FRAME_LENGTH


def test_the_level_is_that_of_the_speech_and_without_speech_of_everything() -> None:
    said = speech_of(DEMO)
    assert speech_level(DEMO) == rms(DEMO[said]) > rms(DEMO)
    assert speech_level(0.25 * DEMO) == pytest.approx(0.25 * speech_level(DEMO), rel=1e-5)
    quiet = np.full(1_000, 0.1, np.float32)
    assert speech_level(quiet) == pytest.approx(0.1, rel=1e-5)
    assert speech_level(np.zeros(0, np.float32)) == speech_level(np.zeros(1_000, np.float32)) == 1e-6
