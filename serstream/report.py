"""What ``analyze`` and ``devices`` print."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import msgspec

from serstream.analysis import Analysis
from serstream.emotionml import EmotionML
from serstream.events import LABELS, VOICES

COLUMNS = ("file", "part", "start_s", "end_s", "label", "probability", *LABELS, *VOICES, "error")


class Report:
    """Prints analyses as they come: ``table``, ``json`` (an object a line), ``csv`` or ``emotionml``."""

    def __init__(self, kind: str, *, steps: bool, out: TextIO) -> None:
        self._kind, self._steps, self._out = kind, steps, out
        self._wrote_header = False
        self._document = EmotionML(out) if kind == "emotionml" else None

    def add(self, path: Path, analysis: Analysis) -> None:
        """Print one analysis."""
        if self._kind == "json":
            fields = {"file": _text(path)} | msgspec.to_builtins(analysis)
            if not self._steps:
                del fields["steps"]
            self._line(msgspec.json.encode(fields).decode())
            return
        rows = list(_rows(path, analysis, steps=self._steps))
        if self._document is not None:
            _mark_up(path, rows, self._document)
        elif self._kind == "csv":
            self._csv(rows)
        else:
            self._table(path, analysis, rows)

    def fail(self, path: Path, error: Exception) -> None:
        """Print that a file could not be analysed; table and emotionml leave it to standard error."""
        if self._kind == "json":
            self._line(msgspec.json.encode({"file": _text(path), "error": _text(error)}).decode())
        elif self._kind == "csv":
            self._csv([{"file": _text(path), "error": _text(error)}])

    def close(self) -> None:
        """Print what stands behind the last file."""
        if self._document is not None:
            self._document.close()

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def _csv(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        if not self._wrote_header:
            writer.writeheader()
            self._wrote_header = True
        writer.writerows(rows)
        self._line(text.getvalue().rstrip("\n"))

    def _table(self, path: Path, analysis: Analysis, rows: list[dict[str, Any]]) -> None:
        verdict = "no speech" if analysis.label is None else f"{analysis.label} {analysis.probability:.2f}"
        self._line(f"{_text(path)}  {analysis.duration_s:.2f} s  {verdict}")
        self._line(f"  {'':9}  {'from':>7}  {'to':>7}  " + "  ".join(f"{n:>7}" for n in (*LABELS, *VOICES)) + "  label")
        for row in rows:
            shares = "  ".join(f"{_cell(row.get(n)):>7}" for n in (*LABELS, *VOICES))
            times = (
                f"{row['start_s']:7.2f}  {row['end_s']:7.2f}" if "start_s" in row else f"{'':7}  {row['end_s']:7.2f}"
            )
            self._line(f"  {row['part']:9}  {times}  {shares}  {row['label'] or '-'}")


def _text(value: object) -> str:
    """Return what can be printed of a path, whose bytes need not be UTF-8."""
    return str(value).encode(errors="surrogateescape").decode(errors="replace")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"


def _rows(path: Path, analysis: Analysis, *, steps: bool) -> Iterator[dict[str, Any]]:
    """Yield the recording, its utterances and its steps, under the names of the columns."""
    whole = {
        "start_s": 0.0,
        "end_s": analysis.duration_s,
        "label": analysis.label,
        "probability": analysis.probability,
    }
    yield {
        "file": _text(path),
        "part": "recording",
        **whole,
        **(analysis.posterior or {}),
        **(analysis.voice or {}),
    }
    for u in analysis.utterances:
        shown = {"start_s": u.start_s, "end_s": u.end_s, "label": u.label, "probability": u.probability}
        yield {"file": _text(path), "part": "utterance", **shown, **(u.posterior or {})}
    for s in analysis.steps if steps else []:
        shown = {"end_s": s.stream_s, "label": s.state}
        yield {"file": _text(path), "part": "step", **shown, **(s.posterior or {}), **(s.voice or {})}


def _mark_up(path: Path, rows: list[dict[str, Any]], document: EmotionML) -> None:
    """Add every part that has a posterior, at its milliseconds in the recording."""
    uri = quote(os.fsencode(path))
    for row in rows:
        posterior: dict[str, float] = {label: row[label] for label in LABELS if label in row}
        if posterior:
            start_s = row.get("start_s", row["end_s"])
            times = {"offset-to-start": round(start_s * 1e3), "duration": round((row["end_s"] - start_s) * 1e3)}
            document.add(posterior, times, {"part": row["part"]}, uri)


def device_table(rows: list[dict[str, Any]]) -> str:
    """Return the microphones as aligned lines."""
    names = [next(iter(r["identities"]), "-") for r in rows]
    width, wide = max(4, *(len(r["name"]) for r in rows)), max(8, *map(len, names))
    lines = [f"{'name':{width}}  {'identity':{wide}}  {'channels':>8}  {'rate':>8}  {'host API':10}  used by"]
    for r, name in zip(rows, names, strict=True):
        mark = ", ".join(r["used_by"]) or "-"
        figures = f"{r['max_input_channels']:>8}  {r['default_rate']:>5} Hz"
        lines.append(f"{r['name']:{width}}  {name:{wide}}  {figures}  {r['host_api']:10}  {mark}")
    return "\n".join(lines)
