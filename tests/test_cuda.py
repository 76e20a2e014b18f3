"""Tests that need a GPU: its results are those of a CPU, and forward and backward passes never synchronize.

`python -m tools.gpu` runs them on a GPU; ``--tests-of-cuda-on cpu`` runs them without one.
"""

import copy

import pytest
import torch

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.audio.quantizers import CoarseFine, MuLaw
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.evaluation.likelihood import clip_bits
from sashimi_lib.models import DiffWaveConfig, SampleRNN, SampleRNNConfig, SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.sashimi_unet import SaShiMiUNetConfig
from sashimi_lib.models.vocoder import Vocoder
from sashimi_lib.models.wavernn import WaveRNNConfig
from sashimi_lib.ssm.precision import tf32_allowed
from sashimi_lib.ssm.s4 import Form, SSMConfig, StateSpace
from sashimi_lib.streaming import best_engine
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.execution import ExecutionConfig, has_blocks
from sashimi_lib.training.trainer import train
from sashimi_lib.training.validation import validation_loss
from tests.training.backbones import BACKBONES

pytestmark = pytest.mark.cuda

FORMS = {
    "DPLR": SSMConfig(d_state=8),
    "DPLR, untied": SSMConfig(d_state=8, tied=False),
    "diagonal": SSMConfig(d_state=8, form=Form.DIAGONAL, init="lin", tied=False),
}
UNET = SaShiMiUNetConfig(d_model=8, n_layers=1, d_step=(8, 8, 8), n_classes=3)
CONFIG = TrainingConfig(steps=6, batch_size=2, valid_every=2, checkpoint_every=2)
every_backbone = pytest.mark.parametrize("name", BACKBONES)


def a_model(name):
    torch.manual_seed(1)
    return AudioLM(MuLaw(), BACKBONES[name]())


@pytest.fixture
def codes():
    return torch.randint(100, 150, (4, 64))


def close(actual, expected, tolerance):
    expected = expected.detach().cpu().double()
    return torch.linalg.norm(actual.detach().cpu().double() - expected) < tolerance * torch.linalg.norm(
        expected
    )


# Results


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_a_state_space_has_the_outputs_and_gradients_of_a_cpu(cuda, form, dtype, tolerance):
    layer, u = StateSpace(4, FORMS[form]).to(dtype), torch.randn(2, 200, 4, dtype=dtype)
    results = []
    for device in ("cpu", cuda):
        model = copy.deepcopy(layer).to(device)
        y, _ = model(u.to(device))
        y.square().sum().backward()
        results.append([y, *(p.grad for p in model.parameters())])
    for on_cpu, on_gpu in zip(*results, strict=True):
        assert close(torch.view_as_real(on_gpu) if on_gpu.is_complex() else on_gpu,
                     torch.view_as_real(on_cpu) if on_cpu.is_complex() else on_cpu, tolerance)  # fmt: skip


