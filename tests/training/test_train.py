"""From recordings to a model that the runtime runs: every command as a process, on a network of a few weights."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from recomputed import cut, dictated, score, stepwise
from training_process import ROOT, train

from serstream.analysis import analyze
from serstream.config import Config, DecisionConfig, SpeechConfig
from serstream.ear import log_odds
from serstream.events import LABELS
from serstream.features import mfcc
from serstream.manifest import Manifest, load_model, write_manifest
from serstream.network import Network
from serstream.pooling import pooling_weights
from serstream.posteriors import PosteriorMean, softmax
from serstream.recordings import read_file
from serstream.resources import packaged
from serstream.training.corpora import READ, Clip, read_corpora
from serstream.training.prepare import load_prepared, read_clip

pytestmark = pytest.mark.usefixtures("tensorflow")

TINY = {
    "epochs": 4,
    "crops_per_epoch": 64,
    "batch_size": 16,
    "shape": {"channels": 16, "n_blocks": 1},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def start(run: Path, cache: Path, recipe: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "serstream.training", "train", run, "--cache", cache, "--fold", "1"]
    return subprocess.Popen([*map(str, command), "--recipe", str(recipe)], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


class Runs:
    """A run that was let alone, and the same that was killed after its first epoch and then resumed."""

    def __init__(self, folder: Path, cache: Path, recipe: Path) -> None:
        self.whole, self.resumed, self.cache = folder / "whole", folder / "resumed", cache
        alone, killed = (start(run, cache, recipe) for run in (self.whole, self.resumed))
        assert killed.stderr is not None
        # an epoch is saved before its line is printed
        while '"epoch": 1' not in (line := killed.stderr.readline()):
            assert line, "training ended before its first epoch"
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        self.epochs_before_the_kill = len(log(self.resumed))
        again = start(self.resumed, cache, recipe)
        self.said = [process.communicate(timeout=120)[1] for process in (alone, again)]
        assert (alone.returncode, again.returncode) == (0, 0), self.said


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache: Path, recipe: Path) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), cache, recipe)


@pytest.fixture(scope="module")
def model_folder(runs: Runs, ravdess: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    train("export", runs.whole, folder, "--data", ravdess, "--cache", cache)
    return folder


def weights(run: Path) -> list[np.ndarray]:
    from serstream.training.export import load_run

    return [np.asarray(w) for w in load_run(run)[0].get_weights()]


def test_a_killed_run_goes_on_to_the_same_log_and_the_same_weights(runs: Runs) -> None:
    assert 1 <= runs.epochs_before_the_kill < TINY["epochs"]
    whole, resumed = (
        [{k: v for k, v in entry.items() if k != "seconds"} for entry in log(run)] for run in (runs.whole, runs.resumed)
    )
    assert [e["epoch"] for e in whole] == [1, 2, 3, 4]
    assert whole == resumed
    for a, b in zip(weights(runs.whole), weights(runs.resumed), strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_run_says_what_it_was_trained_on(runs: Runs) -> None:
    saved = json.loads((runs.whole / "recipe.json").read_text())
    assert saved["fold"] == 1
    assert saved["shape"]["channels"] == 16
    assert saved["corpus_shares"] == {"ravdess_speech": 0.4}
    assert "not prepared, so left out: crema_d, esc50, ravdess_song, speechcommands_bg" in runs.said[0]


def test_the_test_speakers_are_in_neither_the_normalisation_nor_the_training(runs: Runs, cache: Path) -> None:
    from serstream.training.export import load_run
    from serstream.training.fit import rows_of
    from serstream.training.scaling import normalisation

    prepared, recipe = load_prepared(cache), load_run(runs.whole)[1]
    parts = ("train", "validation", "test")
    speakers = {part: {prepared.clips[i].speaker for i in rows_of(prepared, recipe, part)} for part in parts}
    assert speakers["test"] == {"ravdess-A02", "ravdess-A05"}
    assert speakers["validation"] == {"ravdess-A03", "ravdess-A06"}
    assert len(speakers["train"]) == 4
    assert not speakers["train"] & (speakers["test"] | speakers["validation"])
    saved = np.load(runs.whole / "normalisation.npz")
    assert np.array_equal(saved["mean"], normalisation(prepared, rows_of(prepared, recipe, "train")).mean)


def test_the_exported_model_is_one_that_the_runtime_runs(model_folder: Path) -> None:
    model = load_model(model_folder)
    assert model.manifest.name == "tiny"
    assert model.manifest.corpora == ["ravdess_speech"]
    assert 0.35 <= model.manifest.enter_threshold <= 0.8
    assert model.manifest.exit_threshold <= model.manifest.enter_threshold
    assert "fold 1, seed 0, 4 epochs" in model.manifest.command
    Network(model)


def window(recipe: Any, normalised: np.ndarray) -> np.ndarray:
    """Return the frames of the window that ends with the last, zeros before the first."""
    x = np.zeros((1, recipe.window_frames, normalised.shape[1]), np.float32)
    end = normalised[-recipe.window_frames :]
    x[0, recipe.window_frames - len(end) :] = end
    return x


def pooled(m: Manifest, speech: np.ndarray) -> np.ndarray:
    """Return the weights of the outputs of the segment that ends with the last."""
    n, n_evidence = m.segment_frames // m.stride, m.evidence_frames // m.stride
    weights = pooling_weights(np.pad(speech, (n_evidence, 0)), n_evidence)[-n:] / n_evidence
    return np.pad(weights, (n - len(weights), 0)).astype(np.float32)


def test_int8_and_float_say_nearly_the_same(runs: Runs, model_folder: Path, ravdess: Path) -> None:
    from serstream.training.export import load_run

    run, recipe = load_run(runs.whole)
    model = load_model(model_folder)
    model = model._replace(manifest=msgspec.structs.replace(model.manifest, temperature=1.0))
    m, network, quantised, exact = model.manifest, Network(model), [], []
    fixed = m.cepstral_mean(frozen=True)
    for path in sorted(ravdess.rglob("*.wav"))[::3]:
        frames = mfcc(read_clip(path), m.front_end)
        frames = frames[: len(frames) // 16 * 16]
        speech = np.ones(len(frames) // 4, bool)
        scores = score(network, dictated(network, frames, speech))[-1]
        assert scores is not None
        quantised.append(scores.emotion)
        out = run([window(recipe, fixed.normalise(frames)), pooled(m, speech)[None]])
        exact.append(softmax(np.asarray(out["emotion"], np.float64)[0]))
    difference = np.abs(np.array(quantised) - np.array(exact))
    assert difference.max() < 0.1
    assert difference.mean() < 0.02


def test_the_gate_says_in_int8_nearly_what_it_says_in_float(runs: Runs, model_folder: Path, ravdess: Path) -> None:
    from serstream.training.export import load_run

    run, recipe = load_run(runs.whole)
    model = load_model(model_folder)
    network, odds, exact = Network(model), [], []
    n = recipe.step_frames // recipe.shape.stride
    for path in sorted(ravdess.rglob("*.wav"))[::3]:
        frames = mfcc(read_clip(path), model.manifest.front_end)
        x, state = (
            model.manifest.cepstral_mean(frozen=True).normalise(frames[: len(frames) // 16 * 16]),
            network.at_rest,
        )
        for step in cut(model.manifest, x):
            _, gate, state = network.trunk(step[None], state)
        odds.append(gate[0])
        out = run([window(recipe, x), np.ones((1, recipe.n_outputs), np.float32)])
        exact.append(np.asarray(out["gate"])[0, -n:, 0])
    spread = np.std(exact)
    assert np.abs(np.array(odds) - np.array(exact)).mean() < 0.2 * spread


def test_evaluation_scores_the_speakers_of_a_fold_through_the_runtime(model_folder: Path, ravdess: Path) -> None:
    figures = json.loads(train("evaluate", model_folder, "--data", ravdess, "--fold", "1", "--json").stdout)
    assert figures["speakers"] == ["ravdess-A02", "ravdess-A05"]
    assert figures["clips"] == 10
    assert np.array(figures["confusion"]).sum() == 10
    assert figures["uar"] == pytest.approx(np.mean(list(figures["recall"].values())), abs=1e-3)


def test_parity_compares_what_the_runtime_says_with_what_the_float_network_says(
    runs: Runs, model_folder: Path, ravdess: Path
) -> None:
    arguments = (model_folder, "--data", ravdess, "--json")
    figures = json.loads(train("parity", runs.whole, *arguments).stdout)
    assert figures["clips"] == 40
    assert figures["uar_int8"] == json.loads(train("evaluate", *arguments).stdout)["uar"]
    assert 0.0 < figures["mean_difference"] < 0.02
    assert figures["mean_difference"] < figures["largest_difference"] < 0.1
    assert figures["equal_decisions"] >= 0.8
    assert abs(figures["uar_float"] - figures["uar_int8"]) <= 1 - figures["equal_decisions"] + 1e-3


def test_the_full_evaluation_compares_the_float_network_on_the_speakers_left_out(
    runs: Runs, model_folder: Path, ravdess: Path, tmp_path: Path
) -> None:
    from serstream.training.evaluation.counts import read

    arguments = ("--full", "--parts", "clips", "--run", runs.whole, "--out", tmp_path / "tiny.json")
    train("evaluate", model_folder, "--data", ravdess, *arguments)
    found = read(tmp_path / "tiny.json")
    parity = found.parity["ravdess_speech"]
    assert np.sum(parity.confusion_float) == np.sum(parity.confusion_int8) == 10
    heard = found.five["ravdess_speech"]["none"].confusion.values()
    assert parity.confusion_int8 == np.sum(list(heard), axis=0).tolist()
    assert 0.0 < parity.mean_difference <= parity.largest_difference < 0.1
    assert parity.equal_decisions >= 8


def test_the_float_network_hears_a_clip_as_the_whole_network_hears_its_segments(
    runs: Runs, model_folder: Path, ravdess: Path
) -> None:
    from serstream.training.export import load_run
    from serstream.training.parity import float_network

    m = msgspec.structs.replace(load_model(model_folder).manifest, temperature=1.0)
    clip = read_corpora(ravdess)[7]
    frames = mfcc(read_clip(clip.path), m.front_end)
    frames = frames[: len(frames) // m.stride * m.stride]
    run, recipe = load_run(runs.whole)
    least, speech, mean = log_odds(SpeechConfig().threshold), np.zeros(0, bool), PosteriorMean()
    for end in [*range(m.step_frames, len(frames), m.step_frames), len(frames)]:
        new = np.zeros(end // m.stride - len(speech), bool)
        # of a step's own speech nothing in it depends
        x = window(recipe, stepwise(m, frames[:end], np.concatenate([speech, new])))
        gate = np.asarray(run([x, np.ones((1, recipe.n_outputs), np.float32)])["gate"])[0, -len(new) :, 0]
        speech = np.concatenate([speech, gate >= least])
        weights = pooled(m, speech)
        if np.count_nonzero(weights) * m.stride >= m.min_segment_frames:
            logits = np.asarray(run([x, weights[None]])["emotion"], np.float64)[0]
            mean.add(softmax(logits), np.count_nonzero(weights))
    expected = mean.result()
    assert expected is not None
    heard = float_network(runs.whole, m).hear(read_clip(clip.path), m.cepstral_mean())
    np.testing.assert_allclose(heard, expected, atol=1e-5)


def test_the_float_network_is_compared_with_int8_through_the_same_mean(
    runs: Runs, model_folder: Path, ravdess: Path
) -> None:
    from serstream.training.parity import compare, float_network

    model, clips = load_model(model_folder), read_corpora(ravdess)[:5]
    network = float_network(runs.whole, model.manifest)
    moving, fixed = (compare(network, model, clips, frozen=frozen) for frozen in (False, True))
    for found in (moving, fixed):
        assert 0.0 < found.mean_difference < 0.02
    assert np.abs(moving.exact - fixed.exact).max() > 1e-4
    assert np.abs(moving.quantised - fixed.quantised).max() > 1e-4


def test_calm_weighs_as_much_as_keeps_read_speech_calm_and_no_more() -> None:
    from serstream.training.calibrate import CALM_WEIGHTS, MOVED_SHARE, fit_priors

    demo, folder = packaged("demo.flac"), packaged("models/serstream")
    clips = [Clip(demo, READ, "reader-1", "", ""), Clip(ROOT / "nothing.flac", READ, "reader-2", "", "")]

    def moved(weight: float) -> float:
        config = Config(decision=DecisionConfig(priors={"calm": weight}))
        steps = analyze(read_file(demo), load_model(folder), config).analysis.steps
        spoken = sum(s.speech for s in steps if s.state in LABELS and s.state != "calm")
        return spoken / sum(s.speech for s in steps)

    least = next((w for w in CALM_WEIGHTS if moved(w) <= MOVED_SHARE), CALM_WEIGHTS[-1])
    assert fit_priors(folder, clips) == {"calm": least}
    assert least > 1.0
    assert fit_priors(folder, []) == {}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_level_enters_the_trunk_by_its_changes_alone() -> None:
    from serstream.training.network import LevelBlind, build_trunk
    from serstream.training.recipe import NetworkShape

    trunk = build_trunk(NetworkShape(channels=8, n_blocks=1), None, 4)
    first = trunk.weights[0]
    first.assign(LevelBlind()(first))
    frames = np.random.default_rng(0).normal(size=(1, 80, 4)).astype(np.float32)
    louder, brighter = frames + np.array([3, 0, 0, 0], np.float32), frames + np.array([0, 3, 0, 0], np.float32)
    for output in ("activations", "gate"):
        plain = np.asarray(trunk(frames)[output])
        np.testing.assert_allclose(trunk(louder)[output], plain, atol=1e-5)
        assert np.abs(trunk(brighter)[output] - plain).max() > 0.01


def test_a_model_can_take_over_its_own_calibration(runs: Runs, model_folder: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    (folder / "notes.txt").write_text("kept")
    before = msgspec.structs.replace(load_model(folder).manifest, temperature=1.7, enter_threshold=0.61)
    write_manifest(folder, before)
    train("export", runs.whole, folder, "--calibration", folder, "--cache", cache)
    after = load_model(folder).manifest
    from serstream.training.calibrate import CALIBRATED  # TensorFlow is not to be imported by tests that skip

    for field in CALIBRATED:
        assert getattr(after, field) == getattr(before, field), field
    assert sorted(contents(folder)) == ["manifest.json", "model.tflite", "notes.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_export_that_fails_changes_nothing(runs: Runs, model_folder: Path, ravdess: Path, tmp_path: Path) -> None:
    """Whether the fault shows before the network is converted, or while the clips are heard."""
    folder, broken = tmp_path / "m", tmp_path / "broken"
    shutil.copytree(model_folder, folder)
    shutil.copytree(ravdess, broken)
    for path in broken.glob("Actor_0[36]/*"):
        path.write_text("no sound")
    before = contents(folder)
    export = ("export", runs.whole, "--cache", runs.cache)
    assert "is not audio that can be read" in train(*export, folder, "--data", broken, status=1).stderr
    new = tmp_path / "new"
    assert "no readable manifest.json" in train(*export, new, "--calibration", new, status=1).stderr
    assert contents(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "m"]


def test_a_reader_that_goes_away_leaves_no_traceback(model_folder: Path, ravdess: Path) -> None:
    command = [sys.executable, "-m", "serstream.training", "evaluate", str(model_folder), "--data", str(ravdess)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 0


def test_an_interrupted_training_says_so_in_a_line_and_keeps_its_checkpoint(
    cache: Path, recipe: Path, tmp_path: Path
) -> None:
    process = start(tmp_path / "run", cache, recipe)
    assert process.stderr is not None
    while '"epoch": 1' not in (line := process.stderr.readline()):
        assert line, "training ended before its first epoch"
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert [line for line in said.splitlines() if not line.startswith("{")] == [
        "serstream.training: interrupted; `train` goes on from its last whole epoch"
    ]
    assert weights(tmp_path / "run")


OWN = {**TINY, "epochs": 1, "corpus_shares": {"mine": 1.0}}


@pytest.fixture(scope="module")
def own(ravdess: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of one's own: six women and two men, by a manifest; beside it one that nobody asks for."""
    folder = tmp_path_factory.mktemp("own")
    rows = ["path,corpus,speaker,sex,emotion"]
    for clip in read_corpora(ravdess):
        sex = "M" if clip.speaker in {"ravdess-A11", "ravdess-A17"} else "F"
        rows.append(f"{clip.path},mine,{clip.speaker.replace('ravdess', 'mine')},{sex},{clip.emotion}")
    rows.append(f"{clip.path},other,other-1,F,sad")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    (folder / "recipe.json").write_text(json.dumps(OWN))
    options = ("--corpora", "mine,other", "--variants", "1", "--jobs", "2")
    train("prepare", "--data", folder, *options, "--cache", folder / "features")
    return folder


