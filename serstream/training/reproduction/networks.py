"""The seed's three networks in Keras, with the paper's activations, losses and optimisers, and how they are fitted.

The CNN is published layer by layer. Of the other two only the number of layers, the activations, loss and optimiser
are known; sizes are a choice. A layer is a Keras layer object, as in the CNN's eighteen.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from serstream.training.reproduction.outcome import Outcome, Parts

BATCH_SIZE = 32


def single_thread() -> None:
    """Use one core, the same way every time; called once in a process, before anything else of TensorFlow."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel("ERROR")  # it warns of every new network that is traced


def mlp(n_inputs: int, n_classes: int) -> keras.Model:
    """Return the MLP of 8 layers: ReLU, sigmoid and softmax; Adam."""
    stack = [layers.Dense(256), layers.ReLU(), layers.Dense(256), layers.ReLU()]
    stack += [layers.Dense(128), layers.Activation("sigmoid"), layers.Dense(n_classes), layers.Softmax()]
    return _compiled([keras.Input((n_inputs,)), *stack], keras.optimizers.Adam())


def lstm(n_steps: int, n_classes: int) -> keras.Model:
    """Return the LSTM of 5 layers: tanh and softmax; SGD."""
    stack = [layers.LSTM(64, return_sequences=True), layers.LSTM(32), layers.Dense(32, activation="tanh")]
    stack += [layers.Dense(n_classes), layers.Softmax()]
    return _compiled([keras.Input((n_steps, 1)), *stack], keras.optimizers.SGD())


def cnn(n_steps: int, n_channels: int, n_classes: int) -> keras.Model:
    """Return the CNN of 18 layers; RMSprop with the old Keras' ``decay``."""
    stack = [*_convolution(), *_convolution(), layers.Dropout(0.1), layers.MaxPooling1D(8)]
    stack += [*_convolution(), *_convolution(), *_convolution(), layers.Dropout(0.2), *_convolution()]
    stack += [layers.Flatten(), layers.Dense(n_classes), layers.Softmax()]
    rate = keras.optimizers.schedules.InverseTimeDecay(1e-5, decay_steps=1, decay_rate=1e-6)
    return _compiled([keras.Input((n_steps, n_channels)), *stack], keras.optimizers.RMSprop(rate))


def _convolution() -> list[Any]:
    return [layers.Conv1D(128, 5, padding="same"), layers.ReLU()]


def _compiled(stack: list[Any], optimizer: Any) -> keras.Model:
    model = keras.Sequential(stack)
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
    return model


def build(model: str, shape: tuple[int, ...], n_classes: int) -> keras.Model:
    """Return the network of the ladder's ``model`` for inputs of a shape, (216,) or (216, 13)."""
    if model == "mlp":
        return mlp(shape[0], n_classes)
    if model.startswith("lstm"):
        return lstm(shape[0], n_classes)
    return cnn(shape[0], shape[1] if len(shape) > 1 else 1, n_classes)


class _Best(keras.callbacks.Callback):  # type: ignore[misc]
    """Keep the weights of the first epoch with the highest validation accuracy."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy, self.epoch, self.weights = -1.0, 0, None

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if logs["val_accuracy"] > self.accuracy:
            self.accuracy, self.epoch, self.weights = logs["val_accuracy"], epoch + 1, self.model.get_weights()


def fit(model: str, parts: Parts, *, n_classes: int, epochs: int, seed: int) -> Outcome:
    """Fit a network; the same seed gives the same outcome on the same machine."""
    keras.utils.clear_session(free_memory=True)
    keras.utils.set_random_seed(seed)
    network, best = build(model, parts.train.x.shape[1:], n_classes), _Best()
    one_hot = np.eye(n_classes, dtype=np.float32)
    history = network.fit(
        parts.train.x,
        one_hot[parts.train.y],
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=(parts.validation.x, one_hot[parts.validation.y]),
        callbacks=[best],
        verbose=0,
    )
    scored = np.concatenate([parts.test.x, parts.yardstick.x])
    last = _classes(network, scored, len(parts.test.y))
    network.set_weights(best.weights)
    chosen = _classes(network, scored, len(parts.test.y))
    curves = {name: [float(v) for v in values] for name, values in history.history.items()}
    return Outcome(best.epoch, chosen[0], last[0], chosen[1], last[1], network.count_params(), curves)


def _classes(network: keras.Model, x: NDArray[np.float32], n_first: int) -> list[NDArray[np.int64]]:
    """Return the classes with the largest output: of the first rows, and of the others."""
    predicted = np.asarray(np.argmax(network.predict(x, batch_size=256, verbose=0), axis=1), np.int64)
    return [predicted[:n_first], predicted[n_first:]]
