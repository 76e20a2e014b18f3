"""Products that must not be rounded are not, in either direction, whatever is allowed around them."""

import pytest
import torch

from sashimi_lib.ssm.exact import exact, rounding_factors
from sashimi_lib.ssm.s4 import Form, SSMConfig, StateSpace


def test_a_product_has_the_gradients_of_a_product():
    a, b = torch.randn(2, 3, 4, dtype=torch.double), torch.randn(2, 4, 5, dtype=torch.double)
    a.requires_grad_(), b.requires_grad_()
    with rounding_factors(True):
        assert torch.equal(exact(a, b), a @ b)
        assert torch.autograd.gradcheck(exact, (a, b))
        assert torch.autograd.gradcheck(lambda b: exact(a.detach(), b), (b,))


def test_what_is_allowed_is_so_inside_alone():
    before = torch.get_float32_matmul_precision()
    for allowed, name in ((True, "high"), (False, "highest")):
        with rounding_factors(allowed):
            assert torch.get_float32_matmul_precision() == name
        assert torch.get_float32_matmul_precision() == before
    with pytest.raises(KeyboardInterrupt), rounding_factors(True):
        raise KeyboardInterrupt
    assert torch.get_float32_matmul_precision() == before


class Watched(torch.overrides.TorchFunctionMode):
    """Notes what was allowed at each product of float32 matrices."""

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
    wanted = ssm.C.grad.clone()
    ssm.zero_grad()
    with rounding_factors(True), Watched() as watched:
        y, _ = ssm(u, state)
        y.square().sum().backward()
    assert watched.seen <= {"highest"}
    assert form is Form.DIAGONAL or watched.seen
    assert torch.equal(y, plain)
    assert torch.equal(ssm.C.grad, wanted)