def test_a_corpus_of_ones_own_is_trained_on_and_scored(own: Path, tmp_path: Path) -> None:
    cache, run, model = own / "features", tmp_path / "run", tmp_path / "model"
    said = train("train", run, "--fold", "1", "--recipe", own / "recipe.json", "--cache", cache).stderr
    assert "prepared, but not in corpus_shares, so left out: other" in said
    assert "validation_uar" in log(run)[0]
    train("export", run, model, "--data", own, "--cache", cache)
    assert load_model(model).manifest.corpora == ["mine"]
    figures = json.loads(train("evaluate", model, "--data", own, "--corpus", "mine", "--fold", "1", "--json").stdout)
    assert figures["speakers"] == ["mine-A01", "mine-A10", "mine-A11"]


def test_a_share_without_training_speakers_is_refused_in_a_sentence(own: Path, tmp_path: Path) -> None:
    cache, recipe = own / "features", tmp_path / "both.json"
    recipe.write_text(json.dumps({**OWN, "corpus_shares": {"mine": 0.5, "other": 0.5}}))
    refused = train("train", tmp_path / "run", "--fold", "1", "--recipe", recipe, "--cache", cache, status=2)
    assert "no clip of other by a training speaker of fold 1" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_recipe_is_not_gone_on_with(runs: Runs, cache: Path) -> None:
    before = (runs.whole / "recipe.json").read_bytes()
    refused = train("train", runs.whole, "--fold", "2", "--cache", cache, status=2)
    assert "was begun with another recipe (fold, epochs" in refused.stderr
    assert (runs.whole / "recipe.json").read_bytes() == before


