"""SaShiMi and isotropic S4: the published sizes, equal results in all modes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import IsotropicConfig, IsotropicS4, SaShiMi, SaShiMiConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm.s4 import SSMConfig
from tests.streaming.helpers import by_steps, error, in_chunks

LENGTH = 4096
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
pytestmark = pytest.mark.usefixtures("shapes_unchecked")  # other tests check them
SHAPES = [(n_layers, unet) for n_layers in (1, 2, 3) for unet in (False, True)]


def small(n_layers=1, unet=False, **settings):
    return SaShiMi(SaShiMiConfig(d_model=4, n_layers=n_layers, unet=unet, **settings))


# PAPERS: counts of the published code, embedding 256 x d_model and head included


@pytest.mark.parametrize(
    ("n_layers", "total", "trained"),
    [
        (2, 1_287_192, 1_285_528),
        (4, 2_211_248, 2_207_920),
        (6, 3_135_304, 3_130_312),
        (8, 4_059_360, 4_052_704),
    ],
)
def test_the_paper_s_models_have_the_paper_s_parameters(n_layers, total, trained):
    assert_counts(SaShiMi(SaShiMiConfig(n_layers=n_layers)), total, trained)


def test_the_glu_form_has_its_published_parameters():
    assert_counts(SaShiMi(SaShiMiConfig(glu=True)), 4_751_072, 4_744_416)


@pytest.mark.parametrize(("tied", "total"), [(False, 6_820_512), (True, 5_845_152)])
def test_the_u_net_has_its_published_parameters(tied, total):
    assert_counts(SaShiMi(SaShiMiConfig(glu=True, unet=True, ssm=SSMConfig(tied=tied))), total, total)


@pytest.mark.parametrize(("n_layers", "total"), [(4, 2_828_816), (8, 5_525_792)])
def test_isotropic_s4_has_its_published_parameters(n_layers, total):
    assert_counts(IsotropicS4(IsotropicConfig(n_layers=n_layers, ssm=SSMConfig())), total, total)


def assert_counts(backbone, total, trained):
    model = AudioLM(MuLaw(), backbone)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_layers", "unet"), SHAPES)
@torch.no_grad()
def test_steps_and_chunks_equal_the_whole_sequence(n_layers, unet, dtype, request):
    model = small(n_layers, unet).to(dtype)
    x = torch.randn(1, LENGTH, 4, dtype=dtype)
    whole, _ = model(x)
    assert error(by_steps(model, x)[0], whole) < TOLERANCE[dtype]
    assert error(in_chunks(model, x, 64)[0], whole) < TOLERANCE[dtype]
    # Short chunks are slow: --full runs the whole length, in many minutes.
    length = LENGTH if request.config.getoption("--full") else 256
    for size in (1, 7):
        assert error(in_chunks(model, x[:, :length], size)[0], whole[:, :length]) < TOLERANCE[dtype]


@pytest.mark.slow
@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6))
@settings(max_examples=20)
@torch.no_grad()
def test_chunks_of_any_length_equal_the_whole_sequence(cuts):
    model = small(2, unet=True).double()
    x = torch.randn(1, -(-sum(cuts) // 16) * 16, 4, dtype=torch.float64)
    whole, _ = model(x)
    state, y = model.initial_state(1), []
    for chunk in x[:, : sum(cuts)].split(cuts, dim=1):
        y_chunk, state = model(chunk, state)
        y.append(y_chunk)
    assert error(torch.cat(y, dim=1), whole[:, : sum(cuts)]) < 1e-10


def test_the_bidirectional_u_net_has_no_state():
    with pytest.raises(ValueError, match="bidirectional S4"):
        small(unet=True, bidirectional=True).initial_state(1)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"n_layers": 0}, "n_layers"),
        ({"pool": ()}, "pool"),
        ({"pool": (4, 1)}, "pool"),
        ({"bidirectional": True}, "bidirectional"),
        ({"norm": "batch"}, "norm"),
    ],
)
def test_impossible_shapes_are_refused_by_name(settings, name):
    with pytest.raises(ValueError, match=name):
        SaShiMi(SaShiMiConfig(**{"d_model": 4, "n_layers": 1} | settings))


@pytest.mark.parametrize("length", [1, 15, 17])
def test_a_length_that_is_not_a_multiple_of_the_pool_is_refused(length):
    with pytest.raises(ValueError, match=f"multiple of 4, got {length}"):
        small()(torch.randn(1, length, 4))


def test_silence_does_not_divide_by_zero():
    y, _ = small()(torch.zeros(1, 32, 4, requires_grad=True))
    y.sum().backward()
    assert y.isfinite().all()
