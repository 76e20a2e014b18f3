"""Kernels are cached inside a scope only, however parameters change; a training step computes them once."""

import copy
import pickle

import pytest
import torch

from sashimi_lib.ssm import s4
from sashimi_lib.ssm.kernel_cache import cached_kernels, shared_kernels
from sashimi_lib.ssm.s4 import S4, SSMConfig, SSMParameters

DIRECTIONS = pytest.mark.parametrize("direction", ["causal", "bidirectional", "concat"])


def new_layer(direction="causal", **options):
    torch.manual_seed(1)
    return S4(3, SSMConfig(d_state=16, **options), direction=direction)


def noise(length=30, batch=2):
    return torch.randn(batch, length, 3, generator=torch.Generator().manual_seed(length))


@pytest.fixture
def computed(monkeypatch):
    """The calls: a length for each kernel computed, and None for each discretized system."""
    computed, kernel, recurrence = [], s4.kernel, SSMParameters.recurrence

    def counted(system, length, dtype):
        computed.append(length)
        return kernel(system, length, dtype)

    monkeypatch.setattr(s4, "kernel", counted)
    monkeypatch.setattr(SSMParameters, "recurrence", lambda ssm: (computed.append(None), recurrence(ssm))[1])
    return computed


@DIRECTIONS
@torch.no_grad()
def test_a_kernel_is_computed_once_in_a_scope_and_at_each_call_outside(direction, computed):
    layer = new_layer(direction)
    outside = layer(noise())[0], layer(noise())[0]
    assert computed == [None, 30] * 2
    computed.clear()
    with cached_kernels(layer):
        inside = layer(noise())[0], layer(noise())[0]
        assert computed == [None, 30]
    for y in (*outside, *inside):
        assert torch.equal(y, outside[0])


@torch.no_grad()
def test_steps_and_chunks_share_the_discretized_system(computed):
    layer = new_layer()
    with cached_kernels(layer):
        state = layer.initial_state(2)
        for u_t in noise().unbind(1):
            _, state = layer.step(u_t, state)
        layer(noise(), state)
    assert computed == [None, 30]


@torch.no_grad()
def test_a_shorter_kernel_is_a_slice_of_a_longer_one(computed):
    layer = new_layer().double()
    outside = {length: layer(noise(length).double())[0] for length in (20, 50, 30)}
    computed.clear()
    with cached_kernels(layer):
        for length in (20, 50, 30, 20):
            y = layer(noise(length).double())[0]
            assert torch.allclose(y, outside[length], atol=1e-12)
            assert layer.ssm.kernels(length).shape == (3, length)
    assert computed == [None, 20, 50]


CHANGES = {
    "through data": lambda layer: layer.ssm.C.data.mul_(2),
    "in place": lambda layer: layer.ssm.C.mul_(2),
    "another tensor": lambda layer: setattr(layer.ssm.C, "data", 2 * layer.ssm.C.data),
    "load_state_dict": lambda layer: layer.load_state_dict(
        {name: 2 * x if name == "ssm.C" else x for name, x in layer.state_dict().items()}
    ),
}


@DIRECTIONS
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("before", ["outside", "in a scope"])
@torch.no_grad()
def test_the_next_pass_uses_changed_parameters(direction, change, before):
    layer, other = new_layer(direction), new_layer(direction)
    if before == "in a scope":
        with cached_kernels(layer):
            layer(noise())
    else:
        layer(noise())
    change(layer)
    other.load_state_dict(layer.state_dict())
    expected = other(noise())[0]
    assert not torch.equal(expected, new_layer(direction)(noise())[0])
    assert torch.equal(layer(noise())[0], expected)
    with cached_kernels(layer):
        assert torch.equal(layer(noise())[0], expected)


@torch.no_grad()
def test_weights_may_be_loaded_and_moved_in_a_scope():
    layer, other = new_layer(), new_layer()
    other.ssm.C.mul_(2)
    with cached_kernels(layer):
        layer(noise())
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(noise())[0], other(noise())[0])
        layer.half().float()
        assert torch.equal(layer(noise())[0], other.half().float()(noise())[0])
        assert layer.double()(noise().double())[0].dtype == torch.float64


def test_the_next_pass_uses_parameters_changed_by_a_fused_optimizer():
    """It does not increment the version counters of parameters."""
    layer = new_layer()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        layer(noise())[0].square().sum().backward()
        optimizer.step()
        fresh = new_layer()
        fresh.load_state_dict(layer.state_dict())
        with torch.no_grad(), cached_kernels(layer):
            assert torch.equal(layer(noise())[0], fresh(noise())[0])


