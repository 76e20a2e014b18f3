"""The gradients of one step: of a batch whole or in parts, by one process or several (chapters 6 to 10)."""

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sashimi_lib.models.trainable import Past, Trainable
from sashimi_lib.ssm.cache import shared_kernels
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
        self, x: Tensor, past: Past | None, label: Int[Tensor, " batch"] | None, random: Any
    ) -> tuple[Tensor, Past | None]:
        """`sashimi_lib.models.trainable.Trainable.score`."""
        return self.model.score(x, past, label, random)


class Step:
    """Calls of it leave the gradients of minus the mean score of a batch in the parameters of the model.

    In a team each process calls it with its own sequences, and all get the gradients of the whole batch.
    Kernels of state spaces are made once a step, and random numbers are drawn for the whole batch, however it
    is split.

    Chapter: 10.
    """

    def __init__(self, model: Trainable, config: TrainingConfig, compute: Compute, team: Team) -> None:
        self.model, self.scores = model, Scores(model)
        self.parallel: DistributedDataParallel | None = None
        self.half, self.rounds = config.precision == "bfloat16", config.precision == "tf32"
        self.recompute_kernels = compute.recompute_kernels
        self.parts, self.batch_size, self.team = compute.accumulate, config.batch_size, team
        self.samples = 0  # that the last call has trained on, in all processes
        if team.size > 1:
            # Of a sequence in pieces one may leave parameters out: a state that is learnt, after the first;
            # the slower tiers, in a last one of few samples. The search takes time, so others go without.
            skips = any(getattr(module, "may_skip_parameters", False) for module in model.modules())
            self.parallel = DistributedDataParallel(
                self.scores,
                find_unused_parameters=skips or config.truncate is not None,
                gradient_as_bucket_view=True,
            )

    def __call__(self, piece: Piece, past: Past | None) -> tuple[Tensor, Past | None]:
        """The loss of the whole batch, and the past of the next piece; gradients end there."""
        # So that each sample counts alike, wherever it is; counted on the CPU, which then waits for no GPU.
        self.samples = int(self.team.total(piece.real.sum()))
        piece, random = piece.to(self.model.device), self._random(len(piece.sequence))
        parts = min(self.parts, len(piece.sequence))
        losses, pasts = [], []
        with rounding_factors(self.rounds), shared_kernels(self.model, self.recompute_kernels) as kernels:
            for part in range(parts):
                rows = share(len(piece.sequence), part, parts)
                before, mine = (None if x is None else rows_of(x, rows) for x in (past, random))
                with ExitStack() as scope:
                    if part < parts - 1:  # gradients wait for those of the last part
                        scope.enter_context(kernels.detached())
                        if self.parallel is not None:
                            scope.enter_context(self.parallel.no_sync())
                    loss, after = self._part(piece.rows(rows), before, mine)
                losses.append(loss)
                pasts.append(after)
        ahead = None if pasts[0] is None else together(pasts)
        return self.team.total(torch.stack(losses).sum()), ahead

    def _random(self, sequences: int) -> Any:
        """This process's rows of the random numbers of the whole batch, which the first process draws."""
        total = sequences if self.team.size == 1 else self.batch_size
        random = self.model.draw_random(total)
        return None if random is None else rows_of(self.team.told(random), self.team.rows(total))

    def _part(self, piece: Piece, past: Past | None, random: Any) -> tuple[Tensor, Past | None]:
        """The same of some sequences."""
        with torch.autocast(piece.sequence.device.type, torch.bfloat16, enabled=self.half):
            scores, after = (self.parallel or self.scores)(piece.sequence, past, piece.label, random)
        loss = -scores.where(piece.real, 0).sum() / self.samples
        (loss * self.team.size).backward()  # for gradients are averaged over the processes, not summed
        return loss.detach(), None if after is None else each_tensor(Tensor.detach, after)
