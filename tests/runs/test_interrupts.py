import os
import signal
import threading

import pytest

from fedhello.runs.interrupts import Interrupts


def ask(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_an_interrupt_and_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interrupts():
        ask(number)
    assert signal.getsignal(number) is before


def test_the_first_signal_waits_for_what_is_being_written_and_the_second_does_not():
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts, interrupts.held_back():
        ask()
        done.append("written")
    assert done == ["written"]
    done.clear()
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts, interrupts.held_back():
        ask()
        ask(signal.SIGTERM)
        done.append("written")
    assert done == []


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts():
            ask()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_changed():
    found = []

    def enter():
        with Interrupts():
            found.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]
