"""All that changes while a model trains, in one place: so that it can be written down and taken up again."""

import math
import warnings
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from sashimi_lib.checks import check_parameters
from sashimi_lib.data.sequences import Batch, SequenceDataset
from sashimi_lib.models.states import map_state, slice_states
from sashimi_lib.models.trainable import Cache, Trainable
from sashimi_lib.training.batches import DataStream
from sashimi_lib.training.checkpoint import (
    best_of,
    latest_checkpoint,
    load_weights,
    previous_of,
    save_checkpoint,
)
from sashimi_lib.training.config import DEFAULTS, TrainingConfig, differences
from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext
from sashimi_lib.training.ema import moving_average
from sashimi_lib.training.fingerprint import identity_of, other_data, run_id
from sashimi_lib.training.optimizer import load_optimizer_state, new_optimizer
from sashimi_lib.training.rng import seed_all


@dataclass
class History:
    """The loss of every step's batch, and as (steps done, loss) that of every validation: bits per sample of
    a model of codes, the mean squared error of a diffusion model.

    >>> history = History([7.0, 6.0, 5.5, 5.0], [(2, 6.5), (4, 6.6)])
    >>> history.best, history.validations_since_best
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
    def validations_since_best(self) -> int:
        """How many validations came since the best one."""
        return len(self.valid) - 1 - self.valid.index(self.best) if self.valid else 0

    def packed(self) -> dict[str, Any]:
        """The same for a file: the losses as one tensor, for there may be millions.

        >>> History([7.0, 6.0]).packed()["loss"]
        tensor([7., 6.], dtype=torch.float64)
        """
        return {"loss": torch.from_numpy(np.array(self.loss, dtype=np.float64)), "valid": self.valid}

    @staticmethod
    def unpacked(content: dict[str, Any]) -> "History":
        """What `packed` made; older files have a list of losses."""
        return History(torch.as_tensor(content["loss"], dtype=torch.float64).tolist(), content["valid"])


class TrainState:
    """A model on its way: optimizer, average, place in the data, the past that is heard there, history, best.

    Everything else (learning rate, order of the data, random numbers) follows from the configuration and the
    history. In a team all processes have the same, but for the past, of which each has that of its sequences.
    """

    def __init__(
        self,
        model: Trainable,
        data: SequenceDataset,
        config: TrainingConfig,
        valid: SequenceDataset | None = None,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        self.model, self.data, self.config, self.valid, self.distributed = (
            model,
            data,
            config,
            valid,
            distributed,
        )
        self.optimizer = new_optimizer(model, config)
        self.average: AveragedModel | None = moving_average(model, config.ema) if config.ema > 0 else None
        self.pieces = DataStream(data, config, model.pad_value, distributed, self._prepared)
        self.cache: Cache | None = None
        self.history = History()
        self.best: dict[str, Tensor] | None = None  # on the CPU: a GPU's memory is for the step
        self.settings = [(0, asdict(config))]  # and from which step on, where a run went on with others

    @property
    def eval_model(self) -> Trainable:
        """The model that is validated and handed over: the average where there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or validation has waited long enough for a new best."""
        patience = self.config.early_stopping_patience
        stalled = patience is not None and self.history.validations_since_best >= patience
        return stalled or len(self.history.loss) >= self.config.steps

    def set_rate(self) -> float:
        """Set the learning rates of the coming step; returns the one of ordinary parameters."""
        every = self.config.valid_every  # where a shorter run ended there was one more, which does not count
        regular = [loss for steps, loss in self.history.valid if steps % every == 0]
        share = self.config.rate(len(self.history.loss), regular)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * share
        return self.config.lr * share

    def set_random(self) -> None:
        """Set the random numbers of the coming step, which are others in each process."""
        seed = seed_all(self.config.seed, len(self.history.loss), self.distributed.rank)
        if self.model.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def record_validation(self, loss: float) -> None:
        """Note a validation, and keep the weights that it judged if there were none better."""
        self.history.valid.append((len(self.history.loss), loss))
        if self.best is None or self.history.validations_since_best == 0:
            weights = self.eval_model.state_dict()
            self.best = {name: x.detach().to("cpu", copy=True) for name, x in weights.items()}

    def load_best_weights(self) -> None:
        """Leave the model with the weights of the best validation, or without one those judged last."""
        self.model.load_state_dict(self.eval_model.state_dict() if self.best is None else self.best)

    def save(self, path: str | Path) -> None:
        """Write it all, and keep what was there before as `previous_of` says. Raises FloatingPointError, and
        leaves the files alone, for weights not finite; and OSError where it cannot be written."""
        check_parameters(self.model)
        content = {
            **self._identity,
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "place": (self.pieces.batch_index, self.pieces.sample_offset),
            "cache": self.distributed.all_gather_state(self.cache),
            "history": self.history.packed(),
            "best": self.best,
        }
        if self.distributed.is_main_process:
            save_checkpoint(path, content, previous_of(path))

    def save_best(self, path: str | Path) -> None:
        """Write the best weights beside the run, as `best_of` says, to be used by themselves."""
        steps, loss = self.history.best
        if self.distributed.is_main_process:
            best = {"id": self._identity["id"], "model": self.best, "steps": steps, "loss": loss}
            save_checkpoint(best_of(path), best)

    def load(self, path: str | Path) -> None:
        """Take up what `save` wrote, if it did. Raises ValueError for a file of another run, naming what
        differs, or none of a run."""
        content = self.distributed.broadcast_object(
            latest_checkpoint(path) if self.distributed.is_main_process else None
        )
        if content is None:
            return
        self.history = History.unpacked(content["history"])
        self._check_same(path, content)
        load_weights(self.model, content["model"], path)
        load_optimizer_state(self.optimizer, content["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        self.pieces.batch_index, self.pieces.sample_offset = content["place"]
        if content["cache"] is not None:
            mine = slice_states(content["cache"], self.distributed.shard_slice(self.config.batch_size))
            like = self.model.initial_cache(len(mine[0]))
            self.cache = map_state(lambda saved, now: saved.to(now.device), mine, like)
        self.best = content["best"]

    def _prepared(self, piece: Batch) -> Batch:
        """A batch that was read, looked at while it is still on the CPU."""
        self.model.check(piece.sequence, piece.label)
        can_pin = self.model.device.type == "cuda" and piece.sequence.device.type == "cpu"
        return piece.pinned() if can_pin else piece

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What a checkpoint says of its run: see `sashimi_lib.training.fingerprint`."""
        fixed = {name: value for name, value in asdict(self.config).items() if name not in self.config.free}
        data = identity_of(self.data)
        valid = None if self.valid is None else identity_of(self.valid)
        return {"id": run_id(fixed, data), "data": data, "valid": valid}

    def _check_same(self, path: str | Path, content: dict[str, Any]) -> None:
        """Raise ValueError unless a checkpoint is of this run; warn where it goes on along another cosine."""
        own, now = self._identity, asdict(self.config)
        # Before there were several, all settings stood in "config"; nothing was known of the data.
        self.settings = [tuple(entry) for entry in content.get("settings", [(0, content.get("config", {}))])]
        before = {**asdict(DEFAULTS), **self.settings[-1][1]}
        other = differences(before, now, self.config.free)
        if "data" in content:
            other += other_data("data", content["data"], own["data"])
        if content.get("valid") and own["valid"] and self.history.valid:
            other += other_data("valid", content["valid"], own["valid"])
        if other:
            raise ValueError(f"checkpoint must be of the same run, {path} is of another: {'; '.join(other)}")
        if before == now:
            return
        done = len(self.history.loss)
        if self.config.decay == "cosine" and before["steps"] != now["steps"] and done < self.config.steps:
            warnings.warn(
                f"{path} was on its way to {before['steps']:,} steps, now to {now['steps']:,}: after step "
                f"{done:,} the rate follows the cosine of the new length, and starts at "
                f"{self.config.rate(done):.0%}; a run of this length would have had other rates before",
                stacklevel=3,
            )
        self.settings.append((done, now))
