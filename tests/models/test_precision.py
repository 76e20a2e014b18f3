"""Mixed precision inside every model: with ``--precision bfloat16`` matrix products are in half precision,
and residual streams, norms, GRUs, states, softmaxes and losses are in float32."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sashimi_lib.audio.mel import LogMelConfig
from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.diffusion.model import DiffusionConfig, DiffusionModel
from sashimi_lib.models import DiffWaveConfig, SaShiMiUNetConfig, Subscale, SubscaleConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.models.blocks import ScalarNorm, SequenceModel
from sashimi_lib.models.pooling import DownPool
from sashimi_lib.models.sashimi_unet import UNetStage
from sashimi_lib.training.execution import is_block
from tests.cases import DISCRETE, SSM, sashimi

MEL = LogMelConfig(8_000, n_mels=3, hop=4, window=16)
CONDITIONING = {"d_step": (4, 5, 6), "n_classes": 2, "mel": MEL}
UNET = {"d_model": 4, "n_layers": 1, "pool": (2, 2), "ssm": SSM, **CONDITIONING}
DIFFUSION = {
    "DiffWave": DiffWaveConfig(d_residual=4, d_skip=4, n_layers=3, cycle=2, **CONDITIONING),
    "diffusion U-Net": SaShiMiUNetConfig(**UNET),
    "diffusion U-Net, concat": SaShiMiUNetConfig(direction="concat", glu=False, **UNET),
}
MODELS = DISCRETE | {name: lambda c=c: DiffusionModel(DiffusionConfig(c)) for name, c in DIFFUSION.items()}
MODELS["SaShiMi, U-Net"] = lambda: AudioLM(MuLaw(16), sashimi(unet=True))
MODELS["subscale"] = lambda: Subscale(
    SubscaleConfig(6, factor=2, lookahead=1, d_conditioning=3, layers=3, levels=8)
)
every_model = pytest.mark.parametrize("name", MODELS)

# Beside blocks: modules whose inputs are a residual stream, or sums that must stay in full precision.
FULL = (SequenceModel, ScalarNorm, nn.LayerNorm, nn.GRU, DownPool, UNetStage)
HALF = (torch.bfloat16, torch.float16)


class DtypeRecorder(TorchDispatchMode):
    """Records the dtypes of operations that need full precision."""

    names = ("softmax", "logsumexp", "nll", "layer_norm", "std", "vector_norm", "mean")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in self.names):
            self.seen += [(str(func), dtype) for dtype in dtypes(args)]
        return func(*args, **(kwargs or {}))


class GRURecorder(torch.overrides.TorchFunctionMode):
    """Records the dtypes of a GRU's inputs, and whether autocast is on there: the casts themselves happen on
    a GPU only."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") == "gru":
            self.seen.append((*dtypes(args), torch.is_autocast_enabled("cpu")))
        return function(*args, **(kwargs or {}))


def dtypes(tree):
    return [x.dtype for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and x.is_floating_point()]


def a_batch(model):
    """Sequences for the model, and labels where it takes them."""
    waves = 0.5 * torch.sin(torch.arange(48) * torch.tensor([[0.2], [0.3]]))
    if isinstance(model, DiffusionModel):
        return waves, torch.tensor([0, 1])
    return model.quantizer.encode(waves), None


def loss_under_autocast(model, cache=None):
    """The loss as a training step computes it, and the cache after it."""
    x, label = a_batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        return model.loss(x, cache, label)


@every_model
def test_streams_and_norms_are_in_full_precision_and_products_in_half(name):
    model, seen, products = MODELS[name](), {}, set()

    def record(path, inputs, keywords=None):
        seen[path] = seen.get(path, []) + dtypes(inputs)

    for path, module in model.named_modules():
        if isinstance(module, FULL) or is_block(module):
            module.register_forward_pre_hook(lambda _, inputs, path=path: record(path, inputs[:1]))
        elif isinstance(module, (nn.Linear, nn.Conv1d)):
            module.register_forward_hook(lambda _, inputs, y: products.add(y.dtype))
    if name == "DiffWave":  # the sum of all layers' skip outputs
        model.backbone.end.register_forward_pre_hook(lambda _, inputs: record("sum of skips", inputs))
    with DtypeRecorder() as recorder:
        loss, _ = loss_under_autocast(model)
    assert loss.dtype == torch.float32
    assert torch.bfloat16 in products
    assert {path: kinds for path, kinds in seen.items() if set(kinds) & set(HALF)} == {}
    assert [one for one in recorder.seen if one[1] in HALF] == []
    loss.mean().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize(
    "name", [name for name in DISCRETE if any(x in name for x in ("RNN", "vocoder", "subscale"))]
)
def test_autocast_is_off_around_a_gru(name):
    with GRURecorder() as recorder:
        loss_under_autocast(MODELS[name]())
    assert recorder.seen
    for *kinds, autocast in recorder.seen:
        assert set(kinds) == {torch.float32}
        assert not autocast


@pytest.mark.parametrize("name", DISCRETE)
def test_a_state_stays_in_full_precision(name):
    model = MODELS[name]()
    cache = model.initial_cache_for(a_batch(model)[0])
    _, after = loss_under_autocast(model, cache)
    assert dtypes(after) == dtypes(cache)
    assert set(dtypes(after)) <= {torch.float32}
