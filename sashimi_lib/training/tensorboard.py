"""Training curves and generated clips for TensorBoard (the extra ``train``)."""

from pathlib import Path
from typing import Any

from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.streaming import best_engine


class TensorBoardLogger:
    """A `sashimi_lib.training.logger.Logger` that writes files for ``tensorboard --logdir FOLDER``.

    Writes scalars at every step, and at each validation a clip of ``seconds`` at ``sample_rate`` Hz, from
    ``seed``. With 0 seconds it writes no clips, which saves the time of generation. A resumed run
    replaces the records of the steps that it repeats.

    Chapter: 7. Raises ImportError, naming the extra to install, if TensorBoard is missing.
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
        """Write metrics of a step by name."""
        writer = self._writer_from(step)
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    def log_audio(self, step: int, model: Trainable) -> None:
        """Write a clip that the model generates, by its fastest engine."""
        length = round(self.seconds * self.sample_rate)
        if length > 0:
            engine = best_engine(model) if isinstance(model, Autoregressive) else model
            waveform = engine.sample_audio(length, self.seed)
            self._writer_from(step).add_audio("sample", waveform, step, sample_rate=self.sample_rate)

    def flush(self) -> None:
        """Write buffered records to disk."""
        if self._writer is not None:
            self._writer.flush()

    def _writer_from(self, step: int) -> Any:
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=step)
        return self._writer
