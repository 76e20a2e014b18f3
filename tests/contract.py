"""The contract of a layer: what every model here promises, as functions that a test calls with any of them.

The idea is that of google/sequence-layers: whoever runs a layer whole, in frames or by the step gets the same
outputs, gradients and states; what follows a sequence changes nothing in it; and a layer hears what it says
that it hears. `tests/cases.py` lists the layers, `tests/test_contract.py` holds them to it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tests.streaming.helpers import by_steps, in_chunks

LENGTH = 18  # a multiple of every whole frame in `tests/cases.py`, and of none of FRAMES but 1 and 3
FRAMES = (1, 3, 7)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
NOISE = 1e-13  # of the largest gradient: what an FFT, which adds and cancels, may leave of what is not heard


def cache(t: int, length: int) -> range:
    """All that came before, and the present."""
    return range(t + 1)


def everything(t: int, length: int) -> range:
    """The whole sequence, to both sides."""
    return range(length)


def window(behind: int, ahead: int = 0) -> Callable[[int, int], range]:
    """So many samples before the present, and so many after it."""
    return lambda t, length: range(max(0, t - behind), min(length, t + ahead + 1))


@dataclass(frozen=True)
class Case:
    """A layer to be held to the contract: ``make`` gives it, for inputs ``(batch, length, channels)``.

    ``reach(t, length)`` are the inputs that output t depends on, by what its documentation says.
    ``kind`` is the class that it stands for, where ``make`` wraps it into the common form.
    """

    make: Callable[[], nn.Module]
    channels: int
    reach: Callable[[int, int], range] = cache
    kind: type | None = None

    def layer(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """With no parameter left at zero, where it would hide what depends on it."""
        layer = self.make().to(dtype)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return layer

    def noise(self, dtype: torch.dtype = torch.float64, batch: int = 2, length: int = LENGTH) -> Tensor:
        """An input."""
        return torch.randn(batch, length, self.channels, dtype=dtype)


# The ways to run a layer


def ways(layer: nn.Module) -> dict[str, Callable[[Tensor, Any], tuple[Tensor, Any]]]:
    """Every way to run a layer from a state: input and state to output and state."""
    framed = {f"frames of {n}": lambda x, state, n=n: in_chunks(layer, x, n, state) for n in FRAMES}
    return {"whole": layer, **framed, "steps": lambda x, state: by_steps(layer, x, state)}


def a_state(layer: nn.Module, batch: int) -> Any:
    """A state unlike that of silence, whose tensors are leaves to differentiate by."""
    return tree_map(
        lambda x: torch.randn_like(x).requires_grad_() if x.is_floating_point() else x,
        layer.initial_state(batch),
    )


def floats(tree: Any) -> list[Tensor]:
    """The tensors of a state or past that have gradients: neither codes nor phases."""
    return [x for x in tree_leaves(tree) if x.is_floating_point()]


def some_sum(tensors: Iterable[Tensor]) -> Tensor:
    """One number of many, which no two entries move alike; the same for every way."""
    generator = torch.Generator().manual_seed(7)
    terms = [
        (x.double() * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum() for x in tensors
    ]
    return torch.stack(terms).sum()


def gradients(of: Tensor, by: list[Tensor]) -> list[Tensor]:
    """Of a number by each tensor: zeros where it does not depend on it."""
    return list(torch.autograd.grad(of, by, allow_unused=True, materialize_grads=True))


def trained(layer: nn.Module) -> list[Tensor]:
    """The parameters that have a gradient."""
    return [p for p in layer.parameters() if p.requires_grad]


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float, what: str) -> None:
    """Of each tensor the difference is small against the tensor, or against a hundredth of the largest."""
    assert [x.shape for x in ours] == [x.shape for x in theirs], what
    least = max((float(x.detach().double().norm()) for x in theirs), default=0) / 100
    for number, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        x, y = x.detach().double(), y.detach().double()
        gap, size = float((x - y).norm()), float(y.norm())
        assert gap <= tolerance * max(size, least), f"{what}, tensor {number}: {gap:.1e} of {size:.1e}"


# What it promises


def assert_ways_agree(case: Case, dtype: torch.dtype) -> None:
    """Outputs, the state after them, and all gradients: by parameters, inputs and the state before."""
    layer, x = case.layer(dtype), case.noise(dtype).requires_grad_()
    start, tolerance, expected = a_state(layer, len(x)), TOLERANCE[dtype], None
    by = [*trained(layer), x, *floats(start)]
    for name, run in ways(layer).items():
        y, end = run(x, start)
        found = [y, *floats(end)], gradients(some_sum([y, *floats(end)]), by)
        expected = found if expected is None else expected
        for what, ours, theirs in zip(("outputs and state", "gradients"), found, expected, strict=True):
            assert_same(ours, theirs, tolerance, f"{name}: {what}")


def assert_no_state_is_silence(case: Case) -> None:
    """Without a state a sequence begins in silence, in outputs and gradients; and none comes back."""
    layer, x = case.layer(), case.noise().requires_grad_()
    y, nothing = layer(x)
    expected, _ = layer(x, layer.initial_state(len(x)))
    assert nothing is None
    by = [*trained(layer), x]
    ours, theirs = ([z, *gradients(some_sum([z]), by)] for z in (y, expected))
    assert_same(ours, theirs, TOLERANCE[torch.float64], "outputs and gradients")


@torch.no_grad()
def assert_state_is_an_argument(case: Case) -> None:
    """A state keeps its structure, shapes and dtypes, and neither way on alters what it is given."""
    layer, x = case.layer(), case.noise()
    for size, advance in ((7, layer), (1, lambda piece, state: layer.step(piece[:, 0], state))):
        state = a_state(layer, len(x))
        for piece in x.split(size, dim=1):
            given = piece, state
            before = tree_map(torch.clone, given)
            _, state = advance(piece, state)
            assert all(map(torch.equal, tree_leaves(given), tree_leaves(before)))
            kinds = [[(z.shape, z.dtype) for z in tree_leaves(tree)] for tree in (given[1], state)]
            assert kinds[0] == kinds[1]


def heard(y: Tensor, x: Tensor, noise: float = NOISE) -> Iterator[tuple[int, list[int]]]:
    """For each output the inputs that it depends on, read off the Jacobian."""
    reading = torch.randn_like(y)
    for t in range(y.shape[1]):
        (gradient,) = torch.autograd.grad((y[:, t] * reading[:, t]).sum(), x, retain_graph=True)
        size = gradient.abs().amax(dim=tuple(d for d in range(x.ndim) if d != 1))
        yield t, (size > noise * size.max()).nonzero()[:, 0].tolist()


def assert_reach(case: Case, run: Callable[[nn.Module, Tensor], Tensor], noise: float = NOISE) -> None:
    """Every output depends on what it is said to depend on, and on nothing else."""
    layer, x = case.layer(), case.noise(batch=1).requires_grad_()
    for t, inputs in heard(run(layer, x), x, noise):
        assert inputs == list(case.reach(t, x.shape[1])), f"output {t}"


@torch.no_grad()
def assert_padding_is_not_heard(case: Case, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """NaN after the end changes no output whose reach ends before it, and does in those that hear it."""
    layer, x = case.layer(), case.noise()
    padded, end = x.clone(), LENGTH * 2 // 3
    padded[:, end:] = torch.nan
    deaf = [t for t in range(LENGTH) if max(case.reach(t, LENGTH), default=0) < end]
    y, expected = run(layer, padded), run(layer, x)
    assert_same([y[:, deaf]], [expected[:, deaf]], TOLERANCE[torch.float64], "outputs before the end")
    assert y[:, [t for t in range(LENGTH) if t not in deaf]].isnan().any(-1).all()


def assert_padding_has_no_gradient(case: Case, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Where outputs before the end alone are learnt from, gradients do not depend on what comes after it."""
    layer, end = case.layer(), LENGTH * 2 // 3
    x, found = case.noise(), []
    deaf = [t for t in range(LENGTH) if max(case.reach(t, LENGTH), default=0) < end]
    for scale in (0, 5):
        padded = torch.cat([x[:, :end], scale * torch.randn_like(x[:, end:])], dim=1).requires_grad_()
        found.append(gradients(some_sum([run(layer, padded)[:, deaf]]), [*trained(layer), padded]))
        assert float(found[-1][-1][:, end:].norm()) <= NOISE * float(found[-1][-1].norm())
    assert_same(found[1], found[0], TOLERANCE[torch.float64], "gradients")


@torch.no_grad()
def assert_single_precision_comes_close(case: Case, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """The same weights and inputs in float32 give what they give in float64."""
    layer, x = case.layer(), case.noise()
    expected = run(layer, x)
    assert_same([run(layer.float(), x.float())], [expected], TOLERANCE[torch.float32], "outputs")


@torch.no_grad()
def assert_rows_are_apart(case: Case, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Sequences side by side do not hear each other."""
    layer, x = case.layer(), case.noise(batch=3)
    alone = torch.cat([run(layer, row) for row in x.split(1)])
    assert_same([run(layer, x)], [alone], TOLERANCE[torch.float64], "outputs")
