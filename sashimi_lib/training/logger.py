"""Loggers: where `sashimi_lib.training.trainer.train` reports its progress."""

from typing import Protocol, runtime_checkable

from tqdm.auto import tqdm

from sashimi_lib.models.trainable import Trainable


@runtime_checkable
class Logger(Protocol):
    """Receives the metrics of every step, and at each validation the model, to generate audio.

    Chapter: 7.
    """

    def log_step(self, step: int, **scalars: float) -> None:
        """Record metrics of a step by name: ``loss``, ``valid_loss`` and others."""

    def log_audio(self, step: int, model: Trainable) -> None:
        """Record audio that the model generates."""

    def flush(self) -> None:
        """Write buffered records."""


class MultiLogger:
    """Forwards everything to several loggers; to none by default.

    >>> both = MultiLogger(ConsoleLogger(), ConsoleLogger())
    >>> both.log_step(1, loss=6.0)
    >>> both.log_step(1, valid_loss=5.25)
    step 1: training loss 6.000, validation loss 5.250
    step 1: training loss 6.000, validation loss 5.250

    Chapter: 10.
    """

    def __init__(self, *loggers: Logger) -> None:
        self.loggers = loggers

    def log_step(self, step: int, **scalars: float) -> None:
        """Forward the metrics of a step."""
        for logger in self.loggers:
            logger.log_step(step, **scalars)

    def log_audio(self, step: int, model: Trainable) -> None:
        """Forward the model."""
        for logger in self.loggers:
            logger.log_audio(step, model)

    def flush(self) -> None:
        """Flush each logger."""
        for logger in self.loggers:
            logger.flush()


class ConsoleLogger:
    """Prints a line at each validation: the mean training loss since the last one, and the validation loss.

    >>> log = ConsoleLogger()
    >>> log.log_step(1, loss=6.0)
    >>> log.log_step(2, loss=5.0)
    >>> log.log_step(2, valid_loss=5.25)
    step 2: training loss 5.500, validation loss 5.250

    Chapter: 10.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []  # since the last validation

    def log_step(self, step: int, **scalars: float) -> None:
        """Collect the loss of a step; print at a validation."""
        if "loss" in scalars:
            self.losses.append(scalars["loss"])
        if "valid_loss" in scalars:
            mean = sum(self.losses) / len(self.losses)
            with tqdm.external_write_mode():  # hides a progress bar meanwhile
                print(
                    f"step {step:,}: training loss {mean:.3f}, validation loss {scalars['valid_loss']:.3f}",
                    flush=True,
                )
            self.losses.clear()

    def log_audio(self, step: int, model: Trainable) -> None:
        """Do nothing: a console has no audio."""

    def flush(self) -> None:
        """Do nothing: lines are flushed as they are printed."""


SILENT = MultiLogger()
