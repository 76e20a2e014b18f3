"""Every layer of the library keeps the contract of a layer (`tests/contract.py`).

=================  ==================================================================================
subject            claims
=================  ==================================================================================
causal layers      whole sequence = chunks of 1, 3, 7 = steps, in outputs, states and all gradients
                   (parameters, inputs, initial state), in float64 to 1e-10 and in float32 to 1e-4; no
                   state means the initial state; a state is not modified; the receptive field, from
                   the Jacobian, in parallel (by FFT and by a direct sum) and by steps; NaN after the
                   end changes nothing; padding has no gradient; sequences of a batch are independent;
                   float32 is close to float64
noncausal layers   receptive field in both directions, NaN beyond it, batches, float32
models of codes    whole sequence = chunks of 1, 3, 7 = steps with given codes, in likelihood, caches
                   and gradients, in both precisions; prefill; the context of each code
engines            compiled: likelihood, samples and states in chunks of any size equal the model's;
                   graphs: the same for the static step, launched one by one
heads              probabilities sum to one; samples have these frequencies (chi-square); a sampled
                   code has the likelihood of the code; finite gradients, also for large inputs; float32
=================  ==================================================================================

`tests/cases.py` lists the layers; the last tests fail where a class of the library is missing there.
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
from tests import contract, contract_models
from tests.cases import CAUSAL, COMPILED, DISCRETE, HEADS, NONCAUSAL, WAVENET
from tests.contract import TOLERANCE, causal, window
from tests.streaming.helpers import by_steps, error

pytestmark = pytest.mark.usefixtures("shapes_unchecked")  # other tests check them


def parametrize(cases, name="case"):
    return pytest.mark.parametrize(name, cases.values(), ids=cases)


RUNS = {"whole": lambda layer, x: layer(x)[0], "steps": lambda layer, x: by_steps(layer, x)[0]}
in_either_precision = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture
def direct_convolution(monkeypatch):
    """Convolve by a direct sum: an FFT leaves rounding errors at all samples."""
    monkeypatch.setattr(s4, "causal_conv", causal_conv_naive)
    monkeypatch.setattr(s4, "bidirectional_conv", bidirectional_conv_naive)


# Causal layers


@in_either_precision
@parametrize(CAUSAL)
def test_whole_sequence_chunks_and_steps_agree_in_outputs_states_and_gradients(case, dtype):
    contract.assert_modes_agree(case, dtype)


@parametrize(CAUSAL)
def test_no_state_is_the_initial_state(case):
    contract.assert_no_state_is_initial_state(case)


@parametrize(CAUSAL)
def test_a_state_is_an_argument_and_a_result(case):
    contract.assert_state_is_an_argument(case)


@parametrize(CAUSAL)
def test_a_causal_layer_has_its_receptive_field(case):
    contract.assert_receptive_field(case, RUNS["whole"])


@parametrize(RUNS, "run")
@parametrize(CAUSAL)
def test_a_causal_layer_has_exactly_its_receptive_field(case, run, direct_convolution):
    contract.assert_receptive_field(case, run, noise=0)


@parametrize(CAUSAL)
def test_nan_after_the_end_changes_nothing_before_it(case, direct_convolution):
    contract.assert_padding_changes_nothing(case, RUNS["whole"])


@parametrize(CAUSAL)
def test_padding_has_no_gradient(case):
    contract.assert_padding_has_no_gradient(case, RUNS["whole"])


@parametrize(RUNS, "run")
@parametrize(CAUSAL)
def test_sequences_of_a_batch_are_independent(case, run):
    contract.assert_rows_are_independent(case, run)


@parametrize(CAUSAL)
def test_single_precision_comes_close_to_double(case):
    contract.assert_single_precision_comes_close(case, RUNS["whole"])


# Noncausal layers


def whole(layer, x):
    return layer(x)


@parametrize(NONCAUSAL)
def test_a_noncausal_layer_has_its_receptive_field(case):
    contract.assert_receptive_field(case, whole)


@parametrize(NONCAUSAL)
def test_a_noncausal_layer_has_exactly_its_receptive_field(case, direct_convolution):
    contract.assert_receptive_field(case, whole, noise=0)


@parametrize(NONCAUSAL)
def test_nan_beyond_the_receptive_field_changes_nothing(case, direct_convolution):
    contract.assert_padding_changes_nothing(case, whole)


@parametrize(NONCAUSAL)
def test_whole_sequences_of_a_batch_are_independent(case):
    contract.assert_rows_are_independent(case, whole)


@parametrize(NONCAUSAL)
def test_single_precision_comes_close_to_double_in_noncausal_layers(case):
    contract.assert_single_precision_comes_close(case, whole)


# Models of codes, and engines


@in_either_precision
@parametrize(DISCRETE, "make")
def test_whole_sequence_chunks_and_steps_agree_in_likelihood_caches_and_gradients(make, dtype):
    contract_models.assert_modes_agree(make, dtype)


@pytest.mark.parametrize("name", [name for name in DISCRETE if name != "subscale"])  # which has another order
def test_a_code_is_context_of_the_codes_after_it(name):
    finite = isinstance(getattr(DISCRETE[name](), "backbone", None), WaveNet)
    contract_models.assert_receptive_field(
        DISCRETE[name], window(WAVENET.receptive_field) if finite else causal
    )


@pytest.mark.slow
@pytest.mark.xdist_group("compiled SaShiMi")
@parametrize(COMPILED, "make")
def test_the_compiled_engine_has_the_likelihood_and_the_samples_of_the_model(make):
    model = contract_models.random_model(make, torch.float32)
    engine = compiled(model)
    contract_models.assert_engine_samples(model, engine)
    contract_models.assert_engine_likelihood(model, engine)


@pytest.mark.parametrize("name", [name for name in DISCRETE if name not in ("subscale", "vocoder")])
def test_the_static_step_of_graphs_has_the_samples_of_the_model(name):
    model = contract_models.random_model(DISCRETE[name])
    contract_models.assert_engine_samples(model, Graphed(model, capture=False))


# Heads


def all_codes(levels, codes):
    return torch.cartesian_prod(*[torch.arange(levels)] * codes)


def log_probabilities(head, y, levels, codes):
    """Return the log-probability of every code in bits, given one vector of features."""
    values = all_codes(levels, codes)
    return head.log_probability(y.expand(1, len(values), -1), values[None])[0]


@in_either_precision
@parametrize(HEADS, "kind")
def test_probabilities_sum_to_one(kind, dtype):
    make, levels, codes = kind
    head, y = make().to(dtype), 3 * torch.randn(1, 1, 3, dtype=dtype)
    with torch.no_grad():
        total = (log_probabilities(head, y, levels, codes).double() * math.log(2)).exp().sum()
    assert abs(float(total) - 1) < TOLERANCE[dtype]


@pytest.mark.slow
@torch.no_grad()
@parametrize({name: kind for name, kind in HEADS.items() if kind[1] == 16}, "kind")
def test_samples_have_the_frequencies_of_their_probabilities(kind):
    """Pearson's chi-square test; codes that are expected fewer than 5 times are merged."""
    make, levels, codes = kind
    head, y, n = make(), 2 * torch.randn(1, 3), 20_000
    generator = torch.Generator().manual_seed(0)
    samples = head.sample(y.expand(n, -1), partial(sample_token, generator=generator)).view(n, -1)
    value = (samples * levels ** torch.arange(codes).flip(0)).sum(1)
    observed = torch.bincount(value, minlength=levels**codes).double()
    expected = n * (log_probabilities(head, y[None], levels, codes).double() * math.log(2)).exp()
    frequent = expected >= 5
    observed, expected = (torch.cat([x[frequent], x[~frequent].sum()[None]]) for x in (observed, expected))
    statistic = ((observed - expected).square() / expected.clamp(min=1e-9)).sum()
    assert chi2.sf(float(statistic), len(expected) - 1) > 1e-3


