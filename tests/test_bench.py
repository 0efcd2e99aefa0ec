"""`serstream bench` as a process: what it measures is really run, and what it prints keeps its shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from serstream.bench.cores import only_on
from serstream.bench.measuring import QUICK, Blocks, Peer, compare, figure
from serstream.bench.peers import DESCRIPTORS, MFCC, PEERS
from serstream.bench.registry import MEASURES
from serstream.bench.streams import LADDER, RESOLUTION, greatest
from serstream.bench.virtual_mic import VirtualMic
from serstream.machine import processor

ROOT = Path(__file__).parent.parent
LIMIT_S = 170.0
FIGURES = {
    "mfcc": {"mfcc_us_per_frame": "us"},
    "network": {"network_us_per_step": "us"},
    "middle": {"middle_ms_per_audio_s": "ms"},
    "memory": {"memory_growth_mb": "MB"},
    "analyze": {"analyze_s": "s", "analyze_cpu_s": "s"},
    "latency": {"latency_p50_ms": "ms", "latency_p99_ms": "ms"},
    "ready": {"ready_s": "s"},
    "microphone": {
        "microphone_cpu_percent": "% of one core",
        "microphone_pss_mb": "MB",
        "microphone_latency_s": "s",
    },
    "streams": {
        "real_time_streams": "streams",
        "real_time_streams_p50_ms": "ms",
        "real_time_streams_p99_ms": "ms",
        "real_time_streams_steal_percent": "%",
    },
}
"""What each measure gives without peers, and whatever the number of streams."""


def bench(*arguments: str, absent: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command where the packages of ``absent`` are not installed."""
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); from serstream.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, "bench", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def found(*names: str, **options) -> dict:
    """Return the JSON object of a quick run."""
    done = bench("--quick", "--json", "--only", *names, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(figures: dict, units: dict[str, str], turns: int) -> None:
    assert {name: f["unit"] for name, f in figures.items()} == units
    for name, f in figures.items():
        assert f.keys() == {"name", "about", "median", "spread", "unit", "n"}
        assert (f["name"], f["n"]) == (name, turns)
        low, high = f["spread"]
        assert low <= f["median"] <= high


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n", "AMD EPYC (family 26, model 2)"),
        ("BogoMIPS\t: 108.00\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n", "Raspberry Pi 5 Model B Rev 1.0"),
        ("", "unknown processor"),
    ],
)
def test_generations_of_processors_of_one_name_are_told_apart(cpuinfo: str, name: str) -> None:
    assert processor(cpuinfo) == name


def test_every_measure_is_known_here() -> None:
    assert MEASURES.keys() == FIGURES.keys()


def test_one_object_names_the_machine_and_every_figure_with_its_spread() -> None:
    results = found("network", "analyze", "ready")
    check(results["figures"], FIGURES["network"] | FIGURES["analyze"] | FIGURES["ready"], QUICK.turns)
    assert all(f["median"] > 0 for f in results["figures"].values())
    assert "60 s" in results["figures"]["analyze_s"]["about"]
    assert results["machine"].keys() == {"cpu", "cores", "python", "architecture", "load"}
    assert (results["schema"], results["quick"], results["missing"]) == ("serstream-bench/1", True, {})


def test_peers_that_are_installed_do_the_same_work_and_the_others_are_left_out() -> None:
    results = found("mfcc", "middle", absent=("librosa",))
    units = FIGURES["mfcc"] | FIGURES["middle"]
    for what, measure, peers in (("mfcc", "us_per_frame", MFCC), ("middle", "ms_per_audio_s", DESCRIPTORS)):
        for peer in peers:
            if find_spec(peer) is not None and peer != "librosa":
                units |= {f"{what}_{measure}_{peer}": measure[:2], f"{what}_speed_against_{peer}": "times"}
    check(results["figures"], units, QUICK.turns)
    assert results["not_installed"] == [p for p in PEERS if p == "librosa" or find_spec(p) is None]


