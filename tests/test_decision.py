"""The rules of decision, each as a table of exact cases. A step is 0.25 s here; the sample index is the only clock."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from serstream.config import DecisionConfig, SpeechConfig
from serstream.decision import Decision, EmotionChange, UtteranceChange, Utterances
from serstream.events import LABELS
from serstream.posteriors import PosteriorMean, SpeechBelief

RATE = 16_000
STEP = RATE // 4
FRAME = 256
RULES = DecisionConfig(smoothing_s=0.0)


def posterior(label: str, probability: float) -> np.ndarray:
    """Give the label its probability; the rest shares what is left."""
    p = np.full(len(LABELS), (1.0 - probability) / (len(LABELS) - 1))
    p[LABELS.index(label)] = probability
    return p


def two(**probabilities: float) -> np.ndarray:
    return np.array([probabilities.get(label, 0.0) for label in LABELS])


def decide(
    steps: Sequence[tuple[str, float]],
    config: DecisionConfig = RULES,
    *,
    enter: float = 0.5,
    leave: float = 0.35,
) -> list[tuple[int, str, str]]:
    """Return (step, phase, label) of every change; step 1 ends at 0.25 s."""
    decision = Decision(config, enter=enter, leave=leave)
    return [
        (i, change.phase, change.label)
        for i, (label, p) in enumerate(steps, 1)
        for change in decision.step(posterior(label, p), 0.0, i * STEP)
    ]


@pytest.mark.parametrize(
    ("probability", "changes"),
    [(0.49, []), (0.5, [(1, "onset", "happy")]), (1.0, [(1, "onset", "happy")])],
)
def test_a_label_is_entered_from_the_threshold_on(probability: float, changes: list[tuple[int, str, str]]) -> None:
    assert decide([("happy", probability)]) == changes


@pytest.mark.parametrize(
    ("probability", "changes"),
    [(0.35, [(1, "onset", "sad")]), (0.34, [(1, "onset", "sad"), (2, "offset", "sad")])],
)
def test_a_label_ends_below_the_threshold_for_leaving(probability: float, changes: list[tuple[int, str, str]]) -> None:
    assert decide([("sad", 0.8), ("sad", probability)]) == changes


def test_between_the_thresholds_nothing_flickers() -> None:
    steps = [("angry", p) for p in (0.45, 0.5, 0.4, 0.45, 0.4)]
    assert decide(steps) == [(2, "onset", "angry")]


@pytest.mark.parametrize(("dwell_s", "switch_at"), [(0.0, 2), (0.25, 2), (0.5, 3), (1.0, 5)])
def test_another_label_takes_over_once_the_present_one_has_dwelt(dwell_s: float, switch_at: int) -> None:
    # both stay above the threshold for leaving; the second is above that for entering from step 2 on
    config = DecisionConfig(smoothing_s=0.0, min_dwell_s=dwell_s, update_s=60.0)
    decision = Decision(config, enter=0.5, leave=0.3)
    got = []
    for i in range(1, 7):
        p = two(calm=0.6, fearful=0.4) if i == 1 else two(calm=0.4, fearful=0.6)
        got += [(i, c.phase, c.label) for c in decision.step(p, 0.0, i * STEP)]
    assert got == [(1, "onset", "calm"), (switch_at, "offset", "calm"), (switch_at, "onset", "fearful")]


def test_a_larger_label_below_its_threshold_does_not_take_over() -> None:
    config = DecisionConfig(smoothing_s=0.0, min_dwell_s=0.0, update_s=60.0)
    decision = Decision(config, enter=0.5, leave=0.3)
    assert [c.phase for c in decision.step(two(calm=0.6, happy=0.4), 0.0, STEP)] == ["onset"]
    assert decision.step(two(calm=0.4, happy=0.49, sad=0.11), 0.0, 2 * STEP) == []
    assert decision.label == "calm"


def test_another_label_takes_over_from_the_threshold_for_entering_on() -> None:
    decision = Decision(DecisionConfig(smoothing_s=0.0, min_dwell_s=0.0), enter=0.5, leave=0.3)
    decision.step(two(calm=0.6, happy=0.4), 0.0, STEP)
    changes = decision.step(two(calm=0.4, happy=0.5, sad=0.1), 0.0, 2 * STEP)
    assert [(c.phase, c.label) for c in changes] == [("offset", "calm"), ("onset", "happy")]


def test_every_change_tells_the_beginning_and_the_probability_of_its_own_step() -> None:
    decision = Decision(DecisionConfig(smoothing_s=0.0, update_s=0.5), enter=0.5, leave=0.35)
    changes = [
        c for i, p in enumerate((0.9, 0.8, 0.7, 0.2), 3) for c in decision.step(posterior("sad", p), 0.0, i * STEP)
    ]
    assert [(c.phase, c.probability, c.start, c.end) for c in changes] == [
        ("onset", 0.9, 3 * STEP, None),
        ("update", 0.7, 3 * STEP, None),
        ("offset", 0.2, 3 * STEP, 6 * STEP),
    ]
    decision.step(posterior("sad", 0.9), 0.0, 7 * STEP)
    decision.step(posterior("sad", 0.6), 0.0, 8 * STEP)
    assert [c.probability for c in decision.close(9 * STEP)] == [0.6]


def test_dwell_holds_off_a_switch_and_never_an_end() -> None:
    config = DecisionConfig(smoothing_s=0.0, min_dwell_s=60.0)
    assert decide([("calm", 0.9), ("calm", 0.3)], config)[-1] == (2, "offset", "calm")
    assert decide([("calm", 0.9), ("sad", 0.9)], config)[1:] == [(2, "offset", "calm"), (2, "onset", "sad")]


@pytest.mark.parametrize(
    ("update_s", "updates"), [(0.25, [2, 3, 4, 5, 6, 7, 8, 9]), (1.0, [5, 9]), (1.2, [6]), (3.0, [])]
)
def test_a_lasting_emotion_is_updated(update_s: float, updates: list[int]) -> None:
    config = DecisionConfig(smoothing_s=0.0, update_s=update_s)
    changes = decide([("happy", 0.9)] * 9, config)
    assert changes == [(1, "onset", "happy"), *((i, "update", "happy") for i in updates)]


@pytest.mark.parametrize(("other", "label"), [(0.5, "calm"), (0.51, None)])
def test_no_label_begins_while_other_emotions_have_more_than_half(other: float, label: str | None) -> None:
    decision = Decision(RULES, enter=0.5, leave=0.35)
    changes = decision.step(posterior("calm", 0.9), other, STEP)
    assert decision.label == label
    assert [c.phase for c in changes] == ["onset"] * (label is not None)


@pytest.mark.parametrize(("other", "phases"), [(0.5, []), (0.51, ["offset"])])
def test_a_label_ends_when_other_emotions_have_more_than_half(other: float, phases: list[str]) -> None:
    decision = Decision(RULES, enter=0.5, leave=0.35)
    decision.step(posterior("calm", 0.9), 0.0, STEP)
    assert [c.phase for c in decision.step(posterior("calm", 0.9), other, 2 * STEP)] == phases


@pytest.mark.parametrize("smoothing_s", [0.25, 0.5, 2.0])
def test_smoothing_is_an_exponential_mean_with_its_time_constant(smoothing_s: float) -> None:
    decision = Decision(DecisionConfig(smoothing_s=smoothing_s, update_s=0.25), enter=0.2, leave=0.0)
    (onset,) = decision.step(two(calm=1.0), 0.0, STEP)
    assert onset.probability == 1.0
    expected = 1.0
    for i, (p, gap) in enumerate([(0.6, 1), (0.8, 1), (0.6, 3)]):
        keep = math.exp(-gap * 0.25 / smoothing_s)
        expected = keep * expected + (1.0 - keep) * p
        (update,) = decision.step(two(calm=p, sad=1.0 - p), 0.0, STEP * (2 + i + (gap - 1)))
        assert update.probability == pytest.approx(expected, abs=1e-12)


def test_the_mass_of_other_emotions_is_smoothed_too() -> None:
    decision = Decision(DecisionConfig(smoothing_s=0.5), enter=0.5, leave=0.35)
    decision.step(posterior("sad", 0.9), 0.0, STEP)
    # 1 - exp(-0.5) = 0.39, then 0.63 of the mass
    assert decision.step(posterior("sad", 0.9), 1.0, 2 * STEP) == []
    assert [c.phase for c in decision.step(posterior("sad", 0.9), 1.0, 3 * STEP)] == ["offset"]


def test_without_smoothing_every_step_counts_alone() -> None:
    assert decide([("calm", 0.9), ("calm", 0.1)])[-1] == (2, "offset", "calm")


def test_the_end_of_speech_ends_the_label_at_once_and_forgets_the_smoothing() -> None:
    decision = Decision(DecisionConfig(min_dwell_s=60.0, smoothing_s=30.0), enter=0.5, leave=0.35)
    decision.step(posterior("calm", 0.9), 0.0, STEP)
    assert decision.close(5_000) == [EmotionChange("offset", 1, "calm", pytest.approx(0.9), STEP, 5_000)]
    assert decision.label is None
    assert decision.close(6_000) == []
    (onset,) = decision.step(posterior("angry", 0.7), 0.0, 10 * STEP)
    assert (onset.label, onset.probability) == ("angry", pytest.approx(0.7))


def test_ids_count_up_from_one_and_hold_from_onset_to_offset() -> None:
    config = DecisionConfig(smoothing_s=0.0, min_dwell_s=0.0, update_s=0.25)
    decision = Decision(config, enter=0.5, leave=0.35)
    steps = ["calm", "calm", "sad", "sad", "calm"]
    changes = [c for i, s in enumerate(steps, 1) for c in decision.step(posterior(s, 0.9), 0.0, i * STEP)]
    changes += decision.close(6 * STEP)
    assert [(c.phase, c.id) for c in changes] == [
        ("onset", 1),
        ("update", 1),
        ("offset", 1),
        ("onset", 2),
        ("update", 2),
        ("offset", 2),
        ("onset", 3),
        ("offset", 3),
    ]
    assert [(c.start, c.end) for c in changes if c.phase == "offset"] == [
        (STEP, 3 * STEP),
        (3 * STEP, 5 * STEP),
        (5 * STEP, 6 * STEP),
    ]


def test_new_rules_hold_from_the_next_step_on_and_what_is_open_stays_open() -> None:
    decision = Decision(RULES, enter=0.5, leave=0.35)
    decision.step(posterior("calm", 0.6), 0.0, STEP)
    decision.configure(RULES, enter=0.9, leave=0.55)
    assert decision.label == "calm"
    assert decision.step(posterior("calm", 0.6), 0.0, 2 * STEP) == []
    assert [c.phase for c in decision.step(posterior("calm", 0.5), 0.0, 3 * STEP)] == ["offset"]


def frames(*stretches: int) -> np.ndarray:
    """Make frames of speech and pause by turns, speech first."""
    return np.concatenate([np.full(n, i % 2 == 0) for i, n in enumerate(stretches)])


SPEECH_FRAMES = math.ceil(0.3 * RATE / FRAME)
PAUSE_FRAMES = math.ceil(0.6 * RATE / FRAME)


@pytest.mark.parametrize(
    ("stretches", "expected"),
    [
        ((SPEECH_FRAMES - 1, 100), []),
        ((SPEECH_FRAMES,), [("start", 0, None)]),
        ((SPEECH_FRAMES, PAUSE_FRAMES - 1), [("start", 0, None)]),
        ((SPEECH_FRAMES, PAUSE_FRAMES), [("start", 0, None), ("end", 0, SPEECH_FRAMES)]),
        ((0, 7, SPEECH_FRAMES, 100), [("start", 7, None), ("end", 7, 7 + SPEECH_FRAMES)]),
        # speech adds up over short pauses, and begins with the first of it
        ((10, 5, SPEECH_FRAMES - 10), [("start", 0, None)]),
        # but what is followed by a pause is forgotten
        ((SPEECH_FRAMES - 1, PAUSE_FRAMES, SPEECH_FRAMES - 1), []),
        # a short pause ends nothing
        (
            (30, PAUSE_FRAMES - 1, 5, PAUSE_FRAMES),
            [("start", 0, None), ("end", 0, 30 + PAUSE_FRAMES - 1 + 5)],
        ),
        (
            (20, 50, 25, 50),
            [("start", 0, None), ("end", 0, 20), ("start", 70, None), ("end", 70, 95)],
        ),
    ],
)
@pytest.mark.parametrize("block", [1, 16, 1_000])
def test_an_utterance_needs_300_ms_of_speech_and_ends_with_a_pause_of_600_ms(
    stretches: tuple[int, ...], expected: list[tuple[str, int, int | None]], block: int
) -> None:
    """In frames of 256 samples, after 1000 samples; however many are pushed together."""
    utterances, speech, changes = Utterances(SpeechConfig()), frames(*stretches), []
    for i in range(0, len(speech), block):
        changes += utterances.push(1_000 + i * FRAME, FRAME, speech[i : i + block])
    assert changes == [
        UtteranceChange(phase, 1_000 + start * FRAME, None if end is None else 1_000 + end * FRAME)  # type: ignore[arg-type]
        for phase, start, end in expected
    ]
    assert utterances.open == (bool(expected) and expected[-1][0] == "start")


def test_limits_of_an_utterance_are_those_of_the_configuration() -> None:
    utterances = Utterances(SpeechConfig(min_speech_s=0.05, max_pause_s=0.1))
    assert [c.phase for c in utterances.push(0, FRAME, frames(4, 7, 4, 7))] == [
        "start",
        "end",
        "start",
        "end",
    ]


def test_speech_and_pause_of_exactly_the_limits_are_enough() -> None:
    samples = np.repeat([True, False], [8, 16])
    utterances = Utterances(SpeechConfig(min_speech_s=8 / RATE, max_pause_s=16 / RATE))
    assert utterances.push(0, 1, samples[:7]) == []
    assert utterances.push(7, 1, samples[7:8]) == [UtteranceChange("start", 0, None)]
    assert utterances.push(8, 1, samples[8:23]) == []
    assert utterances.push(23, 1, samples[23:]) == [UtteranceChange("end", 0, 8)]


def test_closing_ends_an_utterance_at_its_last_speech_and_forgets_one_that_never_began() -> None:
    utterances = Utterances(SpeechConfig())
    utterances.push(0, FRAME, frames(20, 5))
    assert utterances.close() == UtteranceChange("end", 0, 20 * FRAME)
    assert utterances.close() is None
    utterances.push(10_000, FRAME, frames(SPEECH_FRAMES - 1))
    assert utterances.close() is None
    assert utterances.push(20_000, FRAME, frames(1)) == []


def test_the_mean_posterior_is_the_speech_weighted_geometric_mean() -> None:
    rng = np.random.default_rng(0)
    posteriors, weights = rng.dirichlet(np.ones(5), 7), rng.random(7)
    mean = PosteriorMean()
    for p, w in zip(posteriors, weights, strict=True):
        mean.add(p, w)
    product = np.prod(posteriors ** (weights / weights.sum())[:, None], axis=0)
    np.testing.assert_allclose(mean.result(), product / product.sum(), rtol=1e-12)


def test_a_mean_of_nothing_is_none_and_steps_without_speech_are_nothing() -> None:
    mean = PosteriorMean()
    assert mean.result() is None
    mean.add(posterior("calm", 0.9), 0.0)
    assert mean.result() is None
    mean.add(posterior("sad", 0.8), 1e-3)
    np.testing.assert_allclose(mean.result(), posterior("sad", 0.8))


def test_a_probability_of_zero_does_not_break_the_mean() -> None:
    mean = PosteriorMean()
    mean.add(two(calm=1.0), 1.0)
    mean.add(two(calm=0.5, sad=0.5), 1.0)
    result = mean.result()
    assert result is not None
    assert np.all(np.isfinite(result))
    assert result[0] > 0.999


def test_belief_in_speech_is_the_mean_of_the_log_odds_and_long_ago_fades() -> None:
    belief = SpeechBelief()
    assert [belief.add(p) for p in (0.9, 0.9, 0.1)] == pytest.approx([0.9, 0.9, 9 ** (1 / 3) / (1 + 9 ** (1 / 3))])
    for _ in range(13):
        belief.add(0.5)
    assert belief.add(0.5) == pytest.approx(1 / (1 + 9 ** (-1 / 16 * 15 / 16)))


def test_one_step_that_is_sure_does_not_decide_for_an_utterance() -> None:
    belief = SpeechBelief()
    assert belief.add(1.0) == pytest.approx(1.0 - 1e-4)
    assert belief.add(0.0) == pytest.approx(0.5)
