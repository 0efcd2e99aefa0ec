"""The int8 network of a model: a trunk that computes what a step adds, and a head; any number of streams in a call.

What the trunk's convolutions saw before a step is its state: int8 tensors that it takes and gives back, each of one
scale, so the steps of a stream give the bytes of one run over the whole of it, whoever shares its calls.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serstream.errors import ModelError
from serstream.kernels import quantise
from serstream.manifest import Model

_INT8 = np.r_[0.0:128.0, -128.0:0.0]
"""What each int8 is worth, at the place that it names as an index: from the end, where it is below zero."""
State = NDArray[np.int8]
"""What the trunk remembers of ``n`` streams: (n, values), all tensors of a stream one behind the other."""


def interpreter(content: bytes, runtime: str = "litert") -> Any:
    """Return an interpreter of LiteRT, or of its predecessor tflite-runtime, on one thread.

    Raises
    ------
    ModelError
        If the runtime is not installed, does not fit this NumPy, or refuses the network.
    """
    module = {"litert": "ai_edge_litert.interpreter", "tflite": "tflite_runtime.interpreter"}[runtime]
    remedies = {
        "litert": "pip install ai-edge-litert",
        "tflite": "pip install 'serstream[tflite]' on Python 3.11",
    }
    try:
        factory = import_module(module).Interpreter
    except ImportError as error:
        raise ModelError(f"runtime {runtime} is not installed ({error}); {remedies[runtime]}") from error
    if runtime == "tflite" and int(np.__version__.partition(".")[0]) >= 2:
        raise ModelError(f"runtime tflite needs NumPy 1.26, here is {np.__version__}; {remedies[runtime]}")
    try:
        return factory(model_content=content, num_threads=1)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"runtime {runtime} cannot run the model: {error}; export the model again") from error


class Network:
    """Trunk and head of a model. Called from one thread only.

    Parameters
    ----------
    model : Model
    runtime : {'litert', 'tflite'}

    Attributes
    ----------
    manifest : Manifest
    at_rest : State
        That of one stream before which there were normalised zero vectors and nothing else.
    channels : int
        Values of an output of the trunk.
    output_scale : tuple of float and int
        Scale and zero point of the trunk's outputs.

    Raises
    ------
    ModelError
        If the runtime is missing or refuses the network, or the network does not fit its manifest.
    """

    def __init__(self, model: Model, runtime: str = "litert") -> None:
        self.manifest = model.manifest
        with _without_chatter():
            network = interpreter(model.content, runtime)
            self._trunk, self._head = _Signature(network, "trunk"), _Signature(network, "head")
            self.channels = self._trunk.channels("activations")
            self._layout = StateLayout(self._trunk.states())
            self._check()
            self.output_scale = self._trunk.scale("activations")
            # the first run allocates and prepares: it must not be the first step of a stream
            self.at_rest = self._state_at_rest()
            self.head(np.zeros((1, 2 * self.channels)))

    def _check(self) -> None:
        m, c = self.manifest, self.channels
        frames, outputs = (1, 1, m.step_frames, m.front_end.n_mfcc), (1, 1, m.step_frames // m.stride, c)
        self._trunk.check({"frames": frames}, {"activations": outputs, "gate": (*outputs[:3], 1)})
        if not self._layout.size:
            raise ModelError("the model's trunk keeps nothing from one step to the next; export the model again")
        self._head.check({"pooled": (1, 2 * c)}, {"emotion": (1, len(m.emotions)), "voice": (1, 2), "speech": (1, 2)})

    def _state_at_rest(self) -> State:
        m = self.manifest
        zeros = np.zeros((1, m.step_frames, m.front_end.n_mfcc), np.float32)
        state = np.zeros((1, self._layout.size), np.int8)
        for _ in range(math.ceil(m.context_frames / m.step_frames)):
            *_, state = self.trunk(zeros, state)
        *_, after = self.trunk(zeros, state)
        if not np.array_equal(after, state):
            raise ModelError(
                f"the model's trunk remembers more than context_frames {m.context_frames}; export the model again"
            )
        return state

    def trunk(self, frames: NDArray[np.float32], state: State) -> tuple[NDArray[np.int8], NDArray[np.float64], State]:
        """Run the trunk on a step of every stream.

        Parameters
        ----------
        frames : ndarray of shape (n, step_frames, n_mfcc)
            Normalised cepstra.
        state : State
            What the trunk remembers of each of the ``n`` streams; it is left as it is.

        Returns
        -------
        outputs : ndarray of shape (n, step_frames // stride, channels), int8
        gate : ndarray of shape (n, step_frames // stride)
            The log-odds that the frames of each output are speech.
        state : State
            What to give with the next step.
        """
        quantised = _quantise(frames, self._trunk.scale("frames"))[:, None]
        out = self._trunk.run(frames=quantised, **self._layout.parted(state))
        gate = self._trunk.real("gate", out["gate"][:, 0, :, 0])
        return out["activations"][:, 0], gate, self._layout.joined(out)

    def head(self, pooled: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the logits of pooled statistics (n, 2 channels): ``emotion``, ``voice``, ``speech``, each (n, k)."""
        out = self._head.run(pooled=_quantise(pooled, self._head.scale("pooled")))
        return {name: self._head.real(name, q) for name, q in out.items()}


class StateLayout:
    """Where each tensor lies in the state of a stream.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        By the name of the tensor, for one stream: (1, ...).

    Attributes
    ----------
    size : int
        Values of a state.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.size, self._parts = 0, []
        for name, shape in shapes.items():
            begin, self.size = self.size, self.size + math.prod(shape)
            self._parts.append((name, slice(begin, self.size), shape[1:]))

    def parted(self, state: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the tensors (n, ...) of a state (n, size), which share its memory, by name."""
        return {name: state[:, where].reshape(len(state), *shape) for name, where, shape in self._parts}

    def joined(self, tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the state (n, size) made of its tensors; others among them are passed over."""
        parts = [tensors[name] for name, *_ in self._parts]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


class _Signature:
    """One entry of the network; its named tensors and their quantisation."""

    def __init__(self, network: Any, name: str) -> None:
        try:
            self.run = network.get_signature_runner(name)
            self._in, self._out = self.run.get_input_details(), self.run.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"the model has no usable signature {name}: {error}; export the model again") from error
        self._name = name
        described = (self._in | self._out).items()
        self._scales = {name: (float(scale), int(zero)) for name, d in described for scale, zero in [d["quantization"]]}
        self._reals = {name: (_INT8 - zero) * scale for name, (scale, zero) in self._scales.items()}

    def channels(self, tensor: str) -> int:
        """Return the last size of an output; 0 if there is no such output."""
        return int(self._out[tensor]["shape"][-1]) if tensor in self._out else 0

    def states(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what goes out to come in again."""
        return {k: shape for k, shape in _int8_shapes(self._in).items() if k in self._out}

    def check(self, inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]) -> None:
        """Raise :class:`ModelError` unless it has these int8 tensors besides its states, and those keep their scale."""
        states = self.states()
        found, needed = (_int8_shapes(self._in), _int8_shapes(self._out)), (inputs | states, outputs | states)
        if found != needed:
            raise ModelError(
                f"signature {self._name} of the model has int8 tensors {found[0] | found[1]}, "
                f"its manifest needs {inputs | outputs}; export the model again"
            )
        if moved := [k for k in states if self._in[k]["quantization"] != self._out[k]["quantization"]]:
            raise ModelError(
                f"signature {self._name} of the model gives {moved[0]} back at another scale than it takes it; "
                "export the model again"
            )

    def scale(self, tensor: str) -> tuple[float, int]:
        """Return scale and zero point of a tensor."""
        return self._scales[tensor]

    def real(self, tensor: str, values: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return what values of a tensor stand for."""
        real: NDArray[np.float64] = self._reals[tensor][values]
        return real


def _int8_shapes(details: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes for a batch of one."""
    return {k: tuple(map(int, d["shape"])) for k, d in details.items() if d["dtype"] is np.int8}


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep the runtime's notes of what goes well (``INFO: ...``, written by its C++ part) off standard error."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.memfd_create("serstream-notes"), "w+b") as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            heard.seek(0)
            for line in heard:
                if not line.startswith(b"INFO:"):
                    os.write(2, line)


def _quantise(x: NDArray[Any], scale: tuple[float, int]) -> NDArray[np.int8]:
    """Round to int8, saturating."""
    out = np.empty(x.shape, np.int8)
    quantise(np.ascontiguousarray(x).ravel(), *map(x.dtype.type, scale), out.ravel())
    return out
