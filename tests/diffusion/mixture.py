"""A distribution whose optimal denoiser has a closed form: a mixture of Gaussians."""

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
        centered = self.means - self.mean
        within = torch.einsum("k,kij->ij", self.weights, self.covariances)
        return within + (self.weights * centered.T) @ centered

    def sample(self, n: int) -> Tensor:
        """Sample n points (n, d)."""
        component = torch.multinomial(self.weights, n, replacement=True)
        noise = torch.randn(n, self.means.shape[1], dtype=torch.float64)
        roots = torch.linalg.cholesky(self.covariances)
        return self.means[component] + torch.einsum("nij,nj->ni", roots[component], noise)

    def posterior(self, x: Tensor, log_snr: float) -> tuple[Tensor, Tensor]:
        """Return the responsibilities of the components (n, k) for noisy points, and the posterior mean of
        the clean points under each component (n, k, d)."""
        alpha, sigma = alpha_sigma(torch.tensor(log_snr, dtype=torch.float64))
        noisy = alpha**2 * self.covariances + sigma**2 * torch.eye(x.shape[1], dtype=torch.float64)
        centered = x[:, None] - alpha * self.means
        solved = torch.einsum("kij,nkj->nki", noisy.inverse(), centered)
        log_likelihood = -0.5 * (centered * solved).sum(-1) - 0.5 * noisy.logdet()
        clean = self.means + alpha * torch.einsum("kij,nkj->nki", self.covariances, solved)
        return (self.weights.log() + log_likelihood).softmax(-1), clean

    def denoiser(self, schedule: Schedule) -> Denoise:
        """Return the optimal denoiser, ``E[x_0 | x]`` and ``E[noise | x]``."""

        def denoise(x: Tensor, step: float) -> tuple[Tensor, Tensor]:
            log_snr = schedule.log_snr(torch.tensor(step))
            responsibilities, means = self.posterior(x, float(log_snr))
            alpha, sigma = alpha_sigma(log_snr)
            clean = torch.einsum("nk,nki->ni", responsibilities, means)
            return clean, (x - alpha * clean) / sigma

        return denoise


def three_gaussians() -> Mixture:
    """Return three well separated Gaussians in the plane, with different weights and covariances."""
    return Mixture(
        torch.tensor([0.2, 0.3, 0.5]).double(),
        torch.tensor([[-0.6, 0.4], [0.5, 0.6], [0.2, -0.5]]).double(),
        torch.tensor(
            [[[0.02, 0.01], [0.01, 0.02]], [[0.04, 0], [0, 0.005]], [[0.01, -0.005], [-0.005, 0.03]]]
        ).double(),
    )
