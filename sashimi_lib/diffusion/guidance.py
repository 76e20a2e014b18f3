"""Class labels of a diffusion model: validation, label dropout and classifier-free guidance (chapter 9)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sashimi_lib.models.denoiser import Denoiser


def check_label_shape(label: Int[Tensor, "..."] | None, batch: int, n_classes: int) -> None:
    """Raise ValueError unless ``label`` is None, or holds ``batch`` labels for a model that has classes.

    The values are not read, which would synchronize with a GPU. Chapter: 9.
    """
    if label is None:
        return
    if n_classes == 0:
        raise ValueError("label must be None: this model has no classes")
    if label.shape != (batch,):
        raise ValueError(f"label must hold {batch} numbers, got shape {tuple(label.shape)}")


def check_labels(label: Int[Tensor, "..."] | None, batch: int, n_classes: int) -> None:
    """Raise ValueError unless ``label`` is None, or holds ``batch`` labels below ``n_classes``.

    >>> check_labels(torch.tensor([3, 7]), batch=2, n_classes=10)

    Chapter: 9.
    """
    check_label_shape(label, batch, n_classes)
    if label is not None and bool(((label < 0) | (label >= n_classes)).any()):
        raise ValueError(f"label must hold {batch} numbers in 0..{n_classes - 1}, got {label.tolist()}")


def drop_labels(
    label: Int[Tensor, " batch"], uniform: Float[Tensor, " batch"], p: float, n_classes: int
) -> Int[Tensor, " batch"]:
    """Replace labels by the null label ``n_classes`` where ``uniform`` is below ``p``.

    Training on both conditional and unconditional inputs is what `guided_output` needs.

    >>> drop_labels(torch.tensor([3, 7]), torch.tensor([0.05, 0.5]), p=0.1, n_classes=10)
    tensor([10,  7])

    Chapter: 9. Ho and Salimans (2022), algorithm 1.
    """
    dropped = (uniform < p).to(label.device, non_blocking=True)
    return torch.where(dropped, n_classes, label)


def guided_output(
    backbone: Denoiser,
    x: Float[Tensor, "batch length"],
    step: Float[Tensor, " batch"],
    label: Int[Tensor, " batch"] | None = None,
    guidance: float = 1.0,
    features: Float[Tensor, "batch frames n_mels"] | None = None,
) -> Float[Tensor, "batch length"]:
    """Evaluate a network with classifier-free guidance: ``uncond + guidance (cond - uncond)``.

    The conditional and the unconditional output come from one forward pass of twice the batch size; with
    ``guidance`` 1 the unconditional one is not computed.

    Chapter: 9. Ho and Salimans (2022), equation 6, whose w is ``guidance - 1``. Raises ValueError for
    guidance that is not finite, or other than 1 without labels.
    """
    if guidance == 1:
        return backbone(x, step.to(x, non_blocking=True), label, features)
    if label is None or not math.isfinite(guidance):
        raise ValueError(f"guidance must be finite, and 1 where no label is given, got {guidance}")
    null = torch.full_like(label, backbone.config.n_classes)
    features = None if features is None else torch.cat([features, features])
    steps = torch.cat([step, step]).to(x, non_blocking=True)
    cond, uncond = backbone(torch.cat([x, x]), steps, torch.cat([label, null]), features).chunk(2)
    return uncond + guidance * (cond - uncond)
