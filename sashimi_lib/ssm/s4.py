"""The layer S4: H state spaces side by side, then a mixing of channels (chapters 4, 5 and 9)."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sashimi_lib.checks import at_least
from sashimi_lib.registry import register
from sashimi_lib.ssm import hippo
from sashimi_lib.ssm.convolution import bidirectional_conv, causal_conv
from sashimi_lib.ssm.discretize import bilinear_dplr, zoh_diagonal
from sashimi_lib.ssm.kernel_cache import Cached
from sashimi_lib.ssm.kernels import final_state, kernel, zero_input_response
from sashimi_lib.ssm.precision import autocast_off
from sashimi_lib.ssm.systems import DPLR, Recurrence

Directions = Literal["forward", "two-sided", "concatenated"]


class Form(StrEnum):
    """How A is written down, hence what training can make of it (SaShiMi paper, section 4.1).

    ``hurwitz``: ``Lambda - p p*`` with ``Re Lambda = -exp(.)``, stable whatever the parameters are.
    ``hurwitz-free-lambda``: ``Lambda - p p*`` with Lambda free, as the paper trained it.
    ``unconstrained``: ``Lambda + p q*`` with everything free, as S4 had it before.
    ``diagonal``: ``Lambda`` alone with ``Re Lambda = -exp(.)`` (S4D), by zero-order hold; the others are
    bilinear.
    """

    HURWITZ = "hurwitz"
    FREE_LAMBDA = "hurwitz-free-lambda"
    UNCONSTRAINED = "unconstrained"
    DIAGONAL = "diagonal"

    @property
    def bounded(self) -> bool:
        """Whether the real part of Lambda is negative by construction."""
        return self in (Form.HURWITZ, Form.DIAGONAL)


@register
@dataclass(frozen=True)
class SSMConfig:
    """What a bank of state spaces is made of.

    ``init`` is a `hippo.Measure` for the DPLR forms and a `hippo.Diagonal` for the diagonal one. The paper
    froze p, B and log_dt, and so does the default of the models.
    """

    d_state: int = 64  # State size N of each state space.
    form: Form = Form.HURWITZ  # Parametrization of A; HURWITZ is stable by construction.
    init: str = "legs"  # Initialization of A: a HiPPO measure, or one of the diagonal ones.
    tied: bool = True  # Share A and B among all channels.
    frozen: tuple[str, ...] = ()  # Parameters that are not trained, of Lambda, p, q, B, C, log_dt, D.
    dt_min: float = 0.001  # Smallest step size at initialization.
    dt_max: float = 0.1  # Largest step size at initialization.

    def __post_init__(self) -> None:
        unknown = set(self.frozen) - {"Lambda", "p", "q", "B", "C", "log_dt", "D"}
        if unknown:
            raise ValueError(
                f"frozen must name parameters among Lambda, p, q, B, C, log_dt, D; got {sorted(unknown)}"
            )
        at_least(self, 2, "d_state")
        if self.d_state % 2:
            raise ValueError(f"d_state must be even, for states in conjugate pairs, got {self.d_state}")
        if not 0 < self.dt_min <= self.dt_max < math.inf:
            raise ValueError(
                f"dt_min and dt_max must satisfy 0 < dt_min <= dt_max, got {self.dt_min}, {self.dt_max}"
            )
        object.__setattr__(self, "form", Form(self.form))
        (hippo.Diagonal if self.form is Form.DIAGONAL else hippo.Measure)(self.init)


PAPER_SSM = SSMConfig(frozen=("p", "B", "log_dt"))  # SaShiMi trained Lambda and C alone (appendix C.2)


class SSMParameters(Cached):
    """Systems side by side as parameters, and the kernels that they make: ``systems`` of them for each of
    ``d_model`` channels, each with its own C and dt. Of ``readings`` C there may be several.

    Chapter: 4. SaShiMi paper, section 4.1.
    """

    def __init__(
        self, d_model: int, config: SSMConfig = SSMConfig(), systems: int = 1, readings: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.config = config
        Lambda, p, B = _initial(config)
        H = systems * d_model
        copies = 1 if config.tied else H

        def parameter(z: Tensor) -> nn.Parameter:
            parts = torch.view_as_real(z).to(torch.get_default_dtype())
            return nn.Parameter(parts.expand(copies, *parts.shape).clone())

        if config.form.bounded:  # LegT and FouT start on the imaginary axis, where the logarithm has no value
            Lambda = torch.complex((-Lambda.real).clamp(min=1e-4).log(), Lambda.imag)
        self.Lambda = parameter(Lambda)
        self.B = parameter(B)
        if config.form is not Form.DIAGONAL:
            self.p = parameter(p)
        if config.form is Form.UNCONSTRAINED:
            self.q = parameter(-p)
        self.C = nn.Parameter(
            torch.view_as_real(torch.randn(*readings, H, len(B), dtype=torch.cfloat)).clone()
        )
        span = math.log(config.dt_max) - math.log(config.dt_min)
        self.log_dt = nn.Parameter(math.log(config.dt_min) + span * torch.rand(H))
        self.D = nn.Parameter(torch.randn(d_model))
        for name in config.frozen:
            if hasattr(self, name):
                getattr(self, name).requires_grad_(False)

    def ssm_parameters(self) -> list[nn.Parameter]:
        """The parameters that shape time: they train slowly, and without weight decay."""
        return [p for name, p in self.named_parameters() if name not in ("C", "D")]

    def system(self) -> DPLR:
        """The continuous systems, in float64, one a channel."""
        H = len(self.log_dt)
        Lambda, B, C = (_complex(x) for x in (self.Lambda, self.B, self.C))
        if self.config.form.bounded:
            Lambda = torch.complex(-Lambda.real.exp(), Lambda.imag)
        p = _complex(self.p) if hasattr(self, "p") else B[..., None][..., :0]
        q = _complex(self.q) if hasattr(self, "q") else -p
        Lambda, p, q, B = (x.expand(H, *x.shape[1:]) for x in (Lambda, p, q, B))
        return DPLR(Lambda, p, q, B, C, self.log_dt.double().exp())

    def recurrence(self) -> Recurrence:
        """The discrete systems, in float64: bilinear, or zero-order hold for the diagonal form."""
        rule = zoh_diagonal if self.config.form is Form.DIAGONAL else bilinear_dplr
        return rule(self.system())

    def discretized(self) -> tuple[Recurrence, Recurrence]:
        """`recurrence` in float64 and in the layer's own precision. Made at each call, but inside
        `sashimi_lib.ssm.kernel_cache.cached_kernels`."""

        def make() -> tuple[Recurrence, Recurrence]:
            precise = self.recurrence()
            return precise, precise.to(self.D.dtype)

        return self.cached("constants", make)

    def kernels(self, length: int) -> Float[Tensor, "*readings H length"]:
        """The kernel of every system and reading, in the layer's own precision. Made at each call, but inside
        `sashimi_lib.ssm.kernel_cache.cached_kernels`, where a shorter kernel is the beginning of a longer one."""

        def make() -> Tensor:
            return kernel(self.discretized()[0], length, self.D.dtype)

        return self.cached("kernels", make, length)[..., :length]


class StateSpace(SSMParameters):
    """``d_model`` single-input single-output state spaces, one a channel, each with its own C, dt and skip D.

    Any length, one kernel: nothing here is tied to the length it was trained at, and a sequence may come
    whole, in frames, or sample by sample, with the same result.

    >>> ssm = StateSpace(3)
    >>> y, state = ssm(torch.randn(2, 100, 3), ssm.initial_state(2))
    >>> y.shape, state.shape
    (torch.Size([2, 100, 3]), torch.Size([2, 3, 64]))

    Chapter: 4. SaShiMi paper, section 4.1.
    """

    def initial_state(self, batch_size: int) -> Float[Tensor, "batch H N"]:
        """The state of silence: zeros."""
        return self.D.new_zeros(batch_size, len(self.D), 2 * self.C.shape[1])

    def forward(
        self, u: Float[Tensor, "batch length H"], state: Float[Tensor, "batch H N"] | None = None
    ) -> tuple[Float[Tensor, "batch length H"], Float[Tensor, "batch H N"] | None]:
        """All samples at once, by convolution. Pass a state to go on from it and get the next one back.

        Without one the sequence starts from silence, and the cost of a final state is saved: None comes back.
        """
        _check_input(u, len(self.D))
        with autocast_off(u.device):  # touchy: powers and FFTs stay in full precision
            x = u.transpose(1, 2).to(self.D.dtype)
            y = causal_conv(x, self.kernels(x.shape[-1]), self.D)
            if state is not None:
                recurrence, _ = self.discretized()
                y = y + zero_input_response(recurrence, state, x.shape[-1])
                state = final_state(recurrence, x, state)
        return y.transpose(1, 2).to(u.dtype), state

    def step(
        self, u_t: Float[Tensor, "batch H"], state: Float[Tensor, "batch H N"]
    ) -> tuple[Float[Tensor, "batch H"], Float[Tensor, "batch H N"]]:
        """One sample, by recurrence, in O(N) a channel and in real arithmetic."""
        _, recurrence = self.discretized()
        state = recurrence.step(u_t.to(state.dtype), state)
        return torch.linalg.vecdot(recurrence.C, state) + self.D * u_t, state


class BidirectionalSSM(SSMParameters):
    """State spaces whose kernel has a side for the future: the same states, run backwards and read by
    another C.

    ``y[t] = sum_{m <= t} K[t - m] u[m] + sum_{m > t} K'[m - t - 1] u[m] + D u[t]``.

    >>> BidirectionalSSM(3)(torch.randn(2, 100, 3)).shape
    torch.Size([2, 100, 3])

    Chapter: 9. The form of the published code that came after the paper.
    """

    def __init__(self, d_model: int, config: SSMConfig = SSMConfig()) -> None:
        super().__init__(d_model, config, readings=(2,))

    def forward(self, u: Float[Tensor, "batch length H"]) -> Float[Tensor, "batch length H"]:
        """All samples at once."""
        _check_input(u, len(self.D))
        with autocast_off(u.device):
            x = u.transpose(1, 2).to(self.D.dtype)
            past, future = self.kernels(x.shape[-1])
            y = bidirectional_conv(x, past, future, self.D)
        return y.transpose(1, 2).to(u.dtype)


class ConcatBidirectionalSSM(SSMParameters):
    """State spaces over the sequence, and others over its reverse, side by side: twice the channels.

    ``y[t] = (sum_{m <= t} K[t - m] u[m] + D u[t], sum_{m >= t} K'[m - t] u[m] + D u[t])``.

    >>> ConcatBidirectionalSSM(3)(torch.randn(2, 100, 3)).shape
    torch.Size([2, 100, 6])

    Chapter: 9. SaShiMi paper, section 4.2. Both directions have one D, as the published counts of parameters
    say.
    """

    def __init__(self, d_model: int, config: SSMConfig = SSMConfig()) -> None:
        super().__init__(d_model, config, systems=2)

    def forward(self, u: Float[Tensor, "batch length H"]) -> Float[Tensor, "batch length both"]:
        """All samples at once."""
        _check_input(u, len(self.D))
        with autocast_off(u.device):
            x = u.transpose(1, 2).to(self.D.dtype)
            both = torch.stack([x, x.flip(-1)], dim=1)  # (batch, 2, H, L)
            K = self.kernels(x.shape[-1]).unflatten(0, (2, -1))
            forward, backward = causal_conv(both, K, self.D.expand(2, -1)).unbind(1)
            y = torch.stack([forward, backward.flip(-1)], dim=1)
        return y.flatten(1, 2).transpose(1, 2).to(u.dtype)


class S4(nn.Module):
    """State spaces, GELU, and a linear mixing of channels, with a gate (GLU) if wanted.

    ``directions`` says what it hears: the past (``forward``: a `StateSpace`), or past and future, by one
    kernel of two sides (`BidirectionalSSM`) or by two whose outputs the mixing brings together (`ConcatBidirectionalSSM`).
    What hears the future has no state and no step.

    >>> S4(4)(torch.randn(1, 32, 4))[0].shape
    torch.Size([1, 32, 4])

    Chapters: 4 and 9. SaShiMi paper, section 4.2. Raises ValueError for other directions, and where a layer
    that hears the future is asked for a state.
    """

    def __init__(
        self,
        d_model: int,
        ssm: SSMConfig = SSMConfig(),
        glu: bool = False,
        directions: Directions = "forward",
    ) -> None:
        super().__init__()
        kinds = {"forward": StateSpace, "two-sided": BidirectionalSSM, "concatenated": ConcatBidirectionalSSM}
        if directions not in kinds:
            raise ValueError(f"directions must be one of {', '.join(kinds)}, got {directions!r}")
        self.ssm: StateSpace | BidirectionalSSM | ConcatBidirectionalSSM = kinds[directions](d_model, ssm)
        self.glu = glu
        self.output = nn.Linear(d_model * (1 + (directions == "concatenated")), d_model * (1 + glu))

    def initial_state(self, batch_size: int) -> Float[Tensor, "batch H N"]:
        """The state of silence."""
        return self._causal().initial_state(batch_size)

    def forward(
        self, x: Float[Tensor, "batch length H"], state: Float[Tensor, "batch H N"] | None = None
    ) -> tuple[Float[Tensor, "batch length H"], Float[Tensor, "batch H N"] | None]:
        """All samples at once; see `StateSpace.forward` for what a state does."""
        if isinstance(self.ssm, StateSpace) or state is not None:
            y, state = self._causal()(x, state)
        else:
            y = self.ssm(x)
        return self._mix(y), state

    def step(
        self, x_t: Float[Tensor, "batch H"], state: Float[Tensor, "batch H N"]
    ) -> tuple[Float[Tensor, "batch H"], Float[Tensor, "batch H N"]]:
        """One sample."""
        y, state = self._causal().step(x_t, state)
        return self._mix(y), state

    def _mix(self, y: Tensor) -> Tensor:
        y = self.output(F.gelu(y))
        return F.glu(y, dim=-1) if self.glu else y

    def _causal(self) -> StateSpace:
        if not isinstance(self.ssm, StateSpace):
            raise ValueError("state must be None for a two-directional S4: it needs the whole sequence")
        return self.ssm


def _initial(config: SSMConfig) -> tuple[Tensor, Tensor, Tensor]:
    if config.form is Form.DIAGONAL:
        Lambda, B = hippo.diagonal(config.init, config.d_state)
        return Lambda, B[:, None][:, :0], B
    normal = hippo.nplr(config.init, config.d_state)
    return normal.Lambda, normal.P, normal.B


def _complex(parts: Tensor) -> Tensor:
    return torch.view_as_complex(parts.double())


def _check_input(u: Tensor, d_model: int) -> None:
    if u.shape[-1] != d_model:
        raise ValueError(f"u must have {d_model} channels last, got shape {tuple(u.shape)}")
    if u.shape[1] == 0:
        raise ValueError("u must hold at least one sample, got length 0")
