"""The building blocks of SaShiMi: norms, the two residual blocks, and stacks of them (chapters 4 and 6).

`Composite._run` writes the computation of a model of several modules once; it serves the parallel pass, by
the modules' ``forward``, and the recurrent one, by their ``step``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from sashimi_lib.models.states import State
from sashimi_lib.ssm.s4 import PAPER_SSM, S4, Direction, SSMConfig

Advance = Callable[
    [Any, Tensor, State], tuple[Any, State]
]  # runs a module by its ``forward`` or its ``step``
Norm = Literal["scalar", "layer"]


class SequenceModel(nn.Module, ABC):
    """Base class of sequence models: ``forward`` over a whole sequence or a chunk, and ``step`` over one
    sample, with equal results."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first sample."""

    @abstractmethod
    def step(self, x_t: Float[Tensor, "batch H"], state: State) -> tuple[Float[Tensor, "batch H"], State]:
        """Return the output of one sample, and the state after it."""


class ScalarNorm(nn.Module):
    """Layer normalization with one shift and one scale for all channels: ``s (x - mean + m) / std``.

    The published SaShiMi models use it in every block. They add no epsilon to the (biased) standard
    deviation; only a vector of equal channels, which would divide by zero there, is treated differently: it
    gives zero.

    >>> ScalarNorm()(torch.tensor([[1.0, 3.0]]))
    tensor([[-1.,  1.]], grad_fn=<_ScalarNormBackward>)

    Chapter: 6.
    """

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(1))
        self.s = nn.Parameter(torch.ones(1))

    def forward(self, x: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch H"]:
        """Normalize each vector of channels."""
        return _ScalarNorm.apply(x, self.m, self.s)


class _ScalarNorm(torch.autograd.Function):
    """`ScalarNorm` with its gradient in closed form: a third of the memory traffic of autograd's operations.

    With ``c = x - mean``, ``r = 1 / std``, g the gradient of ``y = s (c + m) r``, and a bar for means over
    the H channels: ``dx = s r (g - g_bar - c r q)`` where ``q = r (bar(g c) + m g_bar)``; of the scalars
    ``dm = s H sum(r g_bar)`` and ``ds = H sum(q)``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, m: Tensor, s: Tensor) -> Tensor:
        c = x - x.mean(-1, keepdim=True)
        std = torch.linalg.vector_norm(c, dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        r = torch.where(std > 0, 1 / std, 0)
        ctx.save_for_backward(c, r, m, s)
        return (c + m).mul_(s * r)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c, r, m, s = ctx.saved_tensors
        H, g_bar = c.shape[-1], g.mean(-1, keepdim=True)
        q = r * ((g * c).mean(-1, keepdim=True) + m * g_bar)
        dx = torch.addcmul(g - g_bar, c, r * q, value=-1).mul_(s * r)
        return dx, s * H * (r * g_bar).sum(), H * q.sum().expand_as(s)


def make_norm(norm: Norm, d_model: int) -> nn.Module:
    """Return the norm of a block: ``scalar``, as in the published models, or PyTorch's ``layer``.

    >>> type(make_norm("layer", 4)).__name__
    'LayerNorm'

    Raises ValueError for any other name.
    """
    if norm not in ("scalar", "layer"):
        raise ValueError(f"norm must be 'scalar' or 'layer', got {norm!r}")
    return ScalarNorm() if norm == "scalar" else nn.LayerNorm(d_model)


class S4Block(SequenceModel):
    """``x + S4(norm(x))``: a residual block that mixes over time.

    >>> S4Block(4)(torch.randn(1, 32, 4))[0].shape
    torch.Size([1, 32, 4])

    Chapter: 6. SaShiMi paper, section 4.2.
    """

    is_block = True

    def __init__(
        self,
        d_model: int,
        ssm: SSMConfig = PAPER_SSM,
        glu: bool = False,
        norm: Norm = "scalar",
        direction: Direction = "causal",
    ) -> None:
        super().__init__()
        self.norm = make_norm(norm, d_model)
        self.layer = S4(d_model, ssm, glu, direction)

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first sample."""
        return self.layer.initial_state(batch_size)

    def forward(
        self, x: Float[Tensor, "batch length H"], state: State = None
    ) -> tuple[Float[Tensor, "batch length H"], State]:
        """Process a whole sequence, or a chunk that follows ``state``; without one the next state is None."""
        y, state = self.layer(self.norm(x), state)
        return x + y, state

    def step(self, x_t: Float[Tensor, "batch H"], state: State) -> tuple[Float[Tensor, "batch H"], State]:
        """Process one sample."""
        y, state = self.layer.step(self.norm(x_t), state)
        return x_t + y, state


class FeedForward(SequenceModel):
    """``x + W2 gelu(W1 norm(x))``, H -> ff H -> H: a residual block that mixes over channels. ``normed`` puts
    weight norm on both matrices, as in the published diffusion networks.

    >>> FeedForward(4, ff=2)(torch.randn(1, 32, 4))[0].shape
    torch.Size([1, 32, 4])

    Chapter: 6. SaShiMi paper, section 4.2.
    """

    is_block = True

    def __init__(self, d_model: int, ff: int = 2, norm: Norm = "scalar", normed: bool = False) -> None:
        super().__init__()
        self.norm = make_norm(norm, d_model)
        self.expand = nn.Linear(d_model, ff * d_model)
        self.contract = nn.Linear(ff * d_model, d_model)
        if normed:
            self.expand, self.contract = weight_norm(self.expand), weight_norm(self.contract)

    def initial_state(self, batch_size: int) -> State:
        """Return the empty tuple: the block has no state."""
        return ()

    def forward(
        self, x: Float[Tensor, "*batch H"], state: State = None
    ) -> tuple[Float[Tensor, "*batch H"], State]:
        """Process each sample independently."""
        return x + self.contract(F.gelu(self.expand(self.norm(x)))), state

    def step(self, x_t: Float[Tensor, "batch H"], state: State) -> tuple[Float[Tensor, "batch H"], State]:
        """Process one sample: the same computation."""
        return self(x_t, state)


class Composite(SequenceModel):
    """A sequence model of several stateful modules, whose computation is written once, in ``_run``."""

    @abstractmethod
    def _parts(self) -> list[Any]:
        """Return the modules with a state, in the order of the state's entries."""

    @abstractmethod
    def _run(self, advance: Advance, x: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
        """Compute the output and the next states; ``advance(part, x, state)`` runs a module."""

    def initial_state(self, batch_size: int) -> State:
        """Return the state before the first sample: one entry for each module."""
        return tuple(part.initial_state(batch_size) for part in self._parts())

    def forward(
        self, x: Float[Tensor, "batch length H"], state: State = None
    ) -> tuple[Float[Tensor, "batch length H"], State]:
        """Process a whole sequence, or a chunk that follows ``state``; without one the next state is None."""
        states = [None] * len(self._parts()) if state is None else list(state)
        y, states = self._run(lambda part, x, s: part(x, s), x, states)
        return y, None if state is None else tuple(states)

    def step(self, x_t: Float[Tensor, "batch H"], state: State) -> tuple[Float[Tensor, "batch H"], State]:
        """Process one sample."""
        y, states = self._run(lambda part, x, s: part.step(x, s), x_t, list(state))
        return y, tuple(states)


class Stack(Composite):
    """Blocks in sequence.

    >>> Stack([FeedForward(4), FeedForward(4)])(torch.randn(1, 8, 4))[0].shape
    torch.Size([1, 8, 4])
    """

    def __init__(self, blocks: Sequence[SequenceModel]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def _parts(self) -> list[Any]:
        return list(self.blocks)

    def _run(self, advance: Advance, x: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
        for i, block in enumerate(self._parts()):
            x, states[i] = advance(block, x, states[i])
        return x, states
