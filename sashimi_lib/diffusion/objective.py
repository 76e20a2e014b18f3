"""The training objective of a diffusion model: regression targets, and the sampling of steps and noise
(chapter 9)."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sashimi_lib.diffusion.schedules import alpha_sigma, broadcast_over_time

Predict = Literal["noise", "velocity"]


class TrainingNoise(NamedTuple):
    """The random numbers of a training step, a row for each sequence of a batch: the diffusion step, a
    uniform number that decides whether its label is dropped, and the seed of its Gaussian noise.

    The rows are independent of each other, so a batch can be split in any way: see `noise_from_seed`.

    Chapter: 9.
    """

    step: Float[Tensor, " batch"]
    dropout: Float[Tensor, " batch"]
    seed: Int[Tensor, " batch"]


def sample_training_noise(steps: int, batch: int) -> TrainingNoise:
    """Sample the random numbers of a training step from a schedule of ``steps`` steps; see `random_steps`.

    Uses PyTorch's global CPU generator. Chapter: 9.
    """
    return TrainingNoise(random_steps(steps, batch), torch.rand(batch), torch.randint(2**63 - 1, (batch,)))


def noise_from_seed(
    seed: Int[Tensor, " batch"], like: Float[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """Return Gaussian noise in the shape of ``like``; each row depends on its own seed only.

    >>> noise = noise_from_seed(torch.tensor([3, 4]), torch.zeros(2, 100))
    >>> torch.equal(noise[1:], noise_from_seed(torch.tensor([4]), torch.zeros(1, 100)))
    True

    Sampled on the CPU, so that it is the same on every device. Chapter: 9.
    """
    generator = torch.Generator()
    rows = [
        torch.randn(like.shape[1], generator=generator.manual_seed(row_seed), dtype=like.dtype)
        for row_seed in seed.tolist()
    ]
    return torch.stack(rows).to(like.device, non_blocking=True)


def random_steps(steps: int, batch: int) -> Float[Tensor, " batch"]:
    """Sample a whole step for each sequence of a batch, stratified over the schedule and in random order.

    ``floor(steps ((u + i / batch) mod 1))``: each step is uniform by itself, and the loss of a batch has a
    lower variance than with independent steps.

    >>> steps = random_steps(200, 4).sort().values
    >>> steps.diff()
    tensor([50., 50., 50.], dtype=torch.float64)

    Uses PyTorch's global CPU generator. Chapter: 9.
    """
    even = (torch.rand((), dtype=torch.float64) + torch.arange(batch, dtype=torch.float64) / batch) % 1
    return (steps * even).floor()[torch.randperm(batch)]


def target(
    clean: Float[Tensor, "batch length"],
    noise: Float[Tensor, "batch length"],
    log_snr: Float[Tensor, "*levels"],
    predict: Predict,
) -> Float[Tensor, "batch length"]:
    """Return the regression target of the network: the noise, or the velocity ``alpha noise - sigma clean``.

    Chapter: 9. Velocity: Salimans and Ho (2022), section 4.
    """
    if predict == "noise":
        return noise
    alpha, sigma = (broadcast_over_time(c, clean) for c in alpha_sigma(log_snr))
    return alpha * noise - sigma * clean


def convert_model_output(
    x: Float[Tensor, "batch length"],
    output: Float[Tensor, "batch length"],
    log_snr: Float[Tensor, "*levels"],
    predict: Predict,
) -> tuple[Float[Tensor, "batch length"], Float[Tensor, "batch length"]]:
    """Convert a network's output to estimates of the clean signal and of the noise: the inverse of `target`.

    ``x = alpha clean + sigma noise`` holds for them.

    >>> from sashimi_lib.diffusion.schedules import add_noise
    >>> clean, noise, log_snr = torch.tensor([[0.5]]), torch.tensor([[-1.0]]), torch.tensor([1.0])
    >>> x = add_noise(clean, noise, log_snr)
    >>> convert_model_output(x, target(clean, noise, log_snr, "velocity"), log_snr, "velocity")
    (tensor([[0.5000]]), tensor([[-1.0000]]))

    Chapter: 9.
    """
    alpha, sigma = (broadcast_over_time(c, x) for c in alpha_sigma(log_snr))
    if predict == "noise":
        return (x - sigma * output) / alpha, output
    return alpha * x - sigma * output, sigma * x + alpha * output
