"""Training settings and learning rate schedules (chapters 6, 7 and 10)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from sashimi_lib.checks import above, at_least

Decay = Literal["constant", "cosine", "wsd", "plateau"]
Precision = Literal["float32", "tf32", "bfloat16"]


def _resumable(default: int | None, unless: str = "") -> Any:
    """Declare a field that may change when a run resumes, since steps do not depend on it; ``unless`` is a
    ``decay`` under which they do."""
    return field(default=default, metadata={"resumable": True, "unless": unless})


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run; the default learning rates are the paper's (appendix C.2).

    When a run resumes from its checkpoint, only `resumable_fields` may differ: ``steps``,
    ``early_stopping_patience``, ``checkpoint_every``, and ``valid_every`` unless the learning rate depends on
    validations. With several processes ``batch_size`` is the global one.

    ``bfloat16`` computes matrix products in half precision; weights, residual streams, norms, GRUs, states,
    kernels and losses stay in float32. ``tf32`` rounds the factors of float32 matrix products, convolutions
    and GRUs to 10 bits on GPUs that support it; kernels of state spaces stay in full precision.
    """

    steps: int = _resumable(1000)  # Training steps.
    batch_size: int = 8  # Sequences per step, of all processes together.
    lr: float = 0.004  # Learning rate of all but state-space parameters.
    ssm_lr: float = 0.001  # Learning rate of state-space parameters.
    # Learning rate of Muon, which then trains the matrices of the backbone; None: AdamW trains all.
    muon_lr: float | None = None
    weight_decay: float = 0.0  # Weight decay of all but state-space parameters.
    warmup: int = 0  # Steps of linear warm-up.
    # Schedule after warm-up: constant, cosine to 0, wsd (constant, then linear to 0), or plateau.
    decay: Decay = "constant"
    cooldown: float = 0.3  # Schedule wsd (warm-up, stable, decay): share of decaying steps.
    plateau_factor: float = 0.2  # Plateau schedule: multiplies the learning rate.
    plateau_patience: int = 20  # Plateau schedule: validations without improvement before that.
    clip_norm: float | None = None  # Largest norm of all gradients together; None: no limit.
    clip_value: float | None = None  # Largest absolute value of each gradient; None: no limit.
    # Truncated back-propagation through time: samples of a chunk; states carry over, gradients do not.
    tbptt_length: int | None = None
    # Precision of products; bfloat16 is mixed precision, tf32 needs a GPU.
    precision: Precision = "float32"
    # Decay of an exponential moving average of the weights, which is validated and saved; 0: off.
    ema: float = 0.0
    valid_every: int = _resumable(1000, unless="plateau")  # Steps between validations.
    # Early stopping: validations without a new best before training stops; None: off.
    early_stopping_patience: int | None = _resumable(None)
    seed: int = 0  # Random seed of the initial weights, the data order and the steps.
    checkpoint_every: int = _resumable(100)  # Steps between checkpoints.

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that is out of range."""
        at_least(
            self,
            1,
            "steps",
            "batch_size",
            "tbptt_length",
            "valid_every",
            "early_stopping_patience",
            "checkpoint_every",
        )
        at_least(self, 0, "weight_decay", "warmup", "plateau_patience", "seed")
        above(self, 0, "lr", "ssm_lr", "muon_lr", "clip_norm", "clip_value")
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2^32, got {self.seed}")
        if self.decay not in get_args(Decay):
            raise ValueError(f"decay must be one of {', '.join(get_args(Decay))}, got {self.decay!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}"
            )
        if not 0 < self.plateau_factor < 1:
            raise ValueError(f"plateau_factor must lie between 0 and 1, got {self.plateau_factor}")
        if not 0 < self.cooldown <= 1:
            raise ValueError(f"cooldown must lie in (0, 1], got {self.cooldown}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")

    @property
    def resumable_fields(self) -> frozenset[str]:
        """Names of the settings that may change when a run resumes.

        >>> sorted(TrainingConfig(decay="plateau").resumable_fields)
        ['checkpoint_every', 'early_stopping_patience', 'steps']
        """
        unless = {f.name: f.metadata["unless"] for f in fields(self) if f.metadata.get("resumable")}
        return frozenset(name for name, decay in unless.items() if decay != self.decay)

    def samples_per_step(self, length: int) -> int:
        """Return the number of samples in a step, for sequences of ``length`` samples.

        >>> TrainingConfig(batch_size=2).samples_per_step(100)
        200
        >>> TrainingConfig(batch_size=2, tbptt_length=30).samples_per_step(100)
        60
        """
        return self.batch_size * (self.tbptt_length or length)

    def rate(self, step: int, valid: Sequence[float] = ()) -> float:
        """Return the learning rate of a step as a fraction of the full one, given all validation losses so
        far.

        It is a function of its arguments alone, so checkpoints hold no state of the schedule.

        >>> [TrainingConfig(steps=4, decay="cosine").rate(step) for step in (0, 2)]
        [1.0, 0.5]
        >>> TrainingConfig(decay="plateau", plateau_factor=0.5, plateau_patience=1).rate(9, [7.0, 7.1, 7.2])
        0.5
        """
        warmup = min(1.0, (step + 1) / (self.warmup + 1))
        if self.decay == "constant":
            return warmup
        if self.decay == "plateau":
            return warmup * plateau(valid, self.plateau_factor, self.plateau_patience)
        if self.decay == "wsd":
            return warmup * min(1.0, (1 - step / self.steps) / self.cooldown)
        return warmup * (1 + math.cos(math.pi * step / self.steps)) / 2


DEFAULTS = TrainingConfig()


def describe_differences(
    saved: Mapping[str, Any], current: Mapping[str, Any], resumable: Iterable[str] = ()
) -> list[str]:
    """Describe each setting of a saved run that differs from the current one, except ``resumable`` ones.

    A setting that an older version did not save has its default.

    >>> describe_differences({"lr": 0.1, "steps": 3}, {"lr": 0.2, "steps": 9, "seed": 0}, resumable=["steps"])
    ['lr was 0.1 and is now 0.2']

    Chapter: 10.
    """
    saved = {**asdict(DEFAULTS), **saved}
    return [
        f"{name} was {saved.get(name)} and is now {value}"
        for name, value in current.items()
        if name not in resumable and saved.get(name) != value
    ]


def plateau(valid: Sequence[float], plateau_factor: float, plateau_patience: int) -> float:
    """Return the factor of a learning rate that is multiplied by ``plateau_factor`` after every
    ``plateau_patience + 1`` validations in a row without a new best loss.

    A loss is better if it is lower by one part in ten thousand. This is the rule of PyTorch's
    ``ReduceLROnPlateau``, which the published recipes used, as a function of all validations so far.

    >>> plateau([5.0, 4.0, 4.0, 4.0], plateau_factor=0.5, plateau_patience=1)
    0.5

    Chapter: 7.
    """
    best, since_best, factor = math.inf, 0, 1.0
    for loss in valid:
        since_best = 0 if loss < best * (1 - 1e-4) else since_best + 1
        best = loss if since_best == 0 else best
        if since_best > plateau_patience:
            factor, since_best = factor * plateau_factor, 0
    return factor
