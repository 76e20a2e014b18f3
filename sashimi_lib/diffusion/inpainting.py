"""Inpainting with an unconditional sampler: known samples replace x at every step (chapter 9)."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sashimi_lib.diffusion.samplers import Constrain
from sashimi_lib.diffusion.schedules import Schedule, add_noise


def check_known_mask(known_mask: Shaped[Tensor, "..."], length: int) -> None:
    """Raise ValueError unless ``known_mask`` is a boolean mask of ``length`` samples, not all True.

    >>> check_known_mask(torch.tensor([True, False, True]), 3)

    Chapter: 9.
    """
    if known_mask.shape != (length,) or known_mask.dtype != torch.bool or bool(known_mask.all()):
        raise ValueError(
            f"known_mask must be a boolean mask of {length} samples, not all of them True, got shape "
            f"{tuple(known_mask.shape)}, dtype {known_mask.dtype}, {int(known_mask.sum())} True"
        )


def replace_known(
    clean: Float[Tensor, "batch length"],
    known_mask: Bool[Tensor, " length"],
    schedule: Schedule,
    generator: torch.Generator,
) -> Constrain:
    """Return a constraint that sets the known samples of x to ``clean``, with the noise of the step added.

    ``x <- mask (alpha clean + sigma noise) + (1 - mask) x``, for `sashimi_lib.diffusion.samplers.sample`.

    Chapter: 9. RePaint (Lugmayr et al., 2022), equation 8.
    """

    def constrain(x: Tensor, step: float) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        log_snr = schedule.log_snr(torch.tensor(step))
        return torch.where(known_mask, add_noise(clean.to(x), noise, log_snr), x)

    return constrain
