"""Ctrl-C, the SIGTERM of clusters, the SIGHUP of a closed terminal: a command ends well, after its step."""

import os
import signal
from types import FrameType, TracebackType

# Windows has no SIGHUP.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stop:
    """Inside ``with``, says whether one of them has come. A second Ctrl-C does not wait: KeyboardInterrupt.

    Unless ``patient``: among several processes one signal may come twice, from the terminal and once more
    from ``torchrun``, which kills whoever takes longer than 30 seconds. A SIGHUP that ``nohup`` had ignored
    stays ignored. After another, what is printed to the terminal goes nowhere.

    >>> with Stop() as stop:
    ...     before = stop()
    ...     signal.raise_signal(signal.SIGTERM)
    ...     before, stop(), stop.exit_code
    (False, True, 143)
    """

    def __init__(self, patient: bool = False) -> None:
        self.came: int | None = None
        self.patient = patient

    def __call__(self) -> bool:
        return self.came is not None

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells say it; 0 where none came."""
        return 0 if self.came is None else 128 + self.came

    def __enter__(self) -> "Stop":
        self._terminals = [number for number in (1, 2) if _is_terminal(number)]
        taken = [number for number in SIGNALS if not _by_nohup(number)]
        self._before = {number: signal.signal(number, self._note) for number in taken}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.came == number and not self.patient:
            raise KeyboardInterrupt
        self.came = number if self.came is None else self.came
        if number not in (signal.SIGINT, signal.SIGTERM):  # the terminal is gone: to write there is an error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for terminal in self._terminals:
                os.dup2(nowhere, terminal)
            os.close(nowhere)


def _by_nohup(number: int) -> bool:
    ended_by_user = number in (signal.SIGINT, signal.SIGTERM)
    return not ended_by_user and signal.getsignal(number) is signal.SIG_IGN


def _is_terminal(number: int) -> bool:
    try:
        return os.isatty(number)
    except OSError:  # closed
        return False
