"""Processes that train one model together, one on each GPU, and what they tell each other (chapter 10).

Gradients are averaged by PyTorch's ``DistributedDataParallel`` (see `sashimi_lib.training.step`). The rest is
here: how many samples a step hears in all, what it loses on them, whether one was told to stop.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sashimi_lib.training.states import each_tensor, share, together


class Team(NamedTuple):
    """This process, number ``rank`` of ``size`` that train together. Each method but `rows` is called by all
    of them at the same place, and gives all the same.

    >>> Team().total(torch.tensor(3)), Team().told("news"), Team(rank=1, size=2).rows(5)
    (tensor(3), 'news', slice(2, 5, None))

    Chapter: 10.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def rows(self, number: int) -> slice:
        """Which of ``number`` sequences this process hears."""
        return share(number, self.rank, self.size)

    def total(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def most(self, number: int) -> int:
        """The largest number that one of them has."""
        return int(self._reduced(torch.tensor(number), dist.ReduceOp.MAX))

    def told(self, content: Any) -> Any:
        """What the leading process has here; the others' own is ignored."""
        if self.size == 1:
            return content
        box = [content]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, state: Any) -> Any:
        """The state of all sequences, on the CPU, from each process's own."""
        if self.size == 1 or state is None:
            return state
        states: list[Any] = [None] * self.size
        dist.all_gather_object(states, each_tensor(Tensor.cpu, state))
        return together(states)

    def _reduced(self, x: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size > 1:
            x = x.detach().clone()
            dist.all_reduce(x, how)
        return x


ALONE = Team()


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """The processes that ``torchrun`` started together, or this one alone; on GPUs each takes one.

    >>> with joined(torch.device("cpu")) as team:
    ...     team
    Team(rank=0, size=1)

    Chapter: 10. Raises ValueError for more processes on a machine than it has GPUs.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    if device.type == "cuda":
        there, place = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        if place >= there:
            raise ValueError(f"--nproc-per-node must be at most {there}, the GPUs that are here")
        torch.cuda.set_device(place)
    store, rank, size = next(dist.rendezvous("env://"))
    if os.environ["GROUP_WORLD_SIZE"] == "1":  # one machine, all of whose processes are restarted together
        # torchrun keeps the addresses of the processes before, which nobody answers to any more. On several
        # machines, which count restarts apart, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 has it forget them.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    # Numbers travel by NCCL where they lie on GPUs, by Gloo otherwise.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    yield Team(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an error, when it might wait for others for ever
