"""The table of scores in README and model card, from the figures that a manifest keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from serstream.classifier import Manifest, load_model

MARKED = re.compile(r"(<!-- scores -->\n).*?(<!-- /scores -->)", re.DOTALL)
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
    text = table(load_model(folder).manifest)
    for path in documents:
        path.write_text(MARKED.sub(rf"\g<1>{text}\g<2>", path.read_text(encoding="utf-8")), encoding="utf-8")
