"""What a crop's stream had heard before: the runtime's own mean, brought to where it would stand."""

from __future__ import annotations

import numpy as np
import pytest

from serstream.features import dct_matrix
from serstream.normalisation import CepstralMean
from serstream.training.histories import Histories, History, channel_offset
from serstream.training.prepare import Prepared, load_prepared
from serstream.training.recipe import Recipe
from serstream.training.scaling import Normalisation, normalisation

RECIPE = Recipe()


@pytest.fixture(scope="module")
def prepared(cache: object) -> Prepared:
    return load_prepared(cache)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scale(prepared: Prepared) -> Normalisation:
    return normalisation(prepared, np.arange(len(prepared.clips)))


@pytest.fixture(scope="module")
def histories(prepared: Prepared, scale: Normalisation) -> Histories:
    return Histories(prepared, scale, RECIPE)


def frames(prepared: Prepared, clip: int, variant: int) -> tuple[np.ndarray, np.ndarray]:
    span = prepared.span(clip, variant)
    return prepared.features[span].astype(np.float32), prepared.speech[span]


def fresh(scale: Normalisation) -> CepstralMean:
    r = RECIPE
    return CepstralMean(scale.mean, scale.std, prior_frames=r.prior_frames, history_frames=r.history_frames)


def test_a_drawn_history_is_what_the_runtime_had_after_those_clips(
    histories: Histories, prepared: Prepared, scale: Normalisation
) -> None:
    x, _ = frames(prepared, 0, 1)
    others = [i for i in range(1, len(prepared.clips)) if prepared.clips[i].speaker == prepared.clips[0].speaker]
    rng = np.random.default_rng(0)
    pasts = [h for h in (histories.draw(0, 1, rng) for _ in range(100)) if not h.frozen and not h.is_profile]
    drawn = max(pasts, key=lambda h: h.n_frames)  # all others, which are less than a minute
    assert drawn.n_frames == sum(int(frames(prepared, i, 1)[1].sum()) for i in others)
    heard = fresh(scale)
    for i in others:
        heard.move(*frames(prepared, i, 1))
    expected = heard.normalise(x)
    np.testing.assert_allclose(histories.mean_after(drawn).normalise(x), expected, atol=1e-3)
    assert np.abs(expected - fresh(scale).normalise(x)).max() > 1e-2


def test_every_kind_of_history_is_drawn(histories: Histories) -> None:
    rng = np.random.default_rng(0)
    drawn = [histories.draw(0, 1, rng) for _ in range(200)]
    assert any(h.frozen and not h.is_profile for h in drawn)
    assert any(h.n_frames == 0 and not h.frozen for h in drawn)
    assert any(h.n_frames > 0 and not h.frozen and not h.is_profile for h in drawn)


def test_a_frozen_history_is_the_fixed_mean(histories: Histories, prepared: Prepared, scale: Normalisation) -> None:
    x, speech = frames(prepared, 0, 0)
    mean = histories.mean_after(histories.none()._replace(frozen=True))
    mean.move(x, speech)
    fixed = mean.normalise(x)
    np.testing.assert_allclose(fixed, (x - scale.mean) / scale.std, atol=1e-5)


def test_a_profile_stands_in_the_place_of_the_prior(histories: Histories, scale: Normalisation) -> None:
    profile = scale.ordinary.astype(np.float64) + 2.0
    mean = histories.mean_after(History(profile * 500, 500, is_profile=True))
    as_far = scale.mean[None] + np.float32(2.0)
    np.testing.assert_allclose(mean.normalise(as_far), 0.0, atol=1e-5)


def test_a_channel_is_heard_in_the_history_as_in_the_crop(histories: Histories, prepared: Prepared) -> None:
    x, speech = frames(prepared, 0, 0)
    offset = channel_offset(dct_matrix(40, 40).astype(np.float32), np.random.default_rng(0), spread_db=6.0)
    history = History(x[speech].sum(axis=0, dtype=np.float64), int(speech.sum()), is_profile=True)
    plain = histories.mean_after(history).normalise(x)
    through = histories.mean_after(history.through(offset)).normalise(x + offset)
    np.testing.assert_allclose(through, plain, atol=1e-3)
    assert np.abs(offset).max() > 0.5
