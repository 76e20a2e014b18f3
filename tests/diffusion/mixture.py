"""A distribution whose best denoiser is known in closed form: a mixture of Gaussians."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sashimi_lib.diffusion.samplers import Denoise
from sashimi_lib.diffusion.schedules import Schedule, alpha_sigma


@dataclass
class Mixture:
    """``sum_k weights_k N(means_k, covariances_k)`` in d dimensions, in float64."""

    weights: Tensor  # (k,)
    means: Tensor  # (k, d)
    covariances: Tensor  # (k, d, d)

    @property
    def mean(self) -> Tensor:
        """(d,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """(d, d)."""
        apart = self.means - self.mean
        return torch.einsum("k,kij->ij", self.weights, self.covariances) + (self.weights * apart.T) @ apart

    def draw(self, n: int) -> Tensor:
        """n points (n, d)."""
        which = torch.multinomial(self.weights, n, replacement=True)
        noise = torch.randn(n, self.means.shape[1], dtype=torch.float64)
        roots = torch.linalg.cholesky(self.covariances)
        return self.means[which] + torch.einsum("nij,nj->ni", roots[which], noise)

    def shares(self, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """How likely each component made noisy points (n, k), and what each says they were (n, k, d)."""
        alpha, sigma = alpha_sigma(torch.tensor(level, dtype=torch.float64))
        noisy = alpha**2 * self.covariances + sigma**2 * torch.eye(x.shape[1], dtype=torch.float64)
        apart = x[:, None] - alpha * self.means
        solved = torch.einsum("kij,nkj->nki", noisy.inverse(), apart)
        likelihood = -0.5 * (apart * solved).sum(-1) - 0.5 * noisy.logdet()
        clean = self.means + alpha * torch.einsum("kij,nkj->nki", self.covariances, solved)
        return (self.weights.log() + likelihood).softmax(-1), clean

    def denoiser(self, schedule: Schedule) -> Denoise:
        """``E[x_0 | x]`` and ``E[noise | x]``: the answer of each component, by its share."""

        def denoise(x: Tensor, step: float) -> tuple[Tensor, Tensor]:
            level = schedule.log_snr(torch.tensor(step))
            share, answers = self.shares(x, float(level))
            alpha, sigma = alpha_sigma(level)
            clean = torch.einsum("nk,nki->ni", share, answers)
            return clean, (x - alpha * clean) / sigma

        return denoise


def three_lumps() -> Mixture:
    """Three lumps in the plane, of their own weights and shapes, well apart."""
    return Mixture(
        torch.tensor([0.2, 0.3, 0.5]).double(),
        torch.tensor([[-0.6, 0.4], [0.5, 0.6], [0.2, -0.5]]).double(),
        torch.tensor(
            [[[0.02, 0.01], [0.01, 0.02]], [[0.04, 0], [0, 0.005]], [[0.01, -0.005], [-0.005, 0.03]]]
        ).double(),
    )
