"""The state of a training run: everything that changes during training, and that a checkpoint holds."""

import math
import warnings
from dataclasses import asdict, dataclass, field, replace
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
from sashimi_lib.training.config import DEFAULTS, TrainingConfig, describe_differences
from sashimi_lib.training.distributed import SINGLE_PROCESS, DistributedContext
from sashimi_lib.training.ema import new_ema_model
from sashimi_lib.training.fingerprint import dataset_fingerprint, describe_data_difference, run_id
from sashimi_lib.training.optimizer import load_optimizer_state, new_optimizer
from sashimi_lib.training.rng import seed_all


@dataclass
class History:
    """The training loss of every step, and (step, loss) of every validation: bits per sample of a model of
    codes, the mean squared error of a diffusion model. ``seconds`` is the time of all steps on a GPU, or
    of a CPU's cores together, without validations and checkpoints; NaN in a run that began before it was
    recorded.

    >>> history = History([7.0, 6.0, 5.5, 5.0], [(2, 6.5), (4, 6.6)])
    >>> history.best, history.validations_since_best
    ((2, 6.5), 1)

    Chapters: 7 and 9.
    """

    loss: list[float] = field(default_factory=list)
    valid: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = field(default=0.0, compare=False)  # equal runs take different times

    @property
    def best(self) -> tuple[int, float]:
        """The first validation with the lowest loss. Raises ValueError if there was none."""
        return min(self.valid, key=lambda entry: (math.isnan(entry[1]), entry[1]))

    @property
    def validations_since_best(self) -> int:
        """The number of validations since the best one."""
        return len(self.valid) - 1 - self.valid.index(self.best) if self.valid else 0

    def state_dict(self) -> dict[str, Any]:
        """Return the history for a checkpoint: losses as one tensor, since there may be millions.

        >>> History([7.0, 6.0]).state_dict()["loss"]
        tensor([7., 6.], dtype=torch.float64)
        """
        loss = torch.from_numpy(np.array(self.loss, dtype=np.float64))
        return {"loss": loss, "valid": self.valid, "seconds": self.seconds}

    @staticmethod
    def from_state_dict(content: dict[str, Any]) -> "History":
        """Return the history of a `state_dict`; older checkpoints have a list of losses, and no seconds."""
        loss = torch.as_tensor(content["loss"], dtype=torch.float64).tolist()
        return History(loss, content["valid"], content.get("seconds", math.nan))


