"""The paper's models rung by rung: what is in each rung, the seed's features and networks, and the whole command."""

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from scipy.fft import dct
from training_process import train

from serstream.errors import SerstreamError
from serstream.events import LABELS
from serstream.training.corpora import RAVDESS_FOLDS, Clip, read_corpora
from serstream.training.reproduction.rungs import CLASSES, N_COPIES, RUNGS, Split, splits

NEEDED = ("tensorflow", "keras", "librosa", "matplotlib", "opensmile", "sklearn")


@pytest.fixture(scope="session")
def libraries() -> None:
    """What needs the extras is skipped without them."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed; pip install 'serstream[train,reproduce]'")


def paper_like() -> list[Clip]:
    """As many clips as the paper's corpora have."""
    clips = []
    for actor in range(1, 25):
        for emotion in LABELS:
            for i in range(8):
                path = Path(f"ravdess/{actor}-{emotion}-{i}.flac")
                clips.append(Clip(path, "ravdess_speech", f"ravdess-A{actor:02d}", "FM"[actor % 2], emotion))
    for speaker in ("DC", "JE", "JK", "KL"):
        for emotion in LABELS[1:]:
            paths = (Path(f"savee/{speaker}-{emotion}-{i}.ogg") for i in range(15))
            clips += [Clip(path, "savee", f"savee-{speaker}", "M", emotion) for path in paths]
    return clips


CLIPS = paper_like()


def by_name(clips: list[Clip], seed: int = 0) -> dict[str, Split]:
    return {split.name: split for split in splits(clips, seed=seed)}


def speakers(rows: np.ndarray) -> set[str]:
    return {CLIPS[i].speaker for i in rows}


def test_as_published_every_savee_file_stands_three_times_and_its_copies_are_on_both_sides() -> None:
    split = by_name(CLIPS)["published"]
    times = Counter([*split.train.tolist(), *split.test.tolist()])
    assert {CLIPS[i].corpus: n for i, n in times.items()} == {"ravdess_speech": 1, "savee": N_COPIES}
    assert all(n == (N_COPIES if CLIPS[i].corpus == "savee" else 1) for i, n in times.items())
    crossing = set(split.train.tolist()) & set(split.test.tolist())
    assert {CLIPS[i].corpus for i in crossing} == {"savee"}
    assert len(crossing) > 60
    assert len(split.test) == sum(times.values()) // 5


@pytest.mark.parametrize("name", ["no_copies", "separate_test", "speaker_independent_2", "speaker_independent_3"])
def test_below_the_first_rung_every_file_stands_once_and_no_copy_crosses(name: str) -> None:
    split = by_name(CLIPS)[name]
    parts = [split.train, split.test] + ([split.validation] if name != "no_copies" else [])
    rows = np.concatenate(parts)
    assert len(rows) == len(set(rows.tolist())) == len(CLIPS) - 200


def test_the_test_clips_choose_the_epoch_on_the_first_two_rungs_alone() -> None:
    for split in splits(CLIPS, seed=0):
        same = np.array_equal(split.validation, split.test)
        assert same == (split.rung in ("published", "no_copies")), split.name
        assert same or not set(split.validation.tolist()) & set(split.test.tolist())


def test_the_second_and_third_rung_test_on_the_same_clips() -> None:
    found = by_name(CLIPS)
    assert np.array_equal(found["no_copies"].test, found["separate_test"].test)
    assert len(found["separate_test"].train) < len(found["no_copies"].train)


