"""Endpoints as text: which may be bound and which connected to. Pure: a configuration is checked without ZeroMQ."""

from __future__ import annotations

import ipaddress
import re

from serstream.errors import ConfigError

EVENTS_ENDPOINT = "tcp://127.0.0.1:5755"
CONTROL_ENDPOINT = "tcp://127.0.0.1:5756"
AUDIO_ENDPOINT = "tcp://127.0.0.1:5757"


def check_bind(endpoint: str, where: str, *, insecure: bool, inproc: bool = False) -> None:
    """Raise :class:`ConfigError` unless an endpoint may be bound; ``where`` begins the sentence.

    ``insecure`` allows addresses other than loopback: what is served there is encrypted, or the user wants it so.
    """
    host = _host(endpoint, where, r"\d{1,5}|\*", inproc=inproc)
    if host and not insecure and not _is_loopback(host):
        raise ConfigError(
            f"{where} {endpoint[:200]!r}, which would be open to other machines, unencrypted; bind 127.0.0.1 or an "
            "ipc:// path, give keys with transport.curve, or set transport.insecure to true"
        )


def check_connect(endpoint: str, *, inproc: bool = False) -> None:
    """Raise :class:`ConfigError` unless one can connect to an endpoint."""
    _host(endpoint, "the endpoint is", r"[1-9]\d{0,4}", inproc=inproc)


def _host(endpoint: str, where: str, port: str, *, inproc: bool) -> str:
    """Return the host of a TCP endpoint, empty for others."""
    tcp = re.fullmatch(rf"tcp://(\[[^\]]+\]|[^:/\s]+):({port})", endpoint)
    if tcp and (not tcp[2].isdigit() or int(tcp[2]) < 65_536):
        return tcp[1].strip("[]")
    if re.match(r"(ipc|inproc)://." if inproc else r"ipc://.", endpoint):
        return ""
    raise ConfigError(
        f"{where} {endpoint[:200]!r}, which cannot be used; "
        "allowed are tcp://HOST:PORT with a port up to 65535, and ipc://PATH"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, an interface or *
        return False
