"""Percentiles of the last minute: the same as of all that counts, sorted anew."""

from hypothesis import given
from hypothesis import strategies as st

from serstream.latencies import Latencies

MEMORY_S, MOST = 10.0, 20
measured = st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 50)), max_size=80)


@given(measured, st.floats(0.0, 15.0), st.floats(0.0, 1.0))
def test_percentiles_are_those_of_the_newest_within_the_memory(
    steps: list[tuple[float, int]], pause_s: float, share: float
) -> None:
    latencies, now_s, taken = Latencies(MEMORY_S, MOST), 0.0, []
    for after_s, size in steps:
        now_s += after_s
        taken.append((now_s, size / 1e3))
        latencies.add(size / 1e3, now_s)
    now_s += pause_s
    latencies.pass_by(now_s)
    left = sorted(latency_s for at_s, latency_s in taken[-MOST:] if now_s - at_s <= MEMORY_S)
    expected = left[min(len(left) - 1, int(share * len(left)))] if left else 0.0
    assert latencies.percentile(share) == expected


def test_a_percentile_is_one_of_them_in_order_of_size() -> None:
    latencies = Latencies(MEMORY_S, MOST)
    for i in (3, 1, 2, 5, 4):
        latencies.add(float(i), 0.0)
    assert [latencies.percentile(share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 5.0, 5.0]
