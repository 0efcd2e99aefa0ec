"""A worker process as the daemon sees it: started, listened to, replaced when it dies or hangs.

Whatever becomes of it, the sessions of its sources go on: what is open there ends, a gap begins, and the next process
goes on behind it. The other workers do not notice.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import datetime

import msgspec

from serstream.account import Account
from serstream.children import END_LIMIT_S, apart, command, end
from serstream.clock import slept_s
from serstream.errors import SourceError
from serstream.events import AnyEvent
from serstream.hearing import HEALTH_S, Orders, Standing, Wishes
from serstream.relay import Alive, Failed, FromWorker, Link, Over, Told
from serstream.stream import Outlet

DEADLINE_S = 5.0
"""A process that has given no sign of life for so long is replaced."""
START_LIMIT_S = 60.0
"""So long it may take to begin: where nothing is cached, kernels are compiled."""
BACKOFF_S = (0.5, 5.0)
STEADY_S = 30.0
"""After so long a life the next process is started at once."""

_log = logging.getLogger(__name__)


class WorkerProcess:
    """Hears sources in a process of its own, and publishes what it tells; to be used like :class:`Hearing`.

    Parameters
    ----------
    number : int
        Which of the workers it is, from 1.
    orders : Orders
    outlet : Outlet
    on_progress : callable
        Called with the name in :attr:`loops`, from the thread that listens to the process, whenever that goes round.
    on_end : callable
        Called, from that thread, when the process is ready, when a source has failed and when all are over.
    deadline_s : float
        As ``DEADLINE_S``.
    backoff_s : tuple of float
        Least and most seconds from one start to the next.

    Attributes
    ----------
    error : Exception or None
        What a source failed with.
    ready : bool
        Whether a process has begun to hear.
    loops : list of str
        What owes signs of life.
    turns : int
        As of :class:`Hearing`.
    """

    turns = 1

    def __init__(
        self,
        number: int,
        orders: Orders,
        outlet: Outlet,
        *,
        on_progress: Callable[[str], None],
        on_end: Callable[[], None],
        deadline_s: float = DEADLINE_S,
        backoff_s: tuple[float, float] = BACKOFF_S,
    ) -> None:
        self._name = f"worker {number}"
        self.loops = [self._name]
        self.error: Exception | None = None
        self.ready = False
        self._orders, self._outlet = orders, outlet
        self._on_progress, self._on_end = on_progress, on_end
        self._deadline_s, (self._least_backoff_s, self._most_backoff_s) = deadline_s, backoff_s
        now = {"now_s": time.monotonic(), "wall_s": time.time()}
        self._accounts = {i: Account(i, orders.session, config, **now) for i, config in orders.sources.items()}
        self._left = dict(self._accounts)
        self._slept_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link[FromWorker] | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"serstream-worker-{number}", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id, None while there is none."""
        process = self._process
        return process.pid if process else None

    @property
    def ended(self) -> bool:
        """Whether all sources are over, with every event published."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def start(self) -> None:
        """Begin to hear."""
        self._thread.start()

    def wish(self, wishes: Wishes) -> None:
        """Tell the process, and those after it, of other wishes; called from any thread."""
        with self._lock:
            self._orders = msgspec.structs.replace(self._orders, wishes=wishes)
            if self._link:
                self._link.send(wishes)

    def standings(self) -> dict[str, Standing]:
        """Return how each source was a second ago at most; called from any thread."""
        muted = self._orders.wishes.muted
        healths = {source_id: account.health for source_id, account in self._accounts.items()}
        return {
            i: Standing("muted" if i in muted else h.status, h.counters, h.fault, h.drift_ppm)
            for i, h in healths.items()
        }

    def tend(self) -> list[str]:
        """Return what owes no signs of life any more; the process publishes the health of its sources itself."""
        return self.loops if self.ended else []

    def stop(self) -> None:
        """Ask for the end; called from any thread."""
        self._stopping.set()
        with self._lock:
            if self._link:
                self._link.finish()

    def close(self, timeout_s: float) -> bool:
        """Wait for the end; False if the process did not end in time, and was killed."""
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        in_time = not self._thread.is_alive()
        if process := self._process:
            process.kill()
            self._thread.join(2 * END_LIMIT_S)
        return in_time

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            _log.exception("%s: listening to it broke", self._name)
            self.error = error
        finally:
            self._on_end()

    def _serve(self) -> None:
        """Have a process hear the sources, and another if that one ends before them."""
        backoff_s, orders = self._least_backoff_s, self._orders
        while True:
            started_s = time.monotonic()
            how = self._hear(orders)
            if not self._left:
                return
            self._interrupt()
            self._publish_health()
            if self._stopping.is_set() or self.error:
                return
            _log.error("%s %s; %d sources of it go on in another", self._name, how, len(self._left))
            if time.monotonic() - started_s > STEADY_S:
                backoff_s = self._least_backoff_s
            if self._is_stopped_before(started_s + backoff_s):
                return
            backoff_s = min(2 * backoff_s, self._most_backoff_s)
            orders = self._orders_for_the_next()

    def _is_stopped_before(self, until_s: float) -> bool:
        """Wait for a time, and say whether the end was asked for instead."""
        while (left_s := until_s - time.monotonic()) > 0:
            if self._stopping.wait(min(left_s, HEALTH_S)):
                return True
            self._on_progress(self._name)
            self._publish_health()
        return False

    def _orders_for_the_next(self) -> Orders:
        return msgspec.structs.replace(
            self._orders,
            sources={source_id: self._orders.sources[source_id] for source_id in self._left},
            resumes={source_id: account.resume(self._slept_s) for source_id, account in self._left.items()},
        )

    def _hear(self, orders: Orders) -> str:
        """Run a process to its end, and return how that came."""
        try:
            ours, process = self._start_process()
        except OSError as error:
            return f"cannot be started ({error})"
        self._process = process
        with ours:
            try:
                how = self._listen(process, self._connect(ours, orders))
            except TimeoutError:
                how = "takes no orders"
            finally:
                with self._lock:
                    self._link = None
                ended = end(process)
                self._process = None
        return how or ended

    def _start_process(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        words, nothing = command("work", str(theirs.fileno())), subprocess.DEVNULL
        try:
            return ours, subprocess.Popen(words, stdin=nothing, stdout=nothing, **apart(theirs.fileno()))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()

    def _connect(self, ours: socket.socket, orders: Orders) -> Link[FromWorker]:
        """Give the orders, and what was wished since they were written."""
        ours.settimeout(START_LIMIT_S)
        link: Link[FromWorker] = Link(ours, FromWorker)
        link.send(orders)
        with self._lock:
            self._link = link
            link.send(self._orders.wishes)
            if self._stopping.is_set():
                link.finish()
        return link

    def _listen(self, process: subprocess.Popen[bytes], link: Link[FromWorker]) -> str:
        """Take what the process says until it has gone; return why it was killed, if it was."""
        why, quiet_s, limit_s = "", 0.0, START_LIMIT_S
        while quiet_s <= limit_s + 2 * HEALTH_S:
            if quiet_s > limit_s and not why:
                why = f"has given no sign of life for {limit_s:g} s"
                process.kill()  # what it said before is still to be heard
            self._on_progress(self._name)
            begun_s = time.monotonic()
            try:
                message = link.receive(HEALTH_S)
            except EOFError:
                break
            # that the machine, or this process, stood still is not its fault
            quiet_s += min(time.monotonic() - begun_s, HEALTH_S)
            if isinstance(message, Alive):
                quiet_s, limit_s = 0.0, self._deadline_s
                self._be_ready()
            elif message is not None:
                self._take(message)
            elif limit_s != self._deadline_s:
                self._publish_health()
        return why

    def _be_ready(self) -> None:
        if not self.ready:
            self.ready = True
            self._on_end()

    def _take(self, message: Told | Over | Failed) -> None:
        match message:
            case Told(event, captured_s):
                now_s = time.monotonic()
                sample_s = now_s - time.time() + datetime.fromisoformat(event.time).timestamp()
                self._accounts[event.source].push(event, sample_s)
                self._publish(event, now_s - captured_s)
            case Over(source_id):
                del self._left[source_id]
            case Failed(sentence):
                self.error = SourceError(sentence)
                self._on_end()

    def _interrupt(self) -> None:
        now_s, wall_s, self._slept_s = time.monotonic(), time.time(), slept_s()
        for account in self._left.values():
            age_s = account.age_s(now_s)
            for event in account.interrupt(now_s=now_s, wall_s=wall_s):
                self._publish(event, age_s)

    def _publish_health(self) -> None:
        standings = self.standings()
        for source_id, account in self._left.items():
            self._publish(msgspec.structs.replace(account.health, status=standings[source_id].status), 0.0)

    def _publish(self, event: AnyEvent, latency_s: float) -> None:
        self._outlet.publish(event, time=event.time, latency_s=round(max(0.0, latency_s), 6))
