"""The front end: streaming equals batch, frames stand alone, and both equal an implementation of another hand."""

import os
import pwd
import shutil
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from serstream.features import FrontEnd, StreamingMfcc, mfcc
from serstream.kernels import mfcc_frames
from serstream.resources import packaged

ROOT = Path(__file__).parent.parent
DEFAULT = FrontEnd()
OTHERS = [
    FrontEnd(n_fft=1024, win_length=400, hop_length=160, n_mels=26, n_mfcc=13, fmin_hz=0.0),
    FrontEnd(
        sample_rate=44_100,
        n_fft=2048,
        win_length=2048,
        hop_length=512,
        n_mels=128,
        n_mfcc=40,
        fmax_hz=22_050.0,
    ),
    FrontEnd(n_fft=256, win_length=256, hop_length=1, n_mels=10, n_mfcc=10, fmin_hz=300.0, fmax_hz=3_400.0),
    # lengths that fill no vector, and the smallest there are
    FrontEnd(n_fft=64, win_length=50, hop_length=7, n_mels=7, n_mfcc=5),
    FrontEnd(n_fft=8, win_length=3, hop_length=2, n_mels=2, n_mfcc=2),
    FrontEnd(n_fft=4, win_length=4, hop_length=2, n_mels=1, n_mfcc=1),
]


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.1, n_samples).astype(np.float32)


def demo(n_samples: int = -1) -> np.ndarray:
    return soundfile.read(packaged("demo.flac"), dtype="float32", frames=n_samples)[0]


def tones(*frequencies_hz: float) -> np.ndarray:
    seconds = np.arange(32_000) / 16_000
    return sum(0.3 * np.sin(2 * np.pi * f * seconds) for f in frequencies_hz).astype(np.float32)


