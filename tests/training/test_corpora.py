"""Reading corpora and dividing speakers: nobody is on two sides."""

from pathlib import Path

import pytest

from serstream.errors import SourceError
from serstream.training.corpora import (
    RAVDESS_FOLDS,
    Clip,
    folds,
    noise_clips,
    ravdess_clip,
    read_corpora,
)
from serstream.training.recipe import split
from serstream.training.score import five_classes

MANIFEST = """path,corpus,speaker,sex,emotion,label_source
savee/b.ogg,savee,savee-DC,M,neutral,acted
ravdess_song/a.ogg,ravdess_song,ravdess-A02,F,calm,acted
esc50/3-1.ogg,esc50,,,,
esc50/2-1.ogg,esc50,,,,
speechcommands_bg/exercise_bike.ogg,speechcommands_bg,,,,
speechcommands_bg/pink_noise.ogg,speechcommands_bg,,,,
ravdess_speech/n.ogg,ravdess_speech,ravdess-A02,F,neutral,acted
"""


def crema(n_women: int = 12, n_men: int = 7) -> list[Clip]:
    people = [(f"crema-{1001 + i}", "F") for i in range(n_women)] + [(f"crema-{1050 + i}", "M") for i in range(n_men)]
    return [Clip(Path(f"{s}.ogg"), "crema_d", s, sex, "sad") for s, sex in people]


def test_a_manifest_is_read_whole_and_sorted_with_its_paths(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(MANIFEST)
    clips = read_corpora(tmp_path)
    assert [c.path.relative_to(tmp_path).as_posix() for c in clips] == sorted(
        line.split(",")[0] for line in MANIFEST.splitlines()[1:]
    )
    savee = next(c for c in clips if c.corpus == "savee")
    assert savee == Clip(tmp_path / "savee/b.ogg", "savee", "savee-DC", "M", "neutral", "acted")


def test_a_plain_ravdess_folder_is_read_by_its_names(ravdess: Path) -> None:
    clips = read_corpora(ravdess)
    assert len(clips) == 40
    assert clips[0] == Clip(ravdess / "Actor_01/03-01-02-01-01-01-01.wav", "ravdess_speech", "ravdess-A01", "M", "calm")
    assert {c.emotion for c in clips} == {"calm", "happy", "sad", "angry", "fearful"}


@pytest.mark.parametrize(
    ("name", "corpus", "speaker", "sex", "emotion"),
    [
        ("03-01-01-01-01-01-24.wav", "ravdess_speech", "ravdess-A24", "F", "neutral"),
        ("03-02-06-02-01-01-13.flac", "ravdess_song", "ravdess-A13", "M", "fearful"),
        ("03-01-08-01-02-02-07.ogg", "ravdess_speech", "ravdess-A07", "M", "surprised"),
    ],
)
def test_a_ravdess_name_says_everything(name: str, corpus: str, speaker: str, sex: str, emotion: str) -> None:
    assert ravdess_clip(Path(name)) == Clip(Path(name), corpus, speaker, sex, emotion)


@pytest.mark.parametrize(
    "name", ["03-01-09-01-01-01-01.wav", "03-01-00-01-01-01-01.wav", "03-01-01.wav", "a-b-c-d-e-f-g.wav"]
)
def test_a_name_that_is_not_of_ravdess_is_left_out(name: str) -> None:
    assert ravdess_clip(Path(name)) is None


def test_a_folder_without_recordings_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds neither a manifest\.csv nor RAVDESS recordings .*--data"):
        read_corpora(tmp_path)


def test_every_ravdess_actor_is_in_one_fold() -> None:
    assert sorted(a for fold in RAVDESS_FOLDS for a in fold) == list(range(1, 25))


def test_crema_speakers_are_dealt_out_by_rank_within_their_sex() -> None:
    assigned = folds(crema())
    assert [assigned[f"crema-{1001 + i}"] for i in range(12)] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
    assert [assigned[f"crema-{1050 + i}"] for i in range(7)] == [1, 2, 3, 4, 5, 1, 2]


@pytest.mark.parametrize("fold", range(1, 6))
def test_no_speaker_is_on_two_sides(fold: int) -> None:
    speakers = folds(crema())
    parts = split(speakers, fold)
    assert set(parts) == set(speakers)
    assert {s for s, part in parts.items() if part == "test"} == {s for s, f in speakers.items() if f == fold}
    validation = {s for s, part in parts.items() if part == "validation"}
    assert {speakers[s] for s in validation} == {fold % 5 + 1}
    assert sum(s.startswith("ravdess") for s in validation) == 3
    assert any(s.startswith("crema") for s in validation)
    assert all(part == "train" for s, part in parts.items() if speakers[s] not in {fold, fold % 5 + 1})


def test_the_fold_that_is_none_trains_on_everyone() -> None:
    assert set(split(folds(crema()), 0).values()) == {"train"}


def test_songs_stay_with_their_actor(ravdess: Path) -> None:
    speech, song = (ravdess_clip(Path(f"03-0{k}-02-01-01-01-05.wav")) for k in (1, 2))
    assert speech is not None
    assert song is not None
    assert speech.speaker == song.speaker
    assert speech.corpus != song.corpus


def test_noise_for_training_is_not_that_of_the_test(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(MANIFEST)
    noise = {c.path.relative_to(tmp_path).as_posix() for c in noise_clips(read_corpora(tmp_path))}
    assert noise == {"esc50/2-1.ogg", "speechcommands_bg/pink_noise.ogg"}


def test_five_classes_leave_ravdess_neutral_out_and_count_others_as_calm(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(MANIFEST)
    assert [(c.corpus, c.emotion) for c in five_classes(read_corpora(tmp_path))] == [
        ("ravdess_song", "calm"),
        ("savee", "neutral"),
    ]


@pytest.mark.corpus
def test_the_recordings_have_the_speakers_that_the_protocol_counts(corpus: Path) -> None:
    clips = read_corpora(corpus)
    speakers = {
        name: {c.speaker for c in clips if c.corpus == name} for name in ("ravdess_speech", "ravdess_song", "crema_d")
    }
    assert len(speakers["ravdess_speech"]) == 24
    assert speakers["ravdess_song"] <= speakers["ravdess_speech"]
    assert set().union(*speakers.values()) <= set(folds(clips))
