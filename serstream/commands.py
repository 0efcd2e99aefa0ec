"""The commands that ask no running daemon; each imports what it needs: a subscriber never loads sound or model."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from serstream.chosen import choose, sources_ready
from serstream.config import MicrophoneSource, NetworkSource, check_source_id, load
from serstream.errors import ConfigError, SourceError
from serstream.events import AnyEvent
from serstream.logs import log_to_stderr
from serstream.transport import Lost, Subscriber

if TYPE_CHECKING:
    from serstream.daemon import Daemon


def run(args: argparse.Namespace) -> int:
    """Run the daemon; on a terminal, with the live view."""
    _end_quietly_when_asked()
    terminal = sys.stdout.isatty()
    base, path = load(args.config)
    log_to_stderr(("error" if terminal and sys.stderr.isatty() else base.log_level).upper())
    config = sources_ready(choose(base, args), terminal=terminal, chosen=args.source)
    record = _folder(args.record)
    from serstream.daemon import Daemon  # which takes a second: what is wrong was said before

    daemon = Daemon(config, path, base=base, record=record)
    gc.freeze()  # to go over all that is loaded would stop every stream for a tenth of a second, now and then
    if terminal:
        _run_with_view(daemon)
    else:
        daemon.run()
    return 0


def _folder(path: Path | None) -> Path | None:
    """Make the folder of ``--record`` where there is none."""
    try:
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK):
                raise ConfigError(f"--record {path} may not be written to by this user; name another folder")
    except OSError as error:
        raise ConfigError(f"--record {path} is no folder to write to: {error.strerror}; name another") from error
    return None if path is None else path.resolve()


def _end_quietly_when_asked() -> None:
    """Obey SIGTERM and SIGINT until the daemon does: nothing is open yet that would have to be closed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(0))


def _run_with_view(daemon: Daemon) -> None:
    """Serve in this thread, which gets the signals, and draw in another."""
    from rich.console import Console

    from serstream.view import ViewState, run_view

    ended = threading.Event()
    source = next(iter(daemon.config.sources))
    state = ViewState(source=source, waiting_for="the first sound")
    publisher = daemon.publisher

    def draw() -> None:
        key = None if daemon.gate is None else daemon.gate.guest
        with Subscriber(publisher.events_endpoint, publisher.control_endpoint, key=key) as subscriber:

            def receive(timeout_s: float) -> AnyEvent | Lost | None:
                if ended.is_set():
                    raise EOFError
                return subscriber.receive(timeout_s)

            run_view(receive, Console(), state=state)

    # from here on the terminal must be given back, however early or often Ctrl-C comes
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: daemon.stop())
    view = threading.Thread(target=draw, name="serstream-view", daemon=True)
    view.start()
    try:
        daemon.run()
    finally:
        ended.set()
        view.join(1.0)


def listen(args: argparse.Namespace) -> int:
    """Show events: live on a terminal, else a line each."""
    from rich.console import Console

    from serstream.view import ViewState, print_json, print_lines, run_view

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the terminal is given back, as after Ctrl-C
    with Subscriber(args.connect, args.control, source=args.source, **_keys(args)) as subscriber:
        if args.json:
            print_json(subscriber.receive, sys.stdout)
        elif sys.stdout.isatty():
            state = ViewState(
                source=args.source,
                waiting_for=f"a daemon at {args.connect}",
                hint="start one in another terminal: serstream run",
            )
            run_view(subscriber.receive, Console(), state=state)
        else:
            print_lines(subscriber.receive, sys.stdout)
    return 0


def _keys(args: argparse.Namespace) -> dict[str, Any]:
    return {"key": args.key, "server_key": args.server_key}


def send(args: argparse.Namespace) -> int:
    """Send a source to a daemon elsewhere, and say at the end how much that was."""
    _end_quietly_when_asked()
    base = load(args.config)[0]
    log_to_stderr(base.log_level.upper())
    config = choose(base, args)
    ((source_id, chosen),) = config.sources.items()
    if isinstance(chosen, NetworkSource):
        raise ConfigError(f"source {source_id!r} hears the network itself; name a source that hears this machine")
    stream = source_id if args.stream is None else args.stream
    check_source_id(stream, "--stream")
    from serstream.audio import Outlet
    from serstream.sending import Sending
    from serstream.sources import make

    outlet = Outlet(args.to, stream, args.format, **_keys(args))
    sources_ready(config, terminal=sys.stdout.isatty(), chosen=args.source)
    sending = Sending(make(chosen), outlet, live=isinstance(chosen, MicrophoneSource))
    sending.run()
    if args.json:
        said = {"stream": stream, "to": args.to, "sent_s": sending.sent_s, "dropped_s": sending.dropped_s}
        print(json.dumps(said))
    else:
        print(f"sent {sending.sent_s:.1f} s to {args.to} as stream {stream}, dropped {sending.dropped_s:.1f} s")
    return 0


