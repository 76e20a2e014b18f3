"""The S4 layer: expected sequences, chunks and steps are equal, for every form of A and any length."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from sashimi_lib.ssm.convolution import bidirectional_conv_naive, causal_conv_naive
from sashimi_lib.ssm.kernel_cache import cached_kernels
from sashimi_lib.ssm.kernels import kernel_naive
from sashimi_lib.ssm.s4 import S4, BidirectionalSSM, ConcatBidirectionalSSM, Form, SSMConfig, StateSpace

LENGTH = 4096
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def config(form, tied=True, **options):
    return SSMConfig(
        d_state=16, form=form, init="lin" if form is Form.DIAGONAL else "legs", tied=tied, **options
    )


@pytest.fixture(params=list(Form), ids=lambda form: form.value)
def form(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["tied", "one matrix per channel"])
def tied(request):
    return request.param


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def difference(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float(torch.linalg.norm(a - b) / torch.linalg.norm(b))


@torch.no_grad()
def by_steps(layer, u, state):
    y = []
    with cached_kernels(layer):
        for u_t in u.unbind(1):
            y_t, state = layer.step(u_t, state)
            y.append(y_t)
    return torch.stack(y, 1), state


@torch.no_grad()
def by_frames(layer, u, state, frame):
    y = []
    with cached_kernels(layer):
        for chunk in u.split(frame, dim=1):
            y_t, state = layer(chunk, state)
            y.append(y_t)
    return torch.cat(y, 1), state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tied", "dtype"), [(True, torch.float64), (True, torch.float32), (False, torch.float64)], ids=str
)
@pytest.mark.usefixtures("shapes_unchecked")
@torch.no_grad()
def test_steps_and_frames_with_carried_state_equal_the_full_pass(form, tied, dtype):
    layer = S4(3, config(form, tied), glu=True).to(dtype)
    u = torch.randn(2, LENGTH, 3, dtype=dtype)
    start = torch.randn_like(layer.initial_state(2))
    expected, last = layer(u, start)
    runs = {"step": by_steps(layer, u, start)}
    runs |= {frame: by_frames(layer, u, start, frame) for frame in (7, 64)}
    for name, (y, state) in runs.items():
        assert difference(y, expected) < TOLERANCE[dtype], name
        assert difference(state, last) < TOLERANCE[dtype], name


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_unchecked")
@torch.no_grad()
def test_frames_of_one_sample_equal_the_full_pass(form, dtype):
    layer = S4(2, config(form)).to(dtype)
    u = torch.randn(1, LENGTH, 2, dtype=dtype)
    start = layer.initial_state(1)
    expected, last = layer(u, start)
    y, state = by_frames(layer, u, start, 1)
    assert difference(y, expected) < TOLERANCE[dtype]
    assert difference(state, last) < TOLERANCE[dtype]


@torch.no_grad()
def test_one_set_of_parameters_serves_every_length(form):
    layer = StateSpace(3, config(form)).double()
    u = torch.randn(2, 1000, 3, dtype=torch.float64)
    expected, _ = layer(u)
    for length in (1, 2, 3, 17, 127, 128, 129, 999):
        assert difference(layer(u[:, :length])[0], expected[:, :length]) < 1e-10


BIDIRECTIONAL = pytest.mark.parametrize("direction", ["bidirectional", "concat"])


def naive_kernels(ssm, length):
    """The kernels of every output, by powers of dense matrices."""
    recurrence = ssm.recurrence()
    outputs = recurrence.C.reshape(-1, *recurrence.B.shape)
    return [kernel_naive(recurrence.dense(), recurrence.B, C, length) for C in outputs]


@torch.no_grad()
def test_a_bidirectional_layer_equals_its_definition(form, tied, dtype):
    layer = BidirectionalSSM(3, config(form, tied))
    u = torch.randn(2, 100, 3)
    causal, anticausal = naive_kernels(layer, 100)
    x = u.double().mT
    slow = bidirectional_conv_naive(x, causal, anticausal) + layer.D.double()[:, None] * x
    assert difference(layer.to(dtype)(u.to(dtype)), slow.mT) < TOLERANCE[dtype]


@torch.no_grad()
def test_the_anticausal_kernel_starts_at_the_next_sample():
    layer = BidirectionalSSM(1, config(Form.HURWITZ)).double()
    click = torch.zeros(1, 9, 1, dtype=torch.float64)
    click[0, 4] = 1
    causal, anticausal = naive_kernels(layer, 5)
    y = layer(click)[0, :, 0]
    assert difference(y[5:], causal[0, 1:]) < 1e-12
    assert difference(y[4], causal[0, 0] + layer.D[0]) < 1e-12
    assert difference(y[:4].flip(0), anticausal[0, :4]) < 1e-12


@torch.no_grad()
def test_a_concat_layer_is_two_causal_ones_with_one_skip(form, tied, dtype):
    layer = ConcatBidirectionalSSM(3, config(form, tied))
    u = torch.randn(2, 100, 3)
    x = u.double().mT
    forward, backward = naive_kernels(layer, 100)[0].split(3)
    skip = layer.D.double()[:, None] * x
    slow = torch.cat(
        [causal_conv_naive(x, forward) + skip, causal_conv_naive(x.flip(-1), backward).flip(-1) + skip], dim=1
    )
    assert difference(layer.to(dtype)(u.to(dtype)), slow.mT) < TOLERANCE[dtype]


@torch.no_grad()
def test_exchanging_the_kernels_of_a_bidirectional_layer_reverses_time():
    """The output is one sample later, since lag 0 belongs to the causal kernel."""
    layer = BidirectionalSSM(3, config(Form.HURWITZ)).double()
    layer.D.zero_()
    u = torch.randn(1, 40, 3, dtype=torch.float64)
    expected = layer(u)
    layer.C.copy_(layer.C.flip(0))
    assert difference(layer(u.flip(1)).flip(1)[:, 1:], expected[:, :-1]) < 1e-12


@torch.no_grad()
def test_a_concat_layer_of_equal_halves_commutes_with_reversal():
    layer = S4(3, config(Form.HURWITZ), direction="concat").double()
    for part in (layer.ssm.C, layer.ssm.log_dt):
        part[3:] = part[:3]
    layer.output.weight[:, 3:] = layer.output.weight[:, :3]
    u = torch.randn(1, 40, 3, dtype=torch.float64)
    assert difference(layer(u)[0].flip(1), layer(u.flip(1))[0]) < 1e-12


@BIDIRECTIONAL
def test_both_directions_train_every_parameter(form, direction):
    layer = S4(3, config(form, tied=False), direction=direction).double()
    layer(torch.randn(2, 40, 3, dtype=torch.float64))[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_parameters_shared_by_both_directions():
    """A bidirectional kernel has two C and shares all else; the concat form of the paper shares D alone."""
    bidirectional, concat = BidirectionalSSM(5), ConcatBidirectionalSSM(5, SSMConfig(tied=False))
    assert bidirectional.C.shape == (2, 5, 32, 2)
    assert len(bidirectional.log_dt) == len(bidirectional.D) == 5
    assert len(concat.Lambda) == len(concat.C) == len(concat.log_dt) == 10
    assert len(concat.D) == 5


@BIDIRECTIONAL
def test_both_directions_stay_in_full_precision_under_autocast(direction):
    layer = S4(3, config(Form.HURWITZ), direction=direction).ssm
    u = torch.randn(2, 200, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(u.bfloat16()).dtype == torch.bfloat16
        under = layer(u)
    assert torch.equal(under, layer(u))


@torch.no_grad()
def test_a_step_after_a_change_of_parameters_uses_the_new_ones(form):
    layer = StateSpace(3, config(form)).double()
    u, state = torch.randn(1, 3, dtype=torch.float64), torch.randn(1, 3, 16, dtype=torch.float64)
    before, _ = layer.step(u, state)
    layer.C.mul_(2)
    after, _ = layer.step(u, state)
    assert difference(after, before) > 0.1
    assert difference(after, layer(u[:, None], state)[0][:, 0]) < 1e-12


@pytest.mark.parametrize("name", ["Lambda", "p", "q", "B", "C", "log_dt", "D"])
def test_a_frozen_parameter_stays_and_the_others_move(name):
    layer = StateSpace(3, config(Form.UNCONSTRAINED, frozen=(name,))).double()
    before = {key: value.detach().clone() for key, value in layer.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=1e-2)
    u = torch.randn(1, 30, 3, dtype=torch.float64)
    layer(u)[0].square().sum().backward()
    optimizer.step()
    moved = {key for key, value in layer.named_parameters() if not torch.equal(value, before[key])}
    assert moved == set(before) - {name}


def test_ssm_parameters_are_all_but_C_and_D(form):
    layer = StateSpace(3, config(form))
    ids = {id(p) for p in layer.ssm_parameters()}
    names = {name for name, p in layer.named_parameters() if id(p) in ids}
    assert names == {name for name, _ in layer.named_parameters()} - {"C", "D"}


def test_tying_shares_Lambda_and_B_but_neither_C_nor_step_sizes(form, tied):
    layer = StateSpace(5, config(form, tied))
    copies = 1 if tied else 5
    assert len(layer.Lambda) == len(layer.B) == copies
    assert len(layer.C) == len(layer.log_dt) == len(layer.D) == 5


@pytest.mark.parametrize("init", ["legs", "legt", "fout"])
def test_every_hippo_initialization_runs_with_every_dplr_form(init):
    for form in (Form.HURWITZ, Form.HURWITZ_FREE_LAMBDA, Form.UNCONSTRAINED):
        layer = StateSpace(2, SSMConfig(d_state=8, form=form, init=init)).double()
        u = torch.randn(1, 65, 2, dtype=torch.float64)
        expected, _ = layer(u)
        assert difference(by_steps(layer, u, layer.initial_state(1))[0], expected) < 1e-10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_state_spaces_in_full_precision(form, dtype):
    layer = StateSpace(3, config(form))
    u = torch.randn(2, 200, 3)
    full, state = layer(u, layer.initial_state(2))
    with torch.autocast("cpu", dtype=dtype):
        under, state_under = layer(u, layer.initial_state(2))
    assert torch.equal(full, under)
    assert state_under.dtype == torch.float32
    assert torch.equal(state, state_under)


def test_under_autocast_the_layer_is_close_to_full_precision(form):
    layer = S4(8, config(form))
    u = torch.randn(2, 200, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, _ = layer(u)
    assert low.dtype == torch.bfloat16
    assert difference(low, layer(u)[0]) < 0.02


@pytest.mark.slow
def test_a_step_compiles_without_graph_breaks():
    """In a separate process: the shape checks that wrap every function in tests do not compile."""
    code = """
