"""Where files are: those that ship with the package, inside the wheel or at the top of a checkout, and the user's."""

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


def user_folder(variable: str, default: str) -> Path | None:
    """Return the folder that a variable names, or that of this name at home; None for a user without a home."""
    home = os.path.expanduser("~")  # stays so for a user without one
    folder = os.environ.get(variable) or ("" if home == "~" else f"{home}/{default}")
    return Path(folder) if folder else None
