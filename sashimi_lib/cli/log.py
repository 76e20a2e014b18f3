"""What training says on its way, in lines that a terminal keeps above its bar, and a cluster in its log."""

from tqdm.auto import tqdm

from sashimi_lib.models.trainable import Trainable
from sashimi_lib.training.tensorboard import TensorBoard


class Log(TensorBoard):
    """Takes what TensorBoard would be told, and prints a line at each validation; and tells a TensorBoard,
    too, if there is one.

    >>> log = Log()
    >>> log.step(1, loss=6.0)
    >>> log.step(2, loss=5.0)
    >>> log.step(2, valid_loss=5.25)
    2 steps: loss 5.500 in training, 5.250 held out
    """

    def __init__(self, board: TensorBoard | None = None) -> None:
        self.board = board
        self.losses: list[float] = []  # since the last validation

    def step(self, step: int, **scalars: float) -> None:
        """Note the loss of a step; print that of a validation."""
        if self.board is not None:
            self.board.step(step, **scalars)
        if "loss" in scalars:
            self.losses.append(scalars["loss"])
        if "valid_loss" in scalars:
            mean = sum(self.losses) / len(self.losses)
            said = f"{step:,} steps: loss {mean:.3f} in training, {scalars['valid_loss']:.3f} held out"
            with tqdm.external_write_mode():  # takes a bar away meanwhile
                print(said, flush=True)
            self.losses.clear()

    def clip(self, step: int, model: Trainable) -> None:
        """No sound goes into a log."""
        if self.board is not None:
            self.board.clip(step, model)

    def flush(self) -> None:
        """It is all there, in a log."""
        if self.board is not None:
            self.board.flush()
