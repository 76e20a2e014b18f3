"""AdamW with two learning rates: state-space dynamics train slowly and without weight decay."""

from typing import Any

import torch
from torch import nn

from sashimi_lib.ssm.s4 import Bank
from sashimi_lib.training.config import TrainingConfig


def new_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; on a GPU in one kernel for all of them.

    Chapters: 6 and 10.
    """
    on_gpu = next(model.parameters()).is_cuda
    return torch.optim.AdamW(parameter_groups(model, config), fused=on_gpu)


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """What AdamW is to train and how: state-space dynamics slowly and without weight decay, all else at
    ``lr``.

    >>> groups = parameter_groups(Bank(2), TrainingConfig())
    >>> [(group["full_lr"], len(group["params"])) for group in groups]
    [(0.004, 2), (0.001, 4)]

    Chapter: 6. S4 paper, appendix; SaShiMi paper, appendix C.2.
    """
    slow = {p for module in model.modules() if isinstance(module, Bank) for p in module.dynamics()}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if p not in slow],
            "full_lr": config.lr,
            "weight_decay": config.weight_decay,
        },
        {
            "params": [p for p in trained if p in slow],
            "full_lr": config.ssm_lr,
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]
