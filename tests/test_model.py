"""The shipped model and its twin, scored through the runtime on speakers that they never heard."""

from pathlib import Path

import pytest

from serstream.events import LABELS
from serstream.manifest import load_model
from serstream.resources import packaged
from serstream.training.card import table
from serstream.training.evaluate import score

TWIN = Path(__file__).parent / "models" / "fold1"
"""The same recipe with RAVDESS actors 2, 5, 14, 15 and 16, and a fifth of CREMA-D's speakers, left out."""


@pytest.mark.corpus
def test_the_twin_hears_unseen_ravdess_actors(corpus: Path) -> None:
    figures = score(TWIN, corpus, corpus="ravdess_speech", fold=1)
    assert figures["speakers"] == [f"ravdess-A{a:02d}" for a in (2, 5, 14, 15, 16)]
    assert figures["clips"] == 200
    assert figures["uar"] >= 0.60
    assert figures["voice_uar"] >= 0.90
    assert figures["no_speech"] <= 0.01


@pytest.mark.corpus
def test_the_shipped_model_hears_a_corpus_that_it_never_trained_on(corpus: Path) -> None:
    shipped = packaged("models/serstream")
    assert "savee" not in load_model(shipped).manifest.corpora
    figures = score(shipped, corpus, corpus="savee", fold=None)
    assert figures["clips"] == 360
    assert figures["uar"] >= 0.32


@pytest.mark.corpus
def test_the_open_model_hears_a_corpus_that_it_never_trained_on(corpus: Path) -> None:
    figures = score(packaged("models/open"), corpus, corpus="ravdess_speech", fold=1)
    assert figures["clips"] == 200
    assert figures["uar"] >= 0.32


def test_the_open_model_comes_from_what_may_be_used_commercially() -> None:
    manifest = load_model(packaged("models/open")).manifest
    assert manifest.corpora == ["crema_d", "speechcommands_bg"]
    assert manifest.licence == "ODbL-1.0"
    assert tuple(manifest.groups) == LABELS
    assert manifest.groups["calm"] == ["neutral"]


@pytest.mark.parametrize(
    ("model", "document"),
    [("serstream", "models/README.md"), ("open", "models/open/README.md")],
)
def test_the_scores_in_the_documents_are_those_of_the_manifest(model: str, document: str) -> None:
    text = (Path(__file__).parent.parent / document).read_text(encoding="utf-8")
    expected = table(load_model(packaged(f"models/{model}")).manifest)
    assert f"<!-- scores -->\n{expected}<!-- /scores -->" in text, (
        f"python -m serstream.training card models/{model} {document}"
    )


def test_twin_and_shipped_model_share_recipe_and_are_calibrated_alike() -> None:
    twin, shipped = load_model(TWIN).manifest, load_model(packaged("models/serstream")).manifest
    for field in (
        "front_end",
        "emotions",
        "groups",
        "segment_frames",
        "step_frames",
        "context_frames",
        "evidence_frames",
        "prior_frames",
        "profile_frames",
        "history_frames",
        "speech_threshold",
    ):
        assert getattr(twin, field) == getattr(shipped, field), field
    for fitted in ("temperature", "enter_threshold", "exit_threshold"):
        assert getattr(twin, fitted) == pytest.approx(getattr(shipped, fitted), rel=0.25), fitted
    assert shipped.scores["ravdess_speech, fold 1"]["uar"] >= 0.60
