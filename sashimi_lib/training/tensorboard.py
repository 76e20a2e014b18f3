"""Training curves and generated clips for TensorBoard (the extra ``train``)."""

from pathlib import Path
from typing import Any

from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.streaming import best_engine


class TensorBoardLogger:
    """A `sashimi_lib.training.logger.Logger` whose files ``tensorboard --logdir FOLDER`` shows.

    Scalars at every step, and at each validation a clip of ``seconds`` at ``sample_rate``: one draw, from
    ``seed``. Generating takes its time; 0 seconds writes no clips. A run that is resumed replaces what it had
    written of the steps that it repeats.

    Chapter: 7. Raises ImportError, saying what to install, where TensorBoard is missing.
    """

    def __init__(
        self, folder: str | Path, sample_rate: int = 16_000, seconds: float = 1.0, seed: int = 0
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError('TensorBoard is missing: pip install "sashimi_lib[train]"') from error
        self.folder, self.sample_rate, self.seconds, self.seed = folder, sample_rate, seconds, seed
        self._make = SummaryWriter
        self._writer: Any = None

    def log_step(self, step: int, **scalars: float) -> None:
        """Write numbers of a step, each under its name."""
        writer = self._at(step)
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    def log_audio(self, step: int, model: Trainable) -> None:
        """Write what the model generates, by the fastest engine there is for it."""
        length = round(self.seconds * self.sample_rate)
        if length > 0:
            quick = best_engine(model) if isinstance(model, Autoregressive) else model
            sound = quick.sample_audio(length, self.seed)
            self._at(step).add_audio("sample", sound, step, sample_rate=self.sample_rate)

    def flush(self) -> None:
        """Write all of it to disk."""
        if self._writer is not None:
            self._writer.flush()

    def _at(self, step: int) -> Any:
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=step)
        return self._writer
