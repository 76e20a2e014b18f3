"""WaveRNN: its masks, equal results in all modes, its distribution, and training."""

import math

import pytest
import torch
from torch.nn import functional as F

from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.models import WaveRNN, WaveRNNConfig
from sashimi_lib.models.audio_lm import new_model
from sashimi_lib.models.autoregressive import shift_right
from sashimi_lib.training.trainer import TrainingConfig, train
from tests.streaming.helpers import error

SMALL = WaveRNNConfig(d_hidden=12, levels=16)
CONDITIONAL = WaveRNNConfig(d_hidden=12, levels=16, d_conditioning=3)
TONE = CoarseFine().encode(0.5 * torch.sin(0.2 * torch.arange(128.0)))


def sharpened(config):
    """A model whose probabilities are far from equal, in double precision."""
    model = WaveRNN(config).double()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def random_codes(batch=2, length=9, levels=16):
    return torch.randint(0, levels, (batch, length, 2))


def trained(model):
    """Train a model for a few steps."""
    data = random_codes(8, 20, model.config.levels)
    train(model, data, TrainingConfig(steps=4, batch_size=4, lr=0.05), progress=False)
    return model


MODELS = {"new": lambda: WaveRNN(SMALL), "trained": lambda: trained(WaveRNN(SMALL))}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def parallel_pass(model, codes, conditioning=None):
    """Return every state h_t of the parallel pass, and its inputs, ``(batch, length, 3 + d_conditioning)``,
    as a leaf to differentiate by."""
    inputs, original = [], model._inputs

    def leaf(*arguments):
        inputs.append(original(*arguments).detach().requires_grad_())
        return inputs[-1]

    model._inputs = leaf
    before = shift_right(codes, model.initial_cache(len(codes))[0])
    h, _ = model(before, codes[..., 0], model.initial_state(len(codes)), conditioning)
    model._inputs = original
    return h, inputs[0]


def jacobian(outputs, x):
    """Return d outputs / d x, for a vector of outputs."""
    (grad,) = torch.autograd.grad(
        outputs, x, torch.eye(len(outputs), dtype=x.dtype), is_grads_batched=True, retain_graph=True
    )
    return grad


def by_steps(model, codes, conditioning=None):
    """Return the likelihood of each sample and its logits, by `WaveRNN.sample_next` with given codes."""
    code, state = model.initial_cache(len(codes))
    bits, logits = [], []
    for t in range(codes.shape[1]):
        targets = iter(codes[:, t].unbind(-1))

        def sampler(of_code, targets=targets):
            logits.append(of_code)
            return next(targets)

        inputs = () if conditioning is None else (conditioning[:, t],)
        code, state = model.sample_next(code, state, sampler, *inputs)
        bits.append(sum(-F.cross_entropy(logits[i - 2], codes[:, t, i], reduction="none") for i in (0, 1)))
    return torch.stack(bits, dim=1) / math.log(2), logits, state


# The masks


def test_fine_logits_depend_on_the_coarse_code_and_coarse_logits_do_not(model):
    codes = random_codes(batch=1)
    h, x = parallel_pass(model, codes)
    coarse, fine, half = model.coarse_logits(h), model.fine_logits(h), model.config.d_hidden // 2
    for t in range(codes.shape[1]):
        for masked in (coarse[0, t], h[0, t, :half]):
            assert jacobian(masked, x)[:, 0, t, 2].count_nonzero() == 0
        for unmasked in (fine[0, t], h[0, t, half:]):
            assert jacobian(unmasked, x)[:, 0, t, 2].all()


def test_a_logit_depends_on_all_earlier_samples_and_on_no_later_one(model):
    h, x = parallel_pass(model, random_codes(batch=1))
    for logits in (model.coarse_logits(h), model.fine_logits(h)):
        grad = jacobian(logits[0, 4], x)[:, 0]
        assert grad[:, :4].all()
        assert grad[:, 4, :2].all()
        assert grad[:, 5:].count_nonzero() == 0


