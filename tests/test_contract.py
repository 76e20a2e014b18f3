"""scratch"""
import pytest, torch
from sashimi_lib.ssm import s4
from sashimi_lib.ssm.convolution import causal_conv_naive, two_sided_conv_naive
from tests import contract
from tests.cases import BOTH_WAYS, CAUSAL
from tests.contract import TOLERANCE
from tests.streaming import by_steps, in_pieces

pytestmark = pytest.mark.usefixtures("shapes_unchecked")  # elsewhere they are
causal = pytest.mark.parametrize("case", CAUSAL.values(), ids=CAUSAL)
both_ways = pytest.mark.parametrize("case", BOTH_WAYS.values(), ids=BOTH_WAYS)
RUNS = {"whole": lambda layer, x: layer(x)[0], "steps": lambda layer, x: by_steps(layer, x)[0]}
run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)

@pytest.fixture
def sums_written_out(monkeypatch):
    monkeypatch.setattr(s4, "causal_conv", causal_conv_naive)
    monkeypatch.setattr(s4, "two_sided_conv", two_sided_conv_naive)

@pytest.mark.parametrize("dtype", TOLERANCE)
@causal
def test_ways(case, dtype):
    contract.assert_ways_agree(case, dtype)

@causal
def test_silence(case):
    contract.assert_no_state_is_silence(case)

@causal
def test_state(case):
    contract.assert_state_is_an_argument(case)

@run
@causal
def test_reach(case, run):
    contract.assert_reach(case, run)

@run
@causal
def test_reach_exact(case, run, sums_written_out):
    contract.assert_reach(case, run, noise=0)

@run
@causal
def test_nan(case, run, sums_written_out):
    contract.assert_padding_is_not_heard(case, run)

@run
@causal
def test_pad_grad(case, run):
    contract.assert_padding_has_no_gradient(case, run)

@run
@causal
def test_rows(case, run):
    contract.assert_rows_are_apart(case, run)

@both_ways
def test_both_reach(case):
    contract.assert_reach(case, lambda l, x: l(x))

@both_ways
def test_both_reach_exact(case, sums_written_out):
    contract.assert_reach(case, lambda l, x: l(x), 0)

@both_ways
def test_both_nan(case, sums_written_out):
    contract.assert_padding_is_not_heard(case, lambda l, x: l(x))

@both_ways
def test_both_rows(case):
    contract.assert_rows_are_apart(case, lambda l, x: l(x))
