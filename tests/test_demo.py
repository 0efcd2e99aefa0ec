"""The embedded demo is what the daemon can play: speech, pauses, no clipping."""

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import soundfile
from earshot import Detector

from serstream.analysis import analyze
from serstream.config import Config
from serstream.daemon import find_model
from serstream.recordings import read_file
from serstream.resources import packaged

FRAME = 256


@pytest.fixture(scope="module")
def make_demo(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    path = request.config.rootpath / "scripts" / "make_demo.py"
    spec = importlib.util.spec_from_file_location("make_demo", path)
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "make_demo", module)
        spec.loader.exec_module(module)
        yield module


def stretches(is_speech: np.ndarray, least_pause: int) -> list[tuple[int, int]]:
    """Join the frames of speech that no pause of ``least_pause`` frames divides."""
    frames = np.flatnonzero(is_speech)
    cuts = np.flatnonzero(np.diff(frames) > least_pause)
    starts, ends = np.r_[frames[0], frames[cuts + 1]], np.r_[frames[cuts], frames[-1]]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def test_the_demo_is_16_khz_mono_and_lasts_20_to_40_seconds():
    info = soundfile.info(packaged("demo.flac"))
    assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
    assert 20 <= info.duration <= 40


def test_the_demo_stays_below_one_megabyte():
    assert packaged("demo.flac").stat().st_size < 1_000_000


def test_the_demo_never_clips_and_its_pauses_are_not_digital_silence():
    samples, sample_rate = soundfile.read(packaged("demo.flac"))
    assert np.abs(samples).max() <= 10 ** (-3 / 20)
    second = samples[: sample_rate // 2]
    assert -73 < 20 * np.log10(np.sqrt(np.mean(second**2))) < -67


def test_the_demo_has_four_or_more_utterances_divided_by_pauses():
    samples, sample_rate = soundfile.read(packaged("demo.flac"), dtype="float32")
    detector = Detector()
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    is_speech = np.array([detector.predict_f32(frame) > 0.5 for frame in frames])
    found = stretches(is_speech, least_pause=int(0.6 * sample_rate / FRAME))
    assert len(found) >= 4
    assert min(end - start for start, end in found) * FRAME / sample_rate > 1.0


def test_the_table_holds_all_five_moods_in_several_voices(make_demo):
    table = make_demo.UTTERANCES
    assert {u.mood for u in table} == {"calm", "happy", "sad", "angry", "fearful"}
    assert len({u.voice for u in table}) >= 4


def test_the_shipped_model_hears_several_moods_in_it():
    blocks = read_file(packaged("demo.flac"))
    heard = {u.label for u in analyze(blocks, find_model("serstream"), Config()).analysis.utterances}
    assert len(heard) >= 4


def test_without_espeak_ng_the_script_says_how_to_get_it(make_demo, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install espeak-ng" in make_demo.main([str(tmp_path / "demo.flac")])
    assert not (tmp_path / "demo.flac").exists()