@torch.no_grad()
def test_another_coarse_code_changes_no_bit_of_its_logits(model):
    codes = random_codes()
    other = codes.clone()
    other[:, -1, 0] = (other[:, -1, 0] + 5) % 16
    for logits in (
        lambda codes: [
            f(parallel_pass(model, codes)[0][:, -1]) for f in (model.coarse_logits, model.fine_logits)
        ],
        lambda codes: by_steps(model, codes)[1][-2:],
    ):
        (coarse, fine), (coarse_other, fine_other) = logits(codes), logits(other)
        assert torch.equal(coarse, coarse_other)
        assert not torch.isclose(fine, fine_other).any(dim=-1).all()


@pytest.mark.parametrize("config", [SMALL, CONDITIONAL])
def test_the_input_matrix_is_zero_from_the_coarse_code_to_the_coarse_half(config):
    model = WaveRNN(config)
    model.I_star.square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    gates = model.I_star.view(3, 2, 6, 3 + config.d_conditioning)  # u, r, e; coarse, fine; units; inputs
    expected = torch.zeros_like(gates, dtype=torch.bool)
    expected[:, 0, :, 2] = True
    assert torch.equal(gates == 0, expected)


# Modes of running


def naive(model, codes):
    """The equations as printed: three R, a dense I with a mask, and a loop over steps."""
    d = model.config.d_hidden
    R_u, R_r, R_e = model.R.weight.chunk(3)
    b_u, b_r, b_e = model.bias.chunk(3)
    mask = torch.ones(d, 3, dtype=model.bias.dtype)
    mask[: d // 2, 2] = 0
    dense = [torch.where(mask == 0, torch.randn_like(mask), I) for I in model.I_star.chunk(3)]
    I_u, I_r, I_e = (mask * I for I in dense)
    h, (c, f), coarse, fine = torch.zeros(d, dtype=mask.dtype), (8, 0), [], []
    for c_t, f_t in codes.tolist():
        x = torch.tensor([c, f, c_t]).to(mask) / 7.5 - 1
        u = torch.sigmoid(R_u @ h + I_u @ x + b_u)
        r = torch.sigmoid(R_r @ h + I_r @ x + b_r)
        e = torch.tanh(r * (R_e @ h) + I_e @ x + b_e)
        h = u * h + (1 - u) * e
        y_c, y_f = h.split(d // 2)
        coarse.append(model.O2(model.O1(y_c).relu()).softmax(-1)[c_t])
        fine.append(model.O4(model.O3(y_f).relu()).softmax(-1)[f_t])
        c, f = c_t, f_t
    return (torch.stack(coarse) * torch.stack(fine)).log2(), h


@torch.no_grad()
def test_the_parallel_pass_follows_the_printed_equations():
    model, codes = sharpened(SMALL), random_codes(1, 30)
    model.bias.data.normal_()
    expected, h = naive(model, codes[0])
    assert error(model.log_likelihood(codes)[0], expected) < 1e-12
    assert error(model.prefill(codes, model.initial_cache(1))[1][0], h) < 1e-12


@pytest.mark.parametrize("config", [SMALL, CONDITIONAL])
@torch.no_grad()
def test_the_parallel_pass_equals_the_steps(config):
    model, codes = sharpened(config), random_codes(3, 40)
    model.bias.data.normal_()
    conditioning = torch.randn(3, 40, 3).double() if config.d_conditioning else None
    bits, cache = model.log_likelihood_from(codes, model.initial_cache(3), conditioning)
    stepped, _, state = by_steps(model, codes, conditioning)
    assert error(stepped, bits) < 1e-9
    assert error(state, cache[1]) < 1e-9
    assert torch.equal(cache[0], codes[:, -1])
    assert error(model.prefill(codes, model.initial_cache(3), conditioning)[1], state) < 1e-9


@pytest.mark.parametrize("sizes", [[1] * 40, [13, 27], [39, 1]])
@torch.no_grad()
def test_chunks_with_a_cache_equal_the_whole_sequence(sizes):
    model, codes, conditioning = sharpened(CONDITIONAL), random_codes(2, 40), torch.randn(2, 40, 3).double()
    expected, _ = model.log_likelihood_from(codes, model.initial_cache(2), conditioning)
    cache, bits = model.initial_cache(2), []
    for chunk, frames in zip(codes.split(sizes, 1), conditioning.split(sizes, 1), strict=True):
        of_chunk, cache = model.log_likelihood_from(chunk, cache, frames)
        bits.append(of_chunk)
    assert error(torch.cat(bits, 1), expected) < 1e-12


def test_both_halves_depend_on_the_conditioning():
    h, x = parallel_pass(WaveRNN(CONDITIONAL), random_codes(1), torch.randn(1, 9, 3))
    for state in h[0, 4].split(6):
        grad = jacobian(state, x)[:, 0]
        assert grad[:, :5, 3:].all()
        assert grad[:, 5:].count_nonzero() == 0


@torch.no_grad()
def test_generation_continues_a_prompt():
    model, generator = sharpened(SMALL), torch.Generator().manual_seed(0)
    first = model.generate(10, batch_size=3, seed=generator)
    second = model.generate(20, prompt=first, seed=generator)
    assert torch.equal(torch.cat([first, second], 1), model.generate(30, batch_size=3, seed=0))


def test_the_initial_cache_is_silence():
    code, state = WaveRNN(SMALL).initial_cache(2)
    assert code.tolist() == [[8, 0], [8, 0]]
    assert state.count_nonzero() == 0


# The distribution


@torch.no_grad()
def test_probabilities_of_three_small_samples_sum_to_one_and_are_the_frequencies():
    model = sharpened(WaveRNNConfig(d_hidden=8, levels=2))
    clips = torch.cartesian_prod(*[torch.arange(2)] * 6).view(64, 3, 2)
    expected = 2 ** model.log_likelihood(clips).sum(1)
    assert abs(float(expected.sum()) - 1) < 1e-12
    assert expected.max() > 2 / 64  # far from uniform
    n = 40_000
    samples = model.generate(3, batch_size=n, seed=1).flatten(1) @ 2 ** torch.arange(5, -1, -1)
    observed = torch.bincount(samples, minlength=64) / n
    assert ((observed - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt()).all()


def test_a_tone_is_learned():
    model, clips = WaveRNN(WaveRNNConfig(d_hidden=64)), [TONE, TONE[:100]]
    config = TrainingConfig(steps=60, batch_size=2, lr=0.01)
    history = train(model, clips, config, valid=clips, progress=False)
    assert history.loss[0] == pytest.approx(16, abs=0.5)
    assert history.loss[-1] < 12
    assert history.valid[-1][1] < 12


@pytest.mark.parametrize("tbptt_length", [None, 21])
def test_half_precision_trains_to_nearly_the_same_loss(tbptt_length):
    bits = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(1)
        config = TrainingConfig(steps=9, batch_size=2, tbptt_length=tbptt_length, precision=precision)
        bits.append(
            torch.tensor(train(WaveRNN(WaveRNNConfig(16)), [TONE, TONE[:50]], config, progress=False).loss)
        )
    assert 0 < (bits[0] - bits[1]).abs().max() < 0.1


# Errors


@pytest.mark.parametrize(
    ("settings", "because"),
    [
        ({"d_hidden": 7}, "d_hidden must be even.*got 7"),
        ({"d_hidden": 0}, "d_hidden must be even.*got 0"),
        ({"d_conditioning": -1}, "d_conditioning must be at least 0, got -1"),
        ({"levels": 3}, "levels must be an even integer"),
    ],
)
def test_impossible_settings_are_named(settings, because):
    with pytest.raises(ValueError, match=because):
        WaveRNN(WaveRNNConfig(**settings))


def test_codes_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"codes must have shape \(\.\.\., L, 2\)"):
        WaveRNN(SMALL).log_likelihood(torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"prompt must lie in 0\.\.15"):
        WaveRNN(SMALL).generate(3, prompt=torch.full((1, 5, 2), 16))


def test_conditioning_of_another_width_is_named():
    codes = random_codes()
    with pytest.raises(ValueError, match="conditioning must have 3 features a sample, got 0"):
        WaveRNN(CONDITIONAL).log_likelihood(codes)
    with pytest.raises(ValueError, match="conditioning must have 0 features a sample, got 3"):
        WaveRNN(SMALL).log_likelihood_from(codes, WaveRNN(SMALL).initial_cache(2), torch.zeros(2, 9, 3))


@pytest.mark.parametrize("quantizer", [MuLaw(), CoarseFine(16)], ids=str)
def test_a_wavernn_has_its_own_quantizer(quantizer):
    with pytest.raises(ValueError, match=r"quantizer must be CoarseFine\(levels=256\) .* got"):
        new_model(WaveRNNConfig(8), quantizer)