@every_backbone
def test_the_likelihood_and_its_gradients_are_those_of_a_cpu(cuda, name, codes):
    on_cpu, on_gpu = a_model(name), a_model(name).to(cuda)
    for model in (on_cpu, on_gpu):
        model.log_likelihood(codes.to(model.device)).sum().backward()
    with torch.no_grad():
        assert close(on_gpu.log_likelihood(codes.to(cuda)), on_cpu.log_likelihood(codes), 1e-5)
    for p, q in zip(on_cpu.parameters(), on_gpu.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            assert torch.linalg.norm(q.grad.cpu() - p.grad) < 1e-3 * max(1.0, torch.linalg.norm(p.grad))


@every_backbone
@torch.no_grad()
@tf32_allowed(False)
def test_steps_on_a_gpu_are_the_parallel_pass(cuda, name, codes):
    model = a_model(name).to(cuda)
    parallel, _ = model(codes.to(cuda))
    state, steps = model.initial_state(len(codes)), []
    for code in codes.to(cuda).T:
        logits, state = model.step(code, state)
        steps.append(logits)
    assert close(torch.stack(steps, dim=1), parallel, 1e-4)


def test_float32_of_a_gru_is_float32(cuda):
    """By default cuDNN rounds factors to TF32, with errors of 1e-4 instead of 1e-6."""
    torch.manual_seed(1)
    model = AudioLM(MuLaw(), SampleRNN(SampleRNNConfig((4, 2), d_hidden=256, d_embedding=64)))
    codes = torch.randint(0, 256, (4, 256))
    with torch.no_grad():
        exact = copy.deepcopy(model).double().log_likelihood(codes)
        with tf32_allowed(False):
            assert close(model.to(cuda).log_likelihood(codes.to(cuda)), exact, 1e-5)
    assert close(clip_bits(model.to(cuda), list(codes)), -exact.mean(1), 1e-6)


def test_the_likelihood_of_a_dual_softmax_is_the_same(cuda):
    torch.manual_seed(1)
    model = AudioLM(CoarseFine(), SaShiMi(SaShiMiConfig(8, 1)))
    codes = model.quantizer.encode(torch.rand(2, 64) - 0.5)
    with torch.no_grad():
        expected = model.log_likelihood(codes)
        assert close(model.to(cuda).log_likelihood(codes.to(cuda)), expected, 1e-5)


# Training


def a_unet():
    torch.manual_seed(1)
    return DiffusionModel(DiffusionConfig(UNET))


TRAINED = {
    "sashimi": lambda: a_model("sashimi"),
    "isotropic": lambda: a_model("isotropic"),
    "diffusion": a_unet,
}


@pytest.fixture
def data(request):
    if request.getfixturevalue("trained") == "diffusion":
        return [(torch.rand(64) - 0.5, n % 3) for n in range(4)]
    return torch.randint(100, 150, (4, 64))


@pytest.mark.parametrize("trained", TRAINED)
def test_every_validation_is_that_of_a_new_module_with_the_same_weights(cuda, trained, data):
    model, weights = TRAINED[trained]().to(cuda), {}

    def keep(step, loss):
        weights[step + 1] = copy.deepcopy(model.state_dict())

    history = train(model, data, CONFIG, valid=data, on_step=keep, progress=False)
    for steps, loss in history.valid:
        new = TRAINED[trained]().to(cuda)
        new.load_state_dict(weights[steps])
        assert validation_loss(new, data, CONFIG.batch_size) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_a_run_from_either_device_resumes_on_a_gpu(cuda, trained, first, data, tmp_path):
    done = iter([False, False, True])
    stopped = TRAINED[trained]().to(cuda if first == "cuda" else "cpu")
    train(stopped, data, CONFIG, tmp_path / "run.pt", stop=lambda: next(done), progress=False)
    whole, resumed = (TRAINED[trained]().to(cuda) for _ in range(2))
    expected = train(whole, data, CONFIG, progress=False)
    assert train(resumed, data, CONFIG, tmp_path / "run.pt", progress=False).loss == pytest.approx(
        expected.loss, rel=1e-3
    )


def less_memory():
    """Gradient accumulation for every backbone, activation checkpointing for those with blocks."""
    for name in BACKBONES:
        yield pytest.param(name, ExecutionConfig(grad_accumulation=2), id=f"{name}-accumulation")
        if has_blocks(a_model(name)):
            yield pytest.param(
                name, ExecutionConfig(activation_checkpointing=True), id=f"{name}-checkpointing"
            )


@pytest.mark.parametrize(("name", "execution"), list(less_memory()))
def test_saving_memory_changes_no_loss(cuda, name, execution, codes):
    losses = [
        train(a_model(name).to(cuda), codes, CONFIG, progress=False, execution=config).loss
        for config in (ExecutionConfig(), execution)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@every_backbone
def test_a_lower_precision_stays_close(cuda, name, precision, codes):
    losses = []
    for each in ("float32", precision):
        config = TrainingConfig(steps=4, batch_size=4, precision=each)
        losses.append(train(a_model(name).to(cuda), codes, config, progress=False).loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@every_backbone
def test_forward_and_backward_never_synchronize(cuda, name, codes):
    model, codes = a_model(name).to(cuda), codes.to(cuda)
    if cuda.type != "cuda":
        pytest.skip("PyTorch detects synchronization only on a GPU")
    cache = model.initial_cache(len(codes))
    model.loss(codes, cache)[0].mean().backward()  # constants are computed, libraries initialized
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(codes, cache)[0].mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Generation


@every_backbone
@torch.no_grad()
def test_the_best_engine_generates_on_a_gpu(cuda, name):
    model = a_model(name).to(cuda)
    generated = best_engine(model).generate(40, batch_size=3, seed=0)
    assert generated.device.type == cuda.type
    assert generated.shape == (3, 40)
    assert 0 <= int(generated.min()) <= int(generated.max()) < 256
    assert torch.isfinite(model.log_likelihood(generated)).all()


@torch.no_grad()
def test_a_diffusion_model_generates_on_a_gpu(cuda):
    model = a_unet().to(cuda)
    waveform = model.generate(64, label=torch.tensor([0, 1, 2]), seed=0)
    assert waveform.device.type == cuda.type
    assert torch.isfinite(waveform).all()


# Inputs on the CPU


@torch.no_grad()
@pytest.mark.parametrize("name", ["sashimi", "samplernn"])
def test_a_prompt_may_be_on_any_device(cuda, name, codes):
    model = best_engine(a_model(name).to(cuda))
    generated = model.generate(20, prompt=codes, seed=0)
    assert torch.equal(generated, model.generate(20, prompt=codes.to(cuda), seed=0))


@torch.no_grad()
def test_labels_and_waveforms_may_be_on_any_device(cuda):
    waveform, known, label = torch.rand(2, 64) - 0.5, torch.arange(64) % 16 > 4, torch.tensor([0, 2])
    model, steps = a_unet().to(cuda), torch.tensor([3.0, 9.0])
    for run in (
        lambda on: model.generate(64, label=label.to(on), steps=3, seed=0),
        lambda on: model.inpaint(waveform.to(on), known.to(on), label.to(on), steps=3, seed=0),
        lambda on: model.loss_by_level(waveform.to(on), steps, label.to(on)).noise,
    ):
        assert torch.equal(run(torch.device("cpu")).to(cuda), run(cuda).to(cuda))


@torch.no_grad()
def test_spectrograms_may_be_on_any_device(cuda):
    pytest.importorskip("librosa")
    torch.manual_seed(1)
    mel, features = LogMelConfig(8_000, n_mels=8, hop=16, window=64), torch.rand(2, 5, 8) * 2 - 1
    vocoder = Vocoder(WaveRNNConfig(32, d_conditioning=4), mel).to(cuda)
    diffwave = DiffWaveConfig(d_residual=8, d_skip=8, n_layers=4, cycle=4, mel=mel)
    model = DiffusionModel(DiffusionConfig(diffwave)).to(cuda)
    assert torch.equal(vocoder.synthesize(features, seed=0), vocoder.synthesize(features.to(cuda), seed=0))
    assert torch.equal(
        model.synthesize(features, steps=3, seed=0), model.synthesize(features.to(cuda), steps=3, seed=0)
    )
