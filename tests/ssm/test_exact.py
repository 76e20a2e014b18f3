"""Products that need full float32 never use TensorFloat-32, forwards or backwards, whatever is allowed."""

import contextlib

import pytest
import torch

from sashimi_lib.audio.quantizers import MuLaw
from sashimi_lib.models import WaveNet, WaveNetConfig
from sashimi_lib.models.audio_lm import AudioLM
from sashimi_lib.ssm import precision as module
from sashimi_lib.ssm.precision import exact_matmul, tf32_allowed
from sashimi_lib.ssm.s4 import Form, SSMConfig, StateSpace
from sashimi_lib.training.validation import validation_loss


def test_exact_matmul_has_the_gradients_of_a_product():
    a, b = torch.randn(2, 3, 4, dtype=torch.double), torch.randn(2, 4, 5, dtype=torch.double)
    a.requires_grad_(), b.requires_grad_()
    with tf32_allowed(True):
        assert torch.equal(exact_matmul(a, b), a @ b)
        assert torch.autograd.gradcheck(exact_matmul, (a, b))
        assert torch.autograd.gradcheck(lambda b: exact_matmul(a.detach(), b), (b,))


def current_settings():
    """All settings of float32 precision, by both of PyTorch's interfaces; those of the first cannot be read
    where the second was written last."""
    readers = {
        "matmul": torch.get_float32_matmul_precision,
        "cudnn": lambda: torch.backends.cudnn.allow_tf32,
    }
    readers |= {index: lambda b=b: b.fp32_precision for index, b in enumerate(module._backends())}
    settings = {}
    for name, read in readers.items():
        with contextlib.suppress(RuntimeError):
            settings[name] = read()
    return settings


@pytest.fixture
def settings_restored():
    restorers = list(module._restorers())
    yield
    for restore in restorers:
        restore()


def by_first_interface(value):
    torch.set_float32_matmul_precision("high" if value else "highest")
    torch.backends.cudnn.allow_tf32 = value


def by_second_interface(value):
    if not module._backends():
        pytest.skip("needs a PyTorch that has the second interface")
    for backend in module._backends():
        backend.fp32_precision = "tf32" if value else "ieee"


@pytest.mark.usefixtures("settings_restored")
@pytest.mark.parametrize("write", [by_first_interface, by_second_interface])
@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
def test_the_setting_holds_inside_the_context_only(write, outside, allowed):
    write(outside)
    before, name = current_settings(), "tf32" if allowed else "ieee"
    inside = {"matmul": "high" if allowed else "highest", "cudnn": allowed}
    with tf32_allowed(allowed):
        assert current_settings() == inside | dict.fromkeys(range(len(module._backends())), name)
        assert module._tf32_in_matmul() == allowed
    assert current_settings().items() >= before.items()
    with pytest.raises(KeyboardInterrupt), tf32_allowed(allowed):
        raise KeyboardInterrupt
    assert current_settings().items() >= before.items()
    assert module._tf32_in_matmul() == outside


@pytest.mark.usefixtures("settings_restored")
def test_a_setting_for_all_backends_has_no_effect_inside():
    if not module._backends():
        pytest.skip("needs a PyTorch that has a setting for all backends")
    before = torch.backends.fp32_precision
    torch.backends.fp32_precision = "tf32"
    try:
        with tf32_allowed(False):
            assert {backend.fp32_precision for backend in module._backends()} == {"ieee"}
    finally:
        torch.backends.fp32_precision = before


@pytest.mark.usefixtures("settings_restored")
def test_versions_with_the_first_interface_only_are_supported(monkeypatch):
    monkeypatch.setattr(module, "_backends", list)
    for allowed in (True, False):
        with tf32_allowed(allowed):
            assert current_settings() == {"matmul": "high" if allowed else "highest", "cudnn": allowed}
            assert module._tf32_in_matmul() == allowed


@pytest.mark.usefixtures("settings_restored")
def test_a_state_space_runs_whichever_interface_the_caller_used():
    ssm, u = StateSpace(2, SSMConfig(d_state=4)), torch.randn(1, 9, 2)
    plain, _ = ssm(u)
    for write in (by_first_interface, by_second_interface):
        write(True)
        assert torch.equal(ssm(u)[0], plain)


@pytest.mark.usefixtures("settings_restored")
def test_validation_runs_in_full_precision():
    model = AudioLM(MuLaw(), WaveNet(WaveNetConfig(1, 2, 4, 4, 4, 4, 4)))
    seen = []
    model.head.register_forward_hook(lambda *_: seen.append(current_settings()))
    by_first_interface(True)
    validation_loss(model, torch.randint(256, (2, 20)))
    assert all(one["matmul"] == "highest" and one["cudnn"] is False for one in seen)
    assert seen
    assert current_settings()["cudnn"] is True


class RecordedPrecision(torch.overrides.TorchFunctionMode):
    """Records the setting at each product of float32 matrices."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, function, types, arguments=(), settings=None):
        product = function in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul, torch.bmm)
        if product and arguments[0].dtype == torch.float32:
            self.seen.add(torch.get_float32_matmul_precision())
        return function(*arguments, **(settings or {}))


@pytest.mark.parametrize("form", [Form.HURWITZ, Form.DIAGONAL])
def test_no_product_of_a_state_space_is_rounded_forwards_or_backwards(form):
    ssm = StateSpace(3, SSMConfig(d_state=8, form=form, init="lin" if form is Form.DIAGONAL else "legs"))
    u, state = torch.randn(2, 50, 3), ssm.initial_state(2)
    plain, _ = ssm(u, state)
    plain.square().sum().backward()
    expected = ssm.C.grad.clone()
    ssm.zero_grad()
    with tf32_allowed(True), RecordedPrecision() as recorded:
        y, _ = ssm(u, state)
        y.square().sum().backward()
    assert recorded.seen <= {"highest"}
    assert form is Form.DIAGONAL or recorded.seen
    assert torch.equal(y, plain)
    assert torch.equal(ssm.C.grad, expected)
