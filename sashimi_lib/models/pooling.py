"""Pooling between two rates, and the one-frame shift that keeps it causal (chapter 6)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from sashimi_lib.models.blocks import SequenceModel, State


class DownPool(nn.Module):
    """``pool`` neighbouring samples become one: reshape, then a linear map, H -> ``d_coarse`` channels.

    >>> DownPool(4, 8, pool=4)(torch.randn(1, 16, 4)).shape
    torch.Size([1, 4, 8])

    Chapter: 6. SaShiMi paper, section 4.2. Raises ValueError for a length that ``pool`` does not divide.
    """

    def __init__(self, d_fine: int, d_coarse: int, pool: int, normed: bool = False) -> None:
        super().__init__()
        self.pool = pool
        self.linear = nn.Linear(d_fine * pool, d_coarse)
        if normed:
            self.linear = weight_norm(self.linear)

    def forward(self, x: Float[Tensor, "batch length H"]) -> Float[Tensor, "batch frames d_coarse"]:
        """(batch, length, H) -> (batch, length / pool, d_coarse)."""
        if x.shape[1] % self.pool:
            raise ValueError(
                f"x must have a length that pooling by {self.pool} divides, got {x.shape[1]} samples"
            )
        frames = x.unflatten(1, (-1, self.pool))
        z = self.linear(frames.mT.flatten(2))  # channel-major: index h * pool + s, as published
        return z.to(x.dtype)  # a residual stream begins here, which autocast must not round


class UpPool(nn.Module):
    """One frame becomes ``pool`` samples: a linear map, then reshape. `Hourglass` shifts them.

    >>> UpPool(8, 4, pool=4)(torch.randn(1, 4, 8)).shape
    torch.Size([1, 16, 4])

    Chapter: 6. SaShiMi paper, section 4.2.
    """

    def __init__(self, d_coarse: int, d_fine: int, pool: int, normed: bool = False) -> None:
        super().__init__()
        self.pool = pool
        self.linear = nn.Linear(d_coarse, d_fine * pool)
        if normed:
            self.linear = weight_norm(self.linear)

    def forward(self, z: Float[Tensor, "batch frames d_coarse"]) -> Float[Tensor, "batch length H"]:
        """(batch, frames, d_coarse) -> (batch, frames * pool, H)."""
        return self.linear(z).to(z.dtype).unflatten(2, (-1, self.pool)).mT.flatten(1, 2)


class Hourglass(SequenceModel):
    """Down, an inner model at the slower rate, up again: what the slower tiers of SaShiMi say to the faster
    one.

    Causal: what comes of a frame is heard from the next frame on, since a frame is known only once its last
    sample is. The state is what that means for a sequence in pieces: the samples of the frame being gathered,
    the outputs still to be given, and how far the frame has come. (That last number stays on the CPU, where
    reading it costs no synchronisation.)

    >>> from sashimi_lib.models.blocks import FeedForward, Stack
    >>> hourglass = Hourglass(DownPool(4, 8, 2), Stack([FeedForward(8)]), UpPool(8, 4, 2), causal=True)
    >>> y, _ = hourglass(torch.randn(1, 6, 4))
    >>> y.shape, bool((y[:, :2] == 0).all())
    (torch.Size([1, 6, 4]), True)

    Chapter: 6. SaShiMi paper, section 4.2.
    """

    def __init__(self, down: DownPool, inner: SequenceModel, up: UpPool, causal: bool) -> None:
        super().__init__()
        self.down, self.inner, self.up, self.causal = down, inner, up, causal
        self.d_fine = up.linear.out_features // up.pool

    def initial_state(self, batch_size: int) -> State:
        """Nothing gathered, one frame of silence to be given. What is over keeps its place until the next
        frame takes it."""
        silence = self.down.linear.bias.new_zeros(batch_size, self.down.pool, self.d_fine)
        return silence, silence, torch.tensor(0), self.inner.initial_state(batch_size)

    def forward(
        self, x: Float[Tensor, "batch length H"], state: State = None
    ) -> tuple[Float[Tensor, "batch length H"], State]:
        """All samples at once; with a state, any number of them."""
        if state is not None:
            return self._frames(x, state)
        y = self.up(self.inner(self.down(x))[0])
        if self.causal:
            y = F.pad(y, (0, 0, self.up.pool, 0))[:, : x.shape[1]]
        return y, None

    def _frames(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        gathered, pending, phase, inner = state
        pool, now = self.down.pool, int(phase)
        queue = torch.cat([gathered.roll(-now, 1), x], dim=1)  # the oldest first, of this frame and the last
        frames, then = divmod(now + x.shape[1], pool)
        if frames:
            z, inner = self.inner(self.down(queue[:, pool - now :][:, : frames * pool]), inner)
            pending = torch.cat([pending, self.up(z)], dim=1)
        y = pending[:, now : now + x.shape[1]]
        # The roll and the clone let go of the rest of what was gathered and given.
        gathered, pending = queue[:, -pool:].roll(then, 1), pending[:, -pool:].clone()
        return y, (gathered, pending, torch.tensor(then), inner)

    def step(self, x_t: Float[Tensor, "batch H"], state: State) -> tuple[Float[Tensor, "batch H"], State]:
        """One sample: the inner model steps once in ``pool`` of them."""
        gathered, pending, phase, inner = state
        now = int(phase)
        y_t = pending[:, now]
        gathered = torch.cat([gathered[:, :now], x_t[:, None], gathered[:, now + 1 :]], dim=1)
        if now == self.down.pool - 1:
            z, inner = self.inner.step(self.down(gathered)[:, 0], inner)
            pending = self.up(z[:, None])
        return y_t, (gathered, pending, (phase + 1) % self.down.pool, inner)
