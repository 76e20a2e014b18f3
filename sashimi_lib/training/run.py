"""All that changes while a model trains, in one place: so that it can be written down and taken up again."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from sashimi_lib.models.trainable import Past, Trainable
from sashimi_lib.training.batches import Data, Pieces
from sashimi_lib.training.checkpoint import newest_checkpoint, previous_of, save_checkpoint
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.ema import moving_average
from sashimi_lib.training.guard import check_parameters
from sashimi_lib.training.optimizer import new_optimizer
from sashimi_lib.training.states import each_tensor, rows_of
from sashimi_lib.training.team import ALONE, Team


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

    Everything else (learning rate, order of the data, random numbers) follows from the configuration and the
    history. In a team all processes have the same, but for the past, of which each has that of its sequences.
    """

    def __init__(self, model: Trainable, data: Data, config: TrainingConfig, team: Team = ALONE) -> None:
        self.model, self.config, self.team = model, config, team
        self.optimizer = new_optimizer(model, config)
        self.average: AveragedModel | None = moving_average(model, config.ema) if config.ema > 0 else None
        self.pieces = Pieces(data, config, model.silence, team)
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

    def set_random(self) -> None:
        """Set the random numbers of the coming step, which are others in each process."""
        place = self.config.seed, len(self.history.loss), self.team.rank
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def remember(self, loss: float) -> None:
        """Note a validation, and keep the weights that it judged if there were none better."""
        self.history.valid.append((len(self.history.loss), loss))
        if self.best is None or self.history.waited == 0:
            self.best = {name: x.detach().clone() for name, x in self.judged.state_dict().items()}

    def hand_over(self) -> None:
        """Leave the model with the weights of the best validation, or without one those judged last."""
        self.model.load_state_dict(self.judged.state_dict() if self.best is None else self.best)

    def save(self, path: str | Path) -> None:
        """Write it all, and keep what was there before as `previous_of` says. Raises FloatingPointError, and
        leaves the files alone, for weights not finite; and OSError where it cannot be written."""
        check_parameters(self.model)
        content = {
            "config": dataclasses.asdict(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "place": (self.pieces.number, self.pieces.offset),
            "past": self.team.gathered(self.past),
            "history": dataclasses.asdict(self.history),
            "best": self.best,
        }
        if self.team.leads:
            save_checkpoint(path, content, previous_of(path))

    def save_best(self, path: str | Path) -> None:
        """Write the best weights beside the run (``run.pt`` -> ``run.best.pt``), to be used by themselves."""
        steps, loss = self.history.best
        if self.team.leads:
            best = {"model": self.best, "steps": steps, "loss": loss}
            save_checkpoint(Path(path).with_suffix(".best.pt"), best)

    def load(self, path: str | Path) -> None:
        """Take up what `save` wrote, if it did. Raises ValueError for a file of another run, or none of a
        run."""
        content = self.team.told(newest_checkpoint(path) if self.team.leads else None)
        if content is None:
            return
        if content.get("config") != dataclasses.asdict(self.config):
            raise ValueError(f"checkpoint must be of a run with the same config, got another in {path}")
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        self.pieces.number, self.pieces.offset = content["place"]
        if content["past"] is not None:
            mine = rows_of(content["past"], self.team.rows(self.config.batch_size))
            like = self.model.beginning(len(mine[0]))
            self.past = each_tensor(lambda saved, now: saved.to(now.device), mine, like)
        self.history = History(**content["history"])
        self.best = content["best"]
