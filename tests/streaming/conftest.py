"""A stand-in for CUDA graphs that works on a CPU."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """A stand-in for a CUDA graph: it records operations on the CPU and runs them again on the same tensors.

    It leaves out operations on host counters, which with a GPU would be the only ones on the CPU.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if not any(x.ndim == 0 and x.dtype == torch.long for x in tensors):
            self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        """Run all operations again, with results in the same memory."""
        for func, args, kwargs, result in self.calls:
            new_result = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(new_result), strict=True):
                if old.data_ptr() != new.data_ptr():  # else it is a view, or was changed in place
                    old.copy_(new)


@pytest.fixture
def tapes(monkeypatch):
    """Replace CUDA graphs by tapes."""

    @contextmanager
    def capture(graph, pool, capture_error_mode):
        with graph:
            yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, substitute in {
        "CUDAGraph": Tape,
        "graph": capture,
        "graph_pool_handle": lambda: None,
        "device": nullcontext,
        "Stream": lambda: stream,
        "stream": nullcontext,
        "current_stream": lambda: stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, substitute)
