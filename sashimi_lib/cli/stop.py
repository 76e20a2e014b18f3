"""Ctrl-C, and the SIGTERM that clusters send: what is told to stop ends well, after the step it is in."""

import signal
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Inside ``with``, says whether one of them has come. The second one does not wait: KeyboardInterrupt.

    Unless ``patient``: among several processes one signal may come twice, from the cluster or the terminal
    and once more from ``torchrun``, which kills whoever takes longer than 30 seconds.

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
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came is not None and not self.patient:
            raise KeyboardInterrupt
        self.came = number
