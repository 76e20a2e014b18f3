"""Caching of kernels and discretized systems while parameters stay constant (chapters 7 and 10).

They depend on parameters alone. A `CachesKernels` module computes them at each call, which is always correct.
Inside `cached_kernels` and `shared_kernels` it computes them at the first call and caches them. The scope
starts with an empty cache and clears it at the end; nothing is cached outside of a scope, so nothing can be
stale.
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
    """Tensors that the modules of a model computed inside one scope, opened by `cached_kernels` or
    `shared_kernels`.

    With ``recompute``, the intermediate tensors of their graph are not stored, but recomputed in the backward
    pass. Chapter: 10.
    """

    def __init__(self, recompute: bool = False) -> None:
        self._recompute = recompute
        self._entries: dict[tuple, dict[int, Any]] = {}  # by (module, name, mode), then by length
        self._copies: dict[tuple, Any] = {}
        self._leaves: list[Tensor] = []
        self._detached = False

    def get(self, owner: nn.Module, name: str, compute: Callable[[], Any], length: int = 0) -> Any:
        """Return ``compute()``, tensors or a nested tuple of them, or its cached value.

        A cached value of a greater ``length`` may be returned: the first ``length`` entries of it are equal.
        """
        graph = torch.is_grad_enabled() and any(p.requires_grad for p in owner.parameters())
        key = owner, name, graph, torch.is_inference_mode_enabled()
        entries = self._entries.setdefault(key, {})
        stored = min((n for n in entries if n >= length), default=None)
        if stored is None:
            value = self._compute(compute)
            if not graph:
                entries.clear()  # the longest suffices; but a graph may still have gradients to come
            entries[length], stored = value, length
        return self._copy((*key, stored), entries[stored]) if self._detached else entries[stored]

    def drop(self, owner: nn.Module) -> None:
        """Remove the entries of a module whose parameters have been replaced."""
        self._entries = {key: entries for key, entries in self._entries.items() if key[0] is not owner}
        self._copies = {key: copy for key, copy in self._copies.items() if key[0] is not owner}

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Return detached copies of cached tensors inside ``with``, and accumulate gradients in them.

        The next backward pass outside adds these gradients to its own and propagates the sum through the
        shared graph, once for any number of detached passes.
        """
        self._detached = True
        try:
            yield
        finally:
            self._detached = False

    def check(self) -> None:
        """Raise RuntimeError for accumulated gradients that no pass outside of `detached` has propagated."""
        if any(leaf.grad is not None for leaf in self._leaves):
            raise RuntimeError(
                "gradients of kernels are left over: the last micro-batch must not be detached"
            )

    def _compute(self, compute: Callable[[], Any]) -> Any:
        detached, self._detached = self._detached, False  # cached values it depends on keep their graph
        try:
            # Activation checkpointing would drop the saved tensors, and recompute them for each block.
            with saved_tensors_hooks(_identity, _identity):
                if self._recompute:
                    return checkpoint(compute, use_reentrant=False, preserve_rng_state=False)
                return compute()
        finally:
            self._detached = detached

    def _copy(self, key: tuple, value: Any) -> Any:
        if key not in self._copies:
            self._copies[key] = tree_map(self._leaf, value)
        return self._copies[key]

    def _leaf(self, x: Tensor) -> Tensor:
        """Detach x, and add the gradients of the copy to the next gradient of x."""
        if not x.requires_grad:
            return x
        leaf = x.detach().requires_grad_()

        def add_accumulated(grad: Tensor) -> Tensor:
            accumulated, leaf.grad = leaf.grad, None
            return grad if accumulated is None else grad + accumulated

        x.register_hook(add_accumulated)
        self._leaves.append(leaf)
        return leaf


class CachesKernels(nn.Module):
    """A module that computes tensors, such as kernels, from its parameters alone, and can cache them.
    ``torch.compile`` leaves it out.

    Chapter: 10.
    """

    _cache: KernelCache | None = None  # that of the open scope, if any

    def cached(self, name: str, compute: Callable[[], Any], length: int = 0) -> Any:
        """Return `KernelCache.get` inside a scope, and ``compute()`` outside."""
        return compute() if self._cache is None else self._cache.get(self, name, compute, length)

    def discretized(self) -> Any:
        """Return the cached tensors that a recurrent step reads, which a CUDA graph must keep in place.

        There are none by default.
        """
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
        """Leave out the cache: a copy of a module is outside of every scope."""
        return {name: value for name, value in self.__dict__.items() if name != "_cache"}


@contextmanager
def cached_kernels(model: nn.Module) -> Iterator[None]:
    """Inside ``with``, compute the kernels and discretized systems of a model once: for generation and
    validation.

    There only ``load_state_dict`` and ``to`` may change parameters, and the backward pass may run only once,
    for there is one graph. Scopes may be nested: the outermost one owns the cache and clears it at its end,
    as ``torch.nn.utils.parametrize.cached`` does.

    >>> from sashimi_lib.ssm.s4 import StateSpace
    >>> ssm = StateSpace(3)
    >>> with cached_kernels(ssm):
    ...     ssm.discretized() is ssm.discretized()
    True
    >>> ssm.discretized() is ssm.discretized()
    False

    Chapter: 10.
    """
    with _open_scope([module for module in _modules(model) if module._cache is None], KernelCache()):
        yield


@contextmanager
def shared_kernels(model: nn.Module, recompute: bool = False) -> Iterator[KernelCache]:
    """Inside ``with``, compute the kernels of a model once for one training step: for all micro-batches of
    gradient accumulation, and outside of activation checkpointing.

    With ``recompute`` they are computed twice, in less memory. All micro-batches but the last run inside
    `KernelCache.detached`, forward and backward; the backward pass of the last one propagates the sum of
    their gradients.

    >>> from sashimi_lib.ssm.s4 import StateSpace
    >>> ssm, u = StateSpace(3).double(), torch.randn(4, 100, 3, dtype=torch.float64)
    >>> with shared_kernels(ssm) as cache:
    ...     with cache.detached():
    ...         ssm(u[:2])[0].sum().backward()
    ...     ssm(u[2:])[0].sum().backward()
    >>> expected, = torch.autograd.grad(ssm(u)[0].sum(), ssm.C)
    >>> torch.allclose(ssm.C.grad, expected)
    True

    Chapter: 10. Raises ValueError inside of another scope, where parameters must not change, and RuntimeError
    for gradients that were not propagated.
    """
    modules = list(_modules(model))
    if any(module._cache is not None for module in modules):
        raise ValueError("model must be outside of cached_kernels while it trains, got one inside")
    with _open_scope(modules, KernelCache(recompute)) as cache:
        yield cache
        cache.check()


@contextmanager
def _open_scope(modules: list[CachesKernels], cache: KernelCache) -> Iterator[KernelCache]:
    for module in modules:
        module._cache = cache
    try:
        yield cache
    finally:
        for module in modules:
            module._cache = None


def _modules(model: nn.Module) -> Iterator[CachesKernels]:
    return (module for module in model.modules() if isinstance(module, CachesKernels))


def _identity(x: Tensor) -> Tensor:
    return x
