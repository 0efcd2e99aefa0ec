"""Who may import whom: a module imports from rows above its own, and each dependency has its place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "serstream"

ROWS: list[dict[str, set[str]]] = [
    {
        "errors": set(),
        "resources": set(),
        "clock": set(),
        "identity": set(),
        "signals": set(),
        "children": set(),
        "logs": set(),
    },
    {"addresses": set(), "events": {"msgspec"}, "systemd": set(), "machine": {"msgspec"}},
    {"config": {"msgspec", "yaml"}, "lanes": {"llvmlite", "numba"}},
    {
        "ring": {"numpy"},
        "sameness": {"numpy"},
        "capture_clock": {"numpy"},
        "kernels": {"numba", "numpy"},
        "pcm": {"numpy"},
    },
    {"resampler": {"numpy", "soxr"}},
    # the capture process: what is below here and above `sources` must stay small
    {"transfer": {"numpy"}},
    {"capture": {"sounddevice"}},
    {"capture_process": set(), "pulled": {"numpy"}, "recordings": {"numpy", "soundfile"}},
    {"packets": {"msgspec", "numpy"}},
    {"inbox": set()},
    {"microphone": set(), "stdin": {"numpy"}, "remote": {"numpy"}},
    {"timing": {"msgspec"}},
    {"replay": {"numpy"}},
    {"sources": {"numpy"}, "faults": {"numpy"}},
    # the middle: no thread, socket, file or clock
    {"features": {"msgspec", "numpy"}, "normalisation": {"numpy"}, "pooling": {"numpy"}},
    {"profiles": {"msgspec"}, "manifest": {"msgspec", "numpy"}},
    {"steps": {"numpy"}, "network": {"ai_edge_litert", "numpy", "tflite_runtime"}},
    {"batch": {"numpy"}},
    {"ear": {"numpy"}},
    {"posteriors": set()},
    {"classifier": {"numpy"}, "decision": set()},
    {"pipeline": set()},
    {"analysis": {"msgspec", "numpy"}, "enrolment": {"numpy"}},
    # what hears, in the daemon's process or in a worker's
    {"latencies": set()},
    {"stream": set()},
    {"worker": set()},
    {"hearing": {"msgspec"}},
    {"relay": {"msgspec"}},
    {"work": set()},
    # the wire
    {"endpoints": {"zmq"}, "history": {"msgspec"}, "journal_file": set(), "allowance": set(), "keys": {"zmq"}},
    {"journal_reader": set(), "clients": set(), "handshakes": {"zmq"}},
    {"journal": {"msgspec"}, "gate": {"zmq"}},
    {"publisher": {"msgspec", "zmq"}, "transport": {"msgspec", "zmq"}, "audio": {"numpy", "zmq"}},
    # the daemon
    {"account": {"msgspec"}, "admission": {"msgspec"}},
    {"worker_process": {"msgspec"}},
    {"daemon": {"msgspec"}},
    # people
    {"viewstate": set(), "emotionml": set(), "moments": set(), "installation": set(), "enroll": {"msgspec", "rich"}},
    {"report": {"msgspec"}},
    {"sending": {"numpy"}},
    {"picture": {"rich"}, "service": set()},
    {"view": {"rich"}},
    {"journal_report": {"msgspec"}},
    # what is wrong on this machine
    {"findings": {"msgspec"}, "loudness": {"numpy"}},
    {"occupancy": set()},
    {
        "installchecks": {"ai_edge_litert", "msgspec", "numba", "tflite_runtime"},
        "soundchecks": {"numpy"},
        "hostchecks": {"zmq"},
    },
    {"checks": {"msgspec"}},
    {"doctor": {"msgspec", "rich"}},
    # speed on this machine
    {"bench.cores": set(), "bench.speech": {"numpy", "soundfile"}, "bench.virtual_mic": set()},
    {"bench.measuring": {"msgspec", "numpy"}, "bench.processes": set()},
    {"bench.peers": {"kaldi_native_fbank", "librosa", "numpy", "opensmile"}, "bench.running": {"numpy"}},
    {"bench.computing": {"numpy"}, "bench.load": {"msgspec", "zmq"}},
    {"bench.streams": {"numpy"}},
    {"bench.registry": set()},
    {"bench.results": {"msgspec", "rich"}},
    {"chosen": {"msgspec"}, "asking": set()},
    {"commands": {"msgspec", "rich"}},
    {"cli": set()},
    {"__main__": set()},
    # offline: on top of the runtime, which never imports it
    {"training.corpora": set(), "training.progress": {"rich"}, "training.speech": {"earshot", "numpy"}},
    {"training.augment": {"numpy", "soxr"}},
    {"training.recipe": {"msgspec"}, "training.prepare": {"msgspec", "numpy"}},
    {"training.scaling": {"numpy"}},
    {"training.histories": {"numpy"}},
    {"training.crops": {"numpy"}, "training.network": {"keras"}, "training.score": {"numpy"}},
    {"training.fit": {"keras", "msgspec", "numpy", "tensorflow"}, "training.evaluate": {"msgspec"}},
    {"training.export": {"keras", "msgspec", "numpy", "tensorflow"}},
    {
        "training.calibrate": {"msgspec", "numpy"},
        "training.card": set(),
        "training.parity": {"keras", "numpy", "tensorflow"},
    },
    # the paper's models
    {"training.reproduction.rungs": {"numpy"}, "training.reproduction.outcome": {"numpy"}},
    {
        "training.reproduction.features": {"librosa", "numpy", "opensmile"},
        "training.reproduction.plan": set(),
        "training.reproduction.networks": {"keras", "numpy", "tensorflow"},
        "training.reproduction.svm": {"numpy", "sklearn"},
    },
    {"training.reproduction.ladder": {"numpy"}},
    {"training.reproduction.figures": {"numpy"}},
    {"training.reproduction.voices": {"numpy"}, "training.reproduction.plots": {"matplotlib", "numpy"}},
    {"training.reproduction.choices": set()},
    {"training.reproduction.report": set()},
    {"training.reproduction.command": set()},
    # the whole protocol
    {
        "training.evaluation.statistics": {"numpy", "scipy"},
        "training.evaluation.perturbations": {"numpy", "scipy"},
        "training.evaluation.counts": {"msgspec"},
        "training.evaluation.plan": {"numpy"},
        "training.evaluation.text": set(),
    },
    {"training.evaluation.matching": set(), "training.evaluation.listening": {"numpy"}},
    {"training.evaluation.bench": {"numpy"}, "training.evaluation.results": {"numpy"}},
    {
        "training.evaluation.clips": {"msgspec"},
        "training.evaluation.streams": {"msgspec", "numpy"},
        "training.evaluation.quantisation": {"msgspec"},
        "training.evaluation.bars": set(),
    },
    {"training.evaluation.run": {"msgspec"}, "training.evaluation.plots": {"matplotlib", "numpy"}},
    {"training.evaluation.report": set()},
    {"training.__main__": {"msgspec"}},
]
"""Modules from the lowest layer up, and what each may import besides the standard library and the rows above."""

ROW_OF = {module: i for i, row in enumerate(ROWS) for module in row}
ALLOWED = {module: packages for row in ROWS for module, packages in row.items()}
BY_NAME = ("ai_edge_litert", "tflite_runtime")
"""What is imported by a name in a string."""


def modules() -> dict[str, Path]:
    """Return every module of the package; a package's own ``__init__`` stands for it."""
    found = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}
    return {name: path for name, path in found.items() if not name.endswith("__init__")}


