"""Every layer of the library keeps the contract of a layer.

=================  ==================================================================================
what               is held to
=================  ==================================================================================
causal layers      whole = frames of 1, 3, 7 = steps, in outputs, states and all gradients (parameters,
                   inputs, the state before), in float64 to 1e-10 and in float32 to 1e-4; no state is
                   silence; a state is an argument; the receptive field, read off the Jacobian, whole
                   (by FFT and as the sum that it stands for) and by steps; NaN after the end changes
                   nothing; what pads has no gradient; rows are apart; float32 comes close to float64
layers that hear   receptive field on both sides, NaN beyond it, rows, float32
the future
models of codes    whole = pieces of 1, 3, 7 = draws that are given their codes, in bits, pasts and
                   gradients, in both precisions; absorb; who hears whom
engines            compiled: the bits of given codes, draws and states in pieces of any size, as the
                   model's; graphs: the same of the static step, launched one by one
heads              probabilities sum to one; draws are as often (chi-square); a draw that is given its
                   code costs what the code scores; finite gradients, also far out; float32
=================  ==================================================================================

The layers are listed in `tests/cases.py`; the last tests say which class of the library is missing there.
"""

import importlib
import inspect
import math
import pkgutil
from functools import partial

import pytest
import torch
from scipy.stats import chi2
from torch import nn

import sashimi_lib
from sashimi_lib.models.autoregressive import DiscreteAudioModel
from sashimi_lib.models.blocks import SequenceModel
from sashimi_lib.models.denoiser import Denoiser
from sashimi_lib.models.heads import Head
from sashimi_lib.models.sampling import sample_token
from sashimi_lib.models.wavenet import WaveNet
from sashimi_lib.ssm import s4
from sashimi_lib.ssm.convolution import bidirectional_conv_naive, causal_conv_naive
from sashimi_lib.streaming import compiled
from sashimi_lib.streaming.base import Engine
from sashimi_lib.streaming.compiled_loop import CompiledLoop
from sashimi_lib.streaming.engine import Compiled
from sashimi_lib.streaming.graph import Graphed
from tests import contract
from tests import contract_of_sound as of_sound
from tests.cases import BOTH_WAYS, CAUSAL, COMPILED, HEADS, SOUND, WAVENET
from tests.contract import TOLERANCE, cache, window
from tests.streaming.helpers import by_steps, error

pytestmark = pytest.mark.usefixtures("shapes_unchecked")  # elsewhere they are


def each(cases, name="case"):
    return pytest.mark.parametrize(name, cases.values(), ids=cases)


RUNS = {"whole": lambda layer, x: layer(x)[0], "steps": lambda layer, x: by_steps(layer, x)[0]}
in_either_precision = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture
def sums_written_out(monkeypatch):
    """No FFT, which mixes all samples and leaves rounding errors everywhere."""
    monkeypatch.setattr(s4, "causal_conv", causal_conv_naive)
    monkeypatch.setattr(s4, "bidirectional_conv", bidirectional_conv_naive)


# Causal layers


@in_either_precision
@each(CAUSAL)
def test_whole_frames_and_steps_agree_in_outputs_states_and_gradients(case, dtype):
    contract.assert_ways_agree(case, dtype)


@each(CAUSAL)
def test_no_state_is_silence_before(case):
    contract.assert_no_state_is_silence(case)


@each(CAUSAL)
def test_a_state_is_an_argument_and_a_result(case):
    contract.assert_state_is_an_argument(case)


@each(CAUSAL)
def test_a_causal_layer_hears_what_it_says(case):
    contract.assert_reach(case, RUNS["whole"])


@each(RUNS, "run")
@each(CAUSAL)
def test_a_causal_layer_hears_exactly_what_it_says(case, run, sums_written_out):
    contract.assert_reach(case, run, noise=0)


