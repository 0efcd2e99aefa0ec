"""Put what ``serstream bench`` found into README.md and docs/performance.md: the tables between their marks, a picture.

    serstream bench --json > benchmarks/figures.json && python benchmarks/tables.py

``--check`` writes nothing, and ends with 1 if a table or docs/streams.svg is not that of the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
from plot import costs, picture

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
    "real_time_streams",
    "real_time_streams_p99_ms",
)
PICTURE = "\n![CPU for a second of a stream, by how many there are](streams.svg)\n"


def table(results: Results, figures: Iterable[Figure]) -> str:
    """Return a table of Markdown."""
    rows = [f"| median on {results.machine} | | half of the turns | turns |", "|---|---|---|---|"]
    rows += [f"| {f.about} | {f.median:g} {f.unit} | {f.spread[0]:g} to {f.spread[1]:g} | {f.n} |" for f in figures]
    return "\n".join(rows) + "\n"


def between(text: str, new: str) -> str:
    """Return a document with ``new`` between its marks."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + new + END + rest.partition(END)[2]


def documents(results: Results) -> dict[Path, str]:
    """Return what is to be in each file."""
    readme, performance = ROOT / "README.md", ROOT / "docs" / "performance.md"
    short = table(results, [results.figures[name] for name in IN_README if name in results.figures])
    found = {readme: between(readme.read_text(encoding="utf-8"), short)}
    whole = table(results, results.figures.values())
    if points := costs(results.figures):
        found[performance.with_name("streams.svg")] = picture(points, results.machine.cpu)
        whole += PICTURE
    return found | {performance: between(performance.read_text(encoding="utf-8"), whole)}


def main() -> int:
    """Write the tables and the picture, or check them."""
    results = msgspec.json.decode((ROOT / "benchmarks" / "figures.json").read_bytes(), type=Results)
    wrong = []
    for path, text in documents(results).items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
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
