"""The contract of a layer: assertions that hold for every sequence model of the library.

The idea is that of google/sequence-layers: a layer gives the same outputs, gradients and states for a whole
sequence, in chunks and step by step; padding after the end of a sequence changes nothing in it; and a layer
has its documented receptive field. `tests/cases.py` lists the layers, `tests/test_contract.py` tests them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tests.streaming.helpers import by_steps, in_chunks

LENGTH = 18  # a multiple of every frame in `tests/cases.py`, and of the chunk sizes 1 and 3, not of 7
CHUNKS = (1, 3, 7)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
NOISE = 1e-13  # of the largest gradient: rounding error of an FFT at inputs outside the receptive field


def causal(t: int, length: int) -> range:
    """All inputs up to the current one."""
    return range(t + 1)


def full_sequence(t: int, length: int) -> range:
    """The whole sequence, in both directions."""
    return range(length)


def window(before: int, after: int = 0) -> Callable[[int, int], range]:
    """The current input, ``before`` inputs before it and ``after`` after it."""
    return lambda t, length: range(max(0, t - before), min(length, t + after + 1))


@dataclass(frozen=True)
class Case:
    """A layer to test: ``make`` returns it, for inputs ``(batch, length, channels)``.

    ``receptive_field(t, length)`` returns the inputs that output t depends on, as documented. ``kind`` is the
    class that is tested, where ``make`` wraps it into the common interface.
    """

    make: Callable[[], nn.Module]
    channels: int
    receptive_field: Callable[[int, int], range] = causal
    kind: type | None = None

    def layer(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Make the layer, with no parameter left at zero, where it would hide a dependency."""
        layer = self.make().to(dtype)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return layer

    def noise(self, dtype: torch.dtype = torch.float64, batch: int = 2, length: int = LENGTH) -> Tensor:
        """Return a random input."""
        return torch.randn(batch, length, self.channels, dtype=dtype)


# The modes of running a layer


def modes(layer: nn.Module) -> dict[str, Callable[[Tensor, Any], tuple[Tensor, Any]]]:
    """Every mode of running a layer from a state: input and state to output and state."""
    chunked = {f"chunks of {n}": lambda x, state, n=n: in_chunks(layer, x, n, state) for n in CHUNKS}
    return {"whole": layer, **chunked, "steps": lambda x, state: by_steps(layer, x, state)}


def random_state(layer: nn.Module, batch: int) -> Any:
    """Return a random state, whose tensors are leaves to differentiate by."""
    return tree_map(
        lambda x: torch.randn_like(x).requires_grad_() if x.is_floating_point() else x,
        layer.initial_state(batch),
    )


def floats(tree: Any) -> list[Tensor]:
    """Return the floating-point tensors of a state or cache: neither codes nor phases."""
    return [x for x in tree_leaves(tree) if x.is_floating_point()]


def weighted_sum(tensors: Iterable[Tensor]) -> Tensor:
    """Return a scalar that depends differently on every entry; the weights are the same in every mode."""
    generator = torch.Generator().manual_seed(7)
    terms = [
        (x.double() * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum() for x in tensors
    ]
    return torch.stack(terms).sum()


def gradients(of: Tensor, by: list[Tensor]) -> list[Tensor]:
    """Return the gradients of a scalar by each tensor: zeros where it does not depend on it."""
    return list(torch.autograd.grad(of, by, allow_unused=True, materialize_grads=True))


def trainable_parameters(layer: nn.Module) -> list[Tensor]:
    """Return the parameters that require a gradient."""
    return [p for p in layer.parameters() if p.requires_grad]


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float, what: str) -> None:
    """Assert that each tensor differs little, relative to its norm or to 1 % of the largest norm."""
    assert [x.shape for x in ours] == [x.shape for x in theirs], what
    least = max((float(x.detach().double().norm()) for x in theirs), default=0) / 100
    for index, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        x, y = x.detach().double(), y.detach().double()
        difference, size = float((x - y).norm()), float(y.norm())
        assert difference <= tolerance * max(size, least), (
            f"{what}, tensor {index}: {difference:.1e} of {size:.1e}"
        )


# The contract


def assert_modes_agree(case: Case, dtype: torch.dtype) -> None:
    """All modes give the same outputs, final state and gradients by parameters, inputs and initial state."""
    layer, x = case.layer(dtype), case.noise(dtype).requires_grad_()
    start, tolerance, expected = random_state(layer, len(x)), TOLERANCE[dtype], None
    by = [*trainable_parameters(layer), x, *floats(start)]
    for name, run in modes(layer).items():
        y, end = run(x, start)
        found = [y, *floats(end)], gradients(weighted_sum([y, *floats(end)]), by)
        expected = found if expected is None else expected
        for what, ours, theirs in zip(("outputs and state", "gradients"), found, expected, strict=True):
            assert_same(ours, theirs, tolerance, f"{name}: {what}")


