"""Names of a sound card that stay when it is plugged in again: what udev and the kernel know of it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_LINKS = ("dev/snd/by-id", "dev/snd/by-path")
_HARDWARE = re.compile(r"\(hw:(\d+),(\d+)\)")


def identities(name: str, root: Path = Path("/")) -> list[str]:
    """Return the stable names of a device, the best first: of its serial number, of its place, of its kind.

    Parameters
    ----------
    name : str
        As the sound library has it. A sound server's devices and others without a card have no other name.
    root : Path
        Where the system's folders are.
    """
    if not (card_and_device := _HARDWARE.search(name)):
        return []
    card, device = card_and_device.groups()
    found = [link for folder in _LINKS for link in _links(root / folder, f"controlC{card}")]
    found += _usb(root / f"sys/class/sound/card{card}/device")
    return [identity if device == "0" else f"{identity},{device}" for identity in found]


def _links(folder: Path, target: str) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(link.name for link in folder.iterdir() if link.readlink().name == target)
    return []


def _usb(interface: Path) -> list[str]:
    """Return vendor, product and serial number, which systems without udev's links have too."""
    with contextlib.suppress(OSError):
        device = interface.resolve(strict=True).parent
        return ["usb-" + ":".join((device / part).read_text().strip() for part in ("idVendor", "idProduct", "serial"))]
    return []
