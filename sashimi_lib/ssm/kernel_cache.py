"""Kernels and discrete systems, made once where parameters stay as they are (chapters 7 and 10).

They follow from parameters alone. A `Cached` module makes them anew at each call, and that is always right.
Inside `cached_kernels` and `shared_kernels` it makes them at the first call and keeps them. The scope opens
with an empty cache and drops it at its end; outside of a scope nothing is kept, so nothing can be out of
date.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint


class KernelCache:
    """What the modules of a model made inside one scope. `cached_kernels` and `shared_kernels` open it.

    With ``recompute``, what a graph needs for its gradients is not kept, but made once more in the backward
    pass. Chapter: 10.
    """

    def __init__(self, recompute: bool = False) -> None:
        self._recompute = recompute
        self._made: dict[tuple, dict[int, Any]] = {}  # by what it is, then by its length
        self._copies: dict[tuple, Any] = {}
        self._leaves: list[Tensor] = []
        self._detached = False

    def get(self, owner: nn.Module, name: str, make: Callable[[], Any], length: int = 0) -> Any:
        """What ``make`` gives: tensors, or a nested tuple of them. Where it has a ``length``, a longer one
        may come back, whose beginning it is."""
        graph = torch.is_grad_enabled() and any(p.requires_grad for p in owner.parameters())
        key = owner, name, graph, torch.is_inference_mode_enabled()
        made = self._made.setdefault(key, {})
        enough = min((n for n in made if n >= length), default=None)
        if enough is None:
            value = self._make(make)
            if not graph:
                made.clear()  # the longest will do; but a graph may still have gradients to come
            made[length], enough = value, length
        return self._copy((*key, enough), made[enough]) if self._detached else made[enough]

    def drop(self, owner: nn.Module) -> None:
        """Forget what was made of parameters that are no more."""
        self._made = {key: made for key, made in self._made.items() if key[0] is not owner}
        self._copies = {key: copy for key, copy in self._copies.items() if key[0] is not owner}

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Inside, gradients stop at copies of what is kept. They join those of the next pass outside, which
        takes the sum back through the graph: once, however many passes there were."""
        self._detached = True
        try:
            yield
        finally:
            self._detached = False

    def check(self) -> None:
        """Raises RuntimeError for gradients that no pass outside of `detached` has taken on."""
        if any(leaf.grad is not None for leaf in self._leaves):
            raise RuntimeError("gradients of kernels are left over: the last part must not be detached")

    def _make(self, make: Callable[[], Any]) -> Any:
        detached, self._detached = self._detached, False  # what it is made from keeps its graph
        try:
            # Activation checkpointing would drop what the graph saves, and make it anew for each block.
            with saved_tensors_hooks(_same, _same):
                if self._recompute:
                    return checkpoint(make, use_reentrant=False, preserve_rng_state=False)
                return make()
        finally:
            self._detached = detached

    def _copy(self, key: tuple, value: Any) -> Any:
        if key not in self._copies:
            self._copies[key] = tree_map(self._leaf, value)
        return self._copies[key]

    def _leaf(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return x
        leaf = x.detach().requires_grad_()

        def join(grad: Tensor) -> Tensor:
            waiting, leaf.grad = leaf.grad, None
            return grad if waiting is None else grad + waiting

        x.register_hook(join)
        self._leaves.append(leaf)
        return leaf


class Cached(nn.Module):
    """A module that makes tensors of its parameters alone, such as kernels. ``torch.compile`` leaves it out.

    Chapter: 10.
    """

    _cache: KernelCache | None = None  # of the scope that is open, if one is

    def cached(self, name: str, make: Callable[[], Any], length: int = 0) -> Any:
        """`KernelCache.get` inside a scope, and ``make()`` outside."""
        return make() if self._cache is None else self._cache.get(self, name, make, length)

    def discretized(self) -> Any:
        """What a step reads of that, for a CUDA graph to keep where it is: nothing unless it says
        otherwise."""
        return ()

    def _apply(self, *args: Any, **options: Any) -> Any:
        self._drop()
        return super()._apply(*args, **options)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self._drop()
        super()._load_from_state_dict(*args, **options)

    def _drop(self) -> None:
        if self._cache is not None:
            self._cache.drop(self)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is outside of every scope."""
        return {name: value for name, value in self.__dict__.items() if name != "_cache"}


@contextmanager
def cached_kernels(model: nn.Module) -> Iterator[None]:
    """Inside ``with``, a model makes its kernels and discrete systems once: for generating, or validating.

    Nothing but ``load_state_dict`` and ``to`` may change parameters there, and gradients may be taken once,
    for there is one graph. Scopes may be nested: the
    outermost one counts, and clears at its end, as ``torch.nn.utils.parametrize.cached`` does.

    >>> from sashimi_lib.ssm.s4 import StateSpace
    >>> ssm = StateSpace(3)
    >>> with cached_kernels(ssm):
    ...     ssm.discretized() is ssm.discretized()
    True
    >>> ssm.discretized() is ssm.discretized()
    False

    Chapter: 10.
    """
    with _opened([module for module in _cached_of(model) if module._cache is None], KernelCache()):
        yield


@contextmanager
def shared_kernels(model: nn.Module, recompute: bool = False) -> Iterator[KernelCache]:
    """Inside ``with``, a training step: a model makes its kernels once, for all parts of a batch, outside of
    what activation checkpointing makes anew; or, with ``recompute``, twice, in less memory.

    All parts but the last run inside `KernelCache.detached`, forward and backward. The last one's backward pass
    hands on the gradients of all of them.

    >>> from sashimi_lib.ssm.s4 import StateSpace
    >>> ssm, u = StateSpace(3).double(), torch.randn(4, 100, 3, dtype=torch.float64)
    >>> with shared_kernels(ssm) as cache:
    ...     with cache.detached():
    ...         ssm(u[:2])[0].sum().backward()
    ...     ssm(u[2:])[0].sum().backward()
    >>> whole, = torch.autograd.grad(ssm(u)[0].sum(), ssm.C)
    >>> torch.allclose(ssm.C.grad, whole)
    True

    Chapter: 10. Raises ValueError inside of another scope, where weights must not change, and RuntimeError
    where gradients are left over.
    """
    modules = list(_cached_of(model))
    if any(module._cache is not None for module in modules):
        raise ValueError("model must be outside of cached_kernels while it trains, got one inside")
    with _opened(modules, KernelCache(recompute)) as cache:
        yield cache
        cache.check()


@contextmanager
def _opened(modules: list[Cached], cache: KernelCache) -> Iterator[KernelCache]:
    for module in modules:
        module._cache = cache
    try:
        yield cache
    finally:
        for module in modules:
            module._cache = None


def _cached_of(model: nn.Module) -> Iterator[Cached]:
    return (module for module in model.modules() if isinstance(module, Cached))


def _same(x: Tensor) -> Tensor:
    return x