def assert_no_state_is_initial_state(case: Case) -> None:
    """Without a state, outputs and gradients are those from the initial state; and no state is returned."""
    layer, x = case.layer(), case.noise().requires_grad_()
    y, state = layer(x)
    expected, _ = layer(x, layer.initial_state(len(x)))
    assert state is None
    by = [*trainable_parameters(layer), x]
    ours, theirs = ([z, *gradients(weighted_sum([z]), by)] for z in (y, expected))
    assert_same(ours, theirs, TOLERANCE[torch.float64], "outputs and gradients")


@torch.no_grad()
def assert_state_is_an_argument(case: Case) -> None:
    """A state keeps its structure, shapes and dtypes, and neither mode modifies its arguments."""
    layer, x = case.layer(), case.noise()
    for size, advance in ((7, layer), (1, lambda chunk, state: layer.step(chunk[:, 0], state))):
        state = random_state(layer, len(x))
        for chunk in x.split(size, dim=1):
            arguments = chunk, state
            before = tree_map(torch.clone, arguments)
            _, state = advance(chunk, state)
            assert all(map(torch.equal, tree_leaves(arguments), tree_leaves(before)))
            kinds = [[(z.shape, z.dtype) for z in tree_leaves(tree)] for tree in (arguments[1], state)]
            assert kinds[0] == kinds[1]


def dependencies(y: Tensor, x: Tensor, noise: float = NOISE) -> Iterator[tuple[int, list[int]]]:
    """Yield the inputs that each output depends on, from the Jacobian."""
    weight = torch.randn_like(y)
    for t in range(y.shape[1]):
        (gradient,) = torch.autograd.grad((y[:, t] * weight[:, t]).sum(), x, retain_graph=True)
        size = gradient.abs().amax(dim=tuple(d for d in range(x.ndim) if d != 1))
        yield t, (size > noise * size.max()).nonzero()[:, 0].tolist()


def assert_receptive_field(
    case: Case, run: Callable[[nn.Module, Tensor], Tensor], noise: float = NOISE
) -> None:
    """Every output depends on its documented inputs, and on no others."""
    layer, x = case.layer(), case.noise(batch=1).requires_grad_()
    for t, inputs in dependencies(run(layer, x), x, noise):
        assert inputs == list(case.receptive_field(t, x.shape[1])), f"output {t}"


@torch.no_grad()
def assert_padding_changes_nothing(case: Case, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """NaN after the end changes no output whose receptive field ends before it, and every other one."""
    layer, x = case.layer(), case.noise()
    padded, end = x.clone(), LENGTH * 2 // 3
    padded[:, end:] = torch.nan
    before = [t for t in range(LENGTH) if max(case.receptive_field(t, LENGTH), default=0) < end]
    y, expected = run(layer, padded), run(layer, x)
    assert_same([y[:, before]], [expected[:, before]], TOLERANCE[torch.float64], "outputs before the end")
    assert y[:, [t for t in range(LENGTH) if t not in before]].isnan().any(-1).all()


def assert_padding_has_no_gradient(case: Case, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """The gradients of outputs before the end do not depend on the padding after it."""
    layer, end = case.layer(), LENGTH * 2 // 3
    x, found = case.noise(), []
    before = [t for t in range(LENGTH) if max(case.receptive_field(t, LENGTH), default=0) < end]
    for scale in (0, 5):
        padded = torch.cat([x[:, :end], scale * torch.randn_like(x[:, end:])], dim=1).requires_grad_()
        found.append(
            gradients(weighted_sum([run(layer, padded)[:, before]]), [*trainable_parameters(layer), padded])
        )
        assert float(found[-1][-1][:, end:].norm()) <= NOISE * float(found[-1][-1].norm())
    assert_same(found[1], found[0], TOLERANCE[torch.float64], "gradients")


@torch.no_grad()
def assert_single_precision_comes_close(case: Case, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """The same weights and inputs in float32 give what they give in float64."""
    layer, x = case.layer(), case.noise()
    expected = run(layer, x)
    assert_same([run(layer.float(), x.float())], [expected], TOLERANCE[torch.float32], "outputs")


@torch.no_grad()
def assert_rows_are_independent(case: Case, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Sequences of a batch do not depend on each other."""
    layer, x = case.layer(), case.noise(batch=3)
    alone = torch.cat([run(layer, row) for row in x.split(1)])
    assert_same([run(layer, x)], [alone], TOLERANCE[torch.float64], "outputs")
