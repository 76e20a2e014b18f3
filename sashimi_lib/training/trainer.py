"""The training loop, top to bottom: AdamW with two learning rates, a seed, a log, checkpoints (chapter 6)."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from sashimi_lib.autoregressive import AudioLM
from sashimi_lib.ssm.s4 import StateSpace
from sashimi_lib.training.checkpoint import load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. ``lr`` and ``ssm_lr`` are the paper's (appendix C.2): state spaces learn time more
    slowly.

    ``warmup`` steps of rising rate, then ``decay``: ``constant``, or ``cosine`` down to nothing at the end.
    """

    steps: int = 1000
    batch_size: int = 8
    lr: float = 0.004
    ssm_lr: float = 0.001
    weight_decay: float = 0.0
    warmup: int = 0
    decay: str = "constant"
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.decay not in ("constant", "cosine"):
            raise ValueError(f"decay must be 'constant' or 'cosine', got {self.decay!r}")

    def rate(self, step: int) -> float:
        """The share of the full learning rate at a step.

        >>> [TrainingConfig(steps=4, decay="cosine").rate(step) for step in (0, 2)]
        [1.0, 0.5]
        """
        rising = min(1.0, (step + 1) / (self.warmup + 1))
        if self.decay == "constant":
            return rising
        return rising * (1 + math.cos(math.pi * step / self.steps)) / 2


@runtime_checkable
class Data(Protocol):
    """Sequences of codes, all of one length: a tensor (n, length), or a dataset of tensors."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


def train(
    model: AudioLM,
    data: Data,
    config: TrainingConfig = TrainingConfig(),
    checkpoint: str | Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    progress: bool = True,
) -> list[float]:
    """Maximise ``model.log_likelihood`` of the data; returns the bits per sample of every step's batch.

    With a ``checkpoint``, the run is written there as it goes and taken up where it stopped: the same numbers
    come out as without the interruption. ``on_step(step, bits)`` is called after each step, to look at the
    model.

    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.quantize import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> bits = train(model, torch.full((4, 64), 128), TrainingConfig(steps=10), progress=False)
    >>> bits[-1] < bits[0]
    True

    Chapter: 6. Raises ValueError for a checkpoint of another run, and FloatingPointError, naming the
    parameter, where training diverges.
    """
    if len(data) == 0:
        raise ValueError("data must hold at least one sequence, got none")
    torch.manual_seed(config.seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, config))
    log: list[float] = []
    if checkpoint is not None and Path(checkpoint).exists():
        log = _resume(checkpoint, model, optimizer, config)
    device = next(model.parameters()).device
    bar = tqdm(
        range(len(log), config.steps), initial=len(log), total=config.steps, unit="step", disable=not progress
    )
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * config.rate(step)
        loss = -model.log_likelihood(batch(data, config, step).to(device)).mean()
        optimizer.zero_grad()
        loss.backward()
        _check_finite(loss, model)
        optimizer.step()
        log.append(loss.item())
        bar.set_postfix_str(f"{log[-1]:.3f} bits")
        last = step + 1 == config.steps
        if checkpoint is not None and ((step + 1) % config.checkpoint_every == 0 or last):
            save_checkpoint(checkpoint, _content(model, optimizer, config, log))
        if on_step is not None:
            on_step(step, log[-1])
    return log


def batch(data: Data, config: TrainingConfig, step: int) -> Int[Tensor, "batch length"]:
    """The sequences of a step: a new permutation each epoch, known from the seed and the step alone.

    >>> batch(torch.arange(4)[:, None], TrainingConfig(batch_size=4), step=0).flatten().sort().values
    tensor([0, 1, 2, 3])

    Chapter: 6.
    """
    position = range(step * config.batch_size, (step + 1) * config.batch_size)
    order = {}
    for epoch in {p // len(data) for p in position}:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        order[epoch] = torch.randperm(len(data), generator=generator)
    return torch.stack([data[int(order[p // len(data)][p % len(data)])] for p in position])


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """What AdamW is to train and how: state-space dynamics slowly and without weight decay, all else at
    ``lr``.

    >>> groups = parameter_groups(StateSpace(2), TrainingConfig())
    >>> [(group["full_lr"], len(group["params"])) for group in groups]
    [(0.004, 2), (0.001, 4)]

    Chapter: 6. S4 paper, appendix; SaShiMi paper, appendix C.2.
    """
    slow = {p for module in model.modules() if isinstance(module, StateSpace) for p in module.dynamics()}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if p not in slow],
            "full_lr": config.lr,
            "weight_decay": config.weight_decay,
        },
        {
            "params": [p for p in trained if p in slow],
            "full_lr": config.ssm_lr,
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def _check_finite(loss: Tensor, model: nn.Module) -> None:
    if loss.isfinite():
        return
    broken = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    where = (
        f"parameter {broken[0]} holds a number that is not finite" if broken else "its parameters are finite"
    )
    raise FloatingPointError(f"training diverged: the loss is {loss.item()}; {where}")


def _content(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig, log: list[float]
) -> dict:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "config": dataclasses.asdict(config),
        "log": log,
    }


def _resume(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig
) -> list[float]:
    content = load_checkpoint(path)
    if content.get("config") != dataclasses.asdict(config):
        raise ValueError(f"checkpoint must be of a run with the same config, got another in {path}")
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return list(content["log"])