@each(CAUSAL)
def test_nan_after_the_end_changes_nothing_before_it(case, sums_written_out):
    contract.assert_padding_is_not_heard(case, RUNS["whole"])


@each(CAUSAL)
def test_what_comes_after_the_end_has_no_part_in_gradients(case):
    contract.assert_padding_has_no_gradient(case, RUNS["whole"])


@each(RUNS, "run")
@each(CAUSAL)
def test_sequences_side_by_side_do_not_hear_each_other(case, run):
    contract.assert_rows_are_apart(case, run)


@each(CAUSAL)
def test_single_precision_comes_close_to_double(case):
    contract.assert_single_precision_comes_close(case, RUNS["whole"])


# Layers that hear the future


def whole(layer, x):
    return layer(x)


@each(BOTH_WAYS)
def test_a_layer_hears_what_it_says_to_both_sides(case):
    contract.assert_reach(case, whole)


@each(BOTH_WAYS)
def test_a_layer_hears_exactly_what_it_says_to_both_sides(case, sums_written_out):
    contract.assert_reach(case, whole, noise=0)


@each(BOTH_WAYS)
def test_nan_beyond_the_receptive_field_changes_nothing(case, sums_written_out):
    contract.assert_padding_is_not_heard(case, whole)


@each(BOTH_WAYS)
def test_whole_sequences_side_by_side_do_not_hear_each_other(case):
    contract.assert_rows_are_apart(case, whole)


@each(BOTH_WAYS)
def test_single_precision_comes_close_to_double_both_ways(case):
    contract.assert_single_precision_comes_close(case, whole)


# Models of codes, and engines


@in_either_precision
@each(SOUND, "make")
def test_whole_pieces_and_draws_agree_in_bits_pasts_and_gradients(make, dtype):
    of_sound.assert_ways_agree(make, dtype)


@pytest.mark.parametrize(
    "name", [name for name in SOUND if name != "subscale"]
)  # which has an order of its own
def test_a_code_is_heard_by_those_that_may_hear_it(name):
    finite = isinstance(getattr(SOUND[name](), "backbone", None), WaveNet)
    of_sound.assert_reach(SOUND[name], window(WAVENET.receptive_field) if finite else cache)


@pytest.mark.slow
@pytest.mark.xdist_group("compiled SaShiMi")
@each(COMPILED, "make")
def test_the_compiled_engine_scores_and_draws_as_the_model(make):
    model = of_sound.a_model(make, torch.float32)
    engine = compiled(model)
    of_sound.assert_engine_draws(model, engine)
    of_sound.assert_engine_scores(model, engine)


@pytest.mark.parametrize("name", [name for name in SOUND if name not in ("subscale", "vocoder")])
def test_the_static_step_of_graphs_draws_as_the_model(name):
    model = of_sound.a_model(SOUND[name])
    of_sound.assert_engine_draws(model, Graphed(model, capture=False))


# Heads


def every_code(levels, codes):
    return torch.cartesian_prod(*[torch.arange(levels)] * codes)


def bits_of_all(head, y, levels, codes):
    """Of every code, given one vector of features."""
    every = every_code(levels, codes)
    return head.log_probability(y.expand(1, len(every), -1), every[None])[0]


@in_either_precision
@each(HEADS, "kind")
def test_probabilities_sum_to_one(kind, dtype):
    make, levels, codes = kind
    head, y = make().to(dtype), 3 * torch.randn(1, 1, 3, dtype=dtype)
    with torch.no_grad():
        total = (bits_of_all(head, y, levels, codes).double() * math.log(2)).exp().sum()
    assert abs(float(total) - 1) < TOLERANCE[dtype]