import torch
from sashimi_lib.ssm.s4 import Form, SSMConfig, StateSpace
from sashimi_lib.ssm.systems import Recurrence
compiled = torch.compile(Recurrence.step, fullgraph=True, backend="eager")
for form in Form:
    layer = StateSpace(3, SSMConfig(16, form, "lin" if form is Form.DIAGONAL else "legs"))
    with torch.no_grad():
        recurrence = layer.recurrence().to(torch.float32)
        u, x = torch.randn(2, 3), torch.randn(2, 3, 16)
        assert torch.equal(compiled(recurrence, u, x), recurrence.step(u, x)), form
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


@pytest.mark.slow
def test_training_learns_a_delay(form):
    """The smallest task with memory: output the input of 20 samples ago."""
    layer = nn.Sequential(nn.Linear(1, 8), StateSpaceOnly(8, form), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-2, weight_decay=0)
    losses = []
    for _ in range(120):
        u = torch.randn(8, 100, 1)
        loss = (layer(u)[:, 20:] - u[:, :-20]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.65  # an output of zeros has a loss of 1


class StateSpaceOnly(StateSpace):
    """A state space for nn.Sequential: it returns the output without the state."""

    def __init__(self, d_model, form):
        super().__init__(d_model, config(form, dt_min=0.01, dt_max=0.2))

    def forward(self, u):
        return super().forward(u)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_state": 7}, "d_state must be even"),
        ({"d_state": 0}, "d_state must be at least 2, got 0"),
        ({"init": "lin"}, "lin"),
        ({"form": Form.DIAGONAL, "init": "legt"}, "legt"),
        ({"frozen": ("A",)}, r"frozen must name parameters .* got \['A'\]"),
        ({"dt_min": 0.0}, "dt_min and dt_max must satisfy"),
        ({"dt_min": 0.2}, "dt_min and dt_max must satisfy"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StateSpace(2, SSMConfig(**options))


def test_invalid_input_is_refused():
    layer = S4(3)
    with pytest.raises(ValueError, match=r"u must have 3 channels last, got shape \(1, 10, 4\)"):
        layer(torch.randn(1, 10, 4))
    with pytest.raises(ValueError, match="at least one sample, got length 0"):
        layer(torch.randn(1, 0, 3))


@pytest.mark.usefixtures("shapes_unchecked")  # which would raise first
def test_an_unknown_direction_is_refused():
    with pytest.raises(ValueError, match=r"direction must be one of causal, bidirectional, .* got 'both'"):
        S4(3, direction="both")


@BIDIRECTIONAL
def test_a_bidirectional_layer_has_no_state(direction):
    both = S4(3, direction=direction)
    for call in (
        lambda: both.initial_state(1),
        lambda: both(torch.randn(1, 4, 3), torch.zeros(1, 3, 64)),
        lambda: both.step(torch.randn(1, 3), torch.zeros(1, 3, 64)),
    ):
        with pytest.raises(ValueError, match="state must be None for a bidirectional S4"):
            call()
    with pytest.raises(ValueError, match=r"u must have 3 channels last, got shape \(1, 10, 4\)"):
        both(torch.randn(1, 10, 4))
