"""The norm of the published models: its formula, its gradient, and vectors of equal channels."""

import pytest
import torch

from sashimi_lib.models.blocks import ScalarNorm


def as_written(x, m, s):
    """``s (x - mean + m) / std``, operation by operation."""
    return s * (x - x.mean(-1, keepdim=True) + m) / x.std(-1, correction=0, keepdim=True)


def norm(shift, scale):
    module = ScalarNorm().double()
    with torch.no_grad():
        module.m.fill_(shift), module.s.fill_(scale)
    return module


@pytest.mark.parametrize("shape", [(5,), (3, 2), (2, 3, 8)])
def test_the_norm_and_its_gradients_are_the_formulas(shape):
    module = norm(shift=0.3, scale=-1.7)
    x, weight = 10 + torch.randn(2, *shape, dtype=torch.double)
    x.requires_grad_()
    values, gradients = [], []
    for y in (module(x), as_written(x, module.m, module.s)):
        values.append(y)
        gradients.append(torch.autograd.grad((weight * y).sum(), (x, module.m, module.s)))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_a_vector_of_equal_channels_gives_zero_and_no_gradient():
    module = norm(shift=0.3, scale=2.0)
    x = torch.ones(2, 4, dtype=torch.double)
    x[1] = torch.arange(4)
    x.requires_grad_()
    y = module(x)
    y.square().sum().backward()
    assert not y[0].any()
    assert not x.grad[0].any()
    assert x.grad[1].any()
    assert module.m.grad.isfinite().all()
