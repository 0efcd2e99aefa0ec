"""The mean of a voice: that of its speech alone, the same for any cutting, and no frame across a hole."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from recomputed import listen, speech_in

from serstream.enrolment import Enrolment
from serstream.features import mfcc
from serstream.manifest import load_model
from serstream.network import Network
from serstream.normalisation import UNITS
from serstream.resources import packaged

RATE = 16_000
MODEL = load_model(packaged("models/serstream"))
NETWORK, MANIFEST = Network(MODEL), MODEL.manifest
DEMO = soundfile.read(packaged("demo.flac"), dtype="float32")[0]


def enrolment(wanted_s: float = 30.0, threshold: float = 0.5) -> Enrolment:
    return Enrolment(NETWORK, threshold=threshold, wanted_s=wanted_s)


def hear(samples: np.ndarray, sizes: list[int], wanted_s: float = 30.0) -> Enrolment:
    made, at, turn = enrolment(wanted_s), 0, 0
    while at < samples.size:
        block = samples[at : at + sizes[turn % len(sizes)]]
        made.push(at, block)
        at, turn = at + block.size, turn + 1
    return made


def spoken(*stretches: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return the cepstra of the speech in the whole steps of a signal with holes."""
    mean, found = MANIFEST.cepstral_mean(), []
    for samples in stretches:
        frames = mfcc(samples, MANIFEST.front_end)
        frames = frames[: len(frames) // MANIFEST.step_frames * MANIFEST.step_frames]
        found.append(frames[np.repeat(speech_in(listen(NETWORK, frames, mean, threshold=threshold)), MANIFEST.stride)])
    return np.concatenate(found)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_the_mean_is_that_of_the_speech_alone(threshold: float) -> None:
    made, frames = enrolment(60.0, threshold), spoken(DEMO, threshold=threshold)
    made.push(0, DEMO)
    np.testing.assert_allclose(made.mean(), frames.astype(np.float64).mean(axis=0), atol=1.0 / UNITS)
    assert made.speech_s == round(len(frames) * 0.016, 3)
    assert not made.complete


@pytest.mark.parametrize("wanted_s", [1.0, 5.5, 10.0])
def test_what_is_said_after_there_is_enough_changes_nothing(wanted_s: float) -> None:
    made = enrolment(wanted_s)
    made.push(0, DEMO)
    assert made.complete
    assert 0.0 <= made.speech_s - wanted_s < 0.016
    first = spoken(DEMO)[: round(made.speech_s / 0.016)].astype(np.float64)
    np.testing.assert_allclose(made.mean(), first.mean(axis=0), atol=1.0 / UNITS)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 600), st.integers(0, 5 * RATE)), min_size=1, max_size=8).filter(
        lambda sizes: sum(sizes) > 512
    ),
    wanted_s=st.sampled_from([1.0, 3.0, 30.0]),
)
def test_cutting_the_sound_anywhere_gives_the_same_mean_to_the_bit(sizes: list[int], wanted_s: float) -> None:
    y = DEMO[: 10 * RATE]
    cut, whole = hear(y, sizes, wanted_s), hear(y, [y.size], wanted_s)
    assert (cut.mean(), cut.speech_s) == (whole.mean(), whole.speech_s)


def test_no_frame_spans_a_hole() -> None:
    y, cut = DEMO[: 8 * RATE], 3 * RATE + 77
    holed = enrolment()
    holed.push(0, y[:cut])
    holed.push(cut + 5_000, y[cut:])
    expected = spoken(y[:cut], y[cut:]).astype(np.float64)
    assert holed.speech_s == round(len(expected) * 0.016, 3)
    np.testing.assert_allclose(holed.mean(), expected.mean(axis=0), atol=1.0 / UNITS)


def test_silence_is_no_speech() -> None:
    made = enrolment()
    made.push(0, np.zeros(5 * RATE, np.float32))
    assert made.speech_s == 0.0
