"""Reading corpora and dividing speakers: nobody is on two sides."""

from pathlib import Path

import pytest
from training_process import ROOT

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


def test_votes_of_listeners_are_read_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(MANIFEST)
    (tmp_path / "savee_votes.csv").write_text("clip,angry,disgust,neutral,listeners\nb,2,1,6,9\n")
    votes = {c.path.name: c.votes for c in read_corpora(tmp_path)}
    assert votes.pop("b.ogg") == (6, 0, 0, 0, 2, 0, 1, 0)
    assert set(votes.values()) == {()}


@pytest.mark.parametrize("text", ["name,angry\nb,2\n", "clip,angry\nb,many\n"])
def test_votes_that_cannot_be_read_are_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.csv").write_text(MANIFEST)
    (tmp_path / "savee_votes.csv").write_text(text)
    with pytest.raises(SourceError, match=r"savee_votes\.csv cannot be read .*; its columns are clip and emotions"):
        read_corpora(tmp_path)


def test_a_plain_ravdess_folder_is_read_by_its_names(ravdess: Path) -> None:
    clips = read_corpora(ravdess)
    assert len(clips) == 40
    assert clips[0] == Clip(ravdess / "Actor_01/03-01-02-01-01-01-01.wav", "ravdess_speech", "ravdess-A01", "M", "calm")
    assert {c.emotion for c in clips} == {"calm", "happy", "sad", "angry", "fearful"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,corpus,speaker,gender,emotion\n", "has no column sex; its first line must name path,corpus,speaker,sex"),
        ("", "has no column path, corpus, speaker, sex, emotion"),
        ("{}a.wav,mine,p1,F,joyful\n", "line 3, has emotion 'joyful'; allowed are neutral, calm, happy, sad, angry"),
        ("{}a.wav,mine,p1,female,sad\n", "line 3, has sex 'female'; allowed are F, M"),
        ("{}a.wav,mine,p1,,sad\n", "line 3, has emotion 'sad' and an empty sex; write F or M there"),
        ("{}a.wav,mine,,F,sad\n", "line 3, has emotion 'sad' and an empty speaker; write a name there"),
        ("{},mine,p1,F,sad\n", "line 3, has emotion 'sad' and an empty path"),
        ("{}a.wav,mine\n{}\n,mine", "line 5, has emotion '' and an empty path"),
    ],
)
def test_a_manifest_that_says_something_wrong_is_refused_in_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    good = "path,corpus,speaker,sex,emotion\n0.wav,mine,p0,M,calm\n"
    (tmp_path / "manifest.csv").write_text(text.replace("{}", good, 1).replace("{}", "b.wav,esc50"))
    with pytest.raises(SourceError) as caught:
        read_corpora(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "manifest.csv"))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_no_utf_8_is_refused_and_one_from_a_spreadsheet_read(tmp_path: Path) -> None:
    text = "path,corpus,speaker,sex,emotion\nä.wav,mine,p0,M,calm\n"
    (tmp_path / "manifest.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=r"manifest\.csv cannot be read .*; write it as CSV in UTF-8"):
        read_corpora(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(text.encode("utf-8-sig"))
    assert read_corpora(tmp_path)[0].path.name == "ä.wav"


def test_the_lines_of_the_documentation_make_a_manifest_of_emodb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wav").mkdir()
    for name in ("03a01Fa", "08b02Wb", "16a05La"):
        (tmp_path / "wav" / f"{name}.wav").touch()
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    exec(text.split("```python\n")[1].split("```")[0], {})
    clips = read_corpora(tmp_path)
    assert [(c.path.name, c.speaker, c.sex, c.emotion) for c in clips] == [
        ("03a01Fa.wav", "emodb-03", "M", "happy"),
        ("08b02Wb.wav", "emodb-08", "F", "angry"),
    ]


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


def own(n_women: int, n_men: int, corpus: str = "mine") -> list[Clip]:
    people = [(f"w{i:02d}", "F") for i in range(n_women)] + [(f"m{i:02d}", "M") for i in range(n_men)]
    return [Clip(Path(f"{s}.wav"), corpus, f"{corpus}-{s}", sex, "sad") for s, sex in people]


def test_speakers_of_any_other_corpus_are_dealt_out_as_those_of_crema_d() -> None:
    assigned = folds([*crema(), *own(3, 6), *own(0, 4, "savee")])
    assert [assigned[f"mine-w{i:02d}"] for i in range(3)] == [1, 2, 3]
    assert [assigned[f"mine-m{i:02d}"] for i in range(6)] == [1, 2, 3, 4, 5, 1]
    assert [assigned[f"savee-m{i:02d}"] for i in range(4)] == [1, 2, 3, 4]
    assert {s: k for s, k in assigned.items() if s.startswith("crema")} == {
        s: k for s, k in folds(crema()).items() if s.startswith("crema")
    }


def test_a_speaker_of_two_corpora_is_in_one_fold_and_an_actor_in_that_of_the_table() -> None:
    desk, phone = (Clip(Path(f"{c}.wav"), c, "p2", "F", "sad") for c in ("desk", "phone"))
    before = Clip(Path("a.wav"), "desk", "p1", "F", "sad")
    actor = Clip(Path("b.wav"), "phone", "ravdess-A01", "F", "sad")
    assigned = folds([before, desk, phone, actor])
    assert assigned["p2"] == 2
    assert assigned["ravdess-A01"] == 5


def test_who_has_no_labelled_clip_is_in_no_fold() -> None:
    assert "libri-1" not in folds([Clip(Path("a.ogg"), "libri", "libri-1", "F", "")])


def test_another_corpus_moves_nobody_to_another_side() -> None:
    parts = split(crema(), 1)
    more = split([*own(10, 10, "a"), *crema(), *own(10, 10, "z")], 1)
    assert {s: more[s] for s in parts} == parts


def test_a_few_speakers_of_every_corpus_validate_and_at_most_half_of_the_next_fold() -> None:
    for n, expected in ((1, 0), (5, 1), (10, 2), (15, 3), (40, 4)):
        parts = split([*crema(), *own(n, n)], 1)
        assert sum(s.startswith("mine") for s, part in parts.items() if part == "validation") == expected


@pytest.mark.parametrize("fold", range(1, 6))
def test_no_speaker_is_on_two_sides(fold: int) -> None:
    speakers = folds(crema())
    parts = split(crema(), fold)
    assert set(parts) == set(speakers)
    assert {s for s, part in parts.items() if part == "test"} == {s for s, f in speakers.items() if f == fold}
    validation = {s for s, part in parts.items() if part == "validation"}
    assert {speakers[s] for s in validation} == {fold % 5 + 1}
    assert sum(s.startswith("ravdess") for s in validation) == 2
    assert any(s.startswith("crema") for s in validation)
    assert all(part == "train" for s, part in parts.items() if speakers[s] not in {fold, fold % 5 + 1})


def test_the_fold_that_is_none_trains_on_everyone() -> None:
    assert set(split(crema(), 0).values()) == {"train"}


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
