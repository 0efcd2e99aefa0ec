"""The trunk a step at a time: the same values as the trunk over the whole signal, for a small part of the work."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from recomputed import Recomputed, as_bytes, cut, listen, random_frames, score, speech_in

from serstream.batch import alone
from serstream.ear import Ear
from serstream.manifest import MODEL_SCHEMA, Manifest, Model
from serstream.network import Network, interpreter
from serstream.resources import packaged
from serstream.training.recipe import NetworkShape, Recipe

pytestmark = [
    pytest.mark.usefixtures("tensorflow"),
    # of TensorFlow, by which its own converter calibrates
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning"),
]

RECIPE = Recipe(shape=NetworkShape(channels=16, n_blocks=2))
N_MFCC = 40


@pytest.fixture(scope="module")
def network(tensorflow: None) -> Any:
    """A whole network that learned nothing: random weights, of such sizes that no value dies out on the way."""
    from serstream.training.network import build

    network, rng = build(RECIPE, N_MFCC, 8), np.random.default_rng(0)
    for v in network.variables:
        spread = rng.normal(size=v.shape) / np.sqrt(np.prod(v.shape[:-1]))
        v.assign(spread if len(v.shape) > 1 else rng.uniform(0.5, 1.5, v.shape))
    return network


@pytest.fixture(scope="module")
def content(network: Any) -> bytes:
    from serstream.training.export import quantise

    rng = np.random.default_rng(1)
    frames = rng.normal(size=(64, RECIPE.window_frames, N_MFCC)).astype(np.float32)
    return quantise(network, RECIPE, [(frames, np.ones((64, RECIPE.segment_frames // 4), np.float32))])


@pytest.fixture(scope="module")
def model(content: bytes) -> Model:
    shipped = msgspec.json.decode((packaged("models/serstream") / "manifest.json").read_bytes())
    own = {
        "schema": MODEL_SCHEMA,
        "sha256": hashlib.sha256(content).hexdigest(),
        "context_frames": RECIPE.shape.receptive_field_frames - RECIPE.shape.stride,
    }
    return Model(msgspec.convert(shipped | own, Manifest), content, Path())


def test_in_float_the_steps_give_what_the_trunk_gives_of_the_whole_signal(network: Any) -> None:
    from serstream.training.network import build_stream, build_trunk, set_stream_weights

    step, context = RECIPE.step_frames, RECIPE.shape.receptive_field_frames - RECIPE.shape.stride
    trunk = build_trunk(RECIPE.shape, None, N_MFCC)
    trunk.set_weights(network.get_layer("trunk").get_weights())
    stream = build_stream(RECIPE.shape, step, N_MFCC)
    set_stream_weights(stream, trunk)
    n = 30 * step
    x = np.random.default_rng(2).normal(size=(3, n, N_MFCC)).astype(np.float32)
    tensors = {name: np.zeros((3, *t.shape[1:]), np.float32) for name, t in stream.input.items()}
    names = ("activations", "gate")
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for first in range(0, n, step):
        tensors["frames"] = x[:, None, first : first + step]
        tensors = {name: np.asarray(t) for name, t in stream(tensors).items()}
        for name in names:
            outputs[name].append(tensors.pop(name)[:, 0])
    # so that an output of both ends with the same frame
    whole = trunk(x[:, -context % 4 :])
    for name, channels in zip(names, (RECIPE.shape.channels, 1), strict=True):
        streamed, expected = np.concatenate(outputs[name], axis=1), np.asarray(whole[name])
        assert expected.shape == (3, (n - context) // 4, channels)
        np.testing.assert_allclose(streamed[:, -expected.shape[1] :], expected, atol=1e-4)
        assert expected.std() > 0.01


def test_a_state_comes_back_at_the_scale_at_which_it_goes_in(content: bytes) -> None:
    trunk = interpreter(content).get_signature_runner("trunk")
    before, after = trunk.get_input_details(), trunk.get_output_details()
    states = [name for name in before if name != "frames"]
    assert sorted(states) == [f"state_{i}" for i in range(RECIPE.shape.n_blocks + 2)]
    for name in states:
        assert before[name]["quantization"] == after[name]["quantization"]
    assert before["frames"]["quantization"] == before["state_0"]["quantization"]


def test_steps_give_the_bytes_of_one_run_over_the_whole_signal(content: bytes) -> None:
    network = interpreter(content)
    trunk = network.get_signature_runner("trunk")
    rng, n, step = np.random.default_rng(3), 40 * RECIPE.step_frames, RECIPE.step_frames
    frames = rng.integers(-128, 128, (2, 1, n, N_MFCC), np.int8)
    details = trunk.get_input_details()
    begin = {k: np.zeros((2, *d["shape"][1:]), np.int8) for k, d in details.items() if k != "frames"}
    whole = trunk(frames=frames, **begin)
    state, outputs, gates = begin, [], []
    for first in range(0, n, step):
        state = trunk(frames=frames[:, :, first : first + step], **state)
        outputs.append(state.pop("activations"))
        gates.append(state.pop("gate"))
    assert np.concatenate(outputs, axis=2).tobytes() == whole.pop("activations").tobytes()
    assert np.concatenate(gates, axis=2).tobytes() == whole.pop("gate").tobytes()
    assert {k: x.tobytes() for k, x in state.items()} == {k: x.tobytes() for k, x in whole.items()}
    assert len(np.unique(outputs)) > 50
    assert len(np.unique(gates)) > 50


def test_streamed_equals_recomputed_from_segment_and_context(model: Model) -> None:
    m, frames, scratch, network = model.manifest, random_frames(model, 320), Recomputed(model), Network(model)
    threshold = scratch.threshold(frames)
    heard = listen(network, frames, threshold=threshold)
    speech, ends = speech_in(heard), range(m.step_frames, 321, m.step_frames)
    assert np.array_equal(scratch.speech(scratch.normalised(frames, speech), threshold), speech)
    assert 0 < np.count_nonzero(speech) < speech.size
    streamed = as_bytes(score(network, heard))
    assert streamed == as_bytes([scratch.scores(frames[:end], speech[: end // m.stride]) for end in ends])
    assert len(set(streamed)) > 10


def test_a_hole_takes_the_state_back_to_that_of_a_stream_that_begins(model: Model) -> None:
    network, frames = Network(model), random_frames(model, 160)
    used = Ear(network, model.manifest.cepstral_mean(frozen=True), threshold=0.5)

    def heard() -> list[bytes]:
        return [alone(network, used.step(step)).values.tobytes() for step in cut(model.manifest, frames)]

    first, on = heard(), heard()
    used.reset()
    assert heard() == first
    assert on != first


def multiply_accumulates(model: Any) -> int:
    """Return those of the convolutions of a Keras model for one example."""
    count = 0
    for layer in model.layers:
        if layer.name.startswith(("conv", "separable_conv")):
            n_outputs, n_in = np.prod(layer.output.shape[1:-1]), layer.input.shape[-1]
            depthwise = np.prod(layer.kernel_size)
            separable = layer.name.startswith("separable")
            count += n_outputs * n_in * (depthwise + layer.filters if separable else depthwise * layer.filters)
    return int(count)


def test_a_step_costs_an_eighth_of_recomputing_the_segment_or_less() -> None:
    from serstream.training.network import build_stream, build_trunk

    recipe = Recipe()
    step = multiply_accumulates(build_stream(recipe.shape, recipe.step_frames, N_MFCC))
    segment = multiply_accumulates(build_trunk(recipe.shape, recipe.window_frames, N_MFCC))
    assert step == 8 * 5 * 40 * 176 + 6 * 4 * 176 * (9 + 176) + 4 * 176
    assert segment > 8 * step
