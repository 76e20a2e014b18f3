"""Gradient accumulation, checkpointing, compilation and precision leave gradients the same."""

import copy
import dataclasses
import warnings

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data.sequences import collate
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.models import DiffWaveConfig, WaveRNN, WaveRNNConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.sashimi_unet import SaShiMiUNetConfig
from sashimi_lib.ssm import s4
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.distributed import SINGLE_PROCESS
from sashimi_lib.training.execution import DEFAULT_EXECUTION, ExecutionConfig, apply_execution
from sashimi_lib.training.gradient_step import GradientStep
from sashimi_lib.training.trainer import train
from tests.training.backbones import BACKBONES

DENOISERS = {
    "diffusion sashimi": SaShiMiUNetConfig(d_model=4, n_layers=1, d_step=(8, 8, 8)),
    "diffwave": DiffWaveConfig(d_residual=4, d_skip=4, n_layers=2, d_step=(8, 8, 8)),
}
DEEP = [name for name in (*BACKBONES, *DENOISERS) if name != "samplernn"]  # which has no blocks
CONFIG = TrainingConfig()


@pytest.fixture(params=[*BACKBONES, *DENOISERS])
def model(request):
    torch.manual_seed(1)
    if request.param in BACKBONES:
        return AudioLM(MuLaw(), BACKBONES[request.param]())
    return DiffusionModel(DiffusionConfig(DENOISERS[request.param]))


def a_batch(model):
    """Five sequences of different lengths."""
    torch.manual_seed(2)
    codes = isinstance(model, AudioLM)
    sequences = [
        torch.randint(256, (60 - 7 * n,)) if codes else 0.1 * torch.randn(60 - 7 * n) for n in range(5)
    ]
    return collate(sequences, model.pad_value)


def gradients(model, execution, cache=None):
    """Return the loss, and the gradients of all parameters as one vector."""
    model.zero_grad()
    torch.manual_seed(3)
    with apply_execution(model, execution):
        loss, _ = GradientStep(model, CONFIG, execution, SINGLE_PROCESS)(a_batch(model), cache)
    # Unused parameters have no gradient, or zeros if compiled with the others.
    trained = [p for p in model.parameters() if p.requires_grad]
    return loss, torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])


def assert_close(a, b, rtol=1e-5):
    assert float(a[0]) == pytest.approx(float(b[0]), rel=rtol)
    assert (a[1] - b[1]).norm() <= rtol * b[1].norm()


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_accumulated_gradients_are_those_of_the_batch(model, parts):
    """Also for diffusion, whose noise is sampled for the whole batch."""
    for parameter in model.parameters():  # the output of a new denoiser is zero, as are its gradients
        parameter.data += 0.05 * torch.randn_like(parameter)
    assert_close(
        gradients(model, ExecutionConfig(grad_accumulation=parts)), gradients(model, DEFAULT_EXECUTION)
    )


@pytest.fixture
def kernel_calls(monkeypatch):
    """The arguments of each computation of a kernel."""
    kernel_calls, kernel = [], s4.kernel
    monkeypatch.setattr(s4, "kernel", lambda *args: (kernel_calls.append(args), kernel(*args))[1])
    return kernel_calls


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_a_kernel_is_computed_once_per_step(parts, activation_checkpointing, kernel_calls):
    gradients(AudioLM(MuLaw(), BACKBONES["sashimi"]()), ExecutionConfig(parts, activation_checkpointing))
    assert len(kernel_calls) == 3  # three tiers of one layer


def test_kernels_are_not_recomputed_with_checkpointed_blocks(monkeypatch):
    model = AudioLM(MuLaw(), BACKBONES["sashimi"]())
    cache, plain = model.initial_cache(5), model.initial_cache(5)
    discretized, recurrence = [], s4.SSMParameters.recurrence
    monkeypatch.setattr(
        s4.SSMParameters, "recurrence", lambda ssm: (discretized.append(ssm), recurrence(ssm))[1]
    )
    assert_close(
        gradients(model, ExecutionConfig(3, activation_checkpointing=True), cache),
        gradients(model, DEFAULT_EXECUTION, plain),
    )
    assert len(discretized) == 2 * 3


@pytest.mark.parametrize("model", ["sashimi", "isotropic", "diffusion sashimi"], indirect=True)
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_checkpointed_kernels_give_the_same_gradients(model, parts, activation_checkpointing, kernel_calls):
    plain = gradients(model, DEFAULT_EXECUTION)
    layers = len(kernel_calls)
    assert_close(
        gradients(model, ExecutionConfig(parts, activation_checkpointing, kernel_checkpointing=True)), plain
    )
    assert len(kernel_calls) == layers + 2 * layers  # once forward, once backward


@pytest.mark.parametrize("name", ["activation_checkpointing", "kernel_checkpointing", "compile"])
@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (lambda: AudioLM(MuLaw(), BACKBONES["samplernn"]()), "SampleRNN"),
        (lambda: WaveRNN(WaveRNNConfig(d_hidden=8)), "WaveRNN"),
    ],
)
def test_options_that_do_not_apply_to_a_model_are_refused(name, model, kind):
    model, execution = model(), ExecutionConfig(**{name: True})
    codes = torch.full((1, 9, 2) if kind == "WaveRNN" else (1, 40), 128)
    with pytest.raises(ValueError, match=f"{name} must be False for a model without .* got a {kind}"):
        train(model, codes, TrainingConfig(steps=1, batch_size=1), execution=execution, progress=False)


