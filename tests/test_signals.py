"""A bell that a signal's handler rings, whatever it interrupts."""

import signal
import threading
import time

from serstream.signals import Bell

SIGNALS = 200


def test_a_bell_is_heard_once_however_often_it_was_rung() -> None:
    bell = Bell()
    assert not bell.wait(0.0)
    bell.ring()
    bell.ring()
    assert bell.wait()
    assert not bell.wait(0.001)


def test_a_bell_rings_for_a_thread_that_waits() -> None:
    bell = Bell()
    ringing = threading.Timer(0.05, bell.ring)
    ringing.start()
    assert bell.wait()
    ringing.join()


def test_a_handler_may_ring_whatever_it_interrupts() -> None:
    """With an Event in the place of the bell, this does not come to its end."""
    bell, handled, main = Bell(), 0, threading.get_ident()

    def handle(*_: object) -> None:
        nonlocal handled
        handled += 1
        bell.ring()

    def send() -> None:
        for n in range(SIGNALS):
            signal.pthread_kill(main, signal.SIGUSR1)
            while handled <= n:  # one after another: each interrupts what the thread does, not the handler
                time.sleep(0.0)

    before = signal.signal(signal.SIGUSR1, handle)
    sender = threading.Thread(target=send)
    sender.start()
    while handled < SIGNALS:
        bell.ring()
        bell.wait(1e-5)
    sender.join()
    signal.signal(signal.SIGUSR1, before)
