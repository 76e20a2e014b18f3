"""The S4 layer: one state space per channel, followed by a linear map over channels (chapters 4, 5 and 9)."""

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
from sashimi_lib.ssm.kernel_cache import CachesKernels
from sashimi_lib.ssm.kernels import final_state, kernel, zero_input_response
from sashimi_lib.ssm.precision import autocast_off
from sashimi_lib.ssm.systems import DPLR, Recurrence

Direction = Literal["causal", "bidirectional", "concat"]


class Form(StrEnum):
    """Parameterization of the state matrix A (SaShiMi paper, section 4.1).

    ``hurwitz``: ``Lambda - p p*`` with ``Re Lambda = -exp(.)``, stable for any value of the parameters.
    ``hurwitz-free-lambda``: ``Lambda - p p*`` with Lambda unconstrained, as trained in the paper.
    ``unconstrained``: ``Lambda + p q*`` with all of them unconstrained, as in the original S4.
    ``diagonal``: ``Lambda`` alone with ``Re Lambda = -exp(.)`` (S4D), discretized by zero-order hold. The
    other forms use the bilinear rule.
    """

    HURWITZ = "hurwitz"
    HURWITZ_FREE_LAMBDA = "hurwitz-free-lambda"
    UNCONSTRAINED = "unconstrained"
    DIAGONAL = "diagonal"

    @property
    def bounded(self) -> bool:
        """Whether the real part of Lambda is negative by construction."""
        return self in (Form.HURWITZ, Form.DIAGONAL)


@register
@dataclass(frozen=True)
class SSMConfig:
    """Configuration of the state spaces of a layer.

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


class SSMParameters(CachesKernels):
    """The parameters of a layer's state spaces, and the kernels computed from them.

    There are H = ``systems * d_model`` systems, each with its own C and dt. With ``n_outputs`` above 1 each
    system has as many outputs of one state: C then has an axis of that size in front.

    Chapter: 4. SaShiMi paper, section 4.1.
    """

    def __init__(
        self, d_model: int, config: SSMConfig = SSMConfig(), systems: int = 1, n_outputs: int = 1
    ) -> None:
        super().__init__()
        self.config = config
        Lambda, p, B = _init_hippo(config)
        H = systems * d_model
        if config.form.bounded:  # LegT and FouT start on the imaginary axis, where the logarithm is infinite
            Lambda = torch.complex((-Lambda.real).clamp(min=1e-4).log(), Lambda.imag)
        copies = 1 if config.tied else H
        self.Lambda = _complex_parameter(Lambda, copies)
        self.B = _complex_parameter(B, copies)
        if config.form is not Form.DIAGONAL:
            self.p = _complex_parameter(p, copies)
        if config.form is Form.UNCONSTRAINED:
            self.q = _complex_parameter(-p, copies)
        outputs = (n_outputs,) if n_outputs > 1 else ()
        C = torch.randn(*outputs, H, len(B), dtype=torch.cfloat)
        self.C = nn.Parameter(torch.view_as_real(C).clone())
        span = math.log(config.dt_max) - math.log(config.dt_min)
        self.log_dt = nn.Parameter(math.log(config.dt_min) + span * torch.rand(H))
        self.D = nn.Parameter(torch.randn(d_model))
        for name in config.frozen:
            if hasattr(self, name):
                getattr(self, name).requires_grad_(False)

    def ssm_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the dynamics, which train with a lower learning rate and no weight
        decay."""
        return [p for name, p in self.named_parameters() if name not in ("C", "D")]

    def system(self) -> DPLR:
        """Return the continuous-time systems in float64, one per channel."""
        H = len(self.log_dt)
        Lambda, B, C = (_complex(x) for x in (self.Lambda, self.B, self.C))
        if self.config.form.bounded:
            Lambda = torch.complex(-Lambda.real.exp(), Lambda.imag)
        p = _complex(self.p) if hasattr(self, "p") else B[..., None][..., :0]
        q = _complex(self.q) if hasattr(self, "q") else -p
        Lambda, p, q, B = (x.expand(H, *x.shape[1:]) for x in (Lambda, p, q, B))
        return DPLR(Lambda, p, q, B, C, self.log_dt.double().exp())

    def recurrence(self) -> Recurrence:
        """Return the discretized systems in float64: bilinear, or zero-order hold for the diagonal form."""
        rule = zoh_diagonal if self.config.form is Form.DIAGONAL else bilinear_dplr
        return rule(self.system())

    def discretized(self) -> tuple[Recurrence, Recurrence]:
        """Return `recurrence` in float64 and in the layer's dtype.

        It is computed at each call, except inside `sashimi_lib.ssm.kernel_cache.cached_kernels`.
        """

        def compute() -> tuple[Recurrence, Recurrence]:
            precise = self.recurrence()
            return precise, precise.to(self.D.dtype)

        return self.cached("discretized", compute)

    def kernels(self, length: int) -> Float[Tensor, "*outputs H length"]:
        """Return the convolution kernel of every system and output, in the layer's dtype.

        It is computed at each call, except inside `sashimi_lib.ssm.kernel_cache.cached_kernels`, where a
        shorter kernel is a slice of a longer one.
        """

        def compute() -> Tensor:
            return kernel(self.discretized()[0], length, self.D.dtype)

        return self.cached("kernels", compute, length)[..., :length]