@torch.no_grad()
@parametrize(HEADS, "kind")
def test_a_sampled_code_has_the_likelihood_of_the_code(kind):
    make, levels, codes = kind
    head, y = make().double(), torch.randn(5, 3, dtype=torch.float64)
    code = torch.randint(levels, (5, codes)[:codes])
    sampler = contract_models.TeacherForcing(code, levels)
    assert torch.equal(head.sample(y, sampler), code)
    assert torch.allclose(head.log_probability(y[:, None], code[:, None])[:, 0], sampler.bits, rtol=1e-10)


@pytest.mark.parametrize("scale", [0, 1, 100])
@parametrize(HEADS, "kind")
def test_gradients_of_likelihoods_are_finite(kind, scale):
    make, levels, codes = kind
    head, y = make(), (scale * torch.randn(2, 9, 3)).requires_grad_()
    code = torch.randint(levels, (2, 9, codes)[: codes + 1])
    bits = head.log_probability(y, code)
    bits.sum().backward()
    assert bits.isfinite().all()
    assert all(x.grad.isfinite().all() for x in (y, *head.parameters()))


@torch.no_grad()
@parametrize(HEADS, "kind")
def test_a_head_in_single_precision_comes_close_to_double(kind):
    make, levels, codes = kind
    head, y = make().double(), torch.randn(1, 1, 3, dtype=torch.float64)
    expected = log_probabilities(head, y, levels, codes)
    assert (
        error(log_probabilities(head.float(), y.float(), levels, codes), expected) < TOLERANCE[torch.float32]
    )


# Completeness


def classes():
    """Yield every class that the library defines."""
    for module in pkgutil.walk_packages(sashimi_lib.__path__, "sashimi_lib."):
        if not module.name.endswith("__main__"):
            for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if kind.__module__ == module.name:
                    yield kind


def concrete(*roots):
    return {kind for kind in classes() if issubclass(kind, roots) and not inspect.isabstract(kind)}


def kinds(cases):
    return {case.kind or type(case.make()) for case in cases.values()}


def has_step(kind):
    """Return whether a class runs step by step."""
    return issubclass(kind, nn.Module) and hasattr(kind, "step")


def test_every_layer_is_tested():
    layers = concrete(SequenceModel, s4.SSMParameters, Denoiser)
    layers -= {s4.SSMParameters}  # which has no forward pass
    layers |= {kind for kind in concrete(nn.Module) if has_step(kind) or getattr(kind, "is_block", False)}
    layers -= concrete(DiscreteAudioModel)
    assert layers - kinds(CAUSAL) - kinds(NONCAUSAL) == set()


def test_every_model_of_codes_and_engine_is_tested():
    assert (
        concrete(DiscreteAudioModel) - concrete(Engine) - {type(make()) for make in DISCRETE.values()}
        == set()
    )
    assert concrete(Engine) - {Engine} == {Compiled, Graphed}
    assert concrete(CompiledLoop) == {type(compiled(make()).loop) for make in COMPILED.values()}


def test_every_head_is_tested():
    assert concrete(Head) == {type(make()) for make, *_ in HEADS.values()}
