"""The network: a trunk of valid temporal convolutions, pooling over speech, and a head.

Training runs the three as one Keras model. The runtime runs trunk and head as int8 and pools in integers between.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from serstream.training.recipe import NetworkShape, Recipe


@keras.saving.register_keras_serializable(package="serstream")
class SpeechPooling(layers.Layer):  # type: ignore[misc]
    """Weighted mean and standard deviation over the outputs: (n, t, c) and (n, t) to (n, 2 c)."""

    def call(self, x: Any, weights: Any) -> Any:
        """Pool; at least one output must weigh something."""
        weight = keras.ops.expand_dims(weights, -1)
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
    """Return the trunk: normalised cepstra (n, n_frames, n_mfcc) to (n, outputs, channels), one every 4 frames."""
    frames = keras.Input((n_frames, n_mfcc), name="frames")
    first = layers.Conv1D(shape.channels, shape.first_kernel, strides=2, use_bias=False, kernel_constraint=LevelBlind())
    x = _norm_relu(first(frames))
    x = _norm_relu(layers.SeparableConv1D(shape.channels, shape.kernel, strides=2, use_bias=False)(x))
    for _ in range(shape.n_blocks):
        y = layers.SeparableConv1D(shape.channels, shape.kernel, use_bias=False)(x)
        y = layers.BatchNormalization(momentum=0.9)(y)
        x = layers.ReLU()(layers.Add()([y, layers.Cropping1D((shape.kernel - 1, 0))(x)]))
    return keras.Model(frames, x, name="trunk")


def build_head(shape: NetworkShape, n_emotions: int) -> keras.Model:
    """Return the head: pooled statistics (n, 2 channels) to logits: emotion (n, n_emotions), voice, speech (n, 2)."""
    pooled = keras.Input((2 * shape.channels,), name="pooled")
    x = layers.Dropout(shape.dropout)(layers.BatchNormalization(momentum=0.9)(pooled))
    sizes = {"emotion": n_emotions, "voice": 2, "speech": 2}
    outputs = {name: layers.Dense(size)(x) for name, size in sizes.items()}
    return keras.Model(pooled, outputs, name="head")


def build(recipe: Recipe, n_mfcc: int, n_emotions: int) -> keras.Model:
    """Return the whole network for training; inputs ``frames`` and ``weights``, outputs those of the head."""
    frames = keras.Input((recipe.window_frames, n_mfcc), name="frames")
    weights = keras.Input((recipe.segment_frames // recipe.shape.stride,), name="weights")
    trunk = build_trunk(recipe.shape, recipe.window_frames, n_mfcc)
    pooled = SpeechPooling()(trunk(frames), weights)
    return keras.Model([frames, weights], build_head(recipe.shape, n_emotions)(pooled))