def blocks(samples: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """Cut a signal into blocks of the given sizes, again and again until it is used up."""
    at = 0
    while at < samples.size:
        for size in sizes:
            yield samples[at : at + size]
            at += size


def reference_mfcc(samples: np.ndarray, fe: FrontEnd) -> np.ndarray:
    """In float64, by the textbook: Hann, power spectrum, triangles on the mel scale, logarithm, DCT-II."""
    starts = range(0, samples.size - fe.win_length + 1, fe.hop_length)
    window = scipy.signal.get_window("hann", fe.win_length, fftbins=True)
    frames = np.array([samples[s : s + fe.win_length] * window for s in starts])
    power = np.abs(scipy.fft.rfft(frames, fe.n_fft)) ** 2
    hertz = scipy.fft.rfftfreq(fe.n_fft, 1 / fe.sample_rate)

    def mel(f: float) -> float:
        return 1127.0 * np.log1p(f / 700.0)

    edges = 700.0 * np.expm1(np.linspace(mel(fe.fmin_hz), mel(fe.fmax_hz), fe.n_mels + 2) / 1127.0)
    bank = np.array([np.interp(hertz, edges[b : b + 3], [0, 1, 0]) for b in range(fe.n_mels)])
    return scipy.fft.dct(np.log(power @ bank.T + fe.log_floor), norm="ortho")[:, : fe.n_mfcc]


@settings(max_examples=60, deadline=None)
@given(
    n_samples=st.integers(0, 20_000),
    sizes=st.lists(
        st.one_of(st.sampled_from([0, 1, 255, 256, 257, 511, 512]), st.integers(0, 5_000)),
        min_size=1,
        max_size=12,
    ),
    front_end=st.sampled_from([DEFAULT, OTHERS[0]]),
)
def test_cutting_the_signal_anywhere_changes_no_bit(n_samples: int, sizes: list[int], front_end: FrontEnd) -> None:
    y = noise(n_samples)
    stream = StreamingMfcc(front_end)
    got = [stream.push(block) for block in blocks(y, sizes if any(sizes) else [1, *sizes])]
    whole = mfcc(y, front_end)
    assert np.concatenate([whole[:0], *got]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("size", [1, 256, 4_096, 160_000])
def test_blocks_from_one_sample_to_ten_seconds_change_no_bit(size: int) -> None:
    y = demo(4_000 if size == 1 else 320_000)
    stream = StreamingMfcc(DEFAULT)
    got = np.concatenate([stream.push(block) for block in blocks(y, [size])])
    assert got.tobytes() == mfcc(y, DEFAULT).tobytes()


@settings(max_examples=40, deadline=None)
@given(first=st.integers(0, 60), n_frames=st.integers(1, 40))
def test_a_frame_depends_on_its_own_samples_alone(first: int, n_frames: int) -> None:
    y = noise(26_000)
    last = first + n_frames
    part = y[first * DEFAULT.hop_length : (last - 1) * DEFAULT.hop_length + DEFAULT.win_length]
    assert mfcc(part, DEFAULT).tobytes() == mfcc(y, DEFAULT)[first:last].tobytes()


def test_after_a_reset_nothing_of_before_is_left() -> None:
    stream = StreamingMfcc(DEFAULT)
    stream.push(noise(1_000))
    stream.reset()
    y = noise(2_000, seed=1)
    assert stream.push(y).tobytes() == mfcc(y, DEFAULT).tobytes()


def test_the_caller_may_use_its_block_again() -> None:
    y, stream, got = noise(5_000), StreamingMfcc(DEFAULT), []
    block = np.empty(100, np.float32)
    for start in range(0, 5_000, 100):
        block[:] = y[start : start + 100]
        got.append(stream.push(block))
    assert np.concatenate(got).tobytes() == mfcc(y, DEFAULT).tobytes()


@pytest.mark.parametrize("front_end", [DEFAULT, *OTHERS])
@pytest.mark.parametrize(
    "samples",
    [noise(16_000), demo(64_000), tones(440.0), tones(100.0, 3_000.0), np.zeros(4_000, np.float32)],
    ids=["noise", "speech", "tone", "two tones", "silence"],
)
def test_it_equals_an_independent_implementation_to_a_thousandth(front_end: FrontEnd, samples: np.ndarray) -> None:
    samples = samples[: 200 * front_end.hop_length + front_end.win_length]
    expected = reference_mfcc(samples.astype(np.float64), front_end)
    got = mfcc(samples, front_end)
    assert got.dtype == np.float32
    assert got.shape == expected.shape == (front_end.n_frames(samples.size), front_end.n_mfcc)
    np.testing.assert_allclose(got, expected, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize(("n_samples", "n_frames"), [(0, 0), (511, 0), (512, 1), (767, 1), (768, 2), (4_352, 16)])
def test_only_whole_frames_count(n_samples: int, n_frames: int) -> None:
    assert DEFAULT.n_frames(n_samples) == n_frames
    assert mfcc(noise(n_samples), DEFAULT).shape == (n_frames, 40)


def test_read_only_and_strided_samples_are_read_all_the_same() -> None:
    y = noise(4_000)
    strided = np.repeat(y, 2)[::2]
    for same in (np.frombuffer(y.tobytes(), np.float32), strided):
        assert mfcc(same, DEFAULT).tobytes() == mfcc(y, DEFAULT).tobytes()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_fft": 500}, "n_fft is 500; it must be a power of two, at least win_length 512"),
        ({"n_fft": 256}, "n_fft is 256; it must be a power of two, at least win_length 512"),
        ({"n_fft": 2, "win_length": 2, "hop_length": 1}, "n_fft is 2; it must be a power of two"),
        ({"fmax_hz": 8_001.0}, "bands from 20.0 to 8001.0 Hz; they must rise and end by 8000.0 Hz"),
        ({"fmin_hz": 300.0, "fmax_hz": 300.0}, "bands from 300.0 to 300.0 Hz; they must rise"),
        (
            {"fmin_hz": 300.0, "fmax_hz": 310.0},
            "may hold no bin of the FFT; they must span more than .* 31.25 Hz",
        ),
        ({"n_mfcc": 41}, "n_mfcc is 41; it must be at most n_mels 40"),
        ({"hop_length": 513}, "hop_length is 513; it must be at most win_length 512"),
    ],
)
def test_a_front_end_that_cannot_be_is_refused_in_a_sentence(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrontEnd(**fields)


@pytest.mark.parametrize(
    "samples",
    [np.zeros(1_000), np.zeros(1_000, np.int16), np.zeros((1_000, 1), np.float32)],
    ids=["float64", "int16", "2-D"],
)
def test_samples_of_another_type_or_shape_are_refused_in_a_sentence(samples: np.ndarray) -> None:
    with pytest.raises(
        ValueError,
        match=rf"samples are {samples.dtype} of shape .*; expected float32 of shape \(n_samples,\)",
    ):
        mfcc(samples, DEFAULT)


def test_other_threads_run_while_the_kernel_computes() -> None:
    slow = FrontEnd(n_fft=512, win_length=512, hop_length=1, n_mfcc=1)
    y = noise(300_000)
    call: dict[str, float] = {}

    def compute() -> None:
        call["start"] = time.perf_counter()
        mfcc(y, slow)
        call["end"] = time.perf_counter()

    thread = threading.Thread(target=compute)
    thread.start()
    seen = []
    while "end" not in call:
        seen.append(time.perf_counter())
    thread.join()
    inside = [call["start"], *(t for t in seen if call["start"] < t < call["end"]), call["end"]]
    assert max(np.diff(inside)) < 0.5 * (call["end"] - call["start"])


def test_the_kernel_is_compiled_when_it_is_imported_and_for_nothing_else_later() -> None:
    assert len(mfcc_frames.nopython_signatures) == 1
    mfcc(noise(1_000), DEFAULT)
    assert len(mfcc_frames.nopython_signatures) == 1


FIRST_FRAMES = """
import numpy as np
from serstream.features import FrontEnd, mfcc
from serstream.kernels import mfcc_frames
assert mfcc(np.ones(1000, np.float32), FrontEnd()).shape == (2, 40)
print(sum(mfcc_frames.stats.cache_hits.values()))
"""


def run_python(code: str, cwd: Path, python: str = sys.executable, **options: object) -> str:
    command = [python, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def environment(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "PYTHONPATH"}}
    return kept | changes


def cache_files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb[ic]")}


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numba")
    run_python(FIRST_FRAMES, ROOT, env=environment(NUMBA_CACHE_DIR=str(folder)))
    return folder


def test_the_second_process_takes_the_kernels_from_the_cache(warm_cache: Path) -> None:
    written = cache_files(warm_cache)
    assert written
    assert run_python(FIRST_FRAMES, ROOT, env=environment(NUMBA_CACHE_DIR=str(warm_cache))) == "1"
    assert cache_files(warm_cache) == written


@pytest.mark.parametrize("damage", [b"", b"\0" * 4096], ids=["empty", "zeros"])
def test_a_cache_damaged_by_a_power_cut_does_not_stop_it(warm_cache: Path, tmp_path: Path, damage: bytes) -> None:
    shutil.copytree(warm_cache, tmp_path, dirs_exist_ok=True)
    for path in cache_files(tmp_path):
        path.write_bytes(damage)
    run_python(FIRST_FRAMES, ROOT, env=environment(NUMBA_CACHE_DIR=str(tmp_path)))


def copy_of_the_package(folder: Path) -> Path:
    shutil.copytree(ROOT / "serstream", folder / "serstream", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_without_any_folder_to_cache_in_it_runs_all_the_same(tmp_path: Path) -> None:
    # a file where Numba wants a folder, and a home in which not even root can make one
    (copy_of_the_package(tmp_path) / "serstream" / "__pycache__").touch()
    run_python(FIRST_FRAMES, tmp_path, env=environment(HOME="/proc/1/nowhere"))


def python_for_anyone(become: Callable[[], None], env: dict[str, str]) -> str:
    """Return an interpreter of this version that another user may start, with what is installed here."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            subprocess.run([python, "-c", "import numba"], cwd="/", env=env, preexec_fn=become, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return python
    pytest.skip("another user may read no Python of this version with Numba")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_may_write_nowhere_runs_it_all_the_same() -> None:
    nobody = pwd.getpwnam("nobody")

    def become_nobody() -> None:
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)

    with tempfile.TemporaryDirectory() as name:
        folder = copy_of_the_package(Path(name))
        folder.chmod(0o755)
        env = environment(HOME="/nonexistent", PYTHONPATH=os.pathsep.join(site.getsitepackages()))
        python = python_for_anyone(become_nobody, env)
        run_python(FIRST_FRAMES, folder, python, env=env, preexec_fn=become_nobody)
        assert not cache_files(folder)
