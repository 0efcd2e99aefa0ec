"""One target, in a process of its own: fuzzed by atheris, or given again what was kept of that. For ``fuzz.py``.

``python scripts/fuzz_one.py fuzz TARGET CORPUS [OPTION OF LIBFUZZER...]``, or ``again TARGET CORPUS``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

FOLLOWED = ["serstream", "yaml"]
"""Packages whose ways atheris follows."""
LEFT = ["serstream.kernels", "serstream.lanes", "serstream.resampler", "serstream.sameness"]
"""What it leaves as it is: Numba compiles the first two, and of arrays that are compared atheris keeps the result."""
LIMITS = ("-max_len=20000", "-rss_limit_mb=2048", "-timeout=20", "-print_final_stats=1")
READ_AGAIN = 5_000


def fuzz(name: str, corpus: str, *options: str) -> None:
    """Fuzz, until the options of libFuzzer end this process."""
    import atheris

    with atheris.instrument_imports(include=FOLLOWED, exclude=LEFT):
        from fuzzed import TARGETS
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, TARGETS[name](Path(folder)) as read:
        atheris.Setup([sys.argv[0], *LIMITS, *options, corpus], read)
        atheris.Fuzz()


def again(name: str, corpus: str) -> None:
    """Read what was kept, mutated too; print by how many megabytes memory grew in the second half of that."""
    from fuzzed import TARGETS, mutated
    from memory import settled_mb

    kept = [path.read_bytes() for path in sorted(Path(corpus).iterdir())]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, TARGETS[name](Path(folder)) as read:
        marks = []
        for turn in range(2):
            for data in [*kept, *mutated(kept, READ_AGAIN, seed=turn)]:
                read(data)
            marks.append(settled_mb())
    print(round(marks[1] - marks[0], 3), flush=True)


if __name__ == "__main__":
    {"fuzz": fuzz, "again": again}[sys.argv[1]](*sys.argv[2:])
