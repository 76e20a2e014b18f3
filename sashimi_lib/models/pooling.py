"""Pooling between two sampling rates, and the one-frame shift that keeps it causal (chapter 6)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from sashimi_lib.models.blocks import SequenceModel, State


class DownPool(nn.Module):
    """Downsample: reshape ``pool`` neighboring samples into one frame, then a linear map to ``d_coarse``
    channels.

    >>> DownPool(4, 8, pool=4)(torch.randn(1, 16, 4)).shape
    torch.Size([1, 4, 8])

    Chapter: 6. SaShiMi paper, section 4.2. Raises ValueError for a length that is not a multiple of ``pool``.
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
                f"x must have a length that is a multiple of {self.pool}, got {x.shape[1]} samples"
            )
        frames = x.unflatten(1, (-1, self.pool))
        z = self.linear(frames.mT.flatten(2))  # channel-major: index h * pool + s, as published
        return z.to(x.dtype)  # the start of a residual stream, which stays in full precision


class UpPool(nn.Module):
    """Upsample: a linear map of a frame, then reshape into ``pool`` samples. `Hourglass` shifts them.

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
    """Downsample, run an inner model at the slower rate, upsample: the slower tiers of SaShiMi.

    With ``causal`` the output is shifted by one frame, since a frame is complete only with its last sample:
    the outputs of a frame depend on earlier frames. The state holds the samples of the incomplete frame, the
    outputs of the last complete one, the phase (the number of samples in the incomplete frame), and the inner
    model's state. The phase stays on the CPU, where reading it needs no synchronization.

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
        """Return the state before the first sample: no samples gathered, one frame of zeros to output."""
        zeros = self.down.linear.bias.new_zeros(batch_size, self.down.pool, self.d_fine)
        return zeros, zeros, torch.tensor(0), self.inner.initial_state(batch_size)

    def forward(
        self, x: Float[Tensor, "batch length H"], state: State = None
    ) -> tuple[Float[Tensor, "batch length H"], State]:
        """Process a whole sequence, or a chunk of any length that follows ``state``."""
        if state is not None:
            return self._chunk(x, state)
        y = self.up(self.inner(self.down(x))[0])
        if self.causal:
            y = F.pad(y, (0, 0, self.up.pool, 0))[:, : x.shape[1]]
        return y, None

    def _chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        gathered, pending, phase, inner = state
        pool, start = self.down.pool, int(phase)
        queue = torch.cat([gathered.roll(-start, 1), x], dim=1)  # oldest first, of this frame and the last
        frames, end = divmod(start + x.shape[1], pool)
        if frames:
            z, inner = self.inner(self.down(queue[:, pool - start :][:, : frames * pool]), inner)
            pending = torch.cat([pending, self.up(z)], dim=1)
        y = pending[:, start : start + x.shape[1]]
        # The roll and the clone copy: views would keep the whole chunk in memory.
        gathered, pending = queue[:, -pool:].roll(end, 1), pending[:, -pool:].clone()
        return y, (gathered, pending, torch.tensor(end), inner)

    def step(self, x_t: Float[Tensor, "batch H"], state: State) -> tuple[Float[Tensor, "batch H"], State]:
        """Process one sample: the inner model steps once every ``pool`` samples."""
        gathered, pending, phase, inner = state
        index = int(phase)
        y_t = pending[:, index]
        gathered = torch.cat([gathered[:, :index], x_t[:, None], gathered[:, index + 1 :]], dim=1)
        if index == self.down.pool - 1:
            z, inner = self.inner.step(self.down(gathered)[:, 0], inner)
            pending = self.up(z[:, None])
        return y_t, (gathered, pending, (phase + 1) % self.down.pool, inner)