def analyze(args: argparse.Namespace) -> int:
    """Analyse recordings one after another; a file that cannot be read does not stop the others."""
    config = load(args.config)[0]
    from serstream.analysis import analyze as hear
    from serstream.daemon import find_model
    from serstream.profiles import find as find_profile
    from serstream.report import Report
    from serstream.sources import read_file

    model = find_model(config.model)
    profile = None if args.profile is None else find_profile(args.profile, model.manifest.front_end).mean
    report = Report(args.format, steps=args.steps, out=sys.stdout)
    failed = False
    for path in args.files:
        try:
            mean = model.manifest.cepstral_mean(profile)
            report.add(path, hear(read_file(path), model, config, mean).analysis)
        except SourceError as error:
            failed = True
            report.fail(path, error)
            if args.format != "json":
                print(f"serstream: {error}", file=sys.stderr)
    report.close()
    return 1 if failed else 0


def history(args: argparse.Namespace) -> int:
    """Print the events of a journal, of a running daemon or not."""
    from datetime import datetime

    from serstream.journal_file import find_path
    from serstream.journal_reader import JournalReader, Wanted
    from serstream.journal_report import PRINTERS
    from serstream.moments import moment_ms

    if args.source is not None:
        check_source_id(args.source, "--source")
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit {args.limit} asks for no event; allowed is a whole number from 1")
    now = datetime.now().astimezone()
    since, until = (
        None if text is None else moment_ms(text, option, now)
        for text, option in ((args.since, "--since"), (args.until, "--until"))
    )
    if args.journal is None:
        kept = load(args.config)[0].journal
        path = find_path(None if kept is None else kept.path)
    else:
        path = args.journal
    with JournalReader(path) as reader:
        wanted = Wanted(since, until, args.source, args.type, args.session, args.limit)
        PRINTERS[args.format](reader.events(wanted), sys.stdout)
    return 0


def enroll(args: argparse.Namespace) -> int:
    """Make the profile of a voice, and say where it is and how it is used."""
    config = load(args.config)[0]
    from serstream import enroll as enrolling
    from serstream import profiles
    from serstream.daemon import find_model
    from serstream.network import Network

    enrolling.check_seconds(args.seconds)
    path = profiles.own_path(args.name)
    source = enrolling.choose_source(config, args.source)
    profiles.check_writable(path)
    enrolling.check_source(source)
    profile = enrolling.enroll(
        source,
        Network(find_model(config.model), config.runtime),
        name=args.name,
        threshold=config.speech.threshold,
        wanted_s=args.seconds,
    )
    replaced = path.exists()
    profiles.write(path, profile)
    if args.json:
        said = {"name": args.name, "path": str(path), "speech_s": profile.speech_s, "created": profile.created}
        print(json.dumps(said | {"replaced": replaced}))
        return 0
    print(f"{'replaced' if replaced else 'wrote'} {path}: one mean of {profile.speech_s:.1f} s of speech, no sound")
    print(f"a source of the configuration starts from it with this line:\n    profile: {args.name}")
    return 0


def devices(args: argparse.Namespace) -> int:
    """List the microphones, and mark which one each configured source would use."""
    from serstream.capture import choose
    from serstream.sources import devices as find_devices

    config = load(args.config)[0]
    found = find_devices()
    used: dict[str, list[str]] = {}
    for source_id, source in config.sources.items():
        if isinstance(source, MicrophoneSource):
            try:
                used.setdefault(choose(found, source.device).name, []).append(source_id)
            except SourceError as error:
                print(f"serstream: source {source_id}: {error}", file=sys.stderr)
    rows = [device._asdict() | {"name": device.stable_name, "used_by": used.get(device.name, [])} for device in found]
    if args.json:
        print(json.dumps(rows))
        return 0
    if not rows:
        print("no microphone found; plug one in, see `serstream doctor`, or run `serstream run --source demo`")
        return 0
    from serstream.report import device_table

    print(device_table(rows))
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Find what is wrong on this machine, and say what helps."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started to look is ended, as after Ctrl-C
    from serstream.checks import About
    from serstream.doctor import run as examine
    from serstream.findings import Keys

    path = None if args.config is None else str(args.config)
    return examine(About(path, Keys(args.key, args.server_key)), listen=args.capture, as_json=args.json)


def keygen(args: argparse.Namespace) -> int:
    """Make a key pair, and say what it is good for."""
    from serstream import keys

    folder = keys.own_folder() if args.dir is None else args.dir
    pair = keys.create(args.name, folder)
    secret, public = (folder / f"{args.name}{suffix}" for suffix in (keys.SECRET, keys.PUBLIC))
    if args.json:
        print(json.dumps({"secret": str(secret), "public": str(public), "key": pair.public.decode()}))
        return 0
    print(f"a daemon: transport.curve of its configuration has key: {secret}, and its clients get a copy of {public}")
    print(f"a client: --key {secret}, and the daemon's list of clients gets the line: {pair.client_line('listen')}")
    return 0


def service(args: argparse.Namespace) -> int:
    """Install or uninstall the systemd service, and say each step."""
    from serstream import service as systemd_service

    user = systemd_service.desktop_session() if args.user is None else args.user
    for line in getattr(systemd_service, args.action)(user=user):
        print(line)
    return 0


def bench(args: argparse.Namespace) -> int:
    """Measure what serstream costs on this machine."""
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # what was started to be measured is ended, as after Ctrl-C
    from serstream.bench.cores import one_core

    with one_core():  # so that NumPy shares no work with other threads
        from serstream.bench import registry, results

    found = results.run(registry.choose(args.only), quick=args.quick)
    if args.json:
        print(msgspec.json.encode(found).decode())
    else:
        results.show(found)
    return 0
