"""A worker process, ``python -m serstream.work FD``: hears some of the daemon's sources, and tells it what they say.

It ends when the daemon closes its end of the way between them, which the daemon's death does too.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from typing import NoReturn

from serstream.errors import SerstreamError
from serstream.hearing import HEALTH_S, Hearing, Orders, Wishes
from serstream.logs import log_to_stderr
from serstream.relay import Alive, Failed, FromDaemon, Link, Over, Relay

ALIVE_S = 0.2
STOP_LIMIT_S = 0.6


class Work:
    """Hears what the orders say for as long as the daemon wants it."""

    def __init__(self, link: Link[FromDaemon], orders: Orders) -> None:
        self._link, self._left = link, list(orders.sources)
        self._wake = threading.Event()
        self._dismissed = False
        self._alive_s = 0.0
        outlet = Relay(link, orders.session)
        self._hearing = Hearing(orders, outlet, on_progress=self._beat, on_end=self._wake.set)

    def run(self) -> None:
        """Hear until the daemon asks for the end or every source is over; raises what the analysis broke with."""
        threading.Thread(target=self._obey, name="serstream-orders", daemon=True).start()
        gc.freeze()  # as the daemon does: to go over all that is loaded would stop every stream
        self._hearing.start()
        while not self._dismissed and not self._hearing.ended:
            if self._wake.wait(HEALTH_S / self._hearing.turns):
                self._wake.clear()
                self._confess()
            else:
                self._let_go(self._hearing.tend())
        self._confess()
        self._hearing.stop()
        if self._hearing.close(STOP_LIMIT_S):
            self._let_go(list(self._left))

    def _beat(self, _source_id: str) -> None:
        """Give the daemon a sign of life; called from the thread that hears."""
        now_s = time.monotonic()
        if now_s - self._alive_s > ALIVE_S:
            self._alive_s = now_s
            self._link.send(Alive())

    def _obey(self) -> None:
        """Take the daemon's wishes; a thread's loop."""
        try:
            while True:
                wishes = self._link.receive(None)
                assert isinstance(wishes, Wishes)
                logging.getLogger("serstream").setLevel(wishes.log_level)
                self._hearing.wish(wishes)
        except EOFError:
            self._dismissed = True
            self._wake.set()
        except Exception:  # who hears no wishes would not hear of the daemon's end either
            traceback.print_exc()
            os._exit(1)

    def _let_go(self, over: list[str]) -> None:
        for source_id in over:
            self._left.remove(source_id)
            self._link.send(Over(source_id))

    def _confess(self) -> None:
        error = self._hearing.error
        if isinstance(error, SerstreamError):
            self._link.send(Failed(str(error)))
        elif error is not None:
            raise error


def main(arguments: list[str]) -> NoReturn:
    """Work at the other end of the socket whose descriptor is the only argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # whoever signals all processes of a service means the daemon
    link: Link[FromDaemon] = Link(socket.socket(fileno=int(arguments[0])), FromDaemon)
    status = 1
    try:
        orders = link.receive(None)
        assert isinstance(orders, Orders)
        log_to_stderr(orders.wishes.log_level)
        Work(link, orders).run()
        status = 0
    except SerstreamError as error:
        link.send(Failed(str(error)))
    except EOFError:  # the daemon died before it said anything
        pass
    except BaseException:
        traceback.print_exc()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
