"""The gradients of one step: of a batch whole or in parts, by one process or several (chapters 6 to 10)."""

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sashimi_lib.data.sequences import Batch
from sashimi_lib.models.states import concat_states, map_state, slice_states
from sashimi_lib.models.trainable import Cache, Trainable
from sashimi_lib.ssm.kernel_cache import shared_kernels
from sashimi_lib.ssm.precision import tf32_allowed
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.distributed import DistributedContext, shard
from sashimi_lib.training.execution import ExecutionConfig


class LossModule(nn.Module):
    """A model whose call is its score, as ``DistributedDataParallel`` wants it.

    Chapter: 10.
    """

    def __init__(self, model: Trainable) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, cache: Cache | None, label: Int[Tensor, " batch"] | None, random: Any
    ) -> tuple[Tensor, Cache | None]:
        """`sashimi_lib.models.trainable.Trainable.score`."""
        return self.model.score(x, cache, label, random)


class GradientStep:
    """Calls of it leave the gradients of minus the mean score of a batch in the parameters of the model.

    In a team each process calls it with its own sequences, and all get the gradients of the whole batch.
    Kernels of state spaces are made once a step, and random numbers are drawn for the whole batch, however it
    is split.

    Chapter: 10.
    """

    def __init__(
        self,
        model: Trainable,
        config: TrainingConfig,
        execution: ExecutionConfig,
        distributed: DistributedContext,
    ) -> None:
        self.model, self.scores = model, LossModule(model)
        self.parallel: DistributedDataParallel | None = None
        self.half, self.rounds = config.precision == "bfloat16", config.precision == "tf32"
        self.kernel_checkpointing = execution.kernel_checkpointing
        self.parts, self.batch_size, self.distributed = (
            execution.grad_accumulation,
            config.batch_size,
            distributed,
        )
        self.samples = 0  # that the last call has trained on, in all processes
        if distributed.size > 1:
            # Of a sequence in pieces one may leave parameters out: a state that is learnt, after the first;
            # the slower tiers, in a last one of few samples. The search takes time, so others go without.
            skips = any(getattr(module, "may_skip_parameters", False) for module in model.modules())
            self.parallel = DistributedDataParallel(
                self.scores,
                find_unused_parameters=skips or config.tbptt_length is not None,
                gradient_as_bucket_view=True,
            )

    def __call__(self, piece: Batch, cache: Cache | None) -> tuple[Tensor, Cache | None]:
        """The loss of the whole batch, and the past of the next piece; gradients end there."""
        # So that each sample counts alike, wherever it is; counted on the CPU, which then waits for no GPU.
        self.samples = int(self.distributed.all_reduce_sum(piece.mask.sum()))
        piece, random = piece.to(self.model.device), self._random(len(piece.sequence))
        parts = min(self.parts, len(piece.sequence))
        losses, caches = [], []
        with tf32_allowed(self.rounds), shared_kernels(self.model, self.kernel_checkpointing) as kernels:
            for part in range(parts):
                rows = shard(len(piece.sequence), part, parts)
                before, mine = (None if x is None else slice_states(x, rows) for x in (cache, random))
                with ExitStack() as scope:
                    if part < parts - 1:  # gradients wait for those of the last part
                        scope.enter_context(kernels.detached())
                        if self.parallel is not None:
                            scope.enter_context(self.parallel.no_sync())
                    loss, after = self._part(piece.select(rows), before, mine)
                losses.append(loss)
                caches.append(after)
        ahead = None if caches[0] is None else concat_states(caches)
        return self.distributed.all_reduce_sum(torch.stack(losses).sum()), ahead

    def _random(self, sequences: int) -> Any:
        """This process's rows of the random numbers of the whole batch, which the first process draws."""
        total = sequences if self.distributed.size == 1 else self.batch_size
        random = self.model.draw_random(total)
        return (
            None
            if random is None
            else slice_states(self.distributed.broadcast_object(random), self.distributed.shard_slice(total))
        )

    def _part(self, piece: Batch, cache: Cache | None, random: Any) -> tuple[Tensor, Cache | None]:
        """The same of some sequences."""
        with torch.autocast(piece.sequence.device.type, torch.bfloat16, enabled=self.half):
            scores, after = (self.parallel or self.scores)(piece.sequence, cache, piece.label, random)
        loss = -scores.where(piece.mask, 0).sum() / self.samples
        (loss * self.distributed.size).backward()  # for gradients are averaged over the processes, not summed
        return loss.detach(), None if after is None else map_state(Tensor.detach, after)
