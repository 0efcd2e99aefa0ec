"""The arithmetic of the evaluation, on tables and events made by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from serstream.errors import SourceError
from serstream.training.evaluation import statistics
from serstream.training.evaluation.bars import Bar, bars
from serstream.training.evaluation.counts import Changed, Clips, Noise, Parity, Reading, Result, merged, read, write
from serstream.training.evaluation.matching import Span, delays, histogram, matches, switches
from serstream.training.evaluation.perturbations import Spoken, add_noise, band, conditions, reverberate, stretch
from serstream.training.evaluation.results import (
    by_fold,
    corpora,
    false_events,
    figures,
    foreign,
    int8,
    reading,
    robustness,
)

RATE = 16_000


def test_a_clip_without_an_answer_is_wrong_and_a_class_that_was_never_asked_for_does_not_count() -> None:
    confusion = [[3, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert statistics.recalls(confusion)[:2].tolist() == [0.75, 0.5]
    assert statistics.uar(confusion) == 0.625
    assert statistics.accuracy(confusion) == pytest.approx(4 / 6)
    # calm: 2*3 / (4 asked + 4 said); happy: 2*1 / (2 + 1)
    assert statistics.macro_f1(confusion) == pytest.approx((6 / 8 + 2 / 3) / 2)
    assert math.isnan(statistics.uar(np.zeros((3, 4))))


def test_the_calibration_error_weighs_each_bin_by_its_clips() -> None:
    assert statistics.calibration_error([[4, 3.6, 2], [0, 0, 0], [1, 0.5, 1]]) == pytest.approx((1.6 + 0.5) / 5)


def test_the_interval_over_speakers_is_a_point_where_all_are_alike_and_spans_them_where_they_differ() -> None:
    same = [[[8, 2, 0], [2, 8, 0]]] * 5
    assert statistics.bootstrap_uar(same) == pytest.approx((0.8, 0.8))
    low, high = statistics.bootstrap_uar([[[10, 0, 0], [0, 10, 0]], [[0, 10, 0], [10, 0, 0]]])
    assert (low, high) == (0.0, 1.0)
    assert statistics.bootstrap_uar(same[:2], seed=1) == statistics.bootstrap_uar(same[:2], seed=1)


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (10, 4.7954, 18.3904)])
def test_the_poisson_interval_is_garwoods(count: int, low: float, high: float) -> None:
    assert statistics.poisson_interval(count) == pytest.approx((low, high), abs=1e-4)


def test_one_seed_has_no_spread_and_a_histogram_a_median_within_its_bin() -> None:
    assert statistics.spread([0.7]) is None
    assert statistics.spread([0.6, 0.8]) == pytest.approx(0.1414, abs=1e-4)
    assert statistics.median_of_bins([0, 2, 2, 0], 0.25) == 0.5
    assert statistics.median_of_bins([0, 4], 0.25) == 0.375
    assert statistics.median_of_bins([0, 0], 0.25) is None


SAID = [Span("happy", 1.0, 3.0), Span("sad", 5.0, 7.0), Span("sad", 9.0, 11.0)]


def test_an_event_matches_what_has_its_label_and_begins_within_a_second_of_it() -> None:
    assert matches(SAID, [Span("happy", 2.0, 3.0)], whole=False) == 1
    assert matches(SAID, [Span("happy", 2.1, 3.0)], whole=False) == 0
    assert matches(SAID, [Span("angry", 1.0, 3.0)], whole=False) == 0
    assert matches(SAID, [Span("happy", 1.5, 4.1)], whole=True) == 0
    assert matches(SAID, [Span("happy", 1.5, 4.0)], whole=True) == 1


def test_an_event_and_a_reference_are_in_one_pair_at_most() -> None:
    assert matches(SAID[1:2], [Span("sad", 5.0, 5.5), Span("sad", 5.6, 7.0)], whole=False) == 1
    assert matches([Span("sad", 5.0, 5.4), Span("sad", 5.5, 7.0)], [Span("sad", 5.2, 7.0)], whole=False) == 1


def test_the_delay_is_to_the_first_event_with_the_right_label() -> None:
    heard = [Span("calm", 1.2, 1.5), Span("happy", 2.5, 3.5), Span("happy", 2.9, 3.5), Span("sad", 8.1, 8.2)]
    assert delays(SAID, heard) == [1.5]
    assert delays(SAID, [Span("sad", 7.9, 8.5)]) == [pytest.approx(2.9)]
    counts = histogram([0.0, 0.24, 0.25, 99.0])
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (2, 1, 1, 4)


def test_a_change_of_label_counts_within_an_utterance_alone() -> None:
    heard = [Span("calm", 1.2, 1.5), Span("happy", 1.5, 3.5), Span("happy", 3.6, 3.9), Span("sad", 5.5, 7.0)]
    assert switches(heard, [(1.0, 4.0), (5.0, 7.0)]) == 1
    assert switches(heard, [(1.0, 7.0)]) == 2


def test_counts_add_up_by_key_place_and_value() -> None:
    a = {"x": [[1, 2]], "only": 1, "name": "m"}
    assert merged(a, {"x": [[3, 4]], "name": "m", "new": {"y": 2.5}}) == {
        "x": [[4, 6]],
        "only": 1,
        "name": "m",
        "new": {"y": 2.5},
    }


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def power_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples[RATE // 4 :], dtype=np.float64)) + 1e-20))


@pytest.mark.parametrize("db", [20, 10, 5])
def test_noise_is_so_many_decibels_below_the_speech_whatever_its_own_level(db: int) -> None:
    rng = np.random.default_rng(0)
    spoken = Spoken(tone(200), level=0.5, rng=rng)
    for level in (0.001, 1.0):
        noise = rng.standard_normal(RATE, np.float32) * np.float32(level)
        added = add_noise(spoken, noise, db) - spoken.samples
        assert np.sqrt(np.mean(added**2)) == pytest.approx(0.5 * 10 ** (-db / 20), rel=1e-3)


def test_digital_silence_in_a_recording_is_not_taken_for_noise() -> None:
    noise = np.concatenate([np.zeros(RATE, np.float32), np.full(100, 0.25, np.float32)])
    found = stretch([noise], 500, np.random.default_rng(0))
    assert found.shape == (500,)
    assert (found == 0.25).all()


@pytest.mark.parametrize(
    ("low", "high", "kept", "lost"), [(None, 4000.0, [100, 3000], [6000]), (300.0, 3400.0, [500, 2500], [100, 6000])]
)
def test_a_band_keeps_what_is_in_it_and_takes_away_the_rest(
    low: float | None, high: float, kept: list[int], lost: list[int]
) -> None:
    for hz in kept:
        assert power_db(band(tone(hz), low, high)) == pytest.approx(power_db(tone(hz)), abs=0.5)
    for hz in lost:
        assert power_db(band(tone(hz), low, high)) < power_db(tone(hz)) - 20


def test_a_room_decays_by_sixty_decibels_in_half_a_second_and_holds_as_much_energy_as_the_voice() -> None:
    click = np.zeros(RATE, np.float32)
    click[0] = 1.0
    response = reverberate(click, np.random.default_rng(0)).astype(np.float64)
    assert np.sum(response[1:] ** 2) == pytest.approx(1.0, rel=1e-3)
    early, late = (np.sum(response[a : a + 800] ** 2) for a in (800, 5600))
    assert 10 * np.log10(early / late) == pytest.approx(60 * 4800 / 8000, abs=2.0)
    assert (response[8000:] ** 2).max() < 1e-12


def test_every_condition_keeps_the_length_is_repeatable_and_gain_knows_no_full_scale() -> None:
    noises = [np.random.default_rng(1).standard_normal(3000).astype(np.float32)]
    y = tone(440, 0.3)
    for name, change in conditions(noises).items():
        a, b = (change(Spoken(y, 0.7, np.random.default_rng(5))) for _ in range(2))
        assert a.shape == y.shape, name
        assert a.dtype == np.float32, name
        assert a.tobytes() == b.tobytes(), name
        assert (name == "clean") == (a.tobytes() == y.tobytes()), name
    assert np.abs(conditions([])["gain +12 dB"](Spoken(y, 0.7, np.random.default_rng(0)))).max() > 3.9
    assert not any("recorded" in name for name in conditions([]))


def clips(speaker: str, right: int, *, of: int = 10, confidence: float = 0.75) -> Clips:
    """One speaker with ``of`` clips of happy and of sad, ``right`` of each heard rightly."""
    table = [[0] * 6 for _ in range(5)]
    table[1][1] = table[2][2] = right
    table[1][3] = table[2][3] = of - right
    bins = [[0.0, 0.0, 0.0] for _ in range(15)]
    bins[11] = [2.0 * of, 2 * of * confidence, 2.0 * right]
    return Clips(
        confusion={speaker: table},
        voice={speaker: [2 * of, 0, 0]},
        bins=bins,
        named=of,
        named_right=right,
        uncertain=2,
        no_speech=0,
        seconds=[[0, right, right, 0, 0]] * 8,
    )


def result(fold: int, seed: int, five: dict[str, dict[str, Clips]], **others: object) -> Result:
    speakers = {s for table in five.values() for c in table.values() for s in c.confusion}
    return Result(
        model=f"fold{fold}-{seed}",
        sha256="0" * 64,
        made_by="by hand",
        trained_on=["ravdess_speech"],
        fold=fold,
        seed=seed,
        sexes={s: "F" if s < "b" else "M" for s in speakers},
        five=five,
        **others,  # type: ignore[arg-type]
    )


def ravdess(speaker: str, right: int, confidence: float = 0.75) -> dict[str, dict[str, Clips]]:
    return {"ravdess_speech": {"online": clips(speaker, right, confidence=confidence)}}


FOUR = [
    result(1, 0, ravdess("a", 8)),
    result(2, 0, ravdess("b", 4)),
    result(1, 1, ravdess("a", 6)),
    result(2, 1, ravdess("b", 4)),
]


def test_folds_are_pooled_and_seeds_spread() -> None:
    f = figures(FOUR, "five", "ravdess_speech", "online")
    assert f is not None
    assert (f.runs, f.clips) == (4, 80)
    assert f.uar == pytest.approx(0.55)
    assert f.sd == pytest.approx(np.std([0.6, 0.5], ddof=1))
    assert (f.female, f.male) == pytest.approx((0.7, 0.4))
    # the man is heard as a woman
    assert f.voice == 0.5
    assert (f.uncertain, f.named) == pytest.approx((0.1, 22 / 40))
    assert f.seconds == pytest.approx([0.55] * 8)
    assert (f.low, f.high) == pytest.approx((0.4, 0.7))
    assert {k: v.uar for k, v in by_fold(FOUR, "five", "ravdess_speech", "online").items()} == {1: 0.7, 2: 0.4}
    assert figures(FOUR, "five", "ravdess_speech", "enrolled") is None
    assert figures(FOUR, "eight", "ravdess_speech", "online") is None


def test_the_calibration_error_pools_folds_and_averages_seeds() -> None:
    over, under = ravdess("a", 5, 0.9), ravdess("b", 9, 0.5)
    found = figures([result(1, 0, over), result(2, 0, under)], "five", "ravdess_speech", "online")
    assert found is not None
    assert found.calibration_error == pytest.approx(0.0)
    apart = figures([result(1, 0, over), result(1, 1, ravdess("a", 9, 0.5))], "five", "ravdess_speech", "online")
    assert apart is not None
    assert apart.calibration_error == pytest.approx(0.4)


def test_a_seed_without_every_fold_does_not_count_for_the_spread() -> None:
    found = figures(FOUR[:3], "five", "ravdess_speech", "online")
    assert found is not None
    assert (found.runs, found.sd) == (3, None)


def test_a_foreign_corpus_is_scored_by_the_model_of_everyone_where_there_is_one() -> None:
    savee = {"savee": {"online": clips("b", 2)}}
    folded = [result(1, 0, ravdess("a", 8) | savee)]
    everyone = result(0, 0, {"savee": {"online": clips("b", 9)}})
    assert foreign(folded, "savee")
    assert not foreign(folded, "ravdess_speech")
    assert corpora(folded) == ["ravdess_speech", "savee"]
    alone, both = (figures(r, "five", "savee", "online") for r in (folded, [*folded, everyone]))
    assert alone is not None
    assert both is not None
    assert (alone.uar, both.uar) == (0.2, 0.9)


def noisy(events: int) -> dict[str, dict[str, Noise]]:
    return {"online": {"surroundings": Noise(1800.0, {"calm": events}, {"rain": events})}}


def test_false_events_are_counted_by_the_hour_of_one_models_sounds() -> None:
    f = false_events([result(1, 0, {}, noise=noisy(4)), result(2, 0, {}, noise=noisy(6))], "online", ("surroundings",))
    assert f is not None
    assert (f.hours, f.per_hour) == (0.5, 10.0)
    assert (f.low, f.high) == pytest.approx([2 * x for x in statistics.poisson_interval(5)])
    assert false_events([result(1, 0, {})], "online", ("surroundings",)) is None


def test_read_speech_counts_the_time_under_labels_but_calm() -> None:
    states = {"calm": 5.0, "uncertain": 2.0, "no_speech": 1.0, "sad": 1.5, "angry": 0.5}
    f = reading([result(1, 0, {}, reading={"online": Reading(10, 9, states)})], "online")
    assert f == (10, 0.9, pytest.approx(0.2), pytest.approx(0.2))


def bar_of(results: list[Result], name: str) -> Bar:
    (found,) = [b for b in bars(results) if b.name.startswith(name)]
    return found


def test_a_bar_is_met_at_its_very_mark_and_an_aim_is_more() -> None:
    assert Bar("x", 0.7, 0.7, 0.8, False, "").met == "bar"
    assert Bar("x", 0.8, 0.7, 0.8, False, "").met == "aim"
    assert Bar("x", 0.69, 0.7, 0.8, False, "").met == "no"
    assert Bar("x", 0.06, 0.06, 0.03, True, "").met == "bar"
    assert Bar("x", 0.07, 0.06, None, True, "").met == "no"
    assert Bar("x", None, 0.06, None, True, "").met == "not measured"
    assert Bar("x", math.nan, 0.06, None, True, "").met == "not measured"


def test_the_bars_show_the_worse_of_two_conditions_and_the_points_that_int8_loses() -> None:
    table = [[0] * 6 for _ in range(5)]
    table[0][0], table[0][1] = 99, 1
    less = [row[:] for row in table]
    less[0][0], less[0][1] = 98, 2
    parity = {"ravdess_speech": Parity(table, less, 98, 0.03, 0.001)}
    changed = {"clean": Changed(table, 100), "gain +12 dB": Changed(table, 99), "gain -12 dB": Changed(table, 96)}
    found = [result(1, 0, ravdess("a", 8), parity=parity, robustness={"ravdess_speech": {"online": changed}})]
    lost = int8(found, "ravdess_speech")
    assert lost is not None
    assert (lost.loss, lost.equal) == (pytest.approx(1.0), 0.98)
    assert bar_of(found, "RAVDESS, loss of UAR by int8").met == "no"
    assert bar_of(found, "RAVDESS, decisions unchanged by +-12 dB").value == 0.96
    assert bar_of(found, "RAVDESS, 5 classes").met == "aim"
    assert bar_of(found, "SAVEE, 5 classes, UAR, enrolled").met == "not measured"
    assert robustness(found, "ravdess_speech", "none") == {}


def test_counts_are_read_as_they_were_written_and_anything_else_is_refused(tmp_path: Path) -> None:
    whole = result(1, 0, ravdess("a", 8), noise=noisy(3))
    write(tmp_path / "new" / "a.json", whole)
    assert read(tmp_path / "new" / "a.json") == whole
    (tmp_path / "b.json").write_text('{"schema": "serstream-evaluation/1"}')
    with pytest.raises(SourceError, match=r"b\.json holds no counts of serstream-evaluation/1"):
        read(tmp_path / "b.json")