def test_speakers_are_disjoint_on_the_last_rung_and_on_no_other() -> None:
    for split in splits(CLIPS, seed=0):
        shared = speakers(split.train) & speakers(split.test)
        assert bool(shared) == (split.rung != "speaker_independent"), split.name
    for fold, following in ((2, 3), (3, 4)):
        split = by_name(CLIPS)[f"speaker_independent_{fold}"]
        actors = {f"ravdess-A{a:02d}" for a in RAVDESS_FOLDS[fold - 1]}
        assert {s for s in speakers(split.test) if s.startswith("ravdess")} == actors
        assert {s for s in speakers(split.validation) if s.startswith("ravdess")} == {
            f"ravdess-A{a:02d}" for a in RAVDESS_FOLDS[following - 1][:3]
        }
        assert [len({s for s in speakers(p) if s.startswith("savee")}) for p in (split.test, split.validation)] == [
            1,
            1,
        ]
        assert not speakers(split.validation) & (speakers(split.train) | speakers(split.test))


def test_the_actors_of_fold_1_are_the_yardstick_and_in_no_rung() -> None:
    held_out = {f"ravdess-A{a:02d}" for a in RAVDESS_FOLDS[0]}
    for split in splits(CLIPS, seed=0):
        assert speakers(split.yardstick) == held_out
        assert len(split.yardstick) == 200
        assert not held_out & speakers(np.concatenate([split.train, split.validation, split.test]))


def test_a_division_depends_on_its_seed_alone() -> None:
    for a, b, c in zip(splits(CLIPS, seed=0), splits(CLIPS, seed=0), splits(CLIPS, seed=1), strict=True):
        assert np.array_equal(a.train, b.train)
        assert np.array_equal(a.train, c.train) == (a.rung == "speaker_independent")


def test_too_few_speakers_are_refused_in_a_sentence() -> None:
    few = [c for c in CLIPS if c.speaker not in {"ravdess-A06", "ravdess-A18"}]
    with pytest.raises(SerstreamError, match="the test clips of the rung 'speaker-independent' hold no female voice"):
        splits(few, seed=0)


def seed_mfcc_by_numpy(samples: np.ndarray) -> np.ndarray:
    """Return (216, 13) by the definition of librosa's defaults, without librosa."""
    y = np.pad(soxr.resample(samples[8_000:48_000], 16_000, 44_100, "HQ").astype(np.float64), 1024)
    frames = np.lib.stride_tricks.sliding_window_view(y, 2048)[::512]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    # Slaney's mel scale: linear to 1 kHz, logarithmic above
    top = 15 + np.log(22.05) / (np.log(6.4) / 27)
    mels = np.linspace(0, top, 130)
    hz = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    bins = np.arange(1025) * 44_100 / 2048
    rise, fall = (bins - hz[:-2, None]) / np.diff(hz)[:-1, None], (hz[2:, None] - bins) / np.diff(hz)[1:, None]
    bank = np.maximum(0, np.minimum(rise, fall)) * (2 / (hz[2:] - hz[:-2]))[:, None]
    decibels = 10 * np.log10(np.maximum(1e-10, power @ bank.T))
    decibels = np.maximum(decibels, decibels.max() - 80)
    return np.asarray(dct(decibels, type=2, norm="ortho", axis=1)[:, :13])


