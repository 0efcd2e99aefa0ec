"""The full evaluation: who is scored in which column, through the runtime, from recordings to the report."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from training_process import ROOT, train

from serstream.analysis import analyze
from serstream.config import Config
from serstream.errors import ConfigError, SourceError
from serstream.events import LABELS
from serstream.manifest import load_model
from serstream.resources import packaged
from serstream.training.corpora import Clip, noise_clips, read_corpora
from serstream.training.evaluation import plan
from serstream.training.evaluation.bench import Bench, Job
from serstream.training.evaluation.counts import COLUMNS, SECONDS, Result, read
from serstream.training.evaluation.listening import listen, profile
from serstream.training.evaluation.run import do, jobs
from serstream.training.evaluation.streams import joined
from serstream.training.prepare import read_clip
from serstream.training.speech import speech_of

TWIN = Path(__file__).parent.parent / "models" / "fold1"
"""Trained on RAVDESS and CREMA-D without fold 1."""
MODEL = load_model(TWIN)
CONFIG = Config()


@pytest.fixture(scope="module")
def data(ravdess: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bit of every corpus: actors 2 and 5 of fold 1 and 3 of fold 2, a foreign speaker, sounds, and readers."""
    folder = tmp_path_factory.mktemp("data")
    by_actor = {a: sorted((ravdess / f"Actor_{a:02d}").glob("*.wav")) for a in (1, 2, 3, 5, 10, 11, 17)}
    rows = [(c.path, c.corpus, c.speaker, c.sex, c.emotion, "") for c in read_corpora(ravdess)]
    rows = [row for row in rows if row[2] in {"ravdess-A02", "ravdess-A05", "ravdess-A03"}]
    for name, sex, own in (("ravdess-A02", "F", by_actor[10]), ("ravdess-A05", "M", by_actor[11])):
        rows += [(path, "ravdess_speech", name, sex, "neutral", "") for path in own[:4]]
    words = ("neutral", "neutral", "happy", "sad", "angry")
    rows += [(p, "savee", "savee-X", "M", w, "") for p, w in zip(by_actor[17], words, strict=True)]
    rows += [(p, "libri", f"libri-{i % 4}", "", "", "") for i, p in enumerate(by_actor[1] + by_actor[3])]
    rng = np.random.default_rng(0)
    soundfile.write(folder / "3-rain.wav", rng.standard_normal(3 * 16_000).astype(np.float32) * 0.05, 16_000)
    shutil.copy(packaged("demo.flac"), folder / "3-laugh.flac")
    shutil.copy(folder / "3-rain.wav", folder / "1-rain.wav")
    for name, sound in (("3-rain.wav", "rain"), ("3-laugh.flac", "laughing"), ("1-rain.wav", "rain")):
        rows.append((folder / name, "esc50", "", "", "", sound))
    lines = [",".join(map(str, row)) for row in rows]
    (folder / "manifest.csv").write_text(
        "\n".join(["path,corpus,speaker,sex,emotion,label_source", *lines]) + "\n", encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def counted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one evaluation counted, in the folder of a report."""
    folder = tmp_path_factory.mktemp("report")
    train("evaluate", TWIN, "--data", data, "--fold", "1", "--full", "--out", folder / "results" / "fold1.json")
    return folder


@pytest.fixture(scope="module")
def result(counted: Path) -> Result:
    return read(counted / "results" / "fold1.json")


def test_a_clip_is_heard_as_analyze_hears_it(ravdess: Path) -> None:
    clip = read_corpora(ravdess)[3]
    mean, same = MODEL.manifest.cepstral_mean(), MODEL.manifest.cepstral_mean()
    for _ in range(2):  # the mean is moved on alike
        heard = listen(read_clip(clip.path), MODEL, CONFIG, mean)
        expected = analyze([read_clip(clip.path)], MODEL, CONFIG, mean=same)
        assert heard.emotion is not None
        assert heard.emotion == expected.emotion
        assert heard.voice == expected.voice
        assert LABELS[heard.answer] == expected.analysis.label
        assert heard.after[-1] == heard.answer


def test_the_answer_after_some_seconds_is_that_of_a_recording_which_ends_there(ravdess: Path) -> None:
    samples = read_clip(read_corpora(ravdess)[3].path)

    def answer(end: int) -> int:
        label = analyze([samples[:end]], MODEL, CONFIG, mean=MODEL.manifest.cepstral_mean(frozen=True)).analysis.label
        return -1 if label is None else LABELS.index(label)

    heard = listen(samples, MODEL, CONFIG, MODEL.manifest.cepstral_mean(frozen=True))
    whole = analyze([samples], MODEL, CONFIG, mean=MODEL.manifest.cepstral_mean(frozen=True)).analysis
    begin = whole.utterances[0].start_s
    for seconds, said in zip(SECONDS, heard.after, strict=True):
        ends = [round(s.stream_s * 16_000) for s in whole.steps if s.stream_s <= begin + seconds]
        assert said == (answer(ends[-1]) if ends else -1), seconds
    silence = np.concatenate([np.zeros(8000, np.float32), samples[:10_000]])
    assert listen(silence, MODEL, CONFIG, MODEL.manifest.cepstral_mean()).after[0] == -1


def test_what_was_heard_before_counts_online_and_not_in_the_other_columns(ravdess: Path) -> None:
    first, second = (read_clip(c.path) for c in read_corpora(ravdess)[3:5])
    moving, frozen = MODEL.manifest.cepstral_mean(), MODEL.manifest.cepstral_mean(frozen=True)
    for mean in (moving, frozen):
        listen(first, MODEL, CONFIG, mean)
    alone = listen(second, MODEL, CONFIG, MODEL.manifest.cepstral_mean(frozen=True)).posterior
    assert np.array_equal(listen(second, MODEL, CONFIG, frozen).posterior, alone)
    assert not np.array_equal(listen(second, MODEL, CONFIG, moving).posterior, alone)


def test_a_profile_is_the_mean_of_the_speech_of_all_its_clips(ravdess: Path) -> None:
    clips = [read_clip(c.path) for c in read_corpora(ravdess)[:2]]
    both, one = profile(clips, MODEL, CONFIG), profile(clips[:1], MODEL, CONFIG)
    assert both is not None
    assert len(both) == len(MODEL.manifest.mean)
    assert both != one
    assert profile([np.zeros(16_000, np.float32)], MODEL, CONFIG) is None


def test_only_who_was_left_out_is_scored_and_everyone_of_a_foreign_corpus(data: Path, result: Result) -> None:
    found = {(s.corpus, s.name) for s in plan.speakers(read_corpora(data), MODEL.manifest)}
    assert found == {("ravdess_speech", "ravdess-A02"), ("ravdess_speech", "ravdess-A05"), ("savee", "savee-X")}
    assert set(result.sexes) == {"ravdess-A02", "ravdess-A05", "savee-X"}
    assert (result.fold, result.seed, result.trained_on) == (1, 0, list(MODEL.manifest.corpora))


def test_no_clip_is_enrolled_on_and_scored(data: Path) -> None:
    for speaker in plan.speakers(read_corpora(data), MODEL.manifest):
        scored = Job("clips", speaker, "enrolled").clips
        assert not set(scored) & set(speaker.enrolment), speaker.name
        assert {c.emotion for c in speaker.enrolment} == {"neutral"}
        assert len(speaker.enrolment) == (1 if speaker.corpus == "savee" else 2 if speaker.eight else 4)


def test_the_five_classes_score_the_same_clips_in_every_column(result: Result) -> None:
    for corpus, n in (("ravdess_speech", 10), ("savee", 4)):
        totals = {column: np.sum(list(clips.confusion.values())) for column, clips in result.five[corpus].items()}
        # online in five orders; 30 s of speech are never reached here
        assert totals == {"none": n, "cold": n, "enrolled": n, "online": 5 * n}
        for clips in result.five[corpus].values():
            assert sum(row[0] for row in clips.bins) + clips.no_speech == np.sum(list(clips.confusion.values()))
    assert result.five["ravdess_speech"]["none"].voice.keys() == {"ravdess-A02", "ravdess-A05"}


def test_the_eight_classes_score_every_clip_but_those_enrolled_on(result: Result) -> None:
    totals = {c: np.sum(list(t.confusion.values())) for c, t in result.eight["ravdess_speech"].items()}
    assert totals == {"none": 18, "online": 90, "enrolled": 14}
    assert np.array(result.eight["ravdess_speech"]["none"].confusion["ravdess-A02"]).shape == (8, 9)


def test_every_condition_is_compared_with_the_clip_as_it_was(result: Result) -> None:
    assert list(result.robustness) == ["ravdess_speech"]
    for column in COLUMNS:
        table = result.robustness["ravdess_speech"][column]
        assert len(table) == 12
        assert table["clean"].unchanged == 10
        assert all(np.sum(c.confusion) == 10 and c.unchanged <= 10 for c in table.values())
        assert table["telephone 300-3400 Hz"].unchanged < 10
    none, fives = result.robustness["ravdess_speech"]["none"]["clean"], result.five["ravdess_speech"]["none"]
    assert none.confusion == np.sum(list(fives.confusion.values()), axis=0).tolist()


def test_speech_that_passes_for_laughing_is_a_false_event_and_rain_is_none(result: Result) -> None:
    for column in COLUMNS:
        kinds = result.noise[column]
        assert kinds.keys() == {"surroundings", "people"}
        assert kinds["surroundings"].seconds == 3.0
        assert sum(kinds["surroundings"].events.values()) == 0
        assert sum(kinds["people"].events.values()) == kinds["people"].sounds["laughing"] > 0


def test_training_and_test_share_no_noise(data: Path) -> None:
    clips = read_corpora(data)
    tested = {c for kind in plan.noise(clips).values() for c in kind}
    assert len(tested) == 2
    assert not tested & set(noise_clips(clips))


def test_every_second_reader_is_heard_and_enrolled_on_other_recordings(data: Path, result: Result) -> None:
    read_by = plan.readers(read_corpora(data))
    assert [r.name for r in read_by] == ["libri-1", "libri-3"]
    assert all(r.enrolment and not set(r.enrolment) & set(r.scored) for r in read_by)
    n = sum(len(r.scored) for r in read_by)
    assert all(result.reading[column].utterances == n >= result.reading[column].detected > 0 for column in COLUMNS)


def test_a_stream_holds_its_clips_where_it_says_with_pauses_between(ravdess: Path) -> None:
    clips = [c for c in read_corpora(ravdess) if c.speaker == "ravdess-A02"][:3]
    samples = [read_clip(c.path) for c in clips]
    stream, said = joined(clips, samples, np.random.default_rng(3))
    assert [s.label for s in said] == [c.emotion for c in clips]
    silence_s = (stream.size - sum(s.size for s in samples)) / 16_000
    assert 3.0 <= silence_s <= 6.0
    for span, y in zip(said, samples, strict=True):
        first = int(np.flatnonzero(speech_of(y))[0])
        begin = round(span.start_s * 16_000) - first
        assert np.abs(stream[begin : begin + y.size] - y).max() < 0.01
        floor = stream[begin - 16_000 : begin]
        assert 20 * np.log10(np.sqrt(np.mean(floor**2))) == pytest.approx(-60.0, abs=0.3)


def test_the_events_of_a_stream_are_counted_against_its_clips(result: Result) -> None:
    for column in COLUMNS:
        s = result.streams["ravdess_speech"][column]
        assert s.references == 10
        assert 0 <= s.matched_whole <= s.matched <= min(s.references, s.events)
        assert s.matched <= sum(s.delays) <= 10
        assert s.speech_s > 5.0


def test_the_counts_name_no_file(counted: Path, data: Path) -> None:
    text = (counted / "results" / "fold1.json").read_text()
    clips = read_corpora(data)
    assert not [c.path.stem for c in clips if c.path.stem in text]
    assert ".wav" not in text
    assert str(data) not in text


def test_a_job_counts_the_same_again(data: Path) -> None:
    clips = read_corpora(data)
    bench = Bench(MODEL, CONFIG, [])
    chosen = [
        j for j in jobs(plan.speakers(clips, MODEL.manifest), clips, ("clips", "streams")) if j.column == "online"
    ]
    assert do(bench, chosen[0]) == do(bench, chosen[0])


def test_the_report_is_made_from_the_counts_alone(counted: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed; pip install 'serstream[evaluate]'")
    folder, card = tmp_path / "evaluation", tmp_path / "card.md"
    shutil.copytree(counted, folder)
    card.write_text("before\n<!-- evaluation -->\nold\n<!-- /evaluation -->\nafter\n")
    train("report", folder, "--card", card)
    text = (folder / "README.md").read_text()
    for heading in ("Bars", "RAVDESS, five classes", "SAVEE, five classes", "Eight classes", "Noise", "Reading"):
        assert f"## {heading}\n" in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    columns = [line for line in tables if "none" in line and "online" in line]
    assert all("enrolled" in line for line in columns)
    assert len(columns) >= 8
    for name in ("confusion", "reliability", "seconds", "robustness"):
        assert f"({name}.png)" in text
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert "| RAVDESS, loss of UAR by int8, points |  | at most 0.5 | 0.2 | not measured |" in text
    assert card.read_text().startswith("before\n<!-- evaluation -->\n| UAR on speakers that it never heard |")
    assert card.read_text().endswith("<!-- /evaluation -->\nafter\n")
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    train("report", folder)
    assert before == {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_speakers_that_a_model_was_trained_on_are_refused(data: Path, tmp_path: Path) -> None:
    said = train("evaluate", TWIN, "--data", data, "--fold", "2", "--full", "--out", tmp_path / "x.json", status=2)
    assert "was trained without fold 1, not 2" in said.stderr
    assert not (tmp_path / "x.json").exists()
    known = [c for c in read_corpora(data) if c.speaker == "ravdess-A03"]
    with pytest.raises(SourceError, match="no clip of anybody whom model fold1 was not trained on"):
        plan.speakers(known, MODEL.manifest)


def test_a_model_that_does_not_say_what_it_was_trained_without_is_refused() -> None:
    import msgspec

    with pytest.raises(ConfigError, match="does not say what it was trained without"):
        plan.trained_without(msgspec.structs.replace(MODEL.manifest, command="by hand"))


def test_wrong_use_is_said_in_a_sentence(data: Path, tmp_path: Path) -> None:
    full = ("evaluate", TWIN, "--data", data, "--full")
    assert "needs --out" in train(*full, status=2).stderr
    said = train(*full, "--out", tmp_path / "x.json", "--parts", "clips,all", status=2).stderr
    assert "all is no part of an evaluation; allowed are clips, robustness" in said
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed; pip install 'serstream[evaluate]'")
    assert "holds no counts; make them" in train("report", tmp_path, status=1).stderr


def test_the_report_and_the_model_card_are_those_of_the_counts_beside_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed; pip install 'serstream[evaluate]'")
    kept = ROOT / "docs" / "evaluation"
    if not kept.is_dir():
        pytest.skip("no model was evaluated yet: docs/evaluation does not exist")
    shutil.copytree(kept / "results", tmp_path / "evaluation" / "results")
    documents = {tmp_path / "card.md": ROOT / "models" / "README.md", tmp_path / "README.md": ROOT / "README.md"}
    for copy, document in documents.items():
        shutil.copy(document, copy)
    train("report", tmp_path / "evaluation", "--card", *documents)
    assert (tmp_path / "evaluation" / "README.md").read_text() == (kept / "README.md").read_text()
    for copy, document in documents.items():
        assert copy.read_text() == document.read_text()


@pytest.mark.corpus
def test_nearly_every_read_utterance_is_noticed(corpus: Path) -> None:
    """The other side of the noise: a gate that lets nothing pass would hear no false emotion either."""
    read_by = plan.readers([c for c in read_corpora(corpus) if c.corpus == "libri"])
    assert len(read_by) == 65
    found = [do(Bench(MODEL, CONFIG, []), Job("reading", r, "none"))["reading"]["none"] for r in read_by]
    assert sum(f["detected"] for f in found) >= 0.98 * sum(f["utterances"] for f in found)


def test_a_half_is_always_the_same_and_never_the_whole() -> None:
    clips = [Clip(Path(f"{i}.wav"), "savee", "savee-X", "M", "neutral") for i in range(5)]
    assert len(plan.half(clips)) == 2
    assert plan.half(clips) == plan.half(clips)
    assert plan.half(clips[:1]) == []
