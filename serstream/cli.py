"""The command line: what may be typed, and how it ends. Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from serstream import __version__
from serstream.addresses import AUDIO_ENDPOINT, CONTROL_ENDPOINT, EVENTS_ENDPOINT
from serstream.errors import ConfigError, SerstreamError
from serstream.transport import TYPES

ASKING = {
    "status": "show how a running daemon is",
    "mute": "close the microphone of a running daemon",
    "unmute": "open it again",
    "reload": "make a running daemon read its configuration again",
}
"""The commands that ask a running daemon."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="serstream", description="Hear how something is said, and publish it as events.")
    top.add_argument("--version", action="version", version=f"serstream {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_listen(commands)
    _add_send(commands)
    _add_analyze(commands)
    _add_enroll(commands)
    _add_history(commands)
    p = commands.add_parser("devices", help="list microphones with their stable names")
    _add_config(p)
    p.add_argument("--json", action="store_true", help="print one JSON array")
    p = commands.add_parser("doctor", help="find what is wrong on this machine, and what helps")
    _add_config(p)
    p.add_argument("--no-capture", dest="capture", action="store_false", help="leave every microphone closed")
    _add_keys(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    for name, text in ASKING.items():
        p = commands.add_parser(name, help=text)
        p.add_argument("--control", default=CONTROL_ENDPOINT, metavar="URL", help="control endpoint (%(default)s)")
        _add_keys(p)
        p.add_argument("--json", action="store_true", help="print one JSON object")
        if name in {"mute", "unmute"}:
            p.add_argument("--source", metavar="ID", help="one source instead of all")
    _add_keygen(commands)
    _add_service(commands)
    _add_bench(commands)
    return top


def _add_config(p: argparse.ArgumentParser) -> None:
    p.add_argument("--config", type=Path, metavar="FILE", help="configuration instead of the one that would be found")


def _add_keys(p: argparse.ArgumentParser) -> None:
    p.add_argument("--key", metavar="NAME|FILE", help="your secret key, for a daemon that asks for one")
    p.add_argument("--server-key", metavar="NAME|FILE", help="the public key of that daemon (serstream)")


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("run", help="run the daemon; on a terminal, show what it hears")
    _add_config(p)
    p.add_argument(
        "--source",
        metavar="ID|mic|demo|-|FILE",
        help="a source of the configuration, the default microphone, the embedded demo, standard input, or a recording",
    )
    p.add_argument(
        "--record", type=Path, metavar="DIR", help="write when blocks and holes came, and the counters; never any sound"
    )
    _add_stdin(p)


def _add_stdin(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--stdin-format",
        choices=("s16le", "s32le", "f32le"),
        default="s16le",
        help="sample format of standard input (%(default)s)",
    )
    p.add_argument("--rate", type=int, default=16_000, metavar="HZ", help="sample rate of standard input (%(default)s)")
    p.add_argument("--channels", type=int, default=1, metavar="N", help="channels of standard input (%(default)s)")


def _add_listen(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("listen", help="show the events of a running daemon, live")
    p.add_argument("--connect", default=EVENTS_ENDPOINT, metavar="URL", help="events endpoint (%(default)s)")
    p.add_argument("--control", default=CONTROL_ENDPOINT, metavar="URL", help="control endpoint (%(default)s)")
    p.add_argument("--source", metavar="ID", help="one source instead of all")
    _add_keys(p)
    p.add_argument("--json", action="store_true", help="print every event as a line of JSON")


def _add_send(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("send", help="send sound to a daemon elsewhere that has a network source for it")
    _add_config(p)
    p.add_argument(
        "source",
        metavar="ID|mic|demo|-|FILE",
        help="a source of the configuration, the default microphone, the embedded demo, standard input, or a recording",
    )
    p.add_argument(
        "--to",
        default=AUDIO_ENDPOINT,
        metavar="URL",
        help="where the daemon takes sound (%(default)s)",
    )
    p.add_argument("--stream", metavar="NAME", help="which of its streams this is (the id of the source)")
    p.add_argument(
        "--format",
        choices=("f32le", "s16le"),
        default="f32le",
        help="samples on the wire, exact or half as large (%(default)s)",
    )
    _add_keys(p)
    _add_stdin(p)
    p.add_argument("--json", action="store_true", help="print one JSON object at the end")


def _add_analyze(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("analyze", help="analyse recordings (WAV, FLAC, OGG, MP3)")
    _add_config(p)
    p.add_argument("files", nargs="+", type=Path, metavar="FILE")
    _add_format(p)
    p.add_argument("--steps", action="store_true", help="also every step of about 0.25 s")
    p.add_argument("--profile", metavar="NAME|PATH", help="start each file from the profile of a voice")


def _add_format(p: argparse.ArgumentParser) -> None:
    formats = ("table", "json", "csv", "emotionml")
    p.add_argument("--format", choices=formats, default="table", help="what to print (%(default)s)")
    p.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")


def _add_history(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("history", help="show the events of the journal, where one is kept")
    _add_config(p)
    p.add_argument("--journal", type=Path, metavar="PATH", help="journal instead of that of the configuration")
    p.add_argument("--since", metavar="T", help="30m, 2h or 3d (before now), today, yesterday, or 2026-01-31T18:00:00Z")
    p.add_argument("--until", metavar="T", help="up to then")
    p.add_argument("--source", metavar="ID", help="one source instead of all")
    p.add_argument("--type", nargs="+", choices=TYPES, default=(), help="these types instead of all")
    p.add_argument("--session", metavar="UUID", help="one session of the daemon instead of all")
    p.add_argument("--limit", type=int, metavar="N", help="the newest N of them")
    _add_format(p)


def _add_enroll(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser(
        "enroll", help="make the profile of a voice, a mean and no sound, for a source to start from"
    )
    _add_config(p)
    p.add_argument("name", nargs="?", default="default", metavar="NAME", help="name of the profile (%(default)s)")
    p.add_argument(
        "--source",
        metavar="ID|mic|FILE",
        help="a source of the configuration, the default microphone or a recording (the first configured microphone)",
    )
    p.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="seconds of speech, 10 to 300 (%(default)g)"
    )
    p.add_argument("--json", action="store_true", help="print one JSON object")


def _add_keygen(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("keygen", help="make a key pair, for a daemon or a client")
    p.add_argument("name", nargs="?", default="serstream", metavar="NAME", help="name of the pair (%(default)s)")
    p.add_argument("--dir", type=Path, metavar="FOLDER", help="where to (keys, in your folder of configurations)")
    p.add_argument("--json", action="store_true", help="print one JSON object")


def _add_service(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("service", help="install or uninstall the systemd service")
    p.add_argument("action", choices=("install", "uninstall"))
    scope = p.add_mutually_exclusive_group()
    scope.add_argument("--user", action="store_true", default=None, help="for this user (default in a desktop session)")
    scope.add_argument(
        "--system",
        dest="user",
        action="store_false",
        help="for the machine, in /opt/serstream (default elsewhere)",
    )


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("bench", help="measure what serstream costs on this machine, other libraries beside it")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--only", nargs="+", metavar="NAME", help="measure this alone; a wrong name is told which there are")
    p.add_argument("--quick", action="store_true", help="few and short turns, to see that it runs")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    0, 1 for a failure, 2 for wrong usage or configuration, 130 for what Ctrl-C left half done.
    """
    _stand_in()
    args, unknown = parser().parse_known_args(arguments)
    try:
        if unknown:
            raise ConfigError(
                f"{args.command} takes no {unknown[0]!r}; serstream {args.command} --help says what it takes"
            )
        from serstream import asking, commands

        status: int = getattr(asking if args.command in ASKING else commands, args.command)(args)
        sys.stdout.flush()
    except SerstreamError as error:
        print(f"serstream: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 0 if args.command in {"run", "listen", "send"} else 128 + signal.SIGINT
    except BrokenPipeError:
        # whoever read our output has gone, as `head` does; the interpreter must not try to flush it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _stand_in() -> None:
    """Open nothing for each closed standard stream, or the next file or socket would get its descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives


if __name__ == "__main__":
    sys.exit(main())