def clip_of_seconds(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    t = np.arange(int(seconds * 16_000)) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.05 * rng.standard_normal(t.size)
    return np.asarray(tone, np.float32)


@pytest.mark.usefixtures("libraries")
def test_the_seeds_feature_is_216_numbers_that_numpy_finds_too() -> None:
    from serstream.training.reproduction.features import seed_feature, seed_matrix

    matrix = seed_matrix(clip_of_seconds(3.5))
    expected = seed_mfcc_by_numpy(clip_of_seconds(3.5))
    assert matrix.shape == expected.shape == (216, 13)
    np.testing.assert_allclose(matrix, expected, atol=0.02)
    assert seed_feature(matrix).shape == (216,)
    np.testing.assert_allclose(seed_feature(matrix), expected.mean(axis=1), atol=0.01)


@pytest.mark.usefixtures("libraries")
def test_what_a_short_clip_lacks_is_zero() -> None:
    from serstream.training.reproduction.features import seed_matrix

    matrix = seed_matrix(clip_of_seconds(1.5))
    n_frames = 1 + 44_100 // 512
    assert np.all(np.any(matrix[:n_frames] != 0, axis=1))
    assert not matrix[n_frames:].any()
    assert not seed_matrix(clip_of_seconds(0.4)).any()


@pytest.mark.usefixtures("libraries")
def test_the_functionals_know_the_pitch_of_a_voice() -> None:
    from serstream.training.reproduction.features import N_FUNCTIONALS, egemaps

    t = np.arange(32_000) / 16_000
    voiced = sum(np.sin(2 * np.pi * 200 * k * t) / k for k in range(1, 20))
    found = egemaps(np.asarray(0.1 * voiced, np.float32))
    assert found.shape == (N_FUNCTIONALS,)
    assert np.isfinite(found).all()
    assert found[0] == pytest.approx(12 * np.log2(200 / 27.5), abs=0.2)


@pytest.mark.usefixtures("libraries")
def test_the_cnn_is_the_seeds() -> None:
    import keras

    from serstream.training.reproduction.networks import build

    network = build("cnn", (216,), len(CLASSES))
    assert (len(network.layers), network.count_params()) == (18, 445_578)
    assert build("cnn", (216, 13), 10).count_params() == 445_578 + 12 * 5 * 128
    assert isinstance(network.optimizer, keras.optimizers.RMSprop)
    rate = network.optimizer._learning_rate
    assert float(rate(0)) == pytest.approx(1e-5)
    assert float(rate(500_000)) == pytest.approx(1e-5 / (1 + 1e-6 * 500_000))


@pytest.mark.usefixtures("libraries")
def test_the_other_two_have_the_papers_layers_activations_and_optimisers() -> None:
    from serstream.training.reproduction.networks import build

    said = {"mlp": (8, "Adam", {"relu", "sigmoid", "softmax"}), "lstm": (5, "SGD", {"tanh", "softmax"})}
    for model, (n_layers, optimizer, activations) in said.items():
        network = build(model, (216,), len(CLASSES))
        found = {layer.activation.__name__ for layer in network.layers if hasattr(layer, "activation")} - {"linear"}
        found |= {type(layer).__name__.lower() for layer in network.layers} & {"relu", "softmax"}
        assert (len(network.layers), type(network.optimizer).__name__, found) == (n_layers, optimizer, activations)


def learnable(n: int, rng: np.random.Generator) -> Any:
    from serstream.training.reproduction.outcome import Rows

    y = rng.integers(3, size=n)
    return Rows(np.asarray(np.eye(3)[y] * 4 + rng.normal(size=(n, 3)), np.float32), y)


@pytest.mark.usefixtures("libraries")
def test_a_fit_learns_repeats_itself_and_keeps_its_best_and_last_epoch() -> None:
    from serstream.training.reproduction.networks import fit
    from serstream.training.reproduction.outcome import Parts

    rng = np.random.default_rng(0)
    parts = Parts(*(learnable(n, rng) for n in (300, 60, 80, 40)))
    first, second = (fit("mlp", parts, n_classes=3, epochs=8, seed=5) for _ in range(2))
    assert first.curves == second.curves
    assert len(first.curves["loss"]) == len(first.curves["val_loss"]) == 8
    assert first.chosen == 1 + int(np.argmax(first.curves["val_accuracy"]))
    for y, predicted in ((parts.test.y, first.test_last), (parts.yardstick.y, first.yardstick_last)):
        assert np.mean(y == predicted) > 0.9


@pytest.mark.usefixtures("libraries")
def test_the_baselines_cost_is_chosen_by_the_validation_clips() -> None:
    from sklearn.svm import SVC

    from serstream.training.reproduction.outcome import Parts
    from serstream.training.reproduction.svm import COSTS, fit

    rng = np.random.default_rng(1)
    parts = Parts(*(learnable(n, rng) for n in (40, 60, 80, 40))).scaled()
    np.testing.assert_allclose(parts.train.x.mean(axis=0), 0, atol=1e-6)
    scores = [SVC(kernel="linear", C=c).fit(*parts.train).score(*parts.validation) for c in COSTS]
    outcome = fit(parts)
    assert outcome.chosen == COSTS[int(np.argmax(scores))]
    assert np.array_equal(outcome.test, SVC(kernel="linear", C=outcome.chosen).fit(*parts.train).predict(parts.test.x))
    assert np.array_equal(outcome.test_last, SVC(kernel="linear", C=1.0).fit(*parts.train).predict(parts.test.x))


@pytest.mark.usefixtures("libraries")
def test_the_paired_bootstrap_finds_what_is_known() -> None:
    from serstream.training.reproduction.voices import paired_bootstrap

    right, wrong = np.ones(50, bool), np.zeros(50, bool)
    assert paired_bootstrap(right, wrong) == (1.0, 1.0, 1.0)
    assert paired_bootstrap(right, right) == (0.0, 0.0, 0.0)
    rng = np.random.default_rng(0)
    a, b = rng.random(2000) < 0.6, rng.random(2000) < 0.5
    difference = a.astype(float) - b
    half = 1.96 * difference.std() / np.sqrt(difference.size)
    found = paired_bootstrap(a, b)
    assert found == pytest.approx((difference.mean(), difference.mean() - half, difference.mean() + half), abs=0.003)


@pytest.mark.usefixtures("libraries")
def test_figures_are_what_their_names_say() -> None:
    from serstream.training.reproduction.figures import accuracy, collapsed, majority, uar

    actual, predicted = np.array([0, 0, 0, 0, 7, 7]), np.array([0, 0, 0, 5, 2, 3])
    assert accuracy(actual, predicted) == pytest.approx(3 / 6)
    assert uar(actual, predicted) == pytest.approx((3 / 4 + 0) / 2)
    assert accuracy(collapsed(actual), collapsed(predicted)) == pytest.approx(5 / 6)
    assert majority(np.array([7, 7, 0]), actual) == pytest.approx(2 / 6)
    assert accuracy(actual[:0], predicted[:0]) is None


@pytest.fixture(scope="module")
def small(ravdess: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of RAVDESS's and SAVEE's names over stretches of the demo."""
    folder = tmp_path_factory.mktemp("paper")
    sounds = [clip.path for clip in read_corpora(ravdess)]
    names = [(f"ravdess-A{a:02d}", "ravdess_speech", "FM"[a % 2]) for a in (1, 2, 3, 4, 5, 6, 8, 10, 11, 17)]
    names += [(f"savee-{s}", "savee", "M") for s in ("DC", "JE", "JK", "KL")]
    people = [(*name, emotion) for name in names for emotion in LABELS if (name[1], emotion) != ("savee", "calm")]
    rows = ["path,corpus,speaker,sex,emotion"]
    for i, (speaker, corpus, sex, emotion) in enumerate(people):
        rows.append(f"{sounds[i % len(sounds)]},{corpus},{speaker},{sex},{emotion}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def reproduce(data: Path, folder: Path, *more: str) -> tuple[dict[str, Any], str, str]:
    """Run a quick reproduction; return its results, its Markdown and what it said."""
    places = ("--data", data, "--out", folder / "report", "--work", folder / "work")
    done = train("reproduce", *places, "--quick", "--jobs", "2", *more, timeout_s=300)
    text = (folder / "report" / "README.md").read_text()
    assert done.stdout == text
    return json.loads((folder / "report" / "results.json").read_text()), text, done.stderr


def check_report(results: dict[str, Any], text: str, folder: Path) -> None:
    assert results["runs"]["missing"] == []
    assert {row["rung"] for row in results["ladder"]} == set(RUNGS)
    for row in results["ladder"]:
        assert 0 <= row["accuracy"] <= 1
        assert (row["accuracy_with_copy"] is None) == (row["rung"] != "published")
    assert [row["model"] for row in results["voices"]] == ["cnn", "svm"]
    assert "| CNN | 70 |" in text
    for file in results["pictures"]:
        assert (folder / file).read_bytes().startswith(b"\x89PNG")
        assert f"]({file})" in text
    assert {"figure1_mlp.png", "figure2_lstm.png", "figure3_cnn.png", "predicted_published.png"} < set(
        results["pictures"]
    )
    assert {p.name for p in folder.iterdir()} == {*results["pictures"], "README.md", "results.json"}


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("libraries")
def test_a_reproduction_reports_on_every_rung_and_goes_on_with_what_is_missing(small: Path, tmp_path: Path) -> None:
    results, text, _ = reproduce(small, tmp_path)
    check_report(results, text, tmp_path / "report")
    lost = [tmp_path / "work" / "quick" / f"{name}-ten.json" for name in ("cnn-no_copies", "mlp-separate_test")]
    for path in lost:
        path.unlink()
    ours = tmp_path / "ours.json"
    ours.write_text(json.dumps({"corpus": "ravdess_speech", "fold": 1, "accuracy": 0.74, "uar": 0.735}))
    again, text, said = reproduce(small, tmp_path, "--only", "no_copies", "--ours", str(ours))
    progress = [line for line in said.splitlines() if re.match(r"\d+ of \d+", line)]
    assert progress[0] == "3 of 4 fits are there already"
    assert re.fullmatch(r"1 of 1: cnn-no_copies-ten, 3 epochs, \d+ s", progress[1])
    assert again["runs"]["missing"] == ["mlp-separate_test-ten"]
    assert "Missing: mlp-separate_test-ten." in text
    assert "| 74.0 | 73.5 |" in text
    whole = {(row["model"], row["rung"]): row for row in results["ladder"]}
    for row in again["ladder"]:
        assert row == whole[row["model"], row["rung"]]


@pytest.mark.corpus
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("libraries")
def test_a_quick_reproduction_runs_on_the_papers_corpora(corpus: Path, tmp_path: Path) -> None:
    results, text, _ = reproduce(corpus, tmp_path)
    check_report(results, text, tmp_path / "report")
    assert results["clips"] == {"ravdess_speech": 240, "savee": 32}
    baseline = {row["rung"]: row for row in results["ladder"] if row["model"] == "svm"}
    assert baseline["published"]["accuracy_with_copy"] > baseline["published"]["accuracy_without_copy"]
    assert baseline["speaker_independent"]["accuracy"] > 2 * baseline["speaker_independent"]["majority"]
    stems = {clip.path.stem for clip in read_corpora(corpus) if clip.corpus in ("ravdess_speech", "savee")}
    assert not [stem for stem in stems if stem in text or stem in json.dumps(results)]


REFUSALS = {
    "--data RAVDESS": (1, "holds no clips of savee"),
    "--data SMALL --only honest": (2, "'honest' is no rung"),
    "--data SMALL --ours MANIFEST": (2, "manifest.csv cannot be used"),
    "--data SMALL --ours OTHER": (2, "scores fold 2 of ravdess_speech"),
}


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_reproduced_is_said_in_a_sentence(
    case: str,
    small: Path,
    ravdess: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from serstream.training.__main__ import main

    other = tmp_path / "other.json"
    other.write_text(json.dumps({"corpus": "ravdess_speech", "fold": 2, "accuracy": 0.7, "uar": 0.7}))
    places = {"RAVDESS": ravdess, "SMALL": small, "MANIFEST": small / "manifest.csv", "OTHER": other}
    words = [str(places.get(word, word)) for word in case.split()]
    outputs = ["--out", str(tmp_path / "report"), "--work", str(tmp_path / "work")]
    monkeypatch.setattr("sys.argv", ["serstream.training", "reproduce", *words, *outputs])
    status, says = REFUSALS[case]
    assert main() == status
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said
    assert not (tmp_path / "report").exists()
