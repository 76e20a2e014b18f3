"""What a CPU cannot prove: numbers on a GPU are those of a CPU, and nothing on the way waits for it.

`python -m tools.gpu` runs these where there is a GPU; ``--tests-of-cuda-on cpu`` tries them without one.
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
    "own for every channel": SSMConfig(d_state=8, tied=False),
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


# Numbers


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
    for here, there in zip(*results, strict=True):
        assert close(torch.view_as_real(there) if there.is_complex() else there,
                     torch.view_as_real(here) if here.is_complex() else here, tolerance)  # fmt: skip


@every_backbone
def test_the_likelihood_and_its_gradients_are_those_of_a_cpu(cuda, name, codes):
    here, there = a_model(name), a_model(name).to(cuda)
    for model in (here, there):
        model.log_likelihood(codes.to(model.device)).sum().backward()
    with torch.no_grad():
        assert close(there.log_likelihood(codes.to(cuda)), here.log_likelihood(codes), 1e-5)
    for p, q in zip(here.parameters(), there.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            assert torch.linalg.norm(q.grad.cpu() - p.grad) < 1e-3 * max(1.0, torch.linalg.norm(p.grad))


@every_backbone
@torch.no_grad()
@tf32_allowed(False)
def test_steps_on_a_gpu_are_the_whole_pass(cuda, name, codes):
    model = a_model(name).to(cuda)
    whole, _ = model(codes.to(cuda))
    state, steps = model.initial_state(len(codes)), []
    for code in codes.to(cuda).T:
        logits, state = model.step(code, state)
        steps.append(logits)
    assert close(torch.stack(steps, dim=1), whole, 1e-4)


def test_float32_of_a_gru_is_float32(cuda):
    """cuDNN rounds factors to tf32 unless it is told not to: errors of 1e-4 in place of 1e-6."""
    torch.manual_seed(1)
    model = AudioLM(MuLaw(), SampleRNN(SampleRNNConfig((4, 2), d_hidden=256, d_embedding=64)))
    codes = torch.randint(0, 256, (4, 256))
    with torch.no_grad():
        exact = copy.deepcopy(model).double().log_likelihood(codes)
        with tf32_allowed(False):
            assert close(model.to(cuda).log_likelihood(codes.to(cuda)), exact, 1e-5)
    assert close(clip_bits(model.to(cuda), list(codes)), -exact.mean(1), 1e-6)


def test_16_bits_are_judged_alike(cuda):
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


LEARNERS = {
    "sashimi": lambda: a_model("sashimi"),
    "isotropic": lambda: a_model("isotropic"),
    "diffusion": a_unet,
}


@pytest.fixture
def data(request):
    if request.getfixturevalue("learner") == "diffusion":
        return [(torch.rand(64) - 0.5, n % 3) for n in range(4)]
    return torch.randint(100, 150, (4, 64))


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_validation_is_that_of_a_new_module_with_the_same_weights(cuda, learner, data):
    model, weights = LEARNERS[learner]().to(cuda), {}

    def keep(step, loss):
        weights[step + 1] = copy.deepcopy(model.state_dict())

    history = train(model, data, CONFIG, valid=data, on_step=keep, progress=False)
    for steps, loss in history.valid:
        new = LEARNERS[learner]().to(cuda)
        new.load_state_dict(weights[steps])
        assert validation_loss(new, data, CONFIG.batch_size) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_a_run_goes_on_on_a_gpu_wherever_it_began(cuda, learner, first, data, tmp_path):
    done = iter([False, False, True])
    begun = LEARNERS[learner]().to(cuda if first == "cuda" else "cpu")
    train(begun, data, CONFIG, tmp_path / "run.pt", stop=lambda: next(done), progress=False)
    whole, resumed = (LEARNERS[learner]().to(cuda) for _ in range(2))
    expected = train(whole, data, CONFIG, progress=False)
    assert train(resumed, data, CONFIG, tmp_path / "run.pt", progress=False).loss == pytest.approx(
        expected.loss, rel=1e-3
    )


def less_memory():
    """Of every backbone in parts, and recomputed where there are blocks to recompute."""
    for name in BACKBONES:
        yield pytest.param(name, ExecutionConfig(grad_accumulation=2), id=f"{name}-parts")
        if has_blocks(a_model(name)):
            yield pytest.param(name, ExecutionConfig(activation_checkpointing=True), id=f"{name}-again")


@pytest.mark.parametrize(("name", "execution"), list(less_memory()))
def test_less_memory_changes_no_loss(cuda, name, execution, codes):
    losses = [
        train(a_model(name).to(cuda), codes, CONFIG, progress=False, execution=how).loss
        for how in (ExecutionConfig(), execution)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@every_backbone
def test_a_lower_precision_stays_close(cuda, name, precision, codes):
    losses = []
    for way in ("float32", precision):
        config = TrainingConfig(steps=4, batch_size=4, precision=way)
        losses.append(train(a_model(name).to(cuda), codes, config, progress=False).loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@every_backbone
def test_forward_and_backward_never_wait_for_the_gpu(cuda, name, codes):
    model, codes = a_model(name).to(cuda), codes.to(cuda)
    if cuda.type != "cuda":
        pytest.skip("PyTorch can tell of a GPU alone")
    cache = model.initial_cache(len(codes))
    model.loss(codes, cache)[0].mean().backward()  # constants are made, libraries set up
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(codes, cache)[0].mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Generation


@every_backbone
@torch.no_grad()
def test_a_gpu_draws_codes_by_its_own_fastest_way(cuda, name):
    model = a_model(name).to(cuda)
    drawn = best_engine(model).generate(40, batch_size=3, seed=0)
    assert drawn.device.type == cuda.type
    assert drawn.shape == (3, 40)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < 256
    assert torch.isfinite(model.log_likelihood(drawn)).all()


@torch.no_grad()
def test_a_diffusion_model_makes_sound_on_a_gpu(cuda):
    model = a_unet().to(cuda)
    sound = model.generate(64, label=torch.tensor([0, 1, 2]), seed=0)
    assert sound.device.type == cuda.type
    assert torch.isfinite(sound).all()


# Conditioning that was left on the CPU


@torch.no_grad()
@pytest.mark.parametrize("name", ["sashimi", "samplernn"])
def test_a_prompt_may_lie_anywhere(cuda, name, codes):
    model = best_engine(a_model(name).to(cuda))
    drawn = model.generate(20, prompt=codes, seed=0)
    assert torch.equal(drawn, model.generate(20, prompt=codes.to(cuda), seed=0))


@torch.no_grad()
def test_labels_and_sounds_may_lie_anywhere(cuda):
    sound, known, label = torch.rand(2, 64) - 0.5, torch.arange(64) % 16 > 4, torch.tensor([0, 2])
    model, steps = a_unet().to(cuda), torch.tensor([3.0, 9.0])
    for made in (
        lambda on: model.generate(64, label=label.to(on), steps=3, seed=0),
        lambda on: model.inpaint(sound.to(on), known.to(on), label.to(on), steps=3, seed=0),
        lambda on: model.loss_by_level(sound.to(on), steps, label.to(on)).noise,
    ):
        assert torch.equal(made(torch.device("cpu")).to(cuda), made(cuda).to(cuda))


@torch.no_grad()
def test_spectrograms_may_lie_anywhere(cuda):
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
