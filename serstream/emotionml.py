"""EmotionML 1.0, the W3C's markup of emotions: a document written as its emotions come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO
from xml.etree import ElementTree as ET

from serstream.events import LABELS

NAMESPACE = "http://www.w3.org/2009/10/emotionml"
DETAILS = "urn:serstream:1"
"""Namespace of what an emotion carries besides: the fields of its event."""


class EmotionML:
    """Writes one document: the vocabulary of the five labels, then an element for every :meth:`add`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        vocabulary = ET.Element("vocabulary", {"type": "category", "id": "labels"})
        for label in LABELS:
            ET.SubElement(vocabulary, "item", {"name": label})
        print('<?xml version="1.0" encoding="UTF-8"?>', file=out)
        print(f'<emotionml version="1.0" xmlns="{NAMESPACE}" category-set="#labels">', file=out)
        self._write(vocabulary)

    def add(
        self,
        posterior: Mapping[str, float],
        times: Mapping[str, int],
        details: Mapping[str, str],
        reference: str | None = None,
    ) -> None:
        """Write an emotion that was heard in a voice.

        Parameters
        ----------
        posterior : mapping of str to float
            Probability (0 to 1) of one or more of the five labels; it becomes the ``confidence`` of a category.
        times : mapping of str to int
            ``start`` and ``end`` in milliseconds since 1970 UTC; or ``offset-to-start`` and ``duration`` in
            milliseconds, of the recording that ``reference`` names.
        details : mapping of str to str
            What else is known, as attributes of an element of its own namespace.
        reference : str, optional
            URI of a recording.
        """
        at = {name: str(value) for name, value in times.items()}
        if reference is not None:
            at["time-ref-uri"] = reference
        emotion = ET.Element("emotion", {"expressed-through": "voice", **at})
        for label, probability in posterior.items():
            ET.SubElement(emotion, "category", {"name": label, "confidence": f"{probability:.4f}"})
        ET.SubElement(ET.SubElement(emotion, "info"), "event", {"xmlns": DETAILS, **details})
        self._write(emotion)

    def close(self) -> None:
        """End the document."""
        print("</emotionml>", file=self._out, flush=True)

    def _write(self, element: ET.Element) -> None:
        ET.indent(element, level=1)
        print(f"  {ET.tostring(element, encoding='unicode')}", file=self._out)