def test_a_ratio_is_taken_turn_by_turn_between_works_on_the_same_blocks() -> None:
    heard: list[str] = []

    def work(name: str):
        def run(blocks: Blocks) -> float:
            heard.append(name)
            return len(blocks)

        return run

    peers = {"json": Peer("a module that is there", work("json")), "no_such": Peer("none", work("no_such"))}
    figures = compare("sum", "us_per_block", "a sum", work("own"), [1, 2], 2, peers)
    assert heard == ["own", "json"] * 3, "in turns, the first of which does not count"
    assert [f.name for f in figures] == ["sum_us_per_block", "sum_us_per_block_json", "sum_speed_against_json"]


def test_half_of_the_turns_lie_within_the_spread() -> None:
    f = figure("x", "some", "s", [4.0, 1.0, 3.0, 2.0, 5.0])
    assert (f.median, f.spread, f.n) == (3.0, (2.0, 4.0), 5)
    assert figure("x", "some", "s", [0.123456]).spread == (0.1235, 0.1235)


def test_a_long_stream_keeps_nothing() -> None:
    results = found("memory")
    check(results["figures"], FIGURES["memory"], 1)
    assert "2,000 steps" in results["figures"]["memory_growth_mb"]["about"], "a quick run says how short it is"
    assert results["figures"]["memory_growth_mb"]["median"] < 1.0


def test_latency_is_that_of_a_daemon_and_a_subscriber() -> None:
    results = found("latency")
    check(results["figures"], FIGURES["latency"], QUICK.turns)
    p50, p99 = (results["figures"][name]["median"] for name in FIGURES["latency"])
    assert 0 < p50 <= p99


def test_a_microphone_is_measured_where_one_can_be_had() -> None:
    if VirtualMic.missing():
        pytest.skip("no sound server to make a virtual microphone with")
    results = found("microphone")
    check(results["figures"], FIGURES["microphone"], QUICK.turns)
    assert "virtual" in results["figures"]["microphone_cpu_percent"]["about"]


def test_streams_are_sent_to_a_daemon_on_one_core_until_it_misses_a_deadline() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    figures = found("streams")["figures"]
    n = figures["real_time_streams"]["median"]
    assert 1 <= n <= QUICK.streams
    costs = {f"stream_ms_per_audio_s_{k:g}" for k in (1, 4, n) if k <= n}
    assert figures.keys() == FIGURES["streams"].keys() | costs
    for name in costs | {"real_time_streams_p50_ms", "real_time_streams_p99_ms"}:
        assert figures[name]["median"] > 0
        assert figures[name]["n"] == QUICK.turns


def test_with_one_core_it_is_said_why_streams_are_not_counted() -> None:
    with only_on({min(os.sched_getaffinity(0))}):
        results = found("streams")
    assert results["figures"] == {}
    assert "one core" in results["missing"]["streams"]


@pytest.mark.parametrize("carried", [0, 1, 3, 4, 5, 100, 1000, 4096, 9999])
def test_the_greatest_number_is_searched_for_by_a_ladder_and_then_by_halves(carried: int) -> None:
    tried: list[int] = []

    def carries(n: int) -> bool:
        tried.append(n)
        return n <= carried

    n = greatest(carries, 4096)
    assert min(carried, 4096) * (1 - RESOLUTION) <= n <= min(carried, 4096)
    assert {LADDER**k for k in range(7) if LADDER**k <= n} <= set(tried)
    assert len(tried) - 1 <= len(set(tried)) <= 13, "one of them twice at most"


def test_without_a_microphone_it_is_said_why_and_the_rest_is_measured(tmp_path: Path) -> None:
    results = found("microphone", "network", PATH=str(tmp_path), ALSA_CONFIG_PATH="/no/such.conf")
    check(results["figures"], FIGURES["network"], QUICK.turns)
    assert "/no/such.conf" in results["missing"]["microphone"]


def test_people_get_a_table() -> None:
    done = bench("--quick", "--only", "network")
    assert done.returncode == 0, done.stderr
    assert "network_us_per_step" in done.stdout
    assert "--quick" in done.stdout
    assert "load" in done.stdout.splitlines()[0]


def test_an_unknown_name_is_told_which_there_are_and_ends_with_2() -> None:
    done = bench("--only", "mfcc", "sing")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"serstream: --only names sing; allowed are {', '.join(MEASURES)}\n"


def test_the_tables_of_the_documents_are_those_of_the_last_run() -> None:
    command = [sys.executable, "benchmarks/tables.py", "--check"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
