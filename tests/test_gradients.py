"""Every custom gradient equals that of finite differences."""

import importlib
import pkgutil

import pytest
import torch
from torch.autograd import Function, gradcheck

import sashimi_lib
from sashimi_lib.models.blocks import _ScalarNorm
from sashimi_lib.ssm.convolution import _FFTConv
from sashimi_lib.ssm.kernels import _StridedPowers
from sashimi_lib.ssm.precision import _ExactMatmul, tf32_allowed


def numbers(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


CASES = {
    "a batch by kernels": (_FFTConv, (numbers(2, 3, 7), numbers(3, 7), numbers(3))),
    "one sequence": (_FFTConv, (numbers(1, 3, 7), numbers(3, 7), numbers(3))),
    "no skip": (_FFTConv, (numbers(2, 3, 7), numbers(3, 7), None)),
    "a kernel for each of two directions": (_FFTConv, (numbers(2, 2, 3, 7), numbers(2, 3, 7), numbers(2, 3))),
    "a kernel of the full FFT size": (_FFTConv, (numbers(2, 3, 4), numbers(3, 7), numbers(3))),
    "the input needs no gradient": (_FFTConv, (numbers(2, 3, 7).detach(), numbers(3, 7), numbers(3))),
    "the kernel needs no gradient": (
        _FFTConv,
        (numbers(2, 3, 7), numbers(3, 7).detach(), numbers(3).detach()),
    ),
    "norm": (_ScalarNorm, (numbers(2, 5, 4), numbers(1), numbers(1))),
    "strides": (_StridedPowers, (numbers(2, 3, 4), numbers(2, 4, 4), 3)),
    "two strides": (_StridedPowers, (numbers(2, 3, 4), numbers(2, 4, 4), 2)),
    "product": (_ExactMatmul, (numbers(2, 3, 4), numbers(2, 4, 5))),
}


@pytest.mark.parametrize(("function", "inputs"), CASES.values(), ids=CASES)
def test_the_gradient_equals_finite_differences(function, inputs):
    with tf32_allowed(False):
        assert gradcheck(function.apply, inputs)


def test_all_custom_gradients_are_tested():
    for module in pkgutil.walk_packages(sashimi_lib.__path__, "sashimi_lib."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    functions = {kind for kind in Function.__subclasses__() if kind.__module__.startswith("sashimi_lib")}
    assert functions == {function for function, _ in CASES.values()}
