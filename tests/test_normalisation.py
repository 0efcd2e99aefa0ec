"""The moving mean: exact, causal, moved by speech alone, with a prior of stated weight."""

import copy
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serstream.manifest import load_model
from serstream.normalisation import LIMIT, UNITS, CepstralMean, in_units
from serstream.resources import packaged

PRIOR, STD = [-20.0, 8.0, 0.5], [15.0, 6.0, 2.0]


def cepstral_mean(history_frames: int = 40, prior_frames: float = 6.5, *, frozen: bool = False) -> CepstralMean:
    return CepstralMean(PRIOR, STD, prior_frames=prior_frames, history_frames=history_frames, frozen=frozen)


def voice(n_frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return some cepstra, and which of them are speech."""
    rng = np.random.default_rng(seed)
    frames = rng.normal(size=(n_frames, 3)) * STD + [-30.0, 4.0, 1.0]
    return frames.astype(np.float32), rng.random(n_frames) < 0.6


def step_by_step(
    frames: np.ndarray, speech: np.ndarray, n_step: int, history_frames: int = 40, prior_frames: float = 6.5
) -> list[list[float]]:
    """The same in plain Python, from what was heard instead of from running sums."""
    sums, count, out = [0, 0, 0], 0, []
    for at in range(0, len(frames), n_step):
        means = [(p * prior_frames + s / UNITS) / (prior_frames + count) for p, s in zip(PRIOR, sums, strict=True)]
        step = frames[at : at + n_step].tolist()
        out += [[(c - m) / s for c, m, s in zip(frame, means, STD, strict=True)] for frame in step]
        for frame in frames[at : at + n_step][speech[at : at + n_step]].tolist():
            sums = [s + round(c * UNITS) for s, c in zip(sums, frame, strict=True)]
            count += 1
        while count >= history_frames:
            sums, count = [math.floor(s / 2) for s in sums], count // 2
    return out


def through(mean: CepstralMean, frames: np.ndarray, speech: np.ndarray, n_step: int = 1) -> np.ndarray:
    """Return a stream of steps, each normalised before it moves the mean."""
    out = [np.empty((0, 3), np.float32)]
    for at in range(0, len(frames), n_step):
        step = slice(at, at + n_step)
        out.append(mean.normalise(frames[step]))
        mean.move(frames[step], speech[step])
    return np.concatenate(out)


def standing(mean: CepstralMean) -> np.ndarray:
    """Return where a mean stands."""
    return -mean.normalise(np.zeros((1, 3), np.float32))[0] * np.array(STD)


@pytest.mark.parametrize("n_step", [1, 16, 64])
@pytest.mark.parametrize("n_frames", [1, 16, 60, 500])
def test_a_step_is_measured_against_the_prior_and_the_speech_before_it(n_frames: int, n_step: int) -> None:
    frames, speech = voice(n_frames)
    got = through(cepstral_mean(), frames, speech, n_step)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, step_by_step(frames, speech, n_step), rtol=1e-6, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=8), n_frames=st.integers(0, 300), seed=st.integers(0, 100))
def test_until_it_is_halved_the_mean_stands_alike_in_however_many_moves(
    cuts: list[int], n_frames: int, seed: int
) -> None:
    frames, speech = voice(n_frames, seed)
    whole, cut = cepstral_mean(1_000), cepstral_mean(1_000)
    whole.move(frames, speech)
    for part, is_speech in zip(np.split(frames, sorted(cuts)), np.split(speech, sorted(cuts)), strict=True):
        cut.move(part, is_speech)
    after = voice(20, seed + 1)
    assert through(cut, *after).tobytes() == through(whole, *after).tobytes()


@settings(max_examples=50, deadline=None)
@given(n_frames=st.integers(0, 300), history_frames=st.sampled_from([2, 4, 40]), seed=st.integers(0, 100))
@example(n_frames=300, history_frames=2, seed=0)
def test_it_is_halved_behind_the_move_that_fills_the_history_as_often_as_it_takes(
    n_frames: int, history_frames: int, seed: int
) -> None:
    frames, speech = voice(n_frames, seed)
    got = through(cepstral_mean(history_frames), frames, speech, 16)
    expected = np.reshape(step_by_step(frames, speech, 16, history_frames), (-1, 3))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_no_frame_depends_on_its_own_step_or_on_what_comes_after() -> None:
    frames, speech = voice(100)
    other = frames.copy()
    other[48:] *= 3.0
    first, second = (through(cepstral_mean(), x, speech, 16) for x in (frames, other))
    assert np.array_equal(first[:48], second[:48])
    means = [x[48:64] - n[48:64] * np.float32(STD) for x, n in ((frames, first), (other, second))]
    np.testing.assert_allclose(*means, rtol=1e-4, atol=1e-4)
    assert np.ptp(means[0], axis=0).max() < 1e-3, "and a step has one mean"


def test_what_is_no_speech_leaves_the_mean_where_it_is() -> None:
    frames, _ = voice(100)
    mean, untouched = cepstral_mean(), cepstral_mean()
    quiet = through(mean, frames, np.zeros(100, bool))
    np.testing.assert_allclose(quiet, (frames - np.float32(PRIOR)) / np.float32(STD), rtol=1e-5, atol=1e-6)
    after = voice(20, seed=1)
    assert np.array_equal(through(mean, *after), through(untouched, *after))


def test_a_frozen_mean_never_moves() -> None:
    frames, speech = voice(100)
    got = through(cepstral_mean(frozen=True), frames, speech)
    assert np.array_equal(got, through(cepstral_mean(), frames, np.zeros(100, bool)))


@pytest.mark.parametrize("n_speech", [0, 1, 7, 39])
def test_the_prior_weighs_as_many_frames_as_is_stated(n_speech: int) -> None:
    mean, said = cepstral_mean(prior_frames=10.0), np.float32([1.0, 2.0, 3.0])
    mean.move(np.tile(said, (n_speech, 1)), np.ones(n_speech, bool))
    expected = (10.0 * np.array(PRIOR) + n_speech * said) / (10.0 + n_speech)
    np.testing.assert_allclose(standing(mean), expected, rtol=1e-6)


def test_a_channel_that_adds_a_constant_is_forgotten_as_the_speech_outweighs_the_prior() -> None:
    """A gain is such a channel: it adds the same to the first cepstrum of every frame."""
    frames, _ = voice(4_000)
    speech, offset = np.ones(4_000, bool), np.float32([12.0, 0.0, 0.0])
    plain, louder = (through(cepstral_mean(100_000), x, speech) for x in (frames, frames + offset))
    left = (louder - plain)[:, 0] * STD[0] / offset[0]
    np.testing.assert_allclose(left, 6.5 / (6.5 + np.arange(4_000)), atol=1e-4)
    assert np.abs(left[-100:]).max() < 0.002


@pytest.mark.parametrize("history_frames", [40, 400])
def test_on_an_endless_stream_the_last_half_of_the_history_and_up_to_twice_that_counts(history_frames: int) -> None:
    """A voice that goes to another place is followed: what was before weighs half as much at every halving."""
    mean = cepstral_mean(history_frames)
    before, after = (np.full((10 * history_frames, 3), x, np.float32) for x in (-50.0, 10.0))
    through(mean, before, np.ones(len(before), bool))
    heard = through(mean, after, np.ones(len(after), bool))
    means = after[:, 0] - heard[:, 0] * STD[0]
    shares = [history_frames / (history_frames + 6.5), history_frames / 2 / (history_frames / 2 + 6.5)]
    settled = [10.0 * s + PRIOR[0] * (1.0 - s) for s in shares]
    assert means[history_frames // 2] < -15.0, "half of the history, and of it half is new"
    assert means[-history_frames:].max() == pytest.approx(settled[0], abs=0.2)
    assert means[-history_frames:].min() == pytest.approx(settled[1], abs=0.2)


def test_halving_rounds_the_mean_by_no_more_than_a_unit() -> None:
    said = np.tile(np.float32([-20.123, 7.77, 0.001]), (40, 1))
    mean = cepstral_mean(40, prior_frames=1e-6)
    mean.move(said, np.ones(40, bool))
    np.testing.assert_allclose(standing(mean), said[0], atol=1.0 / UNITS)


def test_what_no_voice_can_say_overflows_nothing() -> None:
    mean = CepstralMean(PRIOR, STD, prior_frames=1.0, history_frames=1_000_000)
    frames = np.tile(np.float32([3e38, -3e38, 0.0]), (1_000, 1))
    for _ in range(3):
        mean.move(frames, np.ones(1_000, bool))
        assert np.isfinite(mean.normalise(frames)).all()
    assert int(in_units(frames).max()) * 1_000_000 < 2**62
    assert in_units(np.float32([3e38, -3e38])).tolist() == [LIMIT * UNITS, -LIMIT * UNITS]


def test_a_copy_goes_its_own_way() -> None:
    frames, speech = voice(100)
    mean = cepstral_mean()
    mean.move(frames, speech)
    other = copy.deepcopy(mean)
    assert np.array_equal(through(mean, frames, speech), through(other, frames, speech))
    mean.move(frames + 1, speech)
    assert not np.array_equal(through(mean, frames, speech), through(other, frames, speech))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_profile_takes_the_place_of_the_models_mean_with_a_weight_of_its_own(frozen: bool) -> None:
    manifest = load_model(packaged("models/serstream")).manifest
    n = manifest.front_end.n_mfcc
    profile = [1.0] * n
    moved = 1.0 + np.array(manifest.mean) - manifest.ordinary
    for mean, prior, weight in (
        (manifest.cepstral_mean(frozen=frozen), manifest.mean, manifest.prior_frames),
        (manifest.cepstral_mean(profile, frozen=frozen), moved, manifest.profile_frames),
    ):
        mean.move(np.full((100, n), 5.0, np.float32), np.ones(100, bool))
        got = -mean.normalise(np.zeros((1, n), np.float32))[0] * manifest.std
        heard = 0 if frozen else 100
        np.testing.assert_allclose(
            got, (weight * np.array(prior) + 5.0 * heard) / (weight + heard), rtol=1e-4, atol=1e-6
        )
