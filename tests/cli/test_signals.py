"""Ctrl-C and SIGTERM set the stop event once; the second Ctrl-C ends the process."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from gigatile.cli.signals import stop_on_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_sets_the_stop_event_says_so_and_gives_the_exit_code(number, code):
    said = []
    before = signal.getsignal(number)
    with stop_on_signals(said.append) as stopper:
        assert stopper.exit_code is None
        os.kill(os.getpid(), number)
        assert stopper.event.wait(5)
    assert stopper.exit_code == code
    assert len(said) == 1
    assert "blocks in flight are abandoned" in said[0]
    assert "The same command resumes" in said[0]
    assert signal.getsignal(number) == before


def test_the_second_ctrl_c_exits_at_once():
    script = """
import os, signal
from gigatile.cli.signals import stop_on_signals
with stop_on_signals(lambda text: None):
    os.kill(os.getpid(), signal.SIGINT)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass
    finally:
        print("cleaned up", flush=True)
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert (child.returncode, child.stdout) == (130, "")


def test_a_second_sigterm_changes_nothing():
    with stop_on_signals(lambda text: None) as stopper:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopper.exit_code == 143


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with stop_on_signals(lambda text: None) as stopper:
            seen.append((signal.getsignal(signal.SIGINT), stopper.event.is_set()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