def test_a_module_made_in_inference_mode_can_be_cached():
    expected = new_layer()(noise())[0]
    with torch.inference_mode():
        layer = new_layer()
        assert torch.equal(layer(noise())[0], expected)
        with cached_kernels(layer):
            assert torch.equal(layer(noise())[0], expected)
    trained = new_layer()
    with cached_kernels(trained):
        with torch.inference_mode():
            trained(noise())
        trained(noise())[0].sum().backward()  # inference tensors cannot be saved for backward
    assert trained.ssm.C.grad.abs().sum() > 0


def test_a_scope_clears_the_cache_after_an_error():
    layer = new_layer()

    def fail():
        with cached_kernels(layer):
            layer.ssm.discretized()
            layer(torch.zeros(1, 9, 4))

    with pytest.raises(ValueError, match="u must have 3 channels"):
        fail()
    assert layer.ssm.discretized() is not layer.ssm.discretized()


def test_the_outermost_scope_owns_the_cache(computed):
    layer = new_layer()
    with torch.no_grad(), cached_kernels(layer):
        for _ in range(2):
            with cached_kernels(layer):
                layer(noise())
        layer(noise())
    assert computed == [None, 30]
    assert layer.ssm.discretized() is not layer.ssm.discretized()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_outside_of_the_scope(copied):
    layer = new_layer()
    with cached_kernels(layer):
        layer(noise())
        other = copied(layer)
        assert other.ssm.discretized() is not other.ssm.discretized()
        assert layer.ssm.discretized() is layer.ssm.discretized()


def test_kernels_cached_without_gradients_are_not_used_in_a_pass_with_them():
    layer, plain = new_layer(), new_layer()
    with cached_kernels(layer):
        with torch.no_grad():
            layer(noise())
        layer(noise())[0].square().sum().backward()
    plain(noise())[0].square().sum().backward()
    for name, parameter in plain.named_parameters():
        assert torch.equal(layer.get_parameter(name).grad, parameter.grad), name


def test_a_frozen_layer_steps_in_grad_mode_without_discretizing_again(computed):
    layer = new_layer().requires_grad_(False)
    with cached_kernels(layer):
        state = layer.initial_state(2)
        for u_t in noise().requires_grad_().unbind(1):
            y_t, state = layer.step(u_t, state)
    assert computed == [None]
    assert y_t.requires_grad


def gradients(layer, parts, scope, state=None, length=30):
    """Gradients over micro-batches of two sequences, which continue from a state if there is one."""
    u = noise(length, batch=2 * parts).double()
    weight = torch.linspace(-1, 1, length, dtype=torch.float64)[:, None]
    layer.zero_grad()
    with shared_kernels(layer) if scope else pytest.MonkeyPatch.context() as cache:
        for part in range(parts):
            rows = slice(2 * part, 2 * part + 2)
            before = None if state is None else state[rows]
            if scope and part < parts - 1:
                with cache.detached():
                    (layer(u[rows], before)[0] * weight).square().sum().backward()
            else:
                (layer(u[rows], before)[0] * weight).square().sum().backward()
    return [p.grad for p in layer.parameters() if p.requires_grad]


@DIRECTIONS
@pytest.mark.parametrize("frozen", [(), ("Lambda", "p", "B", "log_dt"), ("Lambda", "p", "B", "C", "log_dt")])
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 30])
def test_micro_batches_that_share_a_kernel_accumulate_its_gradients(
    direction, frozen, parts, length, computed
):
    layer = new_layer(direction, frozen=frozen).double()
    expected = gradients(layer, parts, scope=False, length=length)
    computed.clear()
    for actual, wanted in zip(gradients(layer, parts, scope=True, length=length), expected, strict=True):
        assert torch.allclose(actual, wanted, rtol=1e-10, atol=1e-12 * float(wanted.norm()))
    assert computed == [None, length]


@pytest.mark.parametrize("length", [1, 30])
def test_micro_batches_with_a_state_share_the_discretized_system(length, computed):
    layer = new_layer().double()
    state = torch.randn(6, 3, 16, dtype=torch.float64)
    expected = gradients(layer, 3, scope=False, state=state, length=length)
    computed.clear()
    found = gradients(layer, 3, scope=True, state=state, length=length)
    for actual, wanted in zip(found, expected, strict=True):
        assert torch.allclose(actual, wanted, rtol=1e-10, atol=1e-12 * float(wanted.norm()))
    assert computed == [None, length]


def test_gradients_that_are_not_propagated_are_an_error():
    layer = new_layer()
    with (
        pytest.raises(RuntimeError, match="gradients of kernels are left over"),
        shared_kernels(layer) as cache,
        cache.detached(),
    ):
        layer(noise())[0].sum().backward()


def test_training_inside_a_scope_of_constant_weights_is_refused():
    layer = new_layer()
    training = shared_kernels(layer)
    with cached_kernels(layer), pytest.raises(ValueError, match="outside of cached_kernels while it trains"):
        training.__enter__()
    with shared_kernels(layer):
        layer(noise())
