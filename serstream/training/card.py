"""The table of scores in README and model card, from the figures that a manifest keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serstream.errors import SourceError
from serstream.manifest import Manifest, load_model

HEAD = """| speakers that it never heard | scored | clips | UAR | accuracy | voice UAR | calibration error | uncertain |
|---|---|---|---|---|---|---|---|
"""


def table(manifest: Manifest) -> str:
    """Return the scores as Markdown."""
    return HEAD + "".join(_row(name, figures) for name, figures in manifest.scores.items())


def _row(name: str, f: dict[str, Any]) -> str:
    scored = "twin" if f["fold"] else "shipped weights"
    shares = " | ".join(f"{f[key]:.3f}" for key in ("uar", "accuracy", "voice_uar", "calibration_error", "uncertain"))
    return f"| {name} | {scored} | {f['clips']} | {shares} |\n"


def write(folder: Path, documents: list[Path]) -> None:
    """Put the table of a model between ``<!-- scores -->`` and ``<!-- /scores -->`` of each document."""
    for path in documents:
        put(path, "scores", table(load_model(folder).manifest))


def put(path: Path, name: str, text: str) -> None:
    """Put lines between ``<!-- name -->`` and ``<!-- /name -->`` of a document.

    Raises
    ------
    SourceError
        If it has no such marks, or cannot be read.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    try:
        before, _, marked = path.read_text(encoding="utf-8").partition(begin)
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"document {path} cannot be read ({error}); name a text file") from error
    _, mark, after = marked.partition(end)
    if not mark:
        raise SourceError(f"document {path} has no lines between {begin.strip()} and {end}; put both marks into it")
    path.write_text(before + begin + text + mark + after, encoding="utf-8")
