"""From recordings to a model that the runtime runs: every command as a process, on a network of a few weights."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from training_process import ROOT, train

from serstream.classifier import Classifier, load_model, softmax
from serstream.features import mfcc
from serstream.training.prepare import load_prepared, read_clip

pytestmark = pytest.mark.usefixtures("tensorflow")

TINY = {
    "epochs": 4,
    "crops_per_epoch": 64,
    "batch_size": 16,
    "shape": {"channels": 16, "n_blocks": 1, "hidden": 8},
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
        self.whole, self.resumed = folder / "whole", folder / "resumed"
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
    assert saved["corpus_shares"] == {"ravdess_speech": 0.45}
    assert "not prepared, so left out: crema_d, ravdess_song" in runs.said[0]


def test_the_test_speakers_are_in_neither_the_normalisation_nor_the_training(runs: Runs, cache: Path) -> None:
    from serstream.training.crops import normalisation
    from serstream.training.export import load_run
    from serstream.training.fit import rows_of

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
    Classifier(model)


def float_posterior(network: Any, recipe: Any, m: Any, frames: np.ndarray) -> np.ndarray:
    """Return what the float network says of the segment that ends with the last frame, all of it speech."""
    window = np.zeros((1, recipe.window_frames, frames.shape[1]), np.float32)
    x = ((frames - np.array(m.mean, np.float32)) / np.array(m.std, np.float32))[-recipe.window_frames :]
    window[0, recipe.window_frames - len(x) :] = x
    mask = np.zeros((1, recipe.segment_frames // recipe.shape.stride), np.float32)
    mask[0, -min(len(frames), recipe.segment_frames) // recipe.shape.stride :] = 1.0
    return softmax(np.asarray(network([window, mask])["emotion"], np.float64)[0])


def test_int8_and_float_say_nearly_the_same(runs: Runs, model_folder: Path, ravdess: Path) -> None:
    from serstream.training.export import load_run

    network, recipe = load_run(runs.whole)
    model = load_model(model_folder)
    model = model._replace(manifest=msgspec.structs.replace(model.manifest, temperature=1.0))
    quantised, exact = [], []
    for path in sorted(ravdess.rglob("*.wav"))[::3]:
        frames = mfcc(read_clip(path), model.manifest.front_end)
        frames = frames[: len(frames) // 16 * 16]
        classifier = Classifier(model)
        scores = [classifier.step(frames[i : i + 16], np.ones(16, bool)) for i in range(0, len(frames), 16)]
        assert scores[-1] is not None
        quantised.append(scores[-1].emotion)
        exact.append(float_posterior(network, recipe, model.manifest, frames))
    difference = np.abs(np.array(quantised) - np.array(exact))
    assert difference.max() < 0.1
    assert difference.mean() < 0.02


def test_evaluation_scores_the_speakers_of_a_fold_through_the_runtime(model_folder: Path, ravdess: Path) -> None:
    figures = json.loads(train("evaluate", model_folder, "--data", ravdess, "--fold", "1", "--json").stdout)
    assert figures["speakers"] == ["ravdess-A02", "ravdess-A05"]
    assert figures["clips"] == 10
    assert np.array(figures["confusion"]).sum() == 10
    assert figures["uar"] == pytest.approx(np.mean(list(figures["recall"].values())), abs=1e-3)


def test_a_run_of_another_recipe_is_not_gone_on_with(runs: Runs, cache: Path) -> None:
    before = (runs.whole / "recipe.json").read_bytes()
    refused = train("train", runs.whole, "--fold", "2", "--cache", cache, status=2)
    assert "was begun with another recipe (fold, epochs" in refused.stderr
    assert (runs.whole / "recipe.json").read_bytes() == before


REFUSALS = {
    "prepare --data EMPTY --cache EMPTY/f": (1, "holds neither a manifest.csv nor RAVDESS recordings"),
    "prepare --data RAVDESS --cache EMPTY/f --corpora x": (1, "no labelled clips of x"),
    "prepare --data BROKEN --cache EMPTY/f": (1, "cannot be read"),
    "train EMPTY/run --cache EMPTY": (1, "holds no prepared features"),
    "train EMPTY/run --recipe LIST --cache CACHE": (2, "list.json cannot be used"),
    "train EMPTY/run --recipe UNKNOWN --cache CACHE": (2, "unknown field `epoch`"),
    "export EMPTY/run EMPTY/m --data RAVDESS --cache CACHE": (2, "holds no trained network"),
    "export RUN EMPTY/m --cache CACHE": (2, "export needs --data to calibrate on"),
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
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "03-01-02-01-01-01-01.wav").write_text("no sound")
    (tmp_path / "empty").mkdir()
    places = {
        "EMPTY": tmp_path / "empty",
        "RAVDESS": ravdess,
        "BROKEN": tmp_path / "broken",
        "LIST": tmp_path / "list.json",
        "UNKNOWN": tmp_path / "unknown.json",
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
