"""serstream hears how something is said: a microphone goes in, emotion events come out over ZeroMQ.

A subscriber needs this module alone, which loads ZeroMQ and msgspec when first used::

    from serstream import Subscriber

    for event in Subscriber():
        print(event)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serstream.errors import (
        ConfigError,
        EventError,
        ModelError,
        SerstreamError,
        ServiceError,
        SourceError,
        TransportError,
    )
    from serstream.events import AnyEvent, Emotion, Event, Gap, Health, Posterior, Speech, decode
    from serstream.transport import Lost, Subscriber, request

__version__ = "0.1.0"

__all__ = [
    "AnyEvent",
    "ConfigError",
    "Emotion",
    "Event",
    "EventError",
    "Gap",
    "Health",
    "Lost",
    "ModelError",
    "Posterior",
    "SerstreamError",
    "ServiceError",
    "SourceError",
    "Speech",
    "Subscriber",
    "TransportError",
    "__version__",
    "decode",
    "request",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: the capture process needs none of them."""
    if name in __all__:
        for module in ("serstream.errors", "serstream.events", "serstream.transport"):
            if hasattr(found := import_module(module), name):
                return getattr(found, name)
    raise AttributeError(f"module 'serstream' has no attribute {name!r}")