class TrainState:
    """A model in training: optimizer, moving average, position in the data, cache, history, best weights.

    Everything else (learning rate, order of the data, random numbers) follows from the configuration and the
    history. All processes have the same state, except for the cache, which is that of their shard.
    """

    def __init__(
        self,
        model: Trainable,
        data: SequenceDataset,
        config: TrainingConfig,
        valid: SequenceDataset | None = None,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        self.model, self.data, self.valid = model, data, valid
        self.config, self.distributed = config, distributed
        self.optimizer = new_optimizer(model, config)
        self.ema_model: AveragedModel | None = new_ema_model(model, config.ema) if config.ema > 0 else None
        self.stream = DataStream(data, config, model.pad_value, distributed, self._prepare)
        self.cache: Cache | None = None
        self.history = History()
        self.best: dict[str, Tensor] | None = None  # on the CPU, to save GPU memory
        self.settings = [(0, asdict(config))]  # (first step, settings), with an entry for each change

    @property
    def eval_model(self) -> Trainable:
        """The model that is validated and returned: the moving average if there is one."""
        return self.model if self.ema_model is None else self.ema_model.module  # type: ignore[return-value]

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or early stopping applies."""
        patience = self.config.early_stopping_patience
        stops_early = patience is not None and self.history.validations_since_best >= patience
        return stops_early or len(self.history.loss) >= self.config.steps

    @property
    def validation_due(self) -> bool:
        """Whether to validate after the steps so far: every ``valid_every`` steps, and at the end."""
        steps = len(self.history.loss)
        regular = steps % self.config.valid_every == 0
        return self.valid is not None and (regular or steps == self.config.steps)

    def set_learning_rate(self) -> float:
        """Set the learning rates of the next step; return that of all but state-space parameters."""
        # A validation at the end of a run that was later extended is not a regular one, and does not count.
        regular = [loss for steps, loss in self.history.valid if steps % self.config.valid_every == 0]
        factor = self.config.rate(len(self.history.loss), regular)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor
        return self.config.lr * factor

    def seed_rng(self) -> None:
        """Seed the global random number generators for the next step, differently in each process."""
        seed = seed_all(self.config.seed, len(self.history.loss), self.distributed.rank)
        if self.model.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def record_step(self, loss: float) -> None:
        """Append the loss of a step to the history, and update the moving average of the weights."""
        if self.ema_model is not None:
            self.ema_model.update_parameters(self.model)
        self.history.loss.append(loss)

    def record_validation(self, loss: float) -> None:
        """Append a validation to the history, and copy the weights if its loss is the best so far."""
        self.history.valid.append((len(self.history.loss), loss))
        if self.best is None or self.history.validations_since_best == 0:
            weights = self.eval_model.state_dict()
            self.best = {name: x.detach().to("cpu", copy=True) for name, x in weights.items()}

    def load_best_weights(self) -> None:
        """Load the weights of the best validation into the model, or without one those of `eval_model`."""
        self.model.load_state_dict(self.eval_model.state_dict() if self.best is None else self.best)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, and rename the existing one to `previous_of`.

        Raises FloatingPointError, and changes no file, if weights are not finite; and OSError if the file
        cannot be written.
        """
        check_parameters(self.model)
        content = {
            **self._fingerprint,
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.ema_model is None else self.ema_model.state_dict(),
            "place": (self.stream.batch_index, self.stream.sample_offset),
            "cache": self.distributed.all_gather_state(self.cache),
            "history": self.history.state_dict(),
            "best": self.best,
        }
        if self.distributed.is_main_process:
            save_checkpoint(path, content, previous_of(path))

    def save_best(self, path: str | Path) -> None:
        """Write the best weights to `best_of` of the checkpoint."""
        steps, loss = self.history.best
        if self.distributed.is_main_process:
            best = {"id": self._fingerprint["id"], "model": self.best, "steps": steps, "loss": loss}
            save_checkpoint(best_of(path), best | {"seconds": self.history.seconds})

    def load(self, path: str | Path) -> None:
        """Resume from the checkpoint at ``path``, if there is one. Raises ValueError for a checkpoint of
        another run, naming what differs, and for a file that is not a checkpoint."""
        content = self.distributed.broadcast_object(
            latest_checkpoint(path) if self.distributed.is_main_process else None
        )
        if content is None:
            return
        self.history = History.from_state_dict(content["history"])
        self._check_same_run(path, content)
        self._update_settings(path)
        load_weights(self.model, content["model"], path)
        load_optimizer_state(self.optimizer, content["optimizer"])
        if self.ema_model is not None:
            self.ema_model.load_state_dict(content["average"])
        self.stream.batch_index, self.stream.sample_offset = content["place"]
        if content["cache"] is not None:
            shard = slice_states(content["cache"], self.distributed.shard_slice(self.config.batch_size))
            like = self.model.initial_cache(len(shard[0]))
            self.cache = map_state(lambda saved, current: saved.to(current.device), shard, like)
        self.best = content["best"]

    def _prepare(self, batch: Batch) -> Batch:
        """Check a batch while it is on the CPU, and pin its memory for a GPU."""
        self.model.check(batch.sequence, batch.label)
        can_pin = self.model.device.type == "cuda" and batch.sequence.device.type == "cpu"
        return batch.pinned() if can_pin else batch

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        """What identifies the run in its checkpoints: see `sashimi_lib.training.fingerprint`."""
        resumable = self.config.resumable_fields
        fixed = {name: value for name, value in asdict(self.config).items() if name not in resumable}
        data = dataset_fingerprint(self.data)
        valid = None if self.valid is None else dataset_fingerprint(self.valid)
        return {"id": run_id(fixed, data), "data": data, "valid": valid}

    def _check_same_run(self, path: str | Path, content: dict[str, Any]) -> None:
        """Raise ValueError, naming the differences, unless a checkpoint is of this run."""
        # Older checkpoints have their settings in "config", and no fingerprint of the data.
        self.settings = [tuple(entry) for entry in content.get("settings", [(0, content.get("config", {}))])]
        other = describe_differences(self.settings[-1][1], asdict(self.config), self.config.resumable_fields)
        if "data" in content:
            other += describe_data_difference("data", content["data"], self._fingerprint["data"])
        if content.get("valid") and self._fingerprint["valid"] and self.history.valid:
            other += describe_data_difference("valid", content["valid"], self._fingerprint["valid"])
        if other:
            raise ValueError(f"checkpoint {path} belongs to another run: {'; '.join(other)}")

    def _update_settings(self, path: str | Path) -> None:
        """Append settings that changed; warn if the steps so far followed another schedule."""
        saved, current = {**asdict(DEFAULTS), **self.settings[-1][1]}, asdict(self.config)
        if saved == current:
            return
        done = len(self.history.loss)
        before = replace(self.config, steps=saved["steps"])
        if 0 < done < self.config.steps and before.rate(done - 1) != self.config.rate(done - 1):
            warnings.warn(
                f"{path} was a run of {saved['steps']:,} steps, now of {current['steps']:,}: after step "
                f"{done:,} the learning rate is that of the new length, from {self.config.rate(done):.0%} of "
                "the full rate; the steps before followed the old one",
                stacklevel=3,
            )
        self.settings.append((done, current))