def imports(path: Path) -> set[str]:
    """Return the full name of everything that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and str(node.value).startswith(tuple(f"{n}." for n in BY_NAME)):
            found.add(str(node.value))
    return found


def own(name: str) -> str | None:
    """Return which module of the package a name is in; None for the package itself and for others."""
    parts = name.split(".")[1:] if name.startswith("serstream.") else []
    return next((m for n in (3, 2, 1) if (m := ".".join(parts[:n])) in modules()), None)


def test_every_module_has_a_row() -> None:
    assert sorted(modules()) == sorted(ROW_OF)


@pytest.mark.parametrize("module", sorted(ROW_OF))
def test_a_module_imports_only_from_rows_above_its_own(module: str) -> None:
    used = {o for name in imports(modules()[module]) if (o := own(name)) is not None}
    assert [o for o in sorted(used) if ROW_OF[o] >= ROW_OF[module]] == []


@pytest.mark.parametrize("module", sorted(ROW_OF))
def test_a_module_imports_only_the_packages_of_its_row(module: str) -> None:
    used = {name.split(".")[0] for name in imports(modules()[module])}
    assert used - sys.stdlib_module_names - {"serstream"} == ALLOWED[module]


def test_the_package_itself_names_only_what_a_subscriber_needs() -> None:
    used = {own(name) for name in imports(PACKAGE / "__init__.py") if name.startswith("serstream.")}
    assert used - {None} == {"errors", "events", "transport"}
    assert imports(PACKAGE / "bench" / "__init__.py") == set()
    assert imports(PACKAGE / "training" / "__init__.py") == set()
    assert imports(PACKAGE / "training" / "reproduction" / "__init__.py") == set()


MIDDLE = [
    "features",
    "normalisation",
    "pooling",
    "manifest",
    "steps",
    "network",
    "batch",
    "ear",
    "classifier",
    "posteriors",
    "decision",
    "pipeline",
    "analysis",
    "enrolment",
    "lanes",
    "kernels",
    "latencies",
]


@pytest.mark.parametrize("module", MIDDLE)
def test_the_middle_has_no_thread_socket_or_clock(module: str) -> None:
    banned = {"asyncio", "datetime", "multiprocessing", "random", "select", "socket", "subprocess", "threading", "time"}
    assert {name.split(".")[0] for name in imports(modules()[module])} & banned == set()


def loaded_by(code: str, *packages: str) -> set[str]:
    """Return which of the packages a fresh interpreter has loaded after some code."""
    code += f"\nimport sys; print(*(p for p in {packages!r} if p in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_a_subscriber_loads_zeromq_and_msgspec_alone() -> None:
    heavy = (
        "numpy",
        "numba",
        "sounddevice",
        "soundfile",
        "soxr",
        "ai_edge_litert",
        "yaml",
        "rich",
        "sqlite3",
        "serstream.config",
    )
    assert loaded_by("import serstream; serstream.Subscriber", "zmq", "msgspec", *heavy) == {"zmq", "msgspec"}


def test_importing_the_package_alone_loads_nothing() -> None:
    assert loaded_by("import serstream", "zmq", "msgspec", "numpy", "asyncio") == set()


def test_the_daemon_loads_nothing_of_training_and_no_sound_library() -> None:
    heavy = ("tensorflow", "keras", "earshot", "matplotlib", "librosa", "sounddevice", "rich")
    heavy += ("serstream.bench", "serstream.training")
    assert loaded_by("import serstream.daemon", "numba", *heavy) == {"numba"}


def test_a_sender_loads_no_model() -> None:
    heavy = ("numba", "ai_edge_litert", "sounddevice", "rich", "serstream.pipeline")
    assert loaded_by("import serstream.sending", "zmq", "numpy", *heavy) == {"zmq", "numpy"}


def test_a_worker_process_loads_what_it_hears_with_and_no_sockets_of_the_outside() -> None:
    heavy = ("zmq", "sounddevice", "soundfile", "rich", "serstream.daemon", "serstream.transport")
    assert loaded_by("import serstream.work", "numba", *heavy) == {"numba"}


def test_the_capture_process_stays_small() -> None:
    heavy = ("zmq", "numba", "ai_edge_litert", "msgspec", "yaml", "soundfile", "sounddevice")
    assert loaded_by("import serstream.capture", "numpy", *heavy) == {"numpy"}


def test_the_command_line_answers_without_sound_or_network() -> None:
    heavy = ("numpy", "numba", "sounddevice", "ai_edge_litert", "rich", "yaml")
    assert loaded_by("import serstream.cli; serstream.cli.parser().format_help()", *heavy) == set()