@pytest.mark.slow
@torch.no_grad()
@each({name: kind for name, kind in HEADS.items() if kind[1] == 16}, "kind")
def test_draws_are_as_often_as_their_probabilities(kind):
    """Pearson's test, over codes that are expected at least 5 times and all others together."""
    make, levels, codes = kind
    head, y, n = make(), 2 * torch.randn(1, 3), 20_000
    generator = torch.Generator().manual_seed(0)
    drawn = head.sample(y.expand(n, -1), partial(sample_token, generator=generator)).view(n, -1)
    number = (drawn * levels ** torch.arange(codes).flip(0)).sum(1)
    observed = torch.bincount(number, minlength=levels**codes).double()
    expected = n * (bits_of_all(head, y[None], levels, codes).double() * math.log(2)).exp()
    often = expected >= 5
    observed, expected = (torch.cat([x[often], x[~often].sum()[None]]) for x in (observed, expected))
    statistic = ((observed - expected).square() / expected.clamp(min=1e-9)).sum()
    assert chi2.sf(float(statistic), len(expected) - 1) > 1e-3


@torch.no_grad()
@each(HEADS, "kind")
def test_a_draw_that_is_given_its_code_costs_what_the_code_scores(kind):
    make, levels, codes = kind
    head, y = make().double(), torch.randn(5, 3, dtype=torch.float64)
    code = torch.randint(levels, (5, codes)[:codes])
    given = of_sound.Given(code, levels)
    assert torch.equal(head.sample(y, given), code)
    assert torch.allclose(head.log_probability(y[:, None], code[:, None])[:, 0], given.bits, rtol=1e-10)


@pytest.mark.parametrize("scale", [0, 1, 100])
@each(HEADS, "kind")
def test_gradients_of_likelihoods_are_finite(kind, scale):
    make, levels, codes = kind
    head, y = make(), (scale * torch.randn(2, 9, 3)).requires_grad_()
    code = torch.randint(levels, (2, 9, codes)[: codes + 1])
    bits = head.log_probability(y, code)
    bits.sum().backward()
    assert bits.isfinite().all()
    assert all(x.grad.isfinite().all() for x in (y, *head.parameters()))


@torch.no_grad()
@each(HEADS, "kind")
def test_a_head_in_single_precision_comes_close_to_double(kind):
    make, levels, codes = kind
    head, y = make().double(), torch.randn(1, 1, 3, dtype=torch.float64)
    expected = bits_of_all(head, y, levels, codes)
    assert error(bits_of_all(head.float(), y.float(), levels, codes), expected) < TOLERANCE[torch.float32]


# Nothing is left out


def classes():
    """Every class that the library defines."""
    for module in pkgutil.walk_packages(sashimi_lib.__path__, "sashimi_lib."):
        if not module.name.endswith("__main__"):
            for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if kind.__module__ == module.name:
                    yield kind


def concrete(*roots):
    return {kind for kind in classes() if issubclass(kind, roots) and not inspect.isabstract(kind)}


def kinds(cases):
    return {case.kind or type(case.make()) for case in cases.values()}


def streams(kind):
    """Whether it runs step by step."""
    return issubclass(kind, nn.Module) and hasattr(kind, "step")


def test_every_layer_is_held_to_the_contract():
    layers = concrete(SequenceModel, s4.SSMParameters, Denoiser) - {
        s4.SSMParameters
    }  # which has no pass of its own
    layers |= {kind for kind in concrete(nn.Module) if streams(kind) or getattr(kind, "is_block", False)}
    layers -= concrete(DiscreteAudioModel)
    assert layers - kinds(CAUSAL) - kinds(BOTH_WAYS) == set()


def test_every_model_of_codes_is_held_to_the_contract():
    assert (
        concrete(DiscreteAudioModel) - concrete(Engine) - {type(make()) for make in SOUND.values()} == set()
    )
    assert concrete(Engine) - {Engine} == {Compiled, Graphed}
    assert concrete(CompiledLoop) == {type(compiled(make()).loop) for make in COMPILED.values()}


def test_every_head_is_held_to_the_contract():
    assert concrete(Head) == {type(make()) for make, *_ in HEADS.values()}
