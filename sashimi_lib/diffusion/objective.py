"""What a diffusion model is trained to say, and at which steps (chapter 9)."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sashimi_lib.diffusion.schedules import alpha_sigma, beside

Predict = Literal["noise", "velocity"]


class Draws(NamedTuple):
    """The random numbers of a training step, a row for each sequence of a batch: the diffusion step, a
    uniform number that decides whether its label is dropped, and the seed of its noise.

    A row tells all about its sequence, so a batch may be split in any way: see `noise_of`.

    Chapter: 9.
    """

    step: Float[Tensor, " batch"]
    dropout: Float[Tensor, " batch"]
    seed: Int[Tensor, " batch"]


def random_draws(steps: int, batch: int) -> Draws:
    """New ones, of a schedule of so many steps, which a batch covers as `random_steps` says.

    From PyTorch's own random numbers of the CPU. Chapter: 9.
    """
    return Draws(random_steps(steps, batch), torch.rand(batch), torch.randint(2**63 - 1, (batch,)))


def noise_of(
    seed: Int[Tensor, " batch"], like: Float[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """Normal noise from a seed for each sequence, whatever stands beside it in the batch.

    >>> noise = noise_of(torch.tensor([3, 4]), torch.zeros(2, 100))
    >>> torch.equal(noise[1:], noise_of(torch.tensor([4]), torch.zeros(1, 100)))
    True

    Drawn on the CPU, so that it is the same on every device. Chapter: 9.
    """
    generator = torch.Generator()
    rows = [
        torch.randn(like.shape[1], generator=generator.manual_seed(number), dtype=like.dtype)
        for number in seed.tolist()
    ]
    return torch.stack(rows).to(like.device, non_blocking=True)


def random_steps(steps: int, batch: int) -> Float[Tensor, " batch"]:
    """A random whole step for each of a batch, all of them spread out evenly over the schedule, in any order.

    ``floor(steps ((u + i / batch) mod 1))``: each is uniform by itself, and the loss of a batch varies less
    than if they were drawn apart.

    >>> steps = random_steps(200, 4).sort().values
    >>> steps.diff()
    tensor([50., 50., 50.], dtype=torch.float64)

    From PyTorch's own random numbers of the CPU. Chapter: 9.
    """
    even = (torch.rand((), dtype=torch.float64) + torch.arange(batch, dtype=torch.float64) / batch) % 1
    return (steps * even).floor()[torch.randperm(batch)]


def target(
    clean: Float[Tensor, "batch length"],
    noise: Float[Tensor, "batch length"],
    log_snr: Float[Tensor, "*levels"],
    predict: Predict,
) -> Float[Tensor, "batch length"]:
    """What a network is to say: the noise, or the velocity ``alpha noise - sigma clean``.

    Chapter: 9. Velocity: Salimans and Ho (2022), section 4.
    """
    if predict == "noise":
        return noise
    alpha, sigma = (beside(c, clean) for c in alpha_sigma(log_snr))
    return alpha * noise - sigma * clean


def estimates(
    x: Float[Tensor, "batch length"],
    said: Float[Tensor, "batch length"],
    log_snr: Float[Tensor, "*levels"],
    predict: Predict,
) -> tuple[Float[Tensor, "batch length"], Float[Tensor, "batch length"]]:
    """The clean sound and the noise in ``x = alpha clean + sigma noise``, by what a network says: the inverse
    of `target`.

    >>> from sashimi_lib.diffusion.schedules import add_noise
    >>> clean, noise, level = torch.tensor([[0.5]]), torch.tensor([[-1.0]]), torch.tensor([1.0])
    >>> x = add_noise(clean, noise, level)
    >>> estimates(x, target(clean, noise, level, "velocity"), level, "velocity")
    (tensor([[0.5000]]), tensor([[-1.0000]]))

    Chapter: 9.
    """
    alpha, sigma = (beside(c, x) for c in alpha_sigma(log_snr))
    if predict == "noise":
        return (x - sigma * said) / alpha, said
    return alpha * x - sigma * said, sigma * x + alpha * said
