"""The file that a long run writes when it is over."""

import argparse
from pathlib import Path


def check_writable(parser: argparse.ArgumentParser, path: Path | None) -> None:
    """End with a sentence if the file of ``--json`` cannot be written: at the end of hours it would be too late."""
    try:
        if path:
            path.open("a").close()
    except OSError as error:
        parser.error(f"--json {path} cannot be written: {error.strerror}; name another file")
