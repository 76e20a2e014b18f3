"""Data-parallel training in several processes, one per GPU (chapter 10).

PyTorch's ``DistributedDataParallel`` averages the gradients (see `sashimi_lib.training.gradient_step`). The
collective operations here reduce everything else: the number of samples of a step, losses, stop requests.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sashimi_lib.models.states import concat_states, map_state

TIMEOUT = timedelta(minutes=30)  # of a collective operation: a process may be reading recordings or compiling
FAILURE_KEY = "failed"  # of the store's entry with the error of the first process to fail
POLL_SECONDS = 1.0  # between two reads of that entry


def shard(length: int, index: int, count: int) -> slice:
    """Return the slice of shard ``index`` when ``length`` items are split evenly into ``count`` shards.

    >>> [list(range(5))[shard(5, index, count=2)] for index in (0, 1)]
    [[0, 1], [2, 3, 4]]

    Chapter: 10.
    """
    return slice(index * length // count, (index + 1) * length // count)


class DistributedContext(NamedTuple):
    """The rank of this process among the ``size`` processes that train one model.

    All methods but `shard_slice` are collective: every process has to call them, and gets the same result.

    >>> distributed = DistributedContext()
    >>> distributed.all_reduce_sum(torch.tensor(3)), distributed.broadcast_object("message")
    (tensor(3), 'message')
    >>> DistributedContext(rank=1, size=2).shard_slice(5)
    slice(2, 5, None)

    Chapter: 10.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process, rank 0, writes files and shows progress."""
        return self.rank == 0

    def shard_slice(self, length: int) -> slice:
        """Return the slice of ``length`` sequences that is the shard of this process."""
        return shard(length, self.rank, self.size)

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        return self._all_reduce(x, dist.ReduceOp.SUM)

    def all_reduce_max(self, number: int) -> int:
        """Return the maximum of a number over all processes."""
        return int(self._all_reduce(torch.tensor(number), dist.ReduceOp.MAX))

    def broadcast_object(self, content: Any) -> Any:
        """Return the object of rank 0; those of the others are ignored."""
        if self.size == 1:
            return content
        objects = [content]
        dist.broadcast_object_list(objects, src=0)
        return objects[0]

    def all_gather_state(self, state: Any) -> Any:
        """Return the state of all sequences, on the CPU, given that of the shard of each process."""
        if self.size == 1 or state is None:
            return state
        states: list[Any] = [None] * self.size
        dist.all_gather_object(states, map_state(Tensor.cpu, state))
        return concat_states(states)

    def _all_reduce(self, x: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size > 1:
            x = x.detach().clone()
            dist.all_reduce(x, operation)
        return x


SINGLE_PROCESS = DistributedContext()


@contextmanager
def init_distributed(device: torch.device) -> Iterator[DistributedContext]:
    """Join the process group that ``torchrun`` started, if it did; on a machine with GPUs, use that of this
    rank.

    >>> with init_distributed(torch.device("cpu")) as distributed:
    ...     distributed
    DistributedContext(rank=0, size=1)

    If a process fails, the others exit and print its error; they would otherwise wait for it.

    Chapter: 10. Raises ValueError for more processes on a machine than it has GPUs.
    """
    if not dist.is_torchelastic_launched():
        yield SINGLE_PROCESS
        return
    gpu = _local_gpu() if device.type == "cuda" else None
    store, rank, size = next(dist.rendezvous("env://"))
    if os.environ["GROUP_WORLD_SIZE"] == "1":  # one machine, all of whose processes are restarted together
        # torchrun's store keeps stale addresses of the processes before a restart. Several machines count
        # restarts independently: there, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 makes it drop them.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    # NCCL reduces tensors on GPUs, Gloo those on the CPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT, device_id=gpu)
    with _fail_together(store, rank):
        yield DistributedContext(rank, size)
    dist.destroy_process_group()  # not after an error, when it might wait for the others indefinitely


def _local_gpu() -> torch.device:
    gpus, rank = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if rank >= gpus:
        raise ValueError(f"--nproc-per-node must be at most {gpus}: this machine has {gpus} GPUs")
    gpu = torch.device("cuda", rank)
    torch.cuda.set_device(gpu)
    return gpu


@contextmanager
def _fail_together(store: dist.Store, rank: int) -> Iterator[None]:
    """Exit soon after another process fails inside ``with``, and make the others exit if this one fails."""
    done = threading.Event()
    watcher = threading.Thread(target=_exit_on_failure, args=(store, done), daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        done.set()
        if store.check([FAILURE_KEY]):  # the error here is only that the other process is gone
            _print_failure(store)
            raise SystemExit(1) from error
        store.set(FAILURE_KEY, f"process {rank} ended by {type(error).__name__}: {error}")
        raise
    finally:
        done.set()
        watcher.join()


def _exit_on_failure(store: dist.Store, done: threading.Event) -> None:
    """Exit when another process has recorded a failure. The main thread may be waiting for that process in a
    collective operation, where no exception can reach it."""
    while not done.wait(POLL_SECONDS):
        if store.check([FAILURE_KEY]):
            _print_failure(store)
            os._exit(1)


def _print_failure(store: dist.Store) -> None:
    print("sashimi_lib:", store.get(FAILURE_KEY).decode(), file=sys.stderr, flush=True)
