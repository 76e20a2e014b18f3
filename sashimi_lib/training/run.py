"""All that changes while a model trains, in one place: so that it can be written down and taken up again."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from sashimi_lib.models.trainable import Past, Trainable
from sashimi_lib.training.batches import Data, Pieces
from sashimi_lib.training.checkpoint import load_checkpoint, save_checkpoint
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.ema import moving_average
from sashimi_lib.training.guard import check_parameters
from sashimi_lib.training.optimizer import new_optimizer


@dataclass
class History:
    """The loss of every step's batch, and as (steps done, loss) that of every validation: bits per sample of
    a model of codes, the mean squared error of a diffusion model.

    >>> history = History([7.0, 6.0, 5.5, 5.0], [(2, 6.5), (4, 6.6)])
    >>> history.best, history.waited
    ((2, 6.5), 1)

    Chapters: 7 and 9.
    """

    loss: list[float] = field(default_factory=list)
    valid: list[tuple[int, float]] = field(default_factory=list)

    @property
    def best(self) -> tuple[int, float]:
        """The validation of least loss, the first of equals. ValueError where there was none."""
        return min(self.valid, key=lambda entry: (math.isnan(entry[1]), entry[1]))

    @property
    def waited(self) -> int:
        """How many validations came since the best one."""
        return len(self.valid) - 1 - self.valid.index(self.best) if self.valid else 0


class Run:
    """A model on its way: optimizer, average, place in the data, the past that is heard there, history, best.

    Everything else (learning rate, order of the data) follows from the configuration and the history.
    """

    def __init__(self, model: Trainable, data: Data, config: TrainingConfig) -> None:
        self.model, self.config = model, config
        self.optimizer = new_optimizer(model, config)
        self.average: AveragedModel | None = moving_average(model, config.ema) if config.ema > 0 else None
        self.pieces = Pieces(data, config, model.silence)
        self.past: Past | None = None
        self.history = History()
        self.best: dict[str, Tensor] | None = None

    @property
    def judged(self) -> Trainable:
        """The model that is validated and handed over: the average where there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or validation has waited long enough for a new best."""
        patience = self.config.stop_after
        stalled = patience is not None and self.history.waited >= patience
        return stalled or len(self.history.loss) >= self.config.steps

    def set_rate(self) -> float:
        """Set the learning rates of the coming step; returns the one of ordinary parameters."""
        share = self.config.rate(len(self.history.loss), [loss for _, loss in self.history.valid])
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * share
        return self.config.lr * share

    def remember(self, loss: float) -> None:
        """Note a validation, and keep the weights that it judged if there were none better."""
        self.history.valid.append((len(self.history.loss), loss))
        if self.best is None or self.history.waited == 0:
            self.best = {name: x.detach().clone() for name, x in self.judged.state_dict().items()}

    def hand_over(self) -> None:
        """Leave the model with the weights of the best validation, or without one those judged last."""
        self.model.load_state_dict(self.judged.state_dict() if self.best is None else self.best)

    def save(self, path: str | Path) -> None:
        """Write it all. Raises FloatingPointError, and leaves the file alone, for weights not finite."""
        check_parameters(self.model)
        content = {
            "config": dataclasses.asdict(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "place": (self.pieces.number, self.pieces.offset),
            "past": self.past,
            "history": dataclasses.asdict(self.history),
            "best": self.best,
            "random": torch.get_rng_state(),
        }
        save_checkpoint(path, content)

    def save_best(self, path: str | Path) -> None:
        """Write the best weights beside the run (``run.pt`` -> ``run.best.pt``), to be used by themselves."""
        steps, loss = self.history.best
        save_checkpoint(
            Path(path).with_suffix(".best.pt"), {"model": self.best, "steps": steps, "loss": loss}
        )

    def load(self, path: str | Path) -> None:
        """Take up what `save` wrote. Raises ValueError for a file of another run, or none of a run."""
        content = load_checkpoint(path)
        if content.get("config") != dataclasses.asdict(self.config):
            raise ValueError(f"checkpoint must be of a run with the same config, got another in {path}")
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        self.pieces.number, self.pieces.offset = content["place"]
        if content["past"] is not None:
            like = self.model.beginning(len(content["past"][0]))
            self.past = each_tensor(lambda saved, now: saved.to(now.device), content["past"], like)
        self.history = History(**content["history"])
        self.best = content["best"]
        torch.set_rng_state(content["random"])


def each_tensor(change: Any, *states: Any) -> Any:
    """``change`` of each tensor of a state (or of each few, of states of one shape), in the same tuples.

    >>> each_tensor(lambda a, b: a + b, (torch.tensor(1), ()), (torch.tensor(2), ()))
    (tensor(3), ())
    """
    if isinstance(states[0], Tensor):
        return change(*states)
    return tuple(each_tensor(change, *parts) for parts in zip(*states, strict=True))
