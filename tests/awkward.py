"""Hypothesis strategies for valid and invalid audio, and a context without the shape checks of the tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor


@contextmanager
def without_shape_checks() -> Iterator[None]:
    """Disable the shape checks of jaxtyping, so that the library raises its own errors, as for users."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@st.composite
def good_waveforms(draw: st.DrawFn, max_length: int = 400) -> Tensor:
    """Finite mono audio of at least one sample: noise, silence, full scale, impulses, denormals."""
    length = draw(st.integers(1, max_length))
    kind = draw(st.sampled_from(["noise", "silence", "high", "low", "square", "spike", "tiny"]))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).uniform(-1, 1, length)
    x = {
        "noise": noise,
        "silence": np.zeros(length),
        "high": np.ones(length),
        "low": -np.ones(length),
        "square": np.sign(noise),
        "spike": np.eye(1, length, draw(st.integers(0, length - 1)))[0],
        "tiny": noise * 1e-40,
    }[kind]
    return torch.from_numpy(x).float()


@st.composite
def bad_waveforms(draw: st.DrawFn) -> tuple[object, str]:
    """Invalid audio, with a part of the expected error message."""
    x = draw(good_waveforms())
    position = draw(st.integers(0, len(x) - 1))
    not_finite = draw(st.sampled_from([float("nan"), float("inf"), -float("inf")]))
    corrupted, loud = x.clone(), x.clone()
    corrupted[position] = not_finite
    loud[position] = draw(st.sampled_from([1.0001, -2.0, 32767.0]))
    return draw(
        st.sampled_from(
            [
                (corrupted, "NaN or infinite"),
                (loud, "lie in [-1, 1]"),
                (x[:0], "at least one sample"),
                (torch.tensor(0.5), "at least one sample"),
                ((x * 32767).to(torch.int16), "floating-point"),
                (x > 0, "floating-point"),
                (x.numpy(), "torch tensor"),
                (x.tolist(), "torch tensor"),
                (None, "torch tensor"),
            ]
        )
    )
