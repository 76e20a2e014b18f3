"""Signals are noted, not obeyed at once: each kind, once and twice, under nohup and without a terminal."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios

import pytest

from sashimi_lib.cli.stop import SIGNALS, Stop


@pytest.mark.parametrize("number", SIGNALS)
def test_each_of_them_is_noted_and_handed_back_afterwards(number):
    before = signal.getsignal(number)
    with Stop() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait():
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.exit_code == 130


@pytest.mark.parametrize("patient", [False, True])
def test_a_closed_terminal_may_say_so_twice_and_a_cluster_may_too(patient):
    with Stop(patient) as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        assert stop.exit_code == 129


def test_among_several_processes_ctrl_c_may_come_twice():
    with Stop(patient=True) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.exit_code == 130


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


PROGRAM = """
import sys, time
from pathlib import Path
from sashimi_lib.cli.stop import Stop
with Stop() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("the terminal is gone", flush=True)
    print("and so is its other end", file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text("kept")
sys.exit(stop.exit_code)
"""


def test_when_its_terminal_is_closed_a_program_can_still_write_what_it_has(tmp_path, root):
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "model")],
        env=os.environ | {"PYTHONPATH": str(root)}, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # the terminal becomes its own
    )  # fmt: skip
    os.close(theirs)
    assert b"ready" in os.read(ours, 100)
    os.close(ours)
    assert program.wait(timeout=60) == 129
    assert (tmp_path / "model").read_text() == "kept"
