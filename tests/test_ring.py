import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serstream.ring import SampleRing, Slot

PERIOD = 65_521
WRITER = """
import sys
import numpy as np
from serstream.ring import SampleRing
ring, total, rng, at = SampleRing(int(sys.argv[1])), int(sys.argv[2]), np.random.default_rng(1), 0
while at < total:
    n = min(total - at, int(rng.integers(1, 600)))
    ring.write(((at + np.arange(n)) % 65521).astype(np.float32))
    at += n
"""


def ramp(first, n_samples):
    """Samples that tell their own index."""
    return ((first + np.arange(n_samples)) % PERIOD).astype(np.float32)


@pytest.fixture
def make_ring():
    rings = []

    def make(capacity, **options):
        rings.append(SampleRing.create(capacity, 16_000, **options))
        return rings[-1]

    yield make
    for ring in rings:
        ring.close()


operations = st.lists(st.tuples(st.booleans(), st.integers(0, 150)), max_size=60)


@given(capacity=st.integers(2, 64), keep=st.integers(0, 64), operations=operations)
def test_every_sample_is_read_once_in_order_or_counted_as_lost(capacity, keep, operations):
    ring = SampleRing.create(capacity, 16_000, keep=keep)
    written = expected = consumed = 0
    for is_write, n_samples in operations:
        if is_write:
            ring.write(ramp(written, n_samples))
            written += n_samples
            continue
        late = ring.backlog > capacity
        first, samples = ring.read(n_samples)
        np.testing.assert_array_equal(samples, ramp(first, samples.size), strict=True)
        assert samples.size <= n_samples
        assert (first > expected) == late
        expected, consumed = first + samples.size, consumed + samples.size
        assert written == ring.header[Slot.WRITE] == consumed + ring.header[Slot.OVERRUNS] + ring.backlog
    ring.close()


def test_a_ring_filled_to_the_brim_loses_nothing(make_ring):
    ring = make_ring(10)
    ring.write(ramp(0, 7))
    ring.read(7)
    ring.write(ramp(7, 10))
    first, samples = ring.read(100)
    assert first == 7
    np.testing.assert_array_equal(samples, ramp(7, 10))
    assert ring.header[Slot.OVERRUNS] == 0


def test_after_an_overrun_the_reader_goes_on_with_the_newest_samples(make_ring):
    ring = make_ring(100, keep=20)
    ring.write(ramp(0, 101))
    first, samples = ring.read(1000)
    assert (first, samples.size, ring.header[Slot.OVERRUNS]) == (81, 20, 81)


@pytest.mark.parametrize("attached", [False, True])
def test_unless_asked_to_keep_some_a_reader_that_was_overrun_goes_on_with_what_comes(make_ring, attached):
    ring = make_ring(100)
    ring.write(ramp(0, 101))
    with closing(SampleRing(os.dup(ring.fd)) if attached else ring) as reader:
        first, samples = reader.read(1000)
        assert (first, samples.size, reader.header[Slot.OVERRUNS]) == (101, 0, 101)


def test_a_reader_that_was_overrun_keeps_half_the_ring_at_most(make_ring):
    ring = make_ring(100, keep=1000)
    ring.write(ramp(0, 250))
    first, samples = ring.read(1000)
    assert (first, samples.size, ring.header[Slot.OVERRUNS]) == (200, 50, 200)


def test_a_writer_that_dies_in_the_middle_of_a_large_block_leaves_half_the_ring(make_ring):
    ring = make_ring(10, keep=5)
    with pytest.raises(ValueError, match="could not convert"):
        ring.write(np.array([*range(19), "what it dies of"], object))
    first, samples = ring.read(1000)
    assert (first, samples.tolist()) == (10, [10, 11, 12, 13, 14])


def test_a_sample_is_captured_at_its_index_behind_the_origin(make_ring):
    ring = make_ring(10)
    ring.header[Slot.ORIGIN_NS] = 2_000_000_000
    assert (ring.captured_s(0), ring.captured_s(8_000)) == (2.0, 2.5)


def test_drift_is_how_much_faster_the_device_is_and_unknown_until_measured(make_ring):
    ring = make_ring(10)
    assert ring.drift_ppm is None
    ring.header[Slot.RATE_UHZ] = 16_000_160_000
    assert ring.drift_ppm == 10.0


def test_what_a_writer_was_about_to_overwrite_is_not_handed_out(make_ring):
    ring = make_ring(100, keep=50)
    ring.write(ramp(0, 100))
    ring.header[Slot.CLAIM] += 50  # the writer was killed between its claim and the end of its copy
    first, samples = ring.read(1000)
    assert first >= 50
    np.testing.assert_array_equal(samples, ramp(first, samples.size))
    assert ring.header[Slot.WRITE] == first + samples.size


def test_two_processes_exchange_samples_and_every_loss_is_counted(make_ring):
    total = 1_000_000
    ring = make_ring(8192, keep=1024)
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", WRITER, str(ring.fd), str(total)]
    writer = subprocess.Popen(command, pass_fds=[ring.fd], cwd=root)
    expected = consumed = jumped = 0
    rng = np.random.default_rng(2)
    while expected < total:
        assert writer.poll() in (None, 0)
        first, samples = ring.read(int(rng.integers(1, 3000)))
        np.testing.assert_array_equal(samples, ramp(first, samples.size))
        jumped += first - expected
        consumed, expected = consumed + samples.size, first + samples.size
    assert writer.wait(10) == 0
    assert jumped == ring.header[Slot.OVERRUNS]
    assert consumed + jumped == total == ring.header[Slot.WRITE]


def test_a_ring_is_memory_of_its_own_and_leaves_no_descriptor_behind():
    ring = SampleRing.create(100, 16_000)
    fd = ring.fd
    assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:serstream-ring ")
    assert not os.get_inheritable(fd)
    ring.close()
    ring.close()
    assert ring.fd == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
