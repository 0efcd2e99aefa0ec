"""Put what ``serstream bench`` found into README.md and docs/performance.md: the tables between their marks.

    serstream bench --json > benchmarks/figures.json && python benchmarks/tables.py

``--check`` writes nothing, and ends with 1 if a table is not that of the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from serstream.bench.measuring import Figure
from serstream.bench.results import Results

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- costs -->\n", "<!-- /costs -->"
IN_README = (
    "mfcc_us_per_frame",
    "mfcc_speed_against_kaldi_native_fbank",
    "mfcc_speed_against_librosa",
    "middle_ms_per_audio_s",
    "middle_speed_against_opensmile",
    "analyze_s",
    "latency_p99_ms",
    "ready_s",
    "microphone_cpu_percent",
    "microphone_pss_mb",
    "microphone_latency_s",
)


def table(results: Results, figures: Iterable[Figure]) -> str:
    """Return a table of Markdown."""
    rows = [f"| median on {results.machine} | | half of the turns | turns |", "|---|---|---|---|"]
    rows += [f"| {f.about} | {f.median:g} {f.unit} | {f.spread[0]:g} to {f.spread[1]:g} | {f.n} |" for f in figures]
    return "\n".join(rows) + "\n"


def between(text: str, new: str) -> str:
    """Return a document with ``new`` between its marks."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + new + END + rest.partition(END)[2]


def main() -> int:
    """Write the tables, or check them."""
    results = msgspec.json.decode((ROOT / "benchmarks" / "figures.json").read_bytes(), type=Results)
    documents = {
        ROOT / "README.md": table(results, [results.figures[name] for name in IN_README]),
        ROOT / "docs" / "performance.md": table(results, results.figures.values()),
    }
    wrong = []
    for path, new in documents.items():
        old = path.read_text(encoding="utf-8")
        if (text := between(old, new)) == old:
            continue
        wrong.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if wrong and "--check" in sys.argv:
        print(f"{', '.join(wrong)}: not the figures of benchmarks/figures.json; run python benchmarks/tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
