"""Runs one part of a GPU run: a subprocess with a time limit and a log, none of whose children outlive it."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

GRACE = 3.0  # seconds between SIGTERM and SIGKILL
POLL_INTERVAL = 0.05  # seconds

Command = Callable[[float], Sequence[str]]  # the command line, given the seconds that it may take


@dataclass(frozen=True)
class Part:
    """A part of a run: its ``command``; the ``share`` of the total time that it may take, at most ``cap``
    seconds; and the packages that it ``needs``. A part without a share may take all the remaining time."""

    name: str
    command: Command
    needs: tuple[str, ...] = ()
    share: float | None = None
    cap: float = float("inf")

    def limit(self, total: float, remaining: float, reserved: float = 0.0) -> float:
        """Seconds that it may take, of ``total`` with ``remaining`` left; ``reserved`` is the share of the
        total that is kept for the part without a share.

        >>> tests = Part("tests", lambda seconds: ["true"], share=0.25, cap=100)
        >>> [tests.limit(total, remaining) for total, remaining in ((120, 90), (120, 20), (4000, 3000))]
        [30.0, 20.0, 100]
        >>> tests.limit(120, 40, reserved=0.2)
        16.0
        """
        if self.share is None:
            return remaining
        return min(self.share * total, self.cap, remaining - reserved * total)


@dataclass(frozen=True)
class Outcome:
    """How a part ended: ``passed``, ``failed``, ``out of time`` or ``stopped``; its exit code, None where it
    had to be killed; its seconds."""

    outcome: str
    code: int | None
    seconds: float


class StopSignal:
    """Catches SIGINT (Ctrl-C) and SIGTERM: calling it returns whether one arrived. Further ones are ignored.

    >>> with StopSignal() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop(), stop.exit_code
    (True, 143)
    """

    def __init__(self) -> None:
        self.exit_code = 0

    def __call__(self) -> bool:
        return self.exit_code != 0

    def __enter__(self) -> "StopSignal":
        self.previous = {
            number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number  # as shells report it


def run(
    command: Sequence[str],
    log: Path,
    limit: float,
    environment: Mapping[str, str],
    folder: Path,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run a command in a folder, with stdout and stderr appended to a log, for at most ``limit`` seconds or
    until ``stop`` returns True. All processes that it started end with it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, cwd=folder, start_new_session=True
        )
    outcome = _wait(process, start + limit, stop)
    code = _terminate(process)
    if outcome == "ended":
        outcome = "failed" if code else "passed"
    return Outcome(outcome, code, round(time.monotonic() - start, 1))


def _wait(process: subprocess.Popen, deadline: float, stop: Callable[[], bool]) -> str:
    while process.poll() is None:
        if stop():
            return "stopped"
        if time.monotonic() > deadline:
            return "out of time"
        time.sleep(POLL_INTERVAL)
    return "ended"


def _terminate(process: subprocess.Popen) -> int | None:
    """Send SIGTERM, after `GRACE` seconds SIGKILL, also to all processes that it started. Returns its exit
    code, None if it had to be killed."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
    code = process.poll()
    with contextlib.suppress(ProcessLookupError):  # it leads its own session: what is left are its children
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return code
