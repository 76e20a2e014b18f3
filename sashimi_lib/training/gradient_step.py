"""The gradients of a step, with gradient accumulation and in several processes (chapters 6 to 10)."""

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
    """A module whose ``forward`` is the loss of a model, for ``DistributedDataParallel`` to wrap.

    Chapter: 10.
    """

    def __init__(self, model: Trainable) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, cache: Cache | None, label: Int[Tensor, " batch"] | None, noise: Any
    ) -> tuple[Tensor, Cache | None]:
        """Return what `sashimi_lib.models.trainable.Trainable.loss` does."""
        return self.model.loss(x, cache, label, noise)


class GradientStep:
    """Calls of it leave the gradients of the mean loss of a batch in the parameters of the model.

    With several processes, each calls it with its shard, and gets the gradients of the global batch. Kernels
    of state spaces are computed once per step, and noise is sampled for the whole batch, for any number of
    micro-batches and processes.

    Chapter: 10.
    """

    def __init__(
        self,
        model: Trainable,
        config: TrainingConfig,
        execution: ExecutionConfig,
        distributed: DistributedContext,
    ) -> None:
        self.model, self.loss_module = model, LossModule(model)
        self.config, self.execution, self.distributed = config, execution, distributed
        self.samples = 0  # in the batch of the last call, of all processes
        self.parallel = self._data_parallel() if distributed.size > 1 else None

    def _data_parallel(self) -> DistributedDataParallel:
        # A chunk of a sequence may leave parameters unused: a learned initial state, after the first chunk;
        # the slower tiers, in a short last chunk. The search for unused ones takes time, so only if needed.
        skips = any(getattr(module, "may_skip_parameters", False) for module in self.model.modules())
        return DistributedDataParallel(
            self.loss_module,
            find_unused_parameters=skips or self.config.tbptt_length is not None,
            gradient_as_bucket_view=True,
        )

    def __call__(self, batch: Batch, cache: Cache | None) -> tuple[Tensor, Cache | None]:
        """Back-propagate a batch; return its mean loss and the detached cache of the next chunk."""
        # The mean is over the samples of all shards; they are counted on the CPU, without waiting for a GPU.
        self.samples = int(self.distributed.all_reduce_sum(batch.mask.sum()))
        batch, noise = batch.to(self.model.device), self._noise(len(batch.sequence))
        count = min(self.execution.grad_accumulation, len(batch.sequence))
        losses, caches = [], []
        with (
            tf32_allowed(self.config.precision == "tf32"),
            shared_kernels(self.model, self.execution.kernel_checkpointing) as kernels,
        ):
            for index in range(count):
                rows = shard(len(batch.sequence), index, count)
                cache_rows, noise_rows = (_slice(x, rows) for x in (cache, noise))
                with ExitStack() as scope:
                    if index < count - 1:  # gradients of kernels and all-reduce: with the last micro-batch
                        scope.enter_context(kernels.detached())
                        if self.parallel is not None:
                            scope.enter_context(self.parallel.no_sync())
                    loss, next_cache = self._micro_batch(batch.select(rows), cache_rows, noise_rows)
                losses.append(loss)
                caches.append(next_cache)
        next_cache = None if caches[0] is None else concat_states(caches)
        return self.distributed.all_reduce_sum(torch.stack(losses).sum()), next_cache

    def _noise(self, sequences: int) -> Any:
        """Return this process's rows of the noise of the global batch, which rank 0 samples."""
        total = sequences if self.distributed.size == 1 else self.config.batch_size
        noise = self.model.sample_noise(total)
        if noise is None:
            return None
        return slice_states(self.distributed.broadcast_object(noise), self.distributed.shard_slice(total))

    def _micro_batch(self, batch: Batch, cache: Cache | None, noise: Any) -> tuple[Tensor, Cache | None]:
        """Back-propagate a micro-batch; return its part of the mean loss, and its cache."""
        module: nn.Module = self.parallel or self.loss_module
        half = self.config.precision == "bfloat16"
        with torch.autocast(batch.sequence.device.type, torch.bfloat16, enabled=half):
            losses, next_cache = module(batch.sequence, cache, batch.label, noise)
        loss = losses.where(batch.mask, 0).sum() / self.samples
        (loss * self.distributed.size).backward()  # DistributedDataParallel averages over processes
        return loss.detach(), None if next_cache is None else map_state(Tensor.detach, next_cache)


def _slice(states: Any, rows: slice) -> Any:
    return None if states is None else slice_states(states, rows)
