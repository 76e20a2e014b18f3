"""Processes that train one model together, one on each GPU, and what they tell each other (chapter 10).

Gradients are averaged by PyTorch's ``DistributedDataParallel`` (see `sashimi_lib.training.gradient_step`). The rest is
here: how many samples a step hears in all, what it loses on them, whether one was told to stop.
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

PATIENCE = timedelta(minutes=30)  # that processes wait for one that reads its recordings, or compiles
FAILED = "failed"  # where the first to end by an error says so
LOOK = 1.0  # seconds between two looks there


def shard(number: int, part: int, of: int) -> slice:
    """Which of ``batch_index`` things in a row are in part ``slice_time`` of so many, as equal as can be.

    >>> [list(range(5))[shard(5, part, of=2)] for part in (0, 1)]
    [[0, 1], [2, 3, 4]]

    Chapter: 10.
    """
    return slice(part * number // of, (part + 1) * number // of)


class DistributedContext(NamedTuple):
    """This process, number ``rank`` of ``size`` that train together. Each method but `shard_slice` is called by all
    of them at the same place, and gives all the same.

    >>> DistributedContext().all_reduce_sum(torch.tensor(3)), DistributedContext().broadcast_object("news"), DistributedContext(rank=1, size=2).shard_slice(5)
    (tensor(3), 'news', slice(2, 5, None))

    Chapter: 10.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def shard_slice(self, number: int) -> slice:
        """Which of ``batch_index`` sequences this process hears."""
        return shard(number, self.rank, self.size)

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def all_reduce_max(self, number: int) -> int:
        """The largest number that one of them has."""
        return int(self._reduced(torch.tensor(number), dist.ReduceOp.MAX))

    def broadcast_object(self, content: Any) -> Any:
        """What the leading process has here; the others' own is ignored."""
        if self.size == 1:
            return content
        box = [content]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def all_gather_state(self, state: Any) -> Any:
        """The state of all sequences, on the CPU, from each process's own."""
        if self.size == 1 or state is None:
            return state
        states: list[Any] = [None] * self.size
        dist.all_gather_object(states, map_state(Tensor.cpu, state))
        return concat_states(states)

    def _reduced(self, x: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size > 1:
            x = x.detach().clone()
            dist.all_reduce(x, how)
        return x


SINGLE_PROCESS = DistributedContext()


@contextmanager
def init_distributed(device: torch.device) -> Iterator[DistributedContext]:
    """The processes that ``torchrun`` started together, or this one alone; on GPUs each takes one.

    >>> with init_distributed(torch.device("cpu")) as distributed:
    ...     distributed
    DistributedContext(rank=0, size=1)

    Where one of them ends by an error, the others end too, and say why: alone they would wait for it.

    Chapter: 10. Raises ValueError for more processes on a machine than it has GPUs.
    """
    if not dist.is_torchelastic_launched():
        yield SINGLE_PROCESS
        return
    own = None
    if device.type == "cuda":
        there, place = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        if place >= there:
            raise ValueError(f"--nproc-per-node must be at most {there}: this machine has {there} GPUs")
        own = torch.device("cuda", place)
        torch.cuda.set_device(own)
    store, rank, size = next(dist.rendezvous("env://"))
    if os.environ["GROUP_WORLD_SIZE"] == "1":  # one machine, all of whose processes are restarted together
        # torchrun keeps the addresses of the processes before, which nobody answers to any more. On several
        # machines, which count restarts apart, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 has it forget them.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    # Numbers travel by NCCL where they lie on GPUs, by Gloo otherwise.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE, device_id=own)
    with _together(store, rank):
        yield DistributedContext(rank, size)
    dist.destroy_process_group()  # not after an error, when it might wait for others for ever


@contextmanager
def _together(store: dist.Store, rank: int) -> Iterator[None]:
    """Inside ``with`` this process ends soon after another one fails, and others if it fails itself."""
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(store, done), daemon=True)
    watch.start()
    try:
        yield
    except BaseException as error:
        done.set()
        if store.check([FAILED]):  # its own error is that the other one is gone
            _say_why(store)
            raise SystemExit(1) from error
        store.set(FAILED, f"process {rank} ended by {type(error).__name__}: {error}")
        raise
    finally:
        done.set()
        watch.join()


def _watch(store: dist.Store, done: threading.Event) -> None:
    """End this process when the store says that another one failed. Its main thread may be waiting for that
    one inside a collective operation, where no exception reaches it."""
    while not done.wait(LOOK):
        if store.check([FAILED]):
            _say_why(store)
            os._exit(1)


def _say_why(store: dist.Store) -> None:
    print("sashimi_lib:", store.get(FAILED).decode(), file=sys.stderr, flush=True)
