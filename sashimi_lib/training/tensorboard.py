"""Training curves, and what the model sounds like by now, for TensorBoard (the extra ``train``)."""

from pathlib import Path
from typing import Any

from sashimi_lib.models.autoregressive import Autoregressive
from sashimi_lib.models.trainable import Trainable
from sashimi_lib.streaming import best_engine


class TensorBoard:
    """Give it to `sashimi_lib.training.trainer.train`, and look on with ``tensorboard --logdir FOLDER``.

    Scalars at every step, and at each validation a clip of ``seconds`` at ``sample_rate``: the first and only
    draw from ``seed``. Generating takes its time; 0 seconds writes no clips. A run that is taken up again
    replaces what it had written of the steps it repeats.

    Chapter: 7. Raises ImportError, saying what to install, where TensorBoard is missing.
    """

    def __init__(
        self, folder: str | Path, sample_rate: int = 16_000, seconds: float = 1.0, seed: int = 0
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard is missing: pip install sashimi_lib[train]") from error
        self.folder, self.sample_rate, self.seconds, self.seed = folder, sample_rate, seconds, seed
        self._make = SummaryWriter
        self._writer: Any = None

    def step(self, step: int, **scalars: float) -> None:
        """Write numbers of a step, each under its name."""
        writer = self._at(step)
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    def clip(self, step: int, model: Trainable) -> None:
        """Write what the model generates, by the fastest engine there is for it."""
        length = round(self.seconds * self.sample_rate)
        if length > 0:
            quick = best_engine(model) if isinstance(model, Autoregressive) else model
            sound = quick.sample_audio(length, self.seed)
            self._at(step).add_audio("sample", sound, step, sample_rate=self.sample_rate)

    def flush(self) -> None:
        """Have all of it on disk."""
        if self._writer is not None:
            self._writer.flush()

    def _at(self, step: int) -> Any:
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=step)
        return self._writer
