"""The gradients of one step: of a batch whole or in parts, by one process or several (chapters 6 to 10)."""

from contextlib import nullcontext

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sashimi_lib.models.trainable import Past, Trainable
from sashimi_lib.ssm.exact import rounding_factors
from sashimi_lib.training.batches import Piece
from sashimi_lib.training.compute import Compute
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.states import each_tensor, rows_of, share, together
from sashimi_lib.training.team import Team


class Scores(nn.Module):
    """A model whose call is its score, as ``DistributedDataParallel`` wants it.

    Chapter: 10.
    """

    def __init__(self, model: Trainable) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, past: Past | None, label: Int[Tensor, " batch"] | None
    ) -> tuple[Tensor, Past | None]:
        """`sashimi_lib.models.trainable.Trainable.score`."""
        return self.model.score(x, past, label)


class Step:
    """Calls of it leave the gradients of minus the mean score of a batch in the parameters of the model.

    In a team each process calls it with its own sequences, and all get the gradients of the whole batch.

    Chapter: 10.
    """

    def __init__(self, model: Trainable, config: TrainingConfig, compute: Compute, team: Team) -> None:
        self.scores = Scores(model)
        self.parallel: DistributedDataParallel | None = None
        self.half, self.rounds = config.precision == "bfloat16", config.precision == "tf32"
        self.parts, self.team = compute.accumulate, team
        self.samples = 0  # that the last one heard, in all processes
        if team.size > 1:
            # Some parameters never get a gradient, as a WaveNet's last residual; others not at every step, as
            # a state that is learnt, which is heard in the first piece of a sequence alone.
            self.parallel = DistributedDataParallel(self.scores, find_unused_parameters=True)

    def __call__(self, piece: Piece, past: Past | None) -> tuple[Tensor, Past | None]:
        """The loss of the whole batch, and the past of the next piece; gradients end there."""
        samples = self.team.total(piece.real.sum())  # so that each sample counts alike, wherever it is heard
        self.samples = int(samples)  # it is still on the CPU: there is no GPU to wait for
        piece = piece.to(self.scores.model.device)
        parts = min(self.parts, len(piece.sequence))
        losses, pasts = [], []
        with rounding_factors(self.rounds):
            for part in range(parts):
                rows = share(len(piece.sequence), part, parts)
                before = None if past is None else rows_of(past, rows)
                loss, after = self._part(piece.rows(rows), before, samples, last=part == parts - 1)
                losses.append(loss)
                pasts.append(after)
        ahead = None if pasts[0] is None else together(pasts)
        return self.team.total(torch.stack(losses).sum()), ahead

    def _part(
        self, piece: Piece, past: Past | None, samples: Tensor, last: bool
    ) -> tuple[Tensor, Past | None]:
        """The same of some sequences. Processes wait for each other's gradients with the last of them."""
        with nullcontext() if self.parallel is None or last else self.parallel.no_sync():
            with torch.autocast(piece.sequence.device.type, torch.bfloat16, enabled=self.half):
                scores, after = (self.parallel or self.scores)(piece.sequence, past, piece.label)
            loss = -scores.where(piece.real, 0).sum() / samples
            (loss * self.team.size).backward()  # for gradients are averaged over the processes, not summed
        return loss.detach(), None if after is None else each_tensor(Tensor.detach, after)