class StateSpace(SSMParameters):
    """``d_model`` single-input single-output state spaces, one per channel, each with its own C, dt and D.

    The parameters do not depend on the sequence length. A sequence can be processed in one pass, in chunks
    or sample by sample, with equal results up to rounding.

    >>> ssm = StateSpace(3)
    >>> y, state = ssm(torch.randn(2, 100, 3), ssm.initial_state(2))
    >>> y.shape, state.shape
    (torch.Size([2, 100, 3]), torch.Size([2, 3, 64]))

    Chapter: 4. SaShiMi paper, section 4.1.
    """

    def initial_state(self, batch_size: int) -> Float[Tensor, "batch H N"]:
        """Return a state of zeros, that of a silent past."""
        return self.D.new_zeros(batch_size, len(self.D), 2 * self.C.shape[1])

    def forward(
        self, u: Float[Tensor, "batch length H"], state: Float[Tensor, "batch H N"] | None = None
    ) -> tuple[Float[Tensor, "batch length H"], Float[Tensor, "batch H N"] | None]:
        """Compute all outputs by convolution, starting from ``state``; return them and the final state.

        Without a state the sequence starts from zeros, the final state is not computed, and None is returned
        in its place.
        """
        _check_input(u, len(self.D))
        with autocast_off(u.device):  # powers and FFTs need full precision
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
        """Compute one sample by the recurrence: O(N) per channel, in real arithmetic."""
        _, recurrence = self.discretized()
        state = recurrence.step(u_t.to(state.dtype), state)
        return torch.linalg.vecdot(recurrence.C, state) + self.D * u_t, state


class BidirectionalSSM(SSMParameters):
    """State spaces with a bidirectional kernel: both halves share the dynamics, and each has its own C.

    ``y[t] = sum_{m <= t} K[t - m] u[m] + sum_{m > t} K'[m - t - 1] u[m] + D u[t]``.

    >>> BidirectionalSSM(3)(torch.randn(2, 100, 3)).shape
    torch.Size([2, 100, 3])

    Chapter: 9. Used by the code that the authors published after the paper.
    """

    def __init__(self, d_model: int, config: SSMConfig = SSMConfig()) -> None:
        super().__init__(d_model, config, n_outputs=2)

    def forward(self, u: Float[Tensor, "batch length H"]) -> Float[Tensor, "batch length H"]:
        """Compute all outputs by convolution."""
        _check_input(u, len(self.D))
        with autocast_off(u.device):
            x = u.transpose(1, 2).to(self.D.dtype)
            causal, anticausal = self.kernels(x.shape[-1])
            y = bidirectional_conv(x, causal, anticausal, self.D)
        return y.transpose(1, 2).to(u.dtype)


class ConcatBidirectionalSSM(SSMParameters):
    """State spaces over the sequence and others over its reverse, concatenated to twice the channels.

    ``y[t] = (sum_{m <= t} K[t - m] u[m] + D u[t], sum_{m >= t} K'[m - t] u[m] + D u[t])``.

    >>> ConcatBidirectionalSSM(3)(torch.randn(2, 100, 3)).shape
    torch.Size([2, 100, 6])

    Chapter: 9. SaShiMi paper, section 4.2. Both directions share one D, which agrees with the published
    numbers of parameters.
    """

    def __init__(self, d_model: int, config: SSMConfig = SSMConfig()) -> None:
        super().__init__(d_model, config, systems=2)

    def forward(self, u: Float[Tensor, "batch length H"]) -> Float[Tensor, "batch length 2*H"]:
        """Compute all outputs by convolution."""
        _check_input(u, len(self.D))
        with autocast_off(u.device):
            x = u.transpose(1, 2).to(self.D.dtype)
            both = torch.stack([x, x.flip(-1)], dim=1)  # (batch, 2, H, L)
            K = self.kernels(x.shape[-1]).unflatten(0, (2, -1))
            forward, backward = causal_conv(both, K, self.D.expand(2, -1)).unbind(1)
            y = torch.stack([forward, backward.flip(-1)], dim=1)
        return y.flatten(1, 2).transpose(1, 2).to(u.dtype)


