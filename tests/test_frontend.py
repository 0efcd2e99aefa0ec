"""What is heard of a signal: frames and their speech, aligned, the same for any cutting."""

import msgspec
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from serstream.errors import ModelError
from serstream.features import FrontEnd, mfcc
from serstream.frontend import StreamingFrontEnd, hear
from serstream.resources import packaged
from serstream.speech import SpeechDetector

DEFAULT = FrontEnd()
SPEECH = soundfile.read(packaged("demo.flac"), dtype="float32", frames=160_000)[0]


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=20))
def test_cutting_the_signal_anywhere_changes_no_bit(cuts: list[int]) -> None:
    y = SPEECH[:20_000]
    stream = StreamingFrontEnd(DEFAULT)
    parts = [stream.push(block) for block in np.split(y, sorted(cuts))]
    for got, whole in zip(zip(*parts, strict=True), hear(y, DEFAULT), strict=True):
        assert np.concatenate(got).tobytes() == whole.tobytes()


def test_frames_and_speech_are_those_of_the_signal_aligned() -> None:
    frames, speech = hear(SPEECH, DEFAULT)
    assert frames.tobytes() == mfcc(SPEECH, DEFAULT).tobytes()
    assert speech.tobytes() == SpeechDetector().push(SPEECH)[: len(frames)].tobytes()
    assert len(frames) == len(speech) == DEFAULT.n_frames(SPEECH.size)


def test_after_a_reset_nothing_of_before_is_left() -> None:
    stream = StreamingFrontEnd(DEFAULT)
    stream.push(SPEECH[50_000:60_100])
    stream.reset()
    for got, whole in zip(stream.push(SPEECH), hear(SPEECH, DEFAULT), strict=True):
        assert got.tobytes() == whole.tobytes()


def test_a_warp_is_that_of_the_cepstra_alone() -> None:
    frames, speech = hear(SPEECH, DEFAULT, warp=1.05)
    assert frames.tobytes() == mfcc(SPEECH, DEFAULT, warp=1.05).tobytes()
    assert speech.tobytes() == hear(SPEECH, DEFAULT)[1].tobytes()


def test_a_hop_that_the_detector_does_not_have_is_refused() -> None:
    with pytest.raises(ModelError, match="hop_length 128, but speech detection needs 256"):
        StreamingFrontEnd(msgspec.structs.replace(DEFAULT, hop_length=128))
