"""Scores: streaming equals recomputing to the bit, and a model that does not fit is refused in a sentence."""

import hashlib
import importlib.util
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from recomputed import Recomputed, as_bytes, dictated, listen, random_frames, random_speech, score, speech_in

from serstream.batch import alone
from serstream.classifier import Classifier
from serstream.config import SpeechConfig
from serstream.errors import ModelError
from serstream.events import LABELS
from serstream.features import FrontEnd, mfcc
from serstream.manifest import Manifest, Model, load_model
from serstream.network import Network, interpreter
from serstream.pooling import MovingStatistics, pooling_weights
from serstream.resources import packaged
from serstream.training.corpora import read_corpora
from serstream.training.prepare import read_clip

SHIPPED = packaged("models/serstream")
DEMO = soundfile.read(packaged("demo.flac"), dtype="float32", frames=82_176)[0]
"""So many samples as are 320 frames and the rest of the last."""


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(SHIPPED)


@pytest.fixture(scope="module")
def network(model: Model) -> Network:
    return Network(model)


@pytest.mark.parametrize("of", ["the demo", "random frames"])
def test_streamed_equals_recomputed_from_segment_and_context(model: Model, network: Network, of: str) -> None:
    """With the speech that the streamed run heard: that it is the gate's is for :mod:`test_ear`."""
    m, scratch = model.manifest, Recomputed(model)
    frames = mfcc(DEMO, m.front_end) if of == "the demo" else random_frames(model, 320)
    heard = listen(network, frames, threshold=scratch.threshold(frames))
    streamed, speech = score(network, heard), speech_in(heard)
    ends = range(m.step_frames, 321, m.step_frames)
    recomputed = [scratch.scores(frames[:end], speech[: end // m.stride]) for end in ends]
    assert as_bytes(streamed) == as_bytes(recomputed)
    assert 0 < np.count_nonzero(speech) < speech.size
    assert streamed[0] is None
    assert len({b for b in as_bytes(streamed) if b}) > 5


@pytest.mark.corpus
@pytest.mark.timeout(1_800)
def test_on_recordings_streamed_equals_one_run_over_the_whole(model: Model, network: Network, corpus: Path) -> None:
    """Of every eighth recording, or of all with SERSTREAM_ALL_RECORDINGS=1."""
    every = 1 if os.environ.get("SERSTREAM_ALL_RECORDINGS") else 8
    recomputed, different, n_scores, threshold = Recomputed(model), [], 0, SpeechConfig().threshold
    for clip in read_corpora(corpus)[::every]:
        frames = mfcc(read_clip(clip.path), model.manifest.front_end)
        frames = frames[: len(frames) // model.manifest.stride * model.manifest.stride]
        heard = listen(network, frames, threshold=threshold)
        streamed = as_bytes(score(network, heard))
        if streamed != as_bytes(recomputed.all_scores(frames, speech_in(heard), threshold)):
            different.append(clip.path)
        n_scores += sum(s is not None for s in streamed)
    assert different == []
    assert n_scores > 50_000 / every


def test_an_output_weighs_as_much_as_there_was_speech_in_what_it_saw() -> None:
    speech = np.array([0, 1, 1, 0, *[1, 0, 1, 1, 0, 1, 1]], bool)
    assert pooling_weights(speech, 4).tolist() == [3, 0, 2, 3, 0, 3, 3]
    assert pooling_weights(speech, 1).tolist() == [1, 1, 0, 1, 0, 1, 1, 0, 1, 1]
    assert pooling_weights(speech[:4], 4).tolist() == []


def test_the_trunk_gives_the_same_bytes_wherever_its_window_begins(model: Model) -> None:
    m, scratch = model.manifest, Recomputed(model)
    normalised = scratch.normalised(random_frames(model, 128), random_speech(128 // m.stride))
    whole = scratch.outputs(normalised, 0)
    for shift in range(m.stride, m.step_frames, m.stride):
        for late, all_of_it in zip(scratch.outputs(normalised, shift), whole, strict=True):
            assert late.tobytes() == all_of_it[shift // m.stride :].tobytes()


def test_a_stream_gives_the_same_bytes_whoever_shares_its_call(model: Model) -> None:
    trunk = interpreter(model.content).get_signature_runner("trunk")
    rng, n = np.random.default_rng(0), 5
    tensors = {
        name: rng.integers(-128, 128, (n, *d["shape"][1:]), np.int8) for name, d in trunk.get_input_details().items()
    }
    together = trunk(**tensors)
    assert "gate" in together
    for i in range(n):
        alone = trunk(**{name: x[i : i + 1] for name, x in tensors.items()})
        assert {name: x.tobytes() for name, x in alone.items()} == {
            name: x[i].tobytes() for name, x in together.items()
        }


def test_moved_sums_are_those_of_the_segment_added_up_anew() -> None:
    rng = np.random.default_rng(0)
    outputs, weights = rng.integers(-128, 128, (60, 3), np.int8), rng.integers(0, 65, 60)
    moving, at = MovingStatistics(8, 3), 0
    for n in (4, 4, 1, 3, 8, 4, 0, 2):
        moving.push(outputs[at : at + n], weights[at : at + n])
        at += n
        first = max(0, at - 8)
        x = np.repeat((outputs[first:at] + 5.0) * 0.25, weights[first:at], axis=0)
        np.testing.assert_allclose(moving.pooled((0.25, -5)), [*x.mean(axis=0), *np.sqrt(x.var(axis=0) + 1e-5)])
        assert moving.n_spoken == np.count_nonzero(weights[first:at])


def test_after_a_reset_nothing_is_left_of_before(model: Model, network: Network) -> None:
    used = Classifier(network)
    score(network, dictated(network, random_frames(model, 96, seed=1), np.ones(24, bool)), used)
    used.reset()
    heard = dictated(network, random_frames(model, 160), random_speech(40))
    assert as_bytes(score(network, heard, used)) == as_bytes(score(network, heard))


def test_the_mean_moves_with_the_speech_of_the_stream(model: Model, network: Network) -> None:
    frames = random_frames(model, 320)
    frozen = model.manifest.cepstral_mean(frozen=True)
    moving, still = (score(network, listen(network, frames, mean, threshold=0.0)) for mean in (None, frozen))
    assert as_bytes(moving) != as_bytes(still)


def test_a_profile_is_what_the_stream_is_measured_against(model: Model, network: Network) -> None:
    m, frames, offset = model.manifest, random_frames(model, 96), np.float32(4.0)
    shifted = m.cepstral_mean([x + 4.0 for x in m.ordinary], frozen=True)
    plain = score(network, listen(network, frames, m.cepstral_mean(frozen=True), threshold=0.0))
    again = score(network, listen(network, frames + offset, shifted, threshold=0.0))
    assert plain[-1] is not None
    assert again[-1] is not None
    np.testing.assert_allclose(again[-1].emotion, plain[-1].emotion, atol=0.05)


def test_classifiers_of_one_network_do_not_disturb_each_other(model: Model, network: Network) -> None:
    speech = np.ones(24, bool)
    heard, other = (dictated(network, random_frames(model, 96, seed), speech) for seed in (0, 1))
    first, second, got = Classifier(network), Classifier(network), []
    for step, of_the_other in zip(heard, other, strict=True):
        got.append(alone(network, first.step(step)))
        alone(network, second.step(of_the_other))
    assert as_bytes(got) == as_bytes(score(network, heard))


@pytest.mark.parametrize("n_last", [4, 5, 8, 12, 15])
def test_a_short_last_step_does_not_depend_on_the_frames_that_are_missing(
    model: Model, network: Network, n_last: int
) -> None:
    """It pools what a whole step would, were the rest of that no speech and the segment not yet full."""
    m = model.manifest
    frames, speech = random_frames(model, m.segment_frames), np.ones(m.segment_frames // m.stride, bool)
    end = m.segment_frames - m.step_frames + n_last
    got = score(network, dictated(network, frames[:end], speech[: end // m.stride]))[-1]
    speech[end // m.stride :] = False
    expected = score(network, dictated(network, frames, speech))[-1]
    assert expected is not None
    assert as_bytes([got]) == as_bytes([expected])


def test_too_little_speech_gives_no_scores(model: Model, network: Network) -> None:
    m = model.manifest
    frames, speech = random_frames(model, m.segment_frames), np.zeros(m.segment_frames // m.stride, bool)
    least = m.min_segment_frames // m.stride
    speech[: least - 1] = True
    assert not any(score(network, dictated(network, frames, speech)))
    speech[least - 1] = True
    scores = score(network, dictated(network, frames, speech))
    assert [s is not None for s in scores] == [
        i >= math.ceil(m.min_segment_frames / m.step_frames) - 1 for i in range(m.segment_frames // m.step_frames)
    ]


def test_speech_counts_while_it_is_within_the_segment_and_no_longer(model: Model, network: Network) -> None:
    m = model.manifest
    n = m.segment_frames + 4 * m.step_frames
    speech = np.zeros(n // m.stride, bool)
    speech[: m.min_segment_frames // m.stride] = True
    heard = [s is not None for s in score(network, dictated(network, random_frames(model, n), speech))]
    assert heard.index(True) == math.ceil(m.min_segment_frames / m.step_frames) - 1
    assert len(heard) - 1 - heard[::-1].index(True) == m.segment_frames // m.step_frames - 1


def test_scores_are_probabilities(model: Model, network: Network) -> None:
    for scores in score(network, dictated(network, random_frames(model, 320), np.ones(80, bool)))[4:]:
        assert scores is not None
        assert len(scores.emotion) == len(model.manifest.emotions)
        assert len(scores.voice) == 2
        assert 0.0 < scores.speech < 1.0
        for p in (scores.emotion, scores.voice):
            assert min(p) > 0.0
            assert math.isclose(sum(p), 1.0)


def test_a_higher_temperature_is_less_certain_and_decides_the_same(model: Model) -> None:
    frames, speech = random_frames(model, 96), np.ones(24, bool)
    networks = (
        Network(model._replace(manifest=msgspec.structs.replace(model.manifest, temperature=t))) for t in (1.0, 3.0)
    )
    cool, warm = (score(network, dictated(network, frames, speech))[-1] for network in networks)
    assert cool is not None
    assert warm is not None
    assert max(warm.emotion) < max(cool.emotion)
    assert np.argmax(warm.emotion) == np.argmax(cool.emotion)


def test_what_is_beyond_int8_saturates_and_does_not_wrap(model: Model, network: Network) -> None:
    speech = np.ones(16, bool)
    huge, huger, low = (
        as_bytes(score(network, dictated(network, np.full((64, len(model.manifest.mean)), x, np.float32), speech)))
        for x in (1e5, 1e7, -1e7)
    )
    assert huge == huger
    assert low != huge


def test_the_runtime_does_not_chat_and_standard_error_still_works(
    model: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    Network(model)
    assert capfd.readouterr() == ("", "")
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_the_shipped_model_says_what_it_is(model: Model) -> None:
    m = model.manifest
    assert tuple(m.groups) == LABELS
    assert m.licence == "CC-BY-NC-SA-4.0"
    assert m.corpora
    assert m.front_end == FrontEnd()
    assert hashlib.sha256(model.content).hexdigest() == m.sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("manifest.json", "model.tflite"):
        shutil.copy(SHIPPED / name, tmp_path / name)
    return tmp_path


def change(folder: Path, **fields: Any) -> None:
    """Write fields of the manifest as a person might, without any check."""
    path = folder / "manifest.json"
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | fields))


def replace_network(folder: Path, content: bytes) -> None:
    """Put another network there, and let the manifest name it."""
    (folder / "model.tflite").write_bytes(content)
    change(folder, sha256=hashlib.sha256(content).hexdigest())


def sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("missing", ["manifest.json", "model.tflite"])
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=f"has no readable {missing} .*; name a shipped model or a folder with"):
        load_model(folder)


def test_a_folder_in_place_of_a_file_is_named(folder: Path) -> None:
    (folder / "model.tflite").unlink()
    (folder / "model.tflite").mkdir()
    with pytest.raises(ModelError, match=r"has no readable model\.tflite"):
        load_model(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"name": "x"}', b'{"x":' + b"[" * 100_000])
def test_a_damaged_manifest_is_refused(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(
        ModelError, match=r"manifest\.json is not a manifest of serstream-model/5: .*; export the model"
    ):
        load_model(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema": "serstream-model/4"}, "schema"),
        ({"sha256": 5}, "sha256"),
        ({"stride": 0}, "stride"),
        ({"stride": 3}, "segment_frames, step_frames and evidence_frames must be multiples of stride 3"),
        ({"evidence_frames": 66}, "must be multiples of stride 4"),
        ({"min_segment_frames": 164}, "min_segment_frames is 164; it must be at most segment_frames 160"),
        (
            {"priors": {"bored": 2.0}},
            "priors names bored; allowed are calm, happy, sad, angry, fearful",
        ),
        (
            {"enter_threshold": 0.3, "exit_threshold": 0.4},
            "exit_threshold is 0.4; it must be at most enter_threshold 0.3",
        ),
        ({"temperature": 0.0}, "temperature"),
        ({"prior_frames": 0.0}, "prior_frames"),
        ({"profile_frames": -1.0}, "profile_frames"),
        ({"history_frames": 3751}, "history_frames"),
        ({"history_frames": 0}, "history_frames"),
        ({"mean": [0.0] * 39}, "mean, std and ordinary must each hold n_mfcc 40 numbers"),
        ({"std": [1.0] * 39 + [0.0]}, "std holds 0.0; every number must be above 0"),
        ({"groups": {"calm": ["calm"]}}, "groups must make the labels calm, happy, sad, angry, fearful"),
        ({"emotions": ["calm", "happy", "sad", "angry"]}, "groups must make the labels"),
        ({"groups": {label: ["calm"] for label in LABELS}}, "groups must make the labels"),
        ({"front_end": {"n_fft": 100}}, "n_fft is 100; it must be a power of two"),
        ({"front_end": {"hop": 100}}, "unknown field `hop`"),
        ({"front_end": {"sample_rate": 48_000}}, "sample_rate is 48000; it must be 16000"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder: Path, fields: dict[str, Any], message: str) -> None:
    change(folder, **fields)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    sentence(caught.value)


@pytest.mark.parametrize("name", ["prior_frames", "profile_frames", "history_frames"])
def test_a_manifest_that_does_not_say_how_it_normalises_is_refused(folder: Path, name: str) -> None:
    path = folder / "manifest.json"
    fields = msgspec.json.decode(path.read_bytes())
    del fields[name]
    path.write_bytes(msgspec.json.encode(fields))
    with pytest.raises(ModelError, match=f"missing required field `{name}`"):
        load_model(folder)


def test_unknown_fields_of_a_manifest_are_ignored(folder: Path) -> None:
    change(folder, of_a_later_version=1)
    assert isinstance(load_model(folder).manifest, Manifest)


def test_a_network_of_another_manifest_is_refused(folder: Path) -> None:
    content = bytearray((folder / "model.tflite").read_bytes())
    content[-1] ^= 1
    (folder / "model.tflite").write_bytes(content)
    with pytest.raises(ModelError, match="damaged or of another model: install or export the model again") as caught:
        load_model(folder)
    sentence(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:64], lambda _: b"\0" * 4096, lambda _: b""]
)
def test_a_network_that_the_runtime_refuses_is_refused(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    replace_network(folder, damage((SHIPPED / "model.tflite").read_bytes()))
    with pytest.raises(ModelError, match=r"runtime litert cannot run the model: .*; export the model again") as caught:
        Network(load_model(folder))
    sentence(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context_frames": 100}, "trunk remembers more than context_frames 100; export the model again"),
        ({"step_frames": 32}, "signature trunk .*1, 1, 4, .* needs .*1, 1, 8, .*; export the model again"),
        (
            {"emotions": [*LABELS, "neutral"]},
            r"signature head .*'emotion': \(1, 8\).* needs .*'emotion': \(1, 6\)",
        ),
        (
            {"front_end": {"n_mfcc": 13}, "mean": [0.0] * 13, "std": [1.0] * 13, "ordinary": [0.0] * 13},
            "signature trunk .*16, 40.* needs .*16, 13",
        ),
    ],
)
def test_a_network_of_other_shapes_than_its_manifest_is_refused(
    folder: Path, fields: dict[str, Any], message: str
) -> None:
    change(folder, **fields)
    with pytest.raises(ModelError, match=message) as caught:
        Network(load_model(folder))
    sentence(caught.value)


def test_a_network_that_gives_a_state_back_at_another_scale_is_refused(folder: Path) -> None:
    content = (folder / "model.tflite").read_bytes()
    details = interpreter(content).get_signature_runner("trunk").get_input_details()
    scale = np.float32(details["state_3"]["quantization"][0])
    # every tensor has its scale, and the first of those that share this one is an input
    replace_network(folder, content.replace(scale.tobytes(), (scale * np.float32(1.01)).tobytes(), 1))
    with pytest.raises(ModelError, match=r"signature trunk .* gives state_3 back at another scale than") as caught:
        Network(load_model(folder))
    sentence(caught.value)


def test_a_runtime_that_is_not_installed_is_named_with_its_remedy(model: Model) -> None:
    if importlib.util.find_spec("tflite_runtime"):
        pytest.skip("tflite-runtime is installed here")
    with pytest.raises(ModelError, match=r"runtime tflite is not installed .*pip install 'serstream\[tflite\]'"):
        Network(model, "tflite")
