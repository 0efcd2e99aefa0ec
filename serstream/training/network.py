"""The network: a trunk of valid temporal convolutions, pooling over speech, and a head.

Training runs the three as one Keras model. The runtime runs trunk and head as int8 and pools in integers between; it
runs the trunk a step at a time, in the form of :func:`build_stream`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from serstream.training.recipe import NetworkShape, Recipe


@keras.saving.register_keras_serializable(package="serstream")
class SpeechPooling(layers.Layer):  # type: ignore[misc]
    """Weighted mean and standard deviation over the outputs: (n, t, c), (n, t) and (n, t, 1) to (n, 2 c).

    Where nothing weighs anything, in noise, what the gate lets through is pooled, as the runtime would.
    """

    def call(self, x: Any, weights: Any, gate: Any) -> Any:
        """Pool by ``weights``, or by the log-odds ``gate``."""
        leaks = keras.ops.stop_gradient(keras.ops.sigmoid(gate[:, :, 0]))
        weighs = keras.ops.any(weights > 0.0, axis=1, keepdims=True)
        weight = keras.ops.expand_dims(keras.ops.where(weighs, weights, leaks), -1)
        count = keras.ops.sum(weight, axis=1)
        mean = keras.ops.sum(weight * x, axis=1) / count
        square = keras.ops.sum(weight * keras.ops.square(x), axis=1) / count
        spread = keras.ops.sqrt(keras.ops.relu(square - keras.ops.square(mean)) + 1e-5)
        return keras.ops.concatenate([mean, spread], axis=-1)


@keras.saving.register_keras_serializable(package="serstream")
class LevelBlind(keras.constraints.Constraint):  # type: ignore[misc]
    """Let a kernel (time, coefficients, channels) see the first coefficient, the level, in its changes alone.

    Its weights sum to zero over time, so that whatever is added to the level of a whole stream changes nothing.
    """

    def __call__(self, w: Any) -> Any:
        """Take the mean over time from the weights of the first coefficient."""
        level = w[:, :1] - keras.ops.mean(w[:, :1], axis=0, keepdims=True)
        return keras.ops.concatenate([level, w[:, 1:]], axis=1)


def _norm_relu(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def build_trunk(shape: NetworkShape, n_frames: int | None, n_mfcc: int) -> keras.Model:
    """Return the trunk: normalised cepstra (n, n_frames, n_mfcc) to outputs, one every 4 frames.

    These are ``activations`` (n, outputs, channels) and ``gate`` (n, outputs, 1), the log-odds that the newest of the
    frames are speech.
    """
    frames = keras.Input((n_frames, n_mfcc), name="frames")
    first = layers.Conv1D(shape.channels, shape.first_kernel, strides=2, use_bias=False, kernel_constraint=LevelBlind())
    x = _norm_relu(first(frames))
    x = _norm_relu(layers.SeparableConv1D(shape.channels, shape.kernel, strides=2, use_bias=False)(x))
    for _ in range(shape.n_blocks):
        y = layers.SeparableConv1D(shape.channels, shape.kernel, use_bias=False)(x)
        y = layers.BatchNormalization(momentum=0.9)(y)
        x = layers.ReLU()(layers.Add()([y, layers.Cropping1D((shape.kernel - 1, 0))(x)]))
    return keras.Model(frames, {"activations": x, "gate": layers.Conv1D(1, 1)(x)}, name="trunk")


def build_stream(shape: NetworkShape, n_frames: int | None, n_mfcc: int) -> keras.Model:
    """Return the trunk a step at a time: it computes what the step adds, from what it remembers of those before.

    Inputs are ``frames`` (n, 1, n_frames, n_mfcc) and, before the convolution ``i``, the last values of its input,
    ``state_i`` (n, 1, kernel - stride, channels). Outputs are ``activations`` (n, 1, outputs, channels), ``gate``
    (n, 1, outputs, 1) and the next states by the names of the inputs. The axis of 1 is the height of the 2-D
    convolutions that TFLite makes of 1-D ones: with it nothing is reshaped, and any number of streams and of frames
    fits the converted network.
    """
    frames = x = keras.Input((1, n_frames, n_mfcc), name="frames")
    states, after = {}, {}
    for i, kernel in enumerate((shape.first_kernel, *[shape.kernel] * (shape.n_blocks + 1))):
        stride = 2 if i < 2 else 1
        states[f"state_{i}"] = state = keras.Input((1, kernel - stride, x.shape[-1]), name=f"state_{i}")
        seen = layers.Concatenate(axis=2)([state, x])
        after[f"state_{i}"] = seen[:, :, stride - kernel :]
        convolution = layers.SeparableConv2D if i else layers.Conv2D
        y = convolution(shape.channels, (1, kernel), strides=stride, use_bias=False)(seen)
        y = layers.BatchNormalization()(y)
        x = layers.ReLU()(layers.Add()([y, x]) if stride == 1 else y)
    outputs = {"activations": x, "gate": layers.Conv2D(1, 1)(x)}
    return keras.Model({"frames": frames} | states, outputs | after, name="stream")


def set_stream_weights(stream: keras.Model, trunk: keras.Model) -> None:
    """Give the streaming form the weights of a trunk, kernels with the axis of 1 in front."""
    stream.set_weights([w.reshape(v.shape) for w, v in zip(trunk.get_weights(), stream.weights, strict=True)])


def build_head(shape: NetworkShape, n_emotions: int) -> keras.Model:
    """Return the head: pooled statistics (n, 2 channels) to logits: emotion (n, n_emotions), voice, speech (n, 2)."""
    pooled = keras.Input((2 * shape.channels,), name="pooled")
    x = layers.Dropout(shape.dropout)(layers.BatchNormalization(momentum=0.9)(pooled))
    sizes = {"emotion": n_emotions, "voice": 2, "speech": 2}
    outputs = {name: layers.Dense(size)(x) for name, size in sizes.items()}
    return keras.Model(pooled, outputs, name="head")


def build(recipe: Recipe, n_mfcc: int, n_emotions: int) -> keras.Model:
    """Return the whole network for training; from ``frames`` and ``weights`` to the head's outputs and ``gate``."""
    frames = keras.Input((recipe.window_frames, n_mfcc), name="frames")
    weights = keras.Input((recipe.n_outputs,), name="weights")
    trunk = build_trunk(recipe.shape, recipe.window_frames, n_mfcc)
    seen = trunk(frames)
    pooled = SpeechPooling()(seen["activations"], weights, seen["gate"])
    return keras.Model([frames, weights], build_head(recipe.shape, n_emotions)(pooled) | {"gate": seen["gate"]})