@pytest.mark.parametrize("model", BACKBONES, indirect=True)
def test_the_cache_is_the_same_with_accumulation(model):
    cache = model.initial_cache(5)
    batch = a_batch(model).slice_time(0, 30)
    ahead = [
        GradientStep(model, CONFIG, ExecutionConfig(grad_accumulation=parts), SINGLE_PROCESS)(batch, cache)[1]
        for parts in (1, 3)
    ]
    codes = a_batch(model).sequence[:, 30:33]
    first, second = (model.log_likelihood_from(codes, state)[0] for state in ahead)
    assert torch.allclose(first, second, atol=1e-5)


def saved_bytes(model, execution):
    """Return the bytes of activations that the forward pass saves for the gradient, without parameters."""
    parameters, saved = {p.data_ptr() for p in model.parameters()}, {}

    def save(x):
        if x.data_ptr() not in parameters:
            saved[x.data_ptr()] = x.numel() * x.element_size()
        return x

    with apply_execution(model, execution), saved_tensors_hooks(save, lambda x: x):
        model.loss(a_batch(model).sequence)
    return sum(saved.values())


@pytest.mark.parametrize("model", DEEP, indirect=True)
def test_checkpointed_blocks_give_the_same_gradients_and_save_less(model):
    assert_close(
        gradients(model, ExecutionConfig(activation_checkpointing=True)), gradients(model, DEFAULT_EXECUTION)
    )
    assert saved_bytes(model, ExecutionConfig(activation_checkpointing=True)) < 0.8 * saved_bytes(
        model, DEFAULT_EXECUTION
    )


class Block(nn.Module):
    """A block from outside the library."""

    is_block = True

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(4, 400), nn.Linear(400, 4)

    def forward(self, x):
        return x + self.narrow(self.wide(x).relu())


def test_any_module_with_is_block_is_checkpointed():
    model, x, sizes = nn.Sequential(Block(), nn.Linear(4, 4)), torch.randn(9, 4), []
    for execution in (DEFAULT_EXECUTION, ExecutionConfig(activation_checkpointing=True)):
        saved = []

        def pack(x, saved=saved):
            saved.append(x)
            return x

        with apply_execution(model, execution), saved_tensors_hooks(pack, lambda x: x):
            model(x)
        sizes.append(max(x.shape[-1] for x in saved if len(x) == 9))
    assert sizes == [400, 4]
    with pytest.raises(
        ValueError, match="activation_checkpointing must be False for a model without residual blocks"
    ):
        apply_execution(model[1], ExecutionConfig(activation_checkpointing=True)).__enter__()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sashimi", "wavenet"])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_compiled_blocks_give_the_same_gradients(
    name, activation_checkpointing, shapes_unchecked, monkeypatch
):
    # Without the compiler's back end, which takes a minute and is PyTorch's to test.
    torch.compiler.reset()  # discard what other tests compiled
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiled(function, backend="aot_eager"))
    model = AudioLM(MuLaw(), BACKBONES[name]())
    plain = gradients(model, DEFAULT_EXECUTION)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(
            gradients(
                model, ExecutionConfig(activation_checkpointing=activation_checkpointing, compile=True)
            ),
            plain,
        )


@pytest.mark.parametrize("model", DEEP, indirect=True)
def test_a_model_is_restored_afterwards(model):
    before = {name: module.forward.__func__ for name, module in model.named_modules()}
    with (
        pytest.raises(KeyboardInterrupt),
        apply_execution(model, ExecutionConfig(activation_checkpointing=True)),
    ):
        raise KeyboardInterrupt
    assert {name: module.forward.__func__ for name, module in model.named_modules()} == before
    copy.deepcopy(model)


def test_a_run_resumes_with_other_execution_options(tmp_path):
    def new():
        torch.manual_seed(1)
        return AudioLM(MuLaw(), BACKBONES["sashimi"]())

    data, config = torch.randint(256, (7, 40)), TrainingConfig(steps=6, batch_size=3, ema=0.9)
    whole = train(new(), data, config, progress=False).loss
    steps, path = [], tmp_path / "run.pt"
    settings = {"checkpoint": path, "progress": False}
    train(
        new(), data, config, **settings, execution=ExecutionConfig(grad_accumulation=3),
        on_step=lambda step, _: steps.append(step), stop=lambda: len(steps) == 3,
    )  # fmt: skip
    resumed = train(
        new(), data, config, **settings, execution=ExecutionConfig(activation_checkpointing=True)
    ).loss
    assert resumed == pytest.approx(whole, rel=1e-5)


def test_fewer_than_one_micro_batch_is_refused():
    with pytest.raises(ValueError, match="grad_accumulation must be at least 1, got 0"):
        ExecutionConfig(grad_accumulation=0)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_the_precision_of_the_caller_is_restored(precision):
    model, config = AudioLM(MuLaw(), BACKBONES["sashimi"]()), dataclasses.replace(CONFIG, precision=precision)
    before, seen = torch.get_float32_matmul_precision(), []
    hook = model.head.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    GradientStep(model, config, DEFAULT_EXECUTION, SINGLE_PROCESS)(a_batch(model), None)
    hook.remove()
    assert seen == ["high" if precision == "tf32" else "highest"]
    assert torch.get_float32_matmul_precision() == before