class S4(nn.Module):
    """State spaces, GELU and a linear map over channels, optionally with a gated linear unit (GLU).

    ``direction`` is "causal" (`StateSpace`), "bidirectional" (one two-sided kernel, `BidirectionalSSM`) or
    "concat" (two kernels, whose outputs are concatenated before the linear map, `ConcatBidirectionalSSM`).
    Only a causal layer has a state and a step.

    >>> S4(4)(torch.randn(1, 32, 4))[0].shape
    torch.Size([1, 32, 4])

    Chapters: 4 and 9. SaShiMi paper, section 4.2. Raises ValueError for an unknown direction, and where a
    bidirectional layer is given a state or asked for one.
    """

    def __init__(
        self,
        d_model: int,
        ssm: SSMConfig = SSMConfig(),
        glu: bool = False,
        direction: Direction = "causal",
    ) -> None:
        super().__init__()
        kinds = {"causal": StateSpace, "bidirectional": BidirectionalSSM, "concat": ConcatBidirectionalSSM}
        if direction not in kinds:
            raise ValueError(f"direction must be one of {', '.join(kinds)}, got {direction!r}")
        self.ssm: StateSpace | BidirectionalSSM | ConcatBidirectionalSSM = kinds[direction](d_model, ssm)
        self.glu = glu
        self.output = nn.Linear(d_model * (1 + (direction == "concat")), d_model * (1 + glu))

    def initial_state(self, batch_size: int) -> Float[Tensor, "batch H N"]:
        """Return a state of zeros, that of a silent past."""
        return self._causal_ssm().initial_state(batch_size)

    def forward(
        self, x: Float[Tensor, "batch length H"], state: Float[Tensor, "batch H N"] | None = None
    ) -> tuple[Float[Tensor, "batch length H"], Float[Tensor, "batch H N"] | None]:
        """Compute all outputs by convolution; ``state`` is that of `StateSpace.forward`."""
        if isinstance(self.ssm, StateSpace) or state is not None:
            y, state = self._causal_ssm()(x, state)
        else:
            y = self.ssm(x)
        return self._output_projection(y), state

    def step(
        self, x_t: Float[Tensor, "batch H"], state: Float[Tensor, "batch H N"]
    ) -> tuple[Float[Tensor, "batch H"], Float[Tensor, "batch H N"]]:
        """Compute one sample by the recurrence."""
        y, state = self._causal_ssm().step(x_t, state)
        return self._output_projection(y), state

    def _output_projection(self, y: Tensor) -> Tensor:
        # The linear map needs a contiguous input anyway; the gradient of GELU is slow where it is not.
        y = self.output(F.gelu(y.contiguous()))
        return F.glu(y, dim=-1) if self.glu else y

    def _causal_ssm(self) -> StateSpace:
        if not isinstance(self.ssm, StateSpace):
            raise ValueError("state must be None for a bidirectional S4, which needs the whole sequence")
        return self.ssm


def _init_hippo(config: SSMConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return the initial (Lambda, p, B) of one system, in complex128."""
    if config.form is Form.DIAGONAL:
        Lambda, B = hippo.diagonal(config.init, config.d_state)
        return Lambda, B[:, None][:, :0], B
    normal = hippo.nplr(config.init, config.d_state)
    return normal.Lambda, normal.P, normal.B


def _complex_parameter(z: Tensor, copies: int) -> nn.Parameter:
    parts = torch.view_as_real(z).to(torch.get_default_dtype())
    return nn.Parameter(parts.expand(copies, *parts.shape).clone())


def _complex(parts: Tensor) -> Tensor:
    return torch.view_as_complex(parts.double())


def _check_input(u: Tensor, d_model: int) -> None:
    if u.shape[-1] != d_model:
        raise ValueError(f"u must have {d_model} channels last, got shape {tuple(u.shape)}")
    if u.shape[1] == 0:
        raise ValueError("u must hold at least one sample, got length 0")
