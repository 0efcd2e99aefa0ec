"""What is heard of a stream: the trunk and its gate a step at a time, and the mean that follows the speech."""

import copy
import math

import numpy as np
import pytest
import soundfile
from recomputed import Recomputed, cut, listen, random_frames, speech_in

from serstream.batch import alone
from serstream.ear import Ear, log_odds
from serstream.features import mfcc
from serstream.manifest import load_model
from serstream.network import Network
from serstream.normalisation import CepstralMean
from serstream.resources import packaged

MODEL = load_model(packaged("models/serstream"))
M = MODEL.manifest
N_OUTPUTS = M.step_frames // M.stride
DEMO = mfcc(soundfile.read(packaged("demo.flac"), dtype="float32", frames=160_000)[0], M.front_end)[:608]


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(MODEL)


def standing(mean: CepstralMean) -> np.ndarray:
    """Return where a mean stands."""
    return -mean.normalise(np.zeros((1, len(M.mean)), np.float32))[0] * np.float32(M.std)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_speech_is_what_the_gate_says_of_the_whole_stream(network: Network, threshold: float) -> None:
    heard, whole = listen(network, DEMO, threshold=threshold), Recomputed(MODEL)
    speech = speech_in(heard)
    normalised = whole.normalised(DEMO, speech)
    assert np.array_equal(speech, whole.speech(normalised, threshold))
    assert 0 < np.count_nonzero(speech) < speech.size
    values, _ = whole.outputs(normalised, 0)
    assert np.concatenate([h.values for h in heard]).tobytes() == values.tobytes()


def test_the_gate_is_given_as_the_interpreter_gives_it(network: Network) -> None:
    whole = Recomputed(MODEL)
    normalised = whole.normalised(DEMO, np.zeros(len(DEMO) // M.stride, bool))
    state, gates = network.at_rest, []
    for step in cut(M, normalised):
        _, gate, state = network.trunk(step[None], state)
        gates.append(gate[0])
    expected = whole.real("gate", whole.outputs(normalised, 0)[1])
    assert np.concatenate(gates).tobytes() == expected.tobytes()
    assert len(np.unique(expected)) > 10


def test_the_frames_of_a_step_are_measured_against_the_speech_before_it(network: Network) -> None:
    moving, fixed = listen(network, DEMO, threshold=0.0), listen(network, DEMO, threshold=1.0)
    assert np.array_equal(moving[0].values, fixed[0].values), "its own speech is not before it"
    assert not np.array_equal(moving[1].values, fixed[1].values)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_what_is_speech_moves_the_mean_and_nothing_else_does(network: Network, threshold: float) -> None:
    mean, expected = M.cepstral_mean(), M.cepstral_mean()
    ear = Ear(network, mean, threshold=threshold)
    moved = []
    for step in cut(M, DEMO):
        before = standing(mean)
        speech = alone(network, ear.step(step)).speech
        expected.move(step, np.repeat(speech, M.stride))
        assert standing(mean).tobytes() == standing(expected).tobytes()
        moved.append(not np.array_equal(standing(mean), before))
        assert moved[-1] == speech.any()
    assert 0 < sum(moved) < len(moved)


def test_a_frozen_mean_stays_where_it_is(network: Network) -> None:
    mean = M.cepstral_mean(frozen=True)
    before = standing(mean)
    frozen = listen(network, DEMO, mean, threshold=0.0)
    assert standing(mean).tobytes() == before.tobytes()
    assert [h.values.tobytes() for h in frozen] == [h.values.tobytes() for h in listen(network, DEMO, threshold=1.0)]


@pytest.mark.parametrize(("threshold", "says"), [(0.0, True), (1.0, False)])
def test_at_the_ends_of_the_threshold_everything_is_speech_or_nothing(
    network: Network, threshold: float, says: bool
) -> None:
    assert set(speech_in(listen(network, DEMO, threshold=threshold)).tolist()) == {says}


def test_a_higher_threshold_lets_less_through(network: Network) -> None:
    fixed = [M.cepstral_mean(frozen=True) for _ in range(3)]
    low, middle, high = (
        speech_in(listen(network, DEMO, mean, threshold=p)) for mean, p in zip(fixed, (0.05, 0.5, 0.95), strict=True)
    )
    assert (low >= middle).all()
    assert (middle >= high).all()
    assert low.sum() > high.sum()


def test_log_odds_are_those_of_the_probability() -> None:
    assert [log_odds(p) for p in (0.0, 0.5, 1.0)] == [-math.inf, 0.0, math.inf]
    for p in (1e-9, 0.2, 0.73, 1.0 - 1e-9):
        assert 1.0 / (1.0 + math.exp(-log_odds(p))) == pytest.approx(p)


@pytest.mark.parametrize("n", range(1, M.step_frames + 1))
def test_of_a_short_last_step_whole_outputs_are_heard_and_nothing_else(network: Network, n: int) -> None:
    last = DEMO[320:336]
    whole, short = (Ear(network, M.cepstral_mean(), threshold=0.0) for _ in range(2))
    for step in cut(M, DEMO[:320]):
        alone(network, whole.step(step))
        alone(network, short.step(step))
    expected, got = alone(network, whole.step(last)), alone(network, short.step(last[:n]))
    assert len(got.values) == len(got.speech) == n // M.stride
    assert got.values.tobytes() == expected.values[: n // M.stride].tobytes()


def test_frames_that_make_no_whole_output_do_not_move_the_mean(network: Network) -> None:
    mean, expected = M.cepstral_mean(), M.cepstral_mean()
    alone(network, Ear(network, mean, threshold=0.0).step(DEMO[:11]))
    expected.move(DEMO[:8], np.ones(8, bool))
    assert standing(mean).tobytes() == standing(expected).tobytes()


@pytest.mark.parametrize("frozen", [True, False])
def test_after_a_reset_the_mean_is_left_of_before_and_nothing_else(network: Network, frozen: bool) -> None:
    mean = M.cepstral_mean(frozen=frozen)
    used = Ear(network, mean, threshold=0.5)
    for step in cut(M, DEMO[:320] + np.float32(3.0)):
        alone(network, used.step(step))
    used.reset()
    kept = copy.deepcopy(mean)
    got = [alone(network, used.step(step)) for step in cut(M, DEMO)]
    assert [h.values.tobytes() for h in got] == [h.values.tobytes() for h in listen(network, DEMO, kept)]
    without = listen(network, DEMO, M.cepstral_mean(frozen=frozen))
    assert np.array_equal(got[0].values, without[0].values) == frozen


def test_ears_of_one_network_do_not_disturb_each_other(network: Network) -> None:
    first, second = Ear(network, threshold=0.5), Ear(network, threshold=0.5)
    got = []
    for step, other in zip(cut(M, DEMO), cut(M, random_frames(MODEL, len(DEMO))), strict=True):
        got.append(alone(network, first.step(step)))
        alone(network, second.step(other))
    assert [h.values.tobytes() for h in got] == [h.values.tobytes() for h in listen(network, DEMO)]


def test_a_profile_is_what_the_stream_is_measured_against(network: Network) -> None:
    shifted = M.cepstral_mean([x + 4.0 for x in M.ordinary], frozen=True)
    plain, again = (
        listen(network, frames, mean)
        for frames, mean in ((DEMO, M.cepstral_mean(frozen=True)), (DEMO + np.float32(4.0), shifted))
    )
    difference = [np.abs(a.values.astype(int) - b.values).mean() for a, b in zip(plain, again, strict=True)]
    assert max(difference) < 1.0, "rounding alone"
    assert np.mean(speech_in(plain) == speech_in(again)) > 0.98
