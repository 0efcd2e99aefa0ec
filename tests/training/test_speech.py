"""Speech detection: streaming equals batch, and it tells speech from silence."""

import numpy as np
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from serstream.resources import packaged
from serstream.speech import FRAME_LENGTH, SpeechDetector

SPEECH = soundfile.read(packaged("demo.flac"), dtype="float32", frames=80_000)[0]


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=30))
def test_cutting_the_signal_anywhere_changes_no_bit(cuts: list[int]) -> None:
    y = SPEECH[:20_000]
    detector = SpeechDetector()
    got = np.concatenate([detector.push(block) for block in np.split(y, sorted(cuts))])
    assert got.tobytes() == SpeechDetector().push(y).tobytes()


def test_one_sample_at_a_time_changes_no_bit() -> None:
    y = SPEECH[:3_000]
    detector = SpeechDetector()
    got = np.concatenate([detector.push(y[i : i + 1]) for i in range(y.size)])
    assert got.tobytes() == SpeechDetector().push(y).tobytes()


def test_a_frame_is_256_samples_and_a_probability() -> None:
    got = SpeechDetector().push(SPEECH)
    assert got.dtype == np.float32
    assert got.shape == (SPEECH.size // FRAME_LENGTH,)
    assert got.min() >= 0.0
    assert got.max() <= 1.0


def test_the_demo_is_heard_as_speech_and_silence_and_faint_noise_are_not() -> None:
    faint = np.random.default_rng(0).normal(0.0, 1e-3, 48_000).astype(np.float32)
    assert np.mean(SpeechDetector().push(SPEECH) >= 0.5) > 0.3
    for quiet in (np.zeros(48_000, np.float32), faint):
        assert np.mean(SpeechDetector().push(quiet) >= 0.5) < 0.05


def test_amplitudes_beyond_full_scale_count_as_full_scale() -> None:
    loud = 20.0 * SPEECH
    assert SpeechDetector().push(loud).tobytes() == SpeechDetector().push(np.clip(loud, -1.0, 1.0)).tobytes()


def test_after_a_reset_nothing_of_before_is_left() -> None:
    detector = SpeechDetector()
    detector.push(SPEECH[:10_100])
    detector.reset()
    assert detector.push(SPEECH[:30_000]).tobytes() == SpeechDetector().push(SPEECH[:30_000]).tobytes()
