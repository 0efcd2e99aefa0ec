"""tflite-runtime, the extra ``[tflite]``: on Python 3.11 and NumPy 1.26 it hears what LiteRT hears on NumPy 2.

The two round differently inside a layer, so an int8 output may differ by one step, and a trunk of seven layers adds
such steps up. With the reference kernels, which both have, every byte is the same.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serstream.resources import packaged

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".venv-tflite"

HEAR = """
import json, sys
from importlib import import_module
import numpy as np, soundfile
from serstream.batch import alone
from serstream.classifier import Classifier
from serstream.ear import Ear
from serstream.features import mfcc
from serstream.manifest import load_model
from serstream.network import Network, interpreter
from serstream.resources import packaged

runtime = sys.argv[1]
model = load_model(packaged("models/serstream"))
n = model.manifest.step_frames
samples = soundfile.read(packaged("demo.flac"), dtype="float32")[0]
frames = mfcc(samples, model.manifest.front_end)

network = Network(model, runtime)
ear, classifier = Ear(network, threshold=0.5), Classifier(network)
heard = [alone(network, ear.step(frames[i : i + n])) for i in range(0, len(frames), n)]
scores = [alone(network, classifier.step(outputs)) for outputs in heard]

def bytes_of(network, signature, count):
    run = network.get_signature_runner(signature)
    some = {}
    for name, detail in run.get_input_details().items():
        values = (np.arange(count * np.prod(detail["shape"])) * 7919 % 255 - 127).astype(np.int8)
        some[name] = values.reshape(count, *detail["shape"])
    outputs = [run(**{name: x[i] for name, x in some.items()}) for i in range(count)]
    return {key: [o[key].ravel().tolist() for o in outputs] for key in outputs[0]}

module = import_module({"litert": "ai_edge_litert", "tflite": "tflite_runtime"}[runtime] + ".interpreter")
kind = module.OpResolverType.BUILTIN_REF
reference = module.Interpreter(model_content=model.content, num_threads=1, experimental_op_resolver_type=kind)
print(json.dumps({
    "numpy": np.__version__,
    "speech": np.concatenate([outputs.speech for outputs in heard]).tolist(),
    "steps": [s and {"emotion": s.emotion, "voice": s.voice} for s in scores],
    "head": bytes_of(interpreter(model.content, runtime), "head", 100),
    "reference": bytes_of(reference, "trunk", 10) | bytes_of(reference, "head", 10),
}))
"""


def fail_or_skip(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def tflite_python() -> Path:
    """The interpreter of an environment that is made once, and again when ``pyproject.toml`` changes."""
    base = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if base is None:
        pytest.skip("tflite-runtime needs Python 3.11, and there is no python3.11 here")
    python, stamp = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "pyproject.sha256"
    checksum = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == checksum:
        return python
    make = [[base, "-m", "venv", "--clear", ENVIRONMENT]]
    make += [[python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"{ROOT}[tflite]"]]
    for command in make:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=900, check=False)
        if done.returncode != 0:
            fail_or_skip(f"the environment of the extra [tflite] cannot be made: {done.stderr.strip()[-500:]}")
    stamp.write_text(checksum)
    return python


def hear(python: str | Path, runtime: str) -> dict[str, Any]:
    """Return what this checkout makes of the demo, and of some int8 tensors, under an interpreter."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [str(python), "-W", "error", "-c", HEAR, runtime]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def litert() -> dict[str, Any]:
    return hear(sys.executable, "litert")


@pytest.fixture(scope="module")
def tflite(tflite_python: Path) -> dict[str, Any]:
    return hear(tflite_python, "tflite")


pytestmark = pytest.mark.timeout(1_200)


def test_the_environments_are_those_that_are_meant(litert: dict[str, Any], tflite: dict[str, Any]) -> None:
    assert tflite["numpy"].startswith("1.26.")
    assert int(litert["numpy"].split(".")[0]) >= 2


def test_with_the_reference_kernels_every_byte_is_the_same(litert: dict[str, Any], tflite: dict[str, Any]) -> None:
    assert tflite["reference"] == litert["reference"]
    assert len(np.unique(litert["reference"]["activations"])) > 50


@pytest.mark.parametrize("output", ["emotion", "voice"])
def test_the_head_differs_by_at_most_one_int8_step(litert: dict[str, Any], tflite: dict[str, Any], output: str) -> None:
    difference = np.array(tflite["head"][output]) - np.array(litert["head"][output])
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("output", ["emotion", "voice"])
def test_the_posteriors_of_the_demo_are_the_same_but_for_the_rounding(
    litert: dict[str, Any], tflite: dict[str, Any], output: str
) -> None:
    said = np.array([heard["speech"] for heard in (litert, tflite)])
    assert np.mean(said[0] == said[1]) > 0.98
    both = [(a[output], b[output]) for a, b in zip(litert["steps"], tflite["steps"], strict=True) if a and b]
    a, b = (np.array(x) for x in zip(*both, strict=True))
    assert len(a) > 50
    assert np.abs(a - b).max() < 0.1
    assert np.abs(a - b).mean() < 0.01
    assert np.mean(a.argmax(axis=1) == b.argmax(axis=1)) > 0.95


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="tflite-runtime cannot be imported here")
def test_with_numpy_2_tflite_runtime_is_refused_in_a_sentence(tflite_python: Path, tmp_path: Path) -> None:
    """It can be installed and imported there, and then every interpreter fails."""
    (packages,) = ENVIRONMENT.glob("lib/python3.11/site-packages")
    (tmp_path / "config.yaml").write_text("runtime: tflite")
    arguments = ["analyze", "--config", str(tmp_path / "config.yaml"), str(packaged("demo.flac"))]
    # at the end of the path, so that NumPy is that of this environment
    code = (
        f"import sys; sys.path.append({str(packages)!r}); from serstream.cli import main; sys.exit(main({arguments}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r"serstream: runtime tflite needs NumPy 1\.26, here is 2\..*; pip install .*\n", done.stderr)


def test_the_command_runs_on_tflite_runtime(tflite_python: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("runtime: tflite")
    command = [tflite_python, "-m", "serstream", "analyze", "--json", "--config", config, packaged("demo.flac")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(c) for c in command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["label"] is not None
