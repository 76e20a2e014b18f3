"""Functions return tensors on the device of their arguments without synchronizing; tested on "meta"."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import SampleRNN, SampleRNNConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm import discretize, hippo, kernels, stability
from sashimi_lib.ssm.s4 import S4, Form, SSMConfig
from sashimi_lib.training.init import init_ordered_embeddings

META = torch.device("meta")
SYSTEM = S4(3, SSMConfig(d_state=8)).requires_grad_(False).ssm.system()
A, B, _ = SYSTEM.dense()
RECURRENCE = discretize.bilinear_dplr(SYSTEM)
U, STATE = torch.randn(2, 3, 9, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
CALLS = {
    "bilinear": (lambda A, B: discretize.bilinear(A, B, 0.1), A, B),
    "zoh": (lambda A, B: discretize.zoh(A, B, 0.1), A, B),
    "bilinear_dplr": (discretize.bilinear_dplr, SYSTEM),
    "truncate": (lambda system: kernels.truncate(system, 9), SYSTEM),
    "untruncate": (lambda system: kernels.untruncate(system, 9), SYSTEM),
    "kernel": (lambda recurrence: kernels.kernel(recurrence, 9), RECURRENCE),
    "zero_input_response": (
        lambda recurrence, x: kernels.zero_input_response(recurrence, x, 9),
        RECURRENCE,
        STATE,
    ),
    "final_state": (kernels.final_state, RECURRENCE, U, STATE),
    "numerical_range": (lambda A: stability.numerical_range(A[0]), A),
    "numerical_abscissa": (stability.numerical_abscissa, A),
    "spectral_radius": (stability.spectral_radius, A),
    "growth": (lambda A: stability.growth(A, 3), A),
    "project, legs": (lambda u: hippo.project(u[0, 0], "legs", 4), U),
    "project, legt": (lambda u: hippo.project(u[0, 0], "legt", 4, window=5), U),
}


@pytest.mark.parametrize(("function", "given"), [(f, given) for f, *given in CALLS.values()], ids=CALLS)
def test_results_are_on_the_device_of_the_arguments(function, given):
    on_cpu = tree_leaves(function(*given))
    on_meta = tree_leaves(function(*tree_map(lambda x: x.to(META), given)))
    assert [(x.shape, x.dtype) for x in on_meta] == [(x.shape, x.dtype) for x in on_cpu]
    assert all(x.device == META for x in on_meta)


def test_a_head_under_weight_norm_is_initialized_on_its_device():
    model = AudioLM(MuLaw(), SampleRNN(SampleRNNConfig((4, 2), 1, 16, 8)))
    init_ordered_embeddings(model.to(META))
    assert {x.device for x in model.parameters()} == {META}


class Synchronizations(TorchDispatchMode):
    """Records operators that synchronize with a GPU to read a number."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.__name__.partition(".")[0] in ("_local_scalar_dense", "_linalg_check_errors", "is_nonzero"):
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", list(Form))
def test_no_pass_of_a_layer_synchronizes(form):
    layer = S4(3, SSMConfig(d_state=8, form=form, init="lin" if form is Form.DIAGONAL else "legs"))
    u, state = torch.randn(2, 9, 3), layer.initial_state(2)
    with Synchronizations() as recorded:
        y, state = layer(u, state)
        layer.step(u[:, 0], state)
        y.square().sum().backward()
    assert recorded.names == []
    with recorded:  # these do synchronize
        torch.linalg.inv(torch.eye(2)).sum().item()
    assert recorded.names == ["_linalg_check_errors.default", "_local_scalar_dense.default"]
