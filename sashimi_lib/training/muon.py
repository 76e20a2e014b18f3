"""Muon: gradient descent with orthogonalized updates for the matrices between hidden channels (chapter 10).

Jordan et al., *Muon: An optimizer for hidden layers in neural networks* (2024).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: steep at 0, so that few iterations suffice
ITERATIONS = 5
MOMENTUM = 0.95


def orthogonalize(G: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch rows columns"]:
    """Return nearly the closest orthogonal matrix: the singular vectors of G, with all singular values in
    about [0.7, 1.2].

    Newton-Schulz iteration ``X <- a X + (b A + c A^2) X`` with ``A = X X*``, in the dtype of G. PyTorch's own
    ``torch.optim.Muon`` computes it in bfloat16, which many CPUs emulate.

    >>> U, S, Vh = torch.linalg.svd(orthogonalize(torch.diag(torch.tensor([3.0, 0.1]))))
    >>> bool((0.65 < S).all() and (S < 1.25).all())
    True

    Chapter: 10.
    """
    a, b, c = COEFFICIENTS
    X = G / (torch.linalg.matrix_norm(G)[..., None, None] + 1e-7)
    wide = X.shape[-2] <= X.shape[-1]
    X = X if wide else X.mT  # A is then the smaller of the two Gram matrices
    for _ in range(ITERATIONS):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X if wide else X.mT


class MuonAdamW(torch.optim.AdamW):
    """Muon for parameter groups with ``"muon": True``, AdamW for the others.

    ``W <- (1 - lr weight_decay) W - lr sqrt(max(1, rows / columns)) orthogonalize((1 - m) G + m M)``,
    with the momentum ``M <- m M + (1 - m) G``. Every update moves W by about the same amount in all
    directions, also those in which gradients are small.

    >>> linear = nn.Linear(4, 4)
    >>> groups = [{"params": [linear.weight], "lr": 0.02, "muon": True}, {"params": [linear.bias]}]
    >>> optimizer = MuonAdamW(groups)
    >>> linear(torch.ones(4)).sum().backward()
    >>> optimizer.step()

    Chapter: 10.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("muon")]
        try:
            result = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                self._muon_step(group)
        return result

    def _muon_step(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}  # those of a shape as one batch
        for p in group["params"]:
            if p.grad is not None:
                by_shape.setdefault(p.shape, []).append((p, self._nesterov(p, p.grad)))
        for (rows, columns), pairs in by_shape.items():
            directions = orthogonalize(torch.stack([direction for _, direction in pairs]))
            for (p, _), direction in zip(pairs, directions, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(direction, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def _nesterov(self, p: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
            state["step"] = torch.zeros(())  # AdamW expects one in every state that it loads
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return torch.lerp(gradient, state["momentum"], MOMENTUM)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the matrices that Muon trains: the weights of the linear layers of a model's backbone. Embedding
    and output layer, whose rows belong to single codes, are not among them.

    >>> from sashimi_lib.models.audio_lm import AudioLM
    >>> from sashimi_lib.models import SaShiMi, SaShiMiConfig
    >>> from sashimi_lib.audio.quantizers import MuLaw
    >>> model = AudioLM(MuLaw(), SaShiMi(SaShiMiConfig(d_model=8, n_layers=1)))
    >>> len(hidden_matrices(model))
    13

    Chapter: 10. Raises ValueError for a model without a backbone.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"muon_lr must be None for a model without a backbone, got a {type(model).__name__}")
    layers = [module for module in backbone.modules() if isinstance(module, nn.Linear)]
    matrices = [p for layer in layers for p in layer.parameters() if p.ndim == 2 and min(p.shape) > 1]
    return [p for p in matrices if p.requires_grad]
