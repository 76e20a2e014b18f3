"""What the CPU can do decides the default precision of training."""

import pytest
import torch

from sashimi_lib.cli.train_arguments import MY_WAVS, available_recipes
from sashimi_lib.ssm.precision import cpu_has_bfloat16


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx2": True, "avx512_bf16": False}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"neon": True}, "float32"),
    ],
)
def test_bfloat16_is_the_default_where_the_cpu_has_instructions_for_it(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert available_recipes(gpu=False)[MY_WAVS].training.precision == precision


def test_a_pytorch_that_cannot_tell_has_none(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not cpu_has_bfloat16()