REFUSALS = {
    "prepare --data EMPTY --cache EMPTY/f": (1, "holds neither a manifest.csv nor RAVDESS recordings"),
    "prepare --data RAVDESS --cache EMPTY/f --corpora x": (1, "no labelled clips of x"),
    "prepare --data BROKEN --cache EMPTY/f": (1, "is not audio that can be read"),
    "train EMPTY/run --cache EMPTY": (1, "holds no prepared features"),
    "train EMPTY/run --recipe LIST --cache CACHE": (2, "list.json cannot be used"),
    "train EMPTY/run --recipe UNKNOWN --cache CACHE": (2, "unknown field `epoch`"),
    "export EMPTY/run EMPTY/m --data RAVDESS --cache CACHE": (2, "holds no trained network"),
    "train EMPTY/run --recipe NEGATIVE --cache CACHE": (2, "negative.json cannot be used"),
    "export RUN EMPTY/m --cache CACHE": (2, "export needs --data to calibrate on"),
    "parity RUN SHIPPED --data RAVDESS": (1, "was not exported from"),
    "parity EMPTY/run MODEL --data RAVDESS": (2, "holds no trained network"),
    "evaluate EMPTY --data RAVDESS": (1, "has no readable manifest.json"),
    "evaluate MODEL --data RAVDESS --corpus savee": (1, "holds no clips of savee"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_done_is_said_in_a_sentence(
    case: str,
    runs: Runs,
    model_folder: Path,
    ravdess: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from serstream.training.__main__ import main

    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "unknown.json").write_text('{"epoch": 3}')
    (tmp_path / "negative.json").write_text('{"corpus_shares": {"ravdess_speech": -1}}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "03-01-02-01-01-01-01.wav").write_text("no sound")
    (tmp_path / "empty").mkdir()
    places = {
        "EMPTY": tmp_path / "empty",
        "RAVDESS": ravdess,
        "BROKEN": tmp_path / "broken",
        "LIST": tmp_path / "list.json",
        "UNKNOWN": tmp_path / "unknown.json",
        "NEGATIVE": tmp_path / "negative.json",
        "SHIPPED": packaged("models/serstream"),
        "CACHE": cache,
        "RUN": runs.whole,
        "MODEL": model_folder,
    }
    status, says = REFUSALS[case]
    parts = [argument.partition("/") for argument in case.split()]
    words = [str(places[first] / rest) if first in places else first for first, _, rest in parts]
    monkeypatch.setattr(sys, "argv", ["serstream.training", *words])
    assert main() == status
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said
