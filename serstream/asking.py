"""The commands that ask a running daemon, and print what it says."""

from __future__ import annotations

import argparse
import json
from typing import Any

from serstream.transport import request


def status(args: argparse.Namespace) -> int:
    """Show how a running daemon is."""
    found = _ask(args)
    if args.json:
        print(json.dumps(found))
        return 0
    for key in ("version", "session", "pid", "uptime_s", "config", "events", "control"):
        print(f"{key:>10}  {found[key]}")
    if audio := found.get("audio"):
        counted = ", ".join(f"{k.replace('_', ' ')} {audio[k]}" for k in ("packets", "refused", "too_fast"))
        print(f"{'audio':>10}  {audio['endpoint']}: {counted}")
    if kept := found.get("journal"):
        trouble = f", {kept['trouble']}" if kept["degraded"] else ""
        counted = ", ".join(f"{key} {kept[key]}" for key in ("written", "waiting", "dropped"))
        print(f"{'journal':>10}  {kept['path']}: {counted}{trouble}")
    model = found["model"]
    print(f"{'model':>10}  {model['name']} ({model['runtime']}, sha256 {model['sha256'][:12]}...)")
    for source_id, source in found["sources"].items():
        counted = ", ".join(f"{k} {v}" for k, v in source["counters"].items() if v)
        state = ", ".join(str(source[key]) for key in ("kind", "status", "fault") if source.get(key))
        if (drift_ppm := source.get("drift_ppm")) is not None:
            state += f", its clock {drift_ppm:+.1f} ppm"
        print(f"{source_id:>10}  {state}: {counted or 'nothing heard yet'}")
    return 0


def mute(args: argparse.Namespace) -> int:
    """Close the microphones of a running daemon."""
    return _switch(args, "muted")


def unmute(args: argparse.Namespace) -> int:
    """Open them again."""
    return _switch(args, "listening again")


def _switch(args: argparse.Namespace, word: str) -> int:
    outcome = _ask(args, **({} if args.source is None else {"source": args.source}))
    print(json.dumps(outcome) if args.json else f"{word}: {', '.join(outcome)}")
    return 0


def reload(args: argparse.Namespace) -> int:
    """Make a running daemon read its configuration again."""
    outcome = _ask(args)
    if args.json:
        print(json.dumps(outcome))
        return 0
    print(f"applied: {', '.join(outcome['applied']) or 'nothing changed that can be applied live'}")
    if outcome["needs_restart"]:
        print(f"changed, but needs a restart: {', '.join(outcome['needs_restart'])}")
    return 0


def _ask(args: argparse.Namespace, **fields: Any) -> Any:
    return request(args.control, args.command, key=args.key, server_key=args.server_key, **fields)
