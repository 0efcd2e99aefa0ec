"""Where the files that ship with the package are: inside the wheel, or at the top of a checkout."""

import os
from pathlib import Path

_PACKAGED = Path(__file__).parent / "data"
_CHECKOUT = Path(__file__).parent.parent
_IN_CHECKOUT = {"serstream.service": "systemd/serstream.service"}


def packaged(name: str) -> Path:
    """Return the path of a shipped file or folder.

    Parameters
    ----------
    name : str
        ``config.yaml``, ``serstream.service``, ``demo.flac`` or ``models/<name>``.

    Raises
    ------
    FileNotFoundError
        If the installation lacks it.
    """
    for path in (_PACKAGED / name, _CHECKOUT / _IN_CHECKOUT.get(name, name)):
        if os.path.exists(path):  # which, unlike Path.exists, never raises
            return path
    raise FileNotFoundError(f"{name} is missing from the installation in {_PACKAGED.parent}; install serstream again")
