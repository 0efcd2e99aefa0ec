"""The whole middle: however the signal is cut the events are the same, and each says what the contract says."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from serstream.analysis import analyze
from serstream.config import Config, DecisionConfig, SpeechConfig
from serstream.errors import ConfigError
from serstream.events import LABELS, VOICES, AnyEvent, Emotion, Posterior, Speech, encode
from serstream.manifest import Model, load_model
from serstream.network import Network
from serstream.normalisation import CepstralMean
from serstream.pipeline import Pipeline, thresholds
from serstream.resources import packaged

RATE = 16_000
LIVELY = DecisionConfig(smoothing_s=0.25, enter_threshold=0.3, exit_threshold=0.25, min_dwell_s=0.0, update_s=0.25)
"""Rules under which emotions come and go quickly."""
ALL_IS_SPEECH = SpeechConfig(threshold=0.0)
MODEL = load_model(packaged("models/serstream"))
DEMO = soundfile.read(packaged("demo.flac"), dtype="float32")[0]
CREDULOUS, DEAF = (
    MODEL._replace(manifest=msgspec.structs.replace(MODEL.manifest, speech_threshold=t)) for t in (0.0, 1.0)
)
"""The same network, whose own opinion on what is speech never counts, or is always that nothing is."""


def pipeline(
    model: Model = MODEL,
    *,
    speech: SpeechConfig | None = None,
    decision: DecisionConfig | None = None,
    mean: CepstralMean | None = None,
) -> Pipeline:
    return Pipeline(Network(model), source="mic", session="6f1c", speech=speech, decision=decision or LIVELY, mean=mean)


def hear(samples: np.ndarray, sizes: list[int] | None = None, **rules: Any) -> list[AnyEvent]:
    """Return the events of a whole signal, cut into blocks of the given sizes again and again."""
    p, events, turn = pipeline(**rules), [], 0
    while p.next_sample < samples.size:
        size = samples.size if sizes is None else sizes[turn % len(sizes)]
        events += p.push(p.next_sample, samples[p.next_sample : p.next_sample + size])
        turn += 1
    return events + p.finish()


def on_the_wire(events: list[AnyEvent]) -> bytes:
    return b"\n".join(map(encode, events))


def test_the_demo_has_utterances_and_emotions_under_these_rules() -> None:
    """Or the tests below would compare too little."""
    kinds = Counter((e.type, getattr(e, "phase", "")) for e in hear(DEMO[: 20 * RATE]))
    assert kinds["posterior", ""] == (20 * RATE - 256) // 4096
    assert kinds["speech", "start"] >= 3
    assert kinds["emotion", "onset"] >= 3


@pytest.mark.parametrize("size", [127, 4_095, 4_096, 4_352, 16_000, 160_000])
def test_the_size_of_the_blocks_changes_no_byte(size: int) -> None:
    y = DEMO[: 20 * RATE + 1_234]
    assert on_the_wire(hear(y, [size])) == on_the_wire(hear(y))


def test_one_sample_at_a_time_changes_no_byte() -> None:
    y = DEMO[: 3 * RATE]
    events = hear(y)
    assert {e.type for e in events} >= {"posterior", "speech"}
    assert on_the_wire(hear(y, [1])) == on_the_wire(events)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 600), st.integers(0, 10 * RATE)), min_size=1, max_size=8).filter(any),
    n_samples=st.integers(0, 12 * RATE),
)
def test_cutting_the_signal_anywhere_changes_no_byte(sizes: list[int], n_samples: int) -> None:
    y = DEMO[:n_samples]
    sizes = [*sizes, 512] if sum(sizes) < 512 else sizes
    assert on_the_wire(hear(y, sizes)) == on_the_wire(hear(y))


@pytest.mark.corpus
@pytest.mark.parametrize("sizes", [[1], [160], [1_024], [5_000, 3, 0, 77_777], [160_000]], ids=str)
def test_a_recorded_voice_cut_anywhere_gives_the_same_bytes(corpus: Path, sizes: list[int]) -> None:
    path = sorted((corpus / "ravdess_speech").rglob("*-05-*-02.*"))[0]
    y, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    events = hear(y)
    assert {e.type for e in events} == {"posterior", "speech", "emotion"}
    assert on_the_wire(hear(y, sizes)) == on_the_wire(events)


def test_the_caller_may_use_its_block_again() -> None:
    y, p, events = DEMO[: 4 * RATE], pipeline(), []
    block = np.empty(1_000, np.float32)
    for start in range(0, y.size, 1_000):
        block[:] = y[start : start + 1_000]
        events += p.push(start, block)
    block[:] = np.nan
    assert on_the_wire(events + p.finish()) == on_the_wire(hear(y))


def test_two_pipelines_of_one_model_do_not_disturb_each_other() -> None:
    first, second = pipeline(), pipeline()
    events: list[AnyEvent] = []
    for start in range(0, 8 * RATE, 5_000):
        events += first.push(start, DEMO[start : start + 5_000])
        second.push(start, -0.5 * DEMO[::-1][start : start + 5_000])
    assert on_the_wire(events) == on_the_wire(
        [e for e in hear(DEMO[: first.next_sample]) if e.sample <= events[-1].sample]
    )


def open_at(sample: int) -> tuple[Pipeline, list[AnyEvent]]:
    p = pipeline(
        CREDULOUS,
        speech=ALL_IS_SPEECH,
        decision=DecisionConfig(enter_threshold=0.1, exit_threshold=0.0, min_dwell_s=60.0),
    )
    return p, p.push(0, DEMO[:sample])


@pytest.mark.parametrize("lost", [1, 100, 1_000_000])
def test_a_hole_ends_the_open_emotion_and_the_utterance_there(lost: int) -> None:
    sample = 3 * RATE + 17
    p, before = open_at(sample)
    assert [e.phase for e in before if isinstance(e, Emotion)] == ["onset", "update", "update"]
    last, offset, end = p.push(sample + lost, DEMO[:100])
    assert isinstance(last, Posterior)
    assert isinstance(offset, Emotion)
    assert isinstance(end, Speech)
    assert (offset.phase, end.phase) == ("offset", "end")
    assert last.sample == offset.sample == end.sample == sample
    assert offset.end_s == offset.stream_s == round(sample / RATE, 6)
    assert end.end_s is not None
    assert end.end_s <= end.stream_s
    assert p.next_sample == sample + lost + 100


@pytest.mark.parametrize("n_samples", [0, 1_279, 1_280, 5_000, 3 * RATE + 17, 3 * RATE + 4_000])
def test_before_a_hole_everything_is_as_before_the_end(n_samples: int) -> None:
    p = pipeline()
    events = p.push(0, DEMO[:n_samples]) + p.interrupt(n_samples + 1)
    assert on_the_wire(events) == on_the_wire(hear(DEMO[:n_samples]))


def hear_stretches(stretches: list[tuple[int, int]], sizes: list[int] | None = None) -> list[AnyEvent]:
    """Return the events of a signal of which so many samples are heard, and so many lost, in turn."""
    p, events, turn, at = pipeline(), [], 0, 0
    for heard, lost in stretches:
        end = at + heard
        while at < end:
            size = heard if sizes is None else sizes[turn % len(sizes)]
            part = DEMO[at : min(at + size, end)]
            events += p.push(at, part)
            at += part.size
            turn += 1
        at += lost
    return events + p.finish()


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=8),
    stretches=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 20_000)), max_size=6),
)
def test_cutting_what_is_between_holes_changes_no_byte(sizes: list[int], stretches: list[tuple[int, int]]) -> None:
    assert on_the_wire(hear_stretches(stretches, [*sizes, 512])) == on_the_wire(hear_stretches(stretches))


@pytest.mark.parametrize(("every", "steps"), [(4_000, 1), (9_600, 3), (16_000, 4)])
def test_losing_one_sample_again_and_again_costs_no_step(every: int, steps: int) -> None:
    """Half a second of speech is the least that has a posterior: shorter stretches have events without one."""
    events = hear_stretches([(every - 1, 1)] * (10 * RATE // every))
    found = [e for e in events if isinstance(e, Posterior)]
    assert len(found) == steps * (10 * RATE // every)
    assert any(e.posterior for e in found) == (every > RATE // 2)


def counted_from_one(events: list[AnyEvent]) -> list[AnyEvent]:
    """Count emotions from 1 again."""
    first = min((e.id for e in events if isinstance(e, Emotion)), default=1)
    return [msgspec.structs.replace(e, id=e.id - first + 1) if isinstance(e, Emotion) else e for e in events]


@pytest.mark.parametrize("before", [0, 700, 5 * RATE + 3])
@pytest.mark.parametrize("frozen", [True, False])
def test_after_a_hole_nothing_but_the_mean_depends_on_what_was_before(before: int, frozen: bool) -> None:
    mean = MODEL.manifest.cepstral_mean(frozen=frozen)
    resumed = pipeline(mean=mean)
    y, at = DEMO[6 * RATE : 18 * RATE], 10 * RATE
    resumed.push(0, DEMO[::-1][:before])
    resumed.interrupt(at)
    fresh = pipeline(mean=MODEL.manifest.cepstral_mean(frozen=True) if frozen else copy.deepcopy(mean))
    again = resumed.push(at, y) + resumed.finish()
    alone = fresh.push(at, y) + fresh.finish()
    assert any(isinstance(e, Emotion) for e in alone)
    assert on_the_wire(counted_from_one(again)) == on_the_wire(alone)


def test_ids_of_emotions_go_on_after_a_hole() -> None:
    p, before = open_at(3 * RATE)
    after = p.push(4 * RATE, DEMO[: 3 * RATE])
    assert {e.id for e in before if isinstance(e, Emotion)} == {1}
    assert [e.id for e in after if isinstance(e, Emotion) and e.phase == "onset"] == [2]


def test_a_stream_that_begins_late_differs_by_its_offset_alone() -> None:
    y, offset = DEMO[: 8 * RATE], 123_456
    late = pipeline()
    events = late.push(offset, y) + late.finish()
    expected = hear(y)
    assert [e.sample - offset for e in events] == [e.sample for e in expected]
    for got, want in zip(events, expected, strict=True):
        if isinstance(got, Posterior) and isinstance(want, Posterior):
            assert (got.posterior, got.voice, got.speech) == (want.posterior, want.voice, want.speech)


def test_pushing_the_past_is_refused_in_a_sentence() -> None:
    p = pipeline()
    p.push(0, DEMO[:1_000])
    with pytest.raises(ValueError, match="sample 999 was pushed already; the next is 1000"):
        p.push(999, DEMO[:10])
    assert p.next_sample == 1_000


def test_an_empty_block_is_nothing() -> None:
    p = pipeline()
    assert p.push(0, DEMO[:0]) == []
    assert p.next_sample == 0


@pytest.mark.parametrize("n_samples", [0, 1, 511, 512, 1_279, 1_280, 4_351])
def test_finishing_a_signal_shorter_than_a_step_is_no_fault(n_samples: int) -> None:
    """Four frames, 1280 samples, are the least of which the network makes anything."""
    events = hear(np.zeros(n_samples, np.float32))
    assert [e.type for e in events] == ["posterior"] * (n_samples >= 1_280)


def test_finishing_ends_everything_at_the_last_sample_and_is_the_end() -> None:
    sample = 3 * RATE + 4_000
    p, before = open_at(sample)
    last = p.finish()
    assert [e.type for e in last] == ["posterior", "emotion", "speech"]
    assert {e.sample for e in last} == {sample}
    phases = Counter(e.phase for e in before + last if not isinstance(e, Posterior))
    assert phases["onset"] == phases["offset"] == phases["start"] == phases["end"] == 1
    assert p.finish() == []


@pytest.mark.parametrize(
    ("samples", "level_dbfs"),
    [
        (np.zeros(8_448), -120.0),
        (np.full(8_448, 1e-7), -120.0),
        (np.full(8_448, 0.1), -20.0),
        (np.full(8_448, -1.0), 0.0),
        (np.sin(2 * np.pi * 1_000 * np.arange(8_448) / RATE), -3.0),
        (0.01 * np.sin(2 * np.pi * 1_000 * np.arange(8_448) / RATE), -43.0),
    ],
    ids=["silence", "all but silence", "tenth", "full scale", "full sine", "quiet sine"],
)
def test_the_level_is_root_mean_square_in_decibels_of_full_scale(samples: np.ndarray, level_dbfs: float) -> None:
    levels = [e.level_dbfs for e in hear(samples.astype(np.float32)) if isinstance(e, Posterior)]
    assert levels == [level_dbfs, level_dbfs]


def states(events: list[AnyEvent]) -> list[str]:
    return [e.state for e in events if isinstance(e, Posterior)]


def test_silence_is_no_speech_and_has_no_posterior() -> None:
    events = hear(np.zeros(5 * RATE, np.float32))
    assert {e.type for e in events} == {"posterior"}
    assert set(states(events)) == {"no_speech"}
    assert all(
        (e.posterior, e.other, e.voice, e.speech) == (None, None, None, 0.0) for e in events if isinstance(e, Posterior)
    )


def test_speech_without_a_label_above_its_threshold_is_uncertain() -> None:
    rules = DecisionConfig(enter_threshold=1.0)
    events = hear(DEMO[: 3 * RATE], model=CREDULOUS, speech=ALL_IS_SPEECH, decision=rules)
    # the first utterance begins after 0.3 s, in the second step
    assert states(events) == ["no_speech"] + ["uncertain"] * (len(states(events)) - 1)
    assert not any(isinstance(e, Emotion) for e in events)


def test_what_the_network_hears_as_no_speech_has_a_posterior_but_no_emotion() -> None:
    heard, deaf = hear(DEMO[: 10 * RATE]), hear(DEMO[: 10 * RATE], model=DEAF)
    assert any(isinstance(e, Emotion) for e in heard)
    assert not any(isinstance(e, Emotion) for e in deaf)
    talk = [[e for e in events if isinstance(e, Speech)] for events in (heard, deaf)]
    assert on_the_wire(talk[0]) == on_the_wire(talk[1])
    posteriors = [[e for e in events if isinstance(e, Posterior)] for events in (heard, deaf)]
    assert [e.posterior for e in posteriors[0]] == [e.posterior for e in posteriors[1]]
    assert {e.state for e in posteriors[1] if e.posterior is not None} == {"no_speech"}


def test_the_state_is_the_open_emotion_uncertain_within_an_utterance_and_no_speech_outside() -> None:
    label, talking = None, False
    for event in hear(DEMO[: 25 * RATE], model=CREDULOUS):
        if isinstance(event, Emotion):
            label = None if event.phase == "offset" else event.label
        elif isinstance(event, Speech):
            talking = event.phase == "start"
        elif isinstance(event, Posterior) and label is not None:
            # what changes at a step is told after its posterior, which has the new state already
            assert talking
        elif isinstance(event, Posterior):
            assert event.state in ({"uncertain", *LABELS} if talking else {"no_speech"})


def check_order(events: list[AnyEvent]) -> None:
    """An offset precedes the next onset, emotions lie within utterances, ids count up, samples never go back."""
    label, talking, count, sample = None, False, 0, 0
    for e in events:
        assert e.sample >= sample
        assert e.stream_s == round(e.sample / RATE, 6)
        sample = e.sample
        if isinstance(e, Speech):
            assert talking == (e.phase == "end")
            assert label is None
            talking = e.phase == "start"
        if isinstance(e, Emotion):
            assert talking
            count += e.phase == "onset"
            assert e.id == count
            assert label == (None if e.phase == "onset" else e.label)
            label = None if e.phase == "offset" else e.label
    assert label is None
    assert not talking


def check_probabilities(named: dict[str, float] | None, names: tuple[str, ...]) -> None:
    if named is not None:
        assert tuple(named) == names
        assert all(0.0 <= p <= 1.0 for p in named.values())
        assert sum(named.values()) == pytest.approx(1.0, abs=5e-4)


def check_ranges(event: AnyEvent) -> None:
    assert (event.source, event.session, event.seq, event.time) == ("mic", "6f1c", 0, "")
    if isinstance(event, Posterior):
        check_probabilities(event.posterior, LABELS)
        check_probabilities(event.voice, VOICES)
        assert (event.posterior is None) == (event.other is None) == (event.voice is None)
        assert event.other is None or 0.0 <= event.other <= 1.0
        assert 0.0 <= event.speech <= 1.0
        assert -120.0 <= event.level_dbfs <= 0.0
        assert event.state in {*LABELS, "uncertain", "no_speech"}
    elif isinstance(event, Emotion):
        assert event.label in LABELS
        assert 0.0 <= event.probability <= 1.0
        assert 0.0 <= event.start_s <= event.stream_s
        assert event.end_s == (event.stream_s if event.phase == "offset" else None)
    elif isinstance(event, Speech):
        check_probabilities(event.posterior, LABELS)
        assert 0.0 <= event.start_s <= event.stream_s
        assert (event.end_s is None) == (event.phase == "start")
        assert event.end_s is None or event.start_s < event.end_s <= event.stream_s
        assert (event.label is None) == (event.probability is None) == (event.posterior is None)
        if event.posterior is not None and event.label is not None:
            assert event.probability == event.posterior[event.label] == max(event.posterior.values())


@settings(max_examples=20, deadline=None)
@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["silence", "noise", "tone", "speech", "clipped", "impulse"]),
            st.integers(1, 40_000),
            st.floats(1e-6, 1.0),
        ),
        min_size=1,
        max_size=6,
    ),
    threshold=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 1_000),
)
def test_whatever_is_heard_every_field_is_within_its_range(
    parts: list[tuple[str, int, float]], threshold: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    makers = {
        "silence": np.zeros,
        "noise": lambda n: rng.uniform(-1.0, 1.0, n),
        "tone": lambda n: np.sin(rng.uniform(0.01, 3.0) * np.arange(n)),
        "speech": lambda n: np.resize(np.roll(DEMO, -int(rng.integers(DEMO.size))), n),
        "clipped": lambda n: np.sign(np.sin(0.1 * np.arange(n))),
        "impulse": lambda n: np.eye(1, n, n // 2)[0],
    }
    y = np.concatenate([gain * makers[kind](n) for kind, n, gain in parts]).astype(np.float32)
    events = hear(y, speech=SpeechConfig(threshold=threshold), decision=LIVELY)
    check_order(events)
    for event in events:
        check_ranges(event)


def test_the_demo_keeps_the_order_and_the_ranges() -> None:
    events = hear(DEMO)
    check_order(events)
    for event in events:
        check_ranges(event)


def hear_with(priors: dict[str, float] | None, model: Model = CREDULOUS) -> list[AnyEvent]:
    return hear(DEMO, model=model, decision=msgspec.structs.replace(LIVELY, priors=priors))


def counted_states(events: list[AnyEvent]) -> Counter[str]:
    return Counter(e.state for e in events if isinstance(e, Posterior))


def test_priors_move_decisions_and_leave_the_posterior_as_it_is() -> None:
    plain, weighted = hear_with({}), hear_with({"fearful": 100.0})
    assert counted_states(weighted)["fearful"] > 2 * counted_states(plain)["fearful"] > 0
    assert all(
        counted_states(weighted)[label] <= counted_states(plain)[label] for label in LABELS if label != "fearful"
    )
    posteriors = ([e.posterior for e in events if isinstance(e, Posterior)] for events in (plain, weighted))
    assert next(posteriors) == next(posteriors)


def test_equal_priors_change_nothing() -> None:
    assert on_the_wire(hear_with(dict.fromkeys(LABELS, 3.0))) == on_the_wire(hear_with({}))


def test_priors_are_those_of_the_model_unless_they_are_given() -> None:
    sad = CREDULOUS._replace(manifest=msgspec.structs.replace(CREDULOUS.manifest, priors={"sad": 100.0}))
    assert on_the_wire(hear_with(None, sad)) == on_the_wire(hear_with({"sad": 100.0}))
    assert on_the_wire(hear_with({}, sad)) == on_the_wire(hear_with({}))


def test_new_rules_hold_from_the_next_step_on() -> None:
    p = pipeline(CREDULOUS, speech=ALL_IS_SPEECH, decision=DecisionConfig(enter_threshold=1.0))
    p.push(0, DEMO[: 2 * RATE])
    p.configure(DecisionConfig(enter_threshold=0.0, exit_threshold=0.0))
    events = p.push(2 * RATE, DEMO[2 * RATE : 2 * RATE + 4_096])
    assert [e.phase for e in events if isinstance(e, Emotion)] == ["onset"]


def test_thresholds_are_those_of_the_model_unless_they_are_given() -> None:
    m = MODEL.manifest
    given_ = DecisionConfig(enter_threshold=m.enter_threshold, exit_threshold=m.exit_threshold)
    assert on_the_wire(hear(DEMO[: 15 * RATE], decision=DecisionConfig())) == on_the_wire(
        hear(DEMO[: 15 * RATE], decision=given_)
    )


def test_a_threshold_for_leaving_above_the_models_own_for_entering_is_refused() -> None:
    enter = MODEL.manifest.enter_threshold
    with pytest.raises(ConfigError, match=rf"exit_threshold is 0\.9, above the enter_threshold {enter} of model"):
        pipeline(decision=DecisionConfig(exit_threshold=0.9))
    assert thresholds(MODEL.manifest, DecisionConfig(exit_threshold=enter)) == (enter, enter)


def test_a_threshold_for_entering_below_the_models_own_for_leaving_takes_it_along() -> None:
    assert thresholds(MODEL.manifest, DecisionConfig(enter_threshold=0.1)) == (0.1, 0.1)


def test_an_analysis_is_the_speech_weighted_mean_of_the_steps_of_a_pipeline() -> None:
    y = DEMO[: 12 * RATE + 999]
    config = Config(decision=LIVELY)
    heard = analyze(np.array_split(y, 7), MODEL, config)
    events = hear(y)
    steps = [e for e in events if isinstance(e, Posterior)]
    assert [s.posterior for s in heard.analysis.steps] == [e.posterior for e in steps]
    assert [(u.start_s, u.end_s) for u in heard.analysis.utterances] == [
        (e.start_s, e.end_s) for e in events if isinstance(e, Speech) and e.phase == "end"
    ]
    assert heard.analysis.duration_s == round(y.size / RATE, 6)
    voices = [(list(e.voice.values()), e.speech) for e in steps if e.voice is not None and e.speech > 0]
    p, w = np.array([v for v, _ in voices]), np.array([w for _, w in voices])
    mean = np.exp(w @ np.log(np.maximum(p, 1e-4)) / w.sum())
    assert heard.voice is not None
    np.testing.assert_allclose(heard.voice, mean / mean.sum(), atol=0.01)
    check_probabilities(heard.analysis.posterior, LABELS)
    assert heard.analysis.posterior is not None
    assert heard.analysis.label == max(heard.analysis.posterior, key=heard.analysis.posterior.__getitem__)


def test_the_mean_stays_through_a_hole() -> None:
    y, at = DEMO[6 * RATE : 12 * RATE], 10 * RATE
    resumed, fresh = pipeline(), pipeline()
    resumed.push(0, DEMO[: 6 * RATE])
    resumed.interrupt(at)
    again, alone = resumed.push(at, y), fresh.push(at, y)
    assert on_the_wire(counted_from_one(again)) != on_the_wire(alone)


def test_what_is_no_speech_moves_no_mean() -> None:
    y, quiet = DEMO[: 6 * RATE], np.random.default_rng(0).normal(0.0, 1e-5, 20 * RATE).astype(np.float32)
    resumed, fresh = pipeline(), pipeline()
    assert {e.speech for e in resumed.push(0, quiet) if isinstance(e, Posterior)} == {0.0}
    resumed.interrupt(30 * RATE)
    again, alone = resumed.push(30 * RATE, y), fresh.push(30 * RATE, y)
    assert on_the_wire(again) == on_the_wire(alone)


def test_a_mean_that_is_carried_over_several_recordings_goes_on_where_it_was() -> None:
    clips = [DEMO[: 6 * RATE], DEMO[6 * RATE : 14 * RATE]]
    carried, other = MODEL.manifest.cepstral_mean(), MODEL.manifest.cepstral_mean()
    first, second = (analyze([clip], MODEL, Config(), carried).analysis for clip in clips)
    assert first == analyze([clips[0]], MODEL, Config()).analysis
    assert second != analyze([clips[1]], MODEL, Config()).analysis
    analyze([clips[0]], MODEL, Config(), other)
    assert second == analyze(np.array_split(clips[1], 9), MODEL, Config(), other).analysis


def test_an_analysis_without_speech_has_no_label() -> None:
    heard = analyze([np.zeros(RATE, np.float32)], MODEL, Config())
    assert (heard.emotion, heard.voice) == (None, None)
    a = heard.analysis
    assert (a.label, a.probability, a.posterior, a.voice, a.utterances) == (None, None, None, None, [])
