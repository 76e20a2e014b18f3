"""A training step reads from the GPU, and so waits for it, once: for loss and gradient norms together."""

import os
import traceback

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.data.sequences import collate
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.models import DiffWaveConfig, SaShiMiUNetConfig, WaveRNN, WaveRNNConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.training import optimizer
from sashimi_lib.training.config import TrainingConfig
from sashimi_lib.training.distributed import SINGLE_PROCESS
from sashimi_lib.training.execution import DEFAULT_EXECUTION
from sashimi_lib.training.finite_checks import check_gradients, clip_gradients
from sashimi_lib.training.gradient_step import GradientStep
from sashimi_lib.training.optimizer import new_optimizer
from sashimi_lib.training.trainer import train
from tests.training.backbones import BACKBONES

# Operations that give the CPU a value, or a shape that depends on values.
READS = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "_unique2", "unique_dim"}
CONFIG = TrainingConfig(steps=4, batch_size=2, clip_norm=1.0, clip_value=1.0)
MODELS = {name: lambda make=make: AudioLM(MuLaw(), make()) for name, make in BACKBONES.items()}
MODELS["wavernn"] = lambda: WaveRNN(WaveRNNConfig(8))
DENOISERS = {
    "diffwave": lambda: DiffWaveConfig(n_layers=2, d_residual=4, d_skip=4, n_classes=3),
    "unet": lambda: SaShiMiUNetConfig(d_model=4, n_layers=1, pool=(2,), n_classes=3),
}


# Lines that read values of tensors on the CPU: a position in a frame, the number of samples.
PACKAGE = f"{os.sep}sashimi_lib{os.sep}"
CPU_READS = (
    "int(phase)",
    "int(self.distributed.all_reduce_sum(batch.mask.sum()))",
    "label.is_cpu and",
    "step <= last",
)


class Reads(TorchDispatchMode):
    """Records the lines of the library with such operations or boolean indices, except `CPU_READS`."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masked = name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in READS or masked:
            frames = [frame for frame in traceback.extract_stack() if PACKAGE in frame.filename]
            line = frames[-1].line if frames else name
            self.seen += [] if any(read in line for read in CPU_READS) else [line]
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Use the fused AdamW, which runs on a CPU too."""
    monkeypatch.setattr(optimizer, "fused", lambda device: True)


@pytest.mark.parametrize("tbptt", [False, True])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.usefixtures("shapes_unchecked", "as_on_a_gpu")
def test_a_step_reads_once(make, tbptt, monkeypatch):
    model = make()
    pad_value = torch.tensor(model.pad_value)
    batch = collate([pad_value.expand(length, *pad_value.shape) for length in (40, 33)], model.pad_value)
    assert_reads_once(model, batch, model.initial_cache(2) if tbptt else None, monkeypatch)


@pytest.mark.parametrize("make", DENOISERS.values(), ids=DENOISERS)
@pytest.mark.usefixtures("shapes_unchecked", "as_on_a_gpu")
def test_a_step_of_a_diffusion_model_reads_once(make, monkeypatch):
    model = DiffusionModel(DiffusionConfig(make()))
    batch = collate([(torch.zeros(40), 0), (torch.zeros(33), 2)], model.pad_value)
    assert_reads_once(model, batch, None, monkeypatch)


def assert_reads_once(model, batch, cache, monkeypatch):
    """Assert that a step reads once. Integer tensors, such as seeds, are on the CPU on any device."""
    lists, tolist = [], Tensor.tolist
    monkeypatch.setattr(
        Tensor, "tolist", lambda x: (lists.append(x) if x.is_floating_point() else None, tolist(x))[1]
    )
    adamw, step = (
        new_optimizer(model, CONFIG),
        GradientStep(model, CONFIG, DEFAULT_EXECUTION, SINGLE_PROCESS),
    )
    with Reads() as reads:
        adamw.zero_grad()
        loss, _ = step(batch, cache)
        assert not lists
        check_gradients(model, loss)
        clip_gradients(model, CONFIG)
        adamw.step()
    assert not reads.seen
    assert [len(read) for read in lists] == [1 + sum(p.grad is not None for p in model.parameters())]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_fused_adamw_trains_the_same():
    data = torch.randint(256, (4, 30))
    model = MODELS["sashimi"]()
    start = {name: x.clone() for name, x in model.state_dict().items()}
    quick = train(model, data, CONFIG, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "fused", lambda device: False)
        model.load_state_dict(start)
        assert train(model, data, CONFIG, progress=False).loss == pytest.approx(quick.loss, rel=1e-5)
