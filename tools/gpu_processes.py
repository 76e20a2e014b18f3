"""One part of a GPU run: a process of its own, with a limit, a log, and an end that nothing outlives."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

GRACE = 3.0  # seconds from being told to end to being ended
LOOK = 0.05  # seconds between two looks at a process

Command = Callable[[float], Sequence[str]]  # what to run in so many seconds


@dataclass(frozen=True)
class Part:
    """A part: its ``command``; the ``share`` of all the time that it may take, at most ``cap`` seconds; and
    the packages that it ``needs``. The part without a share takes what is left."""

    name: str
    command: Command
    needs: tuple[str, ...] = ()
    share: float | None = None
    cap: float = float("inf")

    def limit(self, total: float, left: float, kept: float = 0.0) -> float:
        """Seconds that it may take, of ``total`` of which so many are left; a share of all of them is kept
        for the part without one.

        >>> tests = Part("tests", lambda seconds: ["true"], share=0.25, cap=100)
        >>> [tests.limit(total, left) for total, left in ((120, 90), (120, 20), (4000, 3000))]
        [30.0, 20.0, 100]
        >>> tests.limit(120, 40, kept=0.2)
        16.0
        """
        return left if self.share is None else min(self.share * total, self.cap, left - kept * total)


@dataclass(frozen=True)
class Outcome:
    """How a part ended: ``passed``, ``failed``, ``out of time`` or ``stopped``; its exit code, None where it
    was killed for not ending by itself; its seconds."""

    outcome: str
    code: int | None
    seconds: float


class Told:
    """Whether this process was told to stop, by Ctrl-C or SIGTERM. The second one is not heeded either: the
    end is near.

    >>> with Told() as told:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     told(), told.code
    (True, 143)
    """

    def __init__(self) -> None:
        self.code = 0

    def __call__(self) -> bool:
        return self.code != 0

    def __enter__(self) -> "Told":
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """128 and the signal's number, as shells say it."""
        self.code = 128 + number


def run(
    command: Sequence[str],
    log: Path,
    limit: float,
    environment: Mapping[str, str],
    folder: Path,
    told: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run a command in a folder, both its outputs into a log, for at most so many seconds or until told to
    stop. Whatever it started ends with it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, cwd=folder, start_new_session=True
        )
    outcome = _watched(process, began + limit, told)
    code = _end(process)
    if outcome == "ended":
        outcome = "failed" if code else "passed"
    return Outcome(outcome, code, round(time.monotonic() - began, 1))


def _watched(process: subprocess.Popen, until: float, told: Callable[[], bool]) -> str:
    while process.poll() is None:
        if told():
            return "stopped"
        if time.monotonic() > until:
            return "out of time"
        time.sleep(LOOK)
    return "ended"


def _end(process: subprocess.Popen) -> int | None:
    """Let a process end in `GRACE` seconds, then end it and all that it started. Its exit code."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        until = time.monotonic() + GRACE
        while process.poll() is None and time.monotonic() < until:
            time.sleep(LOOK)
    code = process.poll()
    with contextlib.suppress(ProcessLookupError):  # its session is its own: whoever is left is its child
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return code
